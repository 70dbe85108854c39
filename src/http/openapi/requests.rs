//! The schema of a request, from what its reader looks for.
//!
//! Bodies are read by hand, so there is no type to derive a schema from. A small body of each form
//! is read by the very reader of its route, which notes each field that it looks for
//! (`wire/noted.rs`). So a field that the reader learns is in the document with it. What a reader
//! looks at by hand (messages, tools) is told in `schemas.json`, under the field's name.

use serde_json::{Map, Value, json};

use crate::http::batches;
use crate::http::chat::request::{BodyRoute, ChatRequest};
use crate::http::completions::request::CompletionRequest;
use crate::http::legacy::text_request::TextRequest;
use crate::http::messages::noted as of_messages;
use crate::http::responses::noted as of_responses;
use crate::http::wire::defaults::Terms;
use crate::http::wire::error::WireError;
use crate::http::wire::noted::{NotedField, NotedKind, noting};
use crate::http::wire::tokens::{TokenizeRequest, read_detokenize};

/// A form of bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum BodyForm {
    /// The route takes no body.
    None,
    /// A chat.
    Chat,
    /// Texts or tokens.
    Completion,
    /// A response.
    Response,
    /// A conversation that begins.
    Conversation,
    /// Labels of a conversation.
    Labels,
    /// Items of a conversation.
    Items,
    /// A message.
    Message,
    /// One whose tokens are counted.
    CountedMessage,
    /// A text or a chat.
    Tokenize,
    /// Tokens.
    Detokenize,
    /// A chat or a prompt.
    Generate,
    /// A prompt for code.
    Code,
    /// A batch.
    Batch,
    /// A file, which is no JSON.
    File,
}

/// The objects that a reader looks into, if they are there.
const INNER: &str = r#""stream_options": {}, "reasoning": {}, "chat_template_kwargs": {}"#;

