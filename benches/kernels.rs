//! How fast each CPU kernel is, beside the bandwidth with which this machine reads memory.
//!
//! `cargo bench --bench kernels [-- WORD..]`: a word is the name of an instruction set (`portable`,
//! `AVX2`, `AVX-VNNI`, `AVX-512`, `AMX`) or part of the name of an operation. Weights rotate
//! through the layers of the model or 128 MiB, as a step's do, so those of a large model come from
//! memory and those of a tiny one from caches. A line is the best of its repetitions, as the
//! bandwidth is: on a shared machine the others tell of the neighbours. Run as a test (without
//! `--bench`) it computes everything once on the tiny shapes.
#![expect(clippy::print_stdout, reason = "the table is what it is for")]

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use antiphon_kernels::cpu::{Cpu, Format, Isa, Math, PackedExperts};
use antiphon_kernels::kv::{KvFormat, KvLayout, KvMemory, KvSlice};
use antiphon_kernels::rope::{Angles, Rope, RopeScaling};
use antiphon_kernels::weights::{Bf16Matrix, Experts, Mxfp4Stack, Routes, SwiGlu};

/// The dimensions of a model that decide what its kernels cost.
struct Model {
    name: &'static str,
    hidden: usize,
    intermediate: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    experts: usize,
    top_k: usize,
    window: usize,
    vocab: usize,
    context: usize,
    /// More layers than this would only repeat.
    layers: usize,
    tokens: &'static [usize],
}

/// gpt-oss-20b, with a quarter of its vocabulary: the rest only repeats.
const LARGE: Model = Model {
    name: "20b",
    hidden: 2880,
    intermediate: 2880,
    heads: 64,
    kv_heads: 8,
    head_dim: 64,
    experts: 32,
    top_k: 4,
    window: 128,
    vocab: 201_088 / 4,
    context: 4096,
    layers: 24,
    tokens: &[1, 4, 8, 64],
};

/// The model in the binary.
const TINY: Model = Model {
    name: "tiny",
    hidden: 256,
    intermediate: 192,
    heads: 8,
    kv_heads: 4,
    head_dim: 64,
    experts: 8,
    top_k: 2,
    window: 64,
    vocab: 1024,
    context: 512,
    layers: 4,
    tokens: &[1, 64],
};

/// More memory than the caches of most machines hold.
const ROTATION_BYTES: usize = 128 << 20;

/// What runs, and what it has found out.
struct Bench {
    cpu: Cpu,
    words: Vec<String>,
    budget: Duration,
    roof: f64,
}

impl Bench {
    /// Times `work`, which is given the number of the repetition, and prints a line.
    fn measure(&mut self, name: &str, bytes: usize, operations: usize, mut work: impl FnMut(&mut Cpu, usize)) {
        if !self.words.is_empty() && !self.words.iter().any(|word| name.contains(word)) {
            return;
        }
        let begun = Instant::now();
        let (mut best, mut repetitions) = (f64::INFINITY, 0);
        while repetitions == 0 || begun.elapsed() < self.budget {
            let start = Instant::now();
            work(&mut self.cpu, repetitions);
            best = best.min(start.elapsed().as_secs_f64());
            repetitions += 1;
        }
        let rate = bytes as f64 / best / 1e9;
        println!(
            "{name:<44} {:>11.1} us {rate:>8.2} GB/s {:>5.0}% {:>9.2} GFLOP/s",
            best * 1e6,
            100.0 * rate / self.roof,
            operations as f64 / best / 1e9,
        );
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let full = words.iter().any(|word| word == "--bench");
    let isas = Isa::available();
    let isa = isas.iter().copied().find(|isa| words.iter().any(|word| word == isa.name())).unwrap_or(Isa::best());
    let names = words.into_iter().filter(|word| !word.starts_with('-') && isas.iter().all(|isa| isa.name() != word));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let roof = read_bandwidth(threads, if full { 1 << 30 } else { 1 << 20 });
    println!("{threads} threads, {}; this machine reads {roof:.1} GB/s (1 GiB, all threads)", isa.name());
    println!("{:<44} {:>14} {:>13} {:>6} {:>17}", "operation, model, tokens", "time", "bytes moved", "roof", "operations");
    let budget = Duration::from_millis(if full { 700 } else { 0 });
    let mut bench = Bench { cpu: Cpu::with_isa(threads, isa), words: names.collect(), budget, roof };
    for model in [TINY, LARGE].iter().take(if full { 2 } else { 1 }) {
        linear_maps(&mut bench, model);
        experts(&mut bench, model);
        attention(&mut bench, model);
        rows(&mut bench, model);
    }
}

/// Bytes a second with which all threads together read `len` bytes that no cache holds, the best of
/// five times.
fn read_bandwidth(threads: usize, len: usize) -> f64 {
    let memory = vec![1u64; len / 8];
    let read = || {
        let start = Instant::now();
        thread::scope(|scope| {
            for part in memory.chunks(memory.len().div_ceil(threads)) {
                scope.spawn(|| {
                    let mut sums = [0u64; 16];
                    for values in part.chunks_exact(16) {
                        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum ^= value);
                    }
                    black_box(sums);
                });
            }
        });
        len as f64 / start.elapsed().as_secs_f64() / 1e9
    };
    (0..5).map(|_| read()).fold(0.0, f64::max)
}

