//! The report for the terminal.

use std::fmt::Write as _;

use super::options::rate_text;
use super::report::{LoadReport, LoadRun, Quantiles, TokenCount};

/// The report as text.
#[must_use]
pub fn table(report: &LoadReport) -> String {
    let mut text = String::new();
    add(&mut text, format_args!("{} at {}: {}\n", report.model, report.api, report.load));
    for run in &report.runs {
        add(&mut text, format_args!("\n{}", run_table(run)));
    }
    if let Some(found) = report.sweep {
        let rate = |rate: Option<f64>| rate.map_or_else(|| "none of those tried".to_owned(), rate_text);
        add(&mut text, format_args!("\nhighest rate that met the targets: {}\n", rate(found.met_rate)));
        add(&mut text, format_args!("knee (highest rate that the server kept up with): {}\n", rate(found.knee_rate)));
    }
    for note in &report.notes {
        add(&mut text, format_args!("note: {note}\n"));
    }
    text
}

fn add(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a String takes everything");
}

fn run_table(run: &LoadRun) -> String {
    let mut text = String::new();
    let counts = &run.counts;
    add(&mut text, format_args!("{}, {}, {:.1} s\n", run.url, run.arrivals, run.wall_s));
    if let Some(reason) = &run.partial {
        add(&mut text, format_args!("PARTIAL: {reason}\n"));
    }
    add(
        &mut text,
        format_args!(
            "requests: {} sent, {} completed, {} left, {} cancelled, {} refused (429), {} failed\n",
            counts.sent, counts.completed, counts.left, counts.cancelled, counts.refused, counts.failed
        ),
    );
    for (kind, error) in &run.errors {
        add(&mut text, format_args!("  {kind}: {}, such as: {}\n", error.count, error.example));
    }
    let tokens = if run.token_count == TokenCount::Server { "tokens" } else { "tokens (pieces of text)" };
    add(
        &mut text,
        format_args!(
            "throughput: {:.2} requests/s, {:.1} output {tokens}/s, {:.1} total tokens/s\n",
            run.requests_per_s, run.output_tokens_per_s, run.total_tokens_per_s
        ),
    );
    if let (Some(goodput), Some(share)) = (run.goodput_per_s, run.good_share) {
        add(&mut text, format_args!("goodput: {goodput:.2} requests/s met the targets, {:.1} %\n", share * 100.0));
    }
    add(
        &mut text,
        format_args!(
            "{:<16}{:>9}{:>11}{:>11}{:>11}{:>11}{:>11}{:>11}\n",
            "milliseconds", "count", "mean", "p50", "p90", "p95", "p99", "max"
        ),
    );
    for (name, quantiles) in rows(run) {
        let Some(q) = quantiles else { continue };
        add(
            &mut text,
            format_args!(
                "{name:<16}{:>9}{:>11.2}{:>11.2}{:>11.2}{:>11.2}{:>11.2}{:>11.2}\n",
                q.count, q.mean, q.p50, q.p90, q.p95, q.p99, q.max
            ),
        );
    }
    text
}

/// The latencies of a run with their names.
pub(super) fn rows(run: &LoadRun) -> [(&'static str, Option<Quantiles>); 9] {
    let latencies = &run.latencies;
    [
        ("first byte", latencies.first_byte),
        ("first reasoning", latencies.first_reasoning),
        ("first content", latencies.first_content),
        ("TTFT", latencies.ttft),
        ("ITL", latencies.itl),
        ("TPOT", latencies.tpot),
        ("E2E", latencies.e2e),
        ("cancel", latencies.cancel),
        ("sent late", latencies.late),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::made_up::{answered, run, unanswered};
    use super::super::options::{Arrivals, GoodputTargets};
    use super::super::record::AttemptOutcome;
    use super::super::report::SweepFinding;
    use super::*;

    fn report() -> LoadReport {
        let mut records: Vec<_> = (0..8).map(|index| answered(index, if index < 7 { 40.0 } else { 90.0 }, 2.0)).collect();
        records[1].late_ms = 3.0;
        records.push(unanswered(8, AttemptOutcome::Refused, Some(("http_429", "too much to do"))));
        records.push(unanswered(9, AttemptOutcome::Failed, Some(("broken", "gone"))));
        let targets = GoodputTargets { ttft_ms: Some(50.0), ..GoodputTargets::default() };
        LoadReport {
            version: "0".to_owned(),
            created_s: 0,
            api: "/v1/chat/completions".to_owned(),
            model: "parrot".to_owned(),
            seed: 1,
            load: "eight questions".to_owned(),
            notes: vec!["pieces are counted".to_owned()],
            runs: vec![run(&records, 4.0, Arrivals::Poisson { rate: 2.5 }, targets)],
            sweep: Some(SweepFinding { met_rate: Some(2.5), knee_rate: None }),
        }
    }

    #[test]
    fn every_figure_stands_under_its_name() {
        let text = table(&report());
        for line in [
            "parrot at /v1/chat/completions: eight questions",
            "http://made.up, open loop, 2.5 requests/s, Poisson, 4.0 s",
            "requests: 10 sent, 8 completed, 0 left, 0 cancelled, 1 refused (429), 1 failed",
            "  http_429: 1, such as: too much to do",
            "throughput: 2.00 requests/s, 22.0 output tokens/s, 32.0 total tokens/s",
            "goodput: 1.75 requests/s met the targets, 70.0 %",
            "highest rate that met the targets: 2.5 requests/s",
            "knee (highest rate that the server kept up with): none of those tried",
            "note: pieces are counted",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} is not in {text}");
        }
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let row =
            |name: &str| rows.iter().find(|row| row.first() == Some(&name)).map(|row| row[1..].to_vec()).unwrap_or_default();
        assert_eq!(row("milliseconds"), ["count", "mean", "p50", "p90", "p95", "p99", "max"]);
        assert_eq!(row("TTFT"), ["8", "46.25", "40.00", "90.00", "90.00", "90.00", "90.00"]);
        assert_eq!(row("TPOT"), ["8", "2.00", "2.00", "2.00", "2.00", "2.00", "2.00"]);
        assert_eq!(row("E2E"), ["8", "66.25", "60.00", "110.00", "110.00", "110.00", "110.00"]);
        assert_eq!(row("sent"), ["late", "10", "0.30", "0.00", "0.00", "3.00", "3.00", "3.00"]);
        assert!(row("cancel").is_empty(), "what has no values has no row");
    }

    #[test]
    fn a_partial_report_and_counted_pieces_say_so() {
        let mut report = report();
        (report.runs[0].partial, report.runs[0].token_count) = (Some("interrupted".to_owned()), TokenCount::Pieces);
        let text = table(&report);
        assert!(text.contains("\nPARTIAL: interrupted\n") && text.contains("22.0 output tokens (pieces of text)/s"), "{text}");
    }
}
