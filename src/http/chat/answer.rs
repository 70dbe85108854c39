//! Answers of `/v1/chat/completions`: the chunks of a stream, and the whole.

use std::sync::Arc;

use serde::Serialize;

use crate::actors::messages::{Finish, FinishKind, Part, PartKind, TokenText};
use crate::batch::TokenId;
use crate::http::answer::encoder::{Frame, to_json};
use crate::http::answer::heading::{FINGERPRINT, Heading, Metadata};
use crate::http::answer::logprobs::{ChatLogprobs, RankedPrompt};
use crate::http::answer::progress::{AnswerProgress, Usage, stop_reason};
use crate::http::answer::whole::{GatheredAnswer, WholeChoice};
use crate::http::chat::calls::{CallStyle, CallsAnswer, CallsDelta};
use crate::http::wire::error::{ErrorBody, ErrorObject};
use crate::http::wire::lists::TokenLists;
use crate::prompt::conversation::ThinkingStop;

/// What an answer is made with.
#[derive(Debug)]
pub(crate) struct ChatAnswer {
    /// Its head.
    pub(crate) heading: Heading,
    /// Its end.
    pub(crate) metadata: Metadata,
    /// The prompt's tokens, if token ids are wanted.
    pub(crate) token_ids: Option<Arc<[TokenId]>>,
    /// What of it is shown.
    pub(crate) shown: Shown,
}

/// What a chat's answer shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shown {
    /// The analysis.
    pub(crate) reasoning: bool,
    /// Calls.
    pub(crate) call_style: CallStyle,
    /// Lists of tokens.
    pub(crate) lists: TokenLists,
    /// The metadata are called `metadata`, as the predecessor called them. OpenAI's field of that
    /// name is a map of strings, which its clients check, so that its dialect has them as
    /// `antiphon`.
    pub(crate) as_predecessor: bool,
}

/// Makes the chunks of a stream.
#[derive(Debug)]
pub(crate) struct ChatEncoder {
    /// What the answer is made with.
    pub(crate) answer: ChatAnswer,
    /// How far it is.
    pub(crate) progress: AnswerProgress,
    /// The last chunk tells the usage.
    pub(crate) include_usage: bool,
    /// Every chunk does.
    pub(crate) continuous_usage: bool,
    /// Chunks also carry the keys of the typed events.
    pub(crate) typed: bool,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'static str,
    choices: &'a [ChunkChoice<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a Metadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    antiphon: Option<&'a Metadata>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

/// The metadata under one of their two names, or neither.
#[derive(Default)]
struct NamedMetadata<'a> {
    metadata: Option<&'a Metadata>,
    antiphon: Option<&'a Metadata>,
}

/// What more there is to say of an end.
#[derive(Serialize)]
struct FinishDetails {
    /// What ended the analysis: the budget that the request gave it, or the tokens that are kept
    /// for the answer.
    reasoning_stopped_by: &'static str,
}

impl FinishDetails {
    fn of(finish: &Finish) -> Option<Self> {
        let reasoning_stopped_by = match finish.thinking_stop? {
            ThinkingStop::Budget => "thinking_token_budget",
            ThinkingStop::Answer => "reserve_answer_tokens",
        };
        Some(Self { reasoning_stopped_by })
    }
}

#[derive(Serialize, Default)]
struct ChunkChoice<'a> {
    index: u32,
    delta: Delta<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_details: Option<FinishDetails>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

#[derive(Serialize, Default)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(flatten)]
    calls: CallsDelta<'a>,
}

/// What a chunk adds to its choices.
#[derive(Default)]
struct Extra<'a> {
    usage: Option<Usage>,
    prompt_token_ids: Option<Vec<u32>>,
    metadata: NamedMetadata<'a>,
    kind: &'static str,
}

impl ChatEncoder {
    /// One chunk a choice that tells the role.
    pub(crate) fn begin(&self, out: &mut impl Extend<Frame>) {
        for index in 0..self.progress.choices_count() {
            let first = index == 0;
            let delta = Delta { role: Some("assistant"), content: Some(""), ..Delta::default() };
            let choice = ChunkChoice { index: index as u32, delta, ..ChunkChoice::default() };
            let prompt_token_ids = self.answer.token_ids.as_deref().filter(|_| first).map(ids);
            let kind = if first { "start" } else { "token" };
            out.extend([self.chunk(&[choice], "", Extra { prompt_token_ids, kind, ..self.extra() })]);
        }
    }

