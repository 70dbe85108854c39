//! Embedding, norm, linear maps, rotary embedding with the KV store.

use super::*;
use crate::kv::{KvLayout, KvMemory, KvSlice};
use crate::reference;
use crate::rope::{Angles, Rope, RopeScaling};
use tile::{TILE_ROWS, f16_tile_words, pack_f16};

/// A matrix in the order of the tile core.
pub(super) fn put_matrix(bench: &Bench, values: &[f32], cols: usize) -> F16Tiles {
    let (rows, bytes) = (values.len() / cols, bf16_bytes(values));
    let mut words = vec![0; F16Tiles::words(rows, cols)];
    for (tile, out) in words.chunks_exact_mut(f16_tile_words(cols)).enumerate() {
        pack_f16(std::array::from_fn(|row| bytes.chunks_exact(2 * cols).nth(tile * TILE_ROWS + row)), cols, out);
    }
    F16Tiles::new(bench.put(&words), rows, cols)
}

#[test]
fn embedding() {
    let bench = Bench::new();
    let (vocab, hidden) = (7, 104);
    // Two of them were drawn before, one could not be drawn, one is in no report, one in no table.
    let given = [3, drawn_token(1), 6, drawn_token(0), drawn_token(2), drawn_token(3), vocab as u32];
    let mut reports = vec![5_u32; 3 * REPORT_WORDS];
    (reports[0], reports[REPORT_WORDS], reports[2 * REPORT_WORDS]) = (4, 2, NOT_FINITE);
    let tokens = [3, 2, 6, 4, 0, 0, 0];
    let values = numbers(vocab * hidden, 1);
    let table = bench.put(&values.iter().map(|value| bf16::from_f32(*value)).collect::<Vec<_>>());
    let (on_device, reports, stream) = (bench.put(&given), bench.put(&reports), bench.room::<f32>(7 * hidden));
    let got = bench.run(|device| {
        embed(device, &table, &on_device, &reports, hidden, 7, &stream).unwrap();
        device.fetch(&stream).unwrap()
    });
    assert_eq!(got, reference::embed(&values, hidden, &tokens));
}

#[test]
fn norm_of_rows_with_and_without_experts() {
    check_norm(&Bench::new());
}

pub(super) fn check_norm(bench: &Bench) {
    for (hidden, top_k) in [(32, 1), (104, 3), (2880, 4)] {
        let (count, eps) = (3, 1e-5);
        let (x, scale) = (numbers(count * hidden, 1), numbers(hidden, 2));
        let (outputs, weights) = (numbers(count * top_k * hidden, 3), numbers(count * top_k, 4));
        let (scale_region, outputs_region, weights_region) = (bench.put(&scale), bench.put(&outputs), bench.put(&weights));
        let (stream, out) = (bench.put(&x), bench.room_rows(count, hidden));
        let plain = bench.run(|device| {
            combine_norm(device, &stream, None, None, &scale_region, eps, count, &out).unwrap();
            bench.fetch_rows(&out, hidden)
        });
        assert_near(&plain, &reference::rms_norm(&x, &scale, eps), 5e-4, "the norm alone");
        let mut sum = x.clone();
        for (row, sum) in sum.chunks_exact_mut(hidden).enumerate() {
            for k in 0..top_k {
                for (at, sum) in sum.iter_mut().enumerate() {
                    *sum += weights[row * top_k + k] * outputs[(row * top_k + k) * hidden + at];
                }
            }
        }
        let routed = Parts::Experts { outputs: &outputs_region, weights: &weights_region, top_k };
        let normed = bench.run(|device| {
            device.store(&x, &stream).unwrap();
            combine_norm(device, &stream, Some(routed), None, &scale_region, eps, count, &out).unwrap();
            let mut both = bench.fetch_rows(&out, hidden);
            both.extend(device.fetch(&stream).unwrap());
            both
        });
        let expected = reference::rms_norm(&sum, &scale, eps);
        let (normed, left) = normed.split_at(count * hidden);
        assert_near(normed, &expected, 5e-4, "the norm of the sum");
        assert_near(left, &sum, 1e-6, "the stream");
        // Rows that are picked leave the stream alone.
        device_store(bench, &x, &stream);
        let rows = bench.put(&[2_u32, 0]);
        let picked = bench.run(|device| {
            combine_norm(device, &stream, Some(routed), Some(&rows), &scale_region, eps, 2, &out).unwrap();
            bench.fetch_rows(&out, hidden)[..2 * hidden].to_vec()
        });
        assert_eq!(picked[..hidden], normed[2 * hidden..3 * hidden]);
        assert_eq!(picked[hidden..], normed[..hidden]);
        assert_eq!(bench.device.fetch(&stream).unwrap(), x);
    }
}

