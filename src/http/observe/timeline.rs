//! `/debug/timeline`: the last steps and requests as a trace for Perfetto and `chrome://tracing`.
//!
//! Source: "Trace Event Format", the JSON object form: complete events (`X`) with a beginning and a
//! length, counters (`C`), instants (`i`) and names of tracks (`M`); times in microseconds, here
//! since the server's clock began. No prompt, no answer, no key, no session's name.

use serde::Serialize;
use serde_json::{Value, json};

use crate::actors::snapshot::{FirstTextParts, LiveRequest, StepTrace, Timeline};
use crate::http::observe::ObservedState;
use crate::http::observe::console::outcome_name;

/// The tracks: steps in one process, requests in another, a thread each.
const ENGINE: u64 = 1;
const REQUESTS: u64 = 2;

/// The document.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Trace {
    display_time_unit: &'static str,
    other_data: Value,
    trace_events: Vec<TraceEvent>,
}

/// An event of a trace.
#[derive(Debug, Serialize)]
struct TraceEvent {
    name: &'static str,
    cat: &'static str,
    ph: char,
    pid: u64,
    tid: u64,
    ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<u64>,
    /// The scope of an instant.
    #[serde(skip_serializing_if = "Option::is_none")]
    s: Option<char>,
    args: Value,
}

impl TraceEvent {
    fn complete(name: &'static str, (pid, tid): (u64, u64), ts: u64, end: u64, args: Value) -> Self {
        Self { name, cat: "antiphon", ph: 'X', pid, tid, ts, dur: Some(end.saturating_sub(ts)), s: None, args }
    }

    fn counter(name: &'static str, ts: u64, args: Value) -> Self {
        Self { name, cat: "antiphon", ph: 'C', pid: ENGINE, tid: 0, ts, dur: None, s: None, args }
    }

    fn named(name: &'static str, (pid, tid): (u64, u64), called: &str) -> Self {
        Self { name, cat: "__metadata", ph: 'M', pid, tid, ts: 0, dur: None, s: None, args: json!({"name": called}) }
    }
}

