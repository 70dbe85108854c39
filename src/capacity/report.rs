//! What a plan says: the figures, as JSON and as a table.

use std::fmt::Write as _;

use serde::Serialize;

use super::fleet::FleetOptions;
use super::replica::Replica;
use super::tally::Tally;
use crate::batch::Micros;
use crate::load::{GoodputTargets, Quantiles};

/// How requests ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CapacityCounts {
    /// All that came.
    pub arrived: u64,
    /// Answered to the end.
    pub completed: u64,
    /// Refused because too much waited (429).
    pub refused: u64,
    /// Refused because they can never be served: longer than the context, or than the memory.
    pub impossible: u64,
    /// Given up because they waited longer than the profile allows.
    pub timed_out: u64,
}

/// Use of the memory for keys and values in the layers that see everything, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct KvFigures {
    /// Tokens that a replica has room for.
    pub room_tokens: usize,
    /// The mean over time and replicas.
    pub mean_share: f64,
    /// The largest of any replica.
    pub max_share: f64,
}

/// What prompts found computed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PrefixFigures {
    /// Tokens of prompts that were looked up.
    pub queried_tokens: u64,
    /// Those that were found.
    pub hit_tokens: u64,
    /// The share of them, 0 to 1.
    pub hit_rate: f64,
}

/// What a fleet would do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CapacityReport {
    /// The version of antiphon that said so.
    pub version: &'static str,
    /// The cost model.
    pub cost_model: String,
    /// Whether its figures are an estimate or a fit.
    pub cost_kind: &'static str,
    /// The profile.
    pub profile: String,
    /// Servers.
    pub replicas: usize,
    /// How one is chosen.
    pub routing: &'static str,
    /// From the first request to the end of the last, in virtual seconds.
    pub wall_s: f64,
    /// How requests ended.
    pub counts: CapacityCounts,
    /// Milliseconds to the first token.
    pub ttft: Option<Quantiles>,
    /// Milliseconds between two tokens of an answer.
    pub itl: Option<Quantiles>,
    /// Mean milliseconds of a token after the first, an answer each.
    pub tpot: Option<Quantiles>,
    /// Milliseconds to the end.
    pub e2e: Option<Quantiles>,
    /// Tokens of prompts of completed requests.
    pub prompt_tokens: u64,
    /// Tokens of answers.
    pub output_tokens: u64,
    /// Tokens of answers a second.
    pub output_tokens_per_s: f64,
    /// Tokens of prompts and answers a second.
    pub total_tokens_per_s: f64,
    /// Completed requests a second.
    pub requests_per_s: f64,
    /// Those of them that met the targets, if there are any.
    pub goodput_per_s: Option<f64>,
    /// Their share of all that came.
    pub good_share: Option<f64>,
    /// The targets.
    pub targets: GoodputTargets,
    /// Use of KV memory.
    pub kv: KvFigures,
    /// What the prefix cache found; `None` if it is off.
    pub prefix_cache: Option<PrefixFigures>,
    /// How often a sequence gave its blocks back for want of them.
    pub preemptions: u64,
    /// Steps of all replicas.
    pub steps: u64,
    /// Sequences that decode in a step, on average.
    pub decoding_per_step: f64,
    /// The share of the time in which replicas compute, 0 to 1.
    pub busy_share: f64,
}

