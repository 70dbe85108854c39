//! `stream`, `stream_options` and `profile`: how an answer travels.

use serde_json::Value;

use crate::actors::messages::Coalescing;
use crate::http::wire::defaults::Terms;
use crate::http::wire::error::{WireError, clip};
use crate::http::wire::fields::{RequestFields, unfit};

/// An answer in one piece has no reader to please: few parts are cheap.
const WHOLE: Coalescing = Coalescing { max_ms: 250, max_chars: 0 };
const COALESCE_MAX_MS: u32 = 1_000;
const COALESCE_MAX_CHARS: u32 = 4_096;

/// How the OpenAI-like stream of `/v1/chat/completions` looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// OpenAI's chunks.
    #[default]
    OpenAi,
    /// Typed events: `start`, `token`, `done`.
    Events,
    /// OpenAI's chunks that also carry the typed events' keys.
    Both,
}

impl Dialect {
    /// The names, as the command line and the header `X-SSE-Dialect` give them.
    pub const NAMES: &'static str = "openai, events or both";

    /// The dialect of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "openai" => Some(Self::OpenAi),
            "events" => Some(Self::Events),
            "both" => Some(Self::Both),
            _ => None,
        }
    }
}

/// How an answer travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Streaming {
    /// As a stream, not in one piece.
    pub(crate) on: bool,
    /// The last chunk tells the usage.
    pub(crate) include_usage: bool,
    /// Every chunk does; only where the last one does.
    pub(crate) continuous_usage: bool,
    /// How text is gathered.
    pub(crate) coalescing: Coalescing,
}

impl Streaming {
    /// Reads the fields; `unasked` is what a request gets that does not say.
    pub(crate) fn read(fields: &mut RequestFields, terms: &Terms<'_>, unasked: bool) -> Result<Self, WireError> {
        let on = fields.flag("stream")?.unwrap_or(unasked);
        let profile = profile(fields, terms)?;
        let mut streaming = Self {
            on,
            include_usage: false,
            continuous_usage: false,
            coalescing: if on { profile.unwrap_or(terms.coalescing) } else { WHOLE },
        };
        let Some(mut options) = fields.object("stream_options")? else { return Ok(streaming) };
        if !on {
            let message = "only allowed with stream: true".to_owned();
            return Err(WireError::Conflict { param: fields.path_of("stream_options"), message });
        }
        streaming.include_usage = options.flag("include_usage")?.unwrap_or(false);
        streaming.continuous_usage = options.flag("continuous_usage_stats")?.unwrap_or(false) && streaming.include_usage;
        if let Some(max_ms) = options.count("coalesce_max_ms", 0..=COALESCE_MAX_MS)? {
            streaming.coalescing.max_ms = u64::from(max_ms);
        }
        if let Some(max_chars) = options.count("coalesce_max_chars", 0..=COALESCE_MAX_CHARS)? {
            streaming.coalescing.max_chars = max_chars as usize;
        }
        Ok(streaming)
    }
}

/// The profile that a request names says how its text is gathered. Batches are shared by all: their
/// profile is the server's.
fn profile(fields: &mut RequestFields, terms: &Terms<'_>) -> Result<Option<Coalescing>, WireError> {
    let path = fields.path_of("profile");
    let Some(name) = fields.text("profile")? else { return Ok(None) };
    match terms.profiles.get(&name) {
        Some(coalescing) => Ok(Some(*coalescing)),
        None => {
            let known: Vec<&str> = terms.profiles.keys().map(String::as_str).collect();
            Err(unfit(&path, &Value::String(clip(&name)), &format!("one of: {}", known.join(", "))))
        }
    }
}
