//! The router, the groups, the experts.

use super::*;
use crate::reference;
use crate::weights::{Bf16Matrix, Experts, Mxfp4Matrix, Mxfp4Stack, SwiGlu};
use tile::{TILE_ROWS, mxfp4_tile_scales, mxfp4_tile_words, pack_mxfp4_codes, pack_mxfp4_scales, row_stride};

#[test]
fn routes_are_the_reference_s() {
    check_routes(&Bench::new());
}

pub(super) fn check_routes(bench: &Bench) {
    for (hidden, experts, top_k, tokens) in [(32, 3, 1, 1), (96, 6, 2, 9), (64, 5, 5, 4), (288, 128, 4, 6)] {
        let (mut x, weights, bias) = (numbers(tokens * hidden, 1), numbers(experts * hidden, 2), numbers(experts, 3));
        if tokens > 4 {
            // A token of zeros: every expert that has the same bias is as good as another.
            x[hidden..2 * hidden].fill(0.0);
        }
        let x_rows = bench.put_rows(&x, hidden);
        let router = RouterWeights { weights: bench.put_router(&weights, hidden), bias: bench.put(&bias) };
        let mut arena =
            Arena::new(&bench.device, "a test", RouteRegions::bytes(tokens, top_k, ExpertShare::all(experts))).unwrap();
        let routes = RouteRegions::new(&mut arena, tokens, top_k, ExpertShare::all(experts));
        let got = bench.run(|device| {
            route(device, &x_rows, hidden, &router, tokens, &bench.put(&[tokens as i32]), &routes).unwrap();
            let chosen = device.fetch(&routes.experts).unwrap().into_iter().map(|expert| expert as f32);
            let sorted = device.fetch(&routes.sorted).unwrap().into_iter().map(|pair| pair as f32);
            chosen.chain(device.fetch(&routes.weights).unwrap()).chain(sorted).collect::<Vec<f32>>()
        });
        let expected = reference::route(&reference::linear(&x, &weights, hidden, Some(&bias)), experts, top_k);
        let pairs = tokens * top_k;
        let chosen: Vec<u32> = got[..pairs].iter().map(|expert| *expert as u32).collect();
        assert_eq!(chosen, expected.experts);
        assert_near(&got[pairs..2 * pairs], &expected.weights, 1e-4, "weights");
        let mut sorted: Vec<usize> = (0..pairs).collect();
        sorted.sort_by_key(|pair| chosen[*pair]);
        let got_sorted: Vec<usize> = got[2 * pairs..].iter().map(|pair| *pair as usize).collect();
        assert_eq!(got_sorted, sorted);
        let tiles = device_tiles(bench, &routes);
        assert_eq!(tiles.iter().map(|tile| tile[2]).sum::<i32>(), pairs as i32);
        for [expert, first, count] in tiles {
            assert!(sorted[first as usize..][..count as usize].iter().all(|pair| chosen[*pair] == expert as u32));
        }
    }
}

fn device_tiles(bench: &Bench, routes: &RouteRegions) -> Vec<[i32; 3]> {
    let count = bench.device.fetch(&routes.tile_count).unwrap()[0] as usize;
    let words = bench.device.fetch(&routes.tiles).unwrap();
    words.chunks_exact(3).take(count).map(|tile| [tile[0], tile[1], tile[2]]).collect()
}

#[test]
fn ties_and_nan_go_as_in_the_reference() {
    let bench = Bench::new();
    let (hidden, experts, top_k) = (32, 70, 6);
    let mut bias = vec![0.0; experts];
    bias[64] = f32::NAN;
    bias[3] = f32::NAN;
    bias[40] = f32::NEG_INFINITY;
    bias[50] = -0.0;
    let router = RouterWeights { weights: bench.room(experts * row_stride(hidden)), bias: bench.put(&bias) };
    let mut arena = Arena::new(&bench.device, "a test", RouteRegions::bytes(1, top_k, ExpertShare::all(experts))).unwrap();
    let routes = RouteRegions::new(&mut arena, 1, top_k, ExpertShare::all(experts));
    route(&bench.device, &bench.put_rows(&vec![0.0; hidden], hidden), hidden, &router, 1, &bench.put(&[1]), &routes).unwrap();
    assert_eq!(bench.device.fetch(&routes.experts).unwrap(), [3, 64, 0, 1, 2, 4]);
    assert!(bench.device.fetch(&routes.weights).unwrap().iter().all(|weight| weight.is_nan()));
}

/// Random codes, and scales around one.
fn random_mxfp4(values: usize, seed: u64) -> (Vec<u8>, Vec<u8>) {
    let random = |len: usize, seed| numbers(len, seed).into_iter().map(|value| (value * 1000.0) as i32);
    let blocks = random(values / 2, seed).map(|value| value as u8).collect();
    (blocks, random(values / 32, seed + 1).map(|value| 122 + (value.unsigned_abs() % 4) as u8).collect())
}

