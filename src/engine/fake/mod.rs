//! An engine without weights, for tests: it remembers what every KV slot holds, and answers from
//! that memory.
//!
//! Owns: a memory of slots for both groups, shaped like the real one. Promises: a step that reads a
//! slot which does not hold the right token at the right position, computed behind the right tokens
//! in an earlier step, is a [`Violation`]. What it answers is a pure function of the tokens that it
//! finds in the slots, so that a wrong block also gives wrong tokens. Absent on purpose:
//! arithmetic.
//!
//! ```
//! use antiphon::batch::TokenId;
//! use antiphon::engine::fake::{EngineFault, FakeAnswer, FakeEngine, FakeOptions};
//!
//! // Says 7, 8, 9 and then the stop token 1, whatever the prompt; its third step panics.
//! let engine = FakeEngine::new(FakeOptions {
//!     answer: FakeAnswer::Script { tokens: [7, 8, 9].map(TokenId).into(), stop: TokenId(1) },
//!     faults: vec![EngineFault::PanicsAtStep(2)],
//!     ..FakeOptions::default()
//! });
//! // What supervision does after the panic: the same options, an empty memory, and the count of
//! // steps goes on.
//! let rebuilt = engine.rebuild();
//! assert!(rebuilt.violations().is_empty());
//! ```

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::memory::{FakeMemory, SliceReading};
use super::{Engine, EngineError};
use crate::batch::{Batch, BlockId, DrawError, EngineLimits, KvGroup, Sampled, SeqId, Slice, TokenId};

mod answer;
mod copies;
mod memory;
#[cfg(test)]
mod tests;

pub use self::answer::FakeAnswer;
pub use self::answer::mix;
pub(super) use self::answer::{first_allowed, logprobs};
pub use self::memory::{SlotContent, Violation};

/// Something that goes wrong in a [`FakeEngine`]. Steps count from zero, over all engines made by
/// [`FakeEngine::rebuild`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineFault {
    /// This step is an [`EngineError`].
    FailsAtStep(u64),
    /// This step panics.
    PanicsAtStep(u64),
    /// Every step that computes this token is an [`EngineError`].
    FailsOnToken(TokenId),
    /// Every step that computes this token panics.
    PanicsOnToken(TokenId),
    /// Every sequence that holds this token has logits that are not finite.
    NotFiniteOnToken(TokenId),
    /// This sequence's logits are not finite once it has generated so many tokens.
    NotFiniteFor {
        /// The sequence.
        seq: SeqId,
        /// Tokens generated before the draw that fails.
        generated_count: u32,
    },
    /// This step takes so much longer.
    StallsAtStep {
        /// The step.
        step: u64,
        /// How much longer.
        stall: Duration,
    },
}

/// What a [`FakeEngine`] is to be.
#[derive(Debug, Clone)]
pub struct FakeOptions {
    /// What it can hold and compute.
    pub limits: EngineLimits,
    /// Which tokens it draws.
    pub answer: FakeAnswer,
    /// How long a step takes (it sleeps); zero for tests of the core.
    pub step_time: Duration,
    /// What goes wrong.
    pub faults: Vec<EngineFault>,
}

impl Default for FakeOptions {
    /// Answers by hash at once, without faults; room for a few dozen short sequences.
    fn default() -> Self {
        Self {
            limits: EngineLimits {
                block_tokens: 16,
                global_blocks: 1024,
                sliding_blocks: 1024,
                sliding_window_tokens: 128,
                step_tokens_max: 4096,
                step_slices_max: 256,
                context_tokens_max: 4096,
                vocab_size: 512,
                slice_drafts_max: 15,
                copies_blocks: false,
                steps_max: 2,
                global_block_bytes: 4096,
                sliding_block_bytes: 4096,
            },
            answer: FakeAnswer::Hash { seed: 0 },
            step_time: Duration::ZERO,
            faults: Vec::new(),
        }
    }
}

