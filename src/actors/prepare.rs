//! The text work of a request: what the client said becomes sequences for the scheduler.
//!
//! Pure but for the date. Owns: the prompt builder. Absent on purpose: threads, mailboxes, bounds.

use std::sync::Arc;

use crate::actors::compiler::Compiler;
use crate::actors::forms::HeldTo;
use crate::actors::mail::Prepared;
use crate::actors::masks::MaskThreads;
use crate::actors::messages::{Generate, KeyId, PromptCut, PromptReport, Refusal, ResponseInput};
use crate::actors::refusal::{context_exceeded, prompt_exceeds_context};
use crate::actors::snapshot::ModelLimits;
use crate::actors::text_rules::{TextForm, TextRules};
use crate::batch::{Sampling, TokenId};
use crate::clock::local_date;
use crate::prompt::builder::{KeyParameters, PromptBuilder, PromptError, Salt};
use crate::prompt::constraint::{AnswerRules, Grammar, HeaderTables, ThinkingBounds, WantedTokens};
use crate::prompt::conversation::{CallKind, Conversation, ThinkingLimits};
use crate::prompt::harmony::parser::ParserRules;
use crate::prompt::stop::StopSet;
use crate::prompt::tokenizer::Tokenizer;
use crate::scheduler::{CacheSalt, NewSequence};

/// What the text work needs.
#[derive(Debug, Clone)]
pub(super) struct TextWork {
    /// Builds prompts of conversations.
    pub(super) builder: Arc<PromptBuilder>,
    /// Tokenizes everything else.
    pub(super) tokenizer: Arc<Tokenizer>,
    /// The date that the model is told (`2025-11-22`); `None`: today's, where the machine is.
    pub(super) date: Option<String>,
    /// Compiles what answers must be.
    pub(super) compiler: Arc<Compiler>,
    /// Find out which tokens go on with an answer that must be so.
    pub(super) masks: MaskThreads,
    /// The headers that chats' answers are held to.
    pub(super) headers: Arc<HeaderTables>,
    /// Whether every chat's is.
    pub(super) header_grammar: bool,
}

/// A prompt, of whatever kind.
struct AnyPrompt {
    report: PromptReport,
    reading: TextForm,
    param: &'static str,
    /// What its answers must be, and how long they may think.
    answer: HeldTo,
    thinking: ThinkingLimits,
}

impl TextWork {
    /// The sequences of a request, and how their answer is read.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] if the input contradicts itself, names tokens that are not in the
    /// vocabulary, or leaves no room in the context.
    pub(super) fn prepare(&self, generate: Generate, limits: &ModelLimits) -> Result<Prepared, Refusal> {
        check_sampling(&generate.sampling, limits.vocab_size)?;
        let nothing = [
            (generate.choices_count == 0, "n", "No choice was asked for; expected at least one."),
            (generate.inputs.is_empty(), "prompt", "No prompt was given; expected at least one."),
        ];
        if let Some((_, param, message)) = nothing.into_iter().find(|(is_so, ..)| *is_so) {
            return Err(Refusal::Invalid { param: Some(param.into()), code: None, message: message.to_owned() });
        }
        let key = key_parameters(&generate);
        let form = generate.form.as_ref().map(|form| self.grammar(form)).transpose()?;
        let cut = generate.cut.map(|cut| within(cut, generate.max_tokens, limits));
        let build = |input| self.prompt(input, &key, limits.vocab_size, limits.context_tokens_max, form.as_ref(), cut);
        let prompts: Result<Vec<AnyPrompt>, Refusal> = generate.inputs.into_iter().map(build).collect();
        let mut prepared =
            Prepared { reports: Vec::new(), sequences: Vec::new(), rules: Vec::new(), param: "prompt", answers_bytes: 0 };
        let mut sampling = generate.sampling;
        if !generate.ignore_eos {
            sampling.stop_tokens.extend(self.tokenizer.control().response_ends());
        }
        let stop = Arc::new(StopSet::new(&generate.stop_strings).keeping(generate.answer.keeps_stop));
        let wanted = WantedTokens::new(&self.tokenizer, generate.tokens.allowed, &generate.tokens.unwanted);
        for prompt in prompts? {
            let max_tokens = match generate.max_tokens {
                Some(max_tokens) if !generate.cuts_at_context => max_tokens,
                asked => room(prompt.report.tokens.len(), limits, prompt.param)?.min(asked.unwrap_or(u32::MAX)),
            };
            // Each choice gets a copy of the prompt: what the scheduler would refuse is not copied
            // first.
            let (prompt_tokens, context_tokens_max) = (prompt.report.tokens.len(), limits.context_tokens_max);
            if prompt_tokens > context_tokens_max {
                return Err(context_exceeded(prompt_tokens, max_tokens as usize, context_tokens_max, prompt.param));
            }
            let reading = match prompt.reading {
                TextForm::Harmony(start, rules) => {
                    TextForm::Harmony(start, ParserRules { goes_on: generate.ignore_eos, ..rules })
                }
                other => other,
            };
            for _ in 0..generate.choices_count {
                let seed = sampling.seed.wrapping_add(prepared.sequences.len() as u64);
                let thinking = ThinkingBounds::new(prompt.thinking, max_tokens, self.header_grammar, &self.tokenizer);
                let masks = wanted.masks(prompt.answer.masks(&self.masks, thinking.clone()), reading.begins_in_text());
                prepared.sequences.push(NewSequence {
                    prompt: prompt.report.tokens.to_vec(),
                    max_tokens,
                    sampling: Arc::new(Sampling { seed, masks, ..sampling.clone() }),
                    cache_salt: CacheSalt(key.salt.words()),
                    in_session: generate.session.is_some() || generate.has_cache_key,
                    priority: generate.priority,
                });
                prepared.rules.push(TextRules {
                    tokenizer: Arc::clone(&self.tokenizer),
                    reading: reading.clone(),
                    stop: Arc::clone(&stop),
                    coalescing: generate.coalescing,
                    thinking,
                    options: generate.answer,
                });
            }
            prepared.param = prompt.param;
            let answer = &prompt.answer;
            prepared.answers_bytes += u64::from(generate.choices_count) * answer.sequence_bytes() + answer.shared_bytes();
            prepared.reports.push(Arc::new(prompt.report));
        }
        Ok(prepared)
    }

