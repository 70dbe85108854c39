//! Each kernel alone, at the sizes that a model gives it. Calls are captured side by side and
//! replayed, each with weights or keys of its own, so that they come from memory as in a step and
//! not from the second-level cache.

use crate::fill;
use crate::median;
use crate::models::{Model, expert_bytes};
use crate::report::{Measured, Results, Roof};
use antiphon::engine::config::ModelConfig;
use antiphon_kernels::cuda::tile::{any_scales, row_stride};
use antiphon_kernels::cuda::{
    self, Activations, AngleTable, Arena, Arranged, AttentionItem, AttentionOperands, CHUNK_TOKENS, CudaError, Device, Element,
    ExpertRegions, ExpertShare, F16Tiles, HeadShape, KvRegion, LogitEdit, MatrixInstruction, Mxfp4Tiles, Output, PREFILL_ROWS,
    Parts, REPORT_WORDS, Region, RouteRegions, RouterWeights, RowDraw, SampleOperands, Split, WGMMA_TOKENS, Work,
    partial_values, region_bytes,
};
use antiphon_kernels::weights::SwiGlu;
use half::{bf16, f16};
use std::time::Instant;

/// Bytes of weights that calls go through in turn: several times the second-level cache.
const ROTATION_BYTES: usize = 512 << 20;
/// Calls of a graph, and replays that are timed.
const CALLS: usize = 16;
const REPLAYS: usize = 9;
/// Layers whose experts calls go through in turn.
const EXPERT_LAYERS: usize = 2;
const BLOCK_TOKENS: usize = 16;
/// A number's bits in the form of a checkpoint's weights, and of what the tensor cores multiply.
const BF16: fn(f32) -> u16 = |value| bf16::from_f32(value).to_bits();
const F16: fn(f32) -> u16 = |value| f16::from_f32(value).to_bits();
/// Sequences whose keys calls go through in turn.
const SEQUENCES: usize = 256;

/// Measures every kernel at every size.
pub(crate) fn measure(device: &Device, model: &Model, results: &Results, roof: Roof) -> Result<(), String> {
    let bench = Bench { device, model, config: &model.config, results, roof };
    let parts: [Part; 5] = [linear_maps, experts, attention, rows, sampling];
    // What one kernel cannot do says nothing of the next, unless the device is lost.
    let failed: Vec<String> = parts.iter().filter_map(|part| part(&bench).err()).map(|error| error.to_string()).collect();
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
}

/// Measures some kernels.
type Part = fn(&Bench<'_>) -> Result<(), CudaError>;

struct Bench<'a> {
    device: &'a Device,
    model: &'a Model,
    config: &'a ModelConfig,
    results: &'a Results,
    roof: Roof,
}

impl Bench<'_> {
    /// Times `call`, which is given the number of the call, and keeps the line.
    fn time(
        &self,
        what: &str,
        tokens: usize,
        (bytes, operations): (usize, usize),
        call: impl Fn(usize) -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        let (calls, replays) = if self.model.name == "tiny" { (2, 1) } else { (CALLS, REPLAYS) };
        let graph = self.device.capture(|| (0..calls).try_for_each(&call))?;
        let replay = || {
            let start = Instant::now();
            graph.launch()?;
            self.device.synchronize()?;
            Ok::<_, CudaError>(start.elapsed().as_secs_f64() / calls as f64)
        };
        replay()?;
        let mut times = (0..replays).map(|_| replay()).collect::<Result<Vec<_>, _>>()?;
        let (what, size, note) = (what.to_owned(), format!("{tokens} tokens"), String::new());
        let (seconds, fastest) = (median(&mut times), times[0]);
        let (bytes, operations) = (bytes as f64, operations as f64);
        let one = Measured { what, size, seconds, fastest, bytes, operations, tokens: None, note };
        self.results.add(self.roof, &one).expect("the results' folder can be written");
        Ok(())
    }

    fn most_tokens(&self) -> usize {
        self.model.kernel_tokens.iter().copied().max().expect("some size is measured")
    }

    fn arena(&self, bytes: usize) -> Result<Arena, CudaError> {
        Arena::new(self.device, "a measurement", bytes + 4096)
    }

    fn room<T: Element>(&self, len: usize) -> Result<Region<T>, CudaError> {
        Ok(self.arena(region_bytes::<T>(len))?.take(len))
    }

    fn put<T: Element>(&self, values: &[T]) -> Result<Region<T>, CudaError> {
        let region = self.room(values.len())?;
        self.device.store(values, &region)?;
        Ok(region)
    }

    /// f32 between -1 and 1.
    fn floats(&self, len: usize) -> Result<Region<f32>, CudaError> {
        let region = self.room(len)?;
        fill(self.device, &region.view(0, len), |bits| (bits as f32 / (1_u32 << 31) as f32 - 1.0).to_bits())?;
        Ok(region)
    }

    /// 16-bit values between -1 and 1.
    fn halves<T: Element>(&self, region: &Region<T>, narrow: fn(f32) -> u16) -> Result<(), CudaError> {
        let half = |bits: u32| u32::from(narrow(bits as f32 / 32768.0 - 1.0));
        fill(self.device, &region.view(0, region.len() / 2), |bits| half(bits & 0xffff) | half(bits >> 16) << 16)
    }

    fn activations(&self, rows: usize, cols: usize) -> Result<Activations, CudaError> {
        let rows = Activations::new(&mut self.arena(Activations::bytes(rows, cols))?, rows, cols);
        self.halves(rows.values(), F16)?;
        Ok(rows)
    }

    fn shape(&self) -> HeadShape {
        let ModelConfig { heads, kv_heads, head_dim, .. } = *self.config;
        HeadShape { heads, kv_heads, head_dim, block_tokens: BLOCK_TOKENS }
    }
}

