//! The body of a request, in the form of its route.

use bytes::Bytes;
use serde_json::{Value, json};

use super::options::LoadOptions;
use crate::client::Api;

/// A message of a conversation.
#[derive(Debug, Clone)]
pub(super) struct PromptMessage {
    pub(super) role: &'static str,
    pub(super) text: String,
}

/// The body that asks for the next answer of a conversation.
pub(super) fn body(options: &LoadOptions, history: &[PromptMessage]) -> Bytes {
    let messages = || history.iter().map(|message| json!({"role": message.role, "content": message.text})).collect::<Vec<_>>();
    let text = || history.iter().map(|message| message.text.as_str()).collect::<Vec<_>>().join("\n\n");
    let mut body = json!({"model": options.model, "temperature": options.temperature, "stream": true});
    let limit = if options.api == Api::Responses { "max_output_tokens" } else { "max_tokens" };
    body[limit] = json!(options.output_tokens);
    if options.ignore_eos {
        body["ignore_eos"] = Value::Bool(true);
    }
    match options.api {
        Api::Chat | Api::Generate => body["messages"] = json!(messages()),
        Api::Completions => body["prompt"] = json!(text()),
        Api::Responses => body["input"] = json!(messages()),
        Api::GenerateStream => {
            body["prompt"] = json!(text());
            body["user_id"] = json!("load");
            body["model_type"] = json!("prompt");
        }
    }
    if matches!(options.api, Api::Chat | Api::Completions | Api::Generate) {
        body["stream_options"] = json!({"include_usage": true});
    }
    body.to_string().into()
}
