//! The step in the making: who is in it, and the batch that says so to the engine.

use super::geometry::Geometry;
use super::sequence::{Place, PromptLogprobs, Sequence, Sequences};
use crate::batch::{Batch, Draw, PromptTargets, SeqId, Slice};

/// A slice of the step, as far as its commit needs it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Planned {
    pub(super) place: Place,
    pub(super) seq: SeqId,
    /// Position of its first token.
    pub(super) start: usize,
    /// One past the position of its last token.
    pub(super) end: usize,
    /// Whether it asks for a token.
    pub(super) draws: bool,
    /// Whether it asks for log-probabilities of the prompt.
    pub(super) reports_prompt: bool,
}

/// The step that is planned or computed. Its memory is used again for the next.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// Who may be given a slice, oldest first.
    pub(super) candidates: Vec<Place>,
    /// Who is prefilled, by how many tokens; their slices are written when all decode slices are.
    pub(super) prefills: Vec<(Place, usize)>,
    /// The slices that are written, in the batch's order.
    pub(super) planned: Vec<Planned>,
    /// What the engine is to compute.
    pub(super) batch: Batch,
    /// Whether the engine computes it now.
    pub(super) in_flight: bool,
}

impl Step {
    pub(super) fn clear(&mut self) {
        self.candidates.clear();
        self.prefills.clear();
        self.planned.clear();
        // The slices of the step before are overwritten one by one: dropping them here would take another walk through them.
        self.batch.tokens.clear();
        self.batch.full_blocks.clear();
        self.batch.sliding_blocks.clear();
    }

    /// Whether nobody has a slice.
    pub(super) fn is_empty(&self) -> bool {
        self.planned.is_empty() && self.prefills.is_empty()
    }

    /// Appends a slice of the next `len` tokens of the sequence at `place`.
    pub(super) fn write(&mut self, place: Place, sequence: &Sequence, len: usize, geometry: &Geometry) {
        let slice = slice(&mut self.batch, sequence, len, geometry);
        let (start, end) = (slice.start, slice.end());
        let (draws, reports_prompt) = (slice.draw.is_some(), slice.prompt_targets.is_some());
        match self.batch.slices.get_mut(self.planned.len()) {
            Some(old) => *old = slice,
            None => self.batch.slices.push(slice),
        }
        self.planned.push(Planned { place, seq: sequence.id, start, end, draws, reports_prompt });
    }

    /// Appends the prefill slices; the batch is complete then.
    pub(super) fn complete(&mut self, sequences: &Sequences, geometry: &Geometry) {
        for i in 0..self.prefills.len() {
            let (place, len) = self.prefills[i];
            self.write(place, &sequences[place], len, geometry);
        }
        self.batch.slices.truncate(self.planned.len());
    }
}

/// A slice of the next `len` tokens of `sequence`, whose tokens and block tables are appended to `batch`.
fn slice(batch: &mut Batch, sequence: &Sequence, len: usize, geometry: &Geometry) -> Slice {
    let start = sequence.computed;
    let end = start + len;
    let tokens_from = batch.tokens.len();
    if sequence.decoding {
        batch.tokens.push(sequence.last);
    } else {
        batch.tokens.extend_from_slice(&sequence.tokens[start..end]);
    }
    let full_from = batch.full_blocks.len();
    batch.full_blocks.extend_from_slice(&sequence.tables.full()[..geometry.blocks(end)]);
    let sliding_from = batch.sliding_blocks.len();
    let (head, tail) = sequence.tables.sliding().as_slices();
    batch.sliding_blocks.extend_from_slice(head);
    batch.sliding_blocks.extend_from_slice(tail);
    Slice {
        seq: sequence.id,
        tokens: tokens_from..batch.tokens.len(),
        start,
        full_blocks: full_from..batch.full_blocks.len(),
        sliding_blocks: sliding_from..batch.sliding_blocks.len(),
        sliding_first: sequence.tables.sliding_first(),
        draw: (end == sequence.tokens.len()).then(|| draw(sequence)),
        prompt_targets: prompt_targets(sequence, start, end),
    }
}

fn draw(sequence: &Sequence) -> Draw {
    // Copied only for those that need it: a history is as long as the context.
    let (history, history_prompt_len) = match sequence.sampling.needs_history() {
        true => (sequence.tokens.clone(), sequence.prompt_len),
        false => (Vec::new(), 0),
    };
    let generated_count = u32::try_from(sequence.generated()).expect("no more than max_tokens are generated");
    Draw { sampling: sequence.sampling.clone(), generated_count, history, history_prompt_len }
}

fn prompt_targets(sequence: &Sequence, start: usize, end: usize) -> Option<PromptTargets> {
    match sequence.prompt_logprobs {
        PromptLogprobs::Settled => None,
        PromptLogprobs::Gathering(_) => Some(PromptTargets {
            // Nothing is generated before these are settled, so that the tokens end with the prompt.
            tokens: sequence.tokens[start + 1..sequence.tokens.len().min(end + 1)].to_vec(),
            top_count: sequence.sampling.logprobs.unwrap_or(0),
        }),
    }
}
