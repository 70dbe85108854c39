//! Taking a step's result.

use super::sequence::PromptLogprobs;
use super::step::{Planned, StepUnderWay};
use super::{FinishReason, Scheduler, SequenceEvent};
use crate::batch::{DrawError, PositionLogprobs, Sampled, TokenId};

impl Scheduler {
    /// Every slice was computed.
    pub(super) fn commit_done(&mut self, step: StepUnderWay, reports: Vec<Sampled>, events: &mut Vec<SequenceEvent>) {
        let (step, reports) = self.settle_drafts(step, reports, events);
        let mut reports = reports.into_iter();
        for slice in &step.planned {
            // It may have ended since the step was planned, in the commit before or by a cancel, or
            // draws under the wrong mask: then its report is dropped.
            let is_wanted = !self.running[slice.at].is_gone() && !slice.is_void;
            if is_wanted {
                self.totals.prefill_tokens += slice.prefill_tokens as u64;
                if !step.is_presumed {
                    self.commit_slice(slice);
                }
            }
            if slice.draws || slice.reports_prompt {
                let report = reports.next().expect("the engine reports every slice that asks for it");
                assert_eq!(report.seq, self.running[slice.at].seq, "the engine reports in the batch's order");
                assert_eq!(report.token.is_some(), slice.draws, "the engine draws for the slices that ask for it");
                if is_wanted {
                    self.commit_report(slice.at, report, events);
                }
            }
        }
        assert!(reports.next().is_none(), "the engine reports only slices that ask for it");
        self.step.take_back(step.planned);
    }

    /// The slice's keys and values are stored.
    pub(super) fn commit_slice(&mut self, slice: &Planned) {
        self.running[slice.at].computed = slice.end;
        if self.running[slice.at].fills_at <= slice.end {
            self.keep_filled(slice.at);
        }
        if self.running[slice.at].is_returning() {
            self.note_return(slice.at);
        }
        let runner = &mut self.running[slice.at];
        runner.slide(&self.geometry, &mut self.tables, &mut self.pools);
        if !self.suspects.is_empty() {
            self.suspects.note_computed(runner.seq, slice.end);
        }
        if !slice.draws {
            let decoding = runner.has_caught_up();
            self.running.set_decoding(slice.at, decoding);
        }
    }

    fn commit_report(&mut self, at: usize, report: Sampled, events: &mut Vec<SequenceEvent>) {
        let Sampled { seq, token, logprobs, prompt_logprobs } = report;
        if self.running[at].awaits_prompt_logprobs {
            self.gather(at, prompt_logprobs, events);
        }
        let (reason, logprobs) = match token {
            None => return,
            Some(Err(DrawError::NotFinite)) => (FinishReason::NotFinite, None),
            Some(Err(DrawError::NothingAllowed)) => (FinishReason::NothingAllowed, None),
            Some(Ok(token)) => {
                self.totals.decode_tokens += 1;
                let runner = &mut self.running[at];
                if runner.stops_at(token, &self.sequences) {
                    (FinishReason::Stop(token), logprobs)
                } else {
                    events.push(SequenceEvent::Token { seq, token, logprobs });
                    let index = runner.append(token, &mut self.sequences);
                    if runner.outlook.heeds(index, token) {
                        self.tell_masks(at, index, token);
                    }
                    if !self.running[at].is_complete() {
                        self.running.set_decoding(at, true);
                        return;
                    }
                    (FinishReason::Length, None)
                }
            }
        };
        self.finish(at, reason, logprobs, events);
        if reason == FinishReason::NotFinite {
            self.forget_computed();
            self.forget_stored();
        }
    }

    /// Tells the masks of the sequence at `at` that draw `index` gave `token`. If that changes what
    /// the next draw may give, one that is planned ahead is void.
    fn tell_masks(&mut self, at: usize, index: u32, token: TokenId) {
        let runner = &mut self.running[at];
        let Some(masks) = &self.sequences[runner.place].sampling.masks else { return };
        masks.0.drawn(index, token);
        runner.outlook = masks.0.outlook();
        if !runner.outlook.covers(index + 1)
            && let Some(ahead) = self.under_way.first_mut()
        {
            ahead.void(at);
        }
    }

    /// Gathers log-probabilities of the prompt, and reports them once all are there.
    fn gather(&mut self, at: usize, logprobs: Vec<PositionLogprobs>, events: &mut Vec<SequenceEvent>) {
        let runner = &mut self.running[at];
        let sequence = &mut self.sequences[runner.place];
        if let PromptLogprobs::Gathering(gathered) = &mut sequence.prompt_logprobs {
            gathered.extend(logprobs);
            if runner.computed == sequence.prompt_len {
                let logprobs = std::mem::take(gathered);
                assert_eq!(logprobs.len() + 1, sequence.prompt_len, "the engine reports every prompt target");
                sequence.prompt_logprobs = PromptLogprobs::Settled;
                runner.awaits_prompt_logprobs = false;
                events.push(SequenceEvent::PromptLogprobs { seq: sequence.id, logprobs });
            }
        }
    }

    /// The step failed, and the engine's KV memory with it: its sequences are suspected, and all
    /// sequences are computed again, in the order of service, with the tokens generated so far.
    pub(super) fn commit_lost(&mut self, step: StepUnderWay, events: &mut Vec<SequenceEvent>) {
        self.forget_computed();
        // What was planned ahead of this is lost with it, and no sequence of it is suspected.
        self.under_way.clear();
        self.stop_guessing(&step);
        for &Planned { at, end, .. } in &step.planned {
            let runner = &self.running[at];
            let seq = runner.seq;
            if !runner.is_gone() && self.suspects.accuse(seq, end, step.planned.len() == 1) {
                self.finish(at, FinishReason::EngineFailed, None, events);
            }
        }
        self.step.take_back(step.planned);
        self.send_all_back();
    }
}
