use proptest::prelude::*;
use tokenizers::Model as _;
use tokenizers::models::bpe::{BPE, Vocab};

use crate::batch::TokenId;

use super::{Bucket, GONE, MergeScratch, Merges};

/// A vocabulary over three letters, with merges in any order: also orders in which a merge makes a
/// pair of a lower rank.
#[derive(Debug, Clone)]
struct Vocabulary {
    tokens: Vec<String>,
    merges: Vec<(usize, usize)>,
}

impl Vocabulary {
    /// `picks`: which two tokens known so far make the next one; `order`: sort keys of the merges.
    fn new(picks: &[(usize, usize)], order: &[u32]) -> Self {
        let mut tokens: Vec<String> = ["a", "b", "c"].map(String::from).to_vec();
        let mut merges = Vec::new();
        for (left, right) in picks {
            let pair = (left % tokens.len(), right % tokens.len());
            let joined = tokens[pair.0].clone() + &tokens[pair.1];
            if joined.len() <= 12 && !merges.contains(&pair) {
                merges.push(pair);
                if !tokens.contains(&joined) {
                    tokens.push(joined);
                }
            }
        }
        let mut keyed: Vec<_> = merges.into_iter().zip(order.iter().cycle()).collect();
        keyed.sort_by_key(|(_, key)| **key);
        Self { tokens, merges: keyed.into_iter().map(|(pair, _)| pair).collect() }
    }

    fn id(&self, token: &str) -> u32 {
        self.tokens.iter().position(|known| known == token).map(|id| u32::try_from(id).unwrap()).unwrap()
    }

    fn ours(&self) -> Merges {
        let mut of_byte = Box::new([u32::MAX; 256]);
        for letter in ["a", "b", "c"] {
            of_byte[usize::from(letter.as_bytes()[0])] = self.id(letter);
        }
        let triples = self.merges.iter().map(|(left, right)| {
            let joined = self.tokens[*left].clone() + &self.tokens[*right];
            (u32::try_from(*left).unwrap(), u32::try_from(*right).unwrap(), self.id(&joined))
        });
        Merges::new(of_byte, triples)
    }

    fn theirs(&self) -> BPE {
        let vocab: Vocab = self.tokens.iter().cloned().zip(0..).collect();
        let merges =
            self.merges.iter().map(|(left, right)| (self.tokens[*left].clone(), self.tokens[*right].clone())).collect();
        BPE::builder().vocab_and_merges(vocab, merges).build().unwrap()
    }
}

/// Each merge of a and b makes a pair of a lower rank: a million times, the rest of that rank has
/// to wait.
#[test]
fn a_million_merges_that_make_lower_ranks_take_a_moment() {
    let vocabulary =
        Vocabulary { tokens: ["a", "b", "c", "ab", "abc"].map(String::from).to_vec(), merges: vec![(3, 2), (0, 1)] };
    let ours = vocabulary.ours();
    let mut tokens = Vec::new();
    ours.encode("abc".repeat(1_000_000).as_bytes(), &mut MergeScratch::default(), &mut tokens);
    assert!(tokens == vec![TokenId(4); 1_000_000]);
}

/// A merge makes two pairs, one of a lower rank than its own and one of a higher: the lower one
/// goes before the rest of its rank.
#[test]
fn of_two_pairs_that_a_merge_makes_the_lower_one_decides() {
    let vocabulary = Vocabulary {
        tokens: ["a", "b", "c", "ab", "cab", "caba", "aba"].map(String::from).to_vec(),
        merges: vec![(2, 3), (4, 0), (0, 1), (3, 0)],
    };
    let ours = vocabulary.ours();
    let mut scratch = MergeScratch { ids: vec![2, 0, 1, 0, 1], ..MergeScratch::default() };
    ours.merge_long(&mut scratch);
    scratch.ids.retain(|id| *id != GONE);
    let theirs: Vec<u32> = vocabulary.theirs().tokenize("cabab").unwrap().iter().map(|token| token.id).collect();
    assert_eq!((&scratch.ids, &theirs), (&vec![5, 1], &vec![5, 1]), "caba and b");
}

fn vocabularies() -> impl Strategy<Value = Vocabulary> {
    let picks = prop::collection::vec((any::<usize>(), any::<usize>()), 0..30);
    (picks, prop::collection::vec(any::<u32>(), 30)).prop_map(|(picks, order)| Vocabulary::new(&picks, &order))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn both_ways_of_merging_give_what_tokenizers_gives(
        vocabulary in vocabularies(),
        word in prop_oneof!["[abc]{1,60}", "a{1,90}", "(ab){1,40}c?", "[abc]{1,9}a{1,40}[abc]{1,9}"],
    ) {
        let theirs: Vec<u32> = vocabulary.theirs().tokenize(&word).unwrap().iter().map(|token| token.id).collect();
        let ours = vocabulary.ours();
        let start = || MergeScratch { ids: word.bytes().map(|byte| ours.of_byte[usize::from(byte)]).collect(), ..MergeScratch::default() };
        let mut short = start();
        ours.merge_short(&mut short);
        prop_assert_eq!(&short.ids, &theirs);
        let mut long = start();
        ours.merge_long(&mut long);
        long.ids.retain(|id| *id != GONE);
        prop_assert_eq!(&long.ids, &theirs);
    }
}

#[test]
fn positions_are_taken_first_to_last_also_those_that_come_late() {
    let mut bucket = Bucket::default();
    [5, 2, 9].into_iter().for_each(|at| bucket.put(at));
    assert_eq!(bucket.take_first(), Some(2));
    [7, 3, 12].into_iter().for_each(|at| bucket.put(at));
    let rest: Vec<u32> = std::iter::from_fn(|| bucket.take_first()).collect();
    assert_eq!(rest, [3, 5, 7, 9, 12]);
}
