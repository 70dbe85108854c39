//! Every kernel against its twin, on the CPU through the shim, over odd shapes, under every
//! schedule with the same bits, and with every access checked.

mod attention;
mod capabilities;
mod experts;
mod pinned;
mod planted;
mod prefill;
mod ranks;
mod rows;

use super::*;
use antiphon_cuda_shim::{CHECKED_SCHEDULES, Planted, SCHEDULES};
use half::{bf16, f16};

/// A device of the shim with the kernels loaded.
pub(super) struct Bench {
    shim: antiphon_cuda_shim::Device,
    pub(super) device: Device,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::on(antiphon_cuda_shim::device())
    }

    /// The same with a bug in the kernels.
    pub(super) fn planted(bug: Planted) -> Self {
        let shim = antiphon_cuda_shim::device();
        shim.plant(bug);
        Self::on(shim)
    }

    fn on(shim: antiphon_cuda_shim::Device) -> Self {
        let device = Device::open(shim.ordinal()).unwrap();
        Self { shim, device }
    }

    /// Runs `work` under every schedule, then with every access checked; its result must be the
    /// same bits each time.
    pub(super) fn run<T: Element + std::fmt::Debug>(&self, work: impl Fn(&Device) -> Vec<T>) -> Vec<T> {
        let first = work(&self.device);
        let bits = |values: &[T]| -> Vec<u8> { values.iter().flat_map(|value| format!("{value:?};").into_bytes()).collect() };
        for schedule in &SCHEDULES[1..] {
            self.shim.schedule(*schedule);
            assert!(bits(&work(&self.device)) == bits(&first), "{schedule:?} changes the result");
        }
        self.shim.check(true);
        for schedule in CHECKED_SCHEDULES {
            self.shim.schedule(schedule);
            assert!(bits(&work(&self.device)) == bits(&first), "{schedule:?}, checked, changes the result");
        }
        self.shim.check(false);
        self.shim.schedule(SCHEDULES[0]);
        assert_eq!(self.shim.races(), 0, "{}", self.shim.message());
        first
    }

    /// Copies values to memory of their own.
    pub(super) fn put<T: Element>(&self, values: &[T]) -> Region<T> {
        let mut arena = Arena::new(&self.device, "a test", region_bytes::<T>(values.len())).unwrap();
        let region = arena.take(values.len());
        self.device.store(values, &region).unwrap();
        region
    }

    /// Memory of its own, zeros.
    pub(super) fn room<T: Element>(&self, len: usize) -> Region<T> {
        Arena::new(&self.device, "a test", region_bytes::<T>(len)).unwrap().take(len)
    }

    /// Rows of `cols` values as the kernels read them.
    pub(super) fn put_rows(&self, values: &[f32], cols: usize) -> Activations {
        let rows = self.room_rows(values.len() / cols, cols);
        let mut padded = vec![f16::ZERO; rows.values.len()];
        for (row, values) in values.chunks_exact(cols).enumerate() {
            for (to, value) in padded[row * rows.stride..].iter_mut().zip(values) {
                *to = f16::from_f32(*value);
            }
        }
        self.device.store(&padded, &rows.values).unwrap();
        rows
    }

    /// A router's rows of `cols` values as they are in a checkpoint, padded.
    pub(super) fn put_router(&self, values: &[f32], cols: usize) -> Region<bf16> {
        let padding = tile::row_stride(cols) - cols;
        let row = |row: &[f32]| {
            row.iter().map(|value| bf16::from_f32(*value)).chain(std::iter::repeat_n(bf16::ZERO, padding)).collect::<Vec<_>>()
        };
        self.put(&values.chunks_exact(cols).flat_map(row).collect::<Vec<_>>())
    }

    pub(super) fn room_rows(&self, rows: usize, cols: usize) -> Activations {
        Activations::new(&mut Arena::new(&self.device, "a test", Activations::bytes(rows, cols)).unwrap(), rows, cols)
    }

    /// The rows of `activations` without their padding.
    pub(super) fn fetch_rows(&self, activations: &Activations, cols: usize) -> Vec<f32> {
        let values = self.device.fetch(&activations.values).unwrap();
        values.chunks_exact(activations.stride).flat_map(|row| row[..cols].iter().map(|value| value.to_f32())).collect()
    }
}

/// Numbers that a seed fixes, between -1 and 1, rounded to bf16 so that both sides compute with the
/// same.
pub(super) fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bf16::from_f32((state >> 40) as f32 / (1 << 23) as f32 - 1.0).to_f32()
    };
    (0..len).map(|_| next()).collect()
}

/// bf16 bytes as a checkpoint has them.
pub(super) fn bf16_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect()
}

/// Asserts that `got` is within `tolerance` of `expected`, relative to the largest of it.
pub(super) fn assert_near(got: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1e-20_f32, |largest, value| largest.max(value.abs()));
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        let is_near = (got - expected).abs() <= tolerance * largest;
        assert!(is_near, "{what}, value {index}: {got}, expected {expected}, largest {largest}");
    }
}
