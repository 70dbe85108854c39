//! The tests, by suite.

mod checklist;
mod clients;
mod latency;
mod leak;
mod load;
mod prompts;
mod service;
mod streaming;
mod streams;
mod tags;

use super::case::{Case, Suite};

macro_rules! case {
    ($suite:ident, $id:literal, $name:literal, $test:path) => {
        Case {
            suite: Suite::$suite,
            id: $id,
            name: $name,
            full_only: false,
            run: |bench, checks| Box::pin($test(bench, checks)),
        }
    };
}

/// Every test, in the order of the run; what stops its server comes last.
pub(super) fn all() -> Vec<Case> {
    vec![
        case!(Checklist, "MC-1", "the server starts", checklist::starts),
        case!(Checklist, "MC-2", "health", checklist::health),
        case!(Checklist, "MC-3", "a simple request", checklist::simple),
        case!(Checklist, "MC-4", "a stream", checklist::stream),
        case!(Checklist, "MC-5", "closing a browser's tab", checklist::tab),
        case!(Checklist, "MC-6", "cancelling a long answer", checklist::cancel),
        case!(Checklist, "MC-7", "errors can be read", checklist::errors),
        case!(Checklist, "MC-8", "the server drains and stops", checklist::stops),
        case!(Prompts, "PF01-1", "same input, same cache_key and same tokens", prompts::deterministic),
        case!(Prompts, "PF01-2", "prompt_version in the metadata", prompts::version),
        case!(Prompts, "PF01-3", "cache hit rate over repeated requests", prompts::hit_rate),
        case!(Prompts, "PF01-4", "hits and misses are counted right", prompts::counts),
        case!(Streams, "ST01-1", "start, token, done in that order", streams::order),
        case!(Streams, "ST01-2", "format valid to the byte", streams::bytes),
        case!(Streams, "ST01-3", "connection closed in mid-stream", streams::closed),
        case!(Streams, "ST01-4", "POST /cancel/{id} in mid-stream", streams::cancelled),
        case!(Streams, "ST01-5", "tab closed in mid-stream", streams::tabs),
        case!(Streams, "ST01-6", "no memory growth over 200 cancelled streams", streams::memory),
        case!(Streams, "ST01-7", "a long answer cancelled half-way", streams::half_way),
        case!(Clients, "CL-1", "text_offset counts characters", clients::offsets),
        case!(Clients, "CL-2", "a stop string cuts text and lists alike", clients::stop),
        case!(Clients, "CL-3", "log-probabilities are the same in a stream", clients::logprobs),
        case!(Clients, "CL-4", "tool_choice none gives no calls", clients::no_calls),
        case!(Clients, "CL-5", "parallel_tool_calls false gives one call", clients::one_call),
        case!(Clients, "CL-6", "what changes an answer is obeyed or refused", clients::obeyed),
        case!(Clients, "CL-7", "an answer beyond the context is refused as such", clients::too_long),
        case!(Clients, "CL-8", "a connection that is reset frees its request", clients::reset),
        case!(Clients, "CL-9", "an offered upgrade changes nothing", clients::upgrade),
        case!(Clients, "CL-10", "a stream over HTTP/1.0", clients::old_stream),
        case!(Tags, "OBS01-1", "/health with model_id, model_size, dtype", tags::health),
        case!(Tags, "OBS01-2", "/stats with model_metrics by model", tags::stats),
        case!(Tags, "OBS01-3", "/metrics valid and labelled", tags::metrics),
        case!(Tags, "OBS01-4", "counters agree with what was done", tags::counters),
        case!(Latency, "PERF-1", "TTFT, E2E and errors under load", latency::under_load),
        case!(Load, "LOAD-1", "continuous requests", load::continuous),
        case!(Load, "LOAD-2", "stability with several clients", load::stable),
        case!(Load, "LOAD-3", "a burst", load::burst),
        case!(Load, "LOAD-4", "clients that leave beside clients that stay", load::leaving),
        Case { full_only: true, ..case!(Load, "LOAD-5", "memory leak", leak::leak) },
        case!(Streaming, "STR-1", "basic functionality", streaming::basic),
        case!(Streaming, "STR-2", "output accuracy", streaming::accuracy),
        case!(Streaming, "STR-3", "performance metrics", streaming::performance),
        case!(Streaming, "STR-4", "API endpoint", streaming::endpoint),
        case!(Streaming, "STR-5", "chunk buffering", streaming::buffering),
        case!(Streaming, "STR-6", "errors during streaming", streaming::errors),
        case!(Streaming, "STR-7", "end to end", streaming::end_to_end),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn ids_are_unique() {
        let all = super::all();
        assert_eq!(all.iter().map(|case| case.id).collect::<BTreeSet<_>>().len(), all.len());
    }
}
