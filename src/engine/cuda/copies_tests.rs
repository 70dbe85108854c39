use super::*;
use crate::batch::{Batch, Draw, Sampled, Sampling, SeqId, Slice, TokenId};
use crate::engine::Engine as _;
use crate::engine::checkpoint::{Checkpoint, CheckpointFiles};
use crate::engine::cuda::{CudaModel, CudaOptions, MatrixInstruction};
use antiphon_kernels::cuda::Device;
use std::path::Path;
use std::sync::Arc;

const OPTIONS: CudaOptions = CudaOptions {
    block_tokens: 16,
    global_blocks: 10,
    sliding_blocks: 20,
    step_tokens_max: 8,
    step_slices_max: 8,
    partial_slots: 4,
    graphs: false,
    ranks: 1,
    prefill: MatrixInstruction::Mma,
};

/// A step of the tokens from `start` on; what is drawn behind them.
fn step(engine: &mut CudaEngine, tokens: &[TokenId], start: usize, global: &[u32], sliding: &[u32]) -> Vec<Sampled> {
    let window = engine.limits.sliding_window_tokens;
    let sliding_first = (start + 1).saturating_sub(window) / OPTIONS.block_tokens;
    let blocks = (start + tokens.len()).div_ceil(OPTIONS.block_tokens);
    let table = |blocks: &[u32]| blocks.iter().map(|block| BlockId(*block)).collect::<Vec<_>>();
    let (global, sliding) = (table(&global[..blocks]), table(&sliding[sliding_first..blocks]));
    let sampling = Arc::new(Sampling { logprobs: Some(3), ..Sampling::default() });
    let slice = Slice {
        seq: SeqId(1),
        tokens: 0..tokens.len(),
        start,
        global_blocks: 0..global.len(),
        sliding_blocks: 0..sliding.len(),
        sliding_first,
        draw: Some(Draw { sampling, generated_count: 0, history: Vec::new(), history_prompt_len: 0 }),
        drafts: 0,
        prompt_targets: None,
    };
    let batch = Batch {
        copies: Vec::new(),
        tokens: tokens.to_vec(),
        slices: vec![slice],
        global_blocks: global,
        sliding_blocks: sliding,
        awaited: Vec::new(),
    };
    let mut sampled = Vec::new();
    engine.execute(&batch, &mut sampled).unwrap();
    sampled
}

/// A filled block that goes to the host and comes back at another place, of another engine, draws
/// the same token with the same log-probabilities.
#[test]
fn a_block_that_was_on_the_host_holds_the_same_bits_elsewhere() {
    let shim = antiphon_cuda_shim::device();
    let root = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let directory = Path::new(&root).join("tests/goldens/g4");
    let checkpoint = Checkpoint::open(&CheckpointFiles::directory(&directory).unwrap()).unwrap();
    let device = Device::open(shim.ordinal()).unwrap();
    let model = Arc::new(CudaModel::load(device, &checkpoint, &mut |_| {}).unwrap());
    let vocab = checkpoint.config().vocab_size as u32;
    let tokens: Vec<TokenId> = (0..19).map(|at| TokenId((at * 7 + 3) % vocab)).collect();
    let mut engine = CudaEngine::new(Arc::clone(&model), &OPTIONS).unwrap();
    let mut expected = Vec::new();
    for start in (0..16).step_by(8) {
        step(&mut engine, &tokens[start..start + 8], start, &[3, 4], &[5, 6]);
    }
    let mut copies = [Vec::new(), Vec::new()];
    engine.read_block(KvGroup::Global, BlockId(3), &mut copies[0]).unwrap();
    engine.read_block(KvGroup::Sliding, BlockId(5), &mut copies[1]).unwrap();
    expected.extend(step(&mut engine, &tokens[16..], 16, &[3, 4], &[5, 6]));
    let form = engine.kv_form();
    assert_eq!(copies[0].len(), engine.limits.global_block_bytes);
    drop(engine);

    let mut engine = CudaEngine::new(model, &OPTIONS).unwrap();
    assert_eq!(engine.kv_form(), form);
    assert_ne!(step(&mut engine, &tokens[16..], 16, &[9, 2], &[11, 1]), expected, "without its blocks it is another answer");
    engine.write_block(KvGroup::Global, BlockId(9), &copies[0]).unwrap();
    engine.write_block(KvGroup::Sliding, BlockId(11), &copies[1]).unwrap();
    assert_eq!(step(&mut engine, &tokens[16..], 16, &[9, 2], &[11, 1]), expected);
}