impl CapacityReport {
    pub(super) fn of(options: &FleetOptions, tally: Tally, replicas: &[Replica], end: Micros) -> Self {
        let sum = |value: fn(&Replica) -> f64| replicas.iter().map(value).sum::<f64>();
        let count = |value: fn(&Replica) -> u64| replicas.iter().map(value).sum::<u64>();
        let engine = options.engine_limits();
        let (span, time) = ((end.0 as f64 / 1e6).max(1e-6), (end.0.max(1) as f64) * replicas.len() as f64);
        let (steps, itl) = (count(|replica| replica.counts().steps_total), tally.itl());
        let queried_tokens = count(|replica| replica.counts().prefix_cache.queried_tokens_total);
        let hit_tokens = count(|replica| replica.counts().prefix_cache.hit_tokens_total);
        let targets = tally.targets;
        let has_targets = targets.ttft_ms.or(targets.tpot_ms).or(targets.e2e_ms).is_some();
        Self {
            version: crate::VERSION,
            cost_model: options.cost.name.clone(),
            cost_kind: options.cost.kind.name(),
            profile: options.profile.name.clone(),
            replicas: options.replicas,
            routing: options.routing.name(),
            wall_s: end.0 as f64 / 1e6,
            counts: tally.counts,
            itl,
            prompt_tokens: tally.prompt_tokens,
            output_tokens: tally.output_tokens,
            output_tokens_per_s: tally.output_tokens as f64 / span,
            total_tokens_per_s: (tally.output_tokens + tally.prompt_tokens) as f64 / span,
            requests_per_s: tally.counts.completed as f64 / span,
            goodput_per_s: has_targets.then(|| tally.good as f64 / span),
            good_share: has_targets.then(|| tally.good as f64 / tally.counts.arrived.max(1) as f64),
            targets,
            ttft: Quantiles::of(tally.ttft),
            tpot: Quantiles::of(tally.tpot),
            e2e: Quantiles::of(tally.e2e),
            kv: KvFigures {
                room_tokens: engine.global_blocks * engine.block_tokens,
                mean_share: sum(|replica| replica.sums().kv_share_micros) / time,
                max_share: replicas.iter().map(|replica| replica.sums().kv_share_max).fold(0.0, f64::max),
            },
            prefix_cache: options.prefix_cache.then(|| PrefixFigures {
                queried_tokens,
                hit_tokens,
                hit_rate: hit_tokens as f64 / queried_tokens.max(1) as f64,
            }),
            preemptions: count(|replica| replica.counts().preemptions_total),
            steps,
            decoding_per_step: count(|replica| replica.sums().decoded) as f64 / steps.max(1) as f64,
            busy_share: sum(|replica| replica.sums().busy_micros) / time,
        }
    }

    /// The report for the terminal.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        let servers =
            if self.replicas == 1 { "1 server".to_owned() } else { format!("{} servers, {}", self.replicas, self.routing) };
        let counts = &self.counts;
        let mut line = |arguments: std::fmt::Arguments<'_>| {
            writeln!(text, "{arguments}").expect("a String takes everything");
        };
        line(format_args!(
            "simulated, not measured: cost model {} ({}), profile {}, {servers}, {:.1} s of virtual time",
            self.cost_model, self.cost_kind, self.profile, self.wall_s
        ));
        line(format_args!(
            "requests: {} arrived, {} completed, {} refused (429), {} that can never be served, {} timed out",
            counts.arrived, counts.completed, counts.refused, counts.impossible, counts.timed_out
        ));
        line(format_args!(
            "throughput: {:.2} requests/s, {:.1} output tokens/s, {:.1} total tokens/s",
            self.requests_per_s, self.output_tokens_per_s, self.total_tokens_per_s
        ));
        if let (Some(goodput), Some(share)) = (self.goodput_per_s, self.good_share) {
            line(format_args!("goodput: {goodput:.2} requests/s met the targets, {:.1} %", share * 100.0));
        }
        line(format_args!(
            "KV memory: room for {} tokens, {:.1} % in use, {:.1} % at most; {} preemptions",
            self.kv.room_tokens,
            100.0 * self.kv.mean_share,
            100.0 * self.kv.max_share,
            self.preemptions
        ));
        if let Some(found) = &self.prefix_cache {
            line(format_args!(
                "prefix cache: {:.1} % of {} prompt tokens were found",
                100.0 * found.hit_rate,
                found.queried_tokens
            ));
        }
        line(format_args!(
            "steps: {}, with {:.1} sequences that decode; computing {:.1} % of the time",
            self.steps,
            self.decoding_per_step,
            100.0 * self.busy_share
        ));
        line(format_args!(
            "{:<16}{:>9}{:>11}{:>11}{:>11}{:>11}{:>11}{:>11}",
            "milliseconds", "count", "mean", "p50", "p90", "p95", "p99", "max"
        ));
        for (name, quantiles) in [("TTFT", self.ttft), ("ITL", self.itl), ("TPOT", self.tpot), ("E2E", self.e2e)] {
            let Some(q) = quantiles else { continue };
            line(format_args!(
                "{name:<16}{:>9}{:>11.2}{:>11.2}{:>11.2}{:>11.2}{:>11.2}{:>11.2}",
                q.count, q.mean, q.p50, q.p90, q.p95, q.p99, q.max
            ));
        }
        text
    }
}
