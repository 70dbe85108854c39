//! The fields that every generating route reads alike: how much to generate, how to draw, where to
//! stop.

use serde_json::Value;

use crate::actors::messages::{AnswerOptions, AskedForm, AskedTokens, PromptCut, WrittenNumbers};
use crate::batch::{Sampling, TokenId};
use crate::http::wire::defaults::Terms;
use crate::http::wire::document::join;
use crate::http::wire::error::{WireError, clip, quoted};
use crate::http::wire::fields::{RequestFields, integer, number, text, unfit};

/// Most choices of a request, prompts times `n`.
pub(crate) const CHOICES_MAX: u32 = 128;
/// Most likeliest tokens reported at a place.
pub(crate) const TOP_LOGPROBS_MAX: u32 = 20;
const STOP_STRINGS_MAX: usize = 16;
const STOP_STRING_MAX_BYTES: usize = 256;
const STOP_TOKENS_MAX: usize = 64;
const BIASED_TOKENS_MAX: usize = 1024;
const CACHE_SALT_MAX_BYTES: usize = 256;
const CACHE_KEY_MAX_BYTES: usize = 1_024;

/// Below this a temperature is zero: dividing logits by less leaves f32.
const TEMPERATURE_MIN: f32 = 1e-5;
/// The same for the repetition penalty, which divides logits too.
const REPETITION_PENALTY_MIN: f32 = 1e-3;

/// What a request asks to be generated.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Generation {
    /// How many choices a prompt.
    pub(crate) choices_count: u32,
    /// Most tokens of a choice; `None` is as many as there is room for.
    pub(crate) max_tokens: Option<u32>,
    /// More than there is room for is as many as there is room for, and not refused.
    pub(crate) cuts_at_context: bool,
    /// How to draw.
    pub(crate) sampling: Sampling,
    /// Numbers of `sampling` as the request writes them, or as they are assumed.
    pub(crate) written: WrittenNumbers,
    /// The seed, if the request brought one.
    pub(crate) seed: Option<i64>,
    /// The form that an answer must have.
    pub(crate) form: Option<AskedForm>,
    /// Texts that end a choice.
    pub(crate) stop_strings: Vec<String>,
    /// Go on past the model's own end.
    pub(crate) ignore_eos: bool,
    /// How its tokens become text and lists.
    pub(crate) answer: AnswerOptions,
    /// Which tokens they are.
    pub(crate) tokens: AskedTokens,
    /// How its prompts are cut.
    pub(crate) cut: Option<PromptCut>,
    /// Keeps the prompt apart from those built with another salt.
    pub(crate) cache_salt: Option<String>,
    /// It names a `prompt_cache_key`: others that begin alike will come.
    pub(crate) has_cache_key: bool,
    /// Lower is served earlier.
    pub(crate) priority: i32,
}

impl Generation {
    /// Reads the fields. `max_tokens` is 1 at least; the caller reads a zero that means something
    /// before.
    pub(crate) fn read(fields: &mut RequestFields, terms: &Terms<'_>) -> Result<Self, WireError> {
        let seed = fields.integer("seed", i64::MIN..=i64::MAX)?;
        let max_tokens = max_tokens(fields, terms)?;
        let written = written_numbers(fields, terms)?;
        let sampling = Sampling {
            temperature: Some(written.temperature as f32).filter(|divisor| *divisor >= TEMPERATURE_MIN).unwrap_or(0.0),
            // Zero leaves the likeliest token alone.
            top_p: written.top_p as f32,
            top_k: top_k(fields)?.unwrap_or(terms.defaults.top_k),
            min_p: fields.number("min_p", "a number from 0 to 1", |p| (0.0..=1.0).contains(&p))?.unwrap_or(0.0),
            seed: seed.map_or(terms.drawn_seed, i64::cast_unsigned),
            repetition_penalty: fields
                .number("repetition_penalty", "a number above 0, at most 2", |x| x > 0.0 && x <= 2.0)?
                .map_or(1.0, |penalty| penalty.max(REPETITION_PENALTY_MIN)),
            presence_penalty: additive_penalty(fields, "presence_penalty")?,
            frequency_penalty: additive_penalty(fields, "frequency_penalty")?,
            logit_bias: logit_bias(fields, terms)?,
            stop_tokens: stop_tokens(fields, terms)?,
            min_tokens: min_tokens(fields, max_tokens, terms)?,
            logprobs: None,
            prompt_logprobs: false,
            masks: None,
        };
        let cache_salt = labels(fields)?;
        Ok(Self {
            choices_count: fields.count("n", 1..=CHOICES_MAX)?.unwrap_or(1),
            max_tokens,
            cuts_at_context: false,
            sampling,
            written,
            seed,
            form: None,
            stop_strings: stop_strings(fields, "stop")?,
            ignore_eos: fields.flag("ignore_eos")?.unwrap_or(false),
            answer: stop_options(fields)?,
            tokens: AskedTokens::default(),
            cut: None,
            cache_salt,
            has_cache_key: cache_key(fields)?,
            priority: priority(fields)?,
        })
    }

