//! The cases that are quick, against the embedded model.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{said, verify};
use crate::embedded::Server;

/// What needs no browser and no minute.
const QUICK: [&str; 8] = ["MC-1", "MC-7", "PF01", "ST01-1", "ST01-2", "Clients", "OBS01", "Streaming"];

/// How fast this machine is today is no matter of these tests; `scripts/check-acceptance` judges by the plan's seconds.
const AS_SLOW_AS_IT_IS: [&str; 4] = ["--stream-seconds", "3..600", "--chunks-per-second", "0.1"];

#[test]
fn the_quick_cases_pass_and_every_report_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).to_str().expect("a path in UTF-8").to_owned();
    let (json, junit, markdown) = (file("r.json"), file("r.xml"), file("r.md"));
    let mut arguments =
        vec!["quick", "--embedded", "--kv-bytes", "64MiB", "--json", &json, "--junit", &junit, "--report", &markdown];
    for name in QUICK {
        arguments.extend(["--only", name]);
    }
    arguments.extend(AS_SLOW_AS_IT_IS);
    let output = verify(&arguments);
    let (report, live) = said(&output);
    assert!(output.status.success(), "{live}\n{report}");
    assert!(live.contains("PASS  PF01-1") && live.contains("PASS  STR-3"), "the live list: {live}");
    for part in ["**Result:** PASS", "#### PR-PF01", "#### PR-OBS01", "- GPU: none", "paced: unpaced the server sends"] {
        assert!(report.contains(part), "{part} is not in {report}");
    }
    assert_eq!(std::fs::read_to_string(markdown).expect("written"), report);
    let json: Value = serde_json::from_slice(&std::fs::read(json).expect("written")).expect("JSON");
    assert_eq!((&json["passed"], &json["partial"], &json["level"]), (&true.into(), &false.into(), &"quick".into()));
    let tests = json["tests"].as_array().expect("tests");
    assert!(tests.iter().all(|test| test["verdict"] == "PASS" && test["message"].is_string()), "{json:#}");
    let junit = std::fs::read_to_string(junit).expect("written");
    assert_eq!(junit.matches("<testcase ").count(), tests.len());
}

/// A server that the run did not start can pass too: what would end it has no meaning there, and
/// the embedded model is known by its tags.
#[test]
fn the_quick_cases_pass_against_a_server_elsewhere() {
    let server = Server::of(Command::new(env!("CARGO_BIN_EXE_antiphon")).args(["serve", "--kv-bytes", "64MiB"]));
    let url = format!("http://{}", server.address());
    let mut arguments = vec!["quick", "--url", &url, "--only", "MC-8"];
    for name in QUICK {
        arguments.extend(["--only", name]);
    }
    arguments.extend(AS_SLOW_AS_IT_IS);
    let output = verify(&arguments);
    let (report, live) = said(&output);
    assert!(output.status.success(), "{live}\n{report}");
    assert!(report.contains("| MC-8 the server drains and stops | N/A | the server is not ours to stop"), "{report}");
    assert!(
        report.contains("| STR-3 performance metrics | PASS |") && report.contains("asked: Count from 1 to 90"),
        "{report}"
    );
}

/// Criteria that cannot be met fail the test that has them, with the number.
#[test]
fn a_criterion_that_is_not_met_fails_the_run() {
    let output = verify(&["quick", "--kv-bytes", "64MiB", "--only", "PF01-3", "--hit-rate", "0.99"]);
    let (report, _) = said(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(report.contains("hit rate: 0.800 , at least 0.990 expected"), "{report}");
    assert!(report.contains("share of cache hits, at least: 0.99 (set; by default 0.3)"), "{report}");
}

/// Ctrl-C ends a run with what was found until then.
#[test]
fn a_run_that_is_stopped_keeps_what_it_found() {
    let mut process = Command::new(env!("CARGO_BIN_EXE_antiphon"))
        .args(["verify", "quick", "--kv-bytes", "64MiB", "--only", "MC-1", "--only", "LOAD-2", "--only", "STR-1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut live = BufReader::new(process.stderr.take().expect("piped")).lines().map_while(Result::ok);
    assert!(live.any(|line| line.starts_with("PASS  MC-1")), "the first test passes");
    let id = process.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().expect("kill runs").success());
    let output = process.wait_with_output().expect("it ends");
    let (report, _) = said(&output);
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert!(report.contains("**PARTIAL:** the run was stopped during LOAD-2"), "{report}");
    assert!(report.contains("| MC-1 the server starts | PASS |") && report.contains("NOT RUN"), "{report}");
}
