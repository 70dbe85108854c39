//! Any output of a model, through the real binary: a checkpoint in gpt-oss form whose greedy output
//! is a script.
//!
//! A test that needs a model to say something starts
//! `Puppet::chat("<|channel|>final<|message|>Hello.<|return|>")`. Every answer is asked for twice,
//! in one piece and streamed, and must be the same: that is checked here, for all of them.

mod answers;
mod checkpoint;
mod custom;
mod damage;
mod forms;
mod functions;
mod headers;
mod limits;
mod lists;
mod script;
mod tokens;

use serde_json::{Map, Value, json};
use tempfile::TempDir;

pub(crate) use script::Script;

use super::embedded::{Server, command, events};

/// What the user says: bytes that no script says, each once, and as many as a puppet remembers
/// before the prompt's end.
const ASKED: &str = "~^`|#";
/// How the prompt of a chat ends.
const CHAT: &str = "~^`|#<|end|><|start|>assistant";

/// A server whose model says a script.
pub(crate) struct Puppet {
    server: Server,
    /// Tokens of the script.
    tokens_count: usize,
    _folder: TempDir,
}

impl Puppet {
    /// Answers chats with `script`, which is what follows `<|start|>assistant`.
    pub(crate) fn chat(script: &str) -> Self {
        Self::saying(&Script::of(script), CHAT)
    }

    /// As [`Puppet::chat`], by a server that lets the model write its headers as it likes.
    pub(crate) fn unheld(script: &str) -> Self {
        Self::started(&Script::of(script), CHAT, &["--header-grammar", "off"])
    }

    /// Says `script` after a prompt that ends in `after`.
    pub(crate) fn saying(script: &Script, after: &str) -> Self {
        Self::started(script, after, &[])
    }

    fn started(script: &Script, after: &str, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        checkpoint::write(folder.path(), script, &Script::of_prompt(after));
        let place = folder.path().to_str().expect("UTF-8");
        let options = [&["--model", place, "--kv-bytes", "16MiB", "--threads", "1"], more].concat();
        Self { server: Server::of(&mut command(&options)), tokens_count: script.len(), _folder: folder }
    }

    /// The first choice of a chat's answer.
    pub(crate) fn ask(&self, fields: &Value) -> Value {
        self.choices(fields)[0].clone()
    }

    /// The choices of a chat's answer: `content`, `reasoning`, `tool_calls`, `finish_reason`,
    /// `logprobs`, `token_ids` as far as they are there.
    pub(crate) fn choices(&self, fields: &Value) -> Vec<Value> {
        let mut body = json!({"messages": [{"role": "user", "content": ASKED}], "max_tokens": 200, "temperature": 0});
        extend(&mut body, fields);
        self.both("/v1/chat/completions", body, &mut |choice, said| {
            for (list, key) in [("message", "content"), ("message", "reasoning"), ("delta", "content"), ("delta", "reasoning")]
            {
                said.append(key, &choice[list][key]);
            }
            for call in ["message", "delta"].iter().flat_map(|part| choice[part]["tool_calls"].as_array().into_iter().flatten())
            {
                said.call(call);
            }
            for call in ["message", "delta"].iter().map(|part| &choice[part]["function_call"]).filter(|call| !call.is_null()) {
                said.append("function", &call["name"]);
                said.append("arguments", &call["arguments"]);
            }
            said.extend("logprobs", &choice["logprobs"]["content"]);
        })
    }

    /// The choices of a completion's answer: `text`, `finish_reason`, and the lists of `logprobs`
    /// side by side.
    pub(crate) fn complete(&self, prompt: &str, fields: &Value) -> Vec<Value> {
        let mut body = json!({"prompt": prompt, "max_tokens": self.tokens_count, "temperature": 0});
        extend(&mut body, fields);
        self.both("/v1/completions", body, &mut |choice, said| {
            said.append("text", &choice["text"]);
            for list in ["tokens", "text_offset", "token_logprobs", "top_logprobs"] {
                said.extend(list, &choice["logprobs"][list]);
            }
        })
    }

