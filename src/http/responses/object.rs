//! The response object and its items, as JSON has them.

use serde::Serialize;

use crate::actors::budget::MEMORY_FULL;
use crate::actors::messages::TokenText;
use crate::http::answer::heading::{Heading, Metadata};
use crate::http::answer::logprobs::{ChatToken, TokenListing};
use crate::http::answer::progress::Usage;
use crate::http::responses::echoed::EchoedFields;
use crate::prompt::conversation::CallKind;

/// How far a response or an item of it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OutputStatus {
    /// More will come.
    InProgress,
    /// It is whole.
    Completed,
    /// It was cut.
    Incomplete,
    /// It broke.
    Failed,
    /// It was cancelled.
    Cancelled,
}

/// What an item is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ItemKind {
    /// The analysis, as it was said.
    Reasoning,
    /// Text of the answer.
    Message,
    /// A call of a function, or of a custom tool.
    Call {
        /// `call_…`.
        call_id: String,
        /// The function.
        name: String,
        /// Which of both.
        kind: CallKind,
    },
}

/// An item of the output.
#[derive(Debug, Clone)]
pub(crate) struct OutputItem {
    /// What it is.
    pub(crate) kind: ItemKind,
    /// `rs_…`, `msg_…`, `fc_…` or `ctc_…`.
    pub(crate) id: String,
    /// How far it is.
    pub(crate) status: OutputStatus,
    /// Its text, or the arguments or the input of a call.
    pub(crate) text: String,
    /// Log-probabilities of a message's tokens, if asked for.
    pub(crate) logprobs: Vec<TokenText>,
    /// The text of whole reasoning, sealed, if asked for.
    pub(crate) sealed: Option<String>,
}

/// An item as JSON has it.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ItemObject<'a> {
    Reasoning {
        id: &'a str,
        summary: [(); 0],
        content: Vec<PartObject<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        encrypted_content: Option<&'a str>,
        status: OutputStatus,
    },
    Message {
        id: &'a str,
        status: OutputStatus,
        role: &'static str,
        content: Vec<PartObject<'a>>,
    },
    FunctionCall {
        id: &'a str,
        status: OutputStatus,
        call_id: &'a str,
        name: &'a str,
        arguments: &'a str,
    },
    CustomToolCall {
        id: &'a str,
        status: OutputStatus,
        call_id: &'a str,
        name: &'a str,
        input: &'a str,
    },
}

/// A part of an item as JSON has it.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum PartObject<'a> {
    ReasoningText { text: &'a str },
    OutputText { text: &'a str, annotations: [(); 0], logprobs: Vec<ChatToken> },
}

impl OutputItem {
    /// Its text as a part; `None` for a call, which has none.
    pub(crate) fn part(&self) -> Option<PartObject<'_>> {
        match self.kind {
            ItemKind::Reasoning => Some(PartObject::ReasoningText { text: &self.text }),
            ItemKind::Message => {
                let logprobs = ChatToken::list(&self.logprobs, TokenListing::default());
                Some(PartObject::OutputText { text: &self.text, annotations: [], logprobs })
            }
            ItemKind::Call { .. } => None,
        }
    }

    /// The whole item.
    pub(crate) fn object(&self) -> ItemObject<'_> {
        self.with(self.part().into_iter().collect())
    }

    /// The item before its first part.
    pub(crate) fn begun(&self) -> ItemObject<'_> {
        self.with(Vec::new())
    }

    fn with<'a>(&'a self, content: Vec<PartObject<'a>>) -> ItemObject<'a> {
        let (id, status) = (self.id.as_str(), self.status);
        match &self.kind {
            ItemKind::Reasoning => {
                let encrypted_content = self.sealed.as_deref();
                ItemObject::Reasoning { id, summary: [], content, encrypted_content, status }
            }
            ItemKind::Message => ItemObject::Message { id, status, role: "assistant", content },
            ItemKind::Call { call_id, name, kind: CallKind::Function } => {
                ItemObject::FunctionCall { id, status, call_id, name, arguments: &self.text }
            }
            ItemKind::Call { call_id, name, kind: CallKind::Custom } => {
                ItemObject::CustomToolCall { id, status, call_id, name, input: &self.text }
            }
        }
    }
}

