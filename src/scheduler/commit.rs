//! Taking a step's result.

use super::sequence::{Place, PromptLogprobs};
use super::step::Planned;
use super::{Event, FinishReason, Scheduler};
use crate::batch::{DrawError, PositionLogprobs, Sampled, TokenId};

impl Scheduler {
    /// Every slice was computed.
    pub(super) fn commit_done(&mut self, reports: Vec<Sampled>, events: &mut Vec<Event>) {
        let planned = std::mem::take(&mut self.step.planned);
        let mut reports = reports.into_iter();
        for slice in &planned {
            let report = (slice.draws || slice.reports_prompt).then(|| {
                let report = reports.next().expect("the engine reports every slice that asks for it");
                assert_eq!(report.seq, slice.seq, "the engine reports in the batch's order");
                assert_eq!(report.token.is_some(), slice.draws, "the engine draws for the slices that ask for it");
                report
            });
            // It may have been cancelled while the step was computed: then nobody wants the report.
            if self.sequences.lives(slice.place, slice.seq) {
                self.commit_slice(slice);
                if let Some(report) = report {
                    self.commit_report(slice.place, report, events);
                }
            }
        }
        assert!(reports.next().is_none(), "the engine reports only slices that ask for it");
        self.step.planned = planned;
    }

    /// The slice's keys and values are stored.
    fn commit_slice(&mut self, slice: &Planned) {
        let sequence = &mut self.sequences[slice.place];
        assert_eq!(sequence.computed, slice.start, "a sequence in a step does not change before its commit");
        if !sequence.decoding {
            self.totals.prefill_tokens += (slice.end - slice.start) as u64;
        }
        sequence.computed = slice.end;
        sequence.tables.slide(slice.end, &self.geometry, &mut self.pools);
        if !slice.draws {
            let decoding = sequence.has_caught_up();
            self.set_decoding(slice.place, decoding);
        }
        if !self.suspects.is_empty() {
            self.suspects.hear(slice.seq, slice.end);
        }
    }

    fn commit_report(&mut self, place: Place, report: Sampled, events: &mut Vec<Event>) {
        let Sampled { seq, token, logprobs, prompt_logprobs } = report;
        self.gather(place, prompt_logprobs, events);
        let (reason, logprobs) = match token {
            None => return,
            Some(Err(DrawError::NotFinite)) => (FinishReason::NotFinite, None),
            Some(Ok(token)) => {
                self.totals.decode_tokens += 1;
                if self.sequences[place].sampling.stop_tokens.contains(&token) {
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

    /// Gathers log-probabilities of the prompt, and reports them once all are there.
    fn gather(&mut self, place: Place, logprobs: Vec<PositionLogprobs>, events: &mut Vec<Event>) {
        let sequence = &mut self.sequences[place];
        if let PromptLogprobs::Gathering(gathered) = &mut sequence.prompt_logprobs {
            gathered.extend(logprobs);
            if sequence.computed == sequence.prompt_len {
                let logprobs = std::mem::take(gathered);
                assert_eq!(logprobs.len() + 1, sequence.prompt_len, "the engine reports every prompt target");
                sequence.prompt_logprobs = PromptLogprobs::Settled;
                events.push(Event::PromptLogprobs { seq: sequence.id, logprobs });
            }
        }
    }

    /// Appends a generated token; answers whether it was the last one asked for.
    fn append(&mut self, place: Place, token: TokenId) -> bool {
        let sequence = &mut self.sequences[place];
        sequence.tokens.push(token);
        sequence.last = token;
        let last = sequence.generated() == sequence.max_tokens as usize;
        self.set_decoding(place, true);
        last
    }

    /// The step failed, and the engine's KV memory with it: whoever was in it is suspected, and everybody computes everything
    /// again, in the order of arrival, with the tokens generated so far.
    pub(super) fn commit_lost(&mut self, events: &mut Vec<Event>) {
        let planned = std::mem::take(&mut self.step.planned);
        for &Planned { place, seq, end, .. } in &planned {
            if self.sequences.lives(place, seq) && self.suspects.accuse(seq, end, planned.len() == 1) {
                self.remove(seq);
                events.push(Event::Finished { seq, reason: FinishReason::EngineFailed, logprobs: None });
            }
        }
        self.step.planned = planned;
        while let Some((_, place)) = self.running.pop_last() {
            self.send_back(place);
        }
    }
}
