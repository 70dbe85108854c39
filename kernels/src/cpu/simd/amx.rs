//! The matrix unit of Intel's server cores (AMX): eight tile registers of sixteen rows of 64 bytes.
//!
//! The compiler has no stable intrinsics for it, so its instructions are written here in assembly,
//! each behind a macro that names tile registers by number.

use std::arch::x86_64::__cpuid_count;
use std::marker::PhantomData;

/// This CPU multiplies tiles of bf16 and the system lets this process do so. Only [`Amx::detect`]
/// makes one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::cpu) struct Amx(());

impl Amx {
    /// The proof, if the CPU, one with AVX-512, has tiles and the system gives them.
    pub(super) fn detect() -> Option<Self> {
        const BF16: u32 = 1 << 22;
        const TILE: u32 = 1 << 24;
        let leaf = __cpuid_count(7, 0);
        let has = leaf.edx & (TILE | BF16) == TILE | BF16;
        (has && permitted()).then_some(Self(()))
    }

    /// Configures this thread's tiles, all zero, until the value is dropped.
    pub(super) fn configure(self, shapes: &Shapes) -> Configured {
        // SAFETY: `self` exists, so the CPU has tiles and the system gives them; the 64 bytes read
        // are those of `shapes`.
        unsafe { std::arch::asm!("ldtilecfg [{}]", in(reg) shapes, options(nostack, readonly)) };
        Configured(PhantomData)
    }
}

/// Asks the system for the state of tiles, which takes 8 KiB of each thread's. Once is enough for a
/// process; asking again is allowed.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    /// `ARCH_REQ_XCOMP_PERM` of `asm/prctl.h`: asks for the right to a part of the processor's
    /// extended state.
    const REQUEST: libc::c_long = 0x1023;
    /// `XFEATURE_XTILE_DATA`.
    const TILE_DATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and touches no memory of this process.
    unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// Rows and bytes a row of the eight tiles, as `ldtilecfg` reads them.
#[repr(C, align(64))]
pub(super) struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 8],
    unused_bytes: [u16; 8],
    rows: [u8; 8],
    unused_rows: [u8; 8],
}

impl Shapes {
    /// Tiles of `(rows, bytes a row)` each, from the first one on.
    pub(super) const fn new(tiles: &[(u8, u16)]) -> Self {
        let mut shapes = Self {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 8],
            unused_bytes: [0; 8],
            rows: [0; 8],
            unused_rows: [0; 8],
        };
        let mut tile = 0;
        while tile < tiles.len() {
            (shapes.rows[tile], shapes.row_bytes[tile]) = tiles[tile];
            tile += 1;
        }
        shapes
    }
}

/// This thread's tiles are configured; another's are not, so it stays with its thread. Dropping it
/// gives them back: a thread in whose tiles nothing lies is switched faster.
pub(super) struct Configured(PhantomData<*const ()>);

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: the tiles exist, or there would be no such value.
        unsafe { std::arch::asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Fills tile `$tile` from memory: row `r` from `$base + 64 * r`.
macro_rules! load_tile {
    ($tile:literal, $base:expr) => {
        std::arch::asm!(
            concat!("tileloadd tmm", $tile, ", [{base} + {stride}]"),
            base = in(reg) $base,
            stride = in(reg) 64usize,
            options(nostack, readonly)
        )
    };
}

/// Stores tile `$tile`: row `r` to `$base + 64 * r`.
macro_rules! store_tile {
    ($tile:literal, $base:expr) => {
        std::arch::asm!(
            concat!("tilestored [{base} + {stride}], tmm", $tile),
            base = in(reg) $base,
            stride = in(reg) 64usize,
            options(nostack)
        )
    };
}

/// Empties tile `$tile`.
macro_rules! clear_tile {
    ($tile:literal) => {
        std::arch::asm!(concat!("tilezero tmm", $tile), options(nostack, nomem))
    };
}

/// Multiplies tiles of bf16 and adds: `sums[m][n] += sum over k of left[m][k] * right[k / 2][2 n +
/// k % 2]`.
macro_rules! multiply_bf16_tiles {
    ($sums:literal, $left:literal, $right:literal) => {
        std::arch::asm!(concat!("tdpbf16ps tmm", $sums, ", tmm", $left, ", tmm", $right), options(nostack, nomem))
    };
}

pub(super) use {clear_tile, load_tile, multiply_bf16_tiles, store_tile};
