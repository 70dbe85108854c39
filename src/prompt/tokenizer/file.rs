//! Reading and checking a tokenizer.json.
//!
//! Vocabulary and merges are read here, for the `tokenizers` crate keeps them to itself, and trusts
//! them: it cuts ids to 32 bits and panics on a merge that is longer than any token. Checked, the
//! file goes to that crate, whose reader gives the words' pattern and the added tokens.

use std::collections::HashMap;
use std::fmt::Display;

use serde_json::Value;
use tokenizers::{PreTokenizerWrapper, SplitDelimiterBehavior};

use super::TokenizerError;
use super::added::Added;
use super::control;
use super::merges::Merges;
use super::token_bytes::{bytes_of, character_of};
use super::whole_words::WholeWords;
use super::words::Words;

/// What a tokenizer.json says.
pub(super) struct TokenizerFile {
    pub(super) words: Words,
    pub(super) merges: Merges,
    pub(super) added: Added,
    pub(super) rows: Rows,
    /// Words that are one token each.
    pub(super) whole_words: WholeWords,
}

/// The model's vocabulary, row by row.
pub(super) struct Rows {
    /// What each stands for; `None` for ids that stand for nothing.
    pub(super) bytes: Vec<Option<Box<[u8]>>>,
    /// Whether it is a control token: an added one that the file calls special, or harmony's.
    pub(super) is_control: Vec<bool>,
    /// Whether it is an added token: found in a text as it is, not made of bytes.
    pub(super) is_added: Vec<bool>,
}

/// Reads `json`; see [`super::Tokenizer::from_json`].
pub(super) fn read(file: &str, json: &[u8], vocab_size: usize) -> Result<TokenizerFile, TokenizerError> {
    let not_a_tokenizer = |message| TokenizerError::NotATokenizer { file: file.to_owned(), message };
    let value: Value = serde_json::from_slice(json).map_err(|error| not_a_tokenizer(error.to_string()))?;
    let reader = TokenizerReader { file, value: &value, vocab_size };
    reader.check_kind()?;
    let vocab = reader.vocab()?;
    let rows = reader.rows(&vocab)?;
    let merges = Merges::new(reader.byte_tokens(&vocab, &rows)?, reader.merges(&vocab, &rows)?.into_iter());
    let inner = tokenizers::Tokenizer::from_bytes(json).map_err(|error| not_a_tokenizer(error.to_string()))?;
    let ordinary = (0_u32..).zip(&rows.bytes).filter(|(id, _)| !rows.is_added[*id as usize]);
    let words = ordinary.filter_map(|(id, bytes)| Some((bytes.as_deref()?, id)));
    // A file can say that words need no merging; else those are looked up whole that merging makes
    // the same.
    let unmerged = value["model"]["ignore_merges"] == true;
    let whole_words = if unmerged { WholeWords::all(words) } else { WholeWords::merged(words, &merges) };
    Ok(TokenizerFile {
        words: reader.words(inner.get_pre_tokenizer())?,
        merges,
        added: Added::new(&inner, reader.added(&rows)),
        rows,
        whole_words,
    })
}

struct TokenizerReader<'a> {
    file: &'a str,
    value: &'a Value,
    vocab_size: usize,
}

impl<'a> TokenizerReader<'a> {
    fn unsupported(&self, key: &'static str, found: &impl Display, expected: &'static str) -> TokenizerError {
        let found: String = found.to_string().chars().take(120).collect();
        TokenizerError::Unsupported { file: self.file.to_owned(), key, found, expected }
    }

    /// Refuses what would make ordinary text anything else than merged bytes.
    fn check_kind(&self) -> Result<(), TokenizerError> {
        let model = &self.value["model"];
        if model["type"] != "BPE" {
            return Err(self.unsupported("model.type", &model["type"], "\"BPE\""));
        }
        let absent = |value: &Value| value.is_null() || *value == "" || *value == false || value.as_f64() == Some(0.0);
        for (key, value) in [
            ("model.dropout", &model["dropout"]),
            ("model.unk_token", &model["unk_token"]),
            ("model.byte_fallback", &model["byte_fallback"]),
            ("model.continuing_subword_prefix", &model["continuing_subword_prefix"]),
            ("model.end_of_word_suffix", &model["end_of_word_suffix"]),
            ("normalizer", &self.value["normalizer"]),
        ] {
            if !absent(value) {
                return Err(self.unsupported(key, value, "nothing (null)"));
            }
        }
        Ok(())
    }