#[test]
fn columns_are_put_beside_each_other() {
    let bench = Bench::new();
    let (rows, parts) = (3, [(4_usize, 0..4), (6, 4..9)]);
    let values: Vec<Vec<f32>> = parts.iter().map(|(width, _)| numbers(rows * width, *width as u64)).collect();
    let on_device: Vec<_> = values.iter().map(|values| bench.put(values)).collect();
    let to = bench.room::<f32>(rows * 9);
    let got = bench.run(|device| {
        for ((width, columns), from) in parts.iter().zip(&on_device) {
            device.copy_columns(from, *width, &to, 9, columns.clone(), rows).unwrap();
        }
        device.fetch(&to).unwrap()
    });
    let row = |row: usize| [&values[0][4 * row..][..4], &values[1][6 * row..][..5]].concat();
    assert_eq!(got, (0..rows).flat_map(row).collect::<Vec<_>>());
}

#[test]
fn norm_of_what_the_ranks_gave() {
    let bench = Bench::new();
    for (hidden, ranks, rows, count) in [(96, 2, 5, 3), (2880, 4, 2, 2)] {
        let (x, scale, outputs) = (numbers(count * hidden, 1), numbers(hidden, 2), numbers(ranks * rows * hidden, 3));
        let (scale_region, outputs_region) = (bench.put(&scale), bench.put(&outputs));
        let (stream, out) = (bench.put(&x), bench.room_rows(count, hidden));
        let parts = Parts::Ranks { outputs: &outputs_region, ranks, rows };
        let got = bench.run(|device| {
            device.store(&x, &stream).unwrap();
            combine_norm(device, &stream, Some(parts), None, &scale_region, 1e-5, count, &out).unwrap();
            let mut both = bench.fetch_rows(&out, hidden);
            both.extend(device.fetch(&stream).unwrap());
            both
        });
        let part = |rank: usize, at: usize| outputs[rank * rows * hidden + at];
        let sum: Vec<f32> =
            x.iter().enumerate().map(|(at, x)| x + (0..ranks).fold(0.0, |sum, rank| sum + part(rank, at))).collect();
        assert_eq!(got[count * hidden..], sum, "in the order of the ranks");
        assert_near(&got[..count * hidden], &reference::rms_norm(&sum, &scale, 1e-5), 5e-4, "the norm");
    }
}

fn device_store(bench: &Bench, values: &[f32], region: &Region<f32>) {
    bench.device.store(values, region).unwrap();
}

#[test]
fn linear_maps_of_odd_shapes() {
    check_linear(&Bench::new());
}

