//! How much is prefilled beside sequences that decode, so that their tokens come steadily.
//!
//! A step takes as long as all that is in it, so a slice of a long prompt is a gap in every answer
//! that runs. How long a gap follows from the machine: 128 tokens of a prompt take 2 ms on a GPU,
//! and more than a second on a CPU. The profile says which gap is wanted
//! (`batch.itl_target_ms`), and steps tell how long they took: what fits below the target is
//! prefilled in the next one.
//!
//! * **Two figures are kept**: what a step takes that decodes alone, and what each token of a
//!   prompt adds beside it. Of both the latest steps count, because sequences grow longer and a
//!   prompt's later tokens see more.
//! * A machine whose steps are longer than the target without any prompt would prefill nothing. So
//!   **prompts get three quarters of what decoding takes, at least**: gaps stay below twice what
//!   they are alone, and a prompt has more than a third of the time.
//! * While prompts are prefilled no step decodes alone. Every 32nd does, and one after the number
//!   of sequences that decode has changed by more than a quarter, **to be measured**: only where
//!   the bound bites, and never in place of a sequence that returns or lacks blocks.
//! * Nothing is bounded where none decodes.
//!
//! Nothing here changes which tokens are drawn: only how prompts are sliced.

use super::Scheduler;

/// What prompts may add to a step that decodes, as a share of it, whatever the target is.
const SHARE: f64 = 0.75;
/// So many steps may prefill before one decodes alone.
const ALONE_EVERY: usize = 32;
/// What a step leaves of the weight of those before it: some ten count.
const DECAY: f64 = 0.9;
/// So many tokens are prefilled while nothing is known of what they take.
const FIRST_TOKENS: usize = 16;
/// So many are prefilled whatever they take, so that a measurement that went wrong stops no prompt.
const FLOOR_TOKENS: usize = 2;

/// A step that decodes and prefills nothing.
#[derive(Debug, Clone, Copy)]
struct AloneStep {
    micros: f64,
    decoding_count: usize,
}

/// What steps took lately, as far as it says how much may be prefilled.
#[derive(Debug)]
pub(super) struct StepTimes {
    alone: Option<AloneStep>,
    /// Steps since, that prefilled beside sequences that decode.
    since_alone: usize,
    /// Over those steps, older ones weighing less: what they took longer, and what they prefilled.
    extra_micros: f64,
    tokens: f64,
    /// The most that one of them prefilled lately.
    widest_tokens: usize,
}

impl Default for StepTimes {
    fn default() -> Self {
        Self { alone: None, since_alone: 0, extra_micros: 0.0, tokens: 0.0, widest_tokens: FIRST_TOKENS / 2 }
    }
}

impl StepTimes {
    /// A step with so many prompt tokens and so many sequences that decode took so long.
    pub(super) fn note(&mut self, prefill_tokens: usize, decoding_count: usize, micros: u64) {
        let micros = micros as f64;
        if decoding_count == 0 {
            return;
        }
        if prefill_tokens == 0 {
            let before = self.alone.filter(|alone| alone.is_like(decoding_count)).map_or(micros, |alone| alone.micros);
            // One that was disturbed must not widen the steps until the next is measured.
            let sample = micros.min(1.5 * before);
            self.alone = Some(AloneStep { micros: before + (sample - before) / 4.0, decoding_count });
            self.since_alone = 0;
            return;
        }
        self.since_alone += 1;
        self.widest_tokens = prefill_tokens.max(self.widest_tokens - self.widest_tokens / 8);
        if let Some(alone) = self.alone {
            self.extra_micros = self.extra_micros * DECAY + (micros - alone.micros).max(0.0);
            self.tokens = self.tokens * DECAY + prefill_tokens as f64;
        }
    }

    /// How many tokens of prompts fit into a step that decodes, so that it takes no longer than
    /// `target_micros`, or than decoding takes and [`SHARE`] of that again.
    fn fitting_tokens(&self, target_micros: u64) -> usize {
        let Some(alone) = self.alone.filter(|_| self.tokens > 0.0) else { return FIRST_TOKENS };
        let spare = (target_micros as f64 - alone.micros).max(SHARE * alone.micros);
        // Nothing measured is nothing, not infinitely many. At most twice what was tried lately: a
        // figure taken from a few tokens says little of many.
        let fitting = spare / (self.extra_micros / self.tokens).max(1e-3);
        (fitting as usize).clamp(FLOOR_TOKENS, (2 * self.widest_tokens).max(FLOOR_TOKENS))
    }

    /// Whether it is not known what so many sequences take that decode alone.
    fn wants_alone(&self, decoding_count: usize) -> bool {
        self.since_alone >= ALONE_EVERY || self.alone.is_none_or(|alone| !alone.is_like(decoding_count))
    }
}

impl AloneStep {
    /// Whether one with so many sequences takes about as long.
    fn is_like(self, decoding_count: usize) -> bool {
        4 * self.decoding_count.abs_diff(decoding_count) <= self.decoding_count
    }
}

impl Scheduler {
    /// Tokens of the next step that are left for prompts when so many sequences decode in it.
    pub(super) fn prefill_room(&self, decoding_count: usize) -> usize {
        let room = self.limits.token_budget_tokens - decoding_count;
        let fitting = self.paced(room);
        // What returns is not held up: others wait for it.
        if fitting == room || decoding_count == 0 || !self.running.returning().is_empty() {
            room
        } else if self.times.wants_alone(decoding_count) && self.next_missing().fit(self.available()) {
            0
        } else {
            fitting
        }
    }

