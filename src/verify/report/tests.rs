//! Reports say what came of a run, and are well formed whatever a server says.

use std::time::{Duration, SystemTime};

use super::*;
use crate::verify::case::MeasuredFigure;
use crate::verify::suites;

fn report(verdicts: &[(Verdict, &str)]) -> VerifyReport {
    let environment = Environment {
        server: "http://127.0.0.1:1".to_owned(),
        server_version: "1.2.3".to_owned(),
        model: "m".to_owned(),
        tags: json!({"model_id": "m|n"}),
        profile: "latency_first".to_owned(),
        gpu: "none".to_owned(),
        cuda: "none on this machine".to_owned(),
        cpu: "c".to_owned(),
        verify_version: "0",
        optimised: true,
    };
    let tests = suites::all().into_iter().zip(verdicts).map(|(case, (verdict, message))| {
        let figures = vec![MeasuredFigure { name: "p95".to_owned(), value: 1.5, unit: "ms" }];
        Tested::new(&case, CaseOutcome { verdict: *verdict, message: (*message).to_owned(), figures, seconds: 0.25 })
    });
    VerifyReport {
        started: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        level: Level::Quick,
        environment,
        criteria: Criteria { cancel_max_ms: 900.0, ..Criteria::default() },
        tests: tests.collect(),
        cut_short: None,
    }
}

#[test]
fn only_a_run_whose_every_test_passed_has_passed() {
    assert!(report(&[(Verdict::Pass, ""), (Verdict::Pass, "")]).passed());
    for verdict in [Verdict::Fail, Verdict::Skip, Verdict::NotRun] {
        assert!(!report(&[(Verdict::Pass, ""), (verdict, "")]).passed());
    }
    assert!(report(&[(Verdict::Pass, ""), (Verdict::NotApplicable, "")]).passed());
    assert!(!report(&[(Verdict::NotApplicable, "")]).passed(), "nothing was shown");
    let mut cut = report(&[(Verdict::Pass, "")]);
    cut.end_early(&suites::all()[1..3], "the server went away");
    assert_eq!((cut.passed(), cut.count(Verdict::NotRun)), (false, 2));
    assert!(cut.markdown().contains("**PARTIAL:** the server went away"), "{}", cut.markdown());
    assert_eq!((cut.json()["partial"].as_bool(), cut.json()["counts"]["not_run"].as_u64()), (Some(true), Some(2)));
}

#[test]
fn the_block_has_time_version_environment_tests_and_notes() {
    let text = report(&[(Verdict::Pass, "3 checks hold"), (Verdict::Fail, "a|b\nc")]).markdown();
    for part in [
        "**Time:** 2023-11-14T22:13:20Z",
        "**Server version:** 1.2.3",
        "**Result:** FAIL (1 PASS, 1 FAIL)",
        "- GPU: none",
        "- CUDA: none on this machine",
        "| PASS | 3 checks hold | p95 1.500 ms | 0.2 |",
        "a\\|b c",
        "ms until a cancelled response holds nothing: 900 (set; by default 500)",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn what_a_server_says_does_not_break_the_xml() {
    let verdicts = [(Verdict::Fail, "<&\"\u{1}>"), (Verdict::Skip, "gone"), (Verdict::NotApplicable, "not ours")];
    let text = report(&verdicts).junit();
    assert!(text.contains("<failure message=\"&lt;&amp;&quot;?&gt;\"/>"), "{text}");
    assert!(text.contains("<skipped message=\"gone\"/>") && text.contains("failures=\"1\" skipped=\"2\""), "{text}");
}
