//! How to serve: what `app` passes in from the command line, the profile and the checkpoint.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::actors::messages::Coalescing;
use crate::actors::service::Service;
use crate::clock::Clock;
use crate::http::middleware::cors::AllowedOrigin;
use crate::http::middleware::key::{KeyRing, MetricsAccess};
use crate::http::wire::defaults::RequestDefaults;
use crate::http::wire::streaming::Dialect;
use crate::metrics::{Metrics, ModelTags};
use crate::otel::SpanSender;
use crate::store::{ResponseStore, StoreLimits};

/// What http stands in front of.
#[derive(Debug, Clone)]
pub struct Backend {
    /// The actors.
    pub service: Service,
    /// Counts what happens.
    pub metrics: Metrics,
    /// The server's clock.
    pub clock: Clock,
}

/// How to serve. Start from [`HttpOptions::new`].
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// Where to listen: an address or a name.
    pub host: String,
    /// Which port; zero takes a free one.
    pub port: u16,
    /// Threads that serve connections, at least one.
    pub workers_count: usize,
    /// Which keys open what.
    pub keys: KeyRing,
    /// Which of them open the metrics.
    pub metrics_access: MetricsAccess,
    /// Names besides localhost that `Host` may hold while only loopback is bound.
    pub allowed_hosts: Vec<String>,
    /// Origins whose pages may read the answers; empty is none.
    pub cors_origins: Vec<AllowedOrigin>,
    /// What the model is called, as `/v1/models` and `metadata` show it.
    pub model: ModelTags,
    /// The cost model that stands in for a machine, if steps are simulated: every answer says so.
    pub simulated: Option<String>,
    /// Other names under which it may be asked for.
    pub aliases: Vec<String>,
    /// Names that are taken too, and not listed: the name it was started by, its name on the hub.
    pub unlisted_names: Vec<String>,
    /// What a request gets that does not say how to draw.
    pub sampling: RequestDefaults,
    /// How chats are streamed, unless the request says otherwise.
    pub dialect: Dialect,
    /// How a stream's text is gathered, unless the request says otherwise.
    pub coalescing: Coalescing,
    /// The same for `/generate/stream`.
    pub text_coalescing: Coalescing,
    /// The same for each profile that a request may name in `profile`.
    pub profiles: BTreeMap<String, Coalescing>,
    /// Where responses are kept.
    pub responses: ResponseStore,
    /// Where spans of requests are told, if they are.
    pub spans: Option<SpanSender>,
    /// Largest body.
    pub body_max_bytes: usize,
    /// How long a body may take to arrive.
    pub body_deadline: Duration,
    /// How long a request's head may take to arrive.
    pub head_deadline: Duration,
    /// How long a stream may be silent before a comment shows that it is alive.
    pub stream_keep_alive: Duration,
    /// How long a connection may be idle between requests.
    pub idle_deadline: Duration,
    /// How long an answer may stand still because its client takes nothing, or acknowledges
    /// nothing, before the client counts as gone.
    pub send_deadline: Duration,
    /// Connections that may be open; more are turned away.
    pub connections_max_count: usize,
    /// The same for one address, or one /64 of IPv6.
    pub address_connections_max_count: usize,
}

impl HttpOptions {
    /// The defaults: loopback, one worker, no key.
    #[must_use]
    pub fn new(model: ModelTags) -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 8000,
            workers_count: 1,
            keys: KeyRing::default(),
            metrics_access: MetricsAccess::default(),
            allowed_hosts: Vec::new(),
            cors_origins: Vec::new(),
            model,
            simulated: None,
            aliases: Vec::new(),
            unlisted_names: Vec::new(),
            sampling: RequestDefaults::default(),
            dialect: Dialect::OpenAi,
            coalescing: Coalescing { max_ms: 0, max_chars: 0 },
            // 55 ms are 17 chunks a second, and 50 characters the largest chunk that its readers
            // call a chunk.
            text_coalescing: Coalescing { max_ms: 55, max_chars: 50 },
            profiles: BTreeMap::new(),
            responses: ResponseStore::in_memory(StoreLimits::default()),
            spans: None,
            body_max_bytes: 8 << 20,
            body_deadline: Duration::from_secs(10),
            head_deadline: Duration::from_secs(5),
            stream_keep_alive: Duration::from_secs(15),
            // Longer than the 60 s after which proxies let go, so that they never send into a
            // connection that just closed.
            idle_deadline: Duration::from_secs(75),
            send_deadline: Duration::from_secs(30),
            // A thousand that pipeline and never read took 32 MB.
            connections_max_count: 4096,
            // A reverse proxy is one address: half of all leaves room for others.
            address_connections_max_count: 2048,
        }
    }

    /// All names of the model, its id first.
    #[must_use]
    pub fn model_names(&self) -> Vec<String> {
        std::iter::once(&self.model.model_id).chain(&self.aliases).cloned().collect()
    }
}
