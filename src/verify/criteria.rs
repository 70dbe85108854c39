//! What is enough: the plan's numbers, each of which can be set.

use serde::Serialize;

/// From the least to the most that is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Range {
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
}

impl Range {
    /// Reads `3..5`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (least, most) = text.split_once("..")?;
        let (least, most) = (least.trim().parse().ok()?, most.trim().parse().ok()?);
        (least <= most && least >= 0.0).then_some(Self { least, most })
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}..{}", self.least, self.most)
    }
}

/// The numbers that a server must meet.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Criteria {
    /// Chunks of the answer in the streaming suite.
    pub chunks: Range,
    /// Seconds from its first to its last byte, the wait for the first included.
    pub stream_seconds: Range,
    /// Chunks a second, at least.
    pub chunks_per_second_min: f64,
    /// Characters of a chunk, on average.
    pub chunk_chars: Range,
    /// Share of large chunks, at least.
    pub buffer_efficiency_min: f64,
    /// From so many characters on a chunk is large.
    pub large_chunk_chars: usize,
    /// Milliseconds between two chunks that the reader takes; `None` lets it take what comes.
    pub pace_ms: Option<u64>,
    /// 95th percentile of the time to the first token.
    pub ttft_p95_ms: f64,
    /// 95th percentile of the time to the whole answer.
    pub e2e_p95_ms: f64,
    /// Share of requests that may fail; the plan asks for less than this.
    pub error_rate_max: f64,
    /// Share of prompts that must be found built.
    pub hit_rate_min: f64,
    /// How long a cancelled response may hold anything.
    pub cancel_max_ms: f64,
    /// Growth of memory that is still called none: the upper bound of the slope's 95 % confidence
    /// interval.
    pub leak_max_kib_per_minute: f64,
    /// How long memory is watched.
    pub leak_seconds: u64,
    /// Requests of the performance test; `None`: 24 in `quick`, 200 in `full`.
    pub requests: Option<usize>,
    /// Clients of the performance test and of the load tests.
    pub concurrency: usize,
}

impl Default for Criteria {
    fn default() -> Self {
        Self {
            chunks: Range { least: 50.0, most: 100.0 },
            stream_seconds: Range { least: 3.0, most: 5.0 },
            chunks_per_second_min: 10.0,
            chunk_chars: Range { least: 1.0, most: 50.0 },
            buffer_efficiency_min: 0.2,
            large_chunk_chars: 5,
            pace_ms: Some(55),
            ttft_p95_ms: 7_000.0,
            e2e_p95_ms: 20_000.0,
            error_rate_max: 0.005,
            hit_rate_min: 0.3,
            cancel_max_ms: 500.0,
            leak_max_kib_per_minute: 64.0,
            leak_seconds: 600,
            requests: None,
            concurrency: 5,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_they_are_shown() {
        for text in ["3..5", "0.5..5", "50..100"] {
            assert_eq!(Range::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "3", "5..3", "-1..2", "a..b", "3..NaN"] {
            assert_eq!(Range::parse(text), None, "{text}");
        }
    }
}
