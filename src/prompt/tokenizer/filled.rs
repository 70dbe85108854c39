//! A vocabulary that is filled up to a model's size, for models that have no tokenizer of their
//! own.

use serde_json::Value;

/// Adds made-up words to `json`, the contents of a tokenizer.json, until it has `vocab_size`
/// tokens.
///
/// Each stands for itself alone in a text, with the space before it. The tokens that are there keep
/// their ids.
///
/// # Errors
/// If it is no tokenizer.json.
pub fn fill_vocabulary(json: &[u8], vocab_size: usize) -> Result<Vec<u8>, serde_json::Error> {
    let mut value: Value = serde_json::from_slice(json)?;
    let ids = |value: &Value| value.as_u64().unwrap_or(0) + 1;
    let added = value["added_tokens"].as_array().into_iter().flatten().map(|token| ids(&token["id"])).max().unwrap_or(0);
    let Some(vocab) = value["model"]["vocab"].as_object_mut() else {
        return Err(serde::de::Error::custom("no object model.vocab"));
    };
    let first = vocab.values().map(ids).max().unwrap_or(0).max(added);
    let mut words = (0..).map(word);
    for id in first..vocab_size as u64 {
        let word = words.by_ref().find(|word| !vocab.contains_key(word)).expect("there is no end of words");
        vocab.insert(word, id.into());
    }
    serde_json::to_vec(&value)
}

/// A word of its own for each number: syllables, the lowest first, behind a space in the byte-level
/// alphabet.
fn word(number: usize) -> String {
    const CONSONANTS: &[u8] = b"bdfghjklmnprstvwz";
    const VOWELS: &[u8] = b"aeiou";
    let mut word = String::from('\u{120}');
    let mut left = number;
    loop {
        let (syllable, more) = (left % (CONSONANTS.len() * VOWELS.len()), left / (CONSONANTS.len() * VOWELS.len()));
        word.push(char::from(CONSONANTS[syllable / VOWELS.len()]));
        word.push(char::from(VOWELS[syllable % VOWELS.len()]));
        let Some(next) = more.checked_sub(1) else { return word };
        left = next;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Tokenizer;
    use super::*;

    #[test]
    fn every_row_has_a_token_and_texts_keep_theirs() {
        let json = include_bytes!("../../../models/tiny/tokenizer.json");
        let before = Tokenizer::from_json("tokenizer.json", json, 200_000).unwrap();
        let rows = (0..).take_while(|id| !before.bytes_of(crate::batch::TokenId(*id)).is_empty()).count();
        for vocab_size in [rows, 8192, 20_000] {
            let filled = Tokenizer::from_json("filled", &fill_vocabulary(json, vocab_size).unwrap(), vocab_size).unwrap();
            let mut seen = std::collections::HashSet::new();
            for id in 0..u32::try_from(vocab_size).unwrap() {
                let bytes = filled.bytes_of(crate::batch::TokenId(id));
                assert!(!bytes.is_empty() && seen.insert(bytes.to_vec()), "token {id}: {bytes:?}");
            }
            assert_eq!(filled.encode_text("12 + 30 = 42"), before.encode_text("12 + 30 = 42"));
        }
        assert!(fill_vocabulary(b"{}", 10).is_err());
    }
}