fn linear_maps(bench: &Bench<'_>) -> Result<(), CudaError> {
    let (hidden, query) = (bench.config.hidden, bench.config.query_width());
    let qkv = query + 2 * bench.config.kv_width();
    let maps = [
        ("qkv", qkv, hidden, Output::Replace),
        ("output projection", hidden, query, Output::Add),
        ("lm_head", bench.config.vocab_size, hidden, Output::Replace),
    ];
    for (name, rows, cols, into) in maps {
        let (words, bytes) = (F16Tiles::words(rows, cols), 2 * rows * cols);
        let copies = if bench.model.name == "tiny" { 1 } else { (ROTATION_BYTES / bytes).clamp(1, CALLS) };
        let mut arena = bench.arena(copies * region_bytes::<u32>(words))?;
        let matrices: Vec<F16Tiles> = (0..copies).map(|_| F16Tiles::new(arena.take(words), rows, cols)).collect();
        for matrix in &matrices {
            bench.halves(&matrix.region().view::<f16>(0, 2 * words), F16)?;
        }
        // A step draws from 256 rows at most.
        for tokens in bench.model.kernel_tokens.iter().copied().filter(|tokens| name != "lm_head" || *tokens <= 256) {
            let (x, y) = (bench.activations(tokens, cols)?, bench.room(tokens * rows)?);
            let moved = bytes + tokens * (2 * cols + 4 * rows);
            bench.time(name, tokens, (moved, 2 * tokens * rows * cols), |call| {
                cuda::linear(bench.device, &x, &matrices[call % copies], None, tokens, into, &y, None)
            })?;
            if tokens < WGMMA_TOKENS || !MatrixInstruction::Wgmma.is_served_by(bench.device.facts()) {
                continue;
            }
            let values = tokens * row_stride(cols);
            let arranged = Arranged::new(&mut bench.arena(Arranged::bytes(values))?, values);
            // With the copy of the rows that the product reads.
            let moved = moved + 4 * tokens * cols;
            bench.time(&format!("{name}, wgmma"), tokens, (moved, 2 * tokens * rows * cols), |call| {
                cuda::linear(bench.device, &x, &matrices[call % copies], None, tokens, into, &y, Some(&arranged))
            })?;
        }
    }
    Ok(())
}

fn stack(bench: &Bench<'_>, rows: usize, cols: usize) -> Result<Mxfp4Tiles, CudaError> {
    let experts = bench.config.experts;
    let tiles = Mxfp4Tiles::new(&mut bench.arena(Mxfp4Tiles::bytes(experts, rows, cols))?, experts, rows, cols);
    fill(bench.device, &tiles.codes, |bits| bits)?;
    fill(bench.device, &tiles.scales, any_scales)?;
    Ok(tiles)
}

