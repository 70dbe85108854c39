//! The largest logits of a row, without sorting the row.

use crate::batch::TokenId;
use std::cmp::Ordering;

/// Fewest candidates between two selections; below it selecting costs more than the room.
const ROOM_MIN: usize = 256;

/// A token and its logit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub(super) token: TokenId,
    pub(super) logit: f32,
}

impl Candidate {
    /// Larger logits first, among equals the lower id; zero has no sign, NaN counts as the largest.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        (other.logit + 0.0).total_cmp(&(self.logit + 0.0)).then(self.token.cmp(&other.token))
    }
}

/// Puts the `count` largest of `logits` into `found`, largest first.
///
/// One pass over the row: candidates gather in `found`, and each time it is full all but the best
/// `count` go, which raises the bar for the rest. About `V + count * log(V / count)` comparisons of
/// logits in random order.
pub(super) fn largest(logits: &[f32], count: usize, found: &mut Vec<Candidate>) {
    found.clear();
    let count = count.min(logits.len());
    if count == 0 {
        return;
    }
    let room = (2 * count).max(ROOM_MIN);
    // A later token has a higher id, so it must be strictly larger than the worst one kept. NaN
    // passes every bar.
    let mut bar = None;
    for (token, &logit) in (0_u32..).zip(logits) {
        if bar.is_some_and(|bar| logit <= bar) {
            continue;
        }
        found.push(Candidate { token: TokenId(token), logit });
        if found.len() == room {
            found.select_nth_unstable_by(count - 1, Candidate::order);
            found.truncate(count);
            bar = Some(found[count - 1].logit);
        }
    }
    found.sort_unstable_by(Candidate::order);
    found.truncate(count);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_what_sorting_gives(logits in proptest::collection::vec(-4_i8..4, 0..2000), count in 0_usize..700) {
            let logits: Vec<f32> = logits.into_iter().map(|logit| f32::from(logit) / -2.0).collect();
            let mut expected: Vec<Candidate> =
                (0..).zip(&logits).map(|(token, &logit)| Candidate { token: TokenId(token), logit }).collect();
            expected.sort_by(|a, b| b.logit.partial_cmp(&a.logit).unwrap().then(a.token.cmp(&b.token)));
            expected.truncate(count);
            let mut found = Vec::new();
            largest(&logits, count, &mut found);
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn room_is_bounded() {
        let logits: Vec<f32> = (0..=u16::MAX).map(f32::from).collect();
        let mut found = Vec::new();
        largest(&logits, 20, &mut found);
        assert_eq!(found[0].logit, 65_535.0);
        assert!(found.capacity() <= 2 * ROOM_MIN, "{}", found.capacity());
    }
}
