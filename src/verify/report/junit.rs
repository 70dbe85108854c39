//! JUnit's XML, as CI systems read it.

use std::fmt::Write as _;

use super::super::case::{Suite, Verdict};
use super::VerifyReport;

/// Writes the file.
pub(super) fn write(report: &VerifyReport) -> String {
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // A String takes everything.
    let _ = file(report, &mut text);
    text
}

fn file(report: &VerifyReport, out: &mut String) -> std::fmt::Result {
    writeln!(out, "<testsuites name=\"antiphon verify {}\">", report.level.name())?;
    for suite in Suite::ALL {
        let tests: Vec<_> = report.tests.iter().filter(|test| test.suite == suite).collect();
        if tests.is_empty() {
            continue;
        }
        let count = |verdict| tests.iter().filter(|test| test.outcome.verdict == verdict).count();
        let skipped = count(Verdict::Skip) + count(Verdict::NotApplicable) + count(Verdict::NotRun);
        let seconds: f64 = tests.iter().map(|test| test.outcome.seconds).sum();
        writeln!(
            out,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" skipped=\"{skipped}\" time=\"{seconds:.3}\" timestamp=\"{}\">",
            escaped(suite.name()),
            tests.len(),
            count(Verdict::Fail),
            report.time()
        )?;
        for test in tests {
            let outcome = &test.outcome;
            let message = escaped(&outcome.message);
            write!(
                out,
                "    <testcase classname=\"{}\" name=\"{} {}\" time=\"{:.3}\"",
                escaped(suite.name()),
                test.id,
                escaped(test.name),
                outcome.seconds
            )?;
            match outcome.verdict {
                Verdict::Pass => writeln!(out, "><system-out>{message}</system-out></testcase>")?,
                Verdict::Fail => writeln!(out, "><failure message=\"{message}\"/></testcase>")?,
                Verdict::Skip | Verdict::NotApplicable | Verdict::NotRun => {
                    writeln!(out, "><skipped message=\"{message}\"/></testcase>")?;
                }
            }
        }
        writeln!(out, "  </testsuite>")?;
    }
    writeln!(out, "</testsuites>")
}

/// Characters that XML has no room for become a question mark.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(' '),
            c if c.is_control() || matches!(c, '\u{FFFE}' | '\u{FFFF}') => escaped.push('?'),
            c => escaped.push(c),
        }
    }
    escaped
}
