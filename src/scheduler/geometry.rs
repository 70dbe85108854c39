//! How many blocks tokens need: arithmetic only.

use super::SchedulerLimits;

/// Blocks of each group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct BlockCounts {
    pub(super) global: usize,
    pub(super) sliding: usize,
}

impl BlockCounts {
    /// The same without so many global ones.
    pub(super) fn without_global(self, blocks: usize) -> Self {
        Self { global: self.global - blocks, ..self }
    }

    /// The blocks of both counts.
    pub(super) fn plus(self, other: Self) -> Self {
        Self { global: self.global + other.global, sliding: self.sliding + other.sliding }
    }

    /// The same without these, as far as there are so many.
    pub(super) fn less(self, other: Self) -> Self {
        Self { global: self.global.saturating_sub(other.global), sliding: self.sliding.saturating_sub(other.sliding) }
    }

    /// Whether these fit into `room`, in both groups.
    pub(super) fn fit(self, room: Self) -> bool {
        self.global <= room.global && self.sliding <= room.sliding
    }
}

/// How positions map to blocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub(super) block_tokens: usize,
    window_tokens: usize,
    /// Most tokens of a slice.
    pub(super) slice_tokens_max: usize,
}

impl Geometry {
    pub(super) fn new(limits: &SchedulerLimits) -> Self {
        Self {
            block_tokens: limits.block_tokens,
            window_tokens: limits.sliding_window_tokens,
            slice_tokens_max: limits.prefill_slice_tokens.min(limits.token_budget_tokens),
        }
    }

    /// Blocks that hold the first `tokens` positions.
    pub(super) fn blocks(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_tokens)
    }

    /// The first position that the token at `position` sees in a sliding-window layer.
    pub(super) fn first_seen(&self, position: usize) -> usize {
        (position + 1).saturating_sub(self.window_tokens)
    }

    /// The logical block of the first position that the token at `position` sees in a
    /// sliding-window layer.
    pub(super) fn sliding_first(&self, position: usize) -> usize {
        self.first_seen(position) / self.block_tokens
    }

    /// Whether a block is in the window that a token sees which stands at `end`, or up to a block
    /// before it: a prompt that is asked again computes its last token.
    pub(super) fn is_in_window(&self, block: usize, end: usize) -> bool {
        let again = end.saturating_sub(1) / self.block_tokens;
        block <= end / self.block_tokens && block >= self.sliding_first(again * self.block_tokens)
    }

    /// The most blocks that a sequence holds at any moment while its first `tokens` tokens are
    /// computed, however they are sliced.
    ///
    /// Global: all of them. Sliding: a slice of `slice_tokens_max` tokens needs, besides its own
    /// positions, the window before its first token; that span may begin at a block's last
    /// position. Never more than all of them.
    pub(super) fn need(&self, tokens: usize) -> BlockCounts {
        let global = self.blocks(tokens);
        let span = (self.window_tokens - 1).saturating_add(self.slice_tokens_max);
        let widest = span.saturating_add(self.block_tokens - 1).div_ceil(self.block_tokens);
        BlockCounts { global, sliding: global.min(widest) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slices the tokens in every way that begins anywhere, and counts the blocks that each slice
    /// holds.
    fn most_sliding(geometry: &Geometry, tokens: usize) -> usize {
        (0..tokens)
            .map(|start| {
                let end = tokens.min(start + geometry.slice_tokens_max);
                let seen_from = (start + 1).saturating_sub(geometry.window_tokens);
                let blocks: std::collections::BTreeSet<usize> =
                    (seen_from..end).map(|position| position / geometry.block_tokens).collect();
                blocks.len()
            })
            .max()
            .expect("at least one slice")
    }

    #[test]
    fn the_need_is_what_the_worst_slicing_holds() {
        for block_tokens in 1..=5 {
            for window_tokens in 1..=7 {
                for slice_tokens_max in 1..=9 {
                    let geometry = Geometry { block_tokens, window_tokens, slice_tokens_max };
                    for tokens in 1..=40 {
                        let need = geometry.need(tokens);
                        assert_eq!(need.sliding, most_sliding(&geometry, tokens), "{geometry:?}, {tokens} tokens");
                        assert_eq!(need.global, (0..tokens).step_by(block_tokens).count());
                    }
                }
            }
        }
    }
}
