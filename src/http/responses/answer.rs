//! Parts to the items of a response, and to the events that tell of them.
//!
//! Promises: exactly one event ends a stream; the events joined are the response that the last one
//! holds, which is the one of an answer in one piece. Both are made by the same code.

use serde::Serialize;

use crate::actors::budget::{MEMORY_FULL, NoRoom, Reserved, Use};
use crate::actors::messages::{Finish, FinishKind, Part, PartKind, TokenText};
use crate::clock;
use crate::http::answer::blocks::{BlockCutter, TextKind};
use crate::http::answer::encoder::{Frame, to_json};
use crate::http::answer::logprobs::{ChatToken, TokenListing};
use crate::http::answer::progress::AnswerProgress;
use crate::http::answer::sealing::Sealing;
use crate::http::answer::whole::{Broken, Gather};
use crate::http::responses::echoed::SAVED_COPIES;
use crate::http::responses::object::{
    IncompleteDetails, ItemKind, ItemObject, OutputItem, OutputStatus, PartObject, ResponseFailure, ResponseObject,
    ResponseState,
};
use crate::http::responses::stored::Saving;
use crate::http::wire::error::{ErrorObject, SERVER};
use crate::prompt::conversation::CallKind;

/// How often a text is in memory at most while the end of its item waits to be read: kept, and in
/// the three events that end the item and the one that ends the response.
const TEXT_COPIES: u64 = 5;

/// Makes a response of parts, and the events that tell of it.
#[derive(Debug)]
pub(crate) struct ResponsesEncoder {
    response: ResponseState,
    progress: AnswerProgress,
    shows_reasoning: bool,
    events: EventWriter,
    cutter: BlockCutter,
    /// What the answer holds; `None` where it is counted elsewhere.
    memory: Option<Reserved>,
    /// Seals reasoning.
    sealing: Option<Sealing>,
    /// Keeps the response once it has ended.
    saving: Option<Saving>,
}

/// Numbers events and writes them down; none for an answer in one piece.
#[derive(Debug)]
struct EventWriter {
    is_stream: bool,
    next: u64,
    /// The last event that held the response.
    last: &'static str,
}

#[derive(Serialize)]
struct NumberedEvent<'a, T> {
    #[serde(rename = "type")]
    kind: &'static str,
    sequence_number: u64,
    #[serde(flatten)]
    body: &'a T,
}

#[derive(Serialize)]
struct OfResponse<'a> {
    response: ResponseObject<'a>,
}

#[derive(Serialize)]
struct OfItem<'a> {
    output_index: usize,
    item: ItemObject<'a>,
}

#[derive(Serialize)]
struct OfPart<'a> {
    item_id: &'a str,
    output_index: usize,
    content_index: usize,
    part: PartObject<'a>,
}

/// A piece of an item's text, or all of it.
#[derive(Serialize, Default)]
struct OfText<'a> {
    item_id: &'a str,
    output_index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<ChatToken>>,
}

impl EventWriter {
    fn write(&mut self, kind: &'static str, body: &impl Serialize, out: &mut impl Extend<Frame>) {
        if self.is_stream {
            let data = to_json(&NumberedEvent { kind, sequence_number: self.next, body });
            self.next += 1;
            out.extend([Frame { event: Some(kind), data }]);
        }
    }
}

impl ResponsesEncoder {
    /// Makes `response`, in which the analysis is an item if `shows_reasoning`. With `memory`
    /// events are made, and what the answer holds is reserved there; without, the caller counts.
    pub(crate) fn new(
        response: ResponseState,
        progress: AnswerProgress,
        shows_reasoning: bool,
        memory: Option<Reserved>,
    ) -> Self {
        let events = EventWriter { is_stream: memory.is_some(), next: 0, last: "" };
        let cutter = BlockCutter::default();
        Self { response, progress, shows_reasoning, events, cutter, memory, sealing: None, saving: None }
    }

    /// Reasoning is sealed, beside its text, so.
    pub(crate) fn seal_with(&mut self, sealing: Option<Sealing>) {
        self.sealing = sealing;
    }

    /// The response is kept so, once it has ended.
    pub(crate) fn save_as(&mut self, saving: Option<Saving>) {
        self.saving = saving;
    }

    /// Keeps the response as it is, where it is to be kept; false if what it says of that is not
    /// so. May wait for the disk.
    pub(crate) fn last_work(&mut self) -> Option<impl FnOnce() -> bool + Send + use<>> {
        let saving = self.saving.take()?;
        let response = to_json(&self.object());
        Some(move || saving.save(response, clock::unix_seconds()))
    }

    /// The response was not kept, whatever it says.
    pub(crate) fn set_unkept(&mut self) {
        self.response.echoed.set_unkept();
    }

