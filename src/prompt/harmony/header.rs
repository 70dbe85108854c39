//! A message's header as the model writes it, and where the message goes by it.
//!
//! What a header looks like: `assistant to=functions.f<|channel|>commentary <|constrain|>json`. The recipient stands before or
//! after the channel, the type of the text with or without its control token, and the model takes liberties.

use super::recovery::Recovery;

/// A header is a few words; one that is longer than this, or has lines, is no header. The longest name of a function that
/// http takes makes 102 bytes.
const MAX_BYTES: usize = 128;

/// Which control token a part of the header follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    /// `<|start|>`.
    Role,
    /// `<|channel|>`.
    Channel,
    /// `<|constrain|>`.
    Type,
}

/// Where the text of a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Destination {
    /// To the reader, as reasoning.
    Reasoning,
    /// To the reader, as the answer.
    Content,
    /// To the function of this name, as its arguments.
    Call(String),
}

/// A header that is being written.
#[derive(Debug, Clone)]
pub(super) struct Header {
    sections: Vec<(Section, Vec<u8>)>,
    /// How many sections the prompt began with; the model did not write them.
    given: usize,
    /// The function whose call the prompt began: whatever the model writes, the message goes there.
    given_call: Option<String>,
}

impl Header {
    /// A header whose role the prompt gave.
    pub(super) fn of_assistant() -> Self {
        Self { sections: vec![(Section::Role, b"assistant".to_vec()), (Section::Role, Vec::new())], given: 1, given_call: None }
    }

    /// A header of a call of the function `name`, which the prompt gave but for the type of its text.
    pub(super) fn of_call(name: &str) -> Self {
        Self { sections: vec![(Section::Type, Vec::new())], given: 0, given_call: Some(name.to_owned()) }
    }

    /// A header of which nothing but its first control token was read.
    pub(super) fn after(section: Section) -> Self {
        Self { sections: vec![(section, Vec::new())], given: 0, given_call: None }
    }

    /// Which section is being written.
    pub(super) fn section(&self) -> Section {
        self.sections.last().map_or(Section::Role, |(section, _)| *section)
    }

    /// Another section begins.
    pub(super) fn begin(&mut self, section: Section) {
        self.sections.push((section, Vec::new()));
    }

    /// More text of the section that is being written.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if let Some((_, text)) = self.sections.last_mut() {
            text.extend_from_slice(bytes);
        }
    }

    /// Whether the prompt began a call.
    pub(super) fn is_given_call(&self) -> bool {
        self.given_call.is_some()
    }

    /// Where the text goes if this turns out to be no header.
    pub(super) fn destination_of_text(&self) -> Destination {
        self.given_call.clone().map_or(Destination::Content, Destination::Call)
    }

    /// What the model wrote of it, without control tokens.
    pub(super) fn written(&self) -> Vec<u8> {
        self.sections[self.given..].iter().flat_map(|(_, text)| text).copied().collect()
    }

    /// Whether this can be no header any more.
    pub(super) fn overflows(&self) -> bool {
        let written = &self.sections[self.given..];
        // Each section counts, so that control tokens without text between them come to an end too.
        let size: usize = written.iter().map(|(_, text)| text.len() + 1).sum();
        size > MAX_BYTES || written.iter().any(|(_, text)| text.contains(&b'\n'))
    }

    /// Whether all that was written is what headers say, as far as it goes: nothing is lost if it is dropped.
    pub(super) fn says_nothing(&self) -> bool {
        self.sections[self.given..].iter().all(|(section, text)| {
            let text = String::from_utf8_lossy(text);
            let mut words = text.split_whitespace();
            let opens = match section {
                Section::Role if self.given == 0 => words.next().is_none_or(|word| "assistant".starts_with(word)),
                Section::Channel => words.next().is_none_or(|word| CHANNELS.iter().any(|channel| channel.starts_with(word))),
                Section::Role | Section::Type => true,
            };
            opens && words.all(|word| word.starts_with("to=") || ["to=", "json", "code"].iter().any(|it| it.starts_with(word)))
        })
    }

    /// Where the message goes, and what had to be overlooked for that.
    pub(super) fn destination(&self) -> (Destination, Option<Recovery>) {
        if let Some(name) = &self.given_call {
            return (Destination::Call(name.clone()), None);
        }
        let (mut role, mut channel, mut recipient) = (None, None, None);
        for (section, text) in &self.sections {
            let text = String::from_utf8_lossy(text);
            let mut first = true;
            for word in text.split_whitespace() {
                match (word.strip_prefix("to="), section) {
                    (Some(name), _) => recipient = Some(name.to_owned()),
                    (None, Section::Role) if role.is_none() => role = Some(word.to_owned()),
                    (None, Section::Channel) if first => channel = Some(word.to_owned()),
                    (None, _) => {}
                }
                first = false;
            }
        }
        match recipient.as_deref() {
            None | Some("" | "all" | "user" | "assistant") => {}
            Some(name) => {
                return match name.strip_prefix("functions.").filter(|name| is_function_name(name)) {
                    Some(function) => (Destination::Call(function.to_owned()), None),
                    None => (Destination::Content, Some(Recovery::UnknownRecipient)),
                };
            }
        }
        if role.is_some_and(|role| role != "assistant") {
            return (Destination::Content, Some(Recovery::UnknownRole));
        }
        match channel.as_deref() {
            Some("analysis") => (Destination::Reasoning, None),
            Some("final" | "commentary") => (Destination::Content, None),
            Some(_) => (Destination::Content, Some(Recovery::UnknownChannel)),
            None => (Destination::Content, Some(Recovery::MissingChannel)),
        }
    }
}

/// The channels that the system message names.
const CHANNELS: [&str; 3] = ["analysis", "commentary", "final"];

/// Whether a client can have declared a function of this name.
fn is_function_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}
