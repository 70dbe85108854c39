use std::ops::Range;

use proptest::prelude::*;

use super::*;
use crate::kv::{KvFormat, KvLayout, KvMemory, KvSlice, visible};
use crate::reference;

/// Shapes that a config.json may state, and then some.
#[derive(Debug, Clone)]
struct Shape {
    layout: KvLayout,
    format: KvFormat,
    group: usize,
    window: Option<usize>,
    /// Tokens of each sequence.
    lens: Vec<usize>,
    seed: u64,
}

impl Shape {
    fn heads(&self) -> usize {
        self.group * self.layout.kv_heads
    }

    fn width(&self) -> usize {
        self.heads() * self.layout.head_dim
    }

    fn tokens(&self) -> usize {
        self.lens.iter().sum()
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    let layout = (1usize..20, 1usize..4, 1usize..41);
    let lens = proptest::collection::vec(prop_oneof![3 => 1usize..60, 1 => 1usize..300], 1..4);
    let window = proptest::option::of(prop_oneof![3 => 1usize..40, 1 => 100usize..200]);
    let formats = prop_oneof![Just(KvFormat::F32), Just(KvFormat::F16)];
    let rest = (window, lens, formats, any::<u64>());
    (layout, 1usize..12, rest).prop_map(|((block_tokens, kv_heads, half), group, (window, lens, format, seed))| {
        let blocks = lens.iter().map(|len: &usize| len.div_ceil(block_tokens)).sum::<usize>() + 2;
        let layout = KvLayout { blocks, block_tokens, kv_heads, head_dim: 2 * half };
        Shape { layout, format, group, window, lens, seed }
    })
}

/// Several sequences with everything that attention needs, stored in scattered blocks.
struct World {
    shape: Shape,
    q: Vec<f32>,
    sinks: Vec<f32>,
    memory: KvMemory,
    tables: Vec<Vec<u32>>,
}

impl World {
    fn new(shape: Shape) -> Self {
        let mut numbers = Numbers(shape.seed);
        let Shape { layout, format, ref lens, .. } = shape;
        let mut free: Vec<u32> = (0..layout.blocks as u32).collect();
        let mut table = |len: usize| {
            (0..len.div_ceil(layout.block_tokens)).map(|_| free.swap_remove(numbers.below(free.len()))).collect::<Vec<_>>()
        };
        let tables: Vec<_> = lens.iter().map(|&len| table(len)).collect();
        let kv_width = layout.kv_heads * layout.head_dim;
        let tokens = shape.tokens();
        let (keys, values) = (numbers.values(tokens * kv_width), numbers.values(tokens * kv_width));
        let q = numbers.values(tokens * shape.width()).into_iter().map(|value| 3.0 * value).collect();
        let mut memory = KvMemory::with_format(layout, format);
        // A slot that was never written may hold anything.
        let poison: Vec<u32> = (0..layout.blocks as u32).collect();
        let nan = vec![f32::NAN; layout.blocks * layout.block_tokens * kv_width];
        let all = KvSlice { rows: 0..layout.blocks * layout.block_tokens, start: 0, blocks: &poison, first_block: 0 };
        memory.store(&[all], &nan, &nan);
        let mut world = Self { q, sinks: numbers.values(shape.heads()), memory, tables, shape };
        let whole: Vec<_> = world.shape.lens.iter().map(|&len| 0..len).collect();
        let mut memory = std::mem::replace(&mut world.memory, KvMemory::new(KvLayout { blocks: 0, ..layout }));
        memory.store(&world.slices(&whole), &keys, &values);
        world.memory = memory;
        world
    }

    /// One slice a sequence, of its tokens `parts[sequence]`; only the blocks that these see are in
    /// the tables.
    fn slices(&self, parts: &[Range<usize>]) -> Vec<KvSlice<'_>> {
        let mut row = 0;
        let slice = |(part, table): (&Range<usize>, _)| {
            let table: &Vec<u32> = table;
            let block_tokens = self.shape.layout.block_tokens;
            let first_block = visible(part.start, self.shape.window).start / block_tokens;
            let rows = row..row + part.len();
            row = rows.end;
            KvSlice { rows, start: part.start, blocks: &table[first_block..part.end.div_ceil(block_tokens)], first_block }
        };
        parts.iter().zip(&self.tables).map(slice).collect()
    }

