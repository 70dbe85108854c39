//! The report for the terminal.

use std::fmt::Write as _;

use super::options::rate_text;
use super::report::{Quantiles, Report, Run, TokenCount};

/// The report as text.
#[must_use]
pub fn table(report: &Report) -> String {
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

fn run_table(run: &Run) -> String {
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
pub(super) fn rows(run: &Run) -> [(&'static str, Option<Quantiles>); 9] {
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
