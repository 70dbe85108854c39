//! The step in the making: its sequences, the batch that tells the engine, and what is kept of it
//! until its commit.

use std::collections::VecDeque;
use std::sync::Arc;

use super::block_tables::Tables;
use super::geometry::Geometry;
use super::running::{Runner, RunningSequences};
use super::sequence::Sequences;
use crate::batch::{Awaited, Batch, Draw, Micros, PromptTargets, SeqId, Slice, TokenId};

/// A slice of the step, as far as its commit needs it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Planned {
    /// Index of its runner.
    pub(super) at: usize,
    /// One past the position of its last token that is no draft.
    pub(super) end: usize,
    /// How many tokens it prefills; none if it decodes.
    pub(super) prefill_tokens: usize,
    /// Whether it asks for a token.
    pub(super) draws: bool,
    /// Whether it asks for log-probabilities of the prompt.
    pub(super) reports_prompt: bool,
    /// It was planned ahead, and the token that it awaited changed what it may draw: its report is
    /// dropped, and the sequence goes on as if it had not been in the step.
    pub(super) is_void: bool,
    /// How many drafts stand behind its last token, which asks for a token more each.
    pub(super) drafts: u8,
}

impl Planned {
    /// How many reports come of it.
    pub(super) fn reports_count(&self) -> usize {
        usize::from(self.draws || self.reports_prompt) + usize::from(self.drafts)
    }
}

/// A step that the engine was given, as far as its commit needs it.
#[derive(Debug, Default)]
pub(super) struct StepUnderWay {
    /// Its slices, in the batch's order.
    pub(super) planned: Vec<Planned>,
    /// The drafts of its slices, one slice after another.
    pub(super) drafts: Vec<TokenId>,
    /// The next step cannot be planned before this one commits: a draw needs its history, or
    /// log-probabilities of a prompt are reported, or how many tokens are drawn is not known.
    pub(super) blocks_planning_ahead: bool,
    /// Whether its end was presumed: only what it draws is to be settled.
    pub(super) is_presumed: bool,
    /// When it was given to the engine.
    pub(super) given: Micros,
}

impl StepUnderWay {
    /// Sequences that decode in it.
    pub(super) fn decoding_count(&self) -> usize {
        // They come first.
        self.planned.partition_point(|slice| slice.prefill_tokens == 0)
    }

    /// The decode slice of the runner at `at`, if it has one, counts for nothing.
    pub(super) fn void(&mut self, at: usize) {
        // They are in the order of the line.
        let decoding_count = self.decoding_count();
        let decoding = &mut self.planned[..decoding_count];
        if let Ok(found) = decoding.binary_search_by_key(&at, |slice| slice.at) {
            decoding[found].is_void = true;
        }
    }

    /// Tokens that it prefills.
    pub(super) fn prefill_tokens(&self) -> usize {
        // They come last.
        self.planned.iter().rev().map(|slice| slice.prefill_tokens).take_while(|tokens| *tokens > 0).sum()
    }
}

/// What slices are made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Material<'s> {
    pub(super) running: &'s RunningSequences,
    pub(super) sequences: &'s Sequences,
    pub(super) tables: &'s Tables,
    pub(super) geometry: &'s Geometry,
}

/// The step that is planned. Its memory is used again for the next.
#[derive(Debug, Default)]
pub(super) struct PlannedStep {
    /// The sequences that are prefilled (indices of runners), by how many tokens; their slices are
    /// written when all decode slices are.
    pub(super) prefills: Vec<(usize, usize)>,
    /// Whether a sequence that runs lacked blocks for a slice.
    pub(super) lacks_blocks: bool,
    /// What is guessed of sequences that decode, in the order of service; taken as their slices are
    /// written.
    pub(super) guesses: VecDeque<(SeqId, Vec<TokenId>)>,
    /// What of that is written.
    drafts: Vec<TokenId>,
    /// The slices that are written, in the batch's order.
    pub(super) planned: Vec<Planned>,
    /// As in [`StepUnderWay`].
    says_more: bool,
    /// What the engine is to compute.
    pub(super) batch: Batch,
    /// Memory for the slices of the next.
    spare: Vec<Planned>,
    /// Of an earlier step, whose slices are in the batch until they are overwritten.
    earlier: Earlier,
}

