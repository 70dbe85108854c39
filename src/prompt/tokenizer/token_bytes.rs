//! What each token stands for, as bytes.

/// The bytes of all tokens, one after another.
#[derive(Debug)]
pub(super) struct TokenBytes {
    bytes: Vec<u8>,
    /// Where each token's bytes end; they begin where the ones before end.
    ends: Vec<u32>,
}

impl TokenBytes {
    /// `tokens`: the bytes of token 0, 1, ...; none for ids that stand for nothing.
    pub(super) fn new(tokens: &[Option<Box<[u8]>>]) -> Self {
        let mut table = Self { bytes: Vec::new(), ends: Vec::with_capacity(tokens.len()) };
        for token in tokens {
            table.bytes.extend(token.iter().flat_map(|bytes| bytes.iter()));
            table.ends.push(u32::try_from(table.bytes.len()).expect("a vocabulary is below 4 GiB"));
        }
        table
    }

    /// How many tokens there are.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of the longest token; at least one.
    pub(super) fn longest_bytes(&self) -> usize {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let lengths = self.ends.iter().zip(starts).map(|(end, start)| (end - start) as usize);
        lengths.max().unwrap_or(0).max(1)
    }

    /// The bytes of a token; none if it is beyond the table.
    pub(super) fn get(&self, id: u32) -> &[u8] {
        let at = id as usize;
        let Some(end) = self.ends.get(at) else { return &[] };
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.bytes[start as usize..*end as usize]
    }
}

/// The character by which a byte-level vocabulary writes `byte`: itself if it can be seen, else one
/// from U+0100 on.
///
/// Source: `bytes_to_unicode` of GPT-2's encoder.py.
pub(super) fn character_of(byte: u8) -> char {
    let code = match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u32::from(byte),
        0x00..=0x20 => 0x100 + u32::from(byte),
        0x7f..=0xa0 => 0x121 + u32::from(byte - 0x7f),
        0xad => 0x143,
    };
    char::from_u32(code).expect("below the surrogates")
}

/// The byte that `character` writes in a byte-level vocabulary, if it writes one.
fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    let byte = match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// The bytes that a token of a byte-level vocabulary stands for; `None` if a character of it writes
/// no byte.
pub(super) fn bytes_of(token: &str) -> Option<Box<[u8]>> {
    token.chars().map(byte_of).collect()
}

#[cfg(test)]
mod tests {
    use super::{byte_of, character_of};

    #[test]
    fn every_byte_has_a_character_of_its_own() {
        for byte in 0..=u8::MAX {
            assert_eq!(byte_of(character_of(byte)), Some(byte));
        }
        assert_eq!([character_of(b' '), character_of(b'\n'), character_of(b'a')], ['Ġ', 'Ċ', 'a']);
        assert_eq!([' ', '\u{144}', '안'].map(byte_of), [None; 3]);
    }
}
