use super::*;
use crate::batch::{BlockId, Draw, DrawError, Sampling, SeqId, TokenId};
use crate::engine::checkpoint::CheckpointFiles;
use std::path::Path;

fn golden(name: &str) -> Arc<Checkpoint> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name);
    Arc::new(Checkpoint::open(&CheckpointFiles::directory(&directory).unwrap()).unwrap())
}

pub(super) const OPTIONS: CpuOptions = CpuOptions {
    threads: 1,
    block_tokens: 16,
    global_blocks: 10,
    sliding_blocks: 20,
    step_tokens_max: 8,
    step_slices_max: 2,
    math: Math::Exact,
    dense: Format::Bf16,
    isa: None,
    keep_packed: false,
};

/// One sequence's first tokens.
pub(super) fn batch_of(tokens: &[u32], sampling: Sampling) -> Batch {
    let slice = Slice {
        seq: SeqId(1),
        tokens: 0..tokens.len(),
        start: 0,
        global_blocks: 0..1,
        sliding_blocks: 0..1,
        sliding_first: 0,
        draw: Some(Draw { sampling: Arc::new(sampling), generated_count: 0, history: Vec::new(), history_prompt_len: 0 }),
        drafts: 0,
        prompt_targets: None,
    };
    Batch {
        tokens: tokens.iter().map(|token| TokenId(*token)).collect(),
        slices: vec![slice],
        global_blocks: vec![BlockId(9)],
        sliding_blocks: vec![BlockId(19)],
        awaited: Vec::new(),
        copies: Vec::new(),
    }
}

#[test]
fn the_plan_counts_what_is_allocated() {
    let exact = kv_bytes_planned_and_taken(Math::Exact);
    for math in [Math::Int16, Math::Fast] {
        assert_eq!(exact, 2 * kv_bytes_planned_and_taken(math), "f32, and f16");
    }
}

/// Compares the plan with an engine; the bytes of KV memory.
fn kv_bytes_planned_and_taken(math: Math) -> u64 {
    let checkpoint = golden("g2");
    let options = CpuOptions { math, ..OPTIONS };
    let engine = CpuEngine::load(Arc::clone(&checkpoint), &options, &mut |_| {});
    let plan = MemoryPlan::of(&checkpoint, &options);
    let values = |group| {
        let of_group = engine.kv.iter().zip(&checkpoint.config().layers).filter(|(_, layer)| **layer == group);
        of_group.map(|(memory, _)| memory.bytes() as u64).sum::<u64>()
    };
    assert_eq!(plan.global_kv_bytes, values(KvGroup::Global));
    assert_eq!(plan.sliding_kv_bytes, values(KvGroup::Sliding));
    let limits = engine.limits();
    assert_eq!(plan.global_kv_bytes, (limits.global_blocks * limits.global_block_bytes) as u64);
    assert_eq!(plan.sliding_kv_bytes, (limits.sliding_blocks * limits.sliding_block_bytes) as u64);
    let Scratch { stream, normed, projected, queries, keys, values, attended, .. } = &engine.scratch;
    let rows = [stream, normed, projected, queries, keys, values, attended].map(Vec::len).iter().sum::<usize>();
    assert_eq!(rows, memory::values_per_token(checkpoint.config()) * OPTIONS.step_tokens_max);
    assert!(plan.scratch_bytes > 4 * (rows + engine.scratch.logits.len()) as u64);
    assert!(plan.packed_weight_bytes + plan.mapped_weight_bytes > checkpoint.tensor_bytes());
    plan.global_kv_bytes + plan.sliding_kv_bytes
}

#[test]
fn a_plan_that_does_not_fit_is_refused() {
    let plan = MemoryPlan::of(&golden("g2"), &CpuOptions { global_blocks: 1_000_000, ..OPTIONS });
    plan.check(plan.allocated_bytes()).unwrap();
    let message = plan.check(1 << 30).unwrap_err().to_string();
    assert!(message.contains("KV 11719 MiB full"), "{message}");
    assert!(message.ends_with("but only 1073741824 are available"), "{message}");
}

