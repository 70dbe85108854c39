//! The message table: everything that actors and http say to each other.
//!
//! A request travels [`Generate`] -> `Submit` -> (`Feed` ...) and, if its reader leaves, `Cancel`;
//! what the actors say among themselves is in `mail.rs`.

use std::borrow::Cow;
use std::sync::Arc;

use crate::actors::budget::Reserved;
use crate::actors::parts::PartReceiver;
use crate::batch::{Sampling, TokenId, TokenLogprob};
use crate::prompt::conversation::{AnswerForm, CallKind, Conversation, ThinkingStop};
use crate::scheduler::Miss;

/// Which key a request came with: tells keys apart and reveals none. The default is that of a
/// request without one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct KeyId(pub Option<[u8; 16]>);

impl std::fmt::Debug for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "KeyId(…)" } else { "KeyId(none)" })
    }
}

/// What a response begins with.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there are few of each request, and a chat is the most usual")]
pub enum ResponseInput {
    /// A conversation: rendered as harmony, and the answer is parsed as harmony.
    Chat(Conversation),
    /// Plain text: tokenized as it is, and the answer is plain text.
    Text(String),
    /// Tokens: taken as they are, and the answer is plain text.
    Tokens(Vec<TokenId>),
}

/// A form that answers must have.
#[derive(Debug, Clone, PartialEq)]
pub struct AskedForm {
    /// The form.
    pub form: AnswerForm,
    /// The parameter, as the client named it.
    pub param: String,
}

/// How text is gathered before it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coalescing {
    /// Longest time that text may be held back, in milliseconds; zero sends every token's text at
    /// once.
    pub max_ms: u64,
    /// Send as soon as this many characters are gathered; zero means no such limit.
    pub max_chars: usize,
}

/// How the tokens of an answer become its text and the lists beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AnswerOptions {
    /// Log-probabilities are listed of every generated token, whatever it is, in the order of
    /// [`Part::tokens`]: the lists of both agree.
    pub logprobs_by_token: bool,
    /// The stop string that ends a text is part of it.
    pub keeps_stop: bool,
    /// Stop strings end the analysis too, and the answer with it.
    pub stops_in_reasoning: bool,
    /// What is said again and again ends the choice.
    pub repetition: Option<RepetitionLimits>,
}

/// When tokens count as repeated: the same `pattern` of them so often in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepetitionLimits {
    /// Shortest pattern, in tokens; at least 1.
    pub pattern_min_tokens: u32,
    /// Longest pattern, in tokens.
    pub pattern_max_tokens: u32,
    /// How often it comes; at least 2.
    pub min_count: u32,
}

/// Which tokens answers may hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AskedTokens {
    /// Only these; `None` is all.
    pub allowed: Option<Vec<TokenId>>,
    /// Texts whose tokens are not drawn one after another.
    pub unwanted: Vec<String>,
}

/// How a prompt that is too long is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromptCut {
    /// So many tokens are left; `None`: as many as the context has room for, beside those that the
    /// answer may have.
    pub tokens_max: Option<u32>,
    /// The first ones are left, and not the last.
    pub keeps_first: bool,
}

/// The numbers of a sampling that are part of a cache key, as the request writes them: a sampling
/// holds the nearest f32, or zero for a temperature that no f32 can divide by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WrittenNumbers {
    /// The temperature.
    pub temperature: f64,
    /// Top-p.
    pub top_p: f64,
}

impl Default for WrittenNumbers {
    /// Those of the default [`Sampling`].
    fn default() -> Self {
        Self { temperature: 0.0, top_p: 1.0 }
    }
}

