//! What the tests of this room read requests against, and answer with.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::Value;

use crate::actors::messages::{Cached, Coalescing, Finish, FinishKind, Part, PartKind, TokenText};
use crate::batch::{TokenId, TokenLogprob};
use crate::http::answer::heading::{Heading, Metadata, Params};
use crate::http::wire::defaults::{RequestDefaults, Terms};
use crate::http::wire::error::WireError;
use crate::prompt::conversation::CallKind;

static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| vec!["tiny".to_owned(), "gpt-oss".to_owned()]);
static PROFILES: LazyLock<BTreeMap<String, Coalescing>> =
    LazyLock::new(|| BTreeMap::from([("slow".to_owned(), Coalescing { max_ms: 99, max_chars: 9 })]));

/// A context of 1,000 tokens, a vocabulary of 2,048.
pub(in crate::http) fn terms() -> Terms<'static> {
    Terms {
        names: &NAMES,
        unlisted_names: &[],
        context_tokens_max: 1000,
        vocab_size: 2048,
        defaults: RequestDefaults::default(),
        coalescing: Coalescing { max_ms: 5, max_chars: 0 },
        profiles: &PROFILES,
        drawn_seed: 77,
    }
}

/// `json` as a tree.
pub(in crate::http) fn value(json: &str) -> Value {
    crate::http::wire::document::parse(json.as_bytes()).unwrap()
}

/// What the error object would say: param and code.
pub(in crate::http) fn blame<T: std::fmt::Debug>(result: Result<T, WireError>) -> (String, &'static str) {
    let error = result.unwrap_err();
    (error.param().unwrap_or_default(), error.code())
}

pub(crate) fn heading() -> Heading {
    Heading { id: "id-1".to_owned(), created: 7, model: "tiny".to_owned(), client_request_id: None }
}

pub(crate) fn metadata() -> Metadata {
    Metadata {
        prompt_version: "SYS/v1".to_owned(),
        model_id: "tiny".to_owned(),
        model_size: "tiny".to_owned(),
        dtype: "mxfp4".to_owned(),
        gpu_mode: "none".to_owned(),
        cache_key: "ab".to_owned(),
        cache_hit: false,
        tokens_before: 3,
        tokens_after: 3,
        truncated: false,
        truncation_info: None,
        params: Params { temperature: 0.5, top_p: 1.0, max_tokens: None, seed: Some(-1), stop_sequences: Vec::new() },
        timestamp: 7,
        request_id: "id-1".to_owned(),
        client_request_id: None,
    }
}

/// A part that stands for the tokens given, each with a log-probability if `logprobs`.
pub(in crate::http) fn part(choice: u32, kind: PartKind, tokens: &[u32], completion_tokens: u32) -> Part {
    let tokens = tokens.iter().map(|id| TokenId(*id)).collect();
    Part { choice, kind, tokens, logprobs: Vec::new(), completion_tokens, reasoning_tokens: 0, cached: Cached::default() }
}

pub(in crate::http) fn content(choice: u32, text: &str, completion_tokens: u32) -> Part {
    part(choice, PartKind::Content(text.to_owned()), &[completion_tokens], completion_tokens)
}

pub(in crate::http) fn thought(text: &str) -> Part {
    part(0, PartKind::Reasoning(text.to_owned()), &[1], 1)
}

pub(in crate::http) fn start(index: u32, name: &str) -> Part {
    part(
        0,
        PartKind::ToolCallStart { index, id: format!("call_{index}"), name: name.to_owned(), kind: CallKind::Function },
        &[1],
        1,
    )
}

pub(in crate::http) fn arguments(index: u32, text: &str) -> Part {
    part(0, PartKind::ToolCallArguments { index, kind: CallKind::Function, text: text.to_owned() }, &[1], 1)
}

pub(in crate::http) fn finished(choice: u32, kind: FinishKind, completion_tokens: u32) -> Part {
    let finish = Finish { kind, reasoning_tokens: 1, completion_tokens, thinking_stop: None };
    Part { reasoning_tokens: 1, ..part(choice, PartKind::Finished(finish), &[], completion_tokens) }
}

/// A token with its log-probability and one likelier one.
pub(in crate::http) fn token_text(id: u32, text: &str, logprob: f32) -> TokenText {
    let scored = |id, logprob, rank| TokenLogprob { token: TokenId(id), logprob, rank };
    TokenText {
        token: scored(id, logprob, 2),
        bytes: text.as_bytes().to_vec(),
        is_control: false,
        top: vec![(scored(1, -0.25, 1), b"top".to_vec())],
    }
}

/// Any JSON, a few levels deep.
pub(in crate::http) fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter("JSON has no infinity", |number| number.is_finite()).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(any::<String>(), inner, 0..6).prop_map(|map| map.into_iter().collect()),
        ]
    })
}
