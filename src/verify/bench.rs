//! What every test works with: the server, how it is reached, and what it holds.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::sleep;

use super::case::{Halt, Level};
use super::criteria::Criteria;
use super::effort::Effort;
use super::process::ServerProcess;
use crate::actors::service::Service;
use crate::client::{Client, Request};

/// The server to test.
#[derive(Debug, Default)]
pub struct Target {
    /// Where it is.
    pub url: String,
    /// Sent with every request, if there is one.
    pub api_key: Option<String>,
    /// The model to ask for; `None` takes the first one that the server names.
    pub model: Option<String>,
    /// The process, if it is ours.
    pub process: Option<ServerProcess>,
    /// How another one like it is started: the binary and its options; for tests that end their
    /// server.
    pub again: Option<(PathBuf, Vec<String>)>,
    /// The same model in this process, for the service layer.
    pub service: Option<Service>,
    /// A Chromium; `None` looks for one.
    pub browser: Option<PathBuf>,
    /// Asked for chunks in the streaming suite; `None` asks for Python code that prints Jay, and
    /// the embedded model to count.
    pub stream_prompt: Option<String>,
}

/// The server at work in the tests.
pub(super) struct Bench {
    pub(super) client: Client,
    pub(super) target: Target,
    pub(super) model: String,
    pub(super) level: Level,
    pub(super) criteria: Criteria,
    pub(super) effort: Effort,
    /// Most tokens of a sequence, if the server says.
    pub(super) context_tokens: u64,
}

/// What the server holds at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ServerHoldings {
    pub(super) requests: u64,
    pub(super) streams: u64,
    pub(super) blocks: u64,
    /// Open descriptors, if it says.
    pub(super) fds: Option<u64>,
}

/// Descriptors that may come and go for reasons of their own: the connection that asks.
const FDS_SLACK: u64 = 1;

impl Bench {
    /// JSON of a path; what is not there skips the test, since it then cannot tell anything.
    pub(super) async fn ask(&self, path: &str) -> Result<Value, Halt> {
        let whole = self.client.call(&Request::get(path)).await?;
        match whole.status {
            200 => Ok(whole.json()?),
            404 | 405 | 501 => {
                Err(Halt::Skip(format!("the server has no GET {path} ({}), so this cannot be told", whole.status)))
            }
            status => Err(Halt::Fail(format!("GET {path} answers {status}: {}", whole.refusal().message))),
        }
    }

    /// A whole number out of JSON.
    pub(super) fn count(report: &Value, pointer: &str) -> Result<u64, Halt> {
        let value = report.pointer(pointer).and_then(Value::as_u64);
        value.ok_or_else(|| Halt::Fail(format!("{pointer} is missing or no whole number")))
    }

    /// What the server holds now.
    pub(super) async fn held(&self) -> Result<ServerHoldings, Halt> {
        let stats = self.ask("/stats").await?;
        let memory = self.ask("/memory_stats").await.ok();
        Ok(ServerHoldings {
            requests: Self::count(&stats, "/active_requests")?,
            streams: Self::count(&stats, "/stream_active")?,
            blocks: Self::count(&stats, "/kv/in_use")?,
            fds: memory.and_then(|memory| memory["open_fds"].as_u64()),
        })
    }

    /// What an idle server holds; a server that others use cannot be tested for what it holds.
    pub(super) async fn idle(&self) -> Result<ServerHoldings, Halt> {
        // The server holds on to as many descriptors as we hold on to connections.
        self.client.close_idle();
        let started = Instant::now();
        loop {
            let held = self.held().await?;
            if held.requests == 0 && held.streams == 0 && held.blocks == 0 {
                return Ok(held);
            }
            if started.elapsed() > self.effort.freed_max {
                return Err(Halt::Fail(format!("the server is never idle: {held:?}; verify needs it for itself")));
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until the server holds no more than it did when it was idle; milliseconds from `since`
    /// until then.
    pub(super) async fn freed(&self, since: Instant, before: ServerHoldings) -> Result<f64, Halt> {
        self.client.close_idle();
        loop {
            let held = self.held().await?;
            let fds = held.fds.zip(before.fds).is_none_or(|(now, then)| now <= then + FDS_SLACK);
            if held.requests == 0 && held.streams == 0 && held.blocks == 0 && fds {
                // When the answer arrived: an upper bound, for it was so at the latest when the
                // answer was made.
                return Ok(since.elapsed().as_secs_f64() * 1e3);
            }
            let most = self.effort.freed_max;
            if since.elapsed() > most {
                return Err(Halt::Fail(format!("after {} s it still holds {held:?}, before {before:?}", most.as_secs_f64())));
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Resident memory of the server in bytes.
    pub(super) async fn resident_bytes(&self) -> Result<u64, Halt> {
        Self::count(&self.ask("/memory_stats").await?, "/rss_bytes")
    }

    /// Tokens that make an answer long: half the context, at most 4,000.
    pub(super) fn long_tokens(&self) -> u64 {
        (self.context_tokens / 2).clamp(64, 4_000)
    }
}
