//! Attention: decode items split over chunks, decode items that walk them, prefill items; all the
//! same bits.

use super::*;
use crate::kv::{KvLayout, KvMemory, KvSlice};
use crate::reference;

/// A sequence's heads, its length, its window, where its slice begins.
#[derive(Debug, Clone, Copy)]
struct Case {
    shape: HeadShape,
    length: usize,
    start: usize,
    window: usize,
}

const fn case(
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    block_tokens: usize,
    length: usize,
    start: usize,
    window: usize,
) -> Case {
    Case { shape: HeadShape { heads, kv_heads, head_dim, block_tokens }, length, start, window }
}

const EVERYTHING: usize = i32::MAX as usize;

/// Odd heads and widths, lengths around tiles and chunks, windows around both.
const CASES: [Case; 8] = [
    case(4, 2, 16, 6, 1, 0, EVERYTHING),
    case(9, 3, 20, 6, 70, 50, 3),
    case(4, 1, 24, 16, 130, 100, 5),
    case(8, 1, 64, 16, 300, 290, EVERYTHING),
    case(16, 2, 64, 16, 257, 255, 128),
    case(40, 1, 32, 16, 140, 138, EVERYTHING),
    case(3, 3, 128, 16, 200, 180, EVERYTHING),
    case(6, 3, 16, 1, 133, 130, 129),
];

/// A case on the device: everything but the work list.
struct Placed {
    case: Case,
    queries: Region<f16>,
    sinks: Region<f32>,
    blocks: Region<u32>,
    kv: KvRegion,
    out: Activations,
    expected: Vec<f32>,
}

/// Puts a sequence's keys and values into blocks in odd order, those that a window left behind
/// missing.
fn place(bench: &Bench, case: Case) -> Placed {
    let Case { shape, length, start, window } = case;
    let HeadShape { heads, kv_heads, head_dim, block_tokens } = shape;
    let count = length - start;
    let first_block = (start + 1).saturating_sub(window) / block_tokens;
    let entries = length.div_ceil(block_tokens) - first_block;
    let table: Vec<u32> = (0..entries as u32).map(|entry| (entry * 7 + 3) % (entries as u32 * 7)).collect();
    let blocks = entries * 7;
    let (k, v) = (numbers(length * kv_heads * head_dim, 1), numbers(length * kv_heads * head_dim, 2));
    let (q, sinks) = (numbers(count * heads * head_dim, 3), numbers(heads, 4));
    let q: Vec<f32> = q.iter().map(|value| value * 4.0).collect();
    let from = first_block * block_tokens;
    let stored = KvSlice { rows: from..length, start: from, blocks: &table, first_block };
    let mut memory = KvMemory::new(KvLayout { blocks, block_tokens, kv_heads, head_dim });
    memory.store(std::slice::from_ref(&stored), &k, &v);
    let slice = KvSlice { rows: 0..count, start, blocks: &table, first_block };
    let expected = reference::attention(&q, &sinks, Some(window), &memory, std::slice::from_ref(&slice));
    let row = shape.row();
    let mut padded = vec![f16::ZERO; count * heads * row];
    for (to, from) in padded.chunks_exact_mut(row).zip(q.chunks_exact(head_dim)) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = f16::from_f32(*from));
    }
    // NaN where nothing is stored: what no token sees must not matter.
    let mut keys = vec![f16::NAN; blocks * shape.block_values()];
    let mut values = keys.clone();
    for position in from..length {
        let (block, slot) = stored.locate(position, block_tokens);
        for head in 0..kv_heads {
            let at = ((block as usize * kv_heads + head) * block_tokens + slot) * row;
            for dim in 0..row {
                let source = (position * kv_heads + head) * head_dim + dim;
                let of = |values: &[f32]| if dim < head_dim { f16::from_f32(values[source]) } else { f16::ZERO };
                (keys[at + dim], values[at + dim]) = (of(&k), of(&v));
            }
        }
    }
    let mut arena = Arena::new(&bench.device, "a test", KvRegion::bytes(shape, blocks)).unwrap();
    let kv = KvRegion::new(&mut arena, shape, blocks);
    bench.device.store(&keys, kv.keys()).unwrap();
    bench.device.store(&values, kv.values()).unwrap();
    Placed {
        case,
        queries: bench.put(&padded),
        sinks: bench.put(&sinks),
        blocks: bench.put(&table),
        kv,
        out: bench.room_rows(count, heads * head_dim),
        expected,
    }
}