/// Packs `[experts, rows, cols]` tile by tile; `source` names the row of an expert that stands at a
/// place of its tiles.
fn put_stack(bench: &Bench, stack: &Mxfp4Stack<'_>, bias: &[f32], source: impl Fn(usize) -> usize) -> Mxfp4Tiles {
    let [experts, rows, cols] = stack.shape();
    let mut arena = Arena::new(&bench.device, "a test", Mxfp4Tiles::bytes(experts, rows, cols)).unwrap();
    let tiles = Mxfp4Tiles::new(&mut arena, experts, rows, cols);
    let (mut codes, mut scales) = (vec![0; tiles.codes.len()], vec![0; tiles.scales.len()]);
    let parts = codes.chunks_exact_mut(mxfp4_tile_words(cols)).zip(scales.chunks_exact_mut(mxfp4_tile_scales(cols)));
    for (index, (codes, scales)) in parts.enumerate() {
        let (expert, tile) = (index / Mxfp4Tiles::tiles(rows), index % Mxfp4Tiles::tiles(rows));
        let matrix: Mxfp4Matrix<'_> = stack.expert(expert);
        let row = |place: usize| Some(source(tile * TILE_ROWS + place)).filter(|row| *row < rows);
        pack_mxfp4_codes(std::array::from_fn(|place| row(place).map(|row| matrix.row_blocks(row))), cols, codes);
        pack_mxfp4_scales(std::array::from_fn(|place| row(place).map(|row| matrix.row_scales(row))), cols, scales);
    }
    bench.device.store(&codes, &tiles.codes).unwrap();
    bench.device.store(&scales, &tiles.scales).unwrap();
    bench.device.store(bias, &tiles.bias).unwrap();
    tiles
}

#[test]
fn experts_of_odd_shapes() {
    for shape in [(32, 32, 2, 1, 1), (96, 64, 6, 2, 9), (64, 32, 5, 3, 33), (32, 96, 2, 2, 40)] {
        check(&Bench::new(), shape);
    }
}

/// Tokens that make several tiles, none of them full.
pub(super) fn check_sample(bench: &Bench) {
    check(bench, (96, 64, 6, 2, 9));
}

/// Hidden size, inner size, experts, experts a token, tokens.
type Shape = (usize, usize, usize, usize, usize);

fn check(bench: &Bench, shape: Shape) {
    compute(bench, shape, MatrixInstruction::Mma);
}

/// What the experts give, which is the reference's.
pub(super) fn compute(bench: &Bench, (hidden, inner, count, top_k, tokens): Shape, prefill: MatrixInstruction) -> Vec<f32> {
    let (gate_up_blocks, gate_up_scales) = random_mxfp4(count * 2 * inner * hidden, 1);
    let (down_blocks, down_scales) = random_mxfp4(count * hidden * inner, 3);
    let (gate_up_bias, down_bias) = (numbers(count * 2 * inner, 5), numbers(count * hidden, 6));
    let (gate_up_bias_bytes, down_bias_bytes) = (bf16_bytes(&gate_up_bias), bf16_bytes(&down_bias));
    let swiglu = SwiGlu { alpha: 1.5, limit: 2.0 };
    let weights = Experts::new(
        Mxfp4Stack::new(&gate_up_blocks, &gate_up_scales, count, 2 * inner, hidden).unwrap(),
        Bf16Matrix::new(&gate_up_bias_bytes, count, 2 * inner).unwrap(),
        Mxfp4Stack::new(&down_blocks, &down_scales, count, hidden, inner).unwrap(),
        Bf16Matrix::new(&down_bias_bytes, count, hidden).unwrap(),
        swiglu,
    )
    .unwrap();
    let x = numbers(tokens * hidden, 7);
    // Some experts get all, some none.
    let chosen: Vec<i32> = (0..tokens * top_k).map(|pair| ((pair / top_k % 2 + pair % top_k) % count) as i32).collect();
    let mut arena = Arena::new(&bench.device, "a test", RouteRegions::bytes(tokens, top_k, ExpertShare::all(count))).unwrap();
    let mut routes = RouteRegions::new(&mut arena, tokens, top_k, ExpertShare::all(count));
    if prefill == MatrixInstruction::Wgmma {
        routes = routes.with_wgmma(prefill::room(bench, tokens * top_k * row_stride(hidden)));
        assert!(routes.multiplies_with_wgmma(tokens), "{tokens} tokens of {top_k} out of {count} experts go to wgmma");
    }
    group_as(bench, &routes, &chosen, tokens);
    let gate_up = put_stack(bench, weights.gate_up(), &gate_up_bias, |place| place / 16 * 16 + place % 8 * 2 + place / 8 % 2);
    let down = put_stack(bench, weights.down(), &down_bias, |place| place);
    let regions = ExpertRegions { inner: bench.room_rows(tokens * top_k, inner), outputs: bench.room(tokens * top_k * hidden) };
    let x_rows = bench.put_rows(&x, hidden);
    let got = bench.run(|device| {
        experts(device, &x_rows, &gate_up, &down, swiglu, &routes, tokens, &regions).unwrap();
        device.fetch(&regions.outputs).unwrap()
    });
    for (pair, got) in got.chunks_exact(hidden).enumerate() {
        let token = pair / top_k;
        let expected = reference::expert(&x[token * hidden..][..hidden], &weights, chosen[pair] as usize);
        assert_near(got, &expected, 1e-3, &format!("hidden {hidden}, inner {inner}, pair {pair}"));
    }
    got
}