pub(super) fn check_linear(bench: &Bench) {
    for (rows, cols, tokens) in [(16, 32, 1), (5, 8, 3), (50, 180, 9), (33, 96, 17), (20, 352, 40), (17, 64, 70)] {
        let (x, weights, bias) = (numbers(tokens * cols, 1), numbers(rows * cols, 2), numbers(rows, 3));
        let (x_rows, matrix, bias_region) = (bench.put_rows(&x, cols), put_matrix(bench, &weights, cols), bench.put(&bias));
        let y = bench.room::<f32>(tokens * rows);
        let got = bench.run(|device| {
            linear(device, &x_rows, &matrix, Some(&bias_region), tokens, Output::Replace, &y, None).unwrap();
            device.fetch(&y).unwrap()
        });
        let expected = reference::linear(&x, &weights, cols, Some(&bias));
        assert_near(&got, &expected, 1e-5 * cols as f32, &format!("{rows} x {cols}, {tokens} tokens"));
        linear(&bench.device, &x_rows, &matrix, None, tokens, Output::Replace, &y, None).unwrap();
        let without = bench.device.fetch(&y).unwrap();
        linear(&bench.device, &x_rows, &matrix, Some(&bias_region), tokens, Output::Add, &y, None).unwrap();
        let doubled: Vec<f32> = without.iter().zip(&got).map(|(a, b)| a + b).collect();
        assert_eq!(bench.device.fetch(&y).unwrap(), doubled, "added to what was there");
        // A token's bits are the same alone.
        let alone = bench.put_rows(&x[(tokens - 1) * cols..], cols);
        let one = bench.room::<f32>(rows);
        linear(&bench.device, &alone, &matrix, Some(&bias_region), 1, Output::Replace, &one, None).unwrap();
        assert_eq!(bench.device.fetch(&one).unwrap(), got[(tokens - 1) * rows..]);
    }
}

#[test]
fn rotary_embedding_and_the_kv_store() {
    check_rotary(&Bench::new());
}

pub(super) fn check_rotary(bench: &Bench) {
    for (heads, kv_heads, head_dim, block_tokens) in [(4, 2, 16, 4), (3, 1, 20, 6), (8, 8, 64, 16)] {
        let shape = HeadShape { heads, kv_heads, head_dim, block_tokens };
        let (count, blocks, start) = (7, 5, block_tokens - 2);
        let rope = Rope::new(10_000.0, head_dim, &RopeScaling::Linear { factor: 3.0 });
        let every: Vec<usize> = (0..64).collect();
        let table = Angles::new(&rope, &every);
        let angles = AngleTable { cos: bench.put(&table.cos), sin: bench.put(&table.sin) };
        let qkv = numbers(count * shape.qkv_width(), 5);
        let positions: Vec<usize> = (start..start + count).collect();
        let block_table = [3_u32, 1, 4, 0];
        // The third token is padding: it stores nothing.
        let slot = |position: usize| block_table[position / block_tokens] as usize * block_tokens + position % block_tokens;
        let slots: Vec<i32> =
            positions.iter().enumerate().map(|(t, position)| if t == 2 { -1 } else { slot(*position) as i32 }).collect();
        let on_device = bench.put(&positions.iter().map(|position| *position as i32).collect::<Vec<_>>());
        let (slot_region, qkv_region) = (bench.put(&slots), bench.put(&qkv));
        let queries = bench.room::<f16>(count * heads * shape.row());
        let mut arena = Arena::new(&bench.device, "a test", KvRegion::bytes(shape, blocks)).unwrap();
        let kv = KvRegion::new(&mut arena, shape, blocks);
        let got = bench.run(|device| {
            rope_store(device, &qkv_region, &angles, &on_device, &slot_region, count, &queries, &kv).unwrap();
            let mut all = device.fetch(&queries).unwrap();
            all.extend(device.fetch(kv.keys()).unwrap());
            all.extend(device.fetch(kv.values()).unwrap());
            all.iter().map(|value| value.to_f32()).collect::<Vec<_>>()
        });
        let width = shape.qkv_width();
        let part = |from: usize, heads: usize| -> Vec<f32> {
            qkv.chunks_exact(width).flat_map(|token| token[from * head_dim..(from + heads) * head_dim].to_vec()).collect()
        };
        let (mut q, mut k, v) = (part(0, heads), part(heads, kv_heads), part(heads + kv_heads, kv_heads));
        let step = Angles::new(&rope, &positions);
        reference::rotary(&mut q, heads, head_dim, &step);
        reference::rotary(&mut k, kv_heads, head_dim, &step);
        let row = shape.row();
        let (got_queries, stored) = got.split_at(count * heads * row);
        let (got_keys, got_values) = stored.split_at(blocks * shape.block_values());
        let unpadded = |rows: &[f32]| -> Vec<f32> { rows.chunks_exact(row).flat_map(|r| r[..head_dim].to_vec()).collect() };
        assert_near(&unpadded(got_queries), &q, 5e-4, "queries");
        let mut memory = KvMemory::new(KvLayout { blocks, block_tokens, kv_heads, head_dim });
        memory.store(&[KvSlice { rows: 0..count, start, blocks: &block_table, first_block: 0 }], &k, &v);
        for block in 0..blocks {
            for (head, slot) in (0..kv_heads).flat_map(|head| (0..block_tokens).map(move |slot| (head, slot))) {
                let place = block * block_tokens + slot;
                let mut key: Vec<f32> = memory.key(block as u32, head, slot).collect();
                let mut value: Vec<f32> = memory.value(block as u32, head, slot).collect();
                if place as i32 == slot_of_padding(&positions, slot_at(&block_table, block_tokens)) {
                    (key, value) = (vec![0.0; head_dim], vec![0.0; head_dim]);
                }
                let at = ((block * kv_heads + head) * block_tokens + slot) * row;
                assert_near(&got_keys[at..at + head_dim], &key, 5e-4, "keys");
                assert_near(&got_values[at..at + head_dim], &value, 5e-4, "values");
                assert!(got_keys[at + head_dim..at + row].iter().all(|value| *value == 0.0), "padding stays zero");
            }
        }
    }
}

