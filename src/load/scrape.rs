//! The server's own figures, read from its `/metrics` while it is under load.

use crate::client::{Client, Request};

/// What a server says of itself at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Scraped {
    /// Sequences in the batch.
    pub(super) running: Option<f64>,
    /// Requests in the queue.
    pub(super) waiting: Option<f64>,
    /// Share of the KV memory in use, 0 to 1.
    pub(super) kv: Option<f64>,
}

const RUNNING: [&str; 3] = ["vllm:num_requests_running", "sglang:num_running_reqs", "llamacpp:requests_processing"];
const WAITING: [&str; 3] = ["vllm:num_requests_waiting", "sglang:num_queue_reqs", "llamacpp:requests_deferred"];
const KV: [&str; 3] = ["vllm:kv_cache_usage_perc", "sglang:token_usage", "llamacpp:kv_cache_usage_ratio"];

/// Asks a server; nothing if it has no `/metrics`.
pub(super) async fn scrape(client: &Client) -> Option<Scraped> {
    let page = client.call(&Request::get("/metrics")).await.ok()?.success().ok()?.text();
    Some(read(&page))
}

fn read(page: &str) -> Scraped {
    Scraped { running: sum(page, &RUNNING), waiting: sum(page, &WAITING), kv: sum(page, &KV) }
}

/// The sum over all labels of the first of these that the page has.
fn sum(page: &str, names: &[&str]) -> Option<f64> {
    let value = |line: &str, name: &str| {
        let rest = line.strip_prefix(name)?;
        let rest = if rest.starts_with('{') { rest.rsplit_once('}')?.1 } else { rest };
        rest.strip_prefix(' ')?.split(' ').next()?.parse::<f64>().ok()
    };
    names.iter().find_map(|name| {
        let values: Vec<f64> = page.lines().filter_map(|line| value(line, name)).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_under_the_names_of_several_servers() {
        let page = "# HELP vllm:num_requests_running x\nvllm:num_requests_running{engine=\"0\"} 3.0\nvllm:num_requests_running{engine=\"1\"} 4\n\
                    sglang:num_queue_reqs{a=\"}\"} 2\nvllm:kv_cache_usage_perc 0.5 1700000000\nvllm:num_requests_waiting_total 9\n";
        assert_eq!(read(page), Scraped { running: Some(7.0), waiting: Some(2.0), kv: Some(0.5) });
        assert_eq!(read("nothing"), Scraped::default());
    }
}