impl PlannedStep {
    /// Begins an empty step.
    pub(super) fn begin(&mut self) {
        self.withdraw();
        self.earlier.begin();
        // The slices of an earlier step are overwritten one by one: dropping them here would take
        // another walk through them.
        self.batch.tokens.clear();
        self.batch.global_blocks.clear();
        self.batch.sliding_blocks.clear();
        self.batch.awaited.clear();
        self.batch.copies.clear();
    }

    /// The step stays empty after all.
    pub(super) fn withdraw(&mut self) {
        self.prefills.clear();
        self.planned.clear();
        self.guesses.clear();
        self.drafts.clear();
        self.lacks_blocks = false;
        self.says_more = false;
    }

    /// Whether no sequence has a slice.
    pub(super) fn is_empty(&self) -> bool {
        self.planned.is_empty() && self.prefills.is_empty()
    }

    /// Appends a slice of the next `len` tokens of the runner at `at`, and what is guessed of it.
    pub(super) fn write(&mut self, at: usize, len: usize, material: Material<'_>) {
        let runner = &material.running[at];
        let end = runner.computed + len;
        let draws = end == runner.tokens_count;
        let draw = draws.then(|| self.draw(runner, material.sequences));
        let drafts = self.guesses_of(runner);
        let slice = slice(&mut self.batch, runner, (end, &drafts), draw, material);
        let reports_prompt = slice.prompt_targets.is_some();
        self.says_more |= reports_prompt || draws && runner.needs_history || !drafts.is_empty();
        self.earlier.overwrite(self.planned.len(), slice, &mut self.batch.slices);
        let prefill_tokens = if runner.decoding { 0 } else { len };
        self.drafts.extend_from_slice(&drafts);
        let drafts = u8::try_from(drafts.len()).expect("a slice has a few drafts");
        self.planned.push(Planned { at, end, prefill_tokens, draws, reports_prompt, drafts, is_void: false });
    }

    /// What is guessed of `runner`. To be asked in the order of service.
    fn guesses_of(&mut self, runner: &Runner) -> Vec<TokenId> {
        while let Some((seq, _)) = self.guesses.front()
            && *seq <= runner.seq
            && let Some((seq, drafts)) = self.guesses.pop_front()
        {
            if seq == runner.seq {
                return drafts;
            }
        }
        Vec::new()
    }

    /// Appends the prefill slices; the batch is complete then. Answers what its commit will need.
    pub(super) fn complete(&mut self, material: Material<'_>, now: Micros) -> StepUnderWay {
        for i in 0..self.prefills.len() {
            let (at, len) = self.prefills[i];
            self.write(at, len, material);
        }
        self.batch.slices.truncate(self.planned.len());
        let planned = std::mem::replace(&mut self.planned, std::mem::take(&mut self.spare));
        let drafts = std::mem::take(&mut self.drafts);
        StepUnderWay { planned, drafts, blocks_planning_ahead: self.says_more, is_presumed: false, given: now }
    }

    /// Takes back the memory of a step that is committed.
    pub(super) fn take_back(&mut self, mut planned: Vec<Planned>) {
        planned.clear();
        self.spare = planned;
    }

    fn draw(&mut self, runner: &Runner, sequences: &Sequences) -> Draw {
        let earlier = self.earlier.draw(runner.seq, &mut self.batch.slices);
        let (sampling, mut history) = match earlier {
            Some(draw) => (draw.sampling, draw.history),
            None => (Arc::clone(&sequences[runner.place].sampling), Vec::new()),
        };
        // Only for those that need it, and only what came since: a history is as long as the
        // context.
        let history_prompt_len = if runner.needs_history {
            runner.extend(&mut history, sequences);
            runner.prompt_len()
        } else {
            0
        };
        Draw { sampling, generated_count: runner.generated_count, history, history_prompt_len }
    }
}

