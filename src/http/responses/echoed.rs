//! What a response says again of its request.

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

use crate::http::wire::error::WireError;
use crate::http::wire::fields::{RequestFields, unfit};

/// The fields of a request that its answer repeats, as OpenAI's does: values as they came, or what
/// stands for those that did not.
#[derive(Debug, Serialize)]
pub(crate) struct EchoedFields {
    background: bool,
    instructions: Box<RawValue>,
    max_output_tokens: Option<u32>,
    max_tool_calls: Box<RawValue>,
    metadata: Box<RawValue>,
    parallel_tool_calls: bool,
    previous_response_id: Box<RawValue>,
    prompt_cache_key: Box<RawValue>,
    reasoning: Box<RawValue>,
    safety_identifier: Box<RawValue>,
    service_tier: &'static str,
    store: bool,
    temperature: f32,
    text: Box<RawValue>,
    tool_choice: Box<RawValue>,
    tools: Box<RawValue>,
    top_logprobs: u32,
    top_p: f32,
    truncation: Box<RawValue>,
    user: Box<RawValue>,
}

/// What of a request is known when it is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EffectiveValues {
    pub(crate) max_output_tokens: Option<u32>,
    pub(crate) temperature: f32,
    pub(crate) top_p: f32,
    pub(crate) top_logprobs: u32,
    pub(crate) single_call: bool,
}

/// The fields that are repeated as they came.
#[derive(Debug)]
pub(crate) struct AskedFields(Map<String, Value>);

impl AskedFields {
    /// Looks at them before they are read.
    pub(crate) fn of(fields: &RequestFields) -> Self {
        let names = [
            "instructions",
            "max_tool_calls",
            "metadata",
            "previous_response_id",
            "prompt_cache_key",
            "reasoning",
            "safety_identifier",
            "text",
            "tool_choice",
            "tools",
            "truncation",
            "user",
        ];
        Self(names.iter().filter_map(|name| Some(((*name).to_owned(), fields.peek(name)?.clone()))).collect())
    }

    fn raw(&self, name: &str, unasked: &Value) -> Box<RawValue> {
        let value = self.0.get(name).filter(|value| !value.is_null()).unwrap_or(unasked);
        to_raw_value(value).expect("a tree of JSON is written as JSON")
    }

    /// An object with what stands for its fields that did not come.
    fn object(&self, name: &str, mut unasked: Value) -> Box<RawValue> {
        if let (Some(Value::Object(given)), Value::Object(all)) = (self.0.get(name), &mut unasked) {
            all.extend(given.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), value.clone())));
        }
        to_raw_value(&unasked).expect("a tree of JSON is written as JSON")
    }
}

impl EchoedFields {
    /// Of these fields, with what became of the others.
    pub(crate) fn new(asked: &AskedFields, values: EffectiveValues) -> Self {
        Self {
            background: false,
            instructions: asked.raw("instructions", &Value::Null),
            max_output_tokens: values.max_output_tokens,
            max_tool_calls: asked.raw("max_tool_calls", &Value::Null),
            metadata: asked.raw("metadata", &json!({})),
            parallel_tool_calls: !values.single_call,
            previous_response_id: asked.raw("previous_response_id", &Value::Null),
            prompt_cache_key: asked.raw("prompt_cache_key", &Value::Null),
            reasoning: asked.object("reasoning", json!({"effort": "medium", "summary": null})),
            safety_identifier: asked.raw("safety_identifier", &Value::Null),
            service_tier: "default",
            store: false,
            temperature: values.temperature,
            text: asked.object("text", json!({"format": {"type": "text"}})),
            tool_choice: asked.raw("tool_choice", &json!("auto")),
            tools: asked.raw("tools", &json!([])),
            top_logprobs: values.top_logprobs,
            top_p: values.top_p,
            truncation: asked.raw("truncation", &json!("disabled")),
            user: asked.raw("user", &Value::Null),
        }
    }

    /// The same of a response that is kept, or generated with no client waiting.
    pub(crate) fn kept(self, store: bool, background: bool) -> Self {
        Self { store, background, ..self }
    }

    /// Memory that it holds, about.
    pub(crate) fn bytes(&self) -> u64 {
        let raw = [
            &self.instructions,
            &self.max_tool_calls,
            &self.metadata,
            &self.previous_response_id,
            &self.prompt_cache_key,
            &self.reasoning,
            &self.safety_identifier,
            &self.text,
            &self.tool_choice,
            &self.tools,
            &self.truncation,
            &self.user,
        ];
        size_of::<Self>() as u64 + raw.iter().map(|raw| raw.get().len() as u64).sum::<u64>()
    }
}

/// Most pairs of `metadata`.
const METADATA_MAX: usize = 16;

/// `metadata` is a map of texts, which typed clients check when it comes back.
pub(crate) fn check_metadata(fields: &RequestFields) -> Result<(), WireError> {
    let path = fields.path_of("metadata");
    let Some(Value::Object(map)) = fields.peek("metadata") else { return Ok(()) };
    if map.len() > METADATA_MAX {
        let found = format!("an object of {}", map.len());
        return Err(WireError::Unfit { param: path, found, expected: format!("at most {METADATA_MAX} pairs of texts") });
    }
    match map.iter().find(|(_, value)| !value.is_string()) {
        None => Ok(()),
        Some((key, value)) => Err(unfit(&format!("{path}.{key}"), value, "a string")),
    }
}
