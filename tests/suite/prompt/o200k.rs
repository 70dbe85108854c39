//! o200k_harmony as a tokenizer.json, made from the ranks that tiktoken-rs ships: the vocabulary of
//! the released models without their files.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use antiphon::prompt::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

/// Rows of the released models' embedding.
pub(super) const VOCAB_SIZE: usize = 201_088;

/// How many tokens stand for ordinary text.
const RANKS: u32 = 199_998;

/// The pattern of o200k, as in the released tokenizer.json.
const PATTERN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The tokenizer of the released models; made once a test run.
pub(super) fn tokenizer() -> Arc<Tokenizer> {
    static MADE: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
        Arc::new(Tokenizer::from_json("o200k_harmony", &tokenizer_json(), VOCAB_SIZE).expect("the file made here is good"))
    });
    Arc::clone(&MADE)
}

fn tokenizer_json() -> Vec<u8> {
    let ranks = tiktoken_rs::o200k_harmony_singleton();
    let tokens: Vec<Vec<u8>> = (0..RANKS).map(|id| ranks.decode_bytes(&[id]).expect("every rank has bytes")).collect();
    let id_of: HashMap<&[u8], u32> = tokens.iter().map(Vec::as_slice).zip(0..).collect();
    let mut merges: Vec<Value> = Vec::new();
    for token in &tokens {
        // Every way to put the token together, those of the lowest ranks first: as transformers converts
        // tiktoken's files.
        let splits = (1..token.len()).map(|at| token.split_at(at));
        let mut known: Vec<_> = splits.filter_map(|(l, r)| Some((*id_of.get(l)?, *id_of.get(r)?, l, r))).collect();
        known.sort_unstable();
        merges.extend(known.into_iter().map(|(_, _, left, right)| json!([written(left), written(right)])));
    }
    let vocab: Map<String, Value> = tokens.iter().zip(0..).map(|(token, id): (_, u32)| (written(token), id.into())).collect();
    let file = json!({
        "version": "1.0",
        "added_tokens": added_tokens(),
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ]},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": merges},
    });
    serde_json::to_vec(&file).expect("JSON is writable")
}

/// The control tokens of the released tokenizer.json.
fn added_tokens() -> Value {
    let named = [
        (199_998, "<|startoftext|>"),
        (199_999, "<|endoftext|>"),
        (200_002, "<|return|>"),
        (200_003, "<|constrain|>"),
        (200_005, "<|channel|>"),
        (200_006, "<|start|>"),
        (200_007, "<|end|>"),
        (200_008, "<|message|>"),
        (200_012, "<|call|>"),
        (200_018, "<|endofprompt|>"),
    ];
    let all = (199_998..=200_018).map(|id| {
        let name = named.iter().find(|(known, _)| *known == id);
        let content = name.map_or_else(|| format!("<|reserved_{id}|>"), |(_, name)| (*name).to_owned());
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true})
    });
    Value::Array(all.collect())
}

/// Bytes in the alphabet of GPT-2's byte-level vocabularies.
fn written(bytes: &[u8]) -> String {
    let character = |byte: &u8| match *byte {
        byte @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => char::from(byte),
        byte @ 0..=0x20 => char::from_u32(0x100 + u32::from(byte)).expect("below the surrogates"),
        byte @ 0x7f..=0xa0 => char::from_u32(0x121 + u32::from(byte - 0x7f)).expect("below the surrogates"),
        0xad => '\u{143}',
    };
    bytes.iter().map(character).collect()
}
