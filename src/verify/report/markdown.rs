//! The plan's own form: time, version, environment, each test with its message, notes.

use std::fmt::Write as _;

use super::super::case::{Suite, Verdict, round};
use super::super::criteria::Criteria;
use super::VerifyReport;

/// Writes the block.
pub(super) fn write(report: &VerifyReport) -> String {
    let mut text = String::new();
    // A String takes everything.
    let _ = block(report, &mut text);
    text
}

fn block(report: &VerifyReport, out: &mut String) -> std::fmt::Result {
    let environment = &report.environment;
    writeln!(out, "## Test results: verify {}\n", report.level.name())?;
    writeln!(out, "**Time:** {}", report.time())?;
    writeln!(out, "**Server version:** {}", environment.server_version)?;
    writeln!(out, "**Result:** {}\n", verdict(report))?;
    writeln!(out, "### Environment\n")?;
    let build = if environment.optimised { "release" } else { "debug" };
    for (name, value) in [
        ("Server", environment.server.as_str()),
        ("Model", environment.model.as_str()),
        ("Model tags", &tags(report)),
        ("Profile", &environment.profile),
        ("GPU", &environment.gpu),
        ("CUDA", &environment.cuda),
        ("CPU", &environment.cpu),
        ("Tests", &format!("antiphon {} ({build} build)", environment.verify_version)),
    ] {
        writeln!(out, "- {name}: {value}")?;
    }
    writeln!(out, "\n### Tests\n")?;
    for suite in Suite::ALL {
        let tests: Vec<_> = report.tests.iter().filter(|test| test.suite == suite).collect();
        if tests.is_empty() {
            continue;
        }
        writeln!(out, "#### {}\n", suite.name())?;
        writeln!(out, "| test | result | message | figures | s |\n|---|---|---|---|---|")?;
        for test in tests {
            let outcome = &test.outcome;
            let figures: Vec<String> = outcome
                .figures
                .iter()
                .map(|figure| format!("{} {} {}", figure.name, round(figure.value), figure.unit).trim_end().to_owned())
                .collect();
            writeln!(
                out,
                "| {} {} | {} | {} | {} | {:.1} |",
                test.id,
                test.name,
                outcome.verdict.name(),
                cell(&outcome.message),
                cell(&figures.join(", ")),
                outcome.seconds
            )?;
        }
        writeln!(out)?;
    }
    writeln!(out, "### Notes\n")?;
    if let Some(reason) = &report.cut_short {
        writeln!(out, "- **PARTIAL:** {reason}; what was found until then is above.")?;
    }
    notes(&report.criteria, out)
}

fn verdict(report: &VerifyReport) -> String {
    let counts =
        Verdict::ALL.map(|verdict| (report.count(verdict), verdict.name())).into_iter().filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts.map(|(count, name)| format!("{count} {name}")).collect();
    format!("{} ({})", if report.passed() { "PASS" } else { "FAIL" }, counts.join(", "))
}

fn tags(report: &VerifyReport) -> String {
    let Some(tags) = report.environment.tags.as_object() else { return "not said".to_owned() };
    let tags: Vec<String> = tags
        .iter()
        .map(|(name, value)| format!("{name} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
        .collect();
    cell(&tags.join(", "))
}

/// The criteria, and which of them are not the plan's.
fn notes(criteria: &Criteria, out: &mut String) -> std::fmt::Result {
    let plan = Criteria::default();
    let pace = |pace: Option<u64>| pace.map_or_else(|| "none".to_owned(), |ms| format!("{ms} ms a chunk"));
    for (name, found, planned) in [
        ("chunks of an answer", criteria.chunks.to_string(), plan.chunks.to_string()),
        ("seconds of an answer", criteria.stream_seconds.to_string(), plan.stream_seconds.to_string()),
        ("chunks a second, at least", criteria.chunks_per_second_min.to_string(), plan.chunks_per_second_min.to_string()),
        ("characters of a chunk", criteria.chunk_chars.to_string(), plan.chunk_chars.to_string()),
        ("share of large chunks, at least", criteria.buffer_efficiency_min.to_string(), plan.buffer_efficiency_min.to_string()),
        ("characters of a large chunk", criteria.large_chunk_chars.to_string(), plan.large_chunk_chars.to_string()),
        ("pace of the reader where the server is faster", pace(criteria.pace_ms), pace(plan.pace_ms)),
        ("p95 TTFT in ms, at most", criteria.ttft_p95_ms.to_string(), plan.ttft_p95_ms.to_string()),
        ("p95 E2E in ms, at most", criteria.e2e_p95_ms.to_string(), plan.e2e_p95_ms.to_string()),
        ("share of failed requests, below", criteria.error_rate_max.to_string(), plan.error_rate_max.to_string()),
        ("share of cache hits, at least", criteria.hit_rate_min.to_string(), plan.hit_rate_min.to_string()),
        ("ms until a cancelled response holds nothing", criteria.cancel_max_ms.to_string(), plan.cancel_max_ms.to_string()),
        (
            "KiB a minute that memory may grow (upper 95 % bound)",
            criteria.leak_max_kib_per_minute.to_string(),
            plan.leak_max_kib_per_minute.to_string(),
        ),
    ] {
        let set = if found == planned { String::new() } else { format!(" (set; by default {planned})") };
        writeln!(out, "- Criterion: {name}: {found}{set}")?;
    }
    Ok(())
}

/// A text that does not end its cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}
