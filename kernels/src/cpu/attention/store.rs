//! Keys and values of a step, into their slots.
//!
//! What: the key and the value of each token and KV head go to the slot of the block that holds the
//! token's position, in the numbers that the memory is made of. Shapes: `keys`, `values` `[T,
//! kv_heads * head_dim]`. Source: IEEE 754-2019, binary16, for f16. Twin: [`KvMemory::store`],
//! equal. Cost: `16` bytes a key and value, `12` in f16; a key touches a line of memory for every
//! two of its dimensions, so it waits for memory rather than for arithmetic.

use crate::cpu::Cpu;
use crate::cpu::pool::{Outputs, Pool};
use crate::kv::{KvLayout, KvMemory, KvNumber, KvSlice, Planes, Stored};

/// Values of keys that are worth claiming a piece of work for: some 3 us of one thread.
const CLAIM: usize = 1 << 10;

impl Cpu {
    /// Stores the keys and values that a step computed for `slices`: `keys`, `values`
    /// `[T, kv_heads * head_dim]`. Twin: [`KvMemory::store`], equal.
    ///
    /// # Panics
    /// If a row of a slice is not in `keys`, or its position not in the slice's block table.
    pub fn store_kv(&mut self, memory: &mut KvMemory, slices: &[KvSlice<'_>], keys: &[f32], values: &[f32]) {
        assert_eq!(keys.len(), values.len(), "as many keys as values");
        let layout = *memory.layout();
        match memory.stored_mut() {
            Stored::F32(planes) => store(&mut self.pool, &layout, planes, slices, (keys, values)),
            Stored::F16(planes) => store(&mut self.pool, &layout, planes, slices, (keys, values)),
        }
    }
}

/// The same for one kind of number; a piece of work is a head, whose memory no other head touches.
fn store<N: KvNumber + Send>(
    pool: &mut Pool,
    layout: &KvLayout,
    planes: &mut Planes<N>,
    slices: &[KvSlice<'_>],
    (keys, values): (&[f32], &[f32]),
) {
    let head_dim = layout.head_dim;
    let width = layout.kv_heads * head_dim;
    let tokens: usize = slices.iter().map(|slice| slice.rows.len()).sum();
    let (key_plane, value_plane) = (Outputs::new(&mut planes.keys), Outputs::new(&mut planes.values));
    pool.run(layout.kv_heads, CLAIM / (tokens * head_dim).max(1), |heads| {
        let mut rounded = vec![N::default(); head_dim];
        for head in heads {
            for slice in slices {
                for (row, position) in slice.rows.clone().zip(slice.start..) {
                    let (block, slot) = slice.locate(position, layout.block_tokens);
                    let from = row * width + head * head_dim..row * width + (head + 1) * head_dim;
                    N::round(&keys[from.clone()], &mut rounded);
                    // SAFETY: the pool hands out every head once, and this is the head's memory.
                    let stored = unsafe { key_plane.slice(layout.keys(block, head)) };
                    for (dim, &key) in rounded.iter().enumerate() {
                        stored[dim * layout.key_stride() + slot] = key;
                    }
                    // SAFETY: as above.
                    let stored = unsafe { value_plane.slice(layout.values(block, head)) };
                    N::round(&values[from], &mut stored[slot * layout.value_stride()..][..head_dim]);
                }
            }
        }
    });
}
