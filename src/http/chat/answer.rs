//! Answers of `/v1/chat/completions`: the chunks of a stream, and the whole.

use std::sync::Arc;

use serde::Serialize;

use crate::actors::messages::{Finish, FinishKind, Part, PartKind};
use crate::batch::TokenId;
use crate::http::answer::encoder::{Frame, to_json};
use crate::http::answer::heading::{FINGERPRINT, Heading, Metadata};
use crate::http::answer::logprobs::ChatLogprobs;
use crate::http::answer::progress::{AnswerProgress, Usage, stop_reason};
use crate::http::answer::whole::{GatheredAnswer, WholeChoice};
use crate::http::wire::error::{ErrorBody, ErrorObject};
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
    /// Log-probabilities.
    pub(crate) logprobs: bool,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[CallDelta<'a>; 1]>,
}

#[derive(Serialize)]
struct CallDelta<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: FunctionDelta<'a>,
}

#[derive(Serialize)]
struct FunctionDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
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
                if let Some(delta) = delta(kind).map(|delta| if hidden { Delta::default() } else { delta }) {
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
            logprobs: self.answer.shown.logprobs.then(|| ChatLogprobs::of(&[])),
            finish_reason: Some(self.progress.finish_reason(part.choice, finish)),
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
            logprobs: logprobs(part),
            token_ids: self.answer.token_ids.as_ref().filter(|_| !part.tokens.is_empty()).map(|_| ids(&part.tokens)),
            ..ChunkChoice::default()
        }
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
fn delta(kind: &PartKind) -> Option<Delta<'_>> {
    match kind {
        PartKind::Prompt | PartKind::Finished(_) => None,
        PartKind::Content(text) => Some(Delta { content: Some(text), ..Delta::default() }),
        PartKind::Reasoning(text) => Some(Delta { reasoning: Some(text), reasoning_content: Some(text), ..Delta::default() }),
        PartKind::ToolCallStart { index, id, name } => {
            let function = FunctionDelta { name: Some(name), arguments: "" };
            let call = CallDelta { index: *index, id: Some(id), kind: Some("function"), function };
            Some(Delta { tool_calls: Some([call]), ..Delta::default() })
        }
        PartKind::ToolCallArguments { index, text } => {
            let function = FunctionDelta { name: None, arguments: text };
            let call = CallDelta { index: *index, id: None, kind: None, function };
            Some(Delta { tool_calls: Some([call]), ..Delta::default() })
        }
    }
}

fn is_empty(kind: &PartKind) -> bool {
    match kind {
        PartKind::Content(text) | PartKind::Reasoning(text) | PartKind::ToolCallArguments { text, .. } => text.is_empty(),
        PartKind::Prompt | PartKind::ToolCallStart { .. } | PartKind::Finished(_) => false,
    }
}

/// Log-probabilities of a part: OpenAI lists those of the answer's text, not of the analysis, calls
/// or stop tokens.
fn logprobs(part: &Part) -> Option<ChatLogprobs> {
    let content = matches!(part.kind, PartKind::Content(_)) && !part.logprobs.is_empty();
    content.then(|| ChatLogprobs::of(&part.logprobs))
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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<CallAnswer<'a>>,
}

#[derive(Serialize)]
struct CallAnswer<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    function: FunctionAnswer<'a>,
}

#[derive(Serialize)]
struct FunctionAnswer<'a> {
    name: &'a str,
    arguments: &'a str,
}

impl ChatAnswer {
    /// The answer in one piece, as JSON.
    pub(crate) fn whole(&self, whole: &GatheredAnswer) -> String {
        let NamedMetadata { metadata, antiphon } = self.named_metadata();
        let choices = whole.ended().enumerate().map(|(index, (choice, finish))| WholeChat {
            index,
            message: message(choice, self.shown.reasoning),
            logprobs: self.shown.logprobs.then(|| ChatLogprobs::of(&choice.logprobs)),
            finish_reason: whole.progress.finish_reason(index as u32, finish),
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
            metadata,
            antiphon,
        })
    }

    fn named_metadata(&self) -> NamedMetadata<'_> {
        let of = |wanted: bool| wanted.then_some(&self.metadata);
        NamedMetadata { metadata: of(self.shown.as_predecessor), antiphon: of(!self.shown.as_predecessor) }
    }
}

fn message(choice: &WholeChoice, shows_reasoning: bool) -> MessageAnswer<'_> {
    let reasoning = Some(choice.reasoning.as_str()).filter(|text| shows_reasoning && !text.is_empty());
    let tool_calls: Vec<_> = choice
        .calls
        .iter()
        .map(|call| CallAnswer {
            id: &call.id,
            kind: "function",
            function: FunctionAnswer { name: &call.name, arguments: &call.arguments },
        })
        .collect();
    // OpenAI's content is null beside calls; without calls clients expect a string.
    let content = Some(choice.content.as_str()).filter(|text| tool_calls.is_empty() || !text.is_empty());
    MessageAnswer { role: "assistant", content, refusal: None, reasoning, reasoning_content: reasoning, tool_calls }
}
