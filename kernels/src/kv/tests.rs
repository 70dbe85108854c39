use super::*;

const LAYOUT: KvLayout = KvLayout { blocks: 5, block_tokens: 3, kv_heads: 2, head_dim: 6 };

#[test]
fn a_stored_token_is_found_at_its_block_and_slot() {
    let mut memory = KvMemory::new(LAYOUT);
    let keys: Vec<f32> = (0..2 * 12).map(|value| value as f32 + 1.0).collect();
    let values: Vec<f32> = keys.iter().map(|value| value + 100.0).collect();
    // Positions 5 and 6 lie in logical blocks 1 and 2, the table's first two entries.
    let slice = KvSlice { rows: 0..2, start: 5, blocks: &[4, 2], first_block: 1 };
    memory.store(std::slice::from_ref(&slice), &keys, &values);
    let key = |block, head, slot, dim| memory.key(block, head, slot).nth(dim).unwrap();
    assert_eq!(key(4, 0, 2, 0), 1.0);
    assert_eq!(key(4, 1, 2, 5), 12.0);
    assert_eq!(key(2, 1, 0, 5), 24.0);
    assert_eq!(memory.value(2, 1, 0).collect::<Vec<_>>(), [119.0, 120.0, 121.0, 122.0, 123.0, 124.0]);
    let Stored::F32(planes) = memory.stored() else { panic!("f32 unless said otherwise") };
    let stored = planes.keys.iter().filter(|&&key| key != 0.0).count();
    assert_eq!(stored, 24, "nothing else was written");
}

#[test]
fn blocks_lie_one_after_the_other_and_fill_the_memory() {
    let memory = KvMemory::new(LAYOUT);
    let (mut keys_end, mut values_end) = (0, 0);
    for block in 0..LAYOUT.blocks as u32 {
        for head in 0..LAYOUT.kv_heads {
            assert_eq!(LAYOUT.keys(block, head).start, keys_end);
            assert_eq!(LAYOUT.values(block, head).start, values_end);
            (keys_end, values_end) = (LAYOUT.keys(block, head).end, LAYOUT.values(block, head).end);
        }
    }
    assert_eq!(memory.bytes(), 4 * (keys_end + values_end));
    for format in [KvFormat::F32, KvFormat::F16] {
        let memory = KvMemory::with_format(LAYOUT, format);
        assert_eq!(memory.bytes(), format.number_bytes() * (keys_end + values_end));
        assert_eq!(LAYOUT.block_bytes(format) * LAYOUT.blocks, memory.bytes());
    }
}

#[test]
#[should_panic(expected = "logical block 0 is not in the block table, which covers 1..2")]
fn a_position_that_the_table_does_not_cover_is_a_bug() {
    let _ = KvSlice { rows: 0..1, start: 0, blocks: &[0], first_block: 1 }.locate(2, 3);
}

#[test]
fn a_window_counts_the_token_itself() {
    assert_eq!(visible(0, None), 0..1);
    assert_eq!(visible(9, None), 0..10);
    assert_eq!(visible(9, Some(4)), 6..10);
    assert_eq!(visible(2, Some(4)), 0..3);
    assert_eq!(visible(2, Some(1)), 2..3);
}

#[test]
fn f16_is_the_nearest_and_saturates_and_what_is_broken_stays() {
    let mut memory = KvMemory::with_format(LAYOUT, KvFormat::F16);
    let tiny = 2f32.powi(-24);
    let given = [0.1, 1.0 + 2f32.powi(-11), 70_000.0, -1e30, f32::INFINITY, 0.4 * tiny, -1.6 * tiny, 65_519.0, f32::NAN];
    let kept = [0.099_975_586, 1.0, 65_504.0, -65_504.0, f32::INFINITY, 0.0, -2.0 * tiny, 65_504.0];
    let (mut keys, mut values) = ([0.0; 12], [0.0; 12]);
    keys[3..].copy_from_slice(&given);
    values[..9].copy_from_slice(&given);
    memory.store(&[KvSlice { rows: 0..1, start: 1, blocks: &[3], first_block: 0 }], &keys, &values);
    let stored_keys: Vec<f32> = (0..2).flat_map(|head| memory.key(3, head, 1).collect::<Vec<_>>()).collect();
    let stored_values: Vec<f32> = (0..2).flat_map(|head| memory.value(3, head, 1).collect::<Vec<_>>()).collect();
    assert_eq!((&stored_keys[3..11], &stored_values[..8]), (&kept[..], &kept[..]));
    assert!(stored_keys[11].is_nan() && stored_values[8].is_nan());
}
