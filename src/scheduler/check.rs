//! What always holds, whatever was called.

use super::Scheduler;
use super::queue::Demand;
use super::sequence::PromptLogprobs;

impl Scheduler {
    /// Panics if a cheap invariant does not hold; called at the end of each public method that
    /// changes something.
    pub(super) fn check(&self) {
        assert_eq!(
            self.sequences.count(),
            self.waiting.count() + self.running.count(),
            "a sequence either waits or runs, never both and never neither"
        );
        assert!(self.running.count() <= self.limits.running_max(), "more sequences run than may");
    }

    /// Panics if any invariant does not hold. Takes time in proportion to everything there is:
    /// debug builds call it at each plan and commit, the simulation after each call.
    pub fn check_all(&self) {
        self.check();
        self.check_kept();
        self.check_running();
        self.check_waiting();
        self.check_turns();
        let held = || self.running.iter().map(|runner| &runner.tables);
        let global = held().flat_map(|held| held.global(&self.tables).iter().copied());
        self.pools.check(global, held().flat_map(|held| held.sliding(&self.tables).iter().copied()));
        self.tables.global.check(held().map(|held| &held.global));
        self.tables.sliding.check(held().map(|held| &held.sliding));
        for suspect in self.suspects.iter() {
            assert!(
                self.running.find(suspect).is_some() || self.waiting.find(suspect).is_some(),
                "sequence {} is a suspect and has ended",
                suspect.0
            );
        }
    }

    fn check_running(&self) {
        self.running.check();
        for runner in self.running.iter() {
            let (seq, sequence) = (runner.seq, &self.sequences[runner.place]);
            assert_eq!(sequence.id, seq, "a running sequence is at its place");
            assert!(runner.pending() > 0, "sequence {} runs with nothing to compute", seq.0);
            let is_awaited = runner.awaited_of().is_some();
            assert!(is_awaited || !runner.is_complete(), "sequence {} has not ended", seq.0);
            assert!(runner.generated_count <= sequence.max_tokens, "sequence {} has no more than it asked for", seq.0);
            let presumed = self.under_way.first().is_some_and(|step| step.is_presumed);
            assert!(!is_awaited || presumed, "sequence {} awaits a token of a step", seq.0);
            assert!(sequence.has_run, "sequence {} runs and has never run", seq.0);
            let returns = sequence.advances_at > 0;
            assert_eq!(runner.is_returning(), returns, "sequence {} has got further or not", seq.0);
            runner.tables.check(runner.computed, &self.geometry);
            let fills_next = runner.fills_at.checked_sub(runner.computed).is_some_and(|tokens| tokens > 0);
            let is_anew = runner.fills_at == self.geometry.block_tokens;
            assert!(fills_next || is_anew, "the filled blocks of sequence {} are known", seq.0);
            assert_eq!(runner.decoding, runner.has_caught_up(), "sequence {} decodes or not", seq.0);
            let tokens_count = sequence.tokens.len() + runner.latest().len();
            assert_eq!(runner.tokens_count, tokens_count, "sequence {} has as many tokens as are counted", seq.0);
            assert_eq!(runner.prompt_len(), sequence.prompt_len, "sequence {} has generated what is counted", seq.0);
            let last = runner.latest().last().or(sequence.tokens.last());
            assert_eq!(last, Some(&runner.last), "sequence {} knows its last token", seq.0);
            let gathers = matches!(sequence.prompt_logprobs, PromptLogprobs::Gathering(_));
            assert_eq!(runner.awaits_prompt_logprobs, gathers, "sequence {} gathers log-probabilities or not", seq.0);
        }
    }

    fn check_waiting(&self) {
        let mut demand = Demand::default();
        let mut fresh_count = 0;
        for (seq, place) in self.waiting.iter() {
            let sequence = &self.sequences[place];
            assert_eq!(sequence.id, seq, "a waiting sequence is at its place");
            demand = demand.plus(Demand::of(sequence, &self.geometry));
            fresh_count += usize::from(!sequence.has_run);
        }
        assert_eq!(self.waiting.demand(), demand, "the queue's sums are those of its sequences");
        assert!(fresh_count + self.turns.held_count() <= self.limits.waiting_max_count, "more sequences wait than may");
        self.waiting.check(&self.sequences);
        assert!(self.waiting.iter().all(|(seq, _)| self.ids.has_given(seq)), "a sequence waits that was never submitted");
    }
}