    /// Holds the answers to a form. One that may not end by itself has none.
    pub(crate) fn set_form(&mut self, form: Option<AskedForm>) -> Result<(), WireError> {
        if let Some(AskedForm { param, .. }) = form.as_ref().filter(|_| self.ignore_eos) {
            let message = "contradicts ignore_eos, with which an answer does not end where its form does".to_owned();
            return Err(WireError::Conflict { param: param.clone(), message });
        }
        self.form = form;
        Ok(())
    }
}

fn written_numbers(fields: &mut RequestFields, terms: &Terms<'_>) -> Result<WrittenNumbers, WireError> {
    let temperature = fields.written_number("temperature", "a number from 0 to 2", |t| (0.0..=2.0).contains(&t))?;
    let top_p = fields.written_number("top_p", "a number from 0 to 1", |p| (0.0..=1.0).contains(&p))?;
    let assumed = terms.defaults;
    Ok(WrittenNumbers { temperature: temperature.unwrap_or(assumed.temperature), top_p: top_p.unwrap_or(assumed.top_p) })
}

/// OpenAI's: a hint that requests with the same key begin alike, which sends them to one cache.
/// Here is one cache, and what begins alike is found without a key; it is kept longer, as a
/// session's is.
fn cache_key(fields: &mut RequestFields) -> Result<bool, WireError> {
    let path = fields.path_of("prompt_cache_key");
    match fields.text("prompt_cache_key")? {
        Some(key) if key.len() > CACHE_KEY_MAX_BYTES => {
            let (found, expected) =
                (format!("a string of {} bytes", key.len()), format!("at most {CACHE_KEY_MAX_BYTES} bytes"));
            Err(WireError::Unfit { param: path, found, expected })
        }
        key => Ok(key.is_some_and(|key| !key.is_empty())),
    }
}

/// vLLM's. The scheduler counts what is beyond its own bounds as those.
fn priority(fields: &mut RequestFields) -> Result<i32, WireError> {
    let given = fields.integer("priority", i64::MIN..=i64::MAX)?.unwrap_or(0);
    let bounded = given.clamp(i64::from(i32::MIN), i64::from(i32::MAX));
    Ok(i32::try_from(bounded).expect("it was clamped to 32 bits"))
}

/// -1 is another way to say all.
fn top_k(fields: &mut RequestFields) -> Result<Option<u32>, WireError> {
    let given = fields.integer("top_k", -1..=i64::from(i32::MAX))?;
    Ok(given.map(|count| u32::try_from(count).unwrap_or(0)))
}

fn additive_penalty(fields: &mut RequestFields, name: &str) -> Result<f32, WireError> {
    let given = fields.number(name, "a number from -2 to 2", |penalty| (-2.0..=2.0).contains(&penalty))?;
    Ok(given.unwrap_or(0.0))
}

/// `max_completion_tokens` is the newer name; it wins.
fn max_tokens(fields: &mut RequestFields, terms: &Terms<'_>) -> Result<Option<u32>, WireError> {
    let older = token_count(fields, "max_tokens", terms)?;
    Ok(token_count(fields, "max_completion_tokens", terms)?.or(older))
}

/// More tokens than the context holds is a context error, with the code and the words that clients
/// know it by.
pub(crate) fn token_count(fields: &mut RequestFields, name: &str, terms: &Terms<'_>) -> Result<Option<u32>, WireError> {
    let most = u32::try_from(terms.context_tokens_max).unwrap_or(u32::MAX).max(1);
    let asked = fields.peek(name).filter(|value| value.as_f64().is_some_and(|asked| asked > f64::from(most)));
    if let Some(asked) = asked {
        let (param, asked) = (fields.path_of(name), clip(&asked.to_string()));
        return Err(WireError::ContextExceeded { param, asked, context_tokens_max: terms.context_tokens_max });
    }
    fields.count(name, 1..=most)
}

fn min_tokens(fields: &mut RequestFields, max_tokens: Option<u32>, terms: &Terms<'_>) -> Result<u32, WireError> {
    let most = u32::try_from(terms.context_tokens_max).unwrap_or(u32::MAX);
    let least = fields.count("min_tokens", 0..=most)?.unwrap_or(0);
    check_least(fields, least, max_tokens)?;
    Ok(least)
}

/// Refuses an answer whose `min_tokens`, which are `least`, are more than it may have.
pub(crate) fn check_least(fields: &RequestFields, least: u32, max_tokens: Option<u32>) -> Result<(), WireError> {
    match max_tokens {
        Some(max_tokens) if least > max_tokens => Err(WireError::Conflict {
            param: fields.path_of("min_tokens"),
            message: format!("{least} is more than the {max_tokens} tokens that the answer may have"),
        }),
        _ => Ok(()),
    }
}

