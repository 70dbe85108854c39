//! A message's header as the model writes it, and where the message goes by it.
//!
//! What a header looks like: `assistant to=functions.f<|channel|>commentary <|constrain|>json`. The
//! recipient stands before or after the channel, the type of the text with or without its control
//! token, and the model takes liberties: it leaves out control tokens, breaks lines and makes names
//! up. Promises: a header is bounded; what it holds back is given out as soon as it can be no
//! header.

use super::recovery::Recovery;
use super::words::{Channel, Opening, Role, Said, Section, SectionRange, SectionReader, TYPES};

/// A header is a few words; what is longer is none. The longest name of a function that http takes
/// makes 102 bytes.
const MAX_BYTES: usize = 128;

/// Where the text of a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Destination {
    /// To the reader, as reasoning.
    Reasoning,
    /// To the reader, as part of the answer: a preamble, or what is not harmony.
    Content,
    /// To the reader, as the answer.
    Final,
    /// To the function of this name, as its arguments.
    Call(String),
    /// Nowhere: it is in another's name.
    Nowhere,
}

/// What a header turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ParsedHeader {
    /// A header, of whatever form.
    Header,
    /// Text without a header.
    Text,
    /// Text of the message inside which it stands, after a control token that means nothing.
    Stray,
}

/// Where the message of a header goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HeaderReading {
    pub(super) destination: Destination,
    pub(super) found: ParsedHeader,
    /// Where in what was written the message's text begins.
    pub(super) body_at: usize,
    /// What had to be overlooked.
    pub(super) recovery: Option<Recovery>,
}

/// A header that is being written.
#[derive(Debug)]
pub(super) struct MessageHeader {
    opening: Opening,
    /// The message inside which it stands, if that one has no end.
    pub(super) within: Option<Destination>,
    /// What the model wrote of it, without control tokens.
    text: Vec<u8>,
    /// Which sections follow the role, and where in `text`.
    marks: Vec<(Section, usize)>,
    /// Where in `text` each token ends.
    token_ends: Vec<usize>,
}

impl MessageHeader {
    /// A header that begins by `opening`, inside the message `within` if that one has no end.
    pub(super) const fn new(opening: Opening, within: Option<Destination>) -> Self {
        Self { opening, within, text: Vec::new(), marks: Vec::new(), token_ends: Vec::new() }
    }

    /// Another section begins.
    pub(super) fn begin(&mut self, section: Section) {
        self.marks.push((section, self.text.len()));
    }

