//! Parts to the blocks of a message, and to the events that tell of them.
//!
//! Promises: one `message_stop` or one `error` ends a stream; its events joined are the message of
//! an answer in one piece. Both are made by the same code.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::actors::budget::{MEMORY_FULL, NoRoom, Reserved, Use};
use crate::actors::messages::{Finish, FinishKind, Part, PartKind};
use crate::http::answer::blocks::{BlockCutter, TextKind};
use crate::http::answer::encoder::{Frame, to_json};
use crate::http::answer::heading::{Heading, Metadata};
use crate::http::answer::progress::{AnswerProgress, Usage, stop_reason};
use crate::http::answer::sealing::Sealing;
use crate::http::answer::whole::{Broken, Gather};
use crate::http::messages::blocks::INVALID_JSON;
use crate::http::messages::error::MessagesError;
use crate::http::messages::request::ThinkingShown;
use crate::http::wire::error::ErrorObject;

/// How ids of calls begin in this API, and in all of the server.
const CALL: (&str, &str) = ("toolu_", "call_");
/// How often thinking that is sealed is in memory at most while its end waits to be read: itself,
/// sealed, in base64, and in its event.
const SEALED_COPIES: u64 = 5;

/// What a block is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum BlockKind {
    Thinking,
    Text,
    Call { id: String, name: String },
}

/// A block. A stream keeps no text but that which is sealed at its end.
#[derive(Debug)]
struct MessageBlock {
    kind: BlockKind,
    text: String,
    /// Of thinking that has ended.
    signature: String,
}

/// A block as JSON has it.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum BlockObject<'a> {
    Thinking { thinking: &'a str, signature: &'a str },
    Text { text: &'a str },
    ToolUse { id: &'a str, name: &'a str, input: Box<RawValue> },
}

/// A message as JSON has it.
#[derive(Debug, Serialize)]
pub(crate) struct MessageObject<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    role: &'static str,
    model: &'a str,
    content: Vec<BlockObject<'a>>,
    stop_reason: Option<&'static str>,
    stop_sequence: Option<&'a str>,
    usage: MessageUsage,
    antiphon: &'a Metadata,
}

/// `usage`, by the names of this API, in which the prompt's tokens are those found computed and
/// those that were not.
#[derive(Debug, Clone, Copy, Serialize)]
struct MessageUsage {
    input_tokens: u64,
    /// Nothing is paid for what is kept.
    cache_creation_input_tokens: u64,
    cache_read_input_tokens: u64,
    output_tokens: u64,
    output_tokens_details: ThinkingUsage,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct ThinkingUsage {
    thinking_tokens: u64,
}

impl From<Usage> for MessageUsage {
    fn from(usage: Usage) -> Self {
        let (cached, prompt) = (usage.prompt_tokens_details.cached_tokens, usage.prompt_tokens as u64);
        Self {
            input_tokens: prompt.saturating_sub(cached),
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: cached,
            output_tokens: usage.completion_tokens,
            output_tokens_details: ThinkingUsage { thinking_tokens: usage.completion_tokens_details.reasoning_tokens },
        }
    }
}

/// The answer of `/v1/messages/count_tokens`.
#[derive(Debug, Serialize)]
pub(super) struct TokensCount {
    pub(super) input_tokens: usize,
}

/// The data of an event: its name again, and what it tells.
#[derive(Serialize)]
struct MessageEvent<'a, T> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    body: &'a T,
}

#[derive(Serialize)]
struct Nothing {}

#[derive(Serialize)]
struct OfMessage<'a> {
    message: MessageObject<'a>,
}

#[derive(Serialize)]
struct OfBlock<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_block: Option<BlockObject<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<BlockDelta<'a>>,
}

#[derive(Serialize)]
#[serde(tag = "type")]
enum BlockDelta<'a> {
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: &'a str },
    #[serde(rename = "signature_delta")]
    Signature { signature: &'a str },
    #[serde(rename = "text_delta")]
    Text { text: &'a str },
    #[serde(rename = "input_json_delta")]
    Input { partial_json: &'a str },
}

#[derive(Serialize)]
struct OfEnd<'a> {
    delta: EndDelta<'a>,
    usage: MessageUsage,
}

#[derive(Serialize)]
struct EndDelta<'a> {
    stop_reason: Option<&'static str>,
    stop_sequence: Option<&'a str>,
}

/// Makes a message of parts, and the events that tell of it.
#[derive(Debug)]
pub(crate) struct MessagesEncoder {
    heading: Heading,
    metadata: Metadata,
    progress: AnswerProgress,
    thinking: ThinkingShown,
    sealing: Sealing,
    /// Pays for what a stream keeps; `None` for an answer in one piece, which its caller counts.
    memory: Option<Reserved>,
    /// As many tokens were asked for, if fewer end the answer the context did.
    max_tokens: Option<u32>,
    cutter: BlockCutter,
    content: Vec<MessageBlock>,
    /// The last block goes on.
    is_open: bool,
    stop_reason: Option<&'static str>,
    stop_sequence: Option<String>,
}

