//! The search for settings of a profile that meet targets.
//!
//! One setting after another is tried at a few values with the others as they are, and stays at its
//! best; round after round, until none gets better. That finds a good profile, not the best one.

use super::demand::OfferedLoad;
use super::fleet::{FleetOptions, run};
use super::report::CapacityReport;
use crate::load::Quantiles;
use crate::profile::Profile;

/// Rounds over all settings, at most.
const ROUNDS_MAX: usize = 3;
/// More throughput than so much counts as more.
const MORE: f64 = 1.001;

/// The settings, and what is tried.
const CANDIDATES: [(&str, &[i64]); 7] = [
    ("running_max_count", &[4, 8, 16, 32, 64, 128, 256, 512, 1_024]),
    ("token_budget_tokens", &[64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192]),
    ("prefill_slice_tokens", &[64, 128, 256, 512, 1_024, 2_048, 4_096]),
    ("prefill_window_ms", &[0, 2, 5, 10, 25, 50]),
    ("decode_window_ms", &[0, 2, 5, 10]),
    ("growth_reserve_percent", &[0, 10, 25, 50, 100]),
    ("itl_target_ms", &[0, 5, 10, 20, 50, 100]),
];

/// A bound for a quantile of a latency.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TuneTarget {
    figure: &'static str,
    quantile: &'static str,
    most_ms: f64,
}

impl TuneTarget {
    /// What can be bounded.
    pub const FIGURES: [&'static str; 4] = ["ttft", "itl", "tpot", "e2e"];
    /// And at which quantile.
    pub const QUANTILES: [&'static str; 4] = ["p50", "p90", "p95", "p99"];

    /// Reads `ttft-p99=500`: at most 500 ms. `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (name, most) = text.trim().split_once('=')?;
        let (figure, quantile) = name.split_once('-')?;
        let of = |known: [&'static str; 4], text: &str| known.into_iter().find(|known| *known == text);
        let most_ms = most.parse().ok().filter(|most| *most > 0.0 && *most < 1e9)?;
        Some(Self { figure: of(Self::FIGURES, figure)?, quantile: of(Self::QUANTILES, quantile)?, most_ms })
    }

    /// The figure, in milliseconds; `None` if nothing has it.
    fn found(&self, report: &CapacityReport) -> Option<f64> {
        let Quantiles { p50, p90, p95, p99, .. } = match self.figure {
            "ttft" => report.ttft,
            "itl" => report.itl,
            "tpot" => report.tpot,
            _ => report.e2e,
        }?;
        Some(match self.quantile {
            "p50" => p50,
            "p90" => p90,
            "p95" => p95,
            _ => p99,
        })
    }
}

/// What the search found.
#[derive(Debug, Clone)]
pub struct Tuned {
    /// The profile.
    pub profile: Profile,
    /// What the fleet does with it.
    pub report: CapacityReport,
    /// Profiles that were tried.
    pub tried: usize,
    /// How far it is from the target that it meets worst: met at 1 and below.
    pub worst_ratio: f64,
}

/// Searches from the profile of `options` on.
///
/// # Panics
/// If there is no target.
#[must_use]
pub fn tune(demand: &OfferedLoad, options: &FleetOptions, targets: &[TuneTarget]) -> Tuned {
    assert!(!targets.is_empty(), "a search for nothing");
    let mut search = Search { demand, options, targets, tried: 0 };
    let mut best = search.look(options.profile.clone());
    for _ in 0..ROUNDS_MAX {
        let before = best.profile.clone();
        for (key, values) in CANDIDATES {
            for value in values {
                let Some(profile) = with(&best.profile, key, *value) else { continue };
                let found = search.look(profile);
                if is_better(&found, &best) {
                    best = found;
                }
            }
        }
        if best.profile == before {
            break;
        }
    }
    Tuned { tried: search.tried, ..best }
}

/// The profile with another value of a setting; `None` if nothing changes, or it contradicts
/// itself.
fn with(profile: &Profile, key: &str, value: i64) -> Option<Profile> {
    let set = |profile: &Profile, key: &str, value| profile.overlaid("batch", key, toml::Value::Integer(value)).ok();
    let mut changed = set(profile, key, value)?;
    // A step that gets smaller takes slices along.
    let budget = i64::try_from(changed.batch.token_budget_tokens.get()).ok()?;
    if key == "token_budget_tokens" && changed.batch.prefill_slice_tokens.get() > changed.batch.token_budget_tokens.get() {
        changed = set(&changed, "prefill_slice_tokens", budget)?;
    }
    (changed != *profile && changed.check().is_ok()).then_some(changed)
}

struct Search<'a> {
    demand: &'a OfferedLoad,
    options: &'a FleetOptions,
    targets: &'a [TuneTarget],
    tried: usize,
}

impl Search<'_> {
    fn look(&mut self, profile: Profile) -> Tuned {
        self.tried += 1;
        let report = run(self.demand, &FleetOptions { profile: profile.clone(), ..self.options.clone() });
        let ratio = |target: &TuneTarget| target.found(&report).map_or(f64::INFINITY, |found| found / target.most_ms);
        let worst = self.targets.iter().map(ratio).fold(0.0, f64::max);
        // A request that is not answered is in no quantile: those that are count for it.
        let unanswered = report.counts.arrived as f64 / report.counts.completed.max(1) as f64;
        Tuned { profile, tried: 0, worst_ratio: if unanswered > 1.0 { worst.max(1.0) * unanswered } else { worst }, report }
    }
}