impl Placed {
    /// An item of the slice's rows `row .. row + rows`, over all chunks.
    fn item(&self, row: usize, rows: usize) -> AttentionItem {
        let Case { shape, length, start, window } = self.case;
        AttentionItem {
            token: 0,
            start: start as i32,
            row: row as i32,
            rows: rows as i32,
            table: 0,
            table_first: ((start + 1).saturating_sub(window) / shape.block_tokens) as i32,
            chunk: 0,
            chunk_end: length.div_ceil(CHUNK_TOKENS) as i32,
            partial: -1,
            window: window as i32,
        }
    }

    /// All rows in items of at most `rows_max`.
    fn items(&self, rows_max: usize) -> Vec<AttentionItem> {
        let rows = (self.case.length - self.case.start) * self.case.shape.group();
        (0..rows).step_by(rows_max).map(|row| self.item(row, rows_max.min(rows - row))).collect()
    }

    fn compute(&self, bench: &Bench, items: &[AttentionItem], splits: &[Split], is_prefill: bool) -> Vec<f32> {
        let slots = splits.iter().map(|split| split.first + split.chunks).max().unwrap_or(1) as usize;
        let partials = bench.room(slots * partial_values(self.case.shape.heads, self.case.shape.head_dim));
        let (item_region, count) = (bench.put(items), bench.put(&[items.len() as i32]));
        let split_region = bench.put(if splits.is_empty() { &[Split { token: 0, first: 0, chunks: 0 }] } else { splits });
        let split_count = bench.put(&[splits.len() as i32]);
        let Self { queries, sinks, blocks, kv, out, .. } = self;
        let operands = AttentionOperands { queries, sinks, blocks, partials: &partials, out };
        let width = self.case.shape.heads * self.case.shape.head_dim;
        bench.run(|device| {
            bench.device.store(&vec![f16::NAN; out.values.len()], &out.values).unwrap();
            let work = Work { items: &item_region, count: &count };
            attention(device, operands, kv, work, is_prefill).unwrap();
            let work = Work { items: &split_region, count: &split_count };
            attention_combine(device, operands, kv, work).unwrap();
            bench.fetch_rows(out, width)
        })
    }
}

#[test]
fn decode_and_prefill_items_give_the_same_bits_near_the_reference() {
    CASES.into_iter().for_each(|case| check(&Bench::new(), case));
}

/// A prompt's last tokens over several tiles and chunks.
pub(super) fn check_sample(bench: &Bench) {
    check(bench, CASES[3]);
}

/// A window of five.
pub(super) fn check_window(bench: &Bench) {
    check(bench, CASES[2]);
}

fn check(bench: &Bench, case: Case) {
    let placed = place(bench, case);
    let prefill = placed.compute(bench, &placed.items(PREFILL_ROWS), &[], true);
    assert_near(&prefill, &placed.expected, 1e-3, &format!("{case:?}"));
    let group = case.shape.group();
    let decode: Vec<AttentionItem> = placed.items(group).iter().flat_map(|item| halves(*item)).collect();
    assert!(placed.compute(bench, &decode, &[], false) == prefill, "{case:?}: decode items");
    // Each token's chunks as items of their own.
    let (mut split_items, mut splits, mut slots) = (Vec::new(), Vec::new(), 0);
    for token in 0..case.length - case.start {
        let position = case.start + token;
        let from = (position + 1).saturating_sub(case.window) / CHUNK_TOKENS;
        let chunks = position / CHUNK_TOKENS + 1 - from;
        for chunk in 0..chunks {
            let item = AttentionItem {
                chunk: (from + chunk) as i32,
                chunk_end: (from + chunk + 1) as i32,
                partial: (slots + chunk) as i32,
                ..placed.item(token * group, group)
            };
            split_items.extend(halves(item));
        }
        splits.push(Split { token: token as i32, first: slots as i32, chunks: chunks as i32 });
        slots += chunks;
    }
    assert!(placed.compute(bench, &split_items, &splits, false) == prefill, "{case:?}: split items");
}

/// An item as several of at most [`DECODE_ROWS`].
fn halves(item: AttentionItem) -> Vec<AttentionItem> {
    let step = DECODE_ROWS as i32;
    (0..item.rows)
        .step_by(DECODE_ROWS)
        .map(|row| AttentionItem { row: item.row + row, rows: step.min(item.rows - row), ..item })
        .collect()
}