/// Numbers that look random.
fn noise(count: usize) -> impl Iterator<Item = u32> {
    (0..count as u32).map(|index| index.wrapping_mul(0x9e37_79b9).rotate_left(15).wrapping_mul(0x85eb_ca6b))
}

/// Values between -1 and 1.
fn values(count: usize) -> Vec<f32> {
    noise(count).map(|bits| bits as f32 / (1u32 << 31) as f32 - 1.0).collect()
}

/// The bytes of bf16 values between 2^-7 and 2 with any sign.
fn bf16(count: usize) -> Vec<u8> {
    noise(count).flat_map(|bits| (0x3c00u16 | (bits >> 16) as u16 & 0x83ff).to_le_bytes()).collect()
}

fn linear_maps(bench: &mut Bench, model: &Model) {
    let (q_width, kv_width) = (model.heads * model.head_dim, model.kv_heads * model.head_dim);
    let maps = [
        ("q_proj", q_width, model.hidden),
        ("k_proj", kv_width, model.hidden),
        ("o_proj", model.hidden, q_width),
        ("router", model.experts, model.hidden),
        ("lm_head", model.vocab, model.hidden),
    ];
    for (name, rows, cols) in maps {
        let matrix_bytes = 2 * rows * cols;
        let copies = ROTATION_BYTES.div_ceil(matrix_bytes).min(if name == "lm_head" { 1 } else { model.layers });
        let bytes = bf16(copies * rows * cols);
        let bias = values(rows);
        for (kind, format) in [("bf16", Format::Bf16), ("int8", Format::Int8)] {
            let matrices: Vec<_> = bytes
                .chunks_exact(matrix_bytes)
                .map(|bytes| Bf16Matrix::new(bytes, rows, cols).expect("so many bytes were made"))
                .map(|matrix| bench.cpu.pack(&[matrix], format))
                .collect();
            for &tokens in model.tokens {
                let (x, mut out) = (values(tokens * cols), vec![0.0; tokens * rows]);
                let label = format!("{name} {kind} {rows}x{cols}, {}, {tokens}", model.name);
                bench.measure(&label, matrices[0].bytes(), 2 * rows * cols * tokens, |cpu, repetition| {
                    cpu.linear(&x, &matrices[repetition % copies], Some(&bias), &mut out);
                });
            }
        }
    }
}

fn experts(bench: &mut Bench, model: &Model) {
    let Model { hidden, intermediate, experts: count, .. } = *model;
    let weights = count * hidden * intermediate;
    let bytes: Vec<u8> = noise(weights).map(|bits| (bits >> 24) as u8).collect();
    let scales = vec![120u8; weights / 16];
    let biases = bf16(count * 2 * intermediate.max(hidden));
    let bias = |width: usize| Bf16Matrix::new(&biases[..2 * count * width], count, width).expect("the largest was made");
    let down_blocks = Mxfp4Stack::new(&bytes[..weights / 2], &scales[..weights / 32], count, hidden, intermediate);
    let layer = Experts::new(
        Mxfp4Stack::new(&bytes, &scales, count, 2 * intermediate, hidden).expect("so many bytes were made"),
        bias(2 * intermediate),
        down_blocks.expect("so many bytes were made"),
        bias(hidden),
        SwiGlu::default(),
    );
    let layer = bench.cpu.pack_experts(&layer.expect("the shapes fit"));
    for (kind, math) in [("exact", Math::Exact), ("int16", Math::Int16), ("fast", Math::Fast)] {
        bench.cpu.set_math(math);
        expert_tokens(bench, model, kind, &layer);
    }
}

fn expert_tokens(bench: &mut Bench, model: &Model, kind: &str, layer: &PackedExperts) {
    let Model { hidden, intermediate, experts: count, top_k, .. } = *model;
    for &tokens in model.tokens {
        let (x, mut out) = (values(tokens * hidden), vec![0.0; tokens * hidden]);
        let label = format!("experts {kind} {top_k} of {count}, {}, {tokens}", model.name);
        // Neighbouring tokens share no expert, and each repetition takes others.
        let routes = |first: usize| Routes {
            top_k,
            experts: (0..tokens * top_k).map(|route| ((first * tokens * top_k + route) % count) as u32).collect(),
            weights: vec![1.0 / top_k as f32; tokens * top_k],
        };
        let hit = (tokens * top_k).min(count);
        let expert_bytes = 3 * hidden * intermediate / 2 + 3 * hidden * intermediate / 32;
        bench.measure(&label, hit * expert_bytes, 6 * hidden * intermediate * tokens * top_k, |cpu, repetition| {
            cpu.experts_add(&x, layer, &routes(repetition), &mut out);
        });
    }
}