    /// The tokens of an input, as [`TextWork::prepare`] would build them.
    ///
    /// # Errors
    /// As there.
    pub(super) fn tokenize(&self, input: ResponseInput, owner: KeyId, vocab_size: usize) -> Result<Vec<TokenId>, Refusal> {
        let key = KeyParameters { salt: Salt::of(owner.0.as_ref(), None), ..KeyParameters::default() };
        let prompt = self.prompt(input, &key, vocab_size, usize::MAX, None, None)?;
        Ok(prompt.report.tokens.to_vec())
    }

    /// The text of tokens.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] for a token that is not in the vocabulary.
    pub(super) fn detokenize(&self, tokens: &[TokenId], vocab_size: usize) -> Result<String, Refusal> {
        check_tokens("tokens", tokens, vocab_size)?;
        Ok(self.tokenizer.decode(tokens))
    }

    /// A prompt of at most `tokens_max` tokens; a longer one is refused once it is known to be,
    /// which costs no more than one of that length. Tokens are taken as they are, for they cost
    /// nothing.
    fn prompt(
        &self,
        input: ResponseInput,
        key: &KeyParameters,
        vocab_size: usize,
        tokens_max: usize,
        form: Option<&Arc<Grammar>>,
        cut: Option<PromptCut>,
    ) -> Result<AnyPrompt, Refusal> {
        let plain = |tokens: Vec<TokenId>| AnyPrompt {
            report: PromptReport {
                uncut_tokens: tokens.len(),
                tokens: left_of(&tokens, cut).into(),
                cache_key: String::new(),
                cache_hit: false,
                prompt_version: String::new(),
            },
            reading: TextForm::Plain,
            param: "prompt",
            thinking: ThinkingLimits::default(),
            answer: form.map_or(HeldTo::Nothing, |grammar| {
                HeldTo::Form(Arc::new(AnswerRules::of_text(self.compiler.grammars(), Arc::clone(grammar))))
            }),
        };
        match input {
            ResponseInput::Chat(conversation) => {
                let date = self.date.clone().unwrap_or_else(local_date);
                let built = self.builder.build_within(&conversation, key, &date, tokens_max).map_err(|error| match error {
                    PromptError::TooLong { tokens_max } => prompt_exceeds_context(tokens_max, "messages"),
                    error => Refusal::Invalid { param: Some("messages".into()), code: None, message: error.to_string() },
                })?;
                let report = PromptReport {
                    uncut_tokens: built.tokens.len(),
                    tokens: built.tokens,
                    cache_key: built.cache_key,
                    cache_hit: built.cache_hit,
                    prompt_version: built.version.name().to_owned(),
                };
                let answer = self.chat_rules(&conversation, &built.parser_start, form)?;
                let reading = TextForm::Harmony(built.parser_start, rules_of(&conversation));
                Ok(AnyPrompt { report, reading, param: "messages", answer, thinking: conversation.thinking })
            }
            ResponseInput::Text(text) => {
                let mut tokens = Vec::new();
                // Of one that is cut the end counts, which only the tokens before it tell.
                let tokens_max = if cut.is_some() { usize::MAX } else { tokens_max };
                match self.tokenizer.encode_text_within(&text, tokens_max, &mut tokens) {
                    true => Ok(plain(tokens)),
                    false => Err(prompt_exceeds_context(tokens_max, "prompt")),
                }
            }
            ResponseInput::Tokens(tokens) => {
                check_tokens("prompt", &tokens, vocab_size)?;
                Ok(plain(tokens))
            }
        }
    }
}