/// What becomes of a stop string, and where it is searched.
fn stop_options(fields: &mut RequestFields) -> Result<AnswerOptions, WireError> {
    Ok(AnswerOptions {
        keeps_stop: fields.flag("include_stop_str_in_output")?.unwrap_or(false),
        stops_in_reasoning: fields.flag("stop_in_reasoning")?.unwrap_or(false),
        ..AnswerOptions::default()
    })
}

/// Texts that end a choice, as the field `name` has them.
pub(crate) fn stop_strings(fields: &mut RequestFields, name: &str) -> Result<Vec<String>, WireError> {
    let path = fields.path_of(name);
    let strings = match fields.take(name) {
        None => return Ok(Vec::new()),
        // OpenAI takes an empty string for none.
        Some(Value::String(only)) if only.is_empty() => return Ok(Vec::new()),
        Some(Value::String(only)) => vec![(path, only)],
        Some(Value::Array(list)) if list.len() <= STOP_STRINGS_MAX => list
            .into_iter()
            .enumerate()
            .map(|(index, value)| {
                let at = format!("{path}[{index}]");
                text(value, &at).map(|text| (at, text))
            })
            .collect::<Result<_, _>>()?,
        Some(other) => return Err(unfit(&path, &other, &format!("a string, or an array of at most {STOP_STRINGS_MAX}"))),
    };
    for (at, string) in &strings {
        if string.is_empty() || string.len() > STOP_STRING_MAX_BYTES {
            let found = format!("a string of {} bytes", string.len());
            let expected = format!("1 to {STOP_STRING_MAX_BYTES} bytes");
            return Err(WireError::Unfit { param: at.clone(), found, expected });
        }
    }
    Ok(strings.into_iter().map(|(_, string)| string).collect())
}

fn stop_tokens(fields: &mut RequestFields, terms: &Terms<'_>) -> Result<Vec<TokenId>, WireError> {
    let path = fields.path_of("stop_token_ids");
    let list = fields.list("stop_token_ids")?.unwrap_or_default();
    if list.len() > STOP_TOKENS_MAX {
        return Err(unfit(&path, &Value::Array(list), &format!("at most {STOP_TOKENS_MAX} token ids")));
    }
    token_ids(&list, &path, terms)
}

/// A list of token ids at `path`, each in the vocabulary.
pub(crate) fn token_ids(list: &[Value], path: &str, terms: &Terms<'_>) -> Result<Vec<TokenId>, WireError> {
    let range = 0..=i64::from(terms.token_max());
    list.iter()
        .enumerate()
        .map(|(index, value)| {
            // The path is only written out for a complaint: a prompt may have a hundred thousand
            // ids.
            let id =
                integer(value, "", range.clone()).or_else(|_| integer(value, &format!("{path}[{index}]"), range.clone()))?;
            Ok(TokenId(u32::try_from(id).expect("the range ends with the vocabulary")))
        })
        .collect()
}

fn logit_bias(fields: &mut RequestFields, terms: &Terms<'_>) -> Result<Vec<(TokenId, f32)>, WireError> {
    let path = fields.path_of("logit_bias");
    let Some(map) = fields.object("logit_bias")?.map(RequestFields::into_rest) else { return Ok(Vec::new()) };
    if map.len() > BIASED_TOKENS_MAX {
        let found = format!("an object of {}", map.len());
        return Err(WireError::Unfit { param: path, found, expected: format!("at most {BIASED_TOKENS_MAX} token ids") });
    }
    let mut biases = Vec::with_capacity(map.len());
    for (key, value) in map {
        // `+1` and `01` would be second names of one token.
        let canonical = |id: &u32| id.to_string() == key && *id <= terms.token_max();
        let Some(id) = key.parse::<u32>().ok().filter(canonical) else {
            let found = format!("an object with the key {}", quoted(&key));
            let expected = format!("keys that are token ids from 0 to {}", terms.token_max());
            return Err(WireError::Unfit { param: path, found, expected });
        };
        let fits = |bias: f32| (-100.0..=100.0).contains(&bias);
        biases.push((TokenId(id), number(&value, &join(&path, &key), "a number from -100 to 100", fits)? as f32));
    }
    Ok(biases)
}

/// Fields without effect on the answer; their types still hold. The cache's salt is one that shows
/// in `cache_hit`.
fn labels(fields: &mut RequestFields) -> Result<Option<String>, WireError> {
    fields.text("user")?;
    fields.object("metadata")?;
    let path = fields.path_of("cache_salt");
    let salt = fields.text("cache_salt")?;
    if let Some(salt) = &salt {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=_-".contains(&byte);
        if salt.is_empty() || salt.len() > CACHE_SALT_MAX_BYTES || !salt.bytes().all(plain) {
            let expected = format!("1 to {CACHE_SALT_MAX_BYTES} characters of A-Z a-z 0-9 + / = _ -");
            return Err(unfit(&path, &Value::String(salt.clone()), &expected));
        }
    }
    Ok(salt)
}

#[cfg(test)]
#[path = "sampling_tests.rs"]
mod tests;
