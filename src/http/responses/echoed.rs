//! What a response says again of its request.

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

use crate::actors::messages::AskedForm;
use crate::http::wire::custom;
use crate::http::wire::fields::RequestFields;
use crate::prompt::conversation::{AnswerForm, NamedSchema, ReasoningEffort, Tool};

/// How often what is repeated is in memory at most: kept, and in two events that wait to be read.
const COPIES: u64 = 3;
/// How often besides while the response is written to the store: as its JSON, and in its record.
pub(super) const SAVED_COPIES: u64 = 2;

/// The fields of a request that its answer repeats, as OpenAI's does: values as they came, or what
/// was used in their place.
#[derive(Debug, Serialize)]
pub(crate) struct EchoedFields {
    background: bool,
    conversation: Box<RawValue>,
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
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EffectiveValues {
    pub(crate) max_output_tokens: Option<u32>,
    pub(crate) temperature: f32,
    pub(crate) top_p: f32,
    pub(crate) top_logprobs: u32,
    pub(crate) single_call: bool,
    pub(crate) effort: ReasoningEffort,
    /// `tools` as [`told_tools`] has them.
    pub(crate) tools: Value,
    /// `text.format` as [`told_format`] has it.
    pub(crate) format: Value,
}

/// The functions and custom tools among the tools, in this API's form.
pub(crate) fn told_tools(tools: &[Tool]) -> Value {
    let told = |Tool { name, description, parameters, strict, custom }: &Tool| match custom {
        None => {
            json!({"type": "function", "name": name, "description": description, "parameters": parameters, "strict": strict})
        }
        Some(input) => {
            json!({"type": "custom", "name": name, "description": description, "format": custom::told_format(input)})
        }
    };
    tools.iter().map(told).collect()
}

/// The form of the answer, by whichever name it came. One that OpenAI's types do not have (a
/// regular expression, a choice, a grammar) is told as text.
pub(crate) fn told_format(form: Option<&AskedForm>, named: Option<&NamedSchema>) -> Value {
    match (named, form.map(|asked| &asked.form)) {
        (Some(NamedSchema { name, description, schema }), _) => {
            json!({"type": "json_schema", "name": name, "description": description, "schema": schema, "strict": true})
        }
        (None, Some(form)) if *form == AnswerForm::object() => json!({"type": "json_object"}),
        (None, Some(AnswerForm::Json(schema @ Value::Object(_)))) => {
            json!({"type": "json_schema", "name": "answer", "description": null, "schema": schema, "strict": true})
        }
        _ => json!({"type": "text"}),
    }
}

/// `tool_choice` in this API's flat form, whichever it came in.
fn told_choice(choice: &Value) -> Value {
    let function = |choice: &Value| {
        let kind = if choice["type"] == "custom" { "custom" } else { "function" };
        let name = [&choice["name"], &choice[kind]["name"]].into_iter().find(|name| name.is_string());
        json!({"type": kind, "name": name})
    };
    match choice {
        Value::Object(_) if choice["type"] == "allowed_tools" => {
            let inside = Some(&choice["allowed_tools"]).filter(|inside| inside.is_object()).unwrap_or(choice);
            let tools: Vec<Value> = inside["tools"].as_array().into_iter().flatten().map(function).collect();
            json!({"type": "allowed_tools", "mode": inside["mode"].as_str().unwrap_or("auto"), "tools": tools})
        }
        Value::Object(_) => function(choice),
        word => word.clone(),
    }
}

/// The conversation by its id, whichever form named it.
fn told_conversation(conversation: Option<&Value>) -> Value {
    match conversation {
        None => Value::Null,
        Some(Value::Object(named)) => json!({"id": named.get("id")}),
        Some(id) => json!({"id": id}),
    }
}

/// The fields that are repeated as they came.
#[derive(Debug)]
pub(crate) struct AskedFields(Map<String, Value>);

impl AskedFields {
    /// Looks at them before they are read.
    pub(crate) fn of(fields: &RequestFields) -> Self {
        let names = [
            "conversation",
            "instructions",
            "max_tool_calls",
            "metadata",
            "previous_response_id",
            "prompt_cache_key",
            "safety_identifier",
            "tool_choice",
            "truncation",
            "user",
        ];
        let mut asked: Map<String, Value> =
            names.iter().filter_map(|name| Some(((*name).to_owned(), fields.peek(name)?.clone()))).collect();
        for (outer, name) in [("text", "verbosity"), ("reasoning", "generate_summary"), ("reasoning", "summary")] {
            if let Some(value) = fields.peek(outer).and_then(|outer| outer.get(name)).filter(|value| !value.is_null()) {
                asked.insert(name.to_owned(), value.clone());
            }
        }
        Self(asked)
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn raw(&self, name: &str, unasked: &Value) -> Box<RawValue> {
        raw(self.value(name).unwrap_or(unasked))
    }
}

fn raw(value: &Value) -> Box<RawValue> {
    to_raw_value(value).expect("a tree of JSON is written as JSON")
}

impl EchoedFields {
    /// Of these fields, with what became of the others.
    pub(crate) fn new(asked: &AskedFields, values: &EffectiveValues) -> Self {
        let effort = match values.effort {
            ReasoningEffort::Low => "low",
            ReasoningEffort::Medium => "medium",
            ReasoningEffort::High => "high",
        };
        // The older name of the same.
        let summary = asked.value("summary").or_else(|| asked.value("generate_summary"));
        let mut text = json!({"format": values.format});
        if let Some(verbosity) = asked.value("verbosity") {
            text["verbosity"] = verbosity.clone();
        }
        Self {
            background: false,
            conversation: raw(&told_conversation(asked.value("conversation"))),
            instructions: asked.raw("instructions", &Value::Null),
            max_output_tokens: values.max_output_tokens,
            max_tool_calls: asked.raw("max_tool_calls", &Value::Null),
            metadata: asked.raw("metadata", &json!({})),
            parallel_tool_calls: !values.single_call,
            previous_response_id: asked.raw("previous_response_id", &Value::Null),
            prompt_cache_key: asked.raw("prompt_cache_key", &Value::Null),
            reasoning: raw(&json!({"effort": effort, "summary": summary})),
            safety_identifier: asked.raw("safety_identifier", &Value::Null),
            service_tier: "default",
            store: false,
            temperature: values.temperature,
            text: raw(&text),
            tool_choice: raw(&told_choice(asked.value("tool_choice").unwrap_or(&json!("auto")))),
            tools: raw(&values.tools),
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

    /// The response could not be kept.
    pub(crate) fn set_unkept(&mut self) {
        self.store = false;
    }

    /// Memory that it holds at most, about, with the events that wait to be read; `is_saved`: the
    /// response is written to the store too.
    pub(crate) fn bytes(&self, is_saved: bool) -> u64 {
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
        let once = size_of::<Self>() as u64 + raw.iter().map(|raw| raw.get().len() as u64).sum::<u64>();
        once * (COPIES + if is_saved { SAVED_COPIES } else { 0 })
    }
}
