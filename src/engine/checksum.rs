//! A checksum for what lies on a disk.

/// Odd, so that a product loses no bit.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
/// Words that are mixed side by side: a product takes four cycles, and does not wait for others.
const LANES: usize = 4;

/// A number that stands for `bytes`, and is another if any eight neighbours of them are, from a
/// multiple of eight on. It keeps accidents out, not attackers: whatever writes the file can write
/// its checksum as well.
///
/// Each lane takes every fourth word by steps that can be undone, so that one word that differs
/// makes the lane differ; so do the lanes the end.
pub(super) fn checksum(bytes: &[u8]) -> u64 {
    let mut lanes: [u64; LANES] = std::array::from_fn(|lane| FACTOR.wrapping_mul(lane as u64 + 1));
    let (words, tail) = bytes.as_chunks::<8>();
    let (rows, rest) = words.as_chunks::<LANES>();
    for row in rows {
        for (lane, word) in lanes.iter_mut().zip(row) {
            *lane = mixed(*lane, u64::from_le_bytes(*word));
        }
    }
    for (lane, word) in lanes.iter_mut().zip(rest) {
        *lane = mixed(*lane, u64::from_le_bytes(*word));
    }
    let last = tail.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    [last, bytes.len() as u64].into_iter().chain(lanes).fold(FACTOR, mixed)
}

fn mixed(state: u64, word: u64) -> u64 {
    (state ^ word).wrapping_mul(FACTOR).rotate_left(29)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_that_changes_or_goes_shows() {
        let bytes: Vec<u8> = (0..200_u32).map(|at| ((at * at) >> 3) as u8).collect();
        for len in [0, 1, 7, 8, 9, 31, 32, 33, 63, 100, 200] {
            let bytes = &bytes[..len];
            let whole = checksum(bytes);
            for at in 0..len {
                for bit in 0..8 {
                    let mut other = bytes.to_vec();
                    other[at] ^= 1 << bit;
                    assert_ne!(checksum(&other), whole, "bit {bit} of byte {at} of {len}");
                }
                assert_ne!(checksum(&bytes[..at]), whole, "{at} bytes of {len}");
            }
            assert_ne!(checksum(&[bytes, &[0]].concat()), whole, "a zero behind {len} bytes");
        }
    }

    #[test]
    fn words_that_change_places_show() {
        let bytes: Vec<u8> = (0..16_u64).flat_map(|word| (word * 77).to_le_bytes()).collect();
        for (one, other) in (0..16).flat_map(|one| (0..one).map(move |other| (one, other))) {
            let mut swapped = bytes.clone();
            (0..8).for_each(|byte| swapped.swap(8 * one + byte, 8 * other + byte));
            assert_ne!(checksum(&swapped), checksum(&bytes), "words {one} and {other}");
        }
    }
}
