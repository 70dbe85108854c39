//! What every KV slot of a fake engine holds, and whether a batch reads what it must.

use std::collections::{BTreeMap, BTreeSet};

use super::answer::mix;
use crate::batch::{Batch, BlockCopy, BlockId, EngineLimits, KvGroup, MaskOutlook, PromptTargets, SeqId, Slice, TokenId};

/// What a slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotContent {
    /// Whose token.
    pub seq: SeqId,
    /// At which position of the sequence.
    pub position: usize,
    /// The token.
    pub token: TokenId,
    /// Stands for it and all tokens before it: what keys and values are a function of.
    pub context: u64,
    /// The step that wrote it.
    pub step: u64,
}

/// A batch that no correct scheduler makes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// More tokens or slices than the engine can compute.
    #[error("a step of {tokens} tokens in {slices} slices; at most {tokens_max} in {slices_max} are possible")]
    TooLarge {
        /// Tokens of the step.
        tokens: usize,
        /// Slices of the step.
        slices: usize,
        /// Most tokens of a step.
        tokens_max: usize,
        /// Most slices of a step.
        slices_max: usize,
    },
    /// A slice contradicts itself or the batch.
    #[error("the slice of sequence {} is malformed: {what}", seq.0)]
    Malformed {
        /// The slice's sequence.
        seq: SeqId,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A position has no block.
    #[error("position {position} of sequence {} has no {group:?} block", seq.0)]
    NoBlock {
        /// The sequence.
        seq: SeqId,
        /// The group of layers.
        group: KvGroup,
        /// The position.
        position: usize,
    },
    /// Two sequences write one slot in one step.
    #[error("sequences {} and {} write the same slot of {group:?} block {}", first.0, second.0, block.0)]
    WrittenTwice {
        /// The group of layers.
        group: KvGroup,
        /// The block.
        block: BlockId,
        /// The sequence that wrote first.
        first: SeqId,
        /// The one that wrote then.
        second: SeqId,
    },
    /// A position before a slice's first is read in the step that writes it.
    #[error("{group:?} block {} is read by sequence {} in the step in which sequence {} writes it", block.0, seq.0, writer.0)]
    ReadTooEarly {
        /// The sequence that reads.
        seq: SeqId,
        /// The group of layers.
        group: KvGroup,
        /// The block.
        block: BlockId,
        /// The sequence that writes.
        writer: SeqId,
    },
    /// A sequence goes on from other tokens than those that it computed last.
    #[error("sequence {} goes on at position {position} behind tokens that are not its own", seq.0)]
    OtherTokens {
        /// The sequence.
        seq: SeqId,
        /// The first position of its slice.
        position: usize,
    },
    /// A slot that a slice reads holds something else.
    #[error("{group:?} block {} should hold position {position} of sequence {}, and holds {held:?}", block.0, seq.0)]
    WrongSlot {
        /// The sequence that reads.
        seq: SeqId,
        /// The group of layers.
        group: KvGroup,
        /// The block that was read.
        block: BlockId,
        /// The position that was expected there.
        position: usize,
        /// What is there.
        held: Option<SlotContent>,
    },
}

/// What a slice found in the slots that it reads; kept between slices for its memory.
#[derive(Debug, Default)]
pub(super) struct SliceReading {
    /// All tokens up to the slice's end, from the global group.
    pub(super) global: Vec<TokenId>,
    /// What stands for each of them and those before it.
    contexts: Vec<u64>,
    /// What those of the slice's tokens see that a token is drawn after, from the sliding group.
    sliding: Vec<TokenId>,
}

impl SliceReading {
    /// What stands before the draw behind so many of `drafts` drafts: in the global group, and in
    /// the sliding one, whose window is of `window_tokens`.
    pub(super) fn before_draw(&self, draw: usize, drafts: usize, window_tokens: usize) -> (&[TokenId], &[TokenId]) {
        let behind = drafts - draw;
        let (global, sliding) = (&self.global[..self.global.len() - behind], &self.sliding[..self.sliding.len() - behind]);
        (global, &sliding[sliding.len().saturating_sub(window_tokens)..])
    }
}

/// The slots of both groups.
#[derive(Debug)]
pub(super) struct FakeMemory {
    limits: EngineLimits,
    global: Vec<Option<SlotContent>>,
    sliding: Vec<Option<SlotContent>>,
    /// How far each sequence of the step before this one was computed, and what stands for its
    /// tokens.
    latest: BTreeMap<SeqId, (usize, u64)>,
    /// The one that wrote last.
    step: u64,
}

impl FakeMemory {
    pub(super) fn new(limits: &EngineLimits) -> Self {
        let slots = |blocks: usize| vec![None; blocks * limits.block_tokens];
        let (global, sliding) = (slots(limits.global_blocks), slots(limits.sliding_blocks));
        Self { limits: *limits, global, sliding, latest: BTreeMap::new(), step: 0 }
    }

    /// Tokens in a block.
    pub(super) fn block_tokens(&self) -> usize {
        self.limits.block_tokens
    }