    /// The chunks of a part. True once the stream is over.
    pub(crate) fn part(&mut self, part: &Part, out: &mut impl Extend<Frame>) -> bool {
        self.progress.take(part);
        match &part.kind {
            PartKind::Finished(finish) => self.finished(part, finish, out),
            kind => {
                let hidden = matches!(kind, PartKind::Reasoning(_)) && !self.answer.shown.reasoning;
                if let Some(delta) =
                    delta(kind, self.answer.shown.call_style).map(|delta| if hidden { Delta::default() } else { delta })
                {
                    let text = if let PartKind::Content(text) = kind { text } else { "" };
                    let choice = ChunkChoice { delta, ..self.choice(part) };
                    // Parts without text are worth a chunk only for what else they bring.
                    if !(hidden || is_empty(kind)) || choice.logprobs.is_some() || choice.token_ids.is_some() {
                        out.extend([self.chunk(&[choice], text, self.extra())]);
                    }
                }
                false
            }
        }
    }

    fn finished(&self, part: &Part, finish: &Finish, out: &mut impl Extend<Frame>) -> bool {
        let done = self.progress.is_done();
        let choice = ChunkChoice {
            // Said of every choice with log-probabilities, so that one without any text has a list
            // too.
            logprobs: self.answer.logprobs(if self.answer.shown.lists.ids { part.logprobs.as_slice() } else { &[] }),
            finish_reason: Some(self.answer.shown.call_style.finish_reason(self.progress.finish_reason(part.choice, finish))),
            stop_reason: stop_reason(finish),
            finish_details: FinishDetails::of(finish),
            ..self.choice(part)
        };
        let end = match finish.kind {
            FinishKind::Cancelled => "cancelled",
            _ => "done",
        };
        let metadata = self.answer.named_metadata();
        if !done {
            out.extend([self.chunk(&[choice], "", self.extra())]);
        } else if self.include_usage {
            let usage = Some(self.progress.usage());
            let last = Extra { usage, metadata, kind: end, ..Extra::default() };
            out.extend([self.chunk(&[choice], "", self.extra()), self.chunk(&[], "", last), Frame::done()]);
        } else {
            let last = Extra { metadata, kind: end, ..self.extra() };
            out.extend([self.chunk(&[choice], "", last), Frame::done()]);
        }
        done
    }

    /// An error, which ends the stream.
    pub(crate) fn fail(&self, error: ErrorObject, out: &mut impl Extend<Frame>) {
        #[derive(Serialize)]
        struct Typed<'a> {
            #[serde(flatten)]
            body: ErrorBody,
            #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
            kind: Option<&'static str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            request_id: Option<&'a str>,
        }
        let kind = self.typed.then_some("error");
        let request_id = self.typed.then_some(self.answer.heading.id.as_str());
        out.extend([Frame::json(&Typed { body: error.body(), kind, request_id }), Frame::done()]);
    }

    fn choice(&self, part: &Part) -> ChunkChoice<'static> {
        ChunkChoice {
            index: part.choice,
            logprobs: self.logprobs(part),
            token_ids: self.answer.token_ids.as_ref().filter(|_| !part.tokens.is_empty()).map(|_| ids(&part.tokens)),
            ..ChunkChoice::default()
        }
    }

    /// Log-probabilities of a part: OpenAI lists those of the answer's text, not of the analysis,
    /// calls or stop tokens. Beside ids they are of every token.
    fn logprobs(&self, part: &Part) -> Option<ChatLogprobs> {
        let lists = self.answer.shown.lists.ids || matches!(part.kind, PartKind::Content(_));
        self.answer.logprobs(&part.logprobs).filter(|_| lists && !part.logprobs.is_empty())
    }

    fn extra(&self) -> Extra<'_> {
        Extra { usage: self.continuous_usage.then(|| self.progress.usage()), kind: "token", ..Extra::default() }
    }

    fn chunk(&self, choices: &[ChunkChoice<'_>], content: &str, extra: Extra<'_>) -> Frame {
        let heading = &self.answer.heading;
        Frame::json(&Chunk {
            id: &heading.id,
            object: "chat.completion.chunk",
            created: heading.created,
            model: &heading.model,
            system_fingerprint: FINGERPRINT,
            choices,
            usage: extra.usage,
            prompt_token_ids: extra.prompt_token_ids,
            metadata: extra.metadata.metadata,
            antiphon: extra.metadata.antiphon,
            kind: self.typed.then_some(extra.kind),
            content: self.typed.then_some(content),
            request_id: self.typed.then_some(&heading.id),
        })
    }
}

