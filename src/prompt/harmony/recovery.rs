//! What the parser overlooks, by kind, counted.

/// A way in which a model's output is not harmony, and the parser went on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Recovery {
    /// A header without a channel: its text is content.
    MissingChannel,
    /// A channel that the system message does not name: its text is content, or reasoning if the
    /// name says so.
    UnknownChannel,
    /// A recipient that was not offered: its text is reasoning.
    UnknownRecipient,
    /// A message in another's name: dropped. After an answer or a call it ends the response.
    UnknownRole,
    /// A header without a `<|message|>`: what it says more than headers do is the message's text.
    UnfinishedHeader,
    /// A message begins inside another, which is taken as ended.
    MissingEnd,
    /// Text or a header without a `<|start|>`: taken as if it were there.
    MissingStart,
    /// A control token where it means nothing: dropped.
    StrayControl,
    /// A message after the answer: the response ends in front of it.
    PastAnswer,
}

impl Recovery {
    /// All kinds, in the order of their declaration.
    pub const ALL: [Self; 9] = [
        Self::MissingChannel,
        Self::UnknownChannel,
        Self::UnknownRecipient,
        Self::UnknownRole,
        Self::UnfinishedHeader,
        Self::MissingEnd,
        Self::MissingStart,
        Self::StrayControl,
        Self::PastAnswer,
    ];

    /// Its name, for a metric's label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MissingChannel => "missing_channel",
            Self::UnknownChannel => "unknown_channel",
            Self::UnknownRecipient => "unknown_recipient",
            Self::UnknownRole => "unknown_role",
            Self::UnfinishedHeader => "unfinished_header",
            Self::MissingEnd => "missing_end",
            Self::MissingStart => "missing_start",
            Self::StrayControl => "stray_control",
            Self::PastAnswer => "past_answer",
        }
    }
}

/// How often each kind happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecoveryCounts([u32; Recovery::ALL.len()]);

impl RecoveryCounts {
    /// One more of `kind`.
    pub(super) fn add(&mut self, kind: Recovery) {
        let count = &mut self.0[kind as usize];
        *count = count.saturating_add(1);
    }

    /// How often `kind` happened.
    #[must_use]
    pub fn of(&self, kind: Recovery) -> u32 {
        self.0[kind as usize]
    }

    /// The kinds that happened, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Recovery, u32)> {
        Recovery::ALL.into_iter().zip(self.0).filter(|(_, count)| *count > 0)
    }
}
