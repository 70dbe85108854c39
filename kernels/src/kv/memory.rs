//! The numbers that keys and values are kept in.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{KvLayout, KvSlice};
use crate::pages::{Pages, Plain};

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvFormat {
    /// As computed.
    #[default]
    F32,
    /// Rounded to eleven bits, the nearest, of two the even. Finite magnitudes above 65,504, the
    /// largest that f16 has, become 65,504; infinities and NaN stay what they are, so that what
    /// is broken is seen.
    F16,
}

impl KvFormat {
    /// Bytes of a key's or a value's number.
    #[must_use]
    pub fn number_bytes(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::F16 => size_of::<f16>(),
        }
    }
}

/// A number that KV memory is made of.
pub(crate) trait KvNumber: Plain + Default {
    /// Rounds as [`KvFormat`] says; as many `to` as `from`.
    fn round(from: &[f32], to: &mut [Self]);
}

impl KvNumber for f32 {
    fn round(from: &[f32], to: &mut [Self]) {
        to.copy_from_slice(from);
    }
}

impl KvNumber for f16 {
    fn round(from: &[f32], to: &mut [Self]) {
        const MAX: f32 = f16::MAX.to_f32_const();
        let mut within = [0.0; 64];
        for (from, to) in from.chunks(64).zip(to.chunks_mut(64)) {
            let within = &mut within[..from.len()];
            for (within, &x) in within.iter_mut().zip(from) {
                *within = if x.is_finite() { x.clamp(-MAX, MAX) } else { x };
            }
            to.convert_from_f32_slice(within);
        }
    }
}

/// Keys and values in one kind of number, laid out as [`KvLayout`] says.
#[derive(Debug)]
pub(crate) struct Planes<T> {
    pub(crate) keys: Pages<T>,
    pub(crate) values: Pages<T>,
}

impl<T: KvNumber> Planes<T> {
    fn new(layout: &KvLayout) -> Self {
        let heads = layout.blocks * layout.kv_heads;
        Self {
            keys: Pages::new(heads * layout.head_dim * layout.key_stride(), "keys"),
            values: Pages::new(heads * layout.block_tokens * layout.value_stride(), "values"),
        }
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.keys) + size_of_val(&*self.values)
    }

    fn copy_block(&mut self, layout: &KvLayout, from: u32, to: u32) {
        for head in 0..layout.kv_heads {
            self.keys.copy_within(layout.keys(from, head), layout.keys(to, head).start);
            self.values.copy_within(layout.values(from, head), layout.values(to, head).start);
        }
    }

    fn store(&mut self, layout: &KvLayout, slices: &[KvSlice<'_>], keys: &[f32], values: &[f32]) {
        let width = layout.kv_heads * layout.head_dim;
        let (mut key_row, mut value_row) = (vec![T::default(); width], vec![T::default(); width]);
        for slice in slices {
            for (row, position) in slice.rows.clone().zip(slice.start..) {
                let (block, slot) = slice.locate(position, layout.block_tokens);
                T::round(&keys[row * width..][..width], &mut key_row);
                T::round(&values[row * width..][..width], &mut value_row);
                let heads = key_row.chunks_exact(layout.head_dim).zip(value_row.chunks_exact(layout.head_dim));
                for (head, (key, value)) in heads.enumerate() {
                    let stored = &mut self.keys[layout.keys(block, head)];
                    for (dim, &key) in key.iter().enumerate() {
                        stored[dim * layout.key_stride() + slot] = key;
                    }
                    let stored = &mut self.values[layout.values(block, head)];
                    stored[slot * layout.value_stride()..][..layout.head_dim].copy_from_slice(value);
                }
            }
        }
    }
}

#[derive(Debug)]
pub(crate) enum Stored {
    F32(Planes<f32>),
    F16(Planes<f16>),
}

/// Keys and values of one layer.
#[derive(Debug)]
pub struct KvMemory {
    layout: KvLayout,
    stored: Stored,
}

impl KvMemory {
    /// KV memory in f32, full of zeros. The system gives the pages when they are first written.
    ///
    /// # Panics
    /// If the system has no room for it among the process's addresses.
    #[must_use]
    pub fn new(layout: KvLayout) -> Self {
        Self::with_format(layout, KvFormat::F32)
    }

    /// The same in numbers of choice.
    ///
    /// # Panics
    /// As [`KvMemory::new`].
    #[must_use]
    pub fn with_format(layout: KvLayout, format: KvFormat) -> Self {
        let stored = match format {
            KvFormat::F32 => Stored::F32(Planes::new(&layout)),
            KvFormat::F16 => Stored::F16(Planes::new(&layout)),
        };
        Self { layout, stored }
    }

    /// Its shape.
    #[must_use]
    pub fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// Bytes of its keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.stored {
            Stored::F32(planes) => planes.bytes(),
            Stored::F16(planes) => planes.bytes(),
        }
    }

    /// What the kernels read.
    pub(crate) fn stored(&self) -> &Stored {
        &self.stored
    }

    /// Its shape, and what it holds.
    pub(super) fn parts_mut(&mut self) -> (&KvLayout, &mut Stored) {
        (&self.layout, &mut self.stored)
    }

    /// What the kernels write.
    pub(crate) fn stored_mut(&mut self) -> &mut Stored {
        &mut self.stored
    }

    /// The key of (`block`, `head`, `slot`), `[head_dim]`.
    ///
    /// # Panics
    /// If there is no such block, head or slot.
    pub fn key(&self, block: u32, head: usize, slot: usize) -> impl Iterator<Item = f32> {
        assert!(slot < self.layout.block_tokens, "slot {slot} of {} in a block", self.layout.block_tokens);
        let (first, stride) = (self.layout.keys(block, head).start + slot, self.layout.key_stride());
        (0..self.layout.head_dim).map(move |dim| match &self.stored {
            Stored::F32(planes) => planes.keys[first + dim * stride],
            Stored::F16(planes) => planes.keys[first + dim * stride].to_f32(),
        })
    }

    /// The value of (`block`, `head`, `slot`), `[head_dim]`.
    ///
    /// # Panics
    /// As [`KvMemory::key`].
    pub fn value(&self, block: u32, head: usize, slot: usize) -> impl Iterator<Item = f32> {
        assert!(slot < self.layout.block_tokens, "slot {slot} of {} in a block", self.layout.block_tokens);
        let first = self.layout.values(block, head).start + slot * self.layout.value_stride();
        (first..first + self.layout.head_dim).map(|at| match &self.stored {
            Stored::F32(planes) => planes.values[at],
            Stored::F16(planes) => planes.values[at].to_f32(),
        })
    }

    /// Makes what the block `to` holds what `from` holds, to the bit.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn copy_block(&mut self, from: u32, to: u32) {
        match &mut self.stored {
            Stored::F32(planes) => planes.copy_block(&self.layout, from, to),
            Stored::F16(planes) => planes.copy_block(&self.layout, from, to),
        }
    }

    /// Stores the keys and values that a step computed for `slices`: `keys`, `values`
    /// `[T, kv_heads * head_dim]`.
    ///
    /// # Panics
    /// If a row of a slice is not in `keys`, or its position not in the slice's block table.
    pub fn store(&mut self, slices: &[KvSlice<'_>], keys: &[f32], values: &[f32]) {
        assert_eq!(keys.len(), values.len(), "as many keys as values");
        match &mut self.stored {
            Stored::F32(planes) => planes.store(&self.layout, slices, keys, values),
            Stored::F16(planes) => planes.store(&self.layout, slices, keys, values),
        }
    }
}