/// Ask for a response. Answered by `Result<Accepted, Refusal>` once the scheduler took it or not,
/// before any byte is sent.
#[derive(Debug, Clone)]
pub struct Generate {
    /// The response's id, made by http; unique; the key for `POST /cancel/{id}`.
    pub request_id: String,
    /// The prompts; at least one. They take turns with other requests' and succeed or fail
    /// together.
    pub inputs: Vec<ResponseInput>,
    /// How many choices of each prompt; each is a sequence. They are counted through all prompts,
    /// one prompt's after another's, and choice `i` is drawn with seed `sampling.seed + i`.
    pub choices_count: u32,
    /// Most tokens to generate a choice; `None`: as many as the context has room for.
    pub max_tokens: Option<u32>,
    /// More than the context has room for behind a prompt is as many as it has, and not refused.
    pub cuts_at_context: bool,
    /// How to draw. Stop tokens given by the client; the model's own are added unless `ignore_eos`.
    pub sampling: Sampling,
    /// The numbers of `sampling` as the client gave them (for the cache key).
    pub written: WrittenNumbers,
    /// The seed as the client gave it (for the cache key); `None` if it gave none.
    pub seed: Option<i64>,
    /// The form that an answer must have: all of a text, the final message of a chat.
    pub form: Option<AskedForm>,
    /// Texts that end a choice; not part of the answer.
    pub stop_strings: Vec<String>,
    /// Go on past the model's own end tokens.
    pub ignore_eos: bool,
    /// How its tokens become text and lists.
    pub answer: AnswerOptions,
    /// Which tokens they are.
    pub tokens: AskedTokens,
    /// How prompts that are no chats are cut; `None` leaves them as they are.
    pub cut: Option<PromptCut>,
    /// How to gather text.
    pub coalescing: Coalescing,
    /// The conversation that this belongs to (`X-Session-ID`).
    pub session: Option<String>,
    /// The key that it came with, which owns it.
    pub owner: KeyId,
    /// Keeps the prompt apart from those built with another salt, besides the owner's.
    pub cache_salt: Option<String>,
    /// Its client says that others come that begin alike: what it computes is kept longer.
    pub has_cache_key: bool,
    /// Lower is served earlier; 0 is that of a request that says nothing.
    pub priority: i32,
    /// What of the server's memory it holds, given back once its prompt is built; `None` where it
    /// is not counted.
    pub memory: Option<Reserved>,
}

impl Generate {
    /// How many sequences it asks for.
    #[must_use]
    pub fn sequences_count(&self) -> usize {
        self.inputs.len().saturating_mul(self.choices_count as usize)
    }
}

/// A response that the scheduler took.
#[derive(Debug)]
pub struct Accepted {
    /// What each prompt became.
    pub prompts: Vec<Arc<PromptReport>>,
    /// What the stream actor sends; dropping it cancels the response.
    pub parts: PartReceiver,
}

/// What became of the input, for `metadata` and usage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptReport {
    /// The tokens (for `echo` and `return_token_ids`).
    pub tokens: Arc<[TokenId]>,
    /// How many they were before they were cut.
    pub uncut_tokens: usize,
    /// SHA-256 of the request's normalised form; empty for inputs that are not chats.
    pub cache_key: String,
    /// Whether the prompt was built before.
    pub cache_hit: bool,
    /// `SYS/v1` or `SYS/v2`; empty for inputs that are not chats.
    pub prompt_version: String,
}

/// Why a response was not taken; http maps each to a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The client's input cannot be served as it is (400).
    Invalid {
        /// The parameter, as the client named it.
        param: Option<Cow<'static, str>>,
        /// `context_length_exceeded` or another machine-readable code, if there is one.
        code: Option<&'static str>,
        /// What was wrong, and what was expected.
        message: String,
    },
    /// It needs more memory than it can ever have here (413).
    TooLarge {
        /// What it needs.
        bytes: u64,
        /// The most that there is for a request.
        most_bytes: u64,
    },
    /// Too much waits already (429).
    QueueFull {
        /// After how many seconds to come back.
        retry_after_seconds: u64,
        /// What is full.
        message: String,
    },
    /// Loading, draining, no memory for it, or the engine is being rebuilt or dead (503).
    Unavailable {
        /// After how many seconds to come back.
        retry_after_seconds: u64,
        /// `draining`, `loading`, `memory_full`, `engine_restarting` or `engine_dead`.
        code: &'static str,
    },
    /// Something broke inside (500).
    Internal {
        /// The id under which the log tells more.
        error_id: String,
    },
}