/// Why a fake step failed.
#[derive(Debug, thiserror::Error)]
pub enum FakeError {
    /// The scheduler's mistake: the batch or the memory is not what it must be.
    #[error("the batch is wrong: {0}")]
    Violation(#[from] Violation),
    /// A planted [`EngineFault`]; the memory is empty now, as after a rebuild.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// What outlives a rebuild.
#[derive(Debug, Default)]
struct FakeShared {
    steps: AtomicU64,
    violations: Mutex<Vec<Violation>>,
}

/// The engine. See the module's documentation for an example.
#[derive(Debug)]
pub struct FakeEngine {
    options: FakeOptions,
    memory: FakeMemory,
    reading: SliceReading,
    /// What each slice of the step before has drawn, if it did.
    drawn: Vec<Option<TokenId>>,
    /// Steps that were begun and not waited for.
    under_way: VecDeque<FakeStep>,
    shared: Arc<FakeShared>,
}

/// A step that was begun: when it is done, and what came of it.
#[derive(Debug)]
struct FakeStep {
    done_at: Option<Instant>,
    outcome: Result<Vec<Sampled>, EngineError>,
}

impl FakeEngine {
    /// An engine with an empty memory.
    #[must_use]
    pub fn new(options: FakeOptions) -> Self {
        Self::with(options, Arc::default())
    }

    fn with(options: FakeOptions, shared: Arc<FakeShared>) -> Self {
        let memory = FakeMemory::new(&options.limits);
        Self { options, memory, reading: SliceReading::default(), drawn: Vec::new(), under_way: VecDeque::new(), shared }
    }

    /// Another engine with the same options and an empty memory, as supervision makes one after a
    /// failure. It shares the count of steps and the list of violations, so that
    /// [`EngineFault::PanicsAtStep`] happens once and no violation is forgotten.
    #[must_use]
    pub fn rebuild(&self) -> Self {
        Self::with(self.options.clone(), Arc::clone(&self.shared))
    }

    /// How many steps were begun, over all rebuilds.
    #[must_use]
    pub fn steps_total(&self) -> u64 {
        self.shared.steps.load(Ordering::Relaxed)
    }

    /// Every violation so far, over all rebuilds. A supervised engine's panics are caught: a test
    /// of the actors keeps one [`FakeEngine::rebuild`] beside and asks it at the end.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        self.shared.violations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// As [`Engine::execute`] at once, with a violation as an error instead of a panic. Takes no
    /// time, and steps may follow each other before the first is waited for.
    ///
    /// # Errors
    /// [`FakeError`]; after either kind the memory is empty.
    ///
    /// # Panics
    /// By [`EngineFault::PanicsAtStep`] and [`EngineFault::PanicsOnToken`].
    pub fn compute(&mut self, batch: &Batch, sampled: &mut Vec<Sampled>) -> Result<(), FakeError> {
        let step = self.shared.steps.fetch_add(1, Ordering::Relaxed);
        let batch = &*self.resolved(batch);
        let result = self.fail(step, batch).map_err(FakeError::from).and_then(|()| {
            self.memory.write(step, batch).and_then(|()| self.answer_all(batch, sampled)).map_err(FakeError::from)
        });
        if let Err(error) = &result {
            self.memory.clear();
            if let FakeError::Violation(violation) = error {
                self.shared.violations.lock().unwrap_or_else(PoisonError::into_inner).push(violation.clone());
            }
        }
        result
    }

    /// The batch with every token that it awaits in its place.
    fn resolved<'b>(&self, batch: &'b Batch) -> Cow<'b, Batch> {
        let mut resolved = Cow::Borrowed(batch);
        for awaited in &batch.awaited {
            let drawn = self.drawn.get(awaited.slice).expect("a token is awaited of a slice of the step before");
            resolved.to_mut().tokens[awaited.token] = drawn.expect("a token is awaited of a slice that draws");
        }
        resolved
    }

    /// When a step is done that begins now, or after those under way; `None` if it takes no time.
    fn done_at(&self, step: u64) -> Option<Instant> {
        let stalls = self.options.faults.iter().filter_map(|fault| match fault {
            EngineFault::StallsAtStep { step: at, stall } if *at == step => Some(*stall),
            _ => None,
        });
        let time = stalls.fold(self.options.step_time, Duration::saturating_add);
        let before = self.under_way.back().and_then(|before| before.done_at);
        let now = Instant::now();
        if time.is_zero() { before } else { Some(before.map_or(now, |done| done.max(now)) + time) }
    }

    fn fail(&self, step: u64, batch: &Batch) -> Result<(), EngineError> {
        for fault in &self.options.faults {
            let message = match *fault {
                EngineFault::PanicsAtStep(at) if at == step => panic!("the fake engine panics at step {step}, as told"),
                EngineFault::PanicsOnToken(token) if batch.tokens.contains(&token) => {
                    panic!("the fake engine panics on token {}, as told", token.0)
                }
                EngineFault::FailsAtStep(at) if at == step => format!("step {step} fails, as told"),
                EngineFault::FailsOnToken(token) if batch.tokens.contains(&token) => {
                    format!("token {} fails, as told", token.0)
                }
                _ => continue,
            };
            return Err(EngineError::Device { slices: batch.slices.len(), message });
        }
        Ok(())
    }

