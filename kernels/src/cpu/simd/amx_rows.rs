//! Products of packed bf16 rows with AMX, f32 activations in three parts.
//!
//! Three bf16 hold all 24 bits of an f32, so that no activation is rounded and each product is
//! exact. A part's sum is a chain of its own over K, and the three are added at the end: which
//! tokens share a tile changes no bit. A tile of weights is read as it is packed.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::amx::{Amx, Configured, Shapes, clear_tile, load_tile, multiply_bf16_tiles, store_tile};
use super::rows::{Band, Sums, prefetch};
use crate::cpu::linear::tiles::{Line, PARTS, TILE_TOKENS, Tiles};
use crate::cpu::packed::{BF16_BYTES, GROUP};

/// Rows of a tile of activations that are used: the parts of its tokens.
const LINES: usize = PARTS * TILE_TOKENS;
/// Pairs of columns of a tile of weights.
const PAIRS: usize = 16;
/// Bytes of a tile of weights.
const BYTES: usize = PAIRS * BF16_BYTES;

/// Tiles 0 to 3: sums, of the first tokens with both groups, then of the second. 4 and 5:
/// activations. 6 and 7: weights of the groups.
static SHAPES: Shapes = {
    let (tokens, weights) = ((LINES as u8, 64), (PAIRS as u8, 64));
    Shapes::new(&[tokens, tokens, tokens, tokens, tokens, tokens, weights, weights])
};

/// Tokens that are multiplied at once: two tiles.
pub(in crate::cpu) const TOKENS: usize = 2 * TILE_TOKENS;

/// How far ahead weights are prefetched, in bytes: as AVX-512 does on the CPUs that have tiles.
const AHEAD: usize = 2048;

/// A tile's sums: those of each line with each row of a group.
type Tile = [[f32; GROUP]; LINES];

/// This thread's tiles have the shapes for products of bf16.
pub(in crate::cpu) struct Bf16Tiles(Configured);

impl Bf16Tiles {
    /// Configures them until the value is dropped.
    pub(in crate::cpu) fn new(amx: Amx) -> Self {
        Self(amx.configure(&SHAPES))
    }

    /// bf16 times f32: the products of a band with as many tokens as there are `sums`, one or two
    /// tiles from tile `first` on. If `prefetches`, weights are prefetched.
    pub(in crate::cpu) fn multiply(&self, band: Band<'_>, tiles: &Tiles, first: usize, prefetches: bool, sums: &mut [Sums]) {
        let tokens = sums.len();
        let pairs = band[0].len() / BF16_BYTES;
        assert_eq!(band[1].len(), band[0].len(), "groups of one length");
        assert!((1..=TOKENS).contains(&tokens), "{tokens} tokens at once");
        let both = [tiles.tile(first), tiles.tile(first + 1)];
        let blocks = pairs.div_ceil(PAIRS);
        let steps = [tokens.min(TILE_TOKENS), tokens.saturating_sub(TILE_TOKENS)].map(|tokens| PARTS * tokens);
        for (tile, step) in both.iter().zip(steps) {
            let read = if step > 0 { (blocks - 1) * step + LINES } else { 0 };
            assert!(tile.len() >= read, "{} lines where {read} are read", tile.len());
        }
        // SAFETY: `self` exists, so the CPU has tiles, and with them AVX-512; the lengths were
        // checked.
        unsafe {
            match (steps[1] > 0, prefetches) {
                (false, true) => run::<1, true>(band, both, steps, sums),
                (false, false) => run::<1, false>(band, both, steps, sums),
                (true, true) => run::<2, true>(band, both, steps, sums),
                (true, false) => run::<2, false>(band, both, steps, sums),
            }
        }
    }
}

/// # Safety
/// The CPU has AVX-512 and its tiles have [`SHAPES`]. Groups are of one length. From block to block
/// of its columns `A` tiles step so many lines, and behind the beginning of each block there are
/// [`LINES`].
#[target_feature(enable = "avx512f")]
unsafe fn run<const A: usize, const PREFETCHES: bool>(
    band: Band<'_>,
    tiles: [&[Line]; 2],
    steps: [usize; 2],
    sums: &mut [Sums],
) {
    let bytes = band[0].len();
    let whole = bytes / BYTES;
    // SAFETY: as the caller promises; what is stored is read.
    unsafe {
        clear_tile!(0);
        clear_tile!(1);
        clear_tile!(2);
        clear_tile!(3);
        let lines = |block: usize| [0, 1].map(|tile| tiles[tile].as_ptr().wrapping_add(block * steps[tile]));
        for block in 0..whole {
            if PREFETCHES {
                prefetch(band, block * BYTES, BYTES, bytes, AHEAD.min(bytes));
            }
            multiply::<A>(lines(block), band.map(|group| group.as_ptr().add(block * BYTES)));
        }
        if whole * BYTES < bytes {
            // What lies behind the last pair of columns is another group's: zeros stand in for it.
            let mut last = [[0; BYTES]; 2];
            for (last, group) in last.iter_mut().zip(band) {
                last[..bytes - whole * BYTES].copy_from_slice(&group[whole * BYTES..]);
            }
            multiply::<A>(lines(whole), last.each_ref().map(|last| last.as_ptr()));
        }
        let mut found = MaybeUninit::<[[Tile; 2]; 2]>::uninit();
        let to = found.as_mut_ptr();
        store_tile!(0, &raw mut (*to)[0][0]);
        store_tile!(1, &raw mut (*to)[0][1]);
        if A == 2 {
            store_tile!(2, &raw mut (*to)[1][0]);
            store_tile!(3, &raw mut (*to)[1][1]);
        }
        for (t, sums) in sums.iter_mut().enumerate() {
            for (group, sums) in sums.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
                let part =
                    |part: usize| _mm512_loadu_ps((*to)[t / TILE_TOKENS][group][t % TILE_TOKENS * PARTS + part].as_ptr());
                _mm512_storeu_ps(sums.as_mut_ptr(), _mm512_add_ps(part(0), _mm512_add_ps(part(1), part(2))));
            }
        }
    }
}

/// Multiplies a block of columns: 32 activations of each token of `A` tiles with both groups.
///
/// # Safety
/// As [`run`]; there are [`LINES`] lines behind the pointers of `A` tiles and [`BYTES`] bytes
/// behind each group's.
#[inline(always)]
unsafe fn multiply<const A: usize>(tiles: [*const Line; 2], weights: [*const u8; 2]) {
    // SAFETY: as the caller promises.
    unsafe {
        load_tile!(6, weights[0]);
        load_tile!(4, tiles[0]);
        multiply_bf16_tiles!(0, 4, 6);
        load_tile!(7, weights[1]);
        multiply_bf16_tiles!(1, 4, 7);
        if A == 2 {
            load_tile!(5, tiles[1]);
            multiply_bf16_tiles!(2, 5, 6);
            multiply_bf16_tiles!(3, 5, 7);
        }
    }
}