/// Whether one meets the targets and the other does not, or misses them by less; of two that meet
/// them the one with more tokens a second, then the one that is done sooner.
fn is_better(one: &Tuned, other: &Tuned) -> bool {
    let misses = |tuned: &Tuned| tuned.worst_ratio.max(1.0);
    if misses(one) != misses(other) {
        return misses(one) < misses(other);
    }
    let (own, others) = (one.report.output_tokens_per_s, other.report.output_tokens_per_s);
    if own > MORE * others || others > MORE * own {
        return own > others;
    }
    let mean = |tuned: &Tuned| tuned.report.e2e.map_or(f64::INFINITY, |e2e| e2e.mean);
    mean(one) < mean(other) / MORE
}

#[cfg(test)]
mod tests {
    use super::super::tests::{made_up, options};
    use super::super::{TokenRange, TraceRequest};
    use super::*;
    use crate::load::Arrivals;

    #[test]
    fn targets_are_read() {
        let target = TuneTarget::parse("ttft-p99=500").expect("a target");
        assert_eq!(target, TuneTarget { figure: "ttft", quantile: "p99", most_ms: 500.0 });
        for wrong in ["ttft=500", "ttft-p98=500", "ttfb-p99=500", "ttft-p99", "ttft-p99=0", "ttft-p99=-1", "ttft-p99=soon", ""]
        {
            assert_eq!(TuneTarget::parse(wrong), None, "{wrong}");
        }
    }

    /// Long prompts hold up those that decode for a whole slice: small slices meet a bound on the
    /// gaps that large ones miss.
    #[test]
    fn a_bound_on_gaps_is_met_by_smaller_slices() {
        let mut fleet = options([5_000.0, 60.0, 10.0, 0.0, 0.0], &[("prefill_slice_tokens", 1_024)]);
        fleet.kv_bytes = Some(1 << 27);
        let arrivals = Arrivals::Poisson { rate: 8.0 };
        let load = made_up(arrivals, 24, TokenRange { from: 400, to: 800 }, TokenRange { from: 10, to: 20 });
        let (demand, targets) = (OfferedLoad::MadeUp(load), [TuneTarget::parse("itl-p99=20").expect("a target")]);
        let before = run(&demand, &fleet).itl.expect("gaps").p99;
        assert!(before > 30.0, "{before}");
        let tuned = tune(&demand, &fleet, &targets);
        assert!(tuned.worst_ratio <= 1.0 && tuned.report.itl.expect("gaps").p99 <= 20.0, "{tuned:?}");
        assert!(tuned.profile.batch.prefill_slice_tokens.get() <= 256 && tuned.tried > 20, "{:?}", tuned.profile);
        assert_eq!(tuned.report, run(&demand, &FleetOptions { profile: tuned.profile, ..fleet }));
    }

    #[test]
    fn targets_that_nothing_meets_are_missed_by_as_little_as_can_be() {
        let fleet = options([100_000.0, 0.0, 0.0, 0.0, 0.0], &[]);
        let requests = (0..3).map(|at| TraceRequest { at_micros: at, prompt_tokens: 5, output_tokens: 2, session: None });
        let tuned = tune(&OfferedLoad::Trace(requests.collect()), &fleet, &[TuneTarget::parse("itl-p50=1").expect("a target")]);
        assert!((tuned.worst_ratio - 100.0).abs() < 1.0, "{}", tuned.worst_ratio);
    }
}
