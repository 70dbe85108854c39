//! Fields of other servers that change what an answer is, and that this server does not do.
//!
//! An answer that looks like the one asked for and is another is worse than a refusal: a client
//! that asks for JSON of a schema and gets prose breaks later, and far away. So each of these is
//! refused until it is served, unless its value asks for nothing.

use serde_json::Value;

use crate::http::wire::error::WireError;
use crate::http::wire::fields::RequestFields;

/// The value of a field that asks for nothing, besides null, `false`, `""`, `[]` and `{}`.
#[derive(Debug, Clone, Copy)]
enum Neutral {
    /// No other.
    Empty,
    /// This flag.
    Flag(bool),
    /// This number.
    Number(f64),
}

use Neutral::{Empty, Flag, Number};

/// The names, of vLLM, SGLang, llama.cpp, Hugging Face and OpenRouter.
const REFUSED: &[(&str, Neutral)] = &[
    // The form of the answer, where it is not `wire/form.rs` that reads it.
    ("guided_json", Empty),
    ("guided_json_object", Empty),
    ("guided_regex", Empty),
    ("guided_choice", Empty),
    ("guided_grammar", Empty),
    ("guided_whitespace_pattern", Empty),
    ("structured_outputs", Empty),
    ("structural_tag", Empty),
    ("grammar", Empty),
    ("json_schema", Empty),
    ("regex", Empty),
    ("ebnf", Empty),
    // What the answer may hold.
    ("bad_words", Empty),
    ("allowed_token_ids", Empty),
    ("logits_processors", Empty),
    ("custom_logit_processor", Empty),
    ("repetition_detection", Empty),
    ("thinking_token_budget", Empty),
    ("max_thinking_tokens", Empty),
    // How it is drawn.
    ("use_beam_search", Empty),
    ("length_penalty", Number(1.0)),
    ("typical_p", Number(1.0)),
    ("top_a", Number(0.0)),
    ("tfs_z", Number(1.0)),
    ("mirostat", Number(0.0)),
    ("dynatemp_range", Number(0.0)),
    ("xtc_probability", Number(0.0)),
    ("dry_multiplier", Number(0.0)),
    ("no_repeat_ngram_size", Number(0.0)),
    // What the prompt is.
    ("continue_final_message", Empty),
    ("add_generation_prompt", Flag(true)),
    ("chat_template", Empty),
    ("documents", Empty),
    ("truncate_prompt_tokens", Empty),
    ("echo", Empty),
    ("lora_path", Empty),
    ("lora_request", Empty),
    // What the answer shows.
    ("prompt_logprobs", Empty),
    ("return_token_ids", Empty),
    ("return_tokens_as_token_ids", Empty),
    ("skip_special_tokens", Flag(true)),
    ("detokenize", Flag(true)),
    ("separate_reasoning", Flag(true)),
    ("n_probs", Number(0.0)),
    ("best_of", Number(1.0)),
];

/// Refuses what is left of these fields. A route that serves one of them takes it out before.
pub(crate) fn refuse(fields: &mut RequestFields) -> Result<(), WireError> {
    REFUSED.iter().try_for_each(|(name, neutral)| refuse_one(fields, name, *neutral))
}

/// Refuses fields of one route that have no default of their own.
pub(crate) fn refuse_these(fields: &mut RequestFields, names: &[&str]) -> Result<(), WireError> {
    names.iter().try_for_each(|name| refuse_one(fields, name, Empty))
}

fn refuse_one(fields: &mut RequestFields, name: &str, neutral: Neutral) -> Result<(), WireError> {
    let param = fields.path_of(name);
    if fields.take_refused(name).is_some_and(|value| !asks_for_nothing(&value, neutral)) {
        let message = "this server does not do that, and an answer without it would be another one; leave it out".to_owned();
        return Err(WireError::Unsupported { param, message });
    }
    Ok(())
}

/// Refuses a field of another API whose value `asks` for something that has another name here:
/// `moved` has pairs of both.
pub(crate) fn refuse_moved(
    fields: &RequestFields,
    moved: &[(&str, &str)],
    whose: &str,
    asks: impl Fn(&Value) -> bool,
) -> Result<(), WireError> {
    match moved.iter().find(|(name, _)| fields.peek(name).is_some_and(&asks)) {
        None => Ok(()),
        Some((name, here)) => {
            let message = format!("is a field of {whose}; this route has {here}");
            Err(WireError::Unsupported { param: fields.path_of(name), message })
        }
    }
}

/// Whether the value of a field with no default of its own asks for nothing.
pub(crate) fn is_void(value: &Value) -> bool {
    asks_for_nothing(value, Empty)
}

fn asks_for_nothing(value: &Value, neutral: Neutral) -> bool {
    match (value, neutral) {
        (Value::Null, _) => true,
        (Value::Bool(flag), Flag(neutral)) => *flag == neutral,
        (Value::Bool(flag), Empty | Number(_)) => !flag,
        (Value::Number(number), Number(neutral)) => number.as_f64() == Some(neutral),
        (Value::Number(_), Empty | Flag(_)) => false,
        (Value::String(text), _) => text.is_empty(),
        (Value::Array(list), _) => list.is_empty(),
        (Value::Object(map), _) => map.is_empty(),
    }
}
