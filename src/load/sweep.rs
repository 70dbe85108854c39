//! Rate after rate: where the server stops keeping up, and up to which rate the targets are met.

use super::drive::drive;
use super::options::{Arrivals, LoadOptions, SweepOptions};
use super::prompts::Prompts;
use super::record::Record;
use super::report::{Run, SweepFinding};
use crate::client::Client;

/// A server keeps up if it completes this share of what is sent to it.
const KEPT_UP_SHARE: f64 = 0.9;

/// Drives rate after rate: doubling until one is not met, then between the last two.
///
/// The figures of each, all requests, and the finding.
pub async fn sweep(
    client: &Client,
    options: &LoadOptions,
    sweep: &SweepOptions,
    prompts: &Prompts,
) -> (Vec<Run>, Vec<Record>, SweepFinding) {
    let (mut runs, mut records): (Vec<Run>, Vec<Record>) = (Vec::new(), Vec::new());
    let (mut rate, mut met, mut failed) = (sweep.from_rate, None::<f64>, None::<f64>);
    while runs.len() < sweep.stages_max {
        let arrivals = match options.arrivals {
            Arrivals::Constant { .. } => Arrivals::Constant { rate },
            _ => Arrivals::Poisson { rate },
        };
        let stage = LoadOptions { arrivals, warmup: if runs.is_empty() { options.warmup } else { 0 }, ..options.clone() };
        let (run, more) = Box::pin(drive(client, &stage, prompts)).await;
        let good = keeps_up(&run) && meets(&run);
        let broken = run.partial.is_some();
        runs.push(run);
        records.extend(more);
        if broken {
            break;
        }
        if good {
            met = Some(rate);
        } else {
            failed = Some(rate);
        }
        rate = match (met, failed) {
            // Within a tenth there is nothing left to learn.
            (Some(met), Some(failed)) if failed / met < 1.1 => break,
            (Some(met), Some(failed)) => (met * failed).sqrt(),
            (Some(met), None) => met * 2.0,
            (None, _) => rate / 4.0,
        };
    }
    let finding = find(&runs);
    (runs, records, finding)
}

fn keeps_up(run: &Run) -> bool {
    // Requests that are under way at the end of a stage are waited for, which must not count against the server: only time in
    // which more is sent does.
    let offered = run.arrivals.rate().unwrap_or(f64::INFINITY);
    let answers = run.latencies.e2e.map_or(0.0, |e2e| e2e.p50 / 1e3);
    let sending_s = (run.wall_s - answers).max(1e-3);
    let sent_s = run.counts.sent as f64 / offered;
    run.counts.failed == 0 && run.counts.refused == 0 && sending_s * KEPT_UP_SHARE <= sent_s.max(1.0)
}

fn meets(run: &Run) -> bool {
    run.good_share.is_none_or(|share| share >= run.targets.share)
}

/// The highest rates below the lowest one that failed.
fn find(runs: &[Run]) -> SweepFinding {
    let highest = |holds: fn(&Run) -> bool| {
        let rated = || runs.iter().filter_map(|run| Some((run.arrivals.rate()?, holds(run))));
        let lowest_bad = rated().filter(|(_, good)| !good).map(|(rate, _)| rate).fold(f64::INFINITY, f64::min);
        rated().filter(|(rate, good)| *good && *rate < lowest_bad).map(|(rate, _)| rate).reduce(f64::max)
    };
    SweepFinding { met_rate: highest(|run| keeps_up(run) && meets(run)), knee_rate: highest(keeps_up) }
}
