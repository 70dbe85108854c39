//! Requests to a hub. Redirects are followed here, one by one, because a redirect decides which
//! host sees the token.
//!
//! Promises: the token goes to the hub's own origin (scheme, host and port) and nowhere else,
//! however often a request is sent on. A mirror or a content server that ignores a range is
//! noticed. Absent on purpose: what is asked for, and trying again.

use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use ureq::{Agent, Response};
use url::Url;

/// A request that is sent on more often goes round in a circle.
const REDIRECTS_MAX: usize = 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// A content server that sends nothing for so long has broken off.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a request, or what was to be done with its answer, failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// The server says no.
    #[error("status code {0}")]
    Status(u16),
    /// The network, or the other end of it.
    #[error("{0}")]
    Network(String),
    /// The disk.
    #[error("{0}")]
    Disk(#[from] io::Error),
    /// Another process holds the file's lock.
    #[error("another process is downloading it ({})", .0.display())]
    Locked(PathBuf),
    /// What arrived is not what the hub has.
    #[error("{0}")]
    Corrupt(String),
}

impl FetchError {
    /// Whether the same request may go better a moment later.
    pub(super) fn is_worth_retrying(&self) -> bool {
        match self {
            Self::Status(status) => matches!(status, 408 | 416 | 429) || *status >= 500,
            Self::Network(_) | Self::Locked(_) | Self::Corrupt(_) => true,
            Self::Disk(_) => false,
        }
    }
}

/// What the hub says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remote {
    /// The SHA-256 of a large file, git's hash of a small one.
    pub(super) etag: String,
    /// Its length.
    pub(super) size: u64,
    /// Git's hash of its content, if the hub's list has it: the hexadecimal SHA-1 of `blob LENGTH`,
    /// a zero byte and the content.
    pub(super) git_hash: Option<String>,
}

/// A file's bytes on their way.
pub(super) struct FileBody {
    /// Where in the file they begin: where they were asked for, or at the start if the server takes
    /// no ranges.
    pub(super) from: u64,
    /// The bytes.
    pub(super) reader: Box<dyn Read + Send + Sync>,
}

/// A hub, and what opens it.
pub(super) struct Hub {
    agent: Agent,
    origin: Url,
    token: Option<String>,
}

/// The last answer of a request that may have been sent on, and what the answers before it said of
/// the file.
struct HubAnswer {
    response: Response,
    etag: Option<String>,
    size: Option<u64>,
}

