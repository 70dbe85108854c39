//! The settings of `antiphon serve`, each once: its name on the command line, in the environment
//! and in a file.

/// A setting: `--drain-timeout-seconds`, `ANTIPHON_DRAIN_TIMEOUT_SECONDS`, `drain_timeout_seconds`
/// in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// The file's spelling.
    pub(super) name: &'static str,
    /// The table of the file that it stands in; only a profile's settings have one.
    pub(super) section: Option<&'static str>,
    /// What the help shows for the value.
    pub(super) value: &'static str,
    /// What it does.
    pub(super) help: &'static str,
    /// The default; a profile's settings have the profile's.
    pub(super) default: &'static str,
    /// Several values: a flag given again, a text with commas, an array.
    pub(super) is_list: bool,
}

impl Setting {
    /// `--port`, without the dashes.
    pub(super) fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// `ANTIPHON_PORT`.
    pub(super) fn variable(&self) -> String {
        format!("{PREFIX}{}", self.name.to_uppercase())
    }

    /// The setting of this name.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.name == name)
    }
}

/// How the environment variables of settings begin.
pub(super) const PREFIX: &str = "ANTIPHON_";
/// An API key itself; there is no flag for it, since every process of the machine can read a
/// command line.
pub(super) const API_KEY_VARIABLE: &str = "ANTIPHON_API_KEY";
/// Help of `--log-level` where the log would stand between other lines.
pub(super) const QUIET_LOG_HELP: &str = "error, warn, info, debug, trace, or a filter such as antiphon=debug [default: warn]";
/// The settings' file.
pub(super) const CONFIG_VARIABLE: &str = "ANTIPHON_CONFIG";

const fn plain(name: &'static str, value: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { name, section: None, value, help, default, is_list: false }
}

const fn list(name: &'static str, value: &'static str, help: &'static str) -> Setting {
    Setting { name, section: None, value, help, default: "", is_list: true }
}

const fn over(section: &'static str, name: &'static str, help: &'static str) -> Setting {
    Setting { name, section: Some(section), value: "NUMBER", help, default: "", is_list: false }
}

