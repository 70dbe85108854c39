//! Refusing a request: the scheduler's rejections as http and the metrics name them, and the one
//! place where a request is answered with one.

use crate::actors::budget::MEMORY_FULL;
use crate::actors::mail::{Reply, Visitor};
use crate::actors::messages::Refusal;
use crate::actors::token_rate::retry_after_seconds;
use crate::batch::Micros;
use crate::metrics::{RejectKind, RequestOutcome};
use crate::scheduler::Reject;

/// How a client learns of a rejection. `param` is what it calls its prompt.
pub(super) fn of_reject(reject: Reject, param: &'static str) -> Refusal {
    match reject {
        Reject::EmptyPrompt => Refusal::Invalid {
            param: Some(param.into()),
            code: None,
            message: "The prompt has no tokens; expected at least one.".to_owned(),
        },
        Reject::NoTokensAsked => Refusal::Invalid {
            param: Some("max_tokens".into()),
            code: None,
            message: "No token was asked for; expected at least one.".to_owned(),
        },
        Reject::ContextExceeded { prompt_tokens, max_tokens, context_tokens_max } => {
            context_exceeded(prompt_tokens, max_tokens, context_tokens_max, param)
        }
        Reject::NeverFits { needed_blocks, total_blocks } => Refusal::Invalid {
            param: Some(param.into()),
            code: Some("context_length_exceeded"),
            message: format!(
                "The prompt and the tokens asked for need {needed_blocks} blocks of memory, and this server has {total_blocks}. \
                 Shorten the prompt or ask for fewer tokens."
            ),
        },
        Reject::QueueFull { waiting_count, waiting_tokens, taken_after_micros } => Refusal::QueueFull {
            retry_after_seconds: retry_after_seconds(taken_after_micros),
            message: format!("{waiting_count} requests of {waiting_tokens} tokens wait already; try again later."),
        },
        Reject::WaitsTooLong { wait_micros, waiting_max_micros, taken_after_micros } => Refusal::QueueFull {
            retry_after_seconds: retry_after_seconds(taken_after_micros),
            message: format!(
                "The request would wait {} seconds for its turn, and none may wait longer than {}; try again later.",
                wait_micros.div_ceil(1_000_000),
                waiting_max_micros / 1_000_000
            ),
        },
    }
}

/// The refusal of a sequence that is longer than the context.
pub(super) fn context_exceeded(prompt: usize, output: usize, context: usize, param: &'static str) -> Refusal {
    Refusal::Invalid {
        param: Some(param.into()),
        code: Some("context_length_exceeded"),
        message: format!(
            "This model's maximum context length is {context} tokens. The prompt has {prompt} tokens and {output} more were asked \
             for, {} in all. Shorten the prompt or ask for fewer tokens.",
            prompt.saturating_add(output)
        ),
    }
}

/// The refusal of a prompt that alone is longer than the context; how long was not found out.
pub(super) fn prompt_exceeds_context(context: usize, param: &'static str) -> Refusal {
    Refusal::Invalid {
        param: Some(param.into()),
        code: Some("context_length_exceeded"),
        message: format!(
            "This model's maximum context length is {context} tokens. The prompt alone has more than that. Shorten the prompt."
        ),
    }
}

/// Answers a request that is not taken.
pub(super) fn refuse(refusal: Refusal, visitor: Visitor, reply: Reply, now: Micros) {
    match reject_kind(&refusal) {
        Some(kind) => visitor.record.rejected(kind),
        None => {
            visitor.ticket.set_outcome(RequestOutcome::Failed);
            visitor.record.ended(RequestOutcome::Failed, now);
        }
    }
    // Out of the registry before the client knows, so that it may come again with the same id.
    drop(visitor.ticket);
    // The caller no longer waits for it, so it is dropped.
    let _ = reply.send(Err(refusal));
}

/// How the metrics name a refusal; `None` for a failure of ours.
fn reject_kind(refusal: &Refusal) -> Option<RejectKind> {
    match refusal {
        Refusal::Invalid { .. } | Refusal::TooLarge { .. } => Some(RejectKind::Invalid),
        Refusal::QueueFull { .. } => Some(RejectKind::QueueFull),
        Refusal::Unavailable { code: MEMORY_FULL, .. } => Some(RejectKind::Memory),
        Refusal::Unavailable { .. } => Some(RejectKind::Unavailable),
        Refusal::Internal { .. } => None,
    }
}
