//! The words of a header, and what each of them says: role, channel, recipient, type.
//!
//! Pure: bytes in, sayings out. The model leaves out control tokens, and with them the border
//! between two words (`assistantfinal`, `commentaryto=functions.f`), so known words are found
//! inside others too.

/// Which control token a part of the header follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    /// `<|start|>`, or nothing.
    Role,
    /// `<|channel|>`.
    Channel,
    /// `<|constrain|>`.
    Type,
}

/// How a header begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// The prompt wrote `<|start|>assistant`.
    Given,
    /// The model wrote `<|start|>`.
    Start,
    /// With nothing: a message ended, and no `<|start|>` came.
    Bare,
}

/// In whose name a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The model's own.
    Assistant,
    /// One that harmony knows: the user's, the system's, a function's.
    Other,
    /// A word in the place of a role.
    Unknown,
}

/// A channel, as far as it matters where its text goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    Analysis,
    Commentary,
    Final,
    /// A name that the system message does not have, for what is thought by its sound.
    Thoughts,
    /// Any other name.
    Unknown,
}

/// The recipient of a message, as its header names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Recipient<'a> {
    pub(super) name: &'a [u8],
    /// Named by `to=`, not by a bare `functions.`.
    pub(super) is_addressed: bool,
}

/// What a header says.
#[derive(Debug, Default)]
pub(super) struct Said<'a> {
    pub(super) role: Option<Role>,
    pub(super) channel: Option<Channel>,
    pub(super) recipient: Option<Recipient<'a>>,
    /// The type of the text.
    pub(super) kind: Option<&'a [u8]>,
    /// Where something begins that may belong to a header and may be text: a type without a
    /// recipient, an unknown channel.
    doubtful_at: Option<usize>,
    /// Where something begins that no header says.
    pub(super) text_at: Option<usize>,
}

impl Said<'_> {
    /// Where the text begins if this is a header without `<|message|>`; `len` is the length of what
    /// was written.
    pub(super) fn body_at(&self, len: usize) -> usize {
        self.doubtful_at.or(self.text_at).unwrap_or(len)
    }
}

const CHANNELS: [(&[u8], Channel); 3] =
    [(b"analysis", Channel::Analysis), (b"commentary", Channel::Commentary), (b"final", Channel::Final)];
const ASSISTANT: &[u8] = b"assistant";
const OTHER_ROLES: [&[u8]; 4] = [b"user", b"system", b"developer", b"tool"];
const FUNCTIONS: &[u8] = b"functions.";
/// The types of texts that headers name without a control token.
pub(super) const TYPES: [&[u8]; 2] = [b"json", b"code"];
/// How the names of channels begin that models make up for what they think.
const THOUGHTS: [&[u8]; 4] = [b"anal", b"thought", b"think", b"reason"];

/// Reads the sections of a header one after another.
#[derive(Debug)]
pub(super) struct SectionReader<'a> {
    text: &'a [u8],
    opening: Opening,
    pub(super) said: Said<'a>,
}

/// A section's place in the header.
#[derive(Debug, Clone, Copy)]
pub(super) struct SectionRange {
    pub(super) section: Section,
    pub(super) begin: usize,
    pub(super) end: usize,
    /// Nothing follows it yet, so its last word may grow.
    pub(super) is_last: bool,
}

impl<'a> SectionReader<'a> {
    pub(super) fn new(text: &'a [u8], opening: Opening) -> Self {
        let role = (opening == Opening::Given).then_some(Role::Assistant);
        Self { text, opening, said: Said { role, ..Said::default() } }
    }

    /// Reads a section; with `to_text` no further than to where text begins.
    pub(super) fn read(&mut self, place: SectionRange, to_text: bool) {
        let SectionRange { section, begin, end, .. } = place;
        let text = &self.text[..end];
        // What stands before a control token is no text, whatever it is.
        (self.said.text_at, self.said.doubtful_at) = (None, None);
        let (mut at, mut is_first) = (begin, true);
        while at < end {
            if text[at].is_ascii_whitespace() {
                at += 1;
                continue;
            }
            if to_text && self.said.text_at.is_some() {
                return;
            }
            let run = run(&text[at..]);
            if run == 0 {
                self.text_at(at);
                at += 1;
                continue;
            }
            if let Some((before, name)) = addressed(text, at, run) {
                if !before.is_empty() {
                    self.word(before, at, false, section, is_first);
                }
                self.address(name, section);
                at += before.len() + b"to=".len() + name.len();
            } else {
                let grows = place.is_last && at + run == end;
                self.word(&text[at..at + run], at, grows, section, is_first);
                at += run;
            }
            is_first = false;
        }
    }

    fn text_at(&mut self, at: usize) {
        self.said.text_at.get_or_insert(at);
    }

    fn doubtful_at(&mut self, at: usize) {
        self.said.doubtful_at.get_or_insert(at);
    }

    /// `to=name`.
    fn address(&mut self, name: &'a [u8], section: Section) {
        let speaks_to_us = name == ASSISTANT;
        match self.said.recipient {
            // `functions.f to=assistant` is what a function says.
            Some(Recipient { is_addressed: false, .. }) if section == Section::Role && speaks_to_us => {
                (self.said.role, self.said.recipient) = (Some(Role::Other), None);
            }
            Some(Recipient { is_addressed: true, .. }) => {}
            _ => self.recipient(Recipient { name, is_addressed: true }),
        }
    }

    fn recipient(&mut self, recipient: Recipient<'a>) {
        self.said.recipient = Some(recipient);
        // Only headers say so: what was in doubt before it belongs to one.
        self.said.doubtful_at = None;
    }