    /// A token more of the section that is being written.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.text.extend_from_slice(bytes);
            self.token_ends.push(self.text.len());
        }
    }

    /// Which section is being written.
    pub(super) fn section(&self) -> Section {
        self.marks.last().map_or(Section::Role, |(section, _)| *section)
    }

    /// Whether nothing was written of it, not even a control token.
    pub(super) fn is_bare(&self) -> bool {
        self.opening == Opening::Bare && self.within.is_none() && self.marks.is_empty() && self.is_blank()
    }

    /// Whether it begins without `<|start|>` after a message that ended.
    pub(super) fn lacks_start(&self) -> bool {
        self.opening == Opening::Bare && self.within.is_none()
    }

    fn is_blank(&self) -> bool {
        self.text.iter().all(u8::is_ascii_whitespace)
    }

    /// What was written from `at` on, and how many tokens have a part in that.
    pub(super) fn body(&self, at: usize) -> (&[u8], usize) {
        (&self.text[at..], self.token_ends.iter().filter(|end| **end > at).count())
    }

    /// Whether what was written can be no header, or is too long to wait for its end.
    pub(super) fn is_text(&self) -> bool {
        // Each section counts, so that control tokens without text between them come to an end too.
        // Behind a control token any word may belong to a header that the model spoiled: only its
        // end tells.
        self.text.len() + self.marks.len() > MAX_BYTES || (self.marks.is_empty() && self.said(true).text_at.is_some())
    }

    /// Whether text was written in it, behind a control token.
    pub(super) fn holds_text(&self) -> bool {
        !self.marks.is_empty() && self.said(true).text_at.is_some()
    }

    /// Whether all of it is a word in the place of a role, inside another message.
    pub(super) fn is_stray_word(&self) -> bool {
        self.within.is_some() && self.marks.is_empty() && self.said(true).role == Some(Role::Unknown)
    }

    fn said(&self, to_text: bool) -> Said<'_> {
        let mut reader = SectionReader::new(&self.text, self.opening);
        let sections = [(Section::Role, 0)].into_iter().chain(self.marks.iter().copied());
        for (index, (section, begin)) in sections.enumerate() {
            let next = self.marks.get(index).map(|(_, at)| *at);
            let place = SectionRange { section, begin, end: next.unwrap_or(self.text.len()), is_last: next.is_none() };
            reader.read(place, to_text && place.is_last);
        }
        reader.said
    }

    /// Where the message goes whose text begins here: `<|message|>` was read.
    pub(super) fn with_message(&self, functions: &[String]) -> HeaderReading {
        let said = self.said(false);
        let is_ours = said.role == Some(Role::Assistant);
        let (destination, recovery) = match (said.role, &self.within) {
            (Some(Role::Unknown), Some(_)) => return self.stray(),
            (Some(Role::Other | Role::Unknown), _) => (Destination::Nowhere, Some(Recovery::UnknownRole)),
            _ => match (addressee(&said, functions), said.channel) {
                (Some(addressee), _) => addressee,
                (None, None | Some(Channel::Unknown | Channel::Thoughts)) if self.within.is_some() && !is_ours => {
                    return self.stray();
                }
                (None, channel) => by_channel(channel),
            },
        };
        HeaderReading { destination, found: ParsedHeader::Header, body_at: self.text.len(), recovery }
    }

    /// Where what was written goes, if no `<|message|>` follows.
    pub(super) fn without_message(&self, functions: &[String]) -> HeaderReading {
        let said = self.said(true);
        let is_marked = !self.marks.is_empty();
        let is_ours = said.role == Some(Role::Assistant) && self.opening != Opening::Given;
        let is_known = matches!(said.channel, Some(Channel::Analysis | Channel::Commentary | Channel::Final));
        let header = |(destination, recovery): (Destination, Option<Recovery>)| HeaderReading {
            destination,
            found: ParsedHeader::Header,
            body_at: said.body_at(self.text.len()),
            recovery: recovery.or(Some(Recovery::UnfinishedHeader)),
        };
        if let Some(Role::Other | Role::Unknown) = said.role {
            let is_named = said.role == Some(Role::Other) && self.opening == Opening::Start && self.within.is_none();
            let nowhere = (Destination::Nowhere, Some(Recovery::UnknownRole));
            return if is_marked || is_named { header(nowhere) } else { self.text() };
        }
        if let Some(addressee) = addressee(&said, functions) {
            let is_call = matches!(addressee.0, Destination::Call(_));
            let is_addressed = said.channel.is_some() || said.recipient.is_some_and(|recipient| recipient.is_addressed);
            if is_marked || (is_addressed && (is_call || self.within.is_none())) {
                return header(addressee);
            }
        }
        let is_whole = is_ours && is_marked && is_known;
        if self.within.is_some() && !is_whole {
            return self.stray();
        }
        // A word alone is no channel: `final answer: 4`. But nothing that may be meant for analysis
        // reaches the content.
        let is_started = self.opening == Opening::Start;
        let names_channel = said.channel.is_some() && (is_ours || is_started || said.channel == Some(Channel::Analysis));
        if is_marked || names_channel || (is_ours && is_started) { header(by_channel(said.channel)) } else { self.text() }
    }

    /// All that was written, as text.
    fn text(&self) -> HeaderReading {
        if self.within.is_some() {
            return self.stray();
        }
        let recovery = (!self.lacks_start()).then_some(Recovery::UnfinishedHeader);
        HeaderReading { destination: Destination::Content, found: ParsedHeader::Text, body_at: 0, recovery }
    }

    /// All that was written, as text of the message inside which it stands.
    fn stray(&self) -> HeaderReading {
        let destination = self.within.clone().unwrap_or(Destination::Content);
        HeaderReading { destination, found: ParsedHeader::Stray, body_at: 0, recovery: None }
    }
}

/// Where a message goes that names a recipient; `None` if it names none, or all.
fn addressee(said: &Said<'_>, functions: &[String]) -> Option<(Destination, Option<Recovery>)> {
    let call = |name: &str| (Destination::Call(name.to_owned()), None);
    let Some(recipient) = said.recipient else {
        // Commentary of a type that is a function's name is its call.
        let kind = said.kind.filter(|kind| said.channel == Some(Channel::Commentary) && !TYPES.contains(kind))?;
        return functions.iter().find(|name| name.as_bytes() == kind).map(|name| call(name));
    };
    let is_everybody = [b"".as_slice(), b"all", b"user", b"assistant"].iter().any(|it| recipient.name.eq_ignore_ascii_case(it));
    if is_everybody {
        return None;
    }
    Some(match offered(recipient.name, functions) {
        Some(name) => call(name),
        None => (Destination::Reasoning, Some(Recovery::UnknownRecipient)),
    })
}

/// The function that `recipient` names, if it was offered: with `functions.` before it, once or
/// more, or without; and perhaps with a type glued to it.
fn offered<'a>(recipient: &[u8], functions: &'a [String]) -> Option<&'a str> {
    let mut name = recipient;
    while let Some(rest) = name.strip_prefix(b"functions.") {
        name = rest;
    }
    let find = |name: &[u8]| functions.iter().find(|function| function.as_bytes() == name).map(String::as_str);
    find(name).or_else(|| TYPES.iter().find_map(|kind| find(name.strip_suffix(*kind)?)))
}

/// Where a message goes by its channel.
fn by_channel(channel: Option<Channel>) -> (Destination, Option<Recovery>) {
    match channel {
        Some(Channel::Analysis) => (Destination::Reasoning, None),
        Some(Channel::Commentary) => (Destination::Content, None),
        Some(Channel::Final) => (Destination::Final, None),
        Some(Channel::Thoughts) => (Destination::Reasoning, Some(Recovery::UnknownChannel)),
        Some(Channel::Unknown) => (Destination::Content, Some(Recovery::UnknownChannel)),
        None => (Destination::Content, Some(Recovery::MissingChannel)),
    }
}
