//! Taking a step's result.

use super::sequence::{Place, PromptLogprobs};
use super::{Event, FinishReason, Scheduler};
use crate::batch::{DrawError, Sampled, Slice, TokenId};

impl Scheduler {
    /// Every slice was computed.
    pub(super) fn commit_done(&mut self, reports: Vec<Sampled>, events: &mut Vec<Event>) {
        let step = std::mem::take(&mut self.step);
        let mut reports = reports.into_iter();
        for (slice, place) in step.batch.slices.iter().zip(&step.planned) {
            let report = (slice.draw.is_some() || slice.prompt_targets.is_some()).then(|| {
                let report = reports.next().expect("the engine reports every slice that asks for it");
                assert_eq!(report.seq, slice.seq, "the engine reports in the batch's order");
                report
            });
            // It may have been cancelled while the step was computed: then nobody wants the report.
            if self.sequences.lives(*place, slice.seq) {
                self.commit_slice(*place, slice);
                if let Some(report) = report {
                    self.commit_report(*place, slice, report, events);
                }
            }
        }
        assert!(reports.next().is_none(), "the engine reports only slices that ask for it");
        self.step = step;
    }

    /// The slice's keys and values are stored.
    fn commit_slice(&mut self, place: Place, slice: &Slice) {
        let sequence = &mut self.sequences[place];
        assert_eq!(sequence.computed, slice.start, "a sequence in a step does not change before its commit");
        if !sequence.decodes() {
            self.totals.prefill_tokens += slice.len() as u64;
        }
        sequence.computed = slice.end();
        sequence.tables.slide(sequence.computed, &self.geometry, &mut self.pools);
        if !self.suspects.is_empty() {
            self.suspects.hear(slice.seq, slice.end());
        }
    }

    fn commit_report(&mut self, place: Place, slice: &Slice, report: Sampled, events: &mut Vec<Event>) {
        let seq = slice.seq;
        let Sampled { token, logprobs, prompt_logprobs, .. } = report;
        let sequence = &mut self.sequences[place];
        if let PromptLogprobs::Gathering(gathered) = &mut sequence.prompt_logprobs {
            gathered.extend(prompt_logprobs);
            if sequence.computed == sequence.prompt_len {
                let logprobs = std::mem::take(gathered);
                assert_eq!(logprobs.len() + 1, sequence.prompt_len, "the engine reports every prompt target");
                sequence.prompt_logprobs = PromptLogprobs::Settled;
                events.push(Event::PromptLogprobs { seq, logprobs });
            }
        }
        assert_eq!(token.is_some(), slice.draw.is_some(), "the engine draws for the slices that ask for it");
        let (reason, logprobs) = match token {
            None => return,
            Some(Err(DrawError::NotFinite)) => (FinishReason::NotFinite, None),
            Some(Ok(token)) => {
                self.totals.decode_tokens += 1;
                if sequence.sampling.stop_tokens.contains(&token) {
                    (FinishReason::Stop(token), logprobs)
                } else {
                    events.push(Event::Token { seq, token, logprobs });
                    if !self.append(place, token) {
                        return;
                    }
                    (FinishReason::Length, None)
                }
            }
        };
        self.remove(seq);
        events.push(Event::Finished { seq, reason, logprobs });
    }

    /// Appends a generated token; answers whether it was the last one asked for.
    fn append(&mut self, place: Place, token: TokenId) -> bool {
        let sequence = &mut self.sequences[place];
        sequence.tokens.push(token);
        sequence.generated() == sequence.max_tokens as usize
    }

    /// The step failed, and the engine's KV memory with it: whoever was in it is suspected, and everybody computes everything
    /// again, in the order of arrival, with the tokens generated so far.
    pub(super) fn commit_lost(&mut self, events: &mut Vec<Event>) {
        let step = std::mem::take(&mut self.step);
        let alone = step.planned.len() == 1;
        for (slice, place) in step.batch.slices.iter().zip(&step.planned) {
            if self.sequences.lives(*place, slice.seq) && self.suspects.accuse(slice.seq, slice.end(), alone) {
                let seq = slice.seq;
                self.remove(seq);
                events.push(Event::Finished { seq, reason: FinishReason::EngineFailed, logprobs: None });
            }
        }
        self.step = step;
        while let Some((_, place)) = self.running.pop_last() {
            self.send_back(place);
        }
    }
}
