//! The step in the making: who is in it, and the batch that says so to the engine.

use super::geometry::Geometry;
use super::sequence::{Place, PromptLogprobs, Sequence, Sequences};
use crate::batch::{Batch, Draw, PromptTargets, Slice};

/// The step that is planned or computed. Its memory is used again for the next.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// Who may be given a slice, oldest first.
    pub(super) candidates: Vec<Place>,
    /// Who decodes.
    pub(super) decodes: Vec<Place>,
    /// Who is prefilled, by how many tokens.
    pub(super) prefills: Vec<(Place, usize)>,
    /// What the engine is to compute.
    pub(super) batch: Batch,
    /// Whose slices these are, in the batch's order.
    pub(super) planned: Vec<Place>,
    /// Whether the engine computes it now.
    pub(super) in_flight: bool,
}

impl Step {
    pub(super) fn clear(&mut self) {
        self.candidates.clear();
        self.decodes.clear();
        self.prefills.clear();
        self.batch.clear();
        self.planned.clear();
    }

    /// Whether nobody has a slice.
    pub(super) fn is_empty(&self) -> bool {
        self.decodes.is_empty() && self.prefills.is_empty()
    }

    /// Writes the batch, decode slices first.
    pub(super) fn write(&mut self, sequences: &Sequences, geometry: &Geometry) {
        let decodes = self.decodes.iter().map(|place| (*place, 1));
        for (place, len) in decodes.chain(self.prefills.iter().copied()) {
            write_slice(&mut self.batch, &sequences[place], len, geometry);
            self.planned.push(place);
        }
    }
}

/// Appends a slice of the next `len` tokens of `sequence`.
fn write_slice(batch: &mut Batch, sequence: &Sequence, len: usize, geometry: &Geometry) {
    let start = sequence.computed;
    let end = start + len;
    let tokens = batch.tokens.len()..batch.tokens.len() + len;
    batch.tokens.extend_from_slice(&sequence.tokens[start..end]);

    let full_from = batch.full_blocks.len();
    batch.full_blocks.extend_from_slice(&sequence.tables.full()[..geometry.blocks(end)]);
    let sliding_from = batch.sliding_blocks.len();
    let (head, tail) = sequence.tables.sliding().as_slices();
    batch.sliding_blocks.extend_from_slice(head);
    batch.sliding_blocks.extend_from_slice(tail);

    batch.slices.push(Slice {
        seq: sequence.id,
        tokens,
        start,
        full_blocks: full_from..batch.full_blocks.len(),
        sliding_blocks: sliding_from..batch.sliding_blocks.len(),
        sliding_first: sequence.tables.sliding_first(),
        draw: (end == sequence.tokens.len()).then(|| draw(sequence)),
        prompt_targets: prompt_targets(sequence, start, end),
    });
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