impl MessagesEncoder {
    /// Makes a message of which `thinking` says what it shows of the analysis. With `memory` events
    /// are made; without, the caller counts what the answer holds.
    pub(super) fn new(
        heading: Heading,
        metadata: Metadata,
        progress: AnswerProgress,
        thinking: ThinkingShown,
        sealing: Sealing,
        memory: Option<Reserved>,
    ) -> Self {
        Self {
            heading,
            metadata,
            progress,
            thinking,
            sealing,
            memory,
            max_tokens: None,
            cutter: BlockCutter::default(),
            content: Vec::new(),
            is_open: false,
            stop_reason: None,
            stop_sequence: None,
        }
    }

    /// An answer that is cut was cut by this limit, or else by the context.
    pub(super) fn cut_after(&mut self, max_tokens: Option<u32>) {
        self.max_tokens = max_tokens;
    }

    /// The message as JSON has it.
    pub(super) fn object(&self) -> MessageObject<'_> {
        MessageObject {
            id: &self.heading.id,
            kind: "message",
            role: "assistant",
            model: &self.heading.model,
            content: self.content.iter().map(|block| self.block_object(block)).collect(),
            stop_reason: self.stop_reason,
            stop_sequence: self.stop_sequence.as_deref(),
            usage: self.progress.usage().into(),
            antiphon: &self.metadata,
        }
    }

    /// What shows that the stream is alive.
    pub(crate) fn ping() -> Frame {
        frame("ping", &Nothing {})
    }

    /// The events before the first block. What of the prompt is found computed is told at the end:
    /// it is not known yet.
    pub(crate) fn begin(&self, out: &mut impl Extend<Frame>) {
        out.extend([frame("message_start", &OfMessage { message: self.object() }), Self::ping()]);
    }

    /// The events of a part. True once the message has ended.
    pub(crate) fn part(&mut self, part: &Part, out: &mut impl Extend<Frame>) -> bool {
        if self.reserve(part).is_err() {
            let message = "the memory for requests is taken, and this answer has no room in it";
            self.fail(&ErrorObject::failed(MEMORY_FULL, message), out);
            return true;
        }
        self.progress.take(part);
        match &part.kind {
            PartKind::Prompt => {}
            PartKind::Reasoning(_) if self.thinking == ThinkingShown::Nothing => {}
            PartKind::Reasoning(text) => self.text(TextKind::Reasoning, text, out),
            PartKind::Content(text) => self.text(TextKind::Answer, text, out),
            PartKind::ToolCallStart { id, name, .. } => {
                self.cutter.end_block();
                let id = id.strip_prefix(CALL.1).map_or_else(|| id.clone(), |digits| format!("{}{digits}", CALL.0));
                self.open(BlockKind::Call { id, name: name.clone() }, out);
            }
            PartKind::ToolCallArguments { text, .. } => self.more(text, out),
            PartKind::Finished(finish) => {
                self.finish(finish, out);
                return true;
            }
        }
        false
    }

    /// Ends the stream with an error.
    pub(crate) fn fail(&self, error: &ErrorObject, out: &mut impl Extend<Frame>) {
        out.extend([Frame { event: Some("error"), data: to_json(&MessagesError::new(error, &self.heading.id)) }]);
    }

    fn is_stream(&self) -> bool {
        self.memory.is_some()
    }

    /// Whether the text of a block is kept: all of an answer in one piece, and what is sealed.
    fn keeps(&self, kind: &BlockKind) -> bool {
        !self.is_stream() || (*kind == BlockKind::Thinking && self.thinking == ThinkingShown::Sealed)
    }

    fn reserve(&self, part: &Part) -> Result<(), NoRoom> {
        match (&self.memory, &part.kind) {
            (Some(memory), PartKind::Reasoning(text)) if self.thinking == ThinkingShown::Sealed => {
                memory.grow(Use::Answer, SEALED_COPIES * text.len() as u64)
            }
            _ => Ok(()),
        }
    }

    fn write(&self, kind: &'static str, body: &impl Serialize, out: &mut impl Extend<Frame>) {
        if self.is_stream() {
            out.extend([frame(kind, body)]);
        }
    }

    fn text(&mut self, kind: TextKind, text: &str, out: &mut impl Extend<Frame>) {
        if text.is_empty() {
            return;
        }
        let cut = self.cutter.cut(kind, text);
        if cut.begins {
            self.close(out);
        }
        // A block begins with its first text: an empty one could not be sent back to Anthropic.
        if !cut.text.is_empty() {
            if !self.is_open {
                let block = match kind {
                    TextKind::Reasoning => BlockKind::Thinking,
                    TextKind::Answer => BlockKind::Text,
                };
                self.open(block, out);
            }
            self.more(cut.text, out);
        }
    }

    /// Begins a block, behind the last one.
    fn open(&mut self, kind: BlockKind, out: &mut impl Extend<Frame>) {
        self.close(out);
        self.content.push(MessageBlock { kind, text: String::new(), signature: String::new() });
        self.is_open = true;
        let index = self.content.len() - 1;
        let content_block = Some(self.block_object(&self.content[index]));
        self.write("content_block_start", &OfBlock { index, content_block, delta: None }, out);
    }

    /// More of the open block.
    fn more(&mut self, text: &str, out: &mut impl Extend<Frame>) {
        let index = self.content.len().checked_sub(1).expect("a block was opened");
        let kind = &self.content[index].kind;
        let keeps = self.keeps(kind);
        let delta = match kind {
            // It is told by its signature.
            BlockKind::Thinking if self.thinking == ThinkingShown::Sealed => None,
            BlockKind::Thinking => Some(BlockDelta::Thinking { thinking: text }),
            BlockKind::Text => Some(BlockDelta::Text { text }),
            BlockKind::Call { .. } => Some(BlockDelta::Input { partial_json: text }),
        };
        if delta.is_some() && !text.is_empty() {
            self.write("content_block_delta", &OfBlock { index, content_block: None, delta }, out);
        }
        if keeps {
            self.content[index].text.push_str(text);
        }
    }

    /// Ends the open block, if there is one.
    fn close(&mut self, out: &mut impl Extend<Frame>) {
        if !std::mem::take(&mut self.is_open) {
            return;
        }
        let index = self.content.len() - 1;
        if self.content[index].kind == BlockKind::Thinking {
            // Clients drop thinking that is not signed. Where its text is there, nothing else is
            // needed to take it back, so that nothing is sealed.
            let is_sealed = self.thinking == ThinkingShown::Sealed;
            let text = if is_sealed { std::mem::take(&mut self.content[index].text) } else { String::new() };
            self.content[index].signature = self.sealing.seal(&text);
            let delta = BlockDelta::Signature { signature: &self.content[index].signature };
            self.write("content_block_delta", &OfBlock { index, content_block: None, delta: Some(delta) }, out);
        }
        self.write("content_block_stop", &OfBlock { index, content_block: None, delta: None }, out);
    }

    fn finish(&mut self, finish: &Finish, out: &mut impl Extend<Frame>) {
        self.close(out);
        self.stop_sequence = stop_reason(finish).map(str::to_owned);
        self.stop_reason = match (&finish.kind, self.progress.finish_reason(0, finish)) {
            (FinishKind::Stop { matched: Some(_) }, _) => Some("stop_sequence"),
            (_, "tool_calls") => Some("tool_use"),
            // What repeats ends no message: the route refuses to look for it.
            (FinishKind::Stop { .. } | FinishKind::ToolCalls | FinishKind::Repetition, _) => Some("end_turn"),
            (FinishKind::Length, _) if self.max_tokens.is_some_and(|most| finish.completion_tokens < most) => {
                Some("model_context_window_exceeded")
            }
            (FinishKind::Length, _) => Some("max_tokens"),
            // Anthropic has no reason for it.
            (FinishKind::Cancelled, _) => None,
            (FinishKind::Failed { .. }, _) => unreachable!("a failure is told by `fail`"),
        };
        let delta = EndDelta { stop_reason: self.stop_reason, stop_sequence: self.stop_sequence.as_deref() };
        self.write("message_delta", &OfEnd { delta, usage: self.progress.usage().into() }, out);
        self.write("message_stop", &Nothing {}, out);
    }

    fn block_object<'a>(&self, block: &'a MessageBlock) -> BlockObject<'a> {
        let MessageBlock { kind, text, signature } = block;
        match kind {
            BlockKind::Thinking => BlockObject::Thinking { thinking: text, signature },
            BlockKind::Text => BlockObject::Text { text },
            BlockKind::Call { id, name } => BlockObject::ToolUse { id, name, input: input(text) },
        }
    }
}

fn frame(kind: &'static str, body: &impl Serialize) -> Frame {
    Frame { event: Some(kind), data: to_json(&MessageEvent { kind, body }) }
}

/// The arguments of a call as an object of JSON: as they were said, if they are one.
fn input(arguments: &str) -> Box<RawValue> {
    let said = if arguments.is_empty() { "{}" } else { arguments };
    match serde_json::from_str::<Box<RawValue>>(said) {
        Ok(object) if object.get().starts_with('{') => object,
        _ => {
            let wrapped = serde_json::json!({INVALID_JSON: arguments});
            serde_json::value::to_raw_value(&wrapped).expect("a text is JSON")
        }
    }
}

impl Gather for MessagesEncoder {
    fn take(&mut self, part: Part) -> Result<(), Broken> {
        Broken::check(&part)?;
        self.part(&part, &mut Vec::new());
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.progress.is_done()
    }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