/// The draws in the slices of an earlier step, for sequences that are in this one too.
///
/// To own a sampling once more, or once less, takes a walk to far memory, and to copy a history one
/// through all of it. A sequence that decodes was in the earlier step as well, and in the same
/// order but for those that came between: so the draws move from slice to slice.
#[derive(Debug, Default)]
struct Earlier {
    /// How many slices were looked at.
    seen_count: usize,
    /// Those that were overwritten before they were asked for.
    overwritten: VecDeque<(SeqId, Draw)>,
}

impl Earlier {
    fn begin(&mut self) {
        self.seen_count = 0;
        self.overwritten.clear();
    }

    /// What `seq` drew with, if it did in the earlier step. To be asked in the order of ids, else
    /// it finds less.
    fn draw(&mut self, seq: SeqId, slices: &mut [Slice]) -> Option<Draw> {
        while let Some((earlier, _)) = self.overwritten.front()
            && *earlier <= seq
        {
            let (earlier, draw) = self.overwritten.pop_front()?;
            if earlier == seq {
                return Some(draw);
            }
        }
        while let Some(earlier) = slices.get_mut(self.seen_count)
            && earlier.seq <= seq
        {
            self.seen_count += 1;
            if earlier.seq == seq {
                return earlier.draw.take();
            }
        }
        None
    }

    /// Puts `slice` at `at`.
    fn overwrite(&mut self, at: usize, slice: Slice, slices: &mut Vec<Slice>) {
        let Some(earlier) = slices.get_mut(at) else { return slices.push(slice) };
        let earlier = std::mem::replace(earlier, slice);
        if self.seen_count <= at {
            self.seen_count = at + 1;
            self.overwritten.extend(earlier.draw.map(|draw| (earlier.seq, draw)));
        }
    }
}

/// A slice of the tokens of `runner` before `end` and of its `drafts`; they and its block tables
/// are appended to `batch`.
fn slice(
    batch: &mut Batch,
    runner: &Runner,
    (end, drafts): (usize, &[TokenId]),
    draw: Option<Draw>,
    material: Material<'_>,
) -> Slice {
    let Material { sequences, tables, geometry, .. } = material;
    let start = runner.computed;
    let tokens_from = batch.tokens.len();
    if runner.decoding {
        batch.tokens.push(runner.last);
        batch.awaited.extend(runner.awaited_of().map(|slice| Awaited { token: tokens_from, slice }));
    } else {
        batch.tokens.extend_from_slice(&sequences[runner.place].tokens[start..end]);
    }
    batch.tokens.extend_from_slice(drafts);
    let global_from = batch.global_blocks.len();
    let global_blocks = geometry.blocks(end + drafts.len());
    batch.global_blocks.extend_from_slice(&runner.tables.global(tables)[..global_blocks]);
    let sliding_from = batch.sliding_blocks.len();
    batch.sliding_blocks.extend_from_slice(runner.tables.sliding(tables));
    Slice {
        seq: runner.seq,
        tokens: tokens_from..batch.tokens.len(),
        start,
        global_blocks: global_from..batch.global_blocks.len(),
        sliding_blocks: sliding_from..batch.sliding_blocks.len(),
        sliding_first: runner.tables.sliding_first(),
        draw,
        drafts: drafts.len(),
        prompt_targets: runner.awaits_prompt_logprobs.then(|| Box::new(prompt_targets(runner, end, sequences))),
    }
}

fn prompt_targets(runner: &Runner, end: usize, sequences: &Sequences) -> PromptTargets {
    let sequence = &sequences[runner.place];
    PromptTargets {
        // Nothing is generated before these are settled, so that the tokens end with the prompt.
        tokens: sequence.tokens[runner.computed + 1..sequence.tokens.len().min(end + 1)].to_vec(),
        top_count: sequence.sampling.logprobs.unwrap_or(0),
    }
}
