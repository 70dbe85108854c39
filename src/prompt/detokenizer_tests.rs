use proptest::prelude::*;

use super::{Detokenizer, TextPosition, TokenPositions};

/// Pushes `bytes` in the given pieces.
fn pushed(pieces: &[&[u8]]) -> String {
    let mut detokenizer = Detokenizer::new();
    let mut text = String::new();
    for piece in pieces {
        let before = text.len();
        detokenizer.push(piece, &mut text);
        assert!(detokenizer.pending_bytes() <= 3);
        assert!(text.is_char_boundary(before));
    }
    detokenizer.flush(&mut text);
    assert_eq!(detokenizer.pending_bytes(), 0);
    text
}

#[test]
fn korean_and_emoji_come_out_whole_from_single_bytes() {
    let text = "안녕하세요 👩‍👩‍👧 ok \u{10ffff}";
    let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
    assert_eq!(pushed(&bytes), text);
}

#[test]
fn nothing_is_given_out_before_its_character_is_complete() {
    let mut detokenizer = Detokenizer::new();
    let mut text = String::new();
    for byte in &"👋".as_bytes()[..3] {
        detokenizer.push(&[*byte], &mut text);
        assert_eq!(text, "");
    }
    assert_eq!(detokenizer.pending_bytes(), 3);
    detokenizer.push(&"👋".as_bytes()[3..], &mut text);
    assert_eq!(text, "👋");
}

fn at(chars: usize, bytes: usize) -> TextPosition {
    TextPosition { chars, bytes }
}

#[test]
fn a_token_stands_where_its_first_character_does() {
    let mut places = TokenPositions::new();
    // One character of three bytes in two tokens, and one of four that is never completed.
    let tokens: [(&[u8], TextPosition, bool); 6] = [
        (b"ab", at(0, 0), false),
        (b"c\xec", at(2, 2), true),
        (b"\x95\x88", at(3, 3), false),
        (b"\xf0\x9f", at(4, 6), true),
        // The replacement character has three bytes.
        (b"d", at(5, 9), false),
        (b"", at(6, 10), false),
    ];
    for (bytes, place, is_inside) in tokens {
        assert_eq!((places.push(bytes), places.is_inside_character()), (place, is_inside), "{bytes:?}");
    }
    assert_eq!(places.next(), at(6, 10));
    places.go_on_at(50);
    assert_eq!(places.push(b"x"), at(6, 50));
    places.push(b"\xec");
    places.flush();
    assert_eq!((places.next(), places.is_inside_character()), (at(8, 54), false));
}

#[test]
fn bytes_of_a_token_are_counted_up_to_a_place_in_the_text() {
    let mut places = TokenPositions::new();
    places.push(b"ab\xec");
    let token = b"\x95\x88cd";
    let before = [0, 2, 3, 5, 6, 7, 9].map(|end| places.bytes_before(token, end));
    assert_eq!(before, [0, 0, 2, 2, 3, 4, 4], "the rest of a character counts with its first byte");
    assert_eq!(places.next(), at(2, 2), "asking changes nothing");
}

#[test]
fn a_genuine_replacement_character_survives_at_the_end() {
    assert_eq!(pushed(&["a\u{fffd}".as_bytes()]), "a\u{fffd}");
}

#[test]
fn empty_pieces_change_nothing() {
    assert_eq!(pushed(&[b"", b"\xec", b"", b"\x95\x88", b""]), "안");
}

/// Bytes with a taste for the edges of UTF-8: lead bytes, continuations, surrogates, overlong
/// forms.
fn odd_bytes() -> impl Strategy<Value = Vec<u8>> {
    let odd = prop_oneof![
        any::<u8>(),
        Just(0xed),
        Just(0xa0),
        Just(0xe0),
        Just(0xf0),
        Just(0xf4),
        Just(0x8f),
        Just(0x90),
        Just(0xbf),
        Just(0xc0),
        Just(b'a'),
    ];
    prop::collection::vec(odd, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn pieces_joined_are_from_utf8_lossy_of_the_whole(bytes in odd_bytes(), cuts in prop::collection::vec(1_usize..5, 40)) {
        let mut pieces = Vec::new();
        let mut rest = bytes.as_slice();
        for cut in cuts {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        prop_assert_eq!(pushed(&pieces), String::from_utf8_lossy(&bytes));
    }
}
