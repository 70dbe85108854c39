//! Why the tokens of a choice end, and what its client is told.

use crate::actors::messages::FinishKind;
use crate::scheduler::FinishReason;

/// Why the tokens of a choice end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TextEnd {
    /// The scheduler says so.
    Finished(FinishReason),
    /// It failed outside the scheduler.
    Failed {
        /// The code for the client.
        code: &'static str,
        /// The sentence for the client.
        message: String,
    },
}

impl TextEnd {
    /// How the choice ends; `complete` is how it does if the model ends it.
    pub(super) fn kind(self, complete: FinishKind) -> FinishKind {
        let failed = |code, message: &str| FinishKind::Failed { code, message: message.to_owned() };
        match self {
            Self::Finished(FinishReason::Stop(_)) => complete,
            Self::Finished(FinishReason::Length) => FinishKind::Length,
            Self::Finished(FinishReason::Cancelled) => FinishKind::Cancelled,
            Self::Finished(FinishReason::QueueTimeout) => {
                failed("queue_timeout", "The request waited too long for its turn; try again later.")
            }
            Self::Finished(FinishReason::EngineFailed) => {
                failed("engine_failed", "The engine failed while it computed this response.")
            }
            Self::Finished(FinishReason::NotFinite) => {
                failed("model_numeric_error", "The model computed values that are not finite.")
            }
            Self::Finished(FinishReason::NothingAllowed) => failed(
                "constraint_dead_end",
                "No token goes on with this answer in the form that was asked for: its schema or grammar has a dead end here.",
            ),
            Self::Finished(FinishReason::RequestFailed) => {
                failed("request_failed", "Another part of the request failed, and its parts succeed or fail together.")
            }
            Self::Failed { code, message } => FinishKind::Failed { code, message },
        }
    }
}