impl BodyForm {
    /// Its schema's name, fields without which a body is refused, and a small body.
    fn told(self) -> Option<(&'static str, &'static [&'static str], String)> {
        let chat = format!(r#"{{"messages": [{{"role": "user", "content": "a"}}], "stream": true, {INNER}}}"#);
        let message = r#"{"messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "thinking": {"type": "adaptive"}, "output_config": {}}"#;
        Some(match self {
            Self::None | Self::File => return None,
            Self::Chat => ("ChatRequest", &["messages"], chat),
            Self::Batch => (
                "BatchRequest",
                &["input_file_id", "endpoint"],
                r#"{"input_file_id": "file-1", "endpoint": "/v1/responses"}"#.to_owned(),
            ),
            Self::Completion => {
                ("CompletionRequest", &["prompt"], r#"{"prompt": "a", "stream": true, "stream_options": {}}"#.to_owned())
            }
            Self::Response => (
                "ResponseRequest",
                &[],
                format!(r#"{{"input": "a", "stream": true, "text": {{}}, "conversation": null, {INNER}}}"#),
            ),
            Self::Conversation => ("ConversationRequest", &[], "{}".to_owned()),
            Self::Labels => ("LabelsRequest", &["metadata"], r#"{"metadata": {}}"#.to_owned()),
            Self::Items => ("ItemsRequest", &["items"], r#"{"items": [{"role": "user", "content": "a"}]}"#.to_owned()),
            Self::Message => ("MessageRequest", &["messages", "max_tokens"], message.to_owned()),
            Self::CountedMessage => ("CountTokensRequest", &["messages"], message.to_owned()),
            Self::Tokenize => {
                ("TokenizeRequest", &[], format!(r#"{{"messages": [{{"role": "user", "content": "a"}}], {INNER}}}"#))
            }
            Self::Detokenize => ("DetokenizeRequest", &["tokens"], r#"{"tokens": [0]}"#.to_owned()),
            Self::Generate => ("GenerateRequest", &[], chat),
            Self::Code => ("CodeRequest", &["prompt"], format!(r#"{{"prompt": "a", "user_select_options": {{}}, {INNER}}}"#)),
        })
    }

    /// The name of its schema, if the route takes a body.
    pub(super) fn name(self) -> Option<&'static str> {
        self.told().map(|(name, ..)| name)
    }

    /// A small body that its routes take.
    pub(super) fn example(self) -> Option<Value> {
        self.told().map(|(_, _, sample)| serde_json::from_str(&sample).expect("a sample is JSON"))
    }

    /// Reads `body` as the routes of this form do.
    fn read(self, body: Value, terms: &Terms<'_>) -> Result<(), WireError> {
        match self {
            Self::None | Self::File => Ok(()),
            Self::Batch => batches::noted(body),
            Self::Chat => ChatRequest::read(body, BodyRoute::Chat, terms).map(drop),
            Self::Generate => ChatRequest::read(body, BodyRoute::Generate, terms).map(drop),
            Self::Completion => CompletionRequest::read(body, terms).map(drop),
            Self::Code => TextRequest::read(body, terms).map(drop),
            Self::Tokenize => TokenizeRequest::read(body, terms).map(drop),
            Self::Detokenize => read_detokenize(body, terms).map(drop),
            Self::Response => of_responses::response(body, terms),
            Self::Conversation => of_responses::conversation(body),
            Self::Labels => of_responses::labels(body),
            Self::Items => of_responses::items(body),
            Self::Message => of_messages::message(body, terms),
            Self::CountedMessage => of_messages::counted(body, terms),
        }
    }

    /// Its schema. `told` has what readers look at by hand.
    ///
    /// # Errors
    /// Those of the reader, which would be a bug: a test reads each body.
    pub(super) fn schema(self, terms: &Terms<'_>, told: &Map<String, Value>) -> Result<Value, WireError> {
        let (Some((name, required, _)), Some(sample)) = (self.told(), self.example()) else { return Ok(json!({})) };
        let (read, fields) = noting(|| self.read(sample, terms));
        read?;
        let mut schema = object();
        let mut refused = Vec::new();
        for NotedField { path, kind } in &fields {
            if *kind == NotedKind::Refused {
                refused.push(path.as_str());
            } else if !path.contains('[') {
                insert(&mut schema, path, kind, |path| told.get(&format!("{name}.{path}")).or_else(|| told.get(path)));
            }
        }
        if let Some(model) = schema["properties"].get_mut("model") {
            let names = terms.names.iter().chain(terms.unlisted_names).map(|name| json!(name));
            model["enum"] = names.chain([Value::Null]).collect();
        }
        // A field that one of the route's readers takes is not refused by the next.
        refused.retain(|path| schema["properties"].get(path).is_none() && !path.contains('.'));
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        schema["x-refused"] = json!(refused);
        Ok(schema)
    }
}

fn object() -> Value {
    json!({"type": "object", "properties": {}})
}

/// Adds the field at `path` to the schema of an object; the first word of a field that says more
/// than that it is there counts.
fn insert<'a>(schema: &mut Value, path: &str, kind: &NotedKind, told: impl Fn(&str) -> Option<&'a Value>) {
    let (mut at, mut passed) = (schema, String::new());
    let names: Vec<&str> = path.split('.').collect();
    let (last, outer) = names.split_last().expect("a path has a name");
    for name in outer {
        passed.push_str(name);
        // What is told by hand is told whole.
        if told(&passed).is_some_and(is_whole) {
            return;
        }
        passed.push('.');
        let inner = &mut at["properties"][*name];
        if inner.get("properties").is_none() {
            *inner = json!({"type": ["object", "null"], "properties": {}});
        }
        at = inner;
    }
    let by_hand = told(path);
    let field = &mut at["properties"][*last];
    if field.is_null() || *field == json!({}) {
        *field = by_hand.filter(|told| is_whole(told)).cloned().unwrap_or_else(|| schema_of(kind));
    }
    if let (Some(Value::Object(more)), Value::Object(field)) = (by_hand, field) {
        for (key, value) in more {
            field.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
}

/// Whether a schema says more than words.
fn is_whole(told: &Value) -> bool {
    ["type", "anyOf", "$ref", "enum"].iter().any(|key| told.get(key).is_some())
}

fn schema_of(kind: &NotedKind) -> Value {
    match kind {
        NotedKind::Any | NotedKind::Refused => json!({}),
        NotedKind::Text => json!({"type": ["string", "null"]}),
        NotedKind::Flag => json!({"type": ["boolean", "null"]}),
        NotedKind::List => json!({"type": ["array", "null"]}),
        NotedKind::Object => json!({"type": ["object", "null"]}),
        NotedKind::Integer(i64::MIN, i64::MAX) => json!({"type": ["integer", "null"]}),
        NotedKind::Integer(least, most) => json!({"type": ["integer", "null"], "minimum": least, "maximum": most}),
        NotedKind::Number(words) => {
            let mut schema = json!({"type": ["number", "null"], "description": words});
            let bounds: Vec<f64> = words.split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
            match bounds.as_slice() {
                [least, most] if words.contains("above") => {
                    (schema["exclusiveMinimum"], schema["maximum"]) = (json!(least), json!(most));
                }
                [least, most] => (schema["minimum"], schema["maximum"]) = (json!(least), json!(most)),
                _ => {}
            }
            schema
        }
    }
}

#[cfg(test)]
#[path = "requests_tests.rs"]
mod tests;
