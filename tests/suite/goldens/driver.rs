//! A small scheduler for one engine: keeps block tables, frees what a window has left, and takes
//! blocks in random order.

use super::files::Golden;
use antiphon::batch::{Batch, BlockId, Draw, PromptTargets, Sampled, Sampling, SeqId, Slice, TokenId};
use antiphon::engine::Engine;
use antiphon::engine::cpu::{CpuEngine, CpuOptions, Format, Math};
use antiphon::engine::cuda::CudaEngine;
use std::sync::Arc;

/// Tokens in a block: not a power of two, and no divisor of the windows.
const BLOCK_TOKENS: usize = 6;

/// As the goldens were made.
pub(super) const EXACT: (Math, Format) = (Math::Exact, Format::Bf16);
/// Every other arithmetic that the engine has.
pub(super) const ROUNDED: [(Math, Format); 5] = [
    (Math::Exact, Format::Int8),
    (Math::Int16, Format::Bf16),
    (Math::Int16, Format::Int8),
    (Math::Fast, Format::Bf16),
    (Math::Fast, Format::Int8),
];

/// A sequence and its blocks.
#[derive(Default)]
pub(super) struct Sequence {
    pub(super) seq: u64,
    pub(super) tokens: Vec<TokenId>,
    /// Leading tokens whose keys and values are stored.
    pub(super) computed: usize,
    global: Vec<BlockId>,
    sliding: Vec<BlockId>,
    sliding_first: usize,
}

impl Sequence {
    pub(super) fn new(tokens: &[TokenId]) -> Self {
        Self { tokens: tokens.to_vec(), ..Self::default() }
    }

    /// Tokens that are not computed yet.
    pub(super) fn left(&self) -> usize {
        self.tokens.len() - self.computed
    }
}

/// An engine that shows the logits of every row.
pub(super) trait Shows: Engine {
    fn show(&mut self, batch: &Batch, logits: &mut dyn FnMut(usize, &[f32]));
}

impl Shows for CpuEngine {
    fn show(&mut self, batch: &Batch, logits: &mut dyn FnMut(usize, &[f32])) {
        self.inspect(batch, &mut |_, _| {}, logits);
    }
}

impl Shows for CudaEngine {
    fn show(&mut self, batch: &Batch, logits: &mut dyn FnMut(usize, &[f32])) {
        self.inspect(batch, logits).unwrap();
    }
}

/// An engine and its free blocks.
pub(super) struct Driver<E = CpuEngine> {
    pub(super) engine: E,
    global_free: Vec<BlockId>,
    sliding_free: Vec<BlockId>,
}

impl Driver<CpuEngine> {
    /// An engine with `threads` threads and exact arithmetic whose free blocks lie in random order.
    pub(super) fn new(golden: &Golden, threads: usize) -> Self {
        Self::seeded(golden, threads, BLOCK_TOKENS, 1)
    }

    /// The same with blocks of another size, in another order.
    pub(super) fn seeded(golden: &Golden, threads: usize, block_tokens: usize, seed: u64) -> Self {
        Self::with_arithmetic(golden, threads, block_tokens, seed, EXACT)
    }

    /// The same with another arithmetic.
    pub(super) fn with_arithmetic(
        golden: &Golden,
        threads: usize,
        block_tokens: usize,
        seed: u64,
        (math, dense): (Math, Format),
    ) -> Self {
        let blocks = 2400 / block_tokens;
        let options = CpuOptions {
            threads,
            block_tokens,
            global_blocks: blocks,
            sliding_blocks: blocks,
            step_tokens_max: 600,
            step_slices_max: 16,
            math,
            dense,
            isa: None,
            keep_packed: false,
        };
        Self::over(CpuEngine::load(Arc::clone(&golden.checkpoint), &options, &mut |_| {}), seed)
    }
}

impl<E: Shows> Driver<E> {
    /// Drives an engine whose free blocks lie in an order that `seed` decides.
    pub(super) fn over(engine: E, seed: u64) -> Self {
        let limits = engine.limits();
        let (global, sliding) = (shuffled(limits.global_blocks, seed), shuffled(limits.sliding_blocks, seed + 1));
        Self { engine, global_free: global, sliding_free: sliding }
    }