/// Every setting, in the order of the help.
pub(super) const SETTINGS: &[Setting] = &[
    plain("model", "MODEL", "tiny", "tiny (in the binary), 20b, 120b, a directory, or org/name on the Hugging Face hub"),
    plain("revision", "NAME", "main", "branch, tag or commit of a model on the hub"),
    plain(
        "model_links",
        "WHERE",
        "inside",
        "where links in a model's directory may lead: inside, or anywhere if they are your own",
    ),
    list("served_model_name", "NAME", "another name for the model in requests; may be given again"),
    plain("profile", "NAME|FILE", "latency_first", "latency_first, balanced, quality_first, throughput, or a .toml file"),
    plain("host", "HOST", "127.0.0.1", "address to listen on"),
    plain("port", "PORT", "8000", "port to listen on; 0 takes a free one"),
    list("allowed_host", "NAME", "another name that requests' Host may hold while only loopback is bound"),
    list("cors_origin", "ORIGIN", "a page from this origin may read the answers; * is every page; may be given again"),
    plain("http_workers", "COUNT", "2", "threads that serve connections"),
    plain("text_threads", "COUNT", "2", "threads that render and tokenize prompts"),
    plain("stream_threads", "COUNT", "1", "threads that turn tokens into text"),
    plain("api_key_file", "FILE", "none", "file with a key a line; ANTIPHON_API_KEY holds one key itself"),
    plain("admin_key_file", "FILE", "none", "file with a key a line; they open everything, /admin and others' requests too"),
    plain(
        "metrics_access",
        "KEY",
        "key",
        "what opens /metrics, /stats, /memory_stats, /v1/loads and /get_load: key (any), admin (an admin's) or open (none)",
    ),
    plain("connections_max_count", "COUNT", "4096", "connections that may be open; more get 503"),
    plain("address_connections_max_count", "COUNT", "2048", "the same for one address, or one /64 of IPv6"),
    plain(
        "memory_budget",
        "SIZE",
        "auto",
        "what bodies, prompts and unread answers may hold in memory; auto takes a quarter of what is free, 4GiB at most",
    ),
    plain("body_max_bytes", "SIZE", "8MiB", "largest body of a request"),
    plain("keep_alive_seconds", "SECONDS", "15", "a silent stream shows that it is alive after so long"),
    plain("sse_dialect", "DIALECT", "openai", "how chats are streamed: openai, events or both"),
    plain(
        "response_store",
        "PLACE",
        "memory",
        "where responses are kept that may be continued by id: memory (gone with the process), off, or a file",
    ),
    plain("response_store_bytes", "SIZE", "64MiB", "most that is kept of them; the least recently used go"),
    plain("response_store_days", "DAYS", "30", "how long after their last use they are kept"),
    plain(
        "otlp_endpoint",
        "URL",
        "off",
        "collector that spans of requests are told to, by OTLP over HTTP: off, or an address such as http://127.0.0.1:4318",
    ),
    plain(
        "device",
        "DEVICE",
        "auto",
        "where to compute: auto, cpu or cuda:N; sim waits as long as --cost-model says, and makes answers up",
    ),
    plain(
        "cost_model",
        "NAME|FILE",
        "none",
        "how long steps take with --device sim: h200-20b and others (antiphon simulate --help), or a .toml file",
    ),
    plain("threads", "COUNT", "auto", "threads that compute; auto takes as many as there are cores"),
    plain(
        "cpu_math",
        "MATH",
        "int16",
        "the CPU's arithmetic: int16 (activations of experts in 16 bits, keys and values in f16), fast (in 8 and 16) or exact (f32)",
    ),
    plain("cpu_dense", "FORMAT", "bf16", "how the CPU keeps attention's projections and the lm_head: bf16 or int8"),
    plain("cpu_isa", "NAME", "auto", "instructions of the CPU: auto, portable, avx2, avx-vnni, avx-512 or amx"),
    plain(
        "keep_packed_weights",
        "on|off",
        "off",
        "keep the CPU's packed weights in a file beside the model (as large as the model), which the next start maps",
    ),
    plain("gpu_memory_utilization", "SHARE", "0.9", "share of a GPU's memory that may be used, above 0 and at most 1"),
    plain(
        "cuda_prefill",
        "PRODUCTS",
        "mma",
        "how GPUs multiply steps of 128 tokens and more: mma, or wgmma on compute capability 9.0",
    ),
    plain("tensor_parallel", "N", "1", "how many GPUs compute the model together, from the device's on"),
    plain(
        "kv_bytes",
        "SIZE",
        "auto",
        "KV memory, such as 8GiB; auto takes what a GPU has left, or a quarter of the free memory, 8GiB at most, on the CPU",
    ),
    plain(
        "kv_offload_bytes",
        "SIZE",
        "0",
        "memory of the host for blocks that KV memory has no room for, such as 16GiB; 0 keeps none",
    ),
    plain("kv_store", "FILE", "none", "file for blocks that KV memory has no room for; it outlives the server"),
    plain("kv_store_bytes", "SIZE", "4GiB", "most bytes of that file"),
    plain("system_date", "DATE", "today", "date that the model is told, such as 2026-11-22; today is the machine's"),
    plain("prompt_version", "VERSION", "SYS/v1", "default instructions: SYS/v0 (none), SYS/v1 or SYS/v2"),
    plain(
        "header_grammar",
        "SWITCH",
        "on",
        "whether every chat's answer can have only the headers that harmony and its tools allow: on or off",
    ),
    plain("prompt_cache_bytes", "SIZE", "64MiB", "most memory of the cache of built prompts"),
    plain("prefix_cache", "SWITCH", "on", "whether what prompts have in common is computed once: on or off"),
    plain(
        "drain_delay_seconds",
        "SECONDS",
        "0",
        "how long requests are still taken once the server is asked to stop, with readiness at 503: as long as a balancer needs \
         to see it",
    ),
    plain("drain_timeout_seconds", "SECONDS", "30", "how long responses may go on after that"),
    plain("watchdog_seconds", "SECONDS", "30", "after so long without progress the server calls itself stuck"),
    plain("log_format", "FORMAT", "text", "text or json"),
    plain("log_level", "LEVEL", "info", "error, warn, info, debug, trace, or a filter such as antiphon=debug"),
    over("batch", "prefill_window_ms", "how long the first waiting prompt may be held for others"),
    over("batch", "decode_window_ms", "how long a decode step may be held for sequences about to join"),
    over("batch", "running_max_count", "most sequences that run at once"),
    over("batch", "token_budget_tokens", "most tokens of a step"),
    over("batch", "prefill_slice_tokens", "most tokens of one prompt in a step"),
    over("batch", "growth_reserve_percent", "how much of what answers are expected to grow by stays free for them"),
    over("batch", "draft_budget_tokens", "most tokens of a step that are guessed from what answers repeat; 0 guesses none"),
    over("batch", "itl_target_ms", "how long a step should take in which answers go on beside prompts; 0 is however long"),
    over("queue", "waiting_max_count", "most sequences that wait"),
    over("queue", "waiting_max_tokens", "most prompt tokens that wait"),
    over("queue", "waiting_max_seconds", "how long a sequence may wait; 0 is for ever"),
    over("queue", "preparing_max_count", "most prompts in rendering and tokenization"),
    over("queue", "priority_seconds", "how much earlier an arrival a level of priority is worth; 0 ignores priorities"),
    over("stream", "coalesce_max_ms", "how long text may be held so that tokens share an event"),
    over("stream", "coalesce_max_chars", "so many characters are sent at once; 0 is no bound"),
    over("stream", "slow_reader_seconds", "a reader that takes nothing for so long is cut off"),
    over("targets", "ttft_p95_ms", "target for the time to the first token"),
    over("targets", "e2e_p95_ms", "target for the time to the whole answer"),
    over("targets", "error_rate_max", "target for the share of failed requests"),
];
