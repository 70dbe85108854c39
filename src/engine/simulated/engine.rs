//! The engine.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::words::MadeUpWords;
use crate::batch::{Batch, EngineLimits, Sampled, Slice, StepWork, TokenId};
use crate::cost::CostModel;
use crate::engine::fake::logprobs;
use crate::engine::{Engine, EngineError, check_batch};

/// A step under way.
#[derive(Debug)]
struct SimulatedStep {
    done_at: Instant,
    reports: Vec<Sampled>,
}

/// An engine whose time a cost model tells.
#[derive(Debug)]
pub struct SimulatedEngine {
    limits: EngineLimits,
    cost: Arc<CostModel>,
    words: Arc<MadeUpWords>,
    under_way: VecDeque<SimulatedStep>,
    /// When the last step that was begun is done.
    free_at: Option<Instant>,
    /// What each slice of the step before has drawn, if it did.
    drawn: Vec<Option<TokenId>>,
}

impl SimulatedEngine {
    /// An engine with these limits.
    ///
    /// # Panics
    /// If there are no words.
    #[must_use]
    pub fn new(limits: EngineLimits, cost: Arc<CostModel>, words: Arc<MadeUpWords>) -> Self {
        assert!(!words.text.is_empty(), "an answer says something");
        Self { limits, cost, words, under_way: VecDeque::new(), free_at: None, drawn: Vec::new() }
    }

    /// What `slice` reports; its last token is `last`.
    fn report(&self, batch: &Batch, slice: &Slice, last: TokenId) -> Sampled {
        let vocab_size = self.limits.vocab_size;
        let seen = |end: usize| &batch.tokens[slice.tokens.start..end];
        let mut report = Sampled { seq: slice.seq, token: None, logprobs: None, prompt_logprobs: Vec::new() };
        if let Some(draw) = &slice.draw {
            let token = self.words.next(last, draw.generated_count, &draw.sampling, vocab_size);
            if let (Ok(token), Some(top)) = (token, draw.sampling.logprobs) {
                report.logprobs = Some(Box::new(logprobs(seen(slice.tokens.end), token, top, vocab_size)));
            }
            report.token = Some(token);
        }
        if let Some(targets) = &slice.prompt_targets {
            let rows = (slice.tokens.start + 1..).zip(&targets.tokens);
            report.prompt_logprobs =
                rows.map(|(end, target)| logprobs(seen(end), *target, targets.top_count, vocab_size)).collect();
        }
        report
    }
}

impl Engine for SimulatedEngine {
    fn limits(&self) -> EngineLimits {
        self.limits
    }

    fn begin(&mut self, batch: &Batch) -> Result<(), EngineError> {
        check_batch(&self.limits, batch);
        assert!(self.under_way.len() < self.limits.steps_max, "{} steps are under way", self.under_way.len());
        let now = Instant::now();
        let begins = self.free_at.map_or(now, |free| free.max(now));
        let done_at = begins + Duration::from_micros(self.cost.step_micros(&StepWork::of(batch)));
        self.free_at = Some(done_at);
        let (mut reports, mut drawn) = (Vec::new(), Vec::with_capacity(batch.slices.len()));
        for slice in &batch.slices {
            let place = slice.tokens.end - 1;
            let awaited = batch.awaited.iter().find(|awaited| awaited.token == place);
            let last = match awaited {
                None => batch.tokens[place],
                Some(awaited) => self.drawn[awaited.slice].expect("a token is awaited of a slice that draws"),
            };
            let report = (slice.draw.is_some() || slice.prompt_targets.is_some()).then(|| self.report(batch, slice, last));
            let token = report.as_ref().and_then(|report| report.token);
            drawn.push(token.map(|token| token.unwrap_or(TokenId(0))));
            reports.extend(report);
        }
        self.drawn = drawn;
        self.under_way.push_back(SimulatedStep { done_at, reports });
        Ok(())
    }

    fn finish(&mut self, sampled: &mut Vec<Sampled>) -> Result<(), EngineError> {
        let SimulatedStep { done_at, mut reports } = self.under_way.pop_front().expect("a step is waited for that was begun");
        std::thread::sleep(done_at.saturating_duration_since(Instant::now()));
        sampled.append(&mut reports);
        Ok(())
    }
}