    /// Adds the next `len` tokens of `sequence` to the batch, with blocks for them.
    pub(super) fn add(&mut self, batch: &mut Batch, sequence: &mut Sequence, len: usize, draw: Option<Sampling>) {
        let limits = self.engine.limits();
        let end = sequence.computed + len;
        let blocks = end.div_ceil(limits.block_tokens);
        while sequence.global.len() < blocks {
            sequence.global.push(self.global_free.pop().expect("the pool is large enough"));
        }
        while sequence.sliding_first + sequence.sliding.len() < blocks {
            sequence.sliding.push(self.sliding_free.pop().expect("the pool is large enough"));
        }
        let range = |len: usize, added: usize| len..len + added;
        let draw = draw.map(|sampling| Draw {
            sampling: Arc::new(sampling),
            generated_count: 0,
            history: Vec::new(),
            history_prompt_len: 0,
        });
        batch.slices.push(Slice {
            seq: SeqId(sequence.seq),
            tokens: range(batch.tokens.len(), len),
            start: sequence.computed,
            global_blocks: range(batch.global_blocks.len(), sequence.global.len()),
            sliding_blocks: range(batch.sliding_blocks.len(), sequence.sliding.len()),
            sliding_first: sequence.sliding_first,
            draw,
            drafts: 0,
            prompt_targets: None,
        });
        batch.tokens.extend(&sequence.tokens[sequence.computed..end]);
        batch.global_blocks.extend(&sequence.global);
        batch.sliding_blocks.extend(&sequence.sliding);
        sequence.computed = end;
    }

    /// Frees the sliding blocks that no later token of `sequence` sees.
    pub(super) fn slide(&mut self, sequence: &mut Sequence) {
        let limits = self.engine.limits();
        let first_seen = (sequence.computed + 1).saturating_sub(limits.sliding_window_tokens);
        let gone = (first_seen / limits.block_tokens - sequence.sliding_first).min(sequence.sliding.len());
        // To the front, so that they are used again soon.
        self.sliding_free.extend(sequence.sliding.drain(..gone));
        sequence.sliding_first += gone;
    }

    /// Frees all blocks of `sequence`.
    pub(super) fn release(&mut self, sequence: Sequence) {
        self.global_free.extend(sequence.global);
        self.sliding_free.extend(sequence.sliding);
    }

    /// Logits of every position of `prompt`, computed in slices of at most `slice_tokens`.
    pub(super) fn logits(&mut self, prompt: &[TokenId], slice_tokens: usize) -> Vec<Vec<f32>> {
        let mut sequence = Sequence::new(prompt);
        let mut rows = Vec::new();
        while sequence.left() > 0 {
            let mut batch = Batch::default();
            let len = sequence.left().min(slice_tokens);
            self.add(&mut batch, &mut sequence, len, None);
            self.engine.show(&batch, &mut |_, logits| rows.push(logits.to_vec()));
            self.slide(&mut sequence);
        }
        self.release(sequence);
        rows
    }

    /// Computes what is left of `sequence` in slices of at most `slice_tokens` and draws the
    /// likeliest token after it.
    pub(super) fn greedy(&mut self, sequence: &mut Sequence, slice_tokens: usize) -> TokenId {
        loop {
            let mut batch = Batch::default();
            let len = sequence.left().min(slice_tokens);
            let is_last = len == sequence.left();
            self.add(&mut batch, sequence, len, is_last.then(Sampling::default));
            let sampled = self.execute(&batch);
            self.slide(sequence);
            if is_last {
                assert_eq!(sampled.len(), 1);
                return sampled[0].token.expect("the slice draws").expect("the logits are finite");
            }
            assert!(sampled.is_empty(), "a slice that draws nothing reports nothing");
        }
    }

    pub(super) fn execute(&mut self, batch: &Batch) -> Vec<Sampled> {
        let mut sampled = Vec::new();
        self.engine.execute(batch, &mut sampled).unwrap();
        sampled
    }
}

/// Asks for the log-probabilities of `tokens`, from the batch's last slice.
pub(super) fn ask_prompt_logprobs(batch: &mut Batch, tokens: &[TokenId], top_count: u32) {
    let slice = batch.slices.last_mut().unwrap();
    slice.prompt_targets = Some(Box::new(PromptTargets { tokens: tokens.to_vec(), top_count }));
}

/// The blocks of a pool in an order that `seed` decides.
fn shuffled(blocks: usize, seed: u64) -> Vec<BlockId> {
    let mut free: Vec<BlockId> = (0..u32::try_from(blocks).unwrap()).map(BlockId).collect();
    let mut random = seed;
    for at in (1..blocks).rev() {
        // Knuth's MMIX generator; any would do.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        free.swap(at, usize::try_from(random >> 33).unwrap() % (at + 1));
    }
    free
}
