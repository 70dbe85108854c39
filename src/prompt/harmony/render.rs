//! A conversation to the tokens of a prompt.
//!
//! Promises: control tokens come from here alone, whatever the conversation says. The tokens are
//! those of `openai-harmony` 0.0.8, given a system message, a developer message and the history,
//! but for one rule. Reasoning before the last final answer is dropped, as OpenAI's format guide
//! says, where that library drops the reasoning before the first one only. Absent on purpose: dates
//! (an input), names of users, built-in tools.

use std::collections::HashMap;

use super::parser::ParserStart;
use super::schema::tools_section;
use crate::batch::TokenId;
use crate::prompt::conversation::{CallKind, Conversation, Message, NamedSchema, PromptEnd, ReasoningEffort};
use crate::prompt::error::PromptError;
use crate::prompt::tokenizer::{ControlTokens, Tokenizer};

const IDENTITY: &str = "You are ChatGPT, a large language model trained by OpenAI.";
const KNOWLEDGE_CUTOFF: &str = "2024-06";
const CHANNELS: &str = "# Valid channels: analysis, commentary, final. Channel must be included for every message.";
const FUNCTIONS: &str = "\nCalls to these tools must go to the commentary channel: 'functions'.";

/// A rendered conversation: its tokens, and where in the answer they end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The tokens.
    pub tokens: Vec<TokenId>,
    /// What the parser of the answer starts with.
    pub start: ParserStart,
}

/// Renders `conversation`. `default_instructions` are the application's if the conversation has
/// none; `date`, such as `2025-11-22`, is the current date that the model is told.
///
/// # Errors
/// [`PromptError::UnknownCall`] if a tool answers what was not asked, [`PromptError::TooLong`] as
/// soon as there are more than `tokens_max` tokens.
pub fn render(
    tokenizer: &Tokenizer,
    conversation: &Conversation,
    default_instructions: Option<&str>,
    date: &str,
    tokens_max: usize,
) -> Result<Rendered, PromptError> {
    let mut writer = Writer { tokenizer, control: *tokenizer.control(), tokens: Vec::new(), tokens_max, is_full: false };
    writer.system(conversation, date);
    let rest = match conversation.messages.split_first() {
        Some((Message::System { content } | Message::Developer { content }, rest)) => {
            writer.developer(Some(content), conversation);
            rest
        }
        _ => {
            let brings_none =
                !conversation.messages.iter().any(|it| matches!(it, Message::System { .. } | Message::Developer { .. }));
            writer.developer(default_instructions.filter(|_| brings_none), conversation);
            &conversation.messages
        }
    };
    let first = conversation.messages.len() - rest.len();
    let start = match rest.split_last() {
        Some((last, said)) if conversation.end == PromptEnd::FinalText => {
            writer.history(said, first)?;
            writer.open(last)
        }
        _ => {
            writer.history(rest, first)?;
            writer.answer(conversation)
        }
    };
    if writer.is_full || writer.tokens.len() > tokens_max {
        return Err(PromptError::TooLong { tokens_max });
    }
    Ok(Rendered { tokens: writer.tokens, start })
}

struct Writer<'a> {
    tokenizer: &'a Tokenizer,
    control: ControlTokens,
    tokens: Vec<TokenId>,
    tokens_max: usize,
    /// More than `tokens_max` were to be written: no more text is.
    is_full: bool,
}

