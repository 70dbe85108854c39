//! Gathers text into pieces before it is sent: fewer, larger events for the same answer.
//!
//! Owns: the text of one choice that is not sent yet. Promises: nothing is lost, added, trimmed or
//! reordered. A piece never ends inside a grapheme (a letter and its accent, an emoji and its skin
//! tone) unless the text ends there or gathering is off. The first piece goes out at once. Absent
//! on purpose: clocks (time comes in as `now`), timers, channels.

use unicode_segmentation::GraphemeCursor;

use crate::actors::messages::Coalescing;
use crate::batch::Micros;

/// A grapheme longer than this is let go in pieces. Unicode's stream-safe text format allows 30
/// combining marks in a row; what is longer is made to be held back for ever.
const GRAPHEME_MAX_BYTES: usize = 128;

/// Text of one kind that waits to be sent.
#[derive(Debug)]
pub(super) struct Coalescer {
    rule: Coalescing,
    held: String,
    held_chars: usize,
    /// When the oldest held text came; `None` while nothing is held, or while what is held waits
    /// only for its grapheme's end.
    since: Option<Micros>,
    sent_any: bool,
}

impl Coalescer {
    /// Nothing held.
    pub(super) fn new(rule: Coalescing) -> Self {
        Self { rule, held: String::new(), held_chars: 0, since: None, sent_any: false }
    }

    /// Takes more text.
    pub(super) fn push(&mut self, text: &str, now: Micros) {
        if text.is_empty() {
            return;
        }
        self.held.push_str(text);
        self.held_chars += text.chars().count();
        self.since.get_or_insert(now);
    }

    /// The piece to send now, if it is time: the first text, enough characters, or text held for
    /// long enough.
    pub(super) fn take_due(&mut self, now: Micros) -> Option<String> {
        let due = !self.sent_any
            || self.rule.max_ms == 0
            || (self.rule.max_chars > 0 && self.held_chars >= self.rule.max_chars)
            || self.deadline().is_some_and(|deadline| now >= deadline);
        if !due || self.held.is_empty() {
            return None;
        }
        let end = if self.rule.max_ms == 0 { self.held.len() } else { sure_boundary(&self.held) };
        // What is left is one unfinished grapheme; it goes with the text that ends it, or at the
        // end.
        self.since = None;
        if end == 0 {
            return None;
        }
        let rest = self.held.split_off(end);
        self.held_chars = rest.chars().count();
        self.sent_any = true;
        Some(std::mem::replace(&mut self.held, rest))
    }

    /// Everything held, because the text ends or changes its kind here.
    pub(super) fn take_all(&mut self) -> Option<String> {
        self.since = None;
        self.held_chars = 0;
        if self.held.is_empty() {
            return None;
        }
        self.sent_any = true;
        Some(std::mem::take(&mut self.held))
    }

    /// When [`Coalescer::take_due`] is to be asked again although no text came.
    pub(super) fn deadline(&self) -> Option<Micros> {
        self.since.map(|since| since.plus(self.rule.max_ms.saturating_mul(1_000)))
    }
}

/// Where the last grapheme of `text` begins: up to there no later text can change the graphemes.
fn sure_boundary(text: &str) -> usize {
    let last = GraphemeCursor::new(text.len(), text.len(), true).prev_boundary(text, 0).ok().flatten().unwrap_or(0);
    if text.len() - last > GRAPHEME_MAX_BYTES { text.len() } else { last }
}

#[cfg(test)]
#[path = "coalesce_tests.rs"]
mod tests;
