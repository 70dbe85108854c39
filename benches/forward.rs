//! Tokens per second of the CPU engine on the embedded model: prefill of one prompt, decode of 1, 8 and 32 sequences.

use antiphon::batch::{Batch, BlockId, Draw, Sampling, SeqId, Slice, TokenId};
use antiphon::engine::Engine as _;
use antiphon::engine::checkpoint::{Checkpoint, CheckpointFiles};
use antiphon::engine::cpu::{CpuEngine, CpuOptions};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::path::Path;
use std::sync::Arc;

/// Tokens of the prompt that is prefilled in one step.
const PROMPT_TOKENS: usize = 512;
/// Tokens that each decoding sequence has before the step.
const CONTEXT_TOKENS: usize = 256;
/// Most sequences.
const SEQUENCES_MAX: usize = 32;

fn engine() -> CpuEngine {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny");
    let files = CheckpointFiles::directory(&directory).expect("the embedded model is part of the repository");
    let checkpoint = Arc::new(Checkpoint::open(&files).expect("the embedded model is sound"));
    let options = CpuOptions::within(checkpoint.config(), 1 << 30, SEQUENCES_MAX, PROMPT_TOKENS);
    // Room for every sequence's whole context in both groups keeps the block tables simple.
    let blocks = SEQUENCES_MAX * (PROMPT_TOKENS / options.block_tokens + 1);
    let options = CpuOptions { full_blocks: blocks, sliding_blocks: blocks, ..options };
    CpuEngine::load(checkpoint, &options, &mut |_| {})
}

/// Adds tokens `start .. start + len` of sequence `index`, which draws greedily after them.
fn add(engine: &CpuEngine, batch: &mut Batch, index: usize, start: usize, len: usize) {
    let limits = engine.limits();
    let table = (start + len).div_ceil(limits.block_tokens);
    let first = u32::try_from(index * (PROMPT_TOKENS / limits.block_tokens + 1)).expect("a small number");
    let blocks = || (first..).take(table).map(BlockId);
    let draw = Draw { sampling: Arc::new(Sampling::default()), generated_count: 0, history: Vec::new(), history_prompt_len: 0 };
    batch.slices.push(Slice {
        seq: SeqId(index as u64),
        tokens: batch.tokens.len()..batch.tokens.len() + len,
        start,
        full_blocks: batch.full_blocks.len()..batch.full_blocks.len() + table,
        sliding_blocks: batch.sliding_blocks.len()..batch.sliding_blocks.len() + table,
        sliding_first: 0,
        draw: Some(draw),
        prompt_targets: None,
    });
    // Tokens of all kinds, so that every expert has work.
    let token = |at: usize| u32::try_from((at * 37 + index) % limits.vocab_size).expect("a vocabulary fits");
    batch.tokens.extend((start..start + len).map(|at| TokenId(token(at))));
    batch.full_blocks.extend(blocks());
    batch.sliding_blocks.extend(blocks());
}

fn step(engine: &mut CpuEngine, batch: &Batch) {
    let mut sampled = Vec::new();
    engine.execute(batch, &mut sampled).expect("the CPU does not fail");
    assert_eq!(sampled.len(), batch.slices.len());
}

fn forward(criterion: &mut Criterion) {
    let mut engine = engine();
    let mut group = criterion.benchmark_group("forward");
    group.sample_size(20);
    group.throughput(Throughput::Elements(PROMPT_TOKENS as u64));
    group.bench_function(BenchmarkId::new("prefill", PROMPT_TOKENS), |bencher| {
        let mut batch = Batch::default();
        add(&engine, &mut batch, 0, 0, PROMPT_TOKENS);
        bencher.iter(|| step(&mut engine, &batch));
    });
    for sequences in [1, 8, SEQUENCES_MAX] {
        for index in 0..sequences {
            let mut batch = Batch::default();
            add(&engine, &mut batch, index, 0, CONTEXT_TOKENS);
            step(&mut engine, &batch);
        }
        group.throughput(Throughput::Elements(sequences as u64));
        group.bench_function(BenchmarkId::new("decode", sequences), |bencher| {
            let mut batch = Batch::default();
            for index in 0..sequences {
                add(&engine, &mut batch, index, CONTEXT_TOKENS, 1);
            }
            bencher.iter(|| step(&mut engine, &batch));
        });
    }
    group.finish();
}

criterion_group!(benches, forward);
criterion_main!(benches);