/// Values near every edge of f16: what is too large is as large as may be, and what is no number is
/// not hidden.
#[test]
fn values_are_stored_as_the_nearest_f16() {
    let bench = Bench::new();
    let shape = HeadShape { heads: 1, kv_heads: 1, head_dim: 32, block_tokens: 1 };
    let edges =
        [65_504.0, 65_519.9, 65_520.0, 1e9, f32::MAX, f32::INFINITY, f32::NAN, 0.0, 2.0_f32.powi(-14), 6.0e-5, 3.1e-8, 2.9e-8];
    let ties = [1.0 + 2.0_f32.powi(-11), 1.0 + 3.0 * 2.0_f32.powi(-11), 2.5 * 2.0_f32.powi(-24), 2047.5];
    let values: Vec<f32> = edges.into_iter().chain(ties).flat_map(|value| [value, -value]).collect();
    let qkv: Vec<f32> = [0.0; 64].into_iter().chain(values.iter().copied()).collect();
    let angles = AngleTable { cos: bench.put(&[1.0_f32; 16]), sin: bench.put(&[0.0_f32; 16]) };
    let (nought, qkv) = (bench.put(&[0_i32]), bench.put(&qkv));
    let mut arena = Arena::new(&bench.device, "a test", KvRegion::bytes(shape, 1)).unwrap();
    let kv = KvRegion::new(&mut arena, shape, 1);
    rope_store(&bench.device, &qkv, &angles, &nought, &nought, 1, &bench.room(32), &kv).unwrap();
    for (got, value) in bench.device.fetch(kv.values()).unwrap().into_iter().zip(values) {
        let kept = if value.is_finite() { value.clamp(-65_504.0, 65_504.0) } else { value };
        let expected = f16::from_f32(kept);
        assert!(got.to_bits() == expected.to_bits() || got.is_nan() && value.is_nan(), "{value}: {got}, expected {expected}");
    }
}

fn slot_at(table: &[u32], block_tokens: usize) -> impl Fn(usize) -> usize {
    move |position| table[position / block_tokens] as usize * block_tokens + position % block_tokens
}

fn slot_of_padding(positions: &[usize], slot: impl Fn(usize) -> usize) -> i32 {
    slot(positions[2]) as i32
}
