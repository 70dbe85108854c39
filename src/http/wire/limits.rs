//! vLLM's fields that bound what an answer holds: `bad_words`, `allowed_token_ids`,
//! `repetition_detection`, `truncate_prompt_tokens`.

use serde_json::Value;

use crate::actors::messages::{PromptCut, RepetitionLimits};
use crate::http::wire::defaults::Terms;
use crate::http::wire::error::WireError;
use crate::http::wire::fields::{RequestFields, text, unfit};
use crate::http::wire::sampling::{Generation, token_ids};

const WORDS_MAX: usize = 128;
const WORD_MAX_BYTES: usize = 256;
/// Longest pattern that is searched for. Each token is compared with as many before it.
const PATTERN_MAX_TOKENS: u32 = 1_024;
const COUNT_MAX: u32 = 65_536;

/// `bad_words` and `repetition_detection`, which chats have too.
pub(crate) fn read(fields: &mut RequestFields, generation: &mut Generation) -> Result<(), WireError> {
    generation.tokens.unwanted = words(fields)?;
    generation.answer.repetition = repetition(fields)?;
    Ok(())
}

/// `allowed_token_ids` and the cut of prompts: those of a text, which has no headers to keep.
pub(crate) fn read_of_text(
    fields: &mut RequestFields,
    terms: &Terms<'_>,
    generation: &mut Generation,
) -> Result<(), WireError> {
    read(fields, generation)?;
    let path = fields.path_of("allowed_token_ids");
    let allowed = fields.list("allowed_token_ids")?.filter(|list| !list.is_empty());
    if let (Some(_), Some(form)) = (&allowed, &generation.form) {
        let message = format!("says what the answer may hold, and so does {}; give one of them", form.param);
        return Err(WireError::Conflict { param: path, message });
    }
    generation.tokens.allowed = allowed.map(|list| token_ids(&list, &path, terms)).transpose()?;
    Ok(())
}

/// `truncate_prompt_tokens`, -1 of which is as many as there is room for, and `truncation_side`.
pub(crate) fn cut(fields: &mut RequestFields, terms: &Terms<'_>) -> Result<Option<PromptCut>, WireError> {
    let most = i64::try_from(terms.context_tokens_max).unwrap_or(i64::MAX);
    let path = fields.path_of("truncate_prompt_tokens");
    let asked = fields.integer("truncate_prompt_tokens", -1..=most)?;
    if asked == Some(0) {
        return Err(unfit(&path, &Value::from(0), &format!("an integer from 1 to {most}, or -1")));
    }
    let path = fields.path_of("truncation_side");
    let keeps_first = match fields.text("truncation_side")?.as_deref() {
        None | Some("left") => false,
        Some("right") => true,
        Some(other) => return Err(unfit(&path, &Value::String(other.to_owned()), "left or right")),
    };
    Ok(asked.map(|tokens| PromptCut { tokens_max: u32::try_from(tokens).ok(), keeps_first }))
}

fn words(fields: &mut RequestFields) -> Result<Vec<String>, WireError> {
    let path = fields.path_of("bad_words");
    let list = fields.list("bad_words")?.unwrap_or_default();
    if list.len() > WORDS_MAX {
        return Err(unfit(&path, &Value::Array(list), &format!("at most {WORDS_MAX} texts")));
    }
    let word = |(index, value)| {
        let at = format!("{path}[{index}]");
        let word = text(value, &at)?;
        match word.trim().is_empty() || word.len() > WORD_MAX_BYTES {
            true => Err(unfit(&at, &Value::String(word), &format!("a text of 1 to {WORD_MAX_BYTES} bytes that is not blank"))),
            false => Ok(word),
        }
    };
    list.into_iter().enumerate().map(word).collect()
}

