//! What is kept free for running answers to grow.
//!
//! A sequence is admitted if there are blocks for all its tokens so far; what it and the others
//! generate comes on top. If nothing were kept for that, a full batch would soon want more than
//! there is, and preempt what was just computed. So an admission leaves free **a share of what the
//! running answers are expected to take yet**. Of each that is as many tokens as answers had that
//! ended lately: how much of an answer is left is not known, and a long one is as likely to go on
//! as a short one.
//!
//! The share is the profile's (`growth_reserve_percent`): 0 keeps nothing, and counts on it that
//! others end in time; 100 keeps so much that all may grow to their expected ends before the first
//! of them ends. Nothing is kept while nothing runs, so that what waits always gets on, and nothing
//! until enough answers have ended: a guess holds no sequence back.

use super::Scheduler;

impl Scheduler {
    /// Global blocks that an admission beside so many running sequences leaves free.
    pub(super) fn growth_blocks(&self, running_count: usize) -> usize {
        if running_count == 0 {
            return 0;
        }
        // The one that is admitted grows too.
        (running_count + 1) * self.growth_tokens() / self.geometry.block_tokens
    }

    /// Tokens that are kept for each running sequence.
    pub(super) fn growth_tokens(&self) -> usize {
        if self.limits.growth_reserve_percent == 0 || !self.knows_answers() {
            return 0;
        }
        self.observed.answer_tokens() * self.limits.growth_reserve_percent / 100
    }
}
