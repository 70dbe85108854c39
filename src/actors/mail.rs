//! What the actors say among themselves.
//!
//! Three traps of actix 0.13.5 shape this table. `do_send` is silent when the receiver is gone:
//! everything is sent with `try_send`. A full mailbox never wakes its senders again: mailboxes have
//! no capacity, and what is in them is bounded by what we count, one [`Prepare`] or [`Submit`] for
//! each pass of the gate, one [`Cancel`] for each live response. A message whose `send`
//! future is dropped is thrown away unread: a message that must be handled even if its sender left
//! carries a reply channel of its own.

use std::sync::Arc;

use actix::Message;
use tokio::sync::oneshot;

use crate::actors::budget::Reserved;
use crate::actors::concurrency_limit::Pass;
use crate::actors::ends::TextEnd;
use crate::actors::messages::{Accepted, Cached, Generate, KeyId, PromptReport, Refusal, ResponseInput};
use crate::actors::registry::{ResponseId, Ticket};
use crate::actors::snapshot::{SchedulerLook, ViewSize};
use crate::actors::text_rules::TextRules;
use crate::batch::{PositionLogprobs, TokenId};
use crate::metrics::RequestRecord;
use crate::scheduler::NewSequence;

/// Where the answer to a [`Generate`] goes.
pub(super) type Reply = oneshot::Sender<Result<Accepted, Refusal>>;

/// What stands for a request wherever it is: dropping it takes the request out of the registry and
/// counts it as abandoned.
#[derive(Debug)]
pub(super) struct Visitor {
    /// Its place in the registry.
    pub(super) ticket: Ticket,
    /// Its record in the metrics.
    pub(super) record: RequestRecord,
    /// What its sequences hold, once its prompt is built.
    pub(super) memory: Option<Reserved>,
}

/// To a RequestActor: do the text work of a request, then hand it to the scheduler.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Prepare {
    pub(super) generate: Generate,
    pub(super) visitor: Visitor,
    pub(super) pass: Pass,
    pub(super) reply: Reply,
}

/// To a RequestActor: the tokens of an input.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<TokenId>, Refusal>")]
pub(super) struct Tokenize {
    pub(super) input: ResponseInput,
    pub(super) owner: KeyId,
    pub(super) memory: Option<Reserved>,
    pub(super) pass: Pass,
}

/// To a RequestActor: the text of tokens.
#[derive(Debug, Message)]
#[rtype(result = "Result<String, Refusal>")]
pub(super) struct Detokenize {
    pub(super) tokens: Vec<TokenId>,
    pub(super) memory: Option<Reserved>,
    pub(super) pass: Pass,
}

/// A request whose text work is done.
#[derive(Debug)]
pub(super) struct Prepared {
    /// What each prompt became.
    pub(super) reports: Vec<Arc<PromptReport>>,
    /// The choices, one prompt's after another's.
    pub(super) sequences: Vec<NewSequence>,
    /// How the text of each choice is read.
    pub(super) rules: Vec<TextRules>,
    /// What the client calls the prompt, for errors.
    pub(super) param: &'static str,
    /// Memory of those whose answers are held to a form, or to headers that name functions.
    pub(super) answers_bytes: u64,
}

/// What a sequence and its stream hold besides tokens: at most, of one choice.
const CHOICE_BYTES: u64 = 4 << 10;

impl Prepared {
    /// Tokens of all prompts.
    pub(super) fn prompt_tokens(&self) -> usize {
        self.reports.iter().map(|report| report.tokens.len()).sum()
    }

    /// Memory that its sequences hold until they end.
    pub(super) fn bytes(&self) -> u64 {
        let of = |sequence: &NewSequence| {
            let sampling = &sequence.sampling;
            let top = if sampling.prompt_logprobs { sampling.logprobs.map_or(0, |count| 40 + 8 * u64::from(count)) } else { 0 };
            CHOICE_BYTES + sequence.prompt.len() as u64 * (size_of::<TokenId>() as u64 + top)
        };
        (self.prompt_tokens() * size_of::<TokenId>()) as u64 + self.answers_bytes + self.sequences.iter().map(of).sum::<u64>()
    }
}

/// To the scheduler: take these sequences, all or none.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Submit {
    pub(super) prepared: Prepared,
    pub(super) visitor: Visitor,
    /// Held until the scheduler has looked at it, so that the gate bounds its mailbox too.
    pub(super) pass: Pass,
    pub(super) reply: Reply,
}

/// To the scheduler: end a response.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Cancel {
    pub(super) response: ResponseId,
    /// The key that asks.
    pub(super) by: CancelledBy,
    /// Answered once its blocks are free; true if it had anything left to compute.
    pub(super) freed: oneshot::Sender<bool>,
}

/// What cancels a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CancelledBy {
    /// Its StreamActor, which needs no events any more.
    Stream,
    /// Another request or the operator: its stream is told that it was cancelled.
    Id,
}

/// To the scheduler: a stop string ended this choice; the others go on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct CancelChoice {
    pub(super) response: ResponseId,
    pub(super) choice: u32,
}

/// To the scheduler: what does the core look like? The caller bounds how often (see
/// `http/observe/console.rs`), and how much.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Look {
    pub(super) size: ViewSize,
    pub(super) reply: oneshot::Sender<SchedulerLook>,
}

/// To the scheduler: end everything with `server_shutdown`, and take nothing more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct EndAll;

/// To the scheduler: drop the engine and stop. No reply is sent when the sender is dropped before.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Stop {
    /// Answered once the engine is dropped.
    pub(super) stopped: oneshot::Sender<()>,
}

/// From the scheduler to a response's StreamActor: what one step brought for its choices.
#[derive(Debug)]
pub(super) struct Feed(pub(super) Vec<ChoiceEvent>);

/// What a step brought for one choice.
#[derive(Debug)]
pub(super) struct ChoiceEvent {
    /// Which.
    pub(super) choice: u32,
    /// What.
    pub(super) kind: ChoiceEventKind,
}

/// See [`ChoiceEvent`].
#[derive(Debug)]
pub(super) enum ChoiceEventKind {
    /// It runs; what of its prompt was found computed.
    Began(Cached),
    /// The log-probabilities of its prompt.
    Prompt(Vec<PositionLogprobs>),
    /// A token.
    Token { token: TokenId, logprobs: Option<Box<PositionLogprobs>> },
    /// Its last event.
    Ended { end: TextEnd, logprobs: Option<Box<PositionLogprobs>> },
}