    /// All slots of a group.
    pub(super) fn slots(&mut self, group: KvGroup) -> &mut [Option<SlotContent>] {
        match group {
            KvGroup::Global => &mut self.global,
            KvGroup::Sliding => &mut self.sliding,
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.global.fill(None);
        self.sliding.fill(None);
        self.latest.clear();
    }

    /// Writes the tokens of every slice, before any is read: a layer stores its keys and values
    /// before it attends.
    pub(super) fn write(&mut self, step: u64, batch: &Batch) -> Result<(), Violation> {
        self.check_shape(batch)?;
        batch.copies.iter().for_each(|copy| self.copy(copy));
        // Before the first is written: what one slice writes another must not build on.
        let contexts: Result<Vec<u64>, Violation> =
            batch.slices.iter().map(|slice| self.context_before(batch, slice)).collect();
        let before = std::mem::take(&mut self.latest);
        self.step = step;
        for (slice, mut context) in batch.slices.iter().zip(contexts?) {
            if before.get(&slice.seq).is_some_and(|(end, latest)| *end == slice.start && *latest != context) {
                return Err(Violation::OtherTokens { seq: slice.seq, position: slice.start });
            }
            for (position, token) in (slice.start..).zip(&batch.tokens[slice.tokens.clone()]) {
                context = mix(context ^ u64::from(token.0));
                for group in [KvGroup::Global, KvGroup::Sliding] {
                    let (block, slot) = self.slot(batch, slice, group, position)?;
                    let slots = if group == KvGroup::Global { &mut self.global } else { &mut self.sliding };
                    let held = SlotContent { seq: slice.seq, position, token: *token, context, step };
                    if let Some(before) = slots[slot].replace(held)
                        && before.step == step
                    {
                        return Err(Violation::WrittenTwice { group, block, first: before.seq, second: slice.seq });
                    }
                }
            }
            self.latest.insert(slice.seq, (slice.end(), context));
        }
        Ok(())
    }

    /// Copies what is asked for and no more: what stands behind it means nothing.
    fn copy(&mut self, copy: &BlockCopy) {
        let slots = if copy.group == KvGroup::Global { &mut self.global } else { &mut self.sliding };
        let first = |block: BlockId| block.0 as usize * self.limits.block_tokens;
        slots.copy_within(first(copy.from)..first(copy.from) + copy.tokens, first(copy.to));
    }

    /// What stands for all tokens before the slice, if they are there.
    fn context_before(&self, batch: &Batch, slice: &Slice) -> Result<u64, Violation> {
        let Some(last) = slice.start.checked_sub(1) else { return Ok(0) };
        let (_, slot) = self.slot(batch, slice, KvGroup::Global, last)?;
        Ok(self.global[slot].map_or(0, |held| held.context))
    }

    /// Reads what `slice` reads: every position up to its end in the global group, and in the
    /// sliding group those that any of its tokens sees.
    pub(super) fn read(&self, batch: &Batch, slice: &Slice, reading: &mut SliceReading) -> Result<(), Violation> {
        reading.global.clear();
        reading.contexts.clear();
        reading.sliding.clear();
        let mut context = 0;
        for position in 0..slice.end() {
            let held = self.held(batch, slice, KvGroup::Global, position, |held| mix(context ^ u64::from(held.token.0)))?;
            context = held.context;
            reading.global.push(held.token);
            reading.contexts.push(context);
        }
        let last_sees_from = (slice.end() - slice.drafts).saturating_sub(self.limits.sliding_window_tokens);
        for position in self.first_seen(slice)..slice.end() {
            let held = self.held(batch, slice, KvGroup::Sliding, position, |_| reading.contexts[position])?;
            if position >= last_sees_from {
                reading.sliding.push(held.token);
            }
        }
        check_draw(slice, &reading.global)?;
        check_targets(slice, &reading.global)
    }

    /// The first position that the slice's first token sees in a sliding-window layer.
    fn first_seen(&self, slice: &Slice) -> usize {
        (slice.start + 1).saturating_sub(self.limits.sliding_window_tokens)
    }

    /// What a position's slot holds, if it is what it must be: whichever sequence wrote it, keys
    /// and values are the same behind the same tokens.
    fn held(
        &self,
        batch: &Batch,
        slice: &Slice,
        group: KvGroup,
        position: usize,
        context: impl Fn(&SlotContent) -> u64,
    ) -> Result<SlotContent, Violation> {
        let (block, slot) = self.slot(batch, slice, group, position)?;
        let held = if group == KvGroup::Global { self.global[slot] } else { self.sliding[slot] };
        match held {
            Some(held) if held.position == position && held.context == context(&held) => {
                let is_early = held.step == self.step && position < slice.start;
                let too_early = Violation::ReadTooEarly { seq: slice.seq, group, block, writer: held.seq };
                if is_early { Err(too_early) } else { Ok(held) }
            }
            _ => Err(Violation::WrongSlot { seq: slice.seq, group, block, position, held }),
        }
    }

    /// The block and the slot of a position, by the slice's block table.
    fn slot(&self, batch: &Batch, slice: &Slice, group: KvGroup, position: usize) -> Result<(BlockId, usize), Violation> {
        let (table, first, blocks) = match group {
            KvGroup::Global => (&batch.global_blocks[slice.global_blocks.clone()], 0, self.limits.global_blocks),
            KvGroup::Sliding => {
                let table = &batch.sliding_blocks[slice.sliding_blocks.clone()];
                (table, slice.sliding_first, self.limits.sliding_blocks)
            }
        };
        let logical = position / self.limits.block_tokens;
        let block = logical.checked_sub(first).and_then(|entry| table.get(entry)).copied();
        match block {
            Some(block) if (block.0 as usize) < blocks => {
                Ok((block, block.0 as usize * self.limits.block_tokens + position % self.limits.block_tokens))
            }
            _ => Err(Violation::NoBlock { seq: slice.seq, group, position }),
        }
    }

    /// Most drafts of a slice: none where a draw follows from the draws before it.
    fn drafts_max(&self, slice: &Slice) -> usize {
        match &slice.draw {
            Some(draw) if !draw.sampling.needs_history() => {
                let outlook = draw.sampling.masks.as_ref().map_or(MaskOutlook::FREE, |masks| masks.0.outlook());
                let covered = outlook.until.saturating_sub(draw.generated_count.saturating_add(1)) as usize;
                self.limits.slice_drafts_max.min(slice.len() - 1).min(covered)
            }
            _ => 0,
        }
    }

    fn check_shape(&self, batch: &Batch) -> Result<(), Violation> {
        let (tokens, slices) = (batch.tokens.len(), batch.slices.len());
        let (tokens_max, slices_max) = (self.limits.step_tokens_max, self.limits.step_slices_max);
        if tokens > tokens_max || slices > slices_max {
            return Err(Violation::TooLarge { tokens, slices, tokens_max, slices_max });
        }
        let mut tokens_end = 0;
        let mut prefill_seen = false;
        let mut seen = BTreeSet::new();
        for slice in &batch.slices {
            let malformed = |what| Err(Violation::Malformed { seq: slice.seq, what });
            if slice.is_empty() {
                return malformed("it computes nothing");
            }
            if slice.tokens.start != tokens_end || slice.tokens.end > tokens {
                return malformed("its tokens do not follow those of the slice before");
            }
            tokens_end = slice.tokens.end;
            if slice.end() > self.limits.context_tokens_max {
                return malformed("it ends beyond the context");
            }
            if slice.global_blocks.end > batch.global_blocks.len() || slice.sliding_blocks.end > batch.sliding_blocks.len() {
                return malformed("its block tables lie outside the batch");
            }
            if slice.sliding_first != self.first_seen(slice) / self.limits.block_tokens {
                return malformed("its sliding block table does not begin with the first block that it sees");
            }
            if !seen.insert(slice.seq) {
                return malformed("its sequence has another slice");
            }
            if slice.drafts > self.drafts_max(slice) {
                return malformed("more drafts than it may have");
            }
            let decode = slice.len() == 1 + slice.drafts && slice.draw.as_ref().is_some_and(|draw| draw.generated_count > 0);
            if decode && prefill_seen {
                return malformed("a decode slice after a prefill slice");
            }
            prefill_seen |= !decode;
        }
        if tokens_end == tokens {
            Ok(())
        } else {
            Err(Violation::Malformed { seq: SeqId(u64::MAX), what: "tokens that belong to no slice" })
        }
    }
}

/// The history must be what the slots hold.
fn check_draw(slice: &Slice, global: &[TokenId]) -> Result<(), Violation> {
    let Some(draw) = &slice.draw else { return Ok(()) };
    let malformed = |what| Err(Violation::Malformed { seq: slice.seq, what });
    if !draw.sampling.needs_history() {
        return if draw.history.is_empty() { Ok(()) } else { malformed("a history that is not needed") };
    }
    if draw.history != global {
        return malformed("its history is not what its slots hold");
    }
    if draw.history_prompt_len + draw.generated_count as usize != global.len() {
        return malformed("its history's prompt and its generated tokens do not add up");
    }
    Ok(())
}

/// The targets must be the tokens that follow.
fn check_targets(slice: &Slice, global: &[TokenId]) -> Result<(), Violation> {
    let Some(PromptTargets { tokens: targets, .. }) = slice.prompt_targets.as_deref() else { return Ok(()) };
    let known = &global[slice.start + 1..];
    // The last token's target is in no slot yet; it is there unless the sequence ends with the
    // slice.
    let expected_len = if slice.draw.is_some() { known.len() } else { known.len() + 1 };
    if targets.len() != expected_len || targets[..known.len()] != *known {
        return Err(Violation::Malformed { seq: slice.seq, what: "its prompt targets are not the tokens that follow" });
    }
    Ok(())
}