    /// How many of `room` tokens prompts get beside sequences that decode.
    pub(super) fn paced(&self, room: usize) -> usize {
        match self.limits.itl_target_micros {
            0 => room,
            target_micros => room.min(self.times.fitting_tokens(target_micros)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine whose step takes `own + decoding * each + tokens * token` microseconds.
    struct Machine {
        own: f64,
        each: f64,
        token: f64,
    }

    impl Machine {
        fn micros(&self, tokens: usize, decoding: usize) -> f64 {
            self.own + self.each * decoding as f64 + self.token * tokens as f64
        }

        /// Prefills beside `decoding` sequences as long as the times say how much; what each step
        /// took. `disturb` is what a step takes more, as a factor.
        fn prefill(
            &self,
            times: &mut StepTimes,
            steps: usize,
            target: u64,
            disturb: impl Fn(usize) -> f64,
        ) -> Vec<(usize, f64)> {
            let decoding = 4;
            let step = |at| {
                let tokens = if times.wants_alone(decoding) { 0 } else { times.fitting_tokens(target).min(512) };
                let micros = self.micros(tokens, decoding) * disturb(at);
                times.note(tokens, decoding, micros as u64);
                (tokens, micros)
            };
            (0..steps).map(step).collect()
        }
    }

    /// A CPU with gpt-oss-20b: steps of four take 0.3 s, a token of a prompt 10 ms.
    const SLOW: Machine = Machine { own: 120_000.0, each: 45_000.0, token: 10_000.0 };
    /// A CPU with a small model.
    const QUICK: Machine = Machine { own: 800.0, each: 300.0, token: 270.0 };

    #[test]
    fn steps_come_up_to_the_target_and_not_above() {
        let mut times = StepTimes::default();
        let steps = QUICK.prefill(&mut times, 200, 20_000, |_| 1.0);
        assert_eq!(steps[0].0, 0, "what decoding takes is measured first");
        assert_eq!(steps[1].0, FIRST_TOKENS, "then a little is tried");
        let settled = &steps[20..];
        assert!(settled.iter().all(|(_, micros)| *micros <= 20_000.0), "{settled:?}");
        // 18 ms are left: 66 tokens.
        let tokens = settled.iter().map(|(tokens, _)| *tokens).filter(|tokens| *tokens > 0).collect::<Vec<_>>();
        assert!(tokens.iter().all(|tokens| (65..=66).contains(tokens)), "{tokens:?}");
        assert!(tokens.len() >= settled.len() - 6, "few steps decode alone: {}", tokens.len());
    }

    #[test]
    fn where_decoding_alone_takes_longer_than_the_target_prompts_get_a_share() {
        let mut times = StepTimes::default();
        let steps = SLOW.prefill(&mut times, 400, 20_000, |_| 1.0);
        let alone = SLOW.micros(0, 4);
        let settled = &steps[20..];
        assert!(settled.iter().all(|(_, micros)| *micros <= 1.76 * alone), "{settled:?}");
        let (prefilling, all) = (
            settled.iter().map(|(_, micros)| micros - alone).sum::<f64>(),
            settled.iter().map(|(_, micros)| micros).sum::<f64>(),
        );
        assert!(prefilling > 0.37 * all, "{prefilling} of {all} microseconds are the prompt's");
    }

    /// Steps take up to a fifth more or less, and one in fifty five times as long.
    #[test]
    fn a_disturbed_machine_stays_near_the_target() {
        let disturb = |at: usize| {
            let random = (at as u64 + 7).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            if random.is_multiple_of(50) { 5.0 } else { 0.8 + 0.4 * (random % 1_000) as f64 / 1_000.0 }
        };
        for (machine, target) in [(SLOW, 20_000), (QUICK, 20_000), (QUICK, 1)] {
            let mut times = StepTimes::default();
            let steps = machine.prefill(&mut times, 3_000, target, disturb);
            let bound = (target as f64).max(1.75 * machine.micros(0, 4));
            // What it would have taken undisturbed is the estimate's own.
            let own = |tokens: usize| machine.micros(tokens, 4);
            let above = steps.iter().filter(|(tokens, _)| own(*tokens) > 1.3 * bound).count();
            assert!(above < steps.len() / 50, "{above} of {} steps are far above {bound}", steps.len());
            let tokens = steps.iter().map(|(tokens, _)| *tokens).sum::<usize>() as f64 / steps.len() as f64;
            let ideal = (bound - machine.micros(0, 4)) / machine.token;
            assert!(tokens > 0.6 * ideal, "{tokens} tokens a step, {ideal} would fit");
        }
    }

    #[test]
    fn what_decoding_takes_is_measured_again_when_more_decode() {
        let mut times = StepTimes::default();
        assert!(times.wants_alone(1));
        times.note(0, 8, 1_000);
        assert!(!times.wants_alone(8) && !times.wants_alone(10) && !times.wants_alone(6));
        assert!(times.wants_alone(11) && times.wants_alone(5));
        (0..ALONE_EVERY).for_each(|_| times.note(5, 8, 1_500));
        assert!(times.wants_alone(8), "and after a while");
        times.note(0, 16, 4_000);
        times.note(10, 16, 5_000);
        assert_eq!(times.alone.map(|alone| alone.micros), Some(4_000.0), "of so many sequences nothing was known");
    }

    #[test]
    fn one_that_costs_nothing_is_tried_with_twice_as_much_each_time() {
        let mut times = StepTimes::default();
        times.note(0, 1, 1_000);
        let grown = [16, 32, 64, 128].map(|expected| {
            let tokens = times.fitting_tokens(1);
            times.note(tokens, 1, 1_000);
            (tokens, expected)
        });
        assert!(grown.iter().all(|(tokens, expected)| tokens == expected), "{grown:?}");
        times.note(3, 1, 1_000);
        assert!(times.fitting_tokens(1) > 200, "the short end of a prompt says nothing");
    }
}
