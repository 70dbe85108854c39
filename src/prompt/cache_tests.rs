use std::sync::Arc;

use proptest::prelude::*;

use super::{CachedPrompt, PromptCache};
use crate::batch::TokenId;
use crate::prompt::harmony::parser::ParserStart;

fn prompt(tokens: u32) -> CachedPrompt {
    CachedPrompt { tokens: (0..tokens).map(TokenId).collect::<Arc<[_]>>(), start: ParserStart::AssistantHeader }
}

#[test]
fn a_key_that_two_inputs_share_answers_only_for_the_one_that_is_held() {
    let mut cache = PromptCache::new(1 << 20);
    cache.insert("key", b"one".to_vec(), prompt(1));
    assert_eq!(cache.get("key", b"two"), None);
    assert_eq!(cache.get("key", b"one"), Some(prompt(1)));
    cache.insert("key", b"two".to_vec(), prompt(2));
    assert_eq!((cache.get("key", b"one"), cache.get("key", b"two")), (None, Some(prompt(2))));
    assert_eq!(cache.len(), 1);
}

#[test]
fn what_was_used_longest_ago_makes_room() {
    let mut one = PromptCache::new(usize::MAX);
    one.insert("a", vec![0; 100], prompt(100));
    let mut cache = PromptCache::new(3 * one.bytes());
    for key in ["a", "b", "c"] {
        cache.insert(key, vec![0; 100], prompt(100));
    }
    assert_eq!(cache.bytes(), 3 * one.bytes());
    assert!(cache.get("a", &[0; 100]).is_some());
    cache.insert("d", vec![0; 100], prompt(100));
    let held: Vec<bool> = ["a", "b", "c", "d"].map(|key| cache.get(key, &[0; 100]).is_some()).to_vec();
    assert_eq!(held, [true, false, true, true]);
}

#[test]
fn what_is_larger_than_the_cache_is_not_kept_and_pushes_nothing_out() {
    let mut cache = PromptCache::new(2_000);
    cache.insert("small", vec![1], prompt(1));
    cache.insert("large", vec![2], prompt(1_000));
    assert_eq!((cache.get("large", &[2]), cache.get("small", &[1])), (None, Some(prompt(1))));
    let mut none = PromptCache::new(0);
    none.insert("small", vec![1], prompt(1));
    assert_eq!((none.len(), none.bytes()), (0, 0));
}

/// What the allocator handed out and did not get back, against what the cache says: with room in
/// reserve behind each input, with few prompts and many, and after thousands have made room for
/// others.
#[test]
fn the_bytes_that_it_counts_are_those_that_it_takes() {
    for (max_bytes, inserts) in [(1 << 30, 40), (1 << 30, 1_000), (1 << 30, 3_600), (200_000, 20_000)] {
        let mut cache = PromptCache::new(max_bytes);
        let allocated = allocation_counter::measure(|| {
            for turn in 0..inserts {
                let mut input = Vec::with_capacity(600);
                input.resize(310, 0);
                cache.insert(&format!("{turn:064}"), input, prompt(60));
            }
        });
        let pieces = cache.len() * 4 * super::PIECE_BYTES;
        let taken = usize::try_from(allocated.bytes_current).expect("more was taken than given back") + pieces;
        assert!(taken <= cache.bytes(), "{inserts} prompts take {taken} bytes, and {} were counted", cache.bytes());
        assert!(cache.bytes() <= 2 * taken, "{inserts} prompts take {taken} bytes, and {} were counted", cache.bytes());
    }
}

proptest! {
    #[test]
    fn bytes_stay_below_the_bound_and_hits_are_what_was_put_in_last(
        actions in prop::collection::vec((0_u8..6, 0_u8..3, 0_u32..200, any::<bool>()), 0..200),
    ) {
        let mut cache = PromptCache::new(4_000);
        let mut model = std::collections::HashMap::new();
        for (key, input, tokens, inserts) in actions {
            let key = key.to_string();
            if inserts {
                cache.insert(&key, vec![input], prompt(tokens));
                model.insert(key, (input, tokens));
            } else if let Some(found) = cache.get(&key, &[input]) {
                let (held, tokens) = model[&key];
                prop_assert_eq!((found, input), (prompt(tokens), held));
            }
            prop_assert!(cache.bytes() <= 4_000);
        }
    }
}
