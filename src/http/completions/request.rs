//! The body of `/v1/completions`.

use serde_json::Value;

use crate::actors::messages::ResponseInput;
use crate::http::wire::defaults::Terms;
use crate::http::wire::error::WireError;
use crate::http::wire::fields::{RequestFields, note_unknown, unfit};
use crate::http::wire::foreign;
use crate::http::wire::form::FormRequest;
use crate::http::wire::limits;
use crate::http::wire::lists::TokenLists;
use crate::http::wire::sampling::{CHOICES_MAX, Generation, TOP_LOGPROBS_MAX, token_ids};
use crate::http::wire::streaming::Streaming;

/// OpenAI's default for this route.
const MAX_TOKENS: u32 = 16;
const PROMPT_EXPECTED: &str = "a string, an array of strings, an array of token ids, or an array of such arrays";

/// Prompts to be continued.
#[derive(Debug, Clone)]
pub(crate) struct CompletionRequest {
    /// The name under which the model was asked for.
    pub(crate) model: String,
    /// The prompts, texts or tokens; at least one.
    pub(crate) prompts: Vec<ResponseInput>,
    /// What to generate; with `max_tokens: 0` in the request one token, which is not shown.
    pub(crate) generation: Generation,
    /// How the answer travels.
    pub(crate) streaming: Streaming,
    /// The answer begins with the prompt.
    pub(crate) echo: bool,
    /// Only the prompt is wanted: `echo` with `max_tokens: 0`, which is how evaluations score a
    /// text.
    pub(crate) prompt_only: bool,
    /// The lists beside its text.
    pub(crate) lists: TokenLists,
}

impl CompletionRequest {
    /// Reads a body.
    pub(crate) fn read(body: Value, terms: &Terms<'_>) -> Result<Self, WireError> {
        let mut fields = RequestFields::of(body, "")?;
        let model = terms.model(&mut fields)?;
        let cut = limits::cut(&mut fields, terms)?;
        let prompts = prompts(&mut fields, terms, cut.is_some())?;
        let echo = fields.flag("echo")?.unwrap_or(false);
        let prompt_only = echo && take_zero(&mut fields);
        let mut generation = Generation::read(&mut fields, terms)?;
        let unasked = if prompt_only { 1 } else { MAX_TOKENS };
        generation.max_tokens = generation.max_tokens.filter(|_| !prompt_only).or(Some(unasked));
        let streaming = Streaming::read(&mut fields, terms, false)?;
        let logprobs = fields.count("logprobs", 0..=TOP_LOGPROBS_MAX)?;
        let lists = TokenLists::read(&mut fields, logprobs, streaming.on, &mut generation)?;
        generation.sampling.prompt_logprobs |= echo && logprobs.is_some();
        check_choices(&mut fields, prompts.len(), generation.choices_count)?;
        if fields.text("suffix")?.is_some_and(|suffix| !suffix.is_empty()) {
            let message = "filling in before a suffix is not supported".to_owned();
            return Err(WireError::Unsupported { param: fields.path_of("suffix"), message });
        }
        generation.set_form(FormRequest::read(&mut fields)?.form)?;
        generation.cut = cut;
        limits::read_of_text(&mut fields, terms, &mut generation)?;
        foreign::refuse(&mut fields)?;
        note_unknown(fields);
        Ok(Self { model, prompts, generation, streaming, echo, prompt_only, lists })
    }
}

/// Whether `max_tokens` is zero; then it is taken out, since [`Generation`] wants one token at
/// least.
fn take_zero(fields: &mut RequestFields) -> bool {
    let zero = fields.peek("max_tokens").is_some_and(|value| value.as_i64() == Some(0));
    if zero {
        fields.take("max_tokens");
    }
    zero
}

/// The prompts; `are_cut`: longer ones than the context are taken.
fn prompts(fields: &mut RequestFields, terms: &Terms<'_>, are_cut: bool) -> Result<Vec<ResponseInput>, WireError> {
    let path = fields.path_of("prompt");
    match fields.required("prompt", PROMPT_EXPECTED)? {
        Value::String(text) => Ok(vec![prompt(Value::String(text), &path, terms, are_cut)?]),
        Value::Array(list) => match list.first() {
            Some(Value::Number(_)) => Ok(vec![prompt(Value::Array(list), &path, terms, are_cut)?]),
            Some(Value::String(_) | Value::Array(_)) if list.len() <= CHOICES_MAX as usize => {
                let at = |index| format!("{path}[{index}]");
                list.into_iter().enumerate().map(|(index, one)| prompt(one, &at(index), terms, are_cut)).collect()
            }
            Some(Value::String(_) | Value::Array(_)) => {
                Err(unfit(&path, &Value::Array(list), &format!("at most {CHOICES_MAX} prompts")))
            }
            _ => Err(unfit(&path, &Value::Array(list), PROMPT_EXPECTED)),
        },
        other => Err(unfit(&path, &other, PROMPT_EXPECTED)),
    }
}

/// One prompt, not empty: this vocabulary has no token that begins every text.
fn prompt(value: Value, path: &str, terms: &Terms<'_>, is_cut: bool) -> Result<ResponseInput, WireError> {
    match value {
        Value::String(text) if !text.is_empty() => Ok(ResponseInput::Text(text)),
        Value::Array(list) if list.len() > terms.context_tokens_max && !is_cut => {
            Err(unfit(path, &Value::Array(list), &format!("at most {} token ids", terms.context_tokens_max)))
        }
        Value::Array(list) if !list.is_empty() => Ok(ResponseInput::Tokens(token_ids(&list, path, terms)?)),
        other => Err(unfit(path, &other, "a text, or an array of token ids, that is not empty")),
    }
}

/// `best_of` would generate more choices than it returns; only the trivial case is served.
fn check_choices(fields: &mut RequestFields, prompts_count: usize, choices_count: u32) -> Result<(), WireError> {
    if let Some(best_of) = fields.count("best_of", 1..=CHOICES_MAX)?
        && best_of != choices_count
    {
        let message = format!("{best_of} is not n, which is {choices_count}; choosing the best of more is not supported");
        return Err(WireError::Unsupported { param: fields.path_of("best_of"), message });
    }
    if prompts_count * choices_count as usize > CHOICES_MAX as usize {
        let message = format!("{choices_count} choices of {prompts_count} prompts are more than {CHOICES_MAX}");
        return Err(WireError::Conflict { param: fields.path_of("n"), message });
    }
    Ok(())
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