impl Writer<'_> {
    /// Text of its own: never merged with the text before it.
    fn text(&mut self, text: &str) {
        self.is_full = self.is_full || !self.tokenizer.encode_text_within(text, self.tokens_max, &mut self.tokens);
    }

    /// `<|start|>header`, and the channel if there is one.
    fn header(&mut self, role: &str, recipient: Option<&str>, channel: Option<&str>) {
        self.tokens.push(self.control.start);
        self.text(role);
        if let Some(recipient) = recipient {
            self.text(&format!(" to={recipient}"));
        }
        if let Some(channel) = channel {
            self.tokens.push(self.control.channel);
            self.text(channel);
        }
    }

    /// `<|constrain|>json`.
    fn json_type(&mut self) {
        self.tokens.push(self.control.constrain);
        self.text("json");
    }

    fn body(&mut self, text: &str, end: TokenId) {
        self.tokens.push(self.control.message);
        self.text(text);
        self.tokens.push(end);
    }

    fn message(&mut self, role: &str, channel: Option<&str>, text: &str) {
        self.header(role, None, channel);
        self.body(text, self.control.end);
    }

    fn system(&mut self, conversation: &Conversation, date: &str) {
        let effort = match conversation.effort {
            ReasoningEffort::Low => "low",
            ReasoningEffort::Medium => "medium",
            ReasoningEffort::High => "high",
        };
        let functions = if conversation.tools.is_empty() { "" } else { FUNCTIONS };
        let text = format!(
            "{IDENTITY}\nKnowledge cutoff: {KNOWLEDGE_CUTOFF}\nCurrent date: {date}\n\nReasoning: {effort}\n\n{CHANNELS}{functions}"
        );
        self.message("system", None, &text);
    }

    /// The developer message before the history, if there is something to say: instructions, the
    /// tools, the answer's schema.
    fn developer(&mut self, instructions: Option<&str>, conversation: &Conversation) {
        let instructions = instructions.map(instructions_section);
        let tools = Some(&conversation.tools).filter(|tools| !tools.is_empty()).map(|tools| tools_section(tools));
        let schema = conversation.schema.as_ref().map(schema_section);
        let sections: Vec<String> = instructions.into_iter().chain(tools).chain(schema).collect();
        if !sections.is_empty() {
            self.message("developer", None, &sections.join("\n\n"));
        }
    }

    /// `messages`, the first of which is number `first` of the conversation.
    fn history(&mut self, messages: &[Message], first: usize) -> Result<(), PromptError> {
        let last_final = messages.iter().rposition(is_final);
        let mut names: HashMap<&str, &str> = HashMap::new();
        for (index, message) in messages.iter().enumerate() {
            match message {
                Message::System { content } | Message::Developer { content } => {
                    self.message("developer", None, &instructions_section(content));
                }
                Message::User { content } => self.message("user", None, content),
                Message::Assistant { content, reasoning, tool_calls } => {
                    let keeps_reasoning = last_final.is_none_or(|last| index > last);
                    if let Some(reasoning) = reasoning.as_deref().filter(|text| keeps_reasoning && !text.is_empty()) {
                        self.message("assistant", Some("analysis"), reasoning);
                    }
                    if let Some(content) = content.as_ref().filter(|_| !content_is_void(message)) {
                        let channel = if tool_calls.is_empty() { "final" } else { "commentary" };
                        self.message("assistant", Some(channel), content);
                    }
                    for call in tool_calls {
                        self.header("assistant", Some(&format!("functions.{}", call.name)), Some("commentary"));
                        if call.kind == CallKind::Function {
                            self.text(" ");
                            self.json_type();
                        }
                        self.body(&call.arguments, self.control.call);
                        names.insert(&call.id, &call.name);
                    }
                }
                Message::Tool { call_id, content } => {
                    let name = names.get(call_id.as_str());
                    let name =
                        name.ok_or_else(|| PromptError::UnknownCall { index: first + index, call_id: call_id.clone() })?;
                    self.header(&format!("functions.{name}"), Some("assistant"), Some("commentary"));
                    self.body(content, self.control.end);
                }
            }
        }
        Ok(())
    }

    /// The final message that the answer goes on with, without its end.
    fn open(&mut self, message: &Message) -> ParserStart {
        if let Message::Assistant { content, reasoning, .. } = message {
            if let Some(reasoning) = reasoning.as_deref().filter(|text| !text.is_empty()) {
                self.message("assistant", Some("analysis"), reasoning);
            }
            self.header("assistant", None, Some("final"));
            self.tokens.push(self.control.message);
            self.text(content.as_deref().unwrap_or_default());
        }
        ParserStart::FinalText
    }

    /// What the model's answer begins with.
    fn answer(&mut self, conversation: &Conversation) -> ParserStart {
        let Some(name) = &conversation.forced_tool else {
            if conversation.end == PromptEnd::Bare {
                return ParserStart::WholeHeader;
            }
            self.header("assistant", None, None);
            return ParserStart::AssistantHeader;
        };
        // The whole header, in the order in which the model writes one: behind it, it can name no
        // other function.
        let header = format!("commentary to=functions.{name}");
        if conversation.offered().any(|(_, tool)| tool.kind() == CallKind::Custom) {
            self.header("assistant", None, Some(&header));
        } else {
            self.header("assistant", None, Some(&format!("{header} ")));
            self.json_type();
        }
        self.tokens.push(self.control.message);
        ParserStart::CallText { name: name.clone() }
    }
}

fn instructions_section(instructions: &str) -> String {
    format!("# Instructions\n\n{instructions}")
}

/// The section that tells of a schema which the answer will have, as OpenAI's description of
/// harmony has it.
fn schema_section(named: &NamedSchema) -> String {
    let description = named.description.as_deref().unwrap_or_default().lines().map(|line| format!("// {line}\n"));
    let description: String = description.collect();
    format!("# Response Formats\n\n## {}\n\n{description}{}", named.name, named.schema)
}

/// Whether `message` is an answer that ended a turn.
fn is_final(message: &Message) -> bool {
    matches!(message, Message::Assistant { content: Some(_), tool_calls, .. } if tool_calls.is_empty())
        && !content_is_void(message)
}

/// Whether the text of `message` is empty and stands for no message of its own. Clients send an
/// empty text along with calls, and an answer that was cut in its reasoning comes back with one.
fn content_is_void(message: &Message) -> bool {
    let Message::Assistant { content: Some(content), reasoning, tool_calls } = message else { return false };
    content.is_empty() && (!tool_calls.is_empty() || reasoning.as_ref().is_some_and(|text| !text.is_empty()))
}
