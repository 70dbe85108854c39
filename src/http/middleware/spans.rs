//! Spans of the requests that generate, with what the actors saw of them, by the names of
//! OpenTelemetry's conventions for generative models and of SGLang's latencies.

use std::time::Duration;

use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::actors::service::Service;
use crate::actors::snapshot::{EndedRequest, Timeline};
use crate::clock;
use crate::http::middleware::client_ids::TraceContext;
use crate::otel::{Span, SpanEvent, SpanSender, SpanValue};

/// Routes that generate, and what OpenTelemetry calls what they do.
const OPERATIONS: [(&str, &str); 6] = [
    ("/v1/chat/completions", "chat"),
    ("/v1/responses", "chat"),
    ("/v1/messages", "chat"),
    ("/generate", "chat"),
    ("/generate/stream", "chat"),
    ("/v1/completions", "text_completion"),
];
/// Most spans that wait for what the actors saw.
const SEEDS_MAX_COUNT: usize = 4_096;
/// How many of the last requests are looked through for a span's.
const LOOKED_COUNT: usize = 128;
/// A request is among those that have ended a moment after its answer was sent.
const LOOK: Duration = Duration::from_millis(10);
const LOOKS_COUNT: usize = 20;

/// What the border knows of a request.
#[derive(Debug, Clone)]
struct SpanSeed {
    trace: TraceContext,
    path: &'static str,
    operation: &'static str,
    /// The answer's id.
    id: String,
    status: u16,
    began_nanos: u64,
    ended_nanos: u64,
}

/// Where spans begin.
#[derive(Debug, Clone)]
pub(in crate::http) struct Spans(Sender<SpanSeed>);

impl Spans {
    /// Tells `sender` of the spans of `service`, which serves `model`.
    pub(in crate::http) fn start(sender: SpanSender, service: Service, model: String) -> Self {
        let (seeds, waiting) = channel(SEEDS_MAX_COUNT);
        actix_rt::spawn(run(waiting, service, model, sender));
        Self(seeds)
    }

    /// The span of a request to `path`, if that is one that generates, and its trace is to be told.
    pub(in crate::http) fn begin(&self, path: &str, trace: &TraceContext) -> Option<OpenSpan> {
        let (path, operation) = OPERATIONS.into_iter().find(|(known, _)| *known == path)?;
        let began_nanos = clock::unix_nanos();
        // 499 is how nginx logs a client that left before its answer.
        let (trace, id, status) = (trace.clone(), String::new(), 499);
        let seed = SpanSeed { trace, path, operation, id, status, began_nanos, ended_nanos: began_nanos };
        seed.trace.is_sampled().then(|| OpenSpan { spans: self.clone(), seed })
    }
}

/// A span that ends when this is dropped.
#[derive(Debug)]
pub(in crate::http) struct OpenSpan {
    spans: Spans,
    seed: SpanSeed,
}

impl OpenSpan {
    /// The request is answered, so.
    pub(in crate::http) fn answered(&mut self, id: &str, status: u16) {
        id.clone_into(&mut self.seed.id);
        self.seed.status = status;
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        self.seed.ended_nanos = clock::unix_nanos();
        // What there is no room for is lost: a span holds up no answer.
        let _ = self.spans.0.try_send(self.seed.clone());
    }
}

async fn run(mut seeds: Receiver<SpanSeed>, service: Service, model: String, sender: SpanSender) {
    while let Some(seed) = seeds.recv().await {
        let ended = ended(&service, &seed).await;
        sender.send(span(&seed, ended.as_ref(), &model));
    }
}

/// What the actors saw of a request; what was refused they may never have seen.
async fn ended(service: &Service, seed: &SpanSeed) -> Option<EndedRequest> {
    let looks_count = if seed.status == 200 { LOOKS_COUNT } else { 1 };
    for _ in 0..looks_count {
        let found = service.recent_requests(LOOKED_COUNT).into_iter().find(|ended| ended.request.request_id == seed.id);
        if found.is_some() {
            return found;
        }
        tokio::time::sleep(LOOK).await;
    }
    None
}

fn span(seed: &SpanSeed, ended: Option<&EndedRequest>, model: &str) -> Span {
    use SpanValue::{Count, Number, Text, Texts};
    let mut attributes = vec![
        ("gen_ai.operation.name", Text(seed.operation.to_owned())),
        ("gen_ai.provider.name", Text("antiphon".to_owned())),
        ("gen_ai.request.model", Text(model.to_owned())),
        ("gen_ai.response.model", Text(model.to_owned())),
        ("gen_ai.response.id", Text(seed.id.clone())),
        ("http.request.method", Text("POST".to_owned())),
        ("http.route", Text(seed.path.to_owned())),
        ("http.response.status_code", Count(u64::from(seed.status))),
    ];
    let mut events = Vec::new();
    if let Some(EndedRequest { request, outcome }) = ended {
        let Timeline { queued_micros, prefill_micros, decode_micros, sending_micros, .. } = request.timeline;
        attributes.push(("gen_ai.usage.input_tokens", Count(request.prompt_tokens as u64)));
        attributes.push(("gen_ai.usage.output_tokens", Count(request.completion_tokens)));
        if let Some(outcome) = outcome {
            attributes.push(("gen_ai.response.finish_reasons", Texts(vec![outcome.reason().to_owned()])));
        }
        let seconds = |from: Option<u64>, to: Option<u64>| Some(Number(to?.saturating_sub(from?) as f64 / 1e6));
        let latencies = [
            ("gen_ai.latency.time_in_queue", seconds(queued_micros, prefill_micros)),
            ("gen_ai.latency.time_to_first_token", seconds(Some(0), decode_micros)),
            ("gen_ai.latency.time_in_model_prefill", seconds(prefill_micros, decode_micros)),
            ("gen_ai.latency.time_in_model_decode", seconds(decode_micros, sending_micros)),
            ("gen_ai.latency.e2e", Some(Number(request.age_micros as f64 / 1e6))),
        ];
        attributes.extend(latencies.into_iter().filter_map(|(name, value)| Some((name, value?))));
        for (name, micros) in [("queued", queued_micros), ("prefill", prefill_micros), ("decode", decode_micros)] {
            events.extend(micros.map(|micros| SpanEvent { name, at_nanos: seed.began_nanos + 1_000 * micros }));
        }
    }
    let is_error = seed.status >= 500;
    if is_error {
        attributes.push(("error.type", Text(seed.status.to_string())));
    }
    Span {
        trace_id: seed.trace.trace_id.clone(),
        span_id: seed.trace.span_id.clone(),
        parent_id: seed.trace.parent_id.clone(),
        name: format!("{} {model}", seed.operation),
        began_nanos: seed.began_nanos,
        ended_nanos: seed.ended_nanos,
        attributes,
        events,
        is_error,
    }
}
