//! What a load consists of.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::client::Api;

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// So many users; each asks again when it has its answer.
    Closed {
        /// Users.
        concurrency: usize,
    },
    /// At random moments, whatever the server does.
    Poisson {
        /// Requests a second.
        rate: f64,
    },
    /// Evenly spaced, whatever the server does.
    Constant {
        /// Requests a second.
        rate: f64,
    },
    /// Many at once, again and again.
    Bursts {
        /// Requests of a burst.
        count: usize,
        /// From one burst to the next.
        every_s: f64,
    },
}

impl Arrivals {
    /// Requests a second that are meant to be sent, if that does not depend on the server.
    #[must_use]
    pub fn rate(self) -> Option<f64> {
        match self {
            Self::Closed { .. } => None,
            Self::Poisson { rate } | Self::Constant { rate } => Some(rate),
            Self::Bursts { count, every_s } => Some(count as f64 / every_s),
        }
    }
}

impl std::fmt::Display for Arrivals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed { concurrency } => write!(f, "closed loop, {concurrency} at once"),
            Self::Poisson { rate } => write!(f, "open loop, {}, Poisson", rate_text(*rate)),
            Self::Constant { rate } => write!(f, "open loop, {}, constant", rate_text(*rate)),
            Self::Bursts { count, every_s } => write!(f, "bursts of {count} every {every_s} s"),
        }
    }
}

/// A rate as people write it: as many digits as it has, three behind the point at most.
pub(super) fn rate_text(rate: f64) -> String {
    format!("{} requests/s", (rate * 1e3).round() / 1e3)
}

/// What a request must meet to count as good.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct GoodputTargets {
    /// Most milliseconds to the first token.
    pub ttft_ms: Option<f64>,
    /// Most milliseconds a token after the first.
    pub tpot_ms: Option<f64>,
    /// Most milliseconds to the end.
    pub e2e_ms: Option<f64>,
    /// Which share of the requests must be good for a rate to be met.
    pub share: f64,
}

/// How a sweep goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SweepOptions {
    /// The first rate; each next one is twice as high until one fails.
    pub from_rate: f64,
    /// Rates tried at most.
    pub stages_max: usize,
}

/// A load.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The route that is asked.
    pub api: Api,
    /// The model that is asked for.
    pub model: String,
    /// When requests are sent.
    pub arrivals: Arrivals,
    /// Conversations at most.
    pub requests_max: Option<usize>,
    /// No request starts after this.
    pub duration: Option<Duration>,
    /// Tokens of an answer at most.
    pub output_tokens: u32,
    /// And at least: each answer is asked for with a limit between the two, by the seed.
    pub output_tokens_min: u32,
    /// Ask for exactly as many tokens, where the server knows how (`ignore_eos`).
    pub ignore_eos: bool,
    /// The temperature.
    pub temperature: f64,
    /// Fields that every request has besides, such as `response_format`.
    pub extra_body: serde_json::Map<String, serde_json::Value>,
    /// Requests of a conversation, each with the history of those before.
    pub turns: usize,
    /// The share of requests whose client leaves at a random moment.
    pub disconnect_rate: f64,
    /// The share of requests that are cancelled by `POST /cancel` at a random moment.
    pub abort_rate: f64,
    /// How long an answer may take.
    pub answer_max: Duration,
    /// Requests that are sent before, and not counted.
    pub warmup: usize,
    /// What makes a request good.
    pub targets: GoodputTargets,
    /// What every random choice comes from.
    pub seed: u64,
    /// Whether a bar on standard error shows how it goes.
    pub progress: bool,
    /// After how many failures in a row, with nothing that went well between them, the load is
    /// broken off.
    pub failures_max: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_rate_has_no_digits_behind_the_point() {
        let texts = [60.0, 5.946_035, 0.25].map(rate_text);
        assert_eq!(texts, ["60 requests/s", "5.946 requests/s", "0.25 requests/s"]);
        assert_eq!(Arrivals::Poisson { rate: 60.0 }.to_string(), "open loop, 60 requests/s, Poisson");
    }
}