/// Why a response was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct IncompleteDetails {
    pub(crate) reason: &'static str,
}

/// Why a response failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ResponseFailure {
    /// One of OpenAI's codes, which typed clients check.
    code: &'static str,
    message: String,
    /// The code of this server; typed clients take fields that they do not know.
    antiphon_code: &'static str,
}

impl ResponseFailure {
    /// A failure with a code of this server.
    pub(crate) fn new(antiphon_code: &'static str, message: String) -> Self {
        let code = match antiphon_code {
            MEMORY_FULL | "queue_timeout" => "rate_limit_exceeded",
            _ => "server_error",
        };
        Self { code, message, antiphon_code }
    }
}

/// `usage`, by the names of this API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct ResponseUsage {
    input_tokens: usize,
    input_tokens_details: InputDetails,
    output_tokens: u64,
    output_tokens_details: OutputDetails,
    total_tokens: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct InputDetails {
    cached_tokens: u64,
    /// Nothing is paid for what is kept.
    cache_write_tokens: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct OutputDetails {
    reasoning_tokens: u64,
}

impl From<Usage> for ResponseUsage {
    fn from(usage: Usage) -> Self {
        Self {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: InputDetails {
                cached_tokens: usage.prompt_tokens_details.cached_tokens,
                cache_write_tokens: 0,
            },
            output_tokens: usage.completion_tokens,
            output_tokens_details: OutputDetails { reasoning_tokens: usage.completion_tokens_details.reasoning_tokens },
            total_tokens: usage.total_tokens,
        }
    }
}

/// A response, as far as it is.
#[derive(Debug)]
pub(crate) struct ResponseState {
    /// Its id, model and time.
    pub(crate) heading: Heading,
    /// What it says of the prompt, once it has ended.
    pub(crate) metadata: Metadata,
    /// What it repeats.
    pub(crate) echoed: EchoedFields,
    /// How far it is.
    pub(crate) status: OutputStatus,
    /// Its items; only the last may be in progress.
    pub(crate) output: Vec<OutputItem>,
    /// Why it was cut.
    pub(crate) incomplete_details: Option<IncompleteDetails>,
    /// Why it failed.
    pub(crate) error: Option<ResponseFailure>,
}

/// A response as JSON has it.
#[derive(Debug, Serialize)]
pub(crate) struct ResponseObject<'a> {
    id: &'a str,
    object: &'static str,
    created_at: u64,
    status: OutputStatus,
    error: Option<&'a ResponseFailure>,
    incomplete_details: Option<IncompleteDetails>,
    model: &'a str,
    output: Vec<ItemObject<'a>>,
    usage: Option<ResponseUsage>,
    #[serde(flatten)]
    echoed: &'a EchoedFields,
    #[serde(skip_serializing_if = "Option::is_none")]
    antiphon: Option<&'a Metadata>,
}

impl ResponseState {
    /// A response of which nothing is said.
    pub(crate) fn new(heading: Heading, metadata: Metadata, echoed: EchoedFields) -> Self {
        let status = OutputStatus::InProgress;
        Self { heading, metadata, echoed, status, output: Vec::new(), incomplete_details: None, error: None }
    }

    /// It as JSON has it, with what was used, once it has ended.
    pub(crate) fn object(&self, usage: Option<Usage>) -> ResponseObject<'_> {
        ResponseObject {
            id: &self.heading.id,
            object: "response",
            created_at: self.heading.created,
            status: self.status,
            error: self.error.as_ref(),
            incomplete_details: self.incomplete_details,
            model: &self.heading.model,
            output: self.output.iter().map(OutputItem::object).collect(),
            usage: usage.map(ResponseUsage::from),
            echoed: &self.echoed,
            antiphon: usage.map(|_| &self.metadata),
        }
    }
}