    /// The queries of `parts`, in order.
    fn queries(&self, parts: &[Range<usize>]) -> Vec<f32> {
        let width = self.shape.width();
        let starts = self.shape.lens.iter().scan(0, |start, len| Some(std::mem::replace(start, *start + len)));
        let rows = parts.iter().zip(starts).flat_map(|(part, start)| start + part.start..start + part.end);
        rows.flat_map(|row| &self.q[row * width..][..width]).copied().collect()
    }

    fn attend(&self, cpu: &mut Cpu, parts: &[Range<usize>]) -> Vec<f32> {
        let q = self.queries(parts);
        let mut out = vec![f32::NAN; q.len()];
        cpu.attention(&q, &self.sinks, self.shape.window, &self.memory, &self.slices(parts), &mut out);
        out
    }

    fn whole(&self) -> Vec<Range<usize>> {
        self.shape.lens.iter().map(|&len| 0..len).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn as_its_twin(shape in shapes()) {
        let world = World::new(shape);
        let parts = world.whole();
        let slices = world.slices(&parts);
        let expected = reference::attention(&world.q, &world.sinks, world.shape.window, &world.memory, &slices);
        for mut cpu in cpus() {
            let got = world.attend(&mut cpu, &parts);
            assert_near(&got, &expected, |_| 1e-5, cpu.isa().name());
        }
    }

    /// Whole prompts together, or cut into slices beside other sequences, on other threads: the
    /// same bits.
    #[test]
    fn slices_company_and_threads_change_no_bit(shape in shapes(), step in 1usize..12, threads in 1usize..5) {
        let world = World::new(shape);
        let width = world.shape.width();
        for isa in Isa::available() {
            let whole = world.attend(&mut Cpu::with_isa(1, isa), &world.whole());
            let mut cpu = Cpu::with_isa(threads, isa);
            let longest = world.shape.lens.iter().copied().max().unwrap();
            for start in (0..longest).step_by(step) {
                let part = |&len: &usize| start.min(len)..(start + step).min(len);
                let parts: Vec<_> = world.shape.lens.iter().map(part).collect();
                let got = world.attend(&mut cpu, &parts);
                let mut rows = got.chunks_exact(width);
                let mut first = 0;
                for (part, len) in parts.into_iter().zip(&world.shape.lens) {
                    for position in part {
                        let expected = &whole[(first + position) * width..][..width];
                        prop_assert_eq!(bits(rows.next().unwrap()), bits(expected), "position {} on {:?}", position, isa);
                    }
                    first += len;
                }
            }
        }
    }
}

/// A context of three spans: whether its spans are computed one after the other or by many threads,
/// and whether a position is computed alone or beside others, the bits are the same.
#[test]
fn spans_that_threads_compute_apart_change_no_bit() {
    for format in FORMATS {
        let world = gpt_oss(format, None, vec![4_300, 40]);
        let width = world.shape.width();
        // Around the beginnings of spans, and at the end.
        for positions in [2_044..2_052, 4_090..4_100, 4_299..4_300] {
            let parts = [positions.clone(), 39..40];
            let (q, slices) = (world.queries(&parts), world.slices(&parts));
            let twin = reference::attention(&q, &world.sinks, None, &world.memory, &slices);
            for isa in Isa::available() {
                let expected = world.attend(&mut Cpu::with_isa(1, isa), &parts);
                assert_near(&expected, &twin, |_| 1e-5, isa.name());
                for threads in [2, 3, 7, 16] {
                    let mut cpu = Cpu::with_isa(threads, isa);
                    assert_eq!(bits(&world.attend(&mut cpu, &parts)), bits(&expected), "{threads} threads on {isa:?}");
                    let alone = world.attend(&mut cpu, &[positions.end - 1..positions.end, 0..0]);
                    let last = positions.len() - 1;
                    assert_eq!(bits(&alone), bits(&expected[last * width..][..width]), "{threads} threads on {isa:?}");
                }
            }
        }
    }
}

#[test]
fn keys_and_values_are_stored_as_their_twin_stores_them() {
    for format in FORMATS {
        let layout = KvLayout { blocks: 9, block_tokens: 5, kv_heads: 3, head_dim: 10 };
        let mut numbers = Numbers(8);
        let slices = [
            KvSlice { rows: 0..17, start: 3, blocks: &[7, 2, 0, 5], first_block: 0 },
            KvSlice { rows: 18..20, start: 14, blocks: &[3, 8], first_block: 2 },
        ];
        let (keys, values) = (numbers.values(20 * 30), numbers.values(20 * 30));
        let mut twin = KvMemory::with_format(layout, format);
        twin.store(&slices, &keys, &values);
        for threads in [1, 2, 5] {
            let mut memory = KvMemory::with_format(layout, format);
            Cpu::new(threads).store_kv(&mut memory, &slices, &keys, &values);
            for (block, head, slot) in (0..9).flat_map(|block| (0..15).map(move |at| (block, at / 5, at % 5))) {
                assert!(memory.key(block, head, slot).eq(twin.key(block, head, slot)), "key {block} {head} {slot}");
                assert!(memory.value(block, head, slot).eq(twin.value(block, head, slot)), "value {block} {head} {slot}");
            }
        }
    }
}

fn gpt_oss(format: KvFormat, window: Option<usize>, lens: Vec<usize>) -> World {
    let blocks = lens.iter().map(|len| len.div_ceil(16)).sum();
    World::new(Shape {
        layout: KvLayout { blocks, block_tokens: 16, kv_heads: 2, head_dim: 64 },
        format,
        group: 8,
        window,
        lens,
        seed: 5,
    })
}

const FORMATS: [KvFormat; 2] = [KvFormat::F32, KvFormat::F16];

#[test]
fn shapes_of_the_released_models() {
    for (format, window) in FORMATS.into_iter().flat_map(|format| [(format, None), (format, Some(128))]) {
        let world = gpt_oss(format, window, vec![300, 129]);
        let parts = [296..300, 128..129];
        let (q, slices) = (world.queries(&parts), world.slices(&parts));
        let expected = reference::attention(&q, &world.sinks, window, &world.memory, &slices);
        for mut cpu in cpus() {
            assert_near(&world.attend(&mut cpu, &parts), &expected, |_| 1e-5, cpu.isa().name());
        }
    }
}

#[test]
fn a_sink_above_all_scores_and_a_sink_that_is_none() {
    let mut world = gpt_oss(KvFormat::F32, None, vec![20]);
    world.sinks.fill(1000.0);
    for mut cpu in cpus() {
        assert!(world.attend(&mut cpu, &world.whole()).iter().all(|&value| value == 0.0));
    }
    world.sinks.fill(f32::NEG_INFINITY);
    let expected = reference::attention(&world.q, &world.sinks, None, &world.memory, &world.slices(&world.whole()));
    for mut cpu in cpus() {
        assert_near(&world.attend(&mut cpu, &world.whole()), &expected, |_| 1e-5, cpu.isa().name());
    }
}

#[test]
fn a_broken_query_or_key_is_seen_where_it_is_used_only() {
    let mut world = gpt_oss(KvFormat::F16, None, vec![40]);
    let width = world.shape.width();
    world.q[3 * width] = f32::NAN;
    for mut cpu in cpus() {
        let out = world.attend(&mut cpu, &world.whole());
        for (head, values) in out.chunks_exact(64).enumerate() {
            assert_eq!(values.iter().all(|value| value.is_nan()), head == 3 * 16, "head {head}");
            assert_eq!(values.iter().any(|value| value.is_nan()), head == 3 * 16, "head {head}");
        }
    }
}

#[test]
fn rows_that_no_slice_names_become_zero() {
    let world = gpt_oss(KvFormat::F32, None, vec![4]);
    let slices = [KvSlice { rows: 1..2, start: 0, blocks: &world.tables[0], first_block: 0 }];
    for mut cpu in cpus() {
        let mut out = vec![f32::NAN; world.q.len()];
        cpu.attention(&world.q, &world.sinks, None, &world.memory, &slices, &mut out);
        let width = world.shape.width();
        let zero: Vec<bool> = out.chunks_exact(width).map(|row| row.iter().all(|&value| value == 0.0)).collect();
        assert_eq!(zero, [true, false, true, true]);
    }
}