fn repetition(fields: &mut RequestFields) -> Result<Option<RepetitionLimits>, WireError> {
    let Some(mut asked) = fields.object("repetition_detection")? else { return Ok(None) };
    let pattern_max_tokens = asked.count("max_pattern_size", 0..=PATTERN_MAX_TOKENS)?.unwrap_or(0);
    let pattern_min_tokens = asked.count("min_pattern_size", 0..=PATTERN_MAX_TOKENS)?.unwrap_or(0);
    let min_count = asked.count("min_count", 0..=COUNT_MAX)?.unwrap_or(0);
    if pattern_min_tokens > pattern_max_tokens {
        let message = format!("{pattern_min_tokens} is more than max_pattern_size, which is {pattern_max_tokens}");
        return Err(WireError::Conflict { param: asked.path_of("min_pattern_size"), message });
    }
    if pattern_max_tokens == 0 {
        return Ok(None);
    }
    if min_count < 2 {
        let found = Value::from(min_count);
        return Err(unfit(&asked.path_of("min_count"), &found, &format!("an integer from 2 to {COUNT_MAX}")));
    }
    Ok(Some(RepetitionLimits { pattern_min_tokens: pattern_min_tokens.max(1), pattern_max_tokens, min_count }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::messages::AskedTokens;
    use crate::http::wire::samples::{blame, terms, value};

    fn read_all(json: &str) -> Result<Generation, WireError> {
        let mut fields = RequestFields::of(value(json), "").unwrap();
        let mut generation = Generation::read(&mut fields, &terms())?;
        generation.cut = cut(&mut fields, &terms())?;
        read_of_text(&mut fields, &terms(), &mut generation)?;
        Ok(generation)
    }

    #[test]
    fn bounds_are_read_and_nothing_asked_is_none() {
        let limits = |json: &str| read_all(json).unwrap();
        for nothing in [
            "{}",
            r#"{"bad_words":[],"allowed_token_ids":[],"repetition_detection":{},"truncate_prompt_tokens":null}"#,
            r#"{"bad_words":null,"allowed_token_ids":null,"repetition_detection":{"max_pattern_size":0},"truncation_side":"left"}"#,
        ] {
            let generation = limits(nothing);
            assert_eq!((generation.tokens, generation.answer.repetition, generation.cut), (AskedTokens::default(), None, None));
        }
        assert_eq!(limits(r#"{"bad_words":["a"," b"]}"#).tokens.unwanted, ["a", " b"]);
        assert_eq!(limits(r#"{"allowed_token_ids":[3,2047]}"#).tokens.allowed.unwrap().len(), 2);
        let repetition = limits(r#"{"repetition_detection":{"max_pattern_size":8,"min_count":3}}"#).answer.repetition.unwrap();
        assert_eq!((repetition.pattern_min_tokens, repetition.pattern_max_tokens, repetition.min_count), (1, 8, 3));
        let cut = |json: &str| limits(json).cut;
        assert_eq!(cut(r#"{"truncate_prompt_tokens":-1}"#), Some(PromptCut { tokens_max: None, keeps_first: false }));
        let first = cut(r#"{"truncate_prompt_tokens":7,"truncation_side":"right"}"#);
        assert_eq!(first, Some(PromptCut { tokens_max: Some(7), keeps_first: true }));
    }

    #[test]
    fn what_cannot_be_is_blamed_by_its_place() {
        for (json, param) in [
            (r#"{"bad_words":"a"}"#, "bad_words"),
            (r#"{"bad_words":["a"," "]}"#, "bad_words[1]"),
            (r#"{"bad_words":[7]}"#, "bad_words[0]"),
            (r#"{"allowed_token_ids":[2048]}"#, "allowed_token_ids[0]"),
            (r#"{"allowed_token_ids":7}"#, "allowed_token_ids"),
            (r#"{"repetition_detection":7}"#, "repetition_detection"),
            (r#"{"repetition_detection":{"max_pattern_size":2000}}"#, "repetition_detection.max_pattern_size"),
            (r#"{"repetition_detection":{"min_pattern_size":2}}"#, "repetition_detection.min_pattern_size"),
            (r#"{"repetition_detection":{"max_pattern_size":2,"min_count":1}}"#, "repetition_detection.min_count"),
            (r#"{"truncate_prompt_tokens":0}"#, "truncate_prompt_tokens"),
            (r#"{"truncate_prompt_tokens":-2}"#, "truncate_prompt_tokens"),
            (r#"{"truncation_side":"middle"}"#, "truncation_side"),
        ] {
            assert_eq!(blame(read_all(json)).0, param, "{json}");
        }
    }
}