    /// The word at `at`; it `grows` if nothing follows it yet.
    fn word(&mut self, word: &'a [u8], at: usize, grows: bool, section: Section, is_first: bool) {
        match section {
            Section::Role if is_first => self.first_of_role(word, at, grows),
            Section::Channel if is_first => self.channel(word, at, grows),
            Section::Type if is_first && !word.starts_with(FUNCTIONS) => self.said.kind = Some(word),
            _ => self.other(word, at, grows),
        }
    }

    /// The word where the role stands.
    fn first_of_role(&mut self, word: &'a [u8], at: usize, grows: bool) {
        if let Some(rest) = word.strip_prefix(ASSISTANT)
            && (rest.is_empty() || opens_header(rest, grows))
        {
            self.said.role = Some(Role::Assistant);
            if !rest.is_empty() {
                self.other(rest, at + ASSISTANT.len(), grows);
            }
        } else if self.opening == Opening::Given && !(grows && ASSISTANT.starts_with(word)) {
            self.other(word, at, grows);
        } else if OTHER_ROLES.contains(&word) || (self.opening == Opening::Start && word.starts_with(FUNCTIONS)) {
            self.said.role = Some(Role::Other);
        } else if opens_header(word, grows) {
            self.other(word, at, grows);
        } else if grows && begins_role(word) {
            self.doubtful_at(at);
        } else if self.opening == Opening::Start {
            self.said.role = Some(Role::Unknown);
        } else {
            self.text_at(at);
        }
    }

    /// The word after `<|channel|>`.
    fn channel(&mut self, word: &'a [u8], at: usize, grows: bool) {
        let dashes = word.iter().take_while(|byte| !byte.is_ascii_alphanumeric()).count();
        let name = &word[dashes..];
        if let Some((channel, rest)) = split_channel(name, <[u8]>::eq_ignore_ascii_case) {
            self.said.channel = Some(channel);
            if !rest.is_empty() {
                self.other(rest, at + word.len() - rest.len(), grows);
            }
        } else if word.starts_with(FUNCTIONS) {
            self.other(word, at, grows);
        } else {
            let thinks =
                THOUGHTS.iter().any(|begin| name.len() >= begin.len() && name[..begin.len()].eq_ignore_ascii_case(begin));
            self.said.channel = Some(if thinks { Channel::Thoughts } else { Channel::Unknown });
            self.doubtful_at(at);
        }
    }

    /// A word anywhere else.
    fn other(&mut self, word: &'a [u8], at: usize, grows: bool) {
        if self.said.channel.is_none()
            && let Some((channel, rest)) = split_channel(word, |one, other| one == other)
        {
            self.said.channel = Some(channel);
            if !rest.is_empty() {
                self.other(rest, at + word.len() - rest.len(), grows);
            }
        } else if word.starts_with(FUNCTIONS) {
            match self.said.recipient {
                None => self.recipient(Recipient { name: word, is_addressed: false }),
                Some(_) => self.text_at(at),
            }
        } else if TYPES.contains(&word) && (self.said.recipient.is_some() || self.said.channel.is_some()) {
            if self.said.recipient.is_none() {
                self.doubtful_at(at);
            }
        } else if grows && begins_word(word) {
            self.doubtful_at(at);
        } else {
            self.text_at(at);
        }
    }
}

/// How many bytes of a name or a word `text` begins with.
fn run(text: &[u8]) -> usize {
    text.iter().take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')).count()
}

/// The word before `to=` and the name after it, if they stand at `at`, where a run of `run` bytes
/// begins.
fn addressed(text: &[u8], at: usize, run: usize) -> Option<(&[u8], &[u8])> {
    let word = text[at..at + run].strip_suffix(b"to")?;
    let name = text[at + run..].strip_prefix(b"=")?;
    // `goto=1` is no recipient; a word that headers have may be glued to one.
    let is_known = word.is_empty() || word == ASSISTANT || CHANNELS.iter().any(|(name, _)| word.eq_ignore_ascii_case(name));
    let ends = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'{' | b'[' | b'(' | b'"' | b'<');
    let len = name.iter().position(ends).unwrap_or(name.len());
    is_known.then_some((word, &name[..len]))
}

/// The channel by whose name `word` begins, and the rest.
fn split_channel(word: &[u8], same: fn(&[u8], &[u8]) -> bool) -> Option<(Channel, &[u8])> {
    let (name, channel) = CHANNELS.iter().find(|(name, _)| word.len() >= name.len() && same(&word[..name.len()], name))?;
    let rest = &word[name.len()..];
    // `finally` is a word of its own; nothing goes on with the two other names.
    let goes_on = |byte: &u8| byte.is_ascii_lowercase() || b"_-".contains(byte);
    let is_word = *channel == Channel::Final && rest.first().is_some_and(goes_on);
    let is_glued = TYPES.contains(&rest) || rest.starts_with(FUNCTIONS);
    (!is_word || is_glued).then_some((*channel, rest))
}

/// Whether a header goes on with `word`.
fn opens_header(word: &[u8], grows: bool) -> bool {
    split_channel(word, |one, other| one == other).is_some() || word.starts_with(FUNCTIONS) || (grows && begins_word(word))
}

/// Whether `word` may become one that headers have.
fn begins_word(word: &[u8]) -> bool {
    let words = CHANNELS.iter().map(|(name, _)| *name).chain(TYPES).chain([b"to".as_slice(), FUNCTIONS]);
    words.into_iter().any(|whole| whole.starts_with(word))
}

/// Whether `word` may become a role, perhaps with a channel behind it.
fn begins_role(word: &[u8]) -> bool {
    ASSISTANT.starts_with(word) || OTHER_ROLES.iter().any(|role| role.starts_with(word))
}
