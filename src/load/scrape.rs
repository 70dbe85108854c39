//! The server's own figures, read from its `/metrics` while it is under load.

use crate::client::{Client, Request};

/// What a server says of itself at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Scraped {
    /// Sequences in the batch.
    pub(super) running: Option<f64>,
    /// Requests in the queue.
    pub(super) waiting: Option<f64>,
    /// Share of the KV memory in use, 0 to 1; of antiphon's groups the fuller one.
    pub(super) kv: Option<f64>,
}

/// Ours first, then those that other servers have.
const RUNNING: [&str; 4] =
    ["antiphon_sequences_running", "vllm:num_requests_running", "sglang:num_running_reqs", "llamacpp:requests_processing"];
const WAITING: [&str; 4] =
    ["antiphon_sequences_waiting", "vllm:num_requests_waiting", "sglang:num_queue_reqs", "llamacpp:requests_deferred"];
const KV: [&str; 4] =
    ["antiphon_kv_usage_ratio", "vllm:kv_cache_usage_perc", "sglang:token_usage", "llamacpp:kv_cache_usage_ratio"];

/// Asks a server; nothing if it has no `/metrics`.
pub(super) async fn scrape(client: &Client) -> Option<Scraped> {
    let page = client.call(&Request::get("/metrics")).await.ok()?.success().ok()?.text();
    Some(read(&page))
}

fn read(page: &str) -> Scraped {
    let sum = |names: &[&str]| found(page, names).map(|values| values.iter().sum());
    // Of antiphon's groups the fuller one makes sequences wait; a share of several engines is their
    // mean.
    let fuller = found(page, &KV[..1]).and_then(|values| values.into_iter().reduce(f64::max));
    let kv = fuller.or_else(|| found(page, &KV[1..]).map(|values| values.iter().sum::<f64>() / values.len() as f64));
    Scraped { running: sum(&RUNNING), waiting: sum(&WAITING), kv }
}

/// The values, over all labels, of the first of these that the page has.
fn found(page: &str, names: &[&str]) -> Option<Vec<f64>> {
    let value = |line: &str, name: &str| {
        let rest = line.strip_prefix(name)?;
        let rest = if rest.starts_with('{') { rest.rsplit_once('}')?.1 } else { rest };
        rest.strip_prefix(' ')?.split(' ').next()?.parse::<f64>().ok()
    };
    names.iter().find_map(|name| {
        let values: Vec<f64> = page.lines().filter_map(|line| value(line, name)).collect();
        (!values.is_empty()).then_some(values)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_under_the_names_of_several_servers() {
        let page = "# HELP vllm:num_requests_running x\nvllm:num_requests_running{engine=\"0\"} 3.0\nvllm:num_requests_running{engine=\"1\"} 4\n\
                    sglang:num_queue_reqs{a=\"}\"} 2\nvllm:kv_cache_usage_perc{engine=\"0\"} 0.75 1700000000\nvllm:kv_cache_usage_perc{engine=\"1\"} 0.25\nvllm:num_requests_waiting_total 9\n";
        assert_eq!(read(page), Scraped { running: Some(7.0), waiting: Some(2.0), kv: Some(0.5) });
        let ours = "antiphon_sequences_running 2\nvllm:num_requests_running{engine=\"0\"} 2\nantiphon_sequences_waiting 1\n\
                    antiphon_kv_usage_ratio{group=\"full\"} 0.125\nantiphon_kv_usage_ratio{group=\"sliding\"} 0.5\n";
        assert_eq!(read(ours), Scraped { running: Some(2.0), waiting: Some(1.0), kv: Some(0.5) });
        assert_eq!(read("nothing"), Scraped::default());
    }
}