/// Log-probabilities of one token, as text.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenText {
    /// The token and its log-probability.
    pub token: TokenLogprob,
    /// Its bytes; of a control token those of its spelling, which is no text.
    pub bytes: Vec<u8>,
    /// It is a control token.
    pub is_control: bool,
    /// The likeliest tokens at its place, with their bytes.
    pub top: Vec<(TokenLogprob, Vec<u8>)>,
}

/// What a small list on the heap takes besides its items: the allocator's own bookkeeping, and
/// rounding.
const HEAP_BYTES: usize = 24;

impl TokenText {
    /// Memory that it holds.
    fn bytes(&self) -> usize {
        let top = self.top.iter().map(|(_, bytes)| size_of::<(TokenLogprob, Vec<u8>)>() + bytes.len() + HEAP_BYTES);
        size_of::<Self>() + self.bytes.len() + 2 * HEAP_BYTES + top.sum::<usize>()
    }
}

/// A piece of a response.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Which choice.
    pub choice: u32,
    /// What.
    pub kind: PartKind,
    /// The generated tokens that this part stands for, in order; parts of a choice joined give all
    /// its tokens, the stop token that ended it included (it comes with the
    /// [`PartKind::Finished`]).
    pub tokens: Vec<TokenId>,
    /// Log-probabilities, if asked for. In harmony those of tokens that are text: control tokens
    /// and headers have none. In plain text those of every token; the last ones come with the
    /// [`PartKind::Finished`]. A token whose text begins in a stop string or behind it has
    /// none; one that goes on into it has the bytes before it. They come with the text in which
    /// their tokens end, or, where a stop string cuts the last one, in a part without text; so
    /// not always with `tokens`. With [`AnswerOptions::logprobs_by_token`] there is one for each of
    /// `tokens`.
    pub logprobs: Vec<TokenText>,
    /// Tokens generated in this choice so far.
    pub completion_tokens: u32,
    /// Those of them that are text of the analysis channel.
    pub reasoning_tokens: u32,
    /// What of the prompt was found computed.
    pub cached: Cached,
}

/// What of a prompt was found computed when its choice began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cached {
    /// So many of its tokens, from the first on.
    pub tokens: u32,
    /// Why none were: `short`, `prompt_logprobs`, `not_cached`, `window` or `not_restored`; `None`
    /// if some were, if the choice ended before it began, or if prefixes are not kept.
    pub miss: Option<&'static str>,
}

impl Cached {
    /// What the scheduler found.
    pub(super) fn of(tokens: usize, miss: Option<Miss>) -> Self {
        let name = |miss| match miss {
            Miss::Short => "short",
            Miss::PromptLogprobs => "prompt_logprobs",
            Miss::Unknown => "not_cached",
            Miss::Window => "window",
            Miss::NotRestored => "not_restored",
        };
        Self { tokens: u32::try_from(tokens).unwrap_or(u32::MAX), miss: miss.map(name) }
    }
}

impl Part {
    /// Memory that it holds.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (size_of::<Self>() + self.joined_bytes()) as u64
    }

    /// Memory that it adds to a part that it is joined to.
    pub(super) fn joined_bytes(&self) -> usize {
        let text = match &self.kind {
            PartKind::Reasoning(text) | PartKind::Content(text) | PartKind::ToolCallArguments { text, .. } => text.len(),
            PartKind::Prompt | PartKind::ToolCallStart { .. } | PartKind::Finished(_) => 0,
        };
        let tokens = size_of_val(self.tokens.as_slice());
        text + tokens + self.logprobs.iter().map(TokenText::bytes).sum::<usize>()
    }
}

