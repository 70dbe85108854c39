//! Ctrl-C: what there is until then is reported and marked.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use antiphon::client::{Client, ClientOptions, Request};
use antiphon::load::LoadReport;

use super::responder::{Manner, Responder};

fn start(arguments: &[&str], json: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_antiphon"));
    command.arg("load").args(arguments).arg("--json").arg(json);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts")
}

/// Ends it as Ctrl-C does; its code, what it printed, and its report.
fn interrupt(child: Child, json: &Path) -> (Output, LoadReport) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().expect("kill runs").success());
    let output = child.wait_with_output().expect("it ends");
    let report = fs::read_to_string(json).unwrap_or_else(|error| panic!("no report, {error}: {output:?}"));
    (output, serde_json::from_str(&report).expect("a report"))
}

fn assert_marked(output: &Output, report: &LoadReport, error: &str) {
    let run = &report.runs[0];
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let reason = run.partial.as_deref().expect("it is marked");
    assert!(reason.starts_with("interrupted with ") && reason.ends_with(" requests under way"), "{reason}");
    assert!(run.counts.completed > 0 && run.latencies.ttft.is_some(), "{:?}", run.counts);
    assert!(String::from_utf8_lossy(&output.stdout).contains("PARTIAL: interrupted with"), "{output:?}");
    assert!(error.contains("the report is partial: interrupted"), "{error}");
}

#[test]
fn a_load_that_is_interrupted_keeps_what_it_has_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("partial.json");
    let responder = Responder::start(Manner { gap: Duration::from_millis(2), ..Manner::default() });
    let child = start(&["--url", &responder.url(), "--duration", "600", "--concurrency", "4"], &json);
    while responder.bodies().len() < 12 {
        thread::sleep(Duration::from_millis(5));
    }
    let (output, report) = interrupt(child, &json);
    assert_marked(&output, &report, &String::from_utf8_lossy(&output.stderr));
}

/// The same signal also reaches the server in this process, which must not end it before the report
/// is written.
#[test]
fn a_load_on_its_own_server_is_interrupted_no_differently() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("partial.json");
    let length = ["--duration", "600", "--concurrency", "2", "--output-tokens", "4", "--kv-bytes", "64MiB"];
    let mut child = start(&[&["--embedded", "--log-level", "info"][..], &length].concat(), &json);
    let mut log = BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    let address = loop {
        line.clear();
        assert!(log.read_line(&mut line).expect("UTF-8") > 0, "it ended before its server was ready");
        if let Some((_, rest)) = line.split_once("ready address=") {
            break rest.split_whitespace().next().expect("an address").to_owned();
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let client = Client::new(&format!("http://{address}"), &ClientOptions::default()).expect("a client");
    let generated = || {
        let page = runtime.block_on(client.call(&Request::get("/metrics"))).expect("metrics").text();
        let count = page.lines().filter_map(|line| line.strip_prefix("antiphon_generated_tokens_total"));
        count.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
    };
    while generated() < 40.0 {
        thread::sleep(Duration::from_millis(20));
    }
    let (output, report) = interrupt(child, &json);
    let mut error = String::new();
    log.read_to_string(&mut error).expect("UTF-8");
    assert_marked(&output, &report, &error);
}