    /// What a request is refused with.
    fn refusal(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.server.answer("POST", path, &body.to_string());
        assert_eq!(status, 400, "{answer}");
        serde_json::from_str::<Value>(&answer).expect("JSON")["error"].clone()
    }

    /// The choices of an answer in one piece, which is the same as the stream joined.
    fn both(&self, path: &str, mut body: Value, gather: &mut dyn FnMut(&Value, &mut Said)) -> Vec<Value> {
        let whole: Value = serde_json::from_str(&self.server.ask("POST", path, &body.to_string())).expect("JSON");
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
        let stream = self.server.ask("POST", path, &body.to_string());
        assert!(stream.contains("data: [DONE]"), "{stream}");
        let mut gathered = |answers: &[Value]| {
            let mut choices: Vec<Said> = Vec::new();
            for choice in answers.iter().flat_map(|answer| answer["choices"].as_array().expect("a list")) {
                let index = choice["index"].as_u64().expect("an index") as usize;
                choices.resize_with(choices.len().max(index + 1), Said::default);
                choices[index].extend("token_ids", &choice["token_ids"]);
                for key in ["finish_reason", "stop_reason"].iter().filter(|key| !choice[**key].is_null()) {
                    assert!(choices[index].0.insert((*key).to_string(), choice[*key].clone()).is_none(), "{key} twice");
                }
                gather(choice, &mut choices[index]);
            }
            choices.into_iter().map(|said| Value::Object(said.0)).collect::<Vec<_>>()
        };
        let events: Vec<Value> = events(&stream).collect();
        let joined = gathered(&events);
        let choices = gathered(std::slice::from_ref(&whole));
        assert_eq!(joined, choices, "the stream joined is the answer in one piece, {path} {body}");
        // What was computed before is found the second time.
        let without_cached = |usage: &Value| {
            let mut usage = usage.clone();
            usage.as_object_mut().expect("a usage").remove("prompt_tokens_details");
            usage
        };
        let last = events.last().expect("chunks");
        assert_eq!(without_cached(&last["usage"]), without_cached(&whole["usage"]), "{path} {body}");
        choices
    }
}

/// A function as a request offers it.
fn tool(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}})
}

fn extend(body: &mut Value, fields: &Value) {
    body.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
}

/// What a choice says, gathered from its pieces.
#[derive(Default)]
struct Said(Map<String, Value>);

impl Said {
    /// More of a text; nothing if there is none.
    fn append(&mut self, key: &str, text: &Value) {
        if let Some(text) = text.as_str().filter(|text| !text.is_empty()) {
            let before = self.0.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            self.0.insert(key.to_owned(), json!(before + text));
        }
    }

    /// More of a list; an empty one is none.
    fn extend(&mut self, key: &str, more: &Value) {
        if let Some(more) = more.as_array().filter(|more| !more.is_empty()) {
            let list = self.0.entry(key).or_insert_with(|| json!([]));
            list.as_array_mut().expect("a list").extend(more.clone());
        }
    }

    /// A call, or a piece of one; `tool_calls` has pairs of name and arguments.
    fn call(&mut self, call: &Value) {
        let calls = self.0.entry("tool_calls").or_insert_with(|| json!([])).as_array_mut().expect("a list");
        let index = call["index"].as_u64().map_or(calls.len(), |index| index as usize);
        let function = &call["function"];
        if index == calls.len() {
            assert!(call["id"].as_str().is_some_and(|id| id.starts_with("call_")), "{call}");
            calls.push(json!([function["name"], function["arguments"]]));
        } else {
            let before = calls[index][1].as_str().expect("a text").to_owned();
            calls[index][1] = json!(before + function["arguments"].as_str().expect("a text"));
        }
    }
}