    fn answer_all(&mut self, batch: &Batch, sampled: &mut Vec<Sampled>) -> Result<(), Violation> {
        self.drawn.clear();
        for slice in &batch.slices {
            // Every slice is read, also one that draws nothing: the real engine reads for it too.
            self.memory.read(batch, slice, &mut self.reading)?;
            let reports_count = if slice.draw.is_some() || slice.prompt_targets.is_some() { 1 + slice.drafts } else { 0 };
            sampled.extend((0..reports_count).map(|draw| self.report(slice, draw)));
            let token = if reports_count == 0 { None } else { sampled.last().and_then(|report| report.token) };
            self.drawn.push(token.map(|token| token.unwrap_or(TokenId(0))));
        }
        Ok(())
    }

    /// The report of a slice, or of its draw behind so many drafts.
    fn report(&self, slice: &Slice, draws_count: usize) -> Sampled {
        let vocab_size = self.options.limits.vocab_size;
        let (tokens, sliding) = self.reading.before_draw(draws_count, slice.drafts, self.options.limits.sliding_window_tokens);
        let mut report = Sampled { seq: slice.seq, token: None, logprobs: None, prompt_logprobs: Vec::new() };
        if let Some(draw) = slice.draw.as_ref().map(|draw| draw.later(draws_count)) {
            let broken = self.options.faults.iter().any(|fault| match *fault {
                EngineFault::NotFiniteOnToken(token) => tokens.contains(&token),
                EngineFault::NotFiniteFor { seq, generated_count } => {
                    seq == slice.seq && generated_count == draw.generated_count
                }
                _ => false,
            });
            let options = &self.options;
            let token = match broken {
                true => Err(DrawError::NotFinite),
                false => options.answer.next(tokens, sliding, &draw.sampling, draw.generated_count, vocab_size),
            };
            if let (Ok(token), Some(top)) = (token, draw.sampling.logprobs) {
                report.logprobs = Some(Box::new(logprobs(tokens, token, top, vocab_size)));
            }
            report.token = Some(token);
        }
        if let Some(targets) = &slice.prompt_targets {
            report.prompt_logprobs.extend(
                targets
                    .tokens
                    .iter()
                    .enumerate()
                    .map(|(i, target)| logprobs(&tokens[..=slice.start + i], *target, targets.top_count, vocab_size)),
            );
        }
        report
    }
}

impl Engine for FakeEngine {
    fn limits(&self) -> EngineLimits {
        self.options.limits
    }

    fn kv_form(&self) -> Option<String> {
        Some(format!("fake, blocks of {} tokens", self.options.limits.block_tokens))
    }

    fn read_block(&mut self, group: KvGroup, block: BlockId, bytes: &mut Vec<u8>) -> Result<(), EngineError> {
        let EngineLimits { global_block_bytes, sliding_block_bytes, .. } = self.options.limits;
        let block_bytes = if group == KvGroup::Global { global_block_bytes } else { sliding_block_bytes };
        self.memory.append_block(group, block, block_bytes, bytes);
        Ok(())
    }

    fn write_block(&mut self, group: KvGroup, block: BlockId, bytes: &[u8]) -> Result<(), EngineError> {
        self.memory.take_block(group, block, bytes);
        Ok(())
    }

    /// # Panics
    /// On a [`Violation`] (a bug of the scheduler), and by the faults that panic.
    fn begin(&mut self, batch: &Batch) -> Result<(), EngineError> {
        assert!(self.under_way.len() < self.options.limits.steps_max, "{} steps are under way", self.under_way.len());
        let done_at = self.done_at(self.steps_total());
        let mut sampled = Vec::new();
        let lost = self.under_way.back().is_some_and(|before| before.outcome.is_err());
        let outcome = match if lost { Ok(()) } else { self.compute(batch, &mut sampled) } {
            Ok(()) => Ok(sampled),
            Err(FakeError::Engine(error)) => Err(error),
            Err(FakeError::Violation(violation)) => panic!("the batch is wrong: {violation}"),
        };
        self.under_way.push_back(FakeStep { done_at, outcome });
        Ok(())
    }

    fn finish(&mut self, sampled: &mut Vec<Sampled>) -> Result<(), EngineError> {
        let FakeStep { done_at, outcome } = self.under_way.pop_front().expect("a step is waited for that was begun");
        if let Some(left) = done_at.and_then(|at| at.checked_duration_since(Instant::now())) {
            std::thread::sleep(left);
        }
        match outcome {
            Ok(mut reports) => sampled.append(&mut reports),
            Err(error) => {
                self.under_way.clear();
                return Err(error);
            }
        }
        Ok(())
    }
}