    /// The id of each token of `model.vocab`.
    fn vocab(&self) -> Result<HashMap<&'a str, u32>, TokenizerError> {
        let vocab = &self.value["model"]["vocab"];
        let vocab = vocab.as_object().ok_or_else(|| self.unsupported("model.vocab", vocab, "an object of tokens and ids"))?;
        vocab.iter().map(|(token, id)| Ok((token.as_str(), self.id("model.vocab", token, id)?))).collect()
    }

    fn id(&self, key: &'static str, token: &str, id: &Value) -> Result<u32, TokenizerError> {
        let id = id.as_u64().ok_or_else(|| self.unsupported(key, id, "ids that are whole numbers from 0 on"))?;
        let beyond = || TokenizerError::BeyondVocabulary {
            file: self.file.to_owned(),
            token: token.to_owned(),
            id,
            vocab_size: self.vocab_size,
        };
        u32::try_from(id).ok().filter(|id| (*id as usize) < self.vocab_size).ok_or_else(beyond)
    }

    /// The rows of the model's vocabulary: `vocab`, and the added tokens.
    fn rows(&self, vocab: &HashMap<&str, u32>) -> Result<Rows, TokenizerError> {
        let mut names: Vec<Option<&str>> = vec![None; self.vocab_size];
        let mut take = |token: &'a str, id: u32| match names[id as usize].replace(token) {
            Some(other) if other != token => Err(TokenizerError::ClashingIds {
                file: self.file.to_owned(),
                first: other.to_owned(),
                second: token.to_owned(),
                id,
            }),
            _ => Ok(()),
        };
        let object = self.value["model"]["vocab"].as_object().expect("read before");
        for token in object.keys() {
            take(token, vocab[token.as_str()])?;
        }
        let mut is_control = vec![false; self.vocab_size];
        let mut is_added = vec![false; self.vocab_size];
        let added = &self.value["added_tokens"];
        let expected = "a list of objects with content and id";
        for token in added.as_array().ok_or_else(|| self.unsupported("added_tokens", added, expected))? {
            let content = token["content"].as_str().ok_or_else(|| self.unsupported("added_tokens", token, expected))?;
            let id = self.id("added_tokens", content, &token["id"])?;
            take(content, id)?;
            is_added[id as usize] = true;
            // Harmony's tokens are control tokens whatever a file calls them: a text must never
            // hold one.
            is_control[id as usize] = token["special"] != false || control::is_harmony(content);
        }
        let last = vocab.values().max().map_or(0, |id| *id as usize);
        if let Some(id) = names.iter().take(last + 1).position(Option::is_none) {
            return Err(TokenizerError::Gap { file: self.file.to_owned(), id, last });
        }
        let mut bytes = Vec::with_capacity(names.len());
        for (name, is_added) in names.into_iter().zip(&is_added) {
            bytes.push(match name {
                Some(name) if *is_added => Some(name.as_bytes().into()),
                Some(name) => Some(bytes_of(name).ok_or_else(|| {
                    self.unsupported("model.vocab", &format!("{name:?}"), "tokens in the byte-level alphabet of GPT-2")
                })?),
                None => None,
            });
        }
        Ok(Rows { bytes, is_control, is_added })
    }

    /// Spelling and id of each added token, and whether it is a control token.
    fn added(&self, rows: &Rows) -> impl Iterator<Item = (&'a str, u32, bool)> {
        let added = self.value["added_tokens"].as_array().into_iter().flatten();
        added.filter_map(|token| {
            let id = u32::try_from(token["id"].as_u64()?).ok()?;
            Some((token["content"].as_str()?, id, rows.is_control[id as usize]))
        })
    }

    /// The token of each single byte: what merging starts with.
    fn byte_tokens(&self, vocab: &HashMap<&str, u32>, rows: &Rows) -> Result<Box<[u32; 256]>, TokenizerError> {
        let mut of_byte = Box::new([0; 256]);
        for byte in 0..=u8::MAX {
            let character = character_of(byte);
            let id = vocab.get(character.encode_utf8(&mut [0; 4]) as &str).filter(|id| !rows.is_added[**id as usize]);
            of_byte[usize::from(byte)] =
                *id.ok_or_else(|| TokenizerError::MissingByte { file: self.file.to_owned(), byte, character })?;
        }
        Ok(of_byte)
    }

    /// The merges as (left, right, what they give), lowest rank first.
    fn merges(&self, vocab: &HashMap<&str, u32>, rows: &Rows) -> Result<Vec<(u32, u32, u32)>, TokenizerError> {
        let list = &self.value["model"]["merges"];
        let expected = "a list of pairs of tokens whose joined text is a token too";
        let list = list.as_array().ok_or_else(|| self.unsupported("model.merges", list, expected))?;
        let mut merges = Vec::with_capacity(list.len());
        let mut joined = String::new();
        for pair in list {
            let parts = match pair {
                Value::String(text) => text.split_once(' '),
                pair => pair[0].as_str().zip(pair[1].as_str()),
            };
            let (left, right) = parts.ok_or_else(|| self.unsupported("model.merges", pair, expected))?;
            joined.clear();
            joined.push_str(left);
            joined.push_str(right);
            let ids = [left, right, &joined].map(|token| vocab.get(token).copied());
            let [Some(left_id), Some(right_id), Some(id)] = ids else {
                return Err(self.unsupported("model.merges", pair, expected));
            };
            if rows.is_control[id as usize] {
                return Err(TokenizerError::ControlFromText {
                    file: self.file.to_owned(),
                    left: left.to_owned(),
                    right: right.to_owned(),
                    token: joined,
                });
            }
            merges.push((left_id, right_id, id));
        }
        Ok(merges)
    }

    /// The words' pattern, if the pre-tokenizer is nothing but that and the byte-level alphabet.
    fn words(&self, pre_tokenizer: Option<&PreTokenizerWrapper>) -> Result<Words, TokenizerError> {
        if let Some(PreTokenizerWrapper::Sequence(sequence)) = pre_tokenizer {
            let parts: &[PreTokenizerWrapper] = sequence.as_ref();
            if let [PreTokenizerWrapper::Split(split), PreTokenizerWrapper::ByteLevel(byte_level)] = parts {
                let isolated = split.behavior == SplitDelimiterBehavior::Isolated && !split.invert;
                if isolated && !byte_level.use_regex && !byte_level.add_prefix_space {
                    return Ok(Words::new(split.clone()));
                }
            }
        }
        let expected = "a Sequence of Split (Isolated, not inverted) and ByteLevel (no regex, no prefix space)";
        Err(self.unsupported("pre_tokenizer", &self.value["pre_tokenizer"], expected))
    }
}