    /// The last event of a response that was not kept, in place of the one that says it is.
    pub(crate) fn end_unkept(&mut self) -> Option<Frame> {
        self.set_unkept();
        self.events.next = self.events.next.saturating_sub(1);
        let mut frames = Vec::new();
        self.tell_response(self.events.last, &mut frames);
        frames.pop()
    }

    /// The response as JSON has it; its usage once it has ended.
    pub(crate) fn object(&self) -> ResponseObject<'_> {
        self.response.object(self.progress.is_done().then(|| self.progress.usage()))
    }

    /// The events before the first item.
    pub(crate) fn begin(&mut self, out: &mut impl Extend<Frame>) {
        for kind in ["response.created", "response.in_progress"] {
            self.tell_response(kind, out);
        }
    }

    /// The events of a part. True once the response has ended.
    pub(crate) fn part(&mut self, part: &Part, out: &mut impl Extend<Frame>) -> bool {
        if self.reserve(part).is_err() {
            let message = "the memory for requests is taken, and this answer has no room in it";
            self.fail(ErrorObject::failed(MEMORY_FULL, message), out);
            return true;
        }
        self.progress.take(part);
        match &part.kind {
            PartKind::Prompt => {}
            PartKind::Reasoning(text) if self.shows_reasoning => self.text(TextKind::Reasoning, text, &[], out),
            PartKind::Reasoning(_) => {}
            PartKind::Content(text) => self.text(TextKind::Answer, text, &part.logprobs, out),
            PartKind::ToolCallStart { id, name, kind, .. } => {
                self.cutter.end_block();
                self.close(OutputStatus::Completed, out);
                self.open(ItemKind::Call { call_id: id.clone(), name: name.clone(), kind: *kind }, out);
            }
            PartKind::ToolCallArguments { text, .. } if text.is_empty() => {}
            PartKind::ToolCallArguments { text, .. } => self.more(text, &[], out),
            PartKind::Finished(finish) => {
                self.finish(finish, out);
                return true;
            }
        }
        false
    }

    /// Ends the response with an error.
    pub(crate) fn fail(&mut self, error: ErrorObject, out: &mut impl Extend<Frame>) {
        self.close(OutputStatus::Incomplete, out);
        self.response.status = OutputStatus::Failed;
        self.response.error = Some(ResponseFailure::new(error.code.unwrap_or(SERVER), error.message));
        self.tell_response("response.failed", out);
    }

    fn reserve(&self, part: &Part) -> Result<(), NoRoom> {
        let Some(memory) = &self.memory else { return Ok(()) };
        let text = match &part.kind {
            PartKind::Reasoning(text) | PartKind::Content(text) | PartKind::ToolCallArguments { text, .. } => text.len(),
            PartKind::Prompt | PartKind::ToolCallStart { .. } | PartKind::Finished(_) => 0,
        };
        let copies = TEXT_COPIES + self.saving.as_ref().map_or(0, |_| SAVED_COPIES);
        memory.grow(Use::Answer, part.bytes() + copies * text as u64)
    }

    fn finish(&mut self, finish: &Finish, out: &mut impl Extend<Frame>) {
        let (item_status, status, reason, event) = match finish.kind {
            // What repeats ends no response: the route refuses to look for it.
            FinishKind::Stop { .. } | FinishKind::ToolCalls | FinishKind::Repetition => {
                (OutputStatus::Completed, OutputStatus::Completed, None, "response.completed")
            }
            FinishKind::Length => {
                (OutputStatus::Incomplete, OutputStatus::Incomplete, Some("max_output_tokens"), "response.incomplete")
            }
            // OpenAI has neither an event nor a reason of its own for it: the status says it.
            FinishKind::Cancelled => (OutputStatus::Incomplete, OutputStatus::Cancelled, None, "response.incomplete"),
            FinishKind::Failed { .. } => unreachable!("a failure is told by `fail`"),
        };
        self.close(item_status, out);
        // Clients look for a message in an answer that is whole; an empty one is one.
        let answered = self.response.output.iter().any(|item| item.kind != ItemKind::Reasoning);
        if status == OutputStatus::Completed && !answered {
            self.open(ItemKind::Message, out);
            self.close(item_status, out);
        }
        self.response.status = status;
        self.response.incomplete_details = reason.map(|reason| IncompleteDetails { reason });
        self.tell_response(event, out);
    }

    fn tell_response(&mut self, kind: &'static str, out: &mut impl Extend<Frame>) {
        let usage = self.progress.is_done().then(|| self.progress.usage());
        self.events.last = kind;
        self.events.write(kind, &OfResponse { response: self.response.object(usage) }, out);
    }

    /// More text of an item of that kind, which is the open one or a new one.
    fn text(&mut self, kind: TextKind, text: &str, logprobs: &[TokenText], out: &mut impl Extend<Frame>) {
        if text.is_empty() && logprobs.is_empty() {
            return;
        }
        let cut = self.cutter.cut(kind, text);
        if cut.begins {
            self.close(OutputStatus::Completed, out);
            let item = match kind {
                TextKind::Reasoning => ItemKind::Reasoning,
                TextKind::Answer => ItemKind::Message,
            };
            self.open(item, out);
        }
        if !(cut.text.is_empty() && logprobs.is_empty()) {
            self.more(cut.text, logprobs, out);
        }
    }

    fn open(&mut self, kind: ItemKind, out: &mut impl Extend<Frame>) {
        let index = self.response.output.len();
        let prefix = match kind {
            ItemKind::Reasoning => "rs",
            ItemKind::Message => "msg",
            ItemKind::Call { kind: CallKind::Function, .. } => "fc",
            ItemKind::Call { kind: CallKind::Custom, .. } => "ctc",
        };
        // The digits of the response's id, so that an item's id tells its response.
        let digits = self.response.heading.id.rsplit('_').next().unwrap_or_default();
        let id = format!("{prefix}_{digits}{index:04x}");
        let status = OutputStatus::InProgress;
        self.response.output.push(OutputItem { kind, id, status, text: String::new(), logprobs: Vec::new(), sealed: None });
        let item = &self.response.output[index];
        self.events.write("response.output_item.added", &OfItem { output_index: index, item: item.begun() }, out);
        if let Some(part) = item.part() {
            let body = OfPart { item_id: &item.id, output_index: index, content_index: 0, part };
            self.events.write("response.content_part.added", &body, out);
        }
    }

    /// More of the open item.
    fn more(&mut self, text: &str, logprobs: &[TokenText], out: &mut impl Extend<Frame>) {
        let index = self.response.output.len().checked_sub(1).expect("an item was opened");
        let item = &mut self.response.output[index];
        item.text.push_str(text);
        item.logprobs.extend_from_slice(logprobs);
        let body = OfText { item_id: &item.id, output_index: index, delta: Some(text), ..OfText::default() };
        match item.kind {
            ItemKind::Reasoning => {
                let body = OfText { content_index: Some(0), ..body };
                self.events.write("response.reasoning_text.delta", &body, out);
            }
            ItemKind::Message => {
                let logprobs = Some(ChatToken::list(logprobs, TokenListing::default()));
                let body = OfText { content_index: Some(0), logprobs, ..body };
                self.events.write("response.output_text.delta", &body, out);
            }
            ItemKind::Call { kind, .. } => {
                let event = match kind {
                    CallKind::Function => "response.function_call_arguments.delta",
                    CallKind::Custom => "response.custom_tool_call_input.delta",
                };
                self.events.write(event, &body, out);
            }
        }
    }

    /// Ends the open item, if there is one.
    fn close(&mut self, status: OutputStatus, out: &mut impl Extend<Frame>) {
        let Some(last) = self.response.output.last_mut().filter(|item| item.status == OutputStatus::InProgress) else { return };
        last.status = status;
        if let (ItemKind::Reasoning, Some(sealing)) = (&last.kind, &self.sealing) {
            last.sealed = Some(sealing.seal(&last.text));
        }
        let output_index = self.response.output.len() - 1;
        let item = &self.response.output[output_index];
        let body = OfText { item_id: &item.id, output_index, ..OfText::default() };
        let text = Some(item.text.as_str());
        match &item.kind {
            ItemKind::Reasoning => {
                let body = OfText { content_index: Some(0), text, ..body };
                self.events.write("response.reasoning_text.done", &body, out);
            }
            ItemKind::Message => {
                let logprobs = Some(ChatToken::list(&item.logprobs, TokenListing::default()));
                let body = OfText { content_index: Some(0), text, logprobs, ..body };
                self.events.write("response.output_text.done", &body, out);
            }
            ItemKind::Call { name, kind: CallKind::Function, .. } => {
                let body = OfText { name: Some(name), arguments: text, ..body };
                self.events.write("response.function_call_arguments.done", &body, out);
            }
            ItemKind::Call { kind: CallKind::Custom, .. } => {
                let body = OfText { input: text, ..body };
                self.events.write("response.custom_tool_call_input.done", &body, out);
            }
        }
        if let Some(part) = item.part() {
            let body = OfPart { item_id: &item.id, output_index, content_index: 0, part };
            self.events.write("response.content_part.done", &body, out);
        }
        self.events.write("response.output_item.done", &OfItem { output_index, item: item.object() }, out);
    }
}

impl Gather for ResponsesEncoder {
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
