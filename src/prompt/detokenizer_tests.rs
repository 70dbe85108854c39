use proptest::prelude::*;

use super::Detokenizer;

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
