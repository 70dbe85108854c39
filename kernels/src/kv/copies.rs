//! Blocks of KV memory as bytes, to be kept elsewhere and brought back.

use half::f16;
use half::slice::HalfFloatSliceExt as _;

use super::memory::KvNumber;
use super::{KvLayout, KvMemory, Planes, Stored};

/// A number whose bits are kept, lowest byte first.
pub(crate) trait AsBytes: KvNumber {
    fn append(from: &[Self], bytes: &mut Vec<u8>);
    fn take(bytes: &[u8], to: &mut [Self]);
}

impl AsBytes for f32 {
    fn append(from: &[Self], bytes: &mut Vec<u8>) {
        bytes.extend(from.iter().flat_map(|number| number.to_le_bytes()));
    }

    fn take(bytes: &[u8], to: &mut [Self]) {
        let (words, _) = bytes.as_chunks::<4>();
        to.iter_mut().zip(words).for_each(|(number, bytes)| *number = Self::from_le_bytes(*bytes));
    }
}

impl AsBytes for f16 {
    fn append(from: &[Self], bytes: &mut Vec<u8>) {
        bytes.extend(from.reinterpret_cast().iter().flat_map(|bits| bits.to_le_bytes()));
    }

    fn take(bytes: &[u8], to: &mut [Self]) {
        let (words, _) = bytes.as_chunks::<2>();
        to.reinterpret_cast_mut().iter_mut().zip(words).for_each(|(bits, bytes)| *bits = u16::from_le_bytes(*bytes));
    }
}

impl<T: AsBytes> Planes<T> {
    fn append_block(&self, layout: &KvLayout, block: u32, bytes: &mut Vec<u8>) {
        for head in 0..layout.kv_heads {
            T::append(&self.keys[layout.keys(block, head)], bytes);
        }
        for head in 0..layout.kv_heads {
            T::append(&self.values[layout.values(block, head)], bytes);
        }
    }

    fn take_block(&mut self, layout: &KvLayout, block: u32, bytes: &[u8]) {
        let mut rest = bytes;
        let mut next = |numbers: &mut [T]| {
            let (own, others) = rest.split_at(size_of_val(numbers));
            T::take(own, numbers);
            rest = others;
        };
        for head in 0..layout.kv_heads {
            next(&mut self.keys[layout.keys(block, head)]);
        }
        for head in 0..layout.kv_heads {
            next(&mut self.values[layout.values(block, head)]);
        }
    }
}

impl KvMemory {
    /// Appends the keys and values of `block` to `bytes`, [`KvLayout::block_bytes`] of them, with
    /// the padding of their rows.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn append_block(&self, block: u32, bytes: &mut Vec<u8>) {
        match self.stored() {
            Stored::F32(planes) => planes.append_block(self.layout(), block, bytes),
            Stored::F16(planes) => planes.append_block(self.layout(), block, bytes),
        }
    }

    /// Makes the keys and values of `block` those that [`Self::append_block`] of a memory of the
    /// same form gave.
    ///
    /// # Panics
    /// If there is no such block, or `bytes` are not as many as a block has.
    pub fn take_block(&mut self, block: u32, bytes: &[u8]) {
        let (layout, stored) = self.parts_mut();
        let number_bytes = match stored {
            Stored::F32(_) => size_of::<f32>(),
            Stored::F16(_) => size_of::<f16>(),
        };
        let numbers = layout.kv_heads * (layout.head_dim * layout.key_stride() + layout.block_tokens * layout.value_stride());
        assert_eq!(bytes.len(), numbers * number_bytes, "a block is copied whole");
        match stored {
            Stored::F32(planes) => planes.take_block(layout, block, bytes),
            Stored::F16(planes) => planes.take_block(layout, block, bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{KvFormat, KvSlice};
    use super::*;

    #[test]
    fn a_block_that_is_brought_to_another_place_holds_the_same_bits_there() {
        let layout = KvLayout { blocks: 5, block_tokens: 3, kv_heads: 2, head_dim: 6 };
        for format in [KvFormat::F32, KvFormat::F16] {
            let mut memory = KvMemory::with_format(layout, format);
            let keys: Vec<f32> = (0..5 * 12).map(|value| 1.0 / (value as f32 + 1.0)).collect();
            let values: Vec<f32> = keys.iter().map(|value| -value).collect();
            memory.store(&[KvSlice { rows: 0..5, start: 0, blocks: &[4, 1], first_block: 0 }], &keys, &values);
            let mut bytes = vec![7];
            memory.append_block(4, &mut bytes);
            assert_eq!(bytes.len(), 1 + layout.block_bytes(format), "they are appended");
            let mut other = KvMemory::with_format(layout, format);
            other.take_block(2, &bytes[1..]);
            for (head, slot) in [0, 1].into_iter().flat_map(|head| [0, 1, 2].map(|slot| (head, slot))) {
                assert!(other.key(2, head, slot).eq(memory.key(4, head, slot)), "{format:?}, head {head}, slot {slot}");
                assert!(other.value(2, head, slot).eq(memory.value(4, head, slot)), "{format:?}, head {head}, slot {slot}");
                assert!(other.key(1, head, slot).chain(other.value(3, head, slot)).all(|number| number == 0.0));
            }
        }
    }

    #[test]
    #[should_panic(expected = "a block is copied whole")]
    fn half_a_block_is_a_bug() {
        let layout = KvLayout { blocks: 5, block_tokens: 3, kv_heads: 2, head_dim: 6 };
        KvMemory::new(layout).take_block(0, &[0; 64]);
    }
}
