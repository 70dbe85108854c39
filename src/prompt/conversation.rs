//! What a client said, free of any wire format: the input of the renderer.

/// Who calls a function, with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// The id that the tool's answer refers to.
    pub id: String,
    /// The function's name.
    pub name: String,
    /// Its arguments, as the model wrote them.
    pub arguments: String,
}

/// A message of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Instructions, under OpenAI's older name; rendered as developer instructions.
    System {
        /// The text.
        content: String,
    },
    /// Instructions of the application.
    Developer {
        /// The text.
        content: String,
    },
    /// What the user said.
    User {
        /// The text.
        content: String,
    },
    /// What the model said before.
    Assistant {
        /// Its answer; `None` if it only called tools.
        content: Option<String>,
        /// Its reasoning, if the client kept it.
        reasoning: Option<String>,
        /// The functions that it called.
        tool_calls: Vec<ToolCall>,
    },
    /// A function's answer.
    Tool {
        /// Which call it answers: an id of an earlier [`ToolCall`].
        call_id: String,
        /// The answer.
        content: String,
    },
}

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name: `^[A-Za-z0-9_-]{1,64}$`.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// Its parameters, a JSON schema; key order reaches the prompt.
    pub parameters: Option<serde_json::Value>,
}

/// The form that an answer must have.
#[derive(Debug, Clone, PartialEq)]
pub enum AnswerForm {
    /// JSON that a schema takes; the order of its properties is that of the answer's.
    Json(serde_json::Value),
    /// All of it matches a regular expression.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A text of a grammar in Lark's notation.
    Grammar(String),
}

/// A schema, as the model is told of it.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedSchema {
    /// What the client calls it.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// The schema; key order reaches the prompt.
    pub schema: serde_json::Value,
}

/// How much the model thinks before it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum ReasoningEffort {
    /// Short analyses.
    Low,
    /// The default.
    #[default]
    Medium,
    /// Long analyses.
    High,
}

/// What a prompt is built from.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Conversation {
    /// The history, oldest first.
    pub messages: Vec<Message>,
    /// The functions that the model may call; no other call is one.
    pub tools: Vec<Tool>,
    /// How much to think.
    pub effort: ReasoningEffort,
    /// The answer must be a call of this function: the prompt ends behind that call's header.
    pub forced_tool: Option<String>,
    /// The answer may hold one call at most. The prompt does not say so.
    pub single_call: bool,
    /// The schema that the answer will have, for the model to read.
    pub schema: Option<NamedSchema>,
}