fn attention(bench: &mut Bench, model: &Model) {
    for (kind, format) in [("f32", KvFormat::F32), ("f16", KvFormat::F16)] {
        attention_over(bench, model, kind, format);
    }
}

fn attention_over(bench: &mut Bench, model: &Model, number: &str, format: KvFormat) {
    const BLOCK: usize = 16;
    const SEQUENCES: usize = 8;
    let table_len = model.context / BLOCK;
    let layout =
        KvLayout { blocks: SEQUENCES * table_len, block_tokens: BLOCK, kv_heads: model.kv_heads, head_dim: model.head_dim };
    let mut memory = KvMemory::with_format(layout, format);
    let blocks: Vec<u32> = (0..layout.blocks as u32).collect();
    let stored = values(layout.blocks * BLOCK * model.kv_heads * model.head_dim);
    let all = KvSlice { rows: 0..layout.blocks * BLOCK, start: 0, blocks: &blocks, first_block: 0 };
    memory.store(&[all], &stored, &stored);
    let sinks = values(model.heads);
    let decode: Vec<_> = (0..SEQUENCES).map(|sequence| (sequence, model.context - 1..model.context)).collect();
    let prompt = (0, model.context - 64..model.context);
    let cases = [("decode", &decode[..1]), ("decode", &decode[..]), ("prefill", &[prompt][..])];
    for window in [None, Some(model.window)] {
        for (kind, parts) in cases {
            let mut slices: Vec<KvSlice<'_>> = Vec::new();
            for (sequence, positions) in parts {
                let start = slices.last().map_or(0, |slice| slice.rows.end);
                let table = &blocks[sequence * table_len..][..table_len];
                slices.push(KvSlice {
                    rows: start..start + positions.len(),
                    start: positions.start,
                    blocks: table,
                    first_block: 0,
                });
            }
            let tokens = slices.last().map_or(0, |slice| slice.rows.end);
            let q = values(tokens * model.heads * model.head_dim);
            let mut out = vec![0.0; q.len()];
            let seen = window.unwrap_or(model.context);
            let read: usize = parts.iter().map(|(_, part)| (seen + part.len() - 1).min(model.context)).sum();
            let bytes = 2 * format.number_bytes() * read * model.kv_heads * model.head_dim;
            let operations = 4 * seen * tokens * model.heads * model.head_dim;
            let label = format!("attention {number} {kind} over {seen}, {}, {tokens}", model.name);
            bench.measure(&label, bytes, operations, |cpu, _| {
                cpu.attention(&q, &sinks, window, &memory, &slices, &mut out);
            });
        }
    }
}

fn rows(bench: &mut Bench, model: &Model) {
    let (hidden, q_width) = (model.hidden, model.heads * model.head_dim);
    let rope = Rope::new(150_000.0, model.head_dim, &RopeScaling::Default);
    let table = bf16(model.vocab * hidden);
    let table = Bf16Matrix::new(&table, model.vocab, hidden).expect("so many bytes were made");
    for &tokens in model.tokens {
        let (x, scale) = (values(tokens * hidden), values(hidden));
        let (mut out, mut q) = (vec![0.0; tokens * hidden], values(tokens * q_width));
        let ids: Vec<u32> = noise(tokens).map(|bits| bits % model.vocab as u32).collect();
        let angles = Angles::new(&rope, &(0..tokens).collect::<Vec<_>>());
        let label = |name: &str| format!("{name}, {}, {tokens}", model.name);
        bench.measure(&label("embed"), 6 * x.len(), 0, |cpu, _| cpu.embed(&table, &ids, &mut out));
        bench.measure(&label("rms_norm"), 8 * x.len(), 4 * x.len(), |cpu, _| cpu.rms_norm(&x, &scale, 1e-5, &mut out));
        bench.measure(&label("add"), 12 * x.len(), x.len(), |cpu, _| cpu.add(&mut out, &x));
        bench.measure(&label("rotary"), 8 * tokens * q_width, 3 * tokens * q_width, |cpu, _| {
            cpu.rotary(&mut q, model.heads, model.head_dim, &angles);
        });
    }
    let (logits, mut out) = (values(model.vocab), vec![0.0; model.vocab]);
    bench.measure(&format!("log_softmax, {}, 1", model.name), 12 * model.vocab, 12 * model.vocab, |cpu, _| {
        cpu.log_softmax(&logits, &mut out);
    });
}
