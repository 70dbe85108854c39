//! What can be wrong with a conversation: for the client.

/// A conversation that cannot be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
    /// It is longer than it may be; by how much was not found out.
    #[error("the conversation has more than {tokens_max} tokens")]
    TooLong {
        /// How many it may have.
        tokens_max: usize,
    },
    /// A tool's answer refers to a call that was not made.
    #[error("messages[{index}] answers the tool call {call_id:?}, which no earlier message made")]
    UnknownCall {
        /// Which message.
        index: usize,
        /// The id that it names.
        call_id: String,
    },
}
