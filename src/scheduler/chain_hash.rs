//! The hashes under which filled blocks are found: of a block's tokens and of all tokens before
//! them.
//!
//! SipHash-2-4 with 128 bits of output, keyed: without the key no client can make blocks that fall
//! on each other. A wrong find is impossible even then, because tokens are compared; what a
//! collision could cost is time.
//!
//! Source: Aumasson and Bernstein 2012, "SipHash: a fast short-input PRF", and its reference code.

use crate::batch::TokenId;

/// The key of the hashes, drawn at random once in a server's life.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey(pub [u64; 2]);

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey(…)")
    }
}

/// What keeps the blocks of one client apart from another's: a prefix is found only under the salt
/// under which it was computed. The default is that of clients without one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct CacheSalt(pub [u64; 2]);

impl std::fmt::Debug for CacheSalt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Self::default() { "CacheSalt(none)" } else { "CacheSalt(…)" })
    }
}

/// The hash of a salt and of all tokens of a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ChainHash(pub(super) [u64; 2]);

impl ChainHash {
    /// Of no token.
    pub(super) fn root(key: HashKey, salt: CacheSalt) -> Self {
        let mut state = HashState::new(key);
        salt.0.into_iter().for_each(|word| state.take(word));
        state.finish(16, 0)
    }

    /// Of the tokens that `self` stands for, and `tokens`.
    pub(super) fn then(self, key: HashKey, tokens: &[TokenId]) -> Self {
        let mut state = HashState::new(key);
        self.0.into_iter().for_each(|word| state.take(word));
        let (pairs, rest) = tokens.as_chunks::<2>();
        for [low, high] in pairs {
            state.take(u64::from(low.0) | u64::from(high.0) << 32);
        }
        let tail = rest.first().map_or(0, |token| u64::from(token.0));
        state.finish(16 + 4 * tokens.len() as u64, tail)
    }
}

/// SipHash's state.
struct HashState([u64; 4]);

impl HashState {
    fn new(HashKey([first, second]): HashKey) -> Self {
        Self([
            first ^ 0x736f_6d65_7073_6575,
            second ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            first ^ 0x6c79_6765_6e65_7261,
            second ^ 0x7465_6462_7974_6573,
        ])
    }

    fn rounds<const COUNT: usize>(&mut self) {
        let [mut a, mut b, mut c, mut d] = self.0;
        for _ in 0..COUNT {
            a = a.wrapping_add(b);
            c = c.wrapping_add(d);
            b = b.rotate_left(13) ^ a;
            d = d.rotate_left(16) ^ c;
            a = a.rotate_left(32).wrapping_add(d);
            c = c.wrapping_add(b);
            d = d.rotate_left(21) ^ a;
            b = b.rotate_left(17) ^ c;
            c = c.rotate_left(32);
        }
        self.0 = [a, b, c, d];
    }

    fn take(&mut self, word: u64) {
        self.0[3] ^= word;
        self.rounds::<2>();
        self.0[0] ^= word;
    }

    /// `tail`: the bytes that make no whole word, of a message of `len_bytes` in all.
    fn finish(mut self, len_bytes: u64, tail: u64) -> ChainHash {
        self.take(len_bytes << 56 | tail);
        self.0[2] ^= 0xee;
        self.rounds::<4>();
        let first = self.0.into_iter().fold(0, |all, word| all ^ word);
        self.0[1] ^= 0xdd;
        self.rounds::<4>();
        ChainHash([first, self.0.into_iter().fold(0, |all, word| all ^ word)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes 0, 1, 2 and so on, as tokens from `from` on.
    fn counting(from: usize, tokens: usize) -> Vec<TokenId> {
        let byte = |at: usize| (from + at) as u8;
        (0..tokens).map(|i| TokenId(u32::from_le_bytes([0, 1, 2, 3].map(|at| byte(4 * i + at))))).collect()
    }

    fn hexadecimal(ChainHash(words): ChainHash) -> String {
        words.iter().flat_map(|word| word.to_le_bytes()).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Vectors made with `openssl mac -macopt hexkey:000102...0f -macopt size:16 SIPHASH`.
    #[test]
    fn the_hashes_are_those_of_the_reference() {
        let bytes = |from: u8| u64::from_le_bytes(std::array::from_fn(|at| from + at as u8));
        let key = HashKey([bytes(0), bytes(8)]);
        assert_eq!(hexadecimal(HashState::new(key).finish(0, 0)), "a3817f04ba25a8e66df67214c7550293");
        let before = ChainHash([bytes(0), bytes(8)]);
        assert_eq!(hexadecimal(before.then(key, &counting(16, 4))), "7c3956ca5eeafc3e363e9d556546eb68");
        assert_eq!(hexadecimal(before.then(key, &counting(16, 7))), "89237d9ded9c5e78d8b1c9b166cc7342");
    }
}
