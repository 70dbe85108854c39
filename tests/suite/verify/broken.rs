//! Servers that are not as they should be: a clear message, what was found so far, an exit code
//! that is not 0.

use serde_json::Value;

use super::fake::{Fault, start};
use super::{said, verify};

#[test]
fn a_server_that_is_not_there_is_said_to_be_unreachable() {
    let output = verify(&["quick", "--url", "http://127.0.0.1:1"]);
    let (report, message) = said(&output);
    assert_eq!((output.status.code(), report.as_str()), (Some(1), ""));
    assert!(message.contains("http://127.0.0.1:1 is not reachable") && message.lines().count() == 1, "{message}");
}

#[test]
fn a_model_that_the_server_does_not_have_is_named_with_those_that_it_has() {
    let url = format!("http://{}", start(Fault::NoStream));
    let output = verify(&["quick", "--url", &url, "--model", "other"]);
    let (_, message) = said(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(message.contains("the server has no model `other`; it has: fake; given by --model"), "{message}");
}

#[test]
fn a_server_that_does_not_stream_fails_with_what_it_sent() {
    let url = format!("http://{}", start(Fault::NoStream));
    let output = verify(&["quick", "--url", &url, "--only", "MC-3", "--only", "MC-4", "--only", "OBS01-2"]);
    let (report, message) = said(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(report.contains("| MC-3 a simple request | PASS |"), "{report}");
    assert!(report.contains("| MC-4 a stream | FAIL |"), "{report}");
    assert!(report.contains("answers with application/json where an event stream was asked for"), "{report}");
    // What it lacks is skipped with the reason, and a run with a skipped test has not passed.
    assert!(report.contains("| SKIP | the server has no GET /health (404)"), "{report}");
    assert!(message.contains("not every test passed: 1 FAIL, 1 SKIP, 0 NOT RUN"), "{message}");
}

#[test]
fn a_malformed_stream_fails_with_the_line() {
    let url = format!("http://{}", start(Fault::Malformed));
    let output = verify(&["quick", "--url", &url, "--only", "MC-4"]);
    let (report, _) = said(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(report.contains("malformed event stream: line 3 is `this is no field`"), "{report}");
}

#[test]
fn a_server_that_dies_in_the_middle_leaves_what_was_found_so_far_marked_as_partial() {
    let url = format!("http://{}", start(Fault::Dies));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("report.json");
    let path = file.to_str().expect("a path in UTF-8");
    let output = verify(&["quick", "--url", &url, "--only", "MC-3", "--only", "MC-4", "--only", "Streaming", "--json", path]);
    let (report, message) = said(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(report.contains("| MC-3 a simple request | PASS |"), "{report}");
    assert!(report.contains("| MC-4 a stream | FAIL |") && report.contains("broke off"), "{report}");
    assert!(report.contains("**PARTIAL:** the server went away during MC-4"), "{report}");
    assert!(message.contains("7 NOT RUN; PARTIAL: the server went away during MC-4"), "{message}");
    let json: Value = serde_json::from_slice(&std::fs::read(file).expect("it is written")).expect("JSON");
    assert_eq!((&json["partial"], &json["passed"]), (&Value::Bool(true), &Value::Bool(false)));
    assert_eq!(json["counts"]["not_run"], 7);
}

#[test]
fn a_command_line_that_makes_no_sense_is_refused_before_anything_starts() {
    for (arguments, expected) in [
        (&["quick", "--only", "XX-9"][..], "`XX-9` names no test"),
        (&["quick", "--only", "MC-1", "--skip", "MC"], "no test is left to run"),
        (&["quick", "--stream-seconds", "5..3"], "--stream-seconds: found `5..3`, expected two numbers such as 3..5"),
        (&["quick", "--pace", "0"], "--pace: found `0`, expected off or milliseconds"),
        (&["quick", "--error-rate", "-1"], "--error-rate"),
        (&["slow"], "slow"),
        (&["quick", "--url", "http://a", "--embedded"], "--embedded"),
    ] {
        let output = verify(arguments);
        let (_, message) = said(&output);
        assert!(output.status.code() == Some(2) && message.contains(expected), "{arguments:?}: {message}");
    }
    let (_, message) = said(&verify(&["quick", "--url", "nonsense"]));
    assert!(message.contains("`nonsense` is no address of a server"), "{message}");
}
