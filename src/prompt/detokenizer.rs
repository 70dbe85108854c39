//! Bytes to text, piece by piece: what has been given out is complete UTF-8 and never changes.
//!
//! Owns: at most three bytes, the beginning of a character whose end has not come. Promises: all pieces joined are
//! `String::from_utf8_lossy` of all bytes joined, however the bytes were cut. Absent on purpose: tokens; the caller looks up
//! their bytes.

/// The bytes of an unfinished character.
#[derive(Debug, Clone, Default)]
pub struct Detokenizer {
    pending: [u8; 3],
    pending_len: usize,
}

impl Detokenizer {
    /// A detokenizer that holds nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many bytes are held back: at most three.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.pending_len
    }

    /// Takes the next bytes and appends to `text` what they complete. Bytes that can never become a character are replaced
    /// by U+FFFD, as `String::from_utf8_lossy` does.
    pub fn push(&mut self, bytes: &[u8], text: &mut String) {
        if self.pending_len == 0 {
            self.push_whole(bytes, text);
            return;
        }
        let mut joined = Vec::with_capacity(self.pending_len + bytes.len());
        joined.extend_from_slice(&self.pending[..self.pending_len]);
        joined.extend_from_slice(bytes);
        self.pending_len = 0;
        self.push_whole(&joined, text);
    }

    /// Appends a U+FFFD to `text` if an unfinished character is held back: nothing will complete it.
    pub fn flush(&mut self, text: &mut String) {
        if self.pending_len > 0 {
            // Unfinished bytes are the beginning of one character, so from_utf8_lossy makes one replacement of them.
            text.push(char::REPLACEMENT_CHARACTER);
            self.pending_len = 0;
        }
    }

    /// As [`Detokenizer::push`], with nothing held back before.
    fn push_whole(&mut self, bytes: &[u8], text: &mut String) {
        let mut rest = bytes;
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => return text.push_str(valid),
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).expect("valid_up_to says so"));
                    match error.error_len() {
                        Some(len) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = &after[len..];
                        }
                        None => {
                            self.pending[..after.len()].copy_from_slice(after);
                            self.pending_len = after.len();
                            return;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "detokenizer_tests.rs"]
mod tests;