/// What the answer to a conversation may hold.
fn rules_of(conversation: &Conversation) -> ParserRules {
    let functions = match &conversation.forced_tool {
        Some(name) => [name.clone()].into(),
        None => conversation.offered().map(|(_, tool)| tool.name.clone()).collect(),
    };
    let customs = conversation.offered().filter(|(_, tool)| tool.kind() == CallKind::Custom);
    let customs = customs.map(|(_, tool)| tool.name.clone()).collect();
    ParserRules { functions, customs, single_call: conversation.single_call, goes_on: false }
}

/// A cut that says no number leaves what the context has room for beside the answer.
fn within(cut: PromptCut, max_tokens: Option<u32>, limits: &ModelLimits) -> PromptCut {
    let room = limits.context_tokens_max.saturating_sub(max_tokens.unwrap_or(1) as usize).max(1);
    PromptCut { tokens_max: cut.tokens_max.or(Some(u32::try_from(room).unwrap_or(u32::MAX))), ..cut }
}

/// What is left of a prompt that is cut.
fn left_of(tokens: &[TokenId], cut: Option<PromptCut>) -> &[TokenId] {
    let most = cut.and_then(|cut| cut.tokens_max).map_or(usize::MAX, |most| most as usize);
    let gone = tokens.len().saturating_sub(most);
    if cut.is_some_and(|cut| cut.keeps_first) { &tokens[..tokens.len() - gone] } else { &tokens[gone..] }
}

/// What of a request is part of its cache key.
fn key_parameters(generate: &Generate) -> KeyParameters {
    KeyParameters {
        temperature: Some(generate.written.temperature),
        top_p: Some(generate.written.top_p),
        max_tokens: generate.max_tokens.map(u64::from),
        seed: generate.seed,
        stop_strings: generate.stop_strings.clone(),
        salt: Salt::of(generate.owner.0.as_ref(), generate.cache_salt.as_deref()),
    }
}

/// How many tokens the context has left after a prompt.
fn room(prompt_tokens: usize, limits: &ModelLimits, param: &'static str) -> Result<u32, Refusal> {
    let left = limits.context_tokens_max.saturating_sub(prompt_tokens);
    match u32::try_from(left) {
        Ok(0) => Err(context_exceeded(prompt_tokens, 1, limits.context_tokens_max, param)),
        room => Ok(room.unwrap_or(u32::MAX)),
    }
}

fn check_sampling(sampling: &Sampling, vocab_size: usize) -> Result<(), Refusal> {
    check_tokens("stop_token_ids", &sampling.stop_tokens, vocab_size)?;
    let biased: Vec<TokenId> = sampling.logit_bias.iter().map(|(token, _)| *token).collect();
    check_tokens("logit_bias", &biased, vocab_size)
}

fn check_tokens(param: &'static str, tokens: &[TokenId], vocab_size: usize) -> Result<(), Refusal> {
    match tokens.iter().find(|token| token.0 as usize >= vocab_size) {
        None => Ok(()),
        Some(token) => Err(Refusal::Invalid {
            param: Some(param.into()),
            code: None,
            message: format!("The token {} is not in the vocabulary; expected a number below {vocab_size}.", token.0),
        }),
    }
}

#[cfg(test)]
#[path = "prepare_tests.rs"]
mod tests;