/// What a part adds to the message; `None` for what is not part of a chat.
fn delta(kind: &PartKind, style: CallStyle) -> Option<Delta<'_>> {
    match kind {
        PartKind::Prompt | PartKind::Finished(_) => None,
        PartKind::Content(text) => Some(Delta { content: Some(text), ..Delta::default() }),
        PartKind::Reasoning(text) => Some(Delta { reasoning: Some(text), reasoning_content: Some(text), ..Delta::default() }),
        PartKind::ToolCallStart { index, id, name, kind } => {
            Some(Delta { calls: CallsDelta::begun(style, *index, id, (*kind, name)), ..Delta::default() })
        }
        PartKind::ToolCallArguments { index, kind, text } => {
            Some(Delta { calls: CallsDelta::more(style, *index, (*kind, text)), ..Delta::default() })
        }
    }
}

fn is_empty(kind: &PartKind) -> bool {
    match kind {
        PartKind::Content(text) | PartKind::Reasoning(text) | PartKind::ToolCallArguments { text, .. } => text.is_empty(),
        PartKind::Prompt | PartKind::ToolCallStart { .. } | PartKind::Finished(_) => false,
    }
}

/// Token ids as JSON has them.
pub(in crate::http) fn ids(tokens: &[TokenId]) -> Vec<u32> {
    tokens.iter().map(|token| token.0).collect()
}

#[derive(Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'static str,
    choices: Vec<WholeChat<'a>>,
    usage: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<RankedPrompt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a Metadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    antiphon: Option<&'a Metadata>,
}

#[derive(Serialize)]
struct WholeChat<'a> {
    index: usize,
    message: MessageAnswer<'a>,
    logprobs: Option<ChatLogprobs>,
    finish_reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_details: Option<FinishDetails>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

#[derive(Serialize)]
struct MessageAnswer<'a> {
    role: &'static str,
    content: Option<&'a str>,
    refusal: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(flatten)]
    calls: CallsAnswer<'a>,
}

impl ChatAnswer {
    /// The answer in one piece, as JSON.
    pub(crate) fn whole(&self, whole: &GatheredAnswer) -> String {
        let NamedMetadata { metadata, antiphon } = self.named_metadata();
        let choices = whole.ended().enumerate().map(|(index, (choice, finish))| WholeChat {
            index,
            message: message(choice, &self.shown),
            logprobs: self.logprobs(&choice.logprobs),
            finish_reason: self.shown.call_style.finish_reason(whole.progress.finish_reason(index as u32, finish)),
            stop_reason: stop_reason(finish),
            finish_details: FinishDetails::of(finish),
            token_ids: self.token_ids.as_ref().map(|_| ids(&choice.tokens)),
        });
        to_json(&Completion {
            id: &self.heading.id,
            object: "chat.completion",
            created: self.heading.created,
            model: &self.heading.model,
            system_fingerprint: FINGERPRINT,
            choices: choices.collect(),
            usage: whole.progress.usage(),
            prompt_token_ids: self.token_ids.as_deref().map(ids),
            prompt_logprobs: self.prompt_logprobs(whole),
            metadata,
            antiphon,
        })
    }

    fn logprobs(&self, tokens: &[TokenText]) -> Option<ChatLogprobs> {
        let lists = self.shown.lists;
        lists.logprobs.is_some().then(|| ChatLogprobs::of(tokens, lists.listing()))
    }

    /// Of the prompt, which is that of each choice.
    fn prompt_logprobs(&self, whole: &GatheredAnswer) -> Option<RankedPrompt> {
        let top_max_count = self.shown.lists.prompt_logprobs?;
        whole.ended().next().map(|(choice, _)| RankedPrompt::of(&choice.prompt_logprobs, top_max_count))
    }

    fn named_metadata(&self) -> NamedMetadata<'_> {
        let of = |wanted: bool| wanted.then_some(&self.metadata);
        NamedMetadata { metadata: of(self.shown.as_predecessor), antiphon: of(!self.shown.as_predecessor) }
    }
}

fn message<'a>(choice: &'a WholeChoice, shown: &Shown) -> MessageAnswer<'a> {
    let reasoning = Some(choice.reasoning.as_str()).filter(|text| shown.reasoning && !text.is_empty());
    let calls = CallsAnswer::of(shown.call_style, &choice.calls);
    // OpenAI's content is null beside calls; without calls clients expect a string.
    let content = Some(choice.content.as_str()).filter(|text| calls.is_empty() || !text.is_empty());
    MessageAnswer { role: "assistant", content, refusal: None, reasoning, reasoning_content: reasoning, calls }
}