fn experts(bench: &Bench<'_>) -> Result<(), CudaError> {
    let ModelConfig { hidden, intermediate, experts, experts_per_token: top_k, .. } = *bench.config;
    let layers = (0..EXPERT_LAYERS)
        .map(|_| Ok((stack(bench, 2 * intermediate, hidden)?, stack(bench, hidden, intermediate)?)))
        .collect::<Result<Vec<_>, CudaError>>()?;
    let router = RouterWeights { weights: bench.room(experts * row_stride(hidden))?, bias: bench.room(experts)? };
    bench.halves(&router.weights, BF16)?;
    let swiglu = SwiGlu { alpha: bench.config.swiglu_alpha, limit: bench.config.swiglu_limit };
    for tokens in bench.model.kernel_tokens.iter().copied() {
        let (pairs, x) = (tokens * top_k, bench.activations(tokens, hidden)?);
        let share = ExpertShare::all(experts);
        let routes = RouteRegions::new(&mut bench.arena(RouteRegions::bytes(tokens, top_k, share))?, tokens, top_k, share);
        let count = bench.put(&[tokens as i32])?;
        let moved = 2 * experts * hidden + 2 * tokens * hidden;
        bench.time("router, groups", tokens, (moved, 2 * tokens * experts * hidden), |_| {
            cuda::route(bench.device, &x, hidden, &router, tokens, &count, &routes)
        })?;
        let mut chosen = bench.device.fetch(&routes.experts)?;
        chosen.sort_unstable();
        chosen.dedup();
        let regions = ExpertRegions { inner: bench.activations(pairs, intermediate)?, outputs: bench.room(pairs * hidden)? };
        let moved = (chosen.len() as f64 * expert_bytes(bench.config)) as usize + pairs * (4 * intermediate + 6 * hidden);
        bench.time("experts", tokens, (moved, 6 * pairs * hidden * intermediate), |call| {
            let (gate_up, down) = &layers[call % EXPERT_LAYERS];
            cuda::experts(bench.device, &x, gate_up, down, swiglu, &routes, tokens, &regions)
        })?;
        let values = pairs * row_stride(hidden);
        let arranged = Arranged::new(&mut bench.arena(Arranged::bytes(values))?, values);
        let routes = routes.with_wgmma(arranged);
        if MatrixInstruction::Wgmma.is_served_by(bench.device.facts()) && routes.multiplies_with_wgmma(tokens) {
            cuda::route(bench.device, &x, hidden, &router, tokens, &count, &routes)?;
            // With the copy of the rows that the first product reads.
            let moved = moved + 4 * pairs * hidden;
            bench.time("experts, wgmma", tokens, (moved, 6 * pairs * hidden * intermediate), |call| {
                let (gate_up, down) = &layers[call % EXPERT_LAYERS];
                cuda::experts(bench.device, &x, gate_up, down, swiglu, &routes, tokens, &regions)
            })?;
        }
        let sums = bench.room(tokens * hidden)?;
        bench.time("experts' sum of a rank", tokens, ((4 + 4 * top_k) * hidden * tokens, 0), |_| {
            cuda::sum_routed(bench.device, &regions.outputs, &routes, hidden, tokens, &sums)
        })?;
    }
    Ok(())
}

/// Keys and values of some sequences, all of one length, in blocks in order.
struct Keys<'a> {
    bench: &'a Bench<'a>,
    kv: KvRegion,
    blocks: Region<u32>,
    sinks: Region<f32>,
    blocks_each: usize,
}

