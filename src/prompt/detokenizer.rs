//! Bytes to text, piece by piece: what has been given out is complete UTF-8 and never changes.
//!
//! Owns: at most three bytes, the beginning of a character whose end has not come. Promises: all
//! pieces joined are `String::from_utf8_lossy` of all bytes joined, however the bytes were cut.
//! Absent on purpose: tokens; the caller looks up their bytes.

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

    /// Takes the next bytes and appends to `text` what they complete. Bytes that can never become a
    /// character are replaced by U+FFFD, as `String::from_utf8_lossy` does.
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

    /// Appends a U+FFFD to `text` if an unfinished character is held back: nothing will complete
    /// it.
    pub fn flush(&mut self, text: &mut String) {
        if self.pending_len > 0 {
            // Unfinished bytes are the beginning of one character, so from_utf8_lossy makes one
            // replacement of them.
            text.push(char::REPLACEMENT_CHARACTER);
            self.pending_len = 0;
        }
    }

    /// Whether `byte` goes on with the character that is held back; false if none is.
    #[must_use]
    pub fn goes_on_with(&self, byte: u8) -> bool {
        let mut joined = [0; 4];
        joined[..self.pending_len].copy_from_slice(&self.pending[..self.pending_len]);
        joined[self.pending_len] = byte;
        self.pending_len > 0
            && std::str::from_utf8(&joined[..=self.pending_len]).map_or_else(|error| error.error_len().is_none(), |_| true)
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

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TextPosition {
    /// Characters before it.
    pub chars: usize,
    /// Bytes before it.
    pub bytes: usize,
}

/// Where in the text of a [`Detokenizer`] each token begins. One that begins inside a character has
/// the character's place.
#[derive(Debug, Clone, Default)]
pub struct TokenPositions {
    detokenizer: Detokenizer,
    next: TextPosition,
}

impl TokenPositions {
    /// Places from the beginning of a text.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Where the next character will stand.
    #[must_use]
    pub fn next(&self) -> TextPosition {
        self.next
    }

    /// Whether the last token ends inside a character.
    #[must_use]
    pub fn is_inside_character(&self) -> bool {
        self.detokenizer.pending_bytes() > 0
    }

    /// The next character stands behind `bytes` bytes: text that is no token's came before it.
    pub fn go_on_at(&mut self, bytes: usize) {
        self.next.bytes = bytes;
    }

    /// How many of `token`, the next token's bytes, are of characters before byte `end` of the
    /// text.
    #[must_use]
    pub fn bytes_before(&self, token: &[u8], end: usize) -> usize {
        let mut places = self.clone();
        token.iter().take_while(|byte| places.push(&[**byte]).bytes < end).count()
    }

    /// The place of the next token, which has these bytes.
    pub fn push(&mut self, bytes: &[u8]) -> TextPosition {
        if bytes.first().is_some_and(|first| !self.detokenizer.goes_on_with(*first)) {
            self.flush();
        }
        let place = self.next;
        let mut text = String::new();
        self.detokenizer.push(bytes, &mut text);
        self.go_on(&text);
        place
    }

    /// Nothing completes the character that is unfinished.
    pub fn flush(&mut self) {
        let mut text = String::new();
        self.detokenizer.flush(&mut text);
        self.go_on(&text);
    }

    fn go_on(&mut self, text: &str) {
        self.next.chars += text.chars().count();
        self.next.bytes += text.len();
    }
}

#[cfg(test)]
#[path = "detokenizer_tests.rs"]
mod tests;
