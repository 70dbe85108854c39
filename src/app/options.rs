//! What a server is told before it starts: every setting, checked, with no memory of how it was
//! given.

use std::fmt;
use std::path::PathBuf;

use super::keys::KeySources;
use crate::cost::CostModel;
use crate::engine::checkpoint::LinkPolicy;
use crate::engine::cpu::{Format, Isa, Math};
use crate::engine::cuda::MatrixInstruction;
use crate::engine::kv_store::KvStoreOptions;
use crate::engine::place::Device;
use crate::http::{AllowedOrigin, Dialect, MetricsAccess};
use crate::profile::Profile;

/// Where responses are kept that clients ask to be kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ResponseStorePlace {
    /// Nowhere.
    Off,
    /// In the process, and gone with it.
    #[default]
    Memory,
    /// In this file.
    File(PathBuf),
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text`.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// A setting as it took effect; secrets are not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownValue {
    /// The table of the settings' file that it stands in, if it is one of a profile's.
    pub section: Option<&'static str>,
    /// Its name, as the settings' file spells it.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// Where the value came from.
    pub from: String,
}

/// What a server is told before it starts.
#[derive(Debug, Clone, PartialEq)]
pub struct ServeOptions {
    /// `tiny`, `20b`, `120b`, a directory, or `org/name`.
    pub model: String,
    /// Which revision of it, if it comes from the hub.
    pub revision: String,
    /// Where links in its directory may lead.
    pub model_links: LinkPolicy,
    /// Names under which clients may ask for the model, besides its own.
    pub served_model_names: Vec<String>,
    /// The profile, with what was set over it.
    pub profile: Profile,
    /// Where to listen.
    pub host: String,
    /// Which port; zero takes a free one.
    pub port: u16,
    /// Names besides localhost that `Host` may hold while only loopback is bound.
    pub allowed_hosts: Vec<String>,
    /// Origins whose pages may read the answers; empty is none.
    pub cors_origins: Vec<AllowedOrigin>,
    /// Threads that serve connections, at least one.
    pub http_workers_count: usize,
    /// Threads that render and tokenize prompts, at least one.
    pub text_threads_count: usize,
    /// Threads that turn tokens into text, at least one.
    pub stream_threads_count: usize,
    /// Keys of clients; none is an open server.
    pub api_keys: Vec<Secret>,
    /// Keys of admins.
    pub admin_keys: Vec<Secret>,
    /// Where both were read, to be read there again.
    pub key_sources: KeySources,
    /// Which of them open the metrics.
    pub metrics_access: MetricsAccess,
    /// Connections that may be open.
    pub connections_max_count: usize,
    /// The same for one address, or one /64 of IPv6.
    pub address_connections_max_count: usize,
    /// What bodies, prompts and unread answers may hold in memory, all together; `None` takes a
    /// quarter of what is free, 4 GiB at most.
    pub memory_budget_bytes: Option<u64>,
    /// Largest body of a request.
    pub body_max_bytes: usize,
    /// How long a stream may be silent before a comment shows that it is alive.
    pub keep_alive_seconds: u64,
    /// How chats are streamed.
    pub sse_dialect: Dialect,
    /// Where responses are kept.
    pub response_store: ResponseStorePlace,
    /// How many bytes of them.
    pub response_store_bytes: u64,
    /// For how many days after their last use.
    pub response_store_days: u64,
    /// The collector that spans are told to; `None` tells none.
    pub otlp_endpoint: Option<String>,
    /// Where to compute, unless that is simulated.
    pub device: Device,
    /// How long steps take in place of computing them; `None` computes.
    pub simulated: Option<CostModel>,
    /// Threads that compute; `None` takes the machine's.
    pub threads: Option<usize>,
    /// How the CPU multiplies MXFP4 weights.
    pub cpu_math: Math,
    /// How the CPU keeps the dense weights.
    pub cpu_dense: Format,
    /// The instructions that the CPU computes with; `None` takes the fastest.
    pub cpu_isa: Option<Isa>,
    /// Whether the CPU's packed weights are kept in a file beside the checkpoint, which the next
    /// start maps.
    pub keep_packed_weights: bool,
    /// The share of a GPU's memory that may be used, in (0, 1].
    pub gpu_memory_utilization: f64,
    /// How GPUs multiply steps of many tokens.
    pub cuda_prefill: MatrixInstruction,
    /// How many GPUs compute the model together, from the device's on.
    pub tensor_parallel: usize,
    /// KV memory; `None` takes what a GPU has left beside the weights, or on the CPU a quarter of
    /// what is free, 8 GiB at most.
    pub kv_bytes: Option<u64>,
    /// Where blocks go that KV memory has no room for; `None`: nowhere.
    pub kv_store: Option<KvStoreOptions>,
    /// The date that the model is told (`2026-11-22`); `None` is today, where the machine is.
    pub system_date: Option<String>,
    /// The default instructions: `SYS/v0` (none), `SYS/v1` or `SYS/v2`.
    pub prompt_version: String,
    /// Most bytes that the cache of built prompts may hold.
    pub prompt_cache_bytes: usize,
    /// Whether the headers of every chat's answer are held to what harmony allows.
    pub header_grammar: bool,
    /// Whether what prompts have in common with earlier ones is kept and found computed.
    pub prefix_cache: bool,
    /// How long requests are still taken once the server is asked to stop, with readiness at 503.
    pub drain_delay_seconds: u64,
    /// How long running responses may go on after that.
    pub drain_timeout_seconds: u64,
    /// Whether SIGINT stops the server, as SIGTERM does; a talk in the terminal keeps it for
    /// itself.
    pub interrupt_stops: bool,
    /// After how long without progress the server calls itself stuck.
    pub watchdog_seconds: u64,
    /// Every setting as it took effect, in the order of the command line's help.
    pub shown: Vec<ShownValue>,
}