impl Keys<'_> {
    /// The next token of `sequences` sequences, from `first` on, cut as the engine does.
    fn decode_items(&self, first: usize, sequences: usize, window: usize) -> (Vec<AttentionItem>, Vec<Split>) {
        let (shape, position) = (self.bench.shape(), self.bench.model.context - 1);
        let (mut items, mut splits, mut slots) = (Vec::new(), Vec::new(), 0);
        let from = (position + 1).saturating_sub(window) / CHUNK_TOKENS;
        let chunks = position / CHUNK_TOKENS + 1 - from;
        for token in 0..sequences {
            let item = AttentionItem {
                token: token as i32,
                start: position as i32,
                row: 0,
                rows: shape.group() as i32,
                table: (((first + token) % SEQUENCES) * self.blocks_each) as i32,
                table_first: 0,
                chunk: 0,
                chunk_end: (from + chunks) as i32,
                partial: -1,
                window: window as i32,
            };
            if chunks == 1 {
                items.push(item);
                continue;
            }
            items.extend((0..chunks).map(|chunk| {
                let at = (from + chunk) as i32;
                AttentionItem { chunk: at, chunk_end: at + 1, partial: (slots + chunk) as i32, ..item }
            }));
            splits.push(Split { token: token as i32, first: slots as i32, chunks: chunks as i32 });
            slots += chunks;
        }
        (items, splits)
    }

    fn decode(&self, name: &str, sequences: usize, window: usize) -> Result<(), CudaError> {
        let (bench, shape, context) = (self.bench, self.bench.shape(), self.bench.model.context);
        let variants = if bench.model.name == "tiny" { 1 } else { (SEQUENCES / sequences).clamp(1, CALLS) };
        let lists: Vec<_> = (0..variants).map(|variant| self.decode_items(variant * sequences, sequences, window)).collect();
        let (items, splits) = (lists[0].0.len(), lists[0].1.len());
        let slots = items.max(1) * partial_values(shape.heads, shape.head_dim);
        let (queries, partials) = (bench.room(sequences * shape.heads * shape.row())?, bench.room(slots)?);
        bench.halves(&queries, F16)?;
        let out = bench.activations(sequences, shape.heads * shape.head_dim)?;
        let on_device = lists.iter().map(|(items, splits)| {
            let splits = if splits.is_empty() { vec![Split::default()] } else { splits.clone() };
            Ok((bench.put(items)?, bench.put(&splits)?))
        });
        let on_device = on_device.collect::<Result<Vec<_>, CudaError>>()?;
        let (item_count, split_count) = (bench.put(&[items as i32])?, bench.put(&[splits as i32])?);
        let operands =
            AttentionOperands { queries: &queries, sinks: &self.sinks, blocks: &self.blocks, partials: &partials, out: &out };
        let seen = sequences * context.min(window);
        let moved = seen * 4 * shape.kv_heads * shape.head_dim;
        bench.time(name, sequences, (moved, seen * 4 * shape.heads * shape.head_dim), |call| {
            let (item_region, split_region) = &on_device[call % variants];
            let work = Work { items: item_region, count: &item_count };
            cuda::attention(bench.device, operands, &self.kv, work, false)?;
            if splits == 0 {
                return Ok(());
            }
            cuda::attention_combine(bench.device, operands, &self.kv, Work { items: split_region, count: &split_count })
        })
    }

    fn prefill(&self, tokens: usize) -> Result<(), CudaError> {
        let (bench, shape) = (self.bench, self.bench.shape());
        let rows = tokens * shape.group();
        let item = |row: usize| AttentionItem {
            row: row as i32,
            rows: PREFILL_ROWS.min(rows - row) as i32,
            chunk_end: tokens.div_ceil(CHUNK_TOKENS) as i32,
            partial: -1,
            window: i32::MAX,
            ..AttentionItem::default()
        };
        let items: Vec<AttentionItem> = (0..rows).step_by(PREFILL_ROWS).map(item).collect();
        let (region, count) = (bench.put(&items)?, bench.put(&[items.len() as i32])?);
        let (queries, partials) = (bench.room(tokens * shape.heads * shape.row())?, bench.room(1024)?);
        bench.halves(&queries, F16)?;
        let out = bench.activations(tokens, shape.heads * shape.head_dim)?;
        let operands =
            AttentionOperands { queries: &queries, sinks: &self.sinks, blocks: &self.blocks, partials: &partials, out: &out };
        let pairs = tokens * (tokens + 1) / 2;
        let moved = tokens * (4 * shape.kv_heads + 4 * shape.heads) * shape.head_dim;
        bench.time("attention, prefill", tokens, (moved, pairs * 4 * shape.heads * shape.head_dim), |_| {
            cuda::attention(bench.device, operands, &self.kv, Work { items: &region, count: &count }, true)
        })
    }
}

