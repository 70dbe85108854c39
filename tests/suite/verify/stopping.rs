//! Servers that do not stop as they should: the binary behind a shell that changes one thing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use antiphon::verify::{Criteria, Level, RunProgress, Target, Verdict, cases, verify};

use super::fake::{Fault, start};

/// A shell that starts the server, and does this when it is told to stop; it ends with this code.
fn behind(on_term: &str, code: u8) -> String {
    let server = env!("CARGO_BIN_EXE_antiphon");
    // The first `wait` ends with the signal, the second with the server.
    format!("{server} \"$@\" &\nserver=$!\ntrap '{on_term}' TERM\nwait $server\nwait $server\nexit {code}")
}

/// The verdict of one test on servers that are started by a script, and what it says.
fn judged(url: &str, case: &str, script: &str) -> (Verdict, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("serve");
    fs::write(&program, format!("#!/bin/bash\n{script}\n")).expect("it is written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("its owner's");
    let again: Option<(PathBuf, Vec<String>)> =
        Some((program, ["--kv-bytes=64MiB", "--served-model-name=fake"].map(str::to_owned).to_vec()));
    let target = Target { url: url.to_owned(), again, ..Target::default() };
    let cases = cases(Level::Quick, &[case.to_owned()], &[]).expect("there is one");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut watch = |_: RunProgress<'_>| {};
    let judging = verify(target, Level::Quick, Criteria::default(), &cases, std::future::pending(), &mut watch);
    let report = runtime.block_on(judging).expect("the server is there");
    (report.tests[0].outcome.verdict, report.tests[0].outcome.message.clone())
}

#[test]
fn a_server_that_does_not_stop_as_it_should_fails_the_test_of_that() {
    // What runs already is asked for the model's name alone.
    let url = format!("http://{}", start(Fault::NoStream));
    let plain = format!("exec {} \"$@\"", env!("CARGO_BIN_EXE_antiphon"));
    let drains = format!("exec {} \"${{@:1:$#-1}}\" 60", env!("CARGO_BIN_EXE_antiphon"));
    let rows = [
        ("MC-8", plain.clone(), Verdict::Pass, "checks hold"),
        ("MC-8", behind("kill -TERM $server", 1), Verdict::Fail, "the exit code: Some(1), expected Some(0)"),
        ("MC-8", behind("kill -KILL $server", 0), Verdict::Fail, "in the middle of its answer"),
        ("MC-8", behind("sleep 1; kill -TERM $server", 0), Verdict::Fail, "a server that drains: 200, expected 503"),
        ("STR-6", plain, Verdict::Pass, "checks hold"),
        // Gives its running answers a minute, whatever the last option says.
        ("STR-6", drains, Verdict::Fail, "and no error"),
    ];
    for (case, script, expected, says) in rows {
        let (verdict, message) = judged(&url, case, &script);
        assert!(verdict == expected && message.contains(says), "{case} of {script:?}: {verdict:?}, {message}");
    }
}