#[test]
fn options_share_the_memory_between_the_groups() {
    let checkpoint = golden("g1");
    let config = checkpoint.config();
    let sizes = [0, 1 << 20, 1 << 24, 1 << 28, u64::MAX];
    for (math, kv_bytes) in
        sizes.into_iter().flat_map(|bytes| [(Math::Exact, bytes), (Math::Int16, bytes), (Math::Fast, bytes)])
    {
        let options = CpuOptions::within(config, math, kv_bytes, 16, 64);
        let plan = MemoryPlan::of(&checkpoint, &options);
        // One window of 16 tokens, the two blocks that it may touch beside, and a step of 64
        // tokens.
        assert!(options.global_blocks >= 7 && options.sliding_blocks >= 7);
        let least = 7 * 2 * block_bytes(config, kv_format(math), 16, KvGroup::Global) as u64;
        assert!(plan.global_kv_bytes + plan.sliding_kv_bytes <= kv_bytes.max(least), "{kv_bytes}: {plan}");
    }
    let plenty = CpuOptions::within(config, CpuOptions::MATH, u64::MAX, 16, 64);
    // And for each 1,024 tokens of sixteen contexts a window of three blocks, which cached prefixes
    // need.
    assert_eq!((plenty.sliding_blocks, plenty.global_blocks), (16 * 3 + 4 + 16 * 2 * 3, 16 * 2048 / 16));
}

#[test]
fn broken_logits_fail_the_sequence_and_not_the_step() {
    let mut engine = CpuEngine::load(golden("g2"), &OPTIONS, &mut |_| {});
    Arc::get_mut(&mut engine.weights).unwrap().final_norm[3] = f32::NAN;
    let mut sampled = Vec::new();
    let sampling = Sampling { logprobs: Some(1), ..Sampling::default() };
    engine.execute(&batch_of(&[1, 2, 3], sampling), &mut sampled).unwrap();
    assert_eq!(sampled[0].token, Some(Err(DrawError::NotFinite)));
    assert!(sampled[0].logprobs.is_none());
}

#[test]
fn a_shard_that_changes_is_a_device_error() {
    let directory = tempfile::tempdir().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/g2");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(golden.join(file), directory.path().join(file)).unwrap();
    }
    let files = CheckpointFiles::directory(directory.path()).unwrap();
    let mut engine = CpuEngine::load(Arc::new(Checkpoint::open(&files).unwrap()), &OPTIONS, &mut |_| {});
    let batch = batch_of(&[1, 2, 3], Sampling::default());
    engine.execute(&batch, &mut Vec::new()).unwrap();
    let shard = std::fs::OpenOptions::new().write(true).open(directory.path().join("model.safetensors")).unwrap();
    shard.set_len(100).unwrap();
    let message = engine.execute(&batch, &mut Vec::new()).unwrap_err().to_string();
    assert!(message.contains("model.safetensors") && message.contains("has changed"), "{message}");
}

#[test]
#[should_panic(expected = "a step of 9 tokens, at most 8")]
fn a_step_beyond_the_limits_is_a_bug() {
    let mut engine = CpuEngine::load(golden("g2"), &OPTIONS, &mut |_| {});
    let _ = engine.execute(&batch_of(&[1; 9], Sampling::default()), &mut Vec::new());
}

#[test]
#[should_panic(expected = "every token of a step belongs to a slice")]
fn a_token_without_a_slice_is_a_bug() {
    let mut engine = CpuEngine::load(golden("g2"), &OPTIONS, &mut |_| {});
    let mut batch = batch_of(&[1; 3], Sampling::default());
    batch.tokens.push(TokenId(1));
    let _ = engine.execute(&batch, &mut Vec::new());
}
