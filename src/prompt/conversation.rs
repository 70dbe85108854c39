//! What a client said, free of any wire format: the input of the renderer.

use serde_json::{Value, json};

/// What a call holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CallKind {
    /// The arguments of a function, as JSON.
    #[default]
    Function,
    /// The input of a custom tool, as text.
    Custom,
}

/// A call of a function, with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// The id that the tool's answer refers to.
    pub id: String,
    /// The function's name.
    pub name: String,
    /// Its arguments, as the model wrote them; of a custom tool its input.
    pub arguments: String,
    /// Which of both.
    pub kind: CallKind,
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

impl Message {
    /// Bytes of its texts.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        match self {
            Self::System { content } | Self::Developer { content } | Self::User { content } | Self::Tool { content, .. } => {
                content.len()
            }
            Self::Assistant { content, reasoning, tool_calls } => {
                let said = [content, reasoning].into_iter().flatten().map(String::len).sum::<usize>();
                said + tool_calls.iter().map(|call| call.arguments.len()).sum::<usize>()
            }
        }
    }
}

/// What a custom tool takes: a text.
#[derive(Debug, Clone, PartialEq)]
pub enum CustomInput {
    /// Any text.
    Text,
    /// One that a regular expression or a grammar takes.
    Form(AnswerForm),
}

/// A function, or a custom tool, that the model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name: `^[A-Za-z0-9_-]{1,128}$`.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// Its parameters, a JSON schema; key order reaches the prompt.
    pub parameters: Option<Value>,
    /// A call's arguments must be what `parameters` takes.
    pub strict: bool,
    /// What it takes instead of arguments, if it is a custom tool and no function.
    pub custom: Option<CustomInput>,
}

impl Tool {
    /// What a call of it holds.
    #[must_use]
    pub fn kind(&self) -> CallKind {
        if self.custom.is_some() { CallKind::Custom } else { CallKind::Function }
    }

    /// The form of a call's arguments, which are an object: the only one that a strict function
    /// without parameters takes is empty.
    #[must_use]
    pub fn arguments(&self) -> AnswerForm {
        let schema = match &self.parameters {
            Some(Value::Object(schema)) if !schema.is_empty() => {
                let mut schema = schema.clone();
                let says_type = ["type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const"];
                if !says_type.iter().any(|name| schema.contains_key(*name)) {
                    schema.insert("type".to_owned(), "object".into());
                }
                Value::Object(schema)
            }
            _ if self.strict => json!({"type": "object", "properties": {}, "additionalProperties": false}),
            _ => return AnswerForm::object(),
        };
        AnswerForm::Json(schema)
    }
}

/// The form that an answer must have.
#[derive(Debug, Clone, PartialEq)]
pub enum AnswerForm {
    /// JSON that a schema takes; the order of its properties is that of the answer's.
    Json(Value),
    /// All of it matches a regular expression.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A text of a grammar in Lark's notation, or in llama.cpp's.
    Grammar(String),
}

impl AnswerForm {
    /// Any object of JSON.
    #[must_use]
    pub fn object() -> Self {
        Self::Json(json!({"type": "object"}))
    }
}

/// A schema, as the model is told of it.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedSchema {
    /// What the client calls it.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// The schema; key order reaches the prompt.
    pub schema: Value,
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

/// How much of an answer its analysis may take. The default leaves both to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ThinkingLimits {
    /// Most tokens of analysis; with zero there is none. `None` is no bound but the answer's.
    pub budget_tokens: Option<u32>,
    /// So many tokens of the answer are kept for what the reader gets; zero keeps none. `None` is
    /// the server's share.
    pub answer_tokens: Option<u32>,
}

/// What ended an analysis that the model would have gone on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThinkingStop {
    /// It took what the request gave it.
    Budget,
    /// The rest of the answer's tokens was kept for what the reader gets.
    Answer,
}

/// How a prompt ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PromptEnd {
    /// With the beginning of the answer's header, or with that of a forced call.
    #[default]
    Opened,
    /// Behind the last message: the answer begins with its header.
    Bare,
    /// Within the last message, which is the assistant's: the answer goes on with its text.
    FinalText,
}

/// What a prompt is built from, and what its answer may be.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Conversation {
    /// The history, oldest first.
    pub messages: Vec<Message>,
    /// The functions that the model may call; no other call is one.
    pub tools: Vec<Tool>,
    /// How much to think.
    pub effort: ReasoningEffort,
    /// How much of the answer that may take. The prompt does not say so.
    pub thinking: ThinkingLimits,
    /// The answer must be a call of this function: the prompt ends behind that call's header.
    pub forced_tool: Option<String>,
    /// The answer must be a call, of whichever function. The prompt does not say so.
    pub must_call: bool,
    /// The functions of `tools` that may be called in this turn; `None` is all. The prompt does not
    /// say so.
    pub callable: Option<Vec<String>>,
    /// The answer may hold one call at most. The prompt does not say so.
    pub single_call: bool,
    /// The schema that the answer will have, for the model to read.
    pub schema: Option<NamedSchema>,
    /// How the prompt ends; a forced call has its own way.
    pub end: PromptEnd,
}

impl Conversation {
    /// The functions that the answer may call, each with its place in `tools`.
    pub fn offered(&self) -> impl Iterator<Item = (usize, &Tool)> {
        self.tools.iter().enumerate().filter(|(_, tool)| match (&self.forced_tool, &self.callable) {
            (Some(forced), _) => tool.name == *forced,
            (None, Some(callable)) => callable.contains(&tool.name),
            (None, None) => true,
        })
    }
}