fn attention(bench: &Bench<'_>) -> Result<(), CudaError> {
    let (shape, longest) = (bench.shape(), bench.most_tokens());
    let blocks_each = bench.model.context.div_ceil(BLOCK_TOKENS);
    // The blocks of the longest prompt are the first sequences'.
    let blocks = (SEQUENCES * blocks_each).max(longest.div_ceil(BLOCK_TOKENS));
    let kv = KvRegion::new(&mut bench.arena(KvRegion::bytes(shape, blocks))?, shape, blocks);
    bench.halves(kv.keys(), F16)?;
    bench.halves(kv.values(), F16)?;
    let table = bench.put(&(0..blocks as u32).collect::<Vec<_>>())?;
    let keys = Keys { bench, kv, blocks: table, sinks: bench.floats(shape.heads)?, blocks_each };
    for tokens in bench.model.kernel_tokens.iter().copied() {
        if tokens <= SEQUENCES {
            keys.decode("attention, decode, full", tokens, i32::MAX as usize)?;
            keys.decode("attention, decode, window", tokens, bench.config.sliding_window_tokens)?;
        }
        if tokens > 8 {
            keys.prefill(tokens)?;
        }
    }
    Ok(())
}

fn rows(bench: &Bench<'_>) -> Result<(), CudaError> {
    let (ModelConfig { hidden, vocab_size: vocab, experts_per_token: top_k, .. }, shape) =
        (bench.config.clone(), bench.shape());
    let (most, device) = (bench.most_tokens(), bench.device);
    let table: Region<bf16> = bench.room(vocab * hidden)?;
    bench.halves(&table, BF16)?;
    let (stream, scale) = (bench.floats(most * hidden)?, bench.floats(hidden)?);
    let (outputs, weights) = (bench.floats(most * top_k * hidden)?, bench.floats(most * top_k)?);
    let routed = Parts::Experts { outputs: &outputs, weights: &weights, top_k };
    let blocks = most.div_ceil(BLOCK_TOKENS);
    let kv = KvRegion::new(&mut bench.arena(KvRegion::bytes(shape, blocks))?, shape, blocks);
    let half = most * shape.head_dim / 2;
    let angles = AngleTable { cos: bench.floats(half)?, sin: bench.floats(half)? };
    let positions = bench.put(&(0..most as i32).collect::<Vec<_>>())?;
    let (qkv, queries) = (bench.floats(most * shape.qkv_width())?, bench.room(most * shape.heads * shape.row())?);
    let (out, reports) = (bench.activations(most, hidden)?, bench.room(REPORT_WORDS)?);
    for tokens in bench.model.kernel_tokens.iter().copied() {
        let ids: Vec<u32> = (0..tokens).map(|token| (token * 104_729 % vocab) as u32).collect();
        let ids = bench.put(&ids)?;
        bench.time("embedding", tokens, (6 * hidden * tokens, 0), |_| {
            cuda::embed(device, &table, &ids, &reports, hidden, tokens, &stream)
        })?;
        bench.time("experts' sum, residual, norm", tokens, ((10 + 4 * top_k) * hidden * tokens, 0), |_| {
            cuda::combine_norm(device, &stream, Some(routed), None, &scale, 1e-5, tokens, &out)
        })?;
        bench.time("rotary embedding, KV store", tokens, (6 * shape.qkv_width() * tokens, 0), |_| {
            cuda::rope_store(device, &qkv, &angles, &positions, &positions, tokens, &queries, &kv)
        })?;
    }
    Ok(())
}

fn sampling(bench: &Bench<'_>) -> Result<(), CudaError> {
    let vocab = bench.config.vocab_size;
    for rows in bench.model.kernel_tokens.iter().copied().filter(|rows| *rows <= 256) {
        let (logits, reports) = (bench.floats(rows * vocab)?, bench.room(rows * REPORT_WORDS)?);
        let (edits, saved, masks) = (bench.put(&[LogitEdit::default()])?, bench.room(1)?, bench.room(1)?);
        let warm = RowDraw { temperature: 1.0, ..RowDraw::default() };
        let kinds = [
            ("draw, greedy", RowDraw::default()),
            ("draw, t = 1", warm),
            ("draw, top-p", RowDraw { top_p: 0.9, top_k: 50, ..warm }),
        ];
        for (name, draw) in kinds {
            let draws = bench.put(&vec![draw; rows])?;
            let operands = SampleOperands {
                logits: &logits,
                draws: &draws,
                edits: &edits,
                saved: &saved,
                masks: &masks,
                reports: &reports,
            };
            bench.time(name, rows, (4 * vocab * rows, 0), |_| cuda::sample(bench.device, operands, rows, vocab))?;
        }
    }
    Ok(())
}