/// What a part brings.
#[derive(Debug, Clone, PartialEq)]
pub enum PartKind {
    /// Log-probabilities of the prompt, first part of a choice if they were asked for; in
    /// [`Part::logprobs`], without the prompt's first token.
    Prompt,
    /// Text of the analysis channel, or for a recipient that was not offered. Messages are joined
    /// by a blank line.
    Reasoning(String),
    /// Text of the answer (the final channel, or a preamble, joined by a blank line; all text if
    /// the input was no chat).
    Content(String),
    /// A function call begins.
    ToolCallStart {
        /// Counts the calls of a choice from zero.
        index: u32,
        /// `call_...`, unique.
        id: String,
        /// The function.
        name: String,
        /// What it holds.
        kind: CallKind,
    },
    /// More of a function call's arguments.
    ToolCallArguments {
        /// Which call.
        index: u32,
        /// What it holds.
        kind: CallKind,
        /// The text as generated.
        text: String,
    },
    /// The choice is at its end; last part of a choice.
    Finished(Finish),
}

/// Why a choice ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishKind {
    /// A stop token, or a stop string.
    Stop {
        /// The stop string that matched, if one did.
        matched: Option<String>,
    },
    /// The tokens asked for are generated.
    Length,
    /// The model called a function.
    ToolCalls,
    /// It said the same again and again.
    Repetition,
    /// Cancelled by `POST /cancel/{id}` or by a drain that ran out of time.
    Cancelled,
    /// It failed; the stream ends with this error.
    Failed {
        /// `engine_failed`, `model_numeric_error`, `queue_timeout`, `request_failed`,
        /// `server_shutdown`, `internal_error`.
        code: &'static str,
        /// What happened, fit for the client.
        message: String,
    },
}

/// How a choice ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finish {
    /// Why.
    pub kind: FinishKind,
    /// Tokens generated in the analysis channel.
    pub reasoning_tokens: u32,
    /// Tokens generated in all.
    pub completion_tokens: u32,
    /// What ended its analysis, if the model would have gone on.
    pub thinking_stop: Option<ThinkingStop>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a part takes besides itself is what a copy of it takes from the heap, and the
    /// allocator's share for each list of a log-probability.
    #[test]
    fn a_part_is_paid_for_by_what_it_takes() {
        let of = |token| TokenLogprob { token: TokenId(token), logprob: -0.5, rank: 1 };
        let text = |bytes: &[u8], top: &[&str]| TokenText {
            token: of(1),
            bytes: bytes.to_vec(),
            is_control: false,
            top: top.iter().map(|text| (of(2), text.as_bytes().to_vec())).collect(),
        };
        let part = |kind, tokens: usize, logprobs: Vec<TokenText>| Part {
            choice: 0,
            kind,
            tokens: vec![TokenId(3); tokens],
            logprobs,
            completion_tokens: 0,
            reasoning_tokens: 0,
            cached: Cached::default(),
        };
        // Two lists of a log-probability, and one of each of its likeliest.
        for (part, lists_count) in [
            (part(PartKind::Content("x".repeat(100)), 7, Vec::new()), 0),
            (part(PartKind::Reasoning("x".repeat(10)), 0, vec![text(b"abc", &[])]), 2),
            (part(PartKind::Prompt, 0, vec![text(b"abc", &["d", "ef"]), text(b"g", &["hij"])]), 2 * 2 + 3),
        ] {
            let mut copy = None;
            let taken = allocation_counter::measure(|| copy = Some(part.clone())).bytes_current as usize;
            assert_eq!(part.joined_bytes(), taken + lists_count * HEAP_BYTES, "{part:?}");
            assert_eq!(part.bytes() as usize, size_of::<Part>() + part.joined_bytes());
        }
    }
}
