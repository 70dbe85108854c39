//! What can be wrong with a conversation: for the client.

/// A conversation that cannot be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
    /// A tool's answer refers to a call that nobody made.
    #[error("messages[{index}] answers the tool call {call_id:?}, which no earlier message made")]
    UnknownCall {
        /// Which message.
        index: usize,
        /// The id that it names.
        call_id: String,
    },
}