/// The server's last steps, and its live and last requests.
pub(super) fn of(observed: &ObservedState) -> Trace {
    let live = observed.service.live_requests().into_iter().map(|request| (request, "active"));
    let ended = observed.service.recent_requests(usize::MAX).into_iter();
    let ended = ended.map(|ended| (ended.request, outcome_name(ended.outcome)));
    let mut requests: Vec<(LiveRequest, &'static str)> = ended.chain(live).collect();
    requests.sort_by_key(|(request, _)| request.timeline.received);
    trace(&observed.service.steps(), &requests)
}

fn trace(steps: &[StepTrace], requests: &[(LiveRequest, &'static str)]) -> Trace {
    let mut events = vec![
        TraceEvent::named("process_name", (ENGINE, 0), "engine"),
        TraceEvent::named("thread_name", (ENGINE, 1), "steps"),
        TraceEvent::named("process_name", (REQUESTS, 0), "requests"),
    ];
    steps.iter().for_each(|step| add_step(step, &mut events));
    for (tid, (request, outcome)) in (1..).zip(requests) {
        events.push(TraceEvent::named("thread_name", (REQUESTS, tid), &request.request_id));
        add_request(request, outcome, tid, &mut events);
    }
    let other_data = json!({"version": crate::VERSION, "steps": steps.len(), "requests": requests.len()});
    Trace { display_time_unit: "ms", other_data, trace_events: events }
}

fn add_step(step: &StepTrace, events: &mut Vec<TraceEvent>) {
    let slices: Vec<Value> = step
        .slices
        .iter()
        .map(|slice| json!({"request_id": slice.request_id, "from": slice.start, "tokens": slice.tokens}))
        .collect();
    let args = json!({
        "number": step.number,
        "planned_us": step.planned.0,
        "planned_ahead": step.is_ahead,
        "tokens": step.work.tokens(),
        "tokens_prefilled": step.work.prefill_tokens,
        "tokens_decoded": step.work.decode_sequences,
        "tokens_of_context": step.work.context_tokens,
        "pairs_prefilled": step.work.prefill_pairs,
        "tokens_drawn": step.drawn_count,
        "draft_tokens": step.draft_tokens,
        "accepted_draft_tokens": step.accepted_draft_tokens,
        "sequences_prefilling": step.prefilling_count,
        "sequences_decoding": step.decoding_count,
        "preemptions": step.preemptions_count,
        "cached_tokens": step.cached_tokens,
        "prompts": slices,
    });
    let name = if step.is_lost { "lost step" } else { "step" };
    events.push(TraceEvent::complete(name, (ENGINE, 1), step.began.0, step.ended.0, args));
    let running = step.prefilling_count + step.decoding_count;
    let sequences = json!({"running": running, "waiting": step.waiting_count});
    events.push(TraceEvent::counter("sequences", step.began.0, sequences));
    let blocks = json!({"in_use": step.blocks.in_use_count(), "cached": step.blocks.cached_count});
    events.push(TraceEvent::counter("KV blocks", step.began.0, blocks));
}

/// The phases of a request, each up to where the next begins.
fn add_request(request: &LiveRequest, outcome: &'static str, tid: u64, events: &mut Vec<TraceEvent>) {
    let Timeline { received, queued_micros, prefill_micros, decode_micros, first_text_micros, sending_micros } =
        request.timeline;
    let phases = [
        ("building", Some(0)),
        ("queued", queued_micros),
        ("prefill", prefill_micros),
        ("decode", decode_micros),
        ("sending", sending_micros),
    ];
    let reached: Vec<(&'static str, u64)> = phases.into_iter().filter_map(|(name, at)| Some((name, at?))).collect();
    let ends = reached.iter().skip(1).map(|(_, at)| *at).chain([request.age_micros]);
    for ((name, from), end) in reached.iter().zip(ends) {
        let args = match *name {
            "building" => json!({
                "request_id": request.request_id,
                "outcome": outcome,
                "prompt_tokens": request.prompt_tokens,
                "completion_tokens": request.completion_tokens,
                "draft_tokens": request.draft_tokens,
                "accepted_draft_tokens": request.accepted_draft_tokens,
                "ttft": FirstTextReasons::from(request.first_text),
            }),
            _ => json!({}),
        };
        events.push(TraceEvent::complete(name, (REQUESTS, tid), received.plus(*from).0, received.plus(end).0, args));
    }
    if let Some(at) = first_text_micros {
        let (name, cat, args) = ("first text", "antiphon", json!({}));
        let ts = received.plus(at).0;
        events.push(TraceEvent { name, cat, ph: 'i', pid: REQUESTS, tid, ts, dur: None, s: Some('t'), args });
    }
}

/// Where the time to the first text went, in milliseconds; the sum is that time, or the request's
/// age while there is no text.
#[derive(Debug, Serialize)]
pub(super) struct FirstTextReasons {
    building_ms: f64,
    queued_ms: f64,
    window_ms: f64,
    prefill_ms: f64,
    cache_miss_ms: f64,
    preempted_ms: f64,
    decode_ms: f64,
    prefill_slices: u32,
    cached_tokens: u64,
}

impl From<FirstTextParts> for FirstTextReasons {
    fn from(parts: FirstTextParts) -> Self {
        let millis = |micros: u64| micros as f64 / 1e3;
        Self {
            building_ms: millis(parts.building_micros),
            queued_ms: millis(parts.queued_micros),
            window_ms: millis(parts.window_micros),
            prefill_ms: millis(parts.prefill_micros),
            cache_miss_ms: millis(parts.cache_miss_micros),
            preempted_ms: millis(parts.preempted_micros),
            decode_ms: millis(parts.decode_micros),
            prefill_slices: parts.slices_count,
            cached_tokens: parts.cached_tokens,
        }
    }
}