impl Hub {
    /// The hub at `endpoint`, which must be an address.
    pub(super) fn new(endpoint: &str, token: Option<String>) -> Result<Self, FetchError> {
        let origin = Url::parse(endpoint).map_err(|error| FetchError::Network(format!("{endpoint}: {error}")))?;
        let agent = ureq::builder()
            .try_proxy_from_env(true)
            .redirects(0)
            .timeout_connect(CONNECT_TIMEOUT)
            .timeout_read(READ_TIMEOUT)
            .user_agent(concat!("antiphon/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self { agent, origin, token })
    }

    /// The text at a path of the hub.
    pub(super) fn text(&self, path: &str) -> Result<String, FetchError> {
        let answer = self.get(path, None)?;
        answer.response.into_string().map_err(|error| FetchError::Network(error.to_string()))
    }

    /// What the hub says of the file at `path`; one byte of it is asked for.
    pub(super) fn look(&self, path: &str) -> Result<Remote, FetchError> {
        let HubAnswer { response, etag, size } = self.get(path, Some("bytes=0-0"))?;
        let total = response.header("content-range").and_then(|range| range.rsplit('/').next()?.parse().ok());
        let whole = || response.header("content-length").and_then(|length| length.parse().ok());
        let size = size.or(total).or_else(|| (response.status() == 200).then(whole).flatten());
        match (etag, size) {
            (Some(etag), Some(size)) => Ok(Remote { etag, size, git_hash: None }),
            _ => Err(FetchError::Network("it names no ETag or no length, expected both, as the hub sends them".to_owned())),
        }
    }

    /// The bytes of the file at `path` from `from` on.
    pub(super) fn body(&self, path: &str, from: u64) -> Result<FileBody, FetchError> {
        self.ranged(path, from, (from > 0).then(|| format!("bytes={from}-")).as_deref())
    }

    /// `count` bytes of the file at `path` from `from` on; no more of it is asked for, and no more
    /// is read.
    pub(super) fn part(&self, path: &str, from: u64, count: u64) -> Result<Vec<u8>, FetchError> {
        let mut body = self.ranged(path, from, Some(&format!("bytes={from}-{}", from + count - 1)))?;
        let failed = |error: io::Error| FetchError::Network(error.to_string());
        // A server that takes no ranges sends the file from its start.
        io::copy(&mut body.reader.by_ref().take(from - body.from), &mut io::sink()).map_err(failed)?;
        let mut bytes = Vec::new();
        body.reader.take(count).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 == count {
            return Ok(bytes);
        }
        Err(FetchError::Network(format!("it sent {} bytes from byte {from} on, expected {count}", bytes.len())))
    }

    fn ranged(&self, path: &str, from: u64, range: Option<&str>) -> Result<FileBody, FetchError> {
        let response = self.get(path, range)?.response;
        let begin = |range: &str| range.strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok();
        let from = match response.status() {
            206 if response.header("content-range").and_then(begin) == Some(from) => from,
            206 => return Err(FetchError::Network(format!("it sent another part than the one from byte {from} on"))),
            // The whole file, to a request for a part of it as well.
            _ => 0,
        };
        Ok(FileBody { from, reader: response.into_reader() })
    }

    /// Asks for `path`, and goes where the hub and those after it send the request.
    fn get(&self, path: &str, range: Option<&str>) -> Result<HubAnswer, FetchError> {
        let odd = |error: &dyn std::fmt::Display| FetchError::Network(error.to_string());
        let address = format!("{}{path}", self.origin.as_str().trim_end_matches('/'));
        let mut url = Url::parse(&address).map_err(|error| odd(&error))?;
        let (mut etag, mut size) = (None, None);
        for _ in 0..REDIRECTS_MAX {
            let mut request = self.agent.request_url("GET", &url);
            if let Some(token) = self.token.as_ref().filter(|_| url.origin() == self.origin.origin()) {
                request = request.set("Authorization", &format!("Bearer {token}"));
            }
            if let Some(range) = range {
                request = request.set("Range", range);
            }
            let response = request.call().map_err(|error| match error {
                ureq::Error::Status(status, _) => FetchError::Status(status),
                // Its text would hold the address, and an address of a content server holds a
                // signature.
                ureq::Error::Transport(transport) => FetchError::Network(failure(&transport)),
            })?;
            let header =
                |name: &str| response.header(name).map(|text| text.trim_start_matches("W/").trim_matches('"').to_owned());
            // The hub's word on a large file stands on the redirect; the content server's own ETag
            // is another one.
            etag = etag.or_else(|| header("x-linked-etag"));
            size = size.or_else(|| header("x-linked-size").and_then(|size| size.parse().ok()));
            if !matches!(response.status(), 301 | 302 | 303 | 307 | 308) {
                return Ok(HubAnswer { etag: etag.or_else(|| header("etag")), size, response });
            }
            let location = header("location").ok_or_else(|| odd(&"a redirect without a location"))?;
            url = url.join(&location).map_err(|error| odd(&format!("a redirect to what is no address: {error}")))?;
            if !matches!(url.scheme(), "http" | "https") {
                return Err(odd(&format!("a redirect to {}, expected http or https", url.scheme())));
            }
        }
        Err(odd(&format!("it sent the request on {REDIRECTS_MAX} times")))
    }
}

fn failure(transport: &ureq::Transport) -> String {
    let message = transport.message().map(str::to_owned);
    let source = std::error::Error::source(transport).map(ToString::to_string);
    let parts: Vec<String> = [Some(transport.kind().to_string()), message, source].into_iter().flatten().collect();
    parts.join(": ")
}
