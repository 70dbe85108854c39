//! Rate after rate: where the server stops keeping up, and up to which rate the targets are met.

use super::drive::drive;
use super::options::{Arrivals, LoadOptions, SweepOptions};
use super::prompts::Prompts;
use super::record::Record;
use super::report::{LoadRun, SweepFinding};
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
) -> (Vec<LoadRun>, Vec<Record>, SweepFinding) {
    let (mut runs, mut records): (Vec<LoadRun>, Vec<Record>) = (Vec::new(), Vec::new());
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

fn keeps_up(run: &LoadRun) -> bool {
    // Requests that are under way at the end of a stage are waited for, which must not count
    // against the server: only time in which more is sent does.
    let offered = run.arrivals.rate().unwrap_or(f64::INFINITY);
    let answers = run.latencies.e2e.map_or(0.0, |e2e| e2e.p50 / 1e3);
    let sending_s = (run.wall_s - answers).max(1e-3);
    let sent_s = run.counts.sent as f64 / offered;
    run.counts.failed == 0 && run.counts.refused == 0 && sending_s * KEPT_UP_SHARE <= sent_s.max(1.0)
}

fn meets(run: &LoadRun) -> bool {
    run.good_share.is_none_or(|share| share >= run.targets.share)
}

/// The highest rates below the lowest one that failed.
fn find(runs: &[LoadRun]) -> SweepFinding {
    let highest = |holds: fn(&LoadRun) -> bool| {
        let rated = || runs.iter().filter_map(|run| Some((run.arrivals.rate()?, holds(run))));
        let lowest_bad = rated().filter(|(_, good)| !good).map(|(rate, _)| rate).fold(f64::INFINITY, f64::min);
        rated().filter(|(rate, good)| *good && *rate < lowest_bad).map(|(rate, _)| rate).reduce(f64::max)
    };
    SweepFinding { met_rate: highest(|run| keeps_up(run) && meets(run)), knee_rate: highest(keeps_up) }
}

#[cfg(test)]
mod tests {
    use super::super::made_up::{answered, run, unanswered};
    use super::super::options::GoodputTargets;
    use super::super::record::AttemptOutcome;
    use super::*;

    /// A stage of 20 requests, each answered in 200 ms: the last was sent `sending_s` after the
    /// first.
    fn stage(rate: f64, sending_s: f64) -> LoadRun {
        let records: Vec<Record> = (0..20).map(|index| answered(index, 100.0, 10.0)).collect();
        run(&records, sending_s + 0.2, Arrivals::Constant { rate }, GoodputTargets::default())
    }

    /// A stage that the server kept up with, or not, and that met its targets, or not.
    fn of(rate: f64, keeps_up: bool, meets: bool) -> LoadRun {
        let ttft_ms = Some(if meets { 100.0 } else { 99.0 });
        let records: Vec<Record> = (0..20).map(|index| answered(index, 100.0, 10.0)).collect();
        let took_s = 20.0 / rate + if keeps_up { 0.2 } else { 60.0 };
        run(&records, took_s, Arrivals::Poisson { rate }, GoodputTargets { ttft_ms, share: 0.95, ..GoodputTargets::default() })
    }

    #[test]
    fn a_server_keeps_up_if_what_is_sent_in_a_time_is_answered_in_it() {
        // Two seconds' worth: nine tenths of the time of sending may not be more.
        assert!(keeps_up(&stage(10.0, 2.0)) && keeps_up(&stage(10.0, 2.2)));
        assert!(!keeps_up(&stage(10.0, 2.25)) && !keeps_up(&stage(10.0, 9.0)));
        // A stage of less than a second is too short to tell.
        assert!(keeps_up(&stage(100.0, 1.0)) && !keeps_up(&stage(100.0, 1.2)));
        for outcome in [AttemptOutcome::Refused, AttemptOutcome::Failed] {
            let mut records: Vec<Record> = (0..19).map(|index| answered(index, 100.0, 10.0)).collect();
            records.push(unanswered(19, outcome, None));
            assert!(
                !keeps_up(&run(&records, 2.2, Arrivals::Constant { rate: 10.0 }, GoodputTargets::default())),
                "{outcome:?}"
            );
        }
    }

    #[test]
    fn a_stage_meets_its_targets_if_the_share_of_its_requests_does() {
        let of = |good: usize, share: f64| {
            let records: Vec<Record> =
                (0..20).map(|index| answered(index, if index < good { 50.0 } else { 150.0 }, 10.0)).collect();
            let targets = GoodputTargets { ttft_ms: Some(100.0), share, ..GoodputTargets::default() };
            meets(&run(&records, 2.0, Arrivals::Constant { rate: 10.0 }, targets))
        };
        assert!(of(19, 0.95) && !of(18, 0.95) && of(18, 0.9) && of(20, 1.0) && !of(19, 1.0));
        assert!(meets(&stage(10.0, 60.0)), "without targets all are met");
    }

    #[test]
    fn a_lucky_stage_above_one_that_failed_is_not_the_answer() {
        let met = |stages: &[(f64, bool)]| {
            find(&stages.iter().map(|(rate, good)| of(*rate, true, *good)).collect::<Vec<_>>()).met_rate
        };
        assert_eq!(met(&[(1.0, true), (2.0, true), (4.0, false), (2.8, true)]), Some(2.8));
        assert_eq!(met(&[(1.0, true), (2.0, false), (4.0, true)]), Some(1.0));
        assert_eq!(met(&[(4.0, true), (2.0, false), (1.0, true)]), Some(1.0), "whatever the order");
        assert_eq!(met(&[(2.0, false), (4.0, true)]), None);
        assert_eq!(met(&[(1.0, true), (2.0, true)]), Some(2.0), "as far as was tried");
        assert_eq!(met(&[(2.0, true), (2.0, false)]), None, "a rate that failed once is not met");
        assert_eq!(met(&[]), None);
    }

    #[test]
    fn the_knee_is_where_the_server_keeps_up_no_more_whatever_the_targets() {
        let found = find(&[of(1.0, true, true), of(2.0, true, false), of(4.0, true, false), of(8.0, false, false)]);
        assert_eq!((found.met_rate, found.knee_rate), (Some(1.0), Some(4.0)));
        // A server that does not keep up has not met the targets, however few it answered well.
        let found = find(&[of(1.0, true, true), of(2.0, false, true)]);
        assert_eq!((found.met_rate, found.knee_rate), (Some(1.0), Some(1.0)));
    }
}