#[test]
fn a_rank_computes_its_own_experts_and_sums_them() {
    let bench = Bench::new();
    let (hidden, experts, top_k, tokens) = (96, 6, 3, 9);
    let (x, weights, bias) = (numbers(tokens * hidden, 1), numbers(experts * hidden, 2), numbers(experts, 3));
    let router = RouterWeights { weights: bench.put_router(&weights, hidden), bias: bench.put(&bias) };
    let (x_rows, count) = (bench.put_rows(&x, hidden), bench.put(&[tokens as i32]));
    let whole = reference::route(&reference::linear(&x, &weights, hidden, Some(&bias)), experts, top_k);
    let outputs = numbers(tokens * top_k * hidden, 4);
    let mut seen = 0;
    for share in [ExpertShare { first: 0, count: 2, total: 6 }, ExpertShare { first: 2, count: 4, total: 6 }] {
        let mut arena = Arena::new(&bench.device, "a test", RouteRegions::bytes(tokens, top_k, share)).unwrap();
        let routes = RouteRegions::new(&mut arena, tokens, top_k, share);
        let own: Vec<i32> = whole.experts.iter().map(|expert| *expert as i32 - share.first as i32).collect();
        let own: Vec<i32> = own.iter().map(|own| if (0..share.count as i32).contains(own) { *own } else { -1 }).collect();
        // Where another rank has the expert, nothing was written.
        let given = |(pair, value): (usize, &f32)| if own[pair / hidden] < 0 { f32::NAN } else { *value };
        let on_device = bench.put(&outputs.iter().enumerate().map(given).collect::<Vec<_>>());
        let sums = bench.room::<f32>(tokens * hidden);
        let got = bench.run(|device| {
            route(device, &x_rows, hidden, &router, tokens, &count, &routes).unwrap();
            sum_routed(device, &on_device, &routes, hidden, tokens, &sums).unwrap();
            device.fetch(&sums).unwrap()
        });
        assert_eq!(bench.device.fetch(&routes.experts).unwrap(), own);
        let pairs: Vec<i32> = device_tiles(&bench, &routes).iter().map(|tile| tile[2]).collect();
        assert_eq!(pairs.iter().sum::<i32>(), own.iter().filter(|own| **own >= 0).count() as i32);
        seen += pairs.iter().sum::<i32>();
        let part = |pair: usize, at: usize| if own[pair] < 0 { 0.0 } else { whole.weights[pair] * outputs[pair * hidden + at] };
        let sum = |(token, at)| (0..top_k).map(|k| part(token * top_k + k, at)).sum();
        let expected: Vec<f32> = (0..tokens * hidden).map(|value| sum((value / hidden, value % hidden))).collect();
        assert_near(&got, &expected, 1e-4, &format!("{share:?}"));
    }
    assert_eq!(seen as usize, tokens * top_k, "every pair has one rank");
}

/// Groups pairs that a test chose: the router sees tokens that name them.
fn group_as(bench: &Bench, routes: &RouteRegions, chosen: &[i32], tokens: usize) {
    // Tokens are unit vectors and the router's columns their wishes: the first choice gets the
    // largest logit.
    let (experts, top_k) = (routes.share.total, routes.top_k);
    let hidden = row_stride(tokens);
    let mut x = vec![0.0; tokens * hidden];
    let mut weights = vec![0.0; experts * hidden];
    for token in 0..tokens {
        x[token * hidden + token] = 1.0;
        for (rank, expert) in chosen[token * top_k..][..top_k].iter().enumerate() {
            weights[*expert as usize * hidden + token] = (top_k - rank) as f32;
        }
    }
    let router = RouterWeights { weights: bench.put_router(&weights, hidden), bias: bench.room(experts) };
    route(&bench.device, &bench.put_rows(&x, hidden), hidden, &router, tokens, &bench.put(&[tokens as i32]), routes).unwrap();
    assert_eq!(bench.device.fetch(&routes.experts).unwrap(), chosen);
}
