//! What the made-up server says.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Value, json};

use super::super::asking::JAY;
use super::fault::Fault;
use super::fields;
use super::server::{MODEL, MadeUpServer};

const SIZE: &str = "small";
const DTYPE: &str = "f32";
const VERSION: &str = "SYS/v1";
const KINDS: [&str; 5] = ["autocomplete", "prompt", "comment", "error_fix", "code_generation"];

/// A request that was understood.
pub(super) struct UnderstoodRequest {
    pub(super) path: String,
    pub(super) streams: bool,
    /// It goes on until its tokens are used up, slowly.
    pub(super) endless: bool,
    pub(super) pieces: Vec<String>,
    /// The tokens that are listed, if log-probabilities are asked for.
    listed: Option<Vec<String>>,
    /// Calls in place of the pieces.
    calls: Option<Value>,
    /// What the prompt is known by.
    pub(super) key: String,
}

impl UnderstoodRequest {
    /// A request, and with what it is refused if it is wrong.
    pub(super) fn read(server: &MadeUpServer, path: String, body: &Value) -> (Self, Option<(u16, &'static str)>) {
        let from = if body["messages"].is_array() { &body["messages"][0]["content"] } else { &body["prompt"] };
        let question = from.as_str().unwrap_or_default();
        let temperature = body["temperature"].as_f64().unwrap_or(0.0);
        let tokens = body["max_tokens"].as_u64().map_or(1024, |tokens| tokens as usize);
        let endless = body["ignore_eos"] == true;
        let streams = body["stream"] == true || path == "/generate/stream";
        let kind = body["model_type"].as_str();
        let known = kind.is_none_or(|kind| KINDS.contains(&kind) && !(kind == "comment" && server.bad(Fault::NoComments)));
        let refusal = if body["model"].as_str().is_some_and(|model| model != MODEL) {
            Some((404, "no such model"))
        } else if !(0.0..=2.0).contains(&temperature) {
            Some((400, "temperature is out of range"))
        } else if !from.is_string() {
            Some((400, "no prompt"))
        } else if !known && !server.bad(Fault::ServesPoems) {
            Some((400, "unknown model_type"))
        } else {
            fields::refusal(server, body)
        };
        let (completed, listed) = fields::completion(server, body, if refusal.is_none() { tokens } else { 0 });
        let mut pieces: Vec<String> = if endless {
            vec!["word ".to_owned(); if refusal.is_none() { tokens } else { 0 }]
        } else if path == "/v1/completions" {
            completed
        } else {
            reply(server, question).into_iter().take(tokens).collect()
        };
        let chat = path == "/v1/chat/completions";
        if chat && streams && server.bad(Fault::LosesPiece) {
            pieces.pop();
        }
        let (fault, every) = if streams { (Fault::AnswerChanges, 5) } else { (Fault::ContentChanges, 2) };
        let changes = chat && server.bad_every(fault, every);
        let changes = changes || (temperature > 0.0 && server.bad_every(Fault::DrawnChanges, 2));
        if changes {
            pieces = vec!["Another.".to_owned()];
        }
        if path == "/generate/stream" && server.bad(Fault::EmptyAnswer) {
            pieces.clear();
        }
        let gather = body["stream_options"]["coalesce_max_chars"].as_u64().unwrap_or(0) as usize;
        let pieces = gathered(server, pieces, gather);
        let key = key(server, question, temperature, &body["seed"]);
        let asks = !matches!(body["logprobs"], Value::Null | Value::Bool(false));
        let listed = asks.then(|| if chat { pieces.clone() } else { listed });
        let calls = fields::calls(server, body);
        (Self { path, streams, endless, pieces, listed, calls, key }, refusal)
    }

    fn named(&self, server: &MadeUpServer, data: &Value) -> String {
        match data["type"].as_str() {
            Some(kind) if !server.bad(Fault::NoEventNames) => format!("event: {kind}\ndata: {data}\n\n"),
            _ if self.path == "/v1/completions" && !self.endless && server.bad(Fault::NoSpaceAfterData) => {
                format!("data:{data}\n\n")
            }
            _ => format!("data: {data}\n\n"),
        }
    }

    /// What comes before the first piece.
    pub(super) fn start(&self, server: &MadeUpServer, id: &str) -> Option<String> {
        match self.path.as_str() {
            "/v1/chat/completions" => {
                let delta = json!({"role": "assistant", "content": ""});
                Some(self.named(server, &json!({"id": id, "choices": [{"index": 0, "delta": delta}]})))
            }
            "/generate" if !server.bad(Fault::NoStart) => Some(self.named(server, &json!({"type": "start", "request_id": id}))),
            _ => None,
        }
    }

    pub(super) fn piece(&self, server: &MadeUpServer, id: &str, piece: &str) -> String {
        let own = [piece.to_owned()];
        let data = match self.path.as_str() {
            "/v1/chat/completions" => {
                let logprobs = self.listed.as_ref().map(|_| fields::content(server, &own, true));
                let delta = json!({"content": piece, "tool_calls": self.calls});
                json!({"id": id, "choices": [{"index": 0, "delta": delta, "logprobs": logprobs}]})
            }
            "/v1/completions" => {
                let logprobs = self.listed.as_ref().map(|_| fields::list(server, &own));
                json!({"id": id, "choices": [{"index": 0, "text": piece, "logprobs": logprobs}]})
            }
            "/generate" => json!({"type": "token", "content": piece}),
            _ if server.bad(Fault::ExtraField) => json!({"text": piece, "index": 0}),
            _ => json!({"text": piece}),
        };
        self.named(server, &data)
    }

    /// An error in the middle of a stream.
    pub(super) fn error(&self) -> String {
        format!("data: {}\n\n", json!({"error": {"message": "lost", "type": "server_error"}}))
    }

    /// What ends a stream of the route.
    pub(super) fn end(&self, server: &MadeUpServer, id: &str, reason: &str, metadata: &Value) -> Vec<String> {
        let done = || "data: [DONE]\n\n".to_owned();
        match self.path.as_str() {
            "/generate" if server.bad(Fault::LosesDone) => Vec::new(),
            "/generate" => {
                let id = if server.bad(Fault::OtherIdAtEnd) { "r-0" } else { id };
                let mut metadata = metadata.clone();
                if server.bad(Fault::OtherVersionInStream) {
                    metadata["prompt_version"] = json!("SYS/v2");
                }
                let data = json!({"type": "done", "request_id": id, "usage": self.usage(), "metadata": metadata});
                vec![self.named(server, &data)]
            }
            "/generate/stream" => vec![done()],
            _ if server.bad(Fault::NoFinish) => vec![done()],
            _ => {
                let choice = json!({"index": 0, "delta": {}, "text": "", "finish_reason": reason});
                let data = json!({"id": id, "choices": [choice], "usage": self.usage(), "antiphon": metadata});
                vec![self.named(server, &data), done()]
            }
        }
    }

    /// What ends a stream that was cancelled by its id.
    pub(super) fn cancelled(&self, id: &str) -> Vec<String> {
        vec![format!("event: cancelled\ndata: {}\n\n", json!({"type": "cancelled", "request_id": id}))]
    }

    fn usage(&self) -> Value {
        let count = self.pieces.len();
        json!({"prompt_tokens": 7, "completion_tokens": count, "total_tokens": 7 + count})
    }
}

fn reply(server: &MadeUpServer, question: &str) -> Vec<String> {
    let letters = |text: &str| text.chars().map(String::from).collect();
    match question {
        JAY if server.bad(Fault::OtherCode) => letters("print(\"May\")"),
        JAY if server.bad(Fault::NoPython) => letters("print(\"Jay\") print"),
        JAY => ["print(", "\"Jay\"", ")"].map(str::to_owned).to_vec(),
        "Count from 1 to 90" => letters(&(1..=90).map(|n: u32| n.to_string()).collect::<Vec<_>>().join(", ")),
        // One letter of three characters, as some write it.
        "안녕하세요" if server.bad(Fault::CutsLetters) => letters("\u{1100}\u{1161}\u{11a8}"),
        "안녕하세요" if server.bad(Fault::ControlToken) => vec!["안녕".to_owned(), "<|end|>".to_owned()],
        "안녕하세요" => letters("안녕하세요!"),
        _ => ["A word ", "after ", "a word."].map(str::to_owned).to_vec(),
    }
}

fn gathered(server: &MadeUpServer, pieces: Vec<String>, least: usize) -> Vec<String> {
    let least = if least == 6 && server.bad(Fault::GathersMuch) { 40 } else { least };
    if least == 0 || server.bad(Fault::GathersNothing) {
        return pieces;
    }
    let chars: Vec<char> = pieces.concat().chars().collect();
    let changes = least == 40 && server.bad(Fault::GatheringChanges);
    let text = |chars: &[char]| chars.iter().collect::<String>();
    chars.chunks(least).map(|chars| if changes { text(chars).replace(',', ";") } else { text(chars) }).collect()
}

/// 64 hexadecimal digits of what a prompt is made of.
fn key(server: &MadeUpServer, question: &str, temperature: f64, seed: &Value) -> String {
    let temperature = if server.bad(Fault::KeyWithoutTemperature) { 0.0 } else { temperature };
    let of = |part: u64| {
        let mut hasher = DefaultHasher::new();
        (part, question, temperature.to_bits(), seed.to_string()).hash(&mut hasher);
        if server.bad(Fault::KeyChanges) {
            server.state().total.hash(&mut hasher);
        }
        format!("{:016x}", hasher.finish())
    };
    if server.bad(Fault::KeysAlike) { "0".repeat(64) } else { (0..4).map(of).collect() }
}

pub(super) fn metadata(server: &MadeUpServer, asked: &UnderstoodRequest, id: &str, cache_hit: bool) -> Value {
    let mut metadata = json!({"request_id": id, "cache_key": asked.key, "cache_hit": cache_hit, "prompt_version": VERSION,
                              "model_id": MODEL, "model_size": SIZE, "dtype": DTYPE, "gpu_mode": "none", "tokens_before": 7,
                              "tokens_after": 7});
    for (fault, field) in [(Fault::NoVersion, "prompt_version"), (Fault::NoTokensBefore, "tokens_before")] {
        if server.bad(fault) {
            metadata[field] = Value::Null;
        }
    }
    metadata
}

/// An answer in one piece.
pub(super) fn whole(server: &MadeUpServer, asked: &UnderstoodRequest, metadata: &Value) -> Value {
    let reason = if server.bad(Fault::FinishIsLength) { "length" } else { "stop" };
    let first = if server.bad_every(Fault::TokenIdsChange, 2) { 1 } else { 0 };
    let token_ids: Vec<usize> = (first..first + asked.pieces.len()).collect();
    let text = asked.pieces.concat();
    let chat = asked.path == "/v1/chat/completions";
    let list = |listed: &Vec<String>| if chat { fields::content(server, listed, false) } else { fields::list(server, listed) };
    let logprobs = asked.listed.as_ref().map(list);
    let message = json!({"role": "assistant", "content": text, "tool_calls": asked.calls});
    let mut usage = asked.usage();
    if server.bad(Fault::UsageWrong) {
        usage["total_tokens"] = json!(1);
    }
    json!({"choices": [{"index": 0, "message": message, "text": text, "logprobs": logprobs, "finish_reason": reason,
                           "token_ids": token_ids}], "usage": usage,
           "prompt_token_ids": [1, 2, 3], "antiphon": metadata})
}

pub(super) fn health(server: &MadeUpServer) -> Value {
    let inner = if server.bad(Fault::InnerTag) { "bf16" } else { DTYPE };
    let status = if server.bad(Fault::Unhealthy) { "starting" } else { "healthy" };
    let qps = if server.bad(Fault::NoQps) { Value::Null } else { json!(1.0) };
    json!({"status": status, "model_id": MODEL, "model_size": SIZE, "dtype": DTYPE, "version": "0", "profile": "latency_first",
           "model": {"model_id": MODEL, "model_size": SIZE, "dtype": inner, "gpu_mode": "none", "prompt_version": VERSION},
           "stats": {"active_requests": 0, "qps": qps, "error_rate": 0.0, "p95_ttft_ms": 1.0, "p95_e2e_ms": 1.0}})
}

pub(super) fn stats(server: &MadeUpServer, context_tokens: u64) -> Value {
    let counted = |fault: Fault, count: u64| if server.bad(fault) { 0 } else { count };
    let (twice, halved) = (server.bad(Fault::ModelTotalTwice), server.bad(Fault::HitsHalved));
    let (total, success, cancelled) = {
        let state = server.state();
        (state.total, state.success, state.cancelled)
    };
    let requests_total = counted(Fault::RequestsUncounted, total);
    let requests_success = counted(Fault::SuccessUncounted, success);
    let stream_cancelled = counted(Fault::CancelledUncounted, cancelled);
    let models = if server.bad(Fault::NoModelMetrics) { "other" } else { "made-up_small_SYS/v1" };
    let state = server.state();
    json!({
        "active_requests": state.active, "stream_active": state.streams, "kv": {"in_use": state.blocks},
        "requests_total": requests_total, "requests_success": requests_success, "requests_cancelled": cancelled,
        "requests_failed": 0, "stream_cancelled_total": stream_cancelled, "uptime_seconds": 1.0,
        "p50_ttft_ms": 1.0, "p95_ttft_ms": 1.0, "p99_ttft_ms": 1.0, "p50_e2e_ms": 1.0, "p95_e2e_ms": 1.0, "p99_e2e_ms": 1.0,
        "prompt_metrics": {"cache_hits": if halved { state.hits / 2 } else { state.hits }, "cache_misses": state.misses,
                           "total_builds": state.hits + state.misses, "cache_hit_rate": 0.5},
        "model_metrics": {models: {"total": if twice { 2 * total } else { total }, "success": success, "failed": 0,
                                   "cancelled": cancelled}},
        "model_info": {"model_id": MODEL, "model_size": SIZE, "context_tokens_max": context_tokens},
        "gpu_routing": {"mode": "none"},
    })
}

pub(super) fn metrics(server: &MadeUpServer) -> String {
    let count = |fault: Fault, value: u64| if server.bad(fault) { 0 } else { value };
    let (wrong_label, active) = (server.bad(Fault::WrongLabel), u64::from(server.bad(Fault::ActiveStuck)));
    let more_hits = u64::from(server.bad(Fault::MetricsHitsMore));
    let (total, tokens) = {
        let state = server.state();
        (state.total, state.tokens)
    };
    let (total, tokens) = (count(Fault::MetricsRequestsUncounted, total), count(Fault::DecodeTokensUncounted, tokens));
    let help_twice = server.bad(Fault::HelpTwice);
    let state = server.state();
    let labels = |family: &str, more: &str| {
        let dtype = if wrong_label && family == "stream_active" { "bf16" } else { DTYPE };
        format!(
            "{{model_id=\"{MODEL}\",model_size=\"{SIZE}\",dtype=\"{dtype}\",gpu_mode=\"none\",prompt_version=\"{VERSION}\"{more}}}"
        )
    };
    let mut text = String::new();
    let mut add = |family: &str, kind: &str, samples: &[(&str, u64)]| {
        writeln!(text, "# HELP {family} x\n# TYPE {family} {kind}").expect("a String takes everything");
        for (more, value) in samples {
            let (ending, more) = more.split_once('|').unwrap_or(("", more));
            writeln!(text, "{family}{ending}{} {value}", labels(family, more)).expect("a String takes everything");
        }
    };
    add("requests_total", "counter", &[("", total)]);
    add("requests_active", "gauge", &[("", state.active + active)]);
    add("stream_active", "gauge", &[("", state.streams)]);
    add("stream_cancelled_total", "counter", &[("", state.cancelled)]);
    let by_status =
        [(",status=\"success\"", state.success), (",status=\"cancelled\"", state.cancelled), (",status=\"failed\"", 0)];
    add("model_requests_total", "counter", &by_status);
    add("antiphon_requests_rejected_total", "counter", &[(",kind=\"invalid\"", state.rejected)]);
    for family in ["ttft_ms", "e2e_ms", "llm_ttft_ms", "llm_e2e_ms"] {
        let count = state.success;
        add(family, "histogram", &[("_bucket|,le=\"+Inf\"", count), ("_sum|", count), ("_count|", count)]);
    }
    add("prompt_cache_hits", "counter", &[("", state.hits + more_hits)]);
    add("llm_decode_tokens_total", "counter", &[("", tokens)]);
    for family in [
        "prompt_cache_hit_rate",
        "llm_tokens_per_sec",
        "llm_prefill_tokens_total",
        "llm_admission_total",
        "kv_bytes_in_use",
        "sessions_active",
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
    ] {
        add(family, "gauge", &[("", 1)]);
    }
    if help_twice {
        text.push_str("# HELP requests_total x\n");
    }
    text
}
