//! Tokens on OpenAI's vocabulary, against tiktoken.

use antiphon::batch::TokenId;
use proptest::prelude::*;

use super::o200k;

fn check(text: &str) {
    let tokenizer = o200k::tokenizer();
    let ours = tokenizer.encode_text(text);
    let theirs: Vec<TokenId> = tiktoken_rs::o200k_harmony_singleton().encode_ordinary(text).into_iter().map(TokenId).collect();
    assert_eq!(ours, theirs, "{text:?}");
    assert_eq!(tokenizer.decode(&ours), text);
}

#[test]
fn the_sources_of_this_project_become_tiktokens_tokens() {
    for text in [include_str!("harmony.rs"), include_str!("o200k.rs"), include_str!("../../../src/prompt/tokenizer/tests.rs")] {
        check(text);
    }
}

#[test]
fn a_megabyte_of_one_character_comes_back() {
    let tokenizer = o200k::tokenizer();
    for character in ["a", " ", "\n", "0", "안", "😀", "A", "-", "\t", "é", "\u{301}", "\r"] {
        let text = character.repeat(1_000_000 / character.len());
        assert!(tokenizer.decode(&tokenizer.encode_text(&text)) == text, "{character:?}");
        // tiktoken takes seconds from some ten thousand on.
        check(&character.repeat(3_000 / character.len()));
    }
}

#[test]
fn every_token_is_its_bytes() {
    let tokenizer = o200k::tokenizer();
    assert_eq!(tokenizer.vocab_size(), o200k::VOCAB_SIZE);
    let theirs = tiktoken_rs::o200k_harmony_singleton();
    for id in 0..200_019 {
        assert_eq!(tokenizer.is_control(TokenId(id)), id >= 199_998);
        if id < 199_998 {
            assert_eq!(tokenizer.bytes_of(TokenId(id)), theirs.decode_bytes(&[id]).unwrap(), "{id}");
        }
    }
    assert_eq!(tokenizer.bytes_of(TokenId(200_019)), b"");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn any_text_becomes_tiktokens_tokens(pieces in prop::collection::vec(piece(), 0..20)) {
        check(&pieces.concat());
    }
}

fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{1,8}",
        "[a-zA-Z]{1,15}",
        "[0-9]{1,9}",
        "[ \t\r\n]{1,9}",
        "[가-힣]{1,8}",
        "[!-/:-@\\[-`{-~]{1,6}",
        "(the| The|'ll|'S|don't|<\\|start\\|>|https://|👩‍👩‍👧|\u{1F1F0}\u{1F1F7}|\n\n)",
        ("[a 0.\\-가]", 20_usize..300).prop_map(|(unit, times)| unit.repeat(times)),
    ]
}
