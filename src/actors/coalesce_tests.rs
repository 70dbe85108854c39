//! The coalescer against its promises, on random texts cut at random places.

use proptest::prelude::*;
use unicode_segmentation::UnicodeSegmentation;

use super::*;

/// Pushes `pieces` at the given times and returns what came out.
fn run(rule: Coalescing, pieces: &[(String, u64)]) -> Vec<String> {
    let mut coalescer = Coalescer::new(rule);
    let mut out = Vec::new();
    let mut now = Micros(0);
    for (piece, pause_ms) in pieces {
        let then = now.plus(pause_ms * 1_000);
        while let Some(deadline) = coalescer.deadline().filter(|deadline| *deadline <= then) {
            out.extend(coalescer.take_due(deadline));
        }
        now = then;
        coalescer.push(piece, now);
        out.extend(coalescer.take_due(now));
    }
    out.extend(coalescer.take_all());
    out
}

/// Texts in which graphemes of several code points are common.
fn texts() -> impl Strategy<Value = String> {
    let atoms = prop::sample::select(vec![
        "a",
        " ",
        "\n",
        "\r",
        "e\u{301}",
        "안",
        "ᄒ",
        "ᅡ",
        "ᆫ",
        "👩\u{200d}👩\u{200d}👧",
        "👍🏽",
        "🇰🇷",
        "🇯",
        "1\u{fe0f}\u{20e3}",
        "क्षि",
        "\u{200d}",
        "\u{301}",
        "print(",
    ]);
    prop::collection::vec(atoms, 0..40).prop_map(|atoms| atoms.concat())
}

/// A text cut into pieces at any characters, with pauses in milliseconds.
fn pieces() -> impl Strategy<Value = Vec<(String, u64)>> {
    (texts(), prop::collection::vec((1_usize..5, 0_u64..80), 80)).prop_map(|(text, cuts)| {
        let mut chars = text.chars().peekable();
        let mut out = Vec::new();
        for (len, pause) in cuts.into_iter().cycle() {
            if chars.peek().is_none() {
                break;
            }
            out.push((chars.by_ref().take(len).collect(), pause));
        }
        out
    })
}

proptest! {
    #[test]
    fn joined_pieces_are_the_text(pieces in pieces(), max_ms in 0_u64..100, max_chars in 0_usize..30) {
        let text: String = pieces.iter().map(|(piece, _)| piece.as_str()).collect();
        let out = run(Coalescing { max_ms, max_chars }, &pieces);
        prop_assert!(out.iter().all(|piece| !piece.is_empty()));
        prop_assert_eq!(out.concat(), text);
    }

    #[test]
    fn no_piece_ends_inside_a_grapheme(pieces in pieces(), max_ms in 1_u64..100, max_chars in 0_usize..30) {
        let out = run(Coalescing { max_ms, max_chars }, &pieces);
        let text = out.concat();
        let boundaries: Vec<usize> = text.grapheme_indices(true).map(|(at, _)| at).chain([text.len()]).collect();
        let mut at = 0;
        for piece in &out {
            at += piece.len();
            prop_assert!(boundaries.contains(&at), "a piece of {out:?} ends inside a grapheme at {at}");
        }
    }

    #[test]
    fn nothing_but_one_grapheme_is_held_past_the_deadline(pieces in pieces(), max_ms in 1_u64..100) {
        let mut coalescer = Coalescer::new(Coalescing { max_ms, max_chars: 0 });
        let mut now = Micros(0);
        for (piece, pause_ms) in &pieces {
            now = now.plus(pause_ms * 1_000);
            coalescer.push(piece, now);
            let late = coalescer.deadline().map_or(now, |deadline| deadline.max(now));
            coalescer.take_due(late);
            prop_assert!(coalescer.held.graphemes(true).count() <= 1);
            prop_assert_eq!(coalescer.deadline(), None);
        }
    }
}

fn owned(pieces: &[(&str, u64)]) -> Vec<(String, u64)> {
    pieces.iter().map(|(piece, pause)| ((*piece).to_owned(), *pause)).collect()
}

#[test]
fn the_first_piece_goes_at_once_and_the_next_are_gathered() {
    let out =
        run(Coalescing { max_ms: 50, max_chars: 0 }, &owned(&[("Hello", 0), (", ", 10), ("wor", 10), ("ld", 10), ("!", 60)]));
    assert_eq!(out, ["Hell", "o, worl", "d!"]);
}

#[test]
fn characters_end_a_piece_before_time_does() {
    let out = run(Coalescing { max_ms: 1_000, max_chars: 4 }, &owned(&[("ab", 0), ("cd", 0), ("ef", 0), ("gh", 0), ("ij", 0)]));
    assert_eq!(out, ["a", "bcde", "fghi", "j"]);
}

#[test]
fn zero_milliseconds_sends_every_piece_as_it_is() {
    let out = run(Coalescing { max_ms: 0, max_chars: 0 }, &owned(&[("e", 0), ("\u{301}", 0), (" x", 0)]));
    assert_eq!(out, ["e", "\u{301}", " x"]);
}

#[test]
fn an_endless_grapheme_is_not_held_for_ever() {
    let marks: Vec<(String, u64)> = std::iter::once("x".to_owned())
        .chain(std::iter::repeat_n("\u{301}".to_owned(), 1_000))
        .map(|piece| (piece, 20))
        .collect();
    let out = run(Coalescing { max_ms: 10, max_chars: 0 }, &marks);
    assert!(out.len() > 10);
    assert!(out.iter().all(|piece| piece.len() <= GRAPHEME_MAX_BYTES + 3));
}
