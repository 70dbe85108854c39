//! The load client against servers whose behaviour is known, and its command as its user meets it.

mod interrupted;
mod many;
mod responder;
mod tls;

use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use antiphon::client::{Api, Client, ClientOptions};
use antiphon::load::{
    Arrivals, AttemptOutcome, GoodputTargets, LoadOptions, LoadReport, LoadRun, PromptSource, Prompts, Record, drive,
};
use responder::{Manner, Responder};
use serde_json::Value;

pub(crate) fn options(arrivals: Arrivals, requests: usize) -> LoadOptions {
    LoadOptions {
        api: Api::Chat,
        model: "parrot".to_owned(),
        arrivals,
        requests_max: Some(requests),
        duration: None,
        output_tokens: 8,
        output_tokens_min: 8,
        ignore_eos: false,
        temperature: 0.0,
        extra_body: Default::default(),
        turns: 1,
        disconnect_rate: 0.0,
        abort_rate: 0.0,
        answer_max: Duration::from_secs(30),
        warmup: 0,
        targets: GoodputTargets { share: 0.95, ..GoodputTargets::default() },
        seed: 1,
        progress: false,
        failures_max: 20,
    }
}

fn load(responder: &Responder, options: &LoadOptions, prefix_tokens: u32) -> (LoadRun, Vec<Record>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = Client::new(&responder.url(), &ClientOptions::default()).expect("a client");
        let source = PromptSource::Random { from: 5, to: 9 };
        let prompts = Prompts::open(&source, prefix_tokens, options.seed, &client, "parrot").await.expect("prompts");
        Box::pin(drive(&client, options, &prompts)).await
    })
}

#[test]
fn latencies_are_those_that_the_server_has() {
    let responder =
        Responder::start(Manner { first: Duration::from_millis(60), gap: Duration::from_millis(15), ..Manner::default() });
    let (run, records) = load(&responder, &options(Arrivals::Closed { concurrency: 4 }, 12), 0);
    assert_eq!((run.counts.completed, records.len(), run.output_tokens), (12, 12, 96));
    let (ttft, itl, e2e) = (run.latencies.ttft.unwrap(), run.latencies.itl.unwrap(), run.latencies.e2e.unwrap());
    // A busy machine makes them longer, never shorter.
    assert!(ttft.p50 >= 60.0 && itl.count == 12 * 7 && itl.mean >= 14.9 && e2e.p50 >= 60.0 + 7.0 * 15.0, "{:?}", run.latencies);
    assert_eq!(run.itl_bins.iter().map(|bin| bin.1).sum::<u64>(), itl.count);
    assert_eq!((run.latencies.first_reasoning.unwrap().count, run.latencies.first_content.unwrap().count), (12, 12));
    assert_eq!(run.samples.first().and_then(|sample| sample.running), Some(3.0), "the server's own figures stand beside");
}

/// Four requests that are meant for the same moment, at a server that answers one at a time: the
/// last waits for all before it, and so does its latency.
#[test]
fn an_open_loop_counts_from_the_intended_time() {
    let responder = Responder::start(Manner { first: Duration::from_millis(50), one_at_a_time: true, ..Manner::default() });
    let (run, records) = load(&responder, &options(Arrivals::Bursts { count: 4, every_s: 60.0 }, 4), 0);
    assert_eq!(run.counts.completed, 4);
    let mut ttfts: Vec<f64> = records.iter().filter_map(|record| record.ttft_ms).collect();
    ttfts.sort_by(f64::total_cmp);
    for (place, ttft) in ttfts.iter().enumerate() {
        assert!(*ttft >= 50.0 * (place + 1) as f64, "{ttfts:?}");
    }
    let (run, records) = load(&responder, &options(Arrivals::Constant { rate: 40.0 }, 6), 0);
    assert_eq!(run.counts.completed, 6);
    for (place, record) in records.iter().enumerate() {
        assert!((record.begun_s - place as f64 / 40.0).abs() < 1e-6, "intended times: {record:?}");
    }
    // Six answers take 300 ms, the last request is meant for 125 ms; which waits longest is the server's
    // choice.
    let longest = records.iter().filter_map(|record| record.ttft_ms).fold(0.0, f64::max);
    assert!(longest >= 175.0, "a server at half the rate falls behind: {records:?}");
}

/// A client whose thread is busy for 400 ms sends late what was meant for that time: the delay is
/// counted, although the server answers each within 30 ms of its being sent.
#[test]
fn a_client_that_sends_late_does_not_hide_it() {
    let responder = Responder::start(Manner { first: Duration::from_millis(30), ..Manner::default() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let asked = options(Arrivals::Constant { rate: 25.0 }, 6);
    let (run, records) = runtime.block_on(async {
        let client = Client::new(&responder.url(), &ClientOptions::default()).expect("a client");
        let prompts = Prompts::open(&PromptSource::BuiltIn, 0, 1, &client, "parrot").await.expect("prompts");
        tokio::spawn(async {
            tokio::time::sleep(Duration::from_millis(60)).await;
            std::thread::sleep(Duration::from_millis(400));
        });
        Box::pin(drive(&client, &asked, &prompts)).await
    });
    assert_eq!(run.counts.completed, 6);
    let late = records.iter().filter(|record| record.late_ms >= 200.0).count();
    assert!(late >= 3, "those meant for 80 to 200 ms are sent after 460 ms: {records:?}");
    for record in &records {
        let (ttft, e2e) = (record.ttft_ms.unwrap(), record.e2e_ms.unwrap());
        assert!(ttft >= record.late_ms + 30.0 && e2e >= ttft, "{record:?}");
    }
    assert!(run.latencies.late.unwrap().max >= 200.0 && run.latencies.ttft.unwrap().p95 >= 230.0, "{:?}", run.latencies);
}

#[test]
fn those_who_leave_and_cancel_do_so() {
    let responder =
        Responder::start(Manner { first: Duration::from_millis(30), gap: Duration::from_millis(20), ..Manner::default() });
    let mut asked = options(Arrivals::Closed { concurrency: 8 }, 60);
    (asked.disconnect_rate, asked.abort_rate) = (0.4, 0.4);
    let (run, records) = load(&responder, &asked, 0);
    let counts = run.counts;
    assert_eq!((counts.sent, counts.failed), (60, 0), "{:?}", run.errors);
    assert!(counts.left > 5 && counts.cancelled > 5 && counts.completed > 5, "{counts:?}");
    assert_eq!(run.latencies.cancel.unwrap().count as usize, responder.cancelled(), "{counts:?}");
    let left_early = records.iter().filter(|record| record.outcome == AttemptOutcome::Left && record.e2e_ms.is_none()).count();
    assert_eq!(left_early, counts.left);
}

#[test]
fn conversations_hold_their_history_and_share_their_beginning() {
    let responder = Responder::start(Manner::default());
    let mut asked = options(Arrivals::Closed { concurrency: 2 }, 3);
    asked.turns = 3;
    let (run, records) = load(&responder, &asked, 20);
    assert_eq!((run.counts.completed, records.last().map(|record| record.turn)), (9, Some(2)));
    let bodies: Vec<Value> = responder.bodies();
    let prefix = bodies[0]["messages"][0]["content"].clone();
    assert!(prefix.as_str().unwrap().split(' ').count() > 10);
    for body in &bodies {
        let messages = body["messages"].as_array().unwrap();
        assert_eq!((&messages[0]["role"], &messages[0]["content"]), (&Value::from("system"), &prefix));
        assert!(messages.len() == 2 || messages[2]["content"] == "word word word word word word ", "{body}");
    }
    assert_eq!(bodies.iter().filter(|body| body["messages"].as_array().unwrap().len() == 6).count(), 3);
}

#[test]
fn targets_refusals_and_failures_are_counted_apart() {
    let responder = Responder::start(Manner { refuse_every: 3, ..Manner::default() });
    let mut asked = options(Arrivals::Closed { concurrency: 1 }, 9);
    asked.targets = GoodputTargets { ttft_ms: Some(1e6), e2e_ms: Some(1e-6), tpot_ms: None, share: 0.9 };
    let (run, _) = load(&responder, &asked, 0);
    assert_eq!((run.counts.refused, run.counts.completed, run.counts.failed), (3, 6, 0));
    assert_eq!((run.goodput_per_s, run.good_share), (Some(0.0), Some(0.0)));
    assert!(run.errors["http_429"].example.contains("too much to do"), "{:?}", run.errors);
}

#[test]
fn every_route_is_driven() {
    let responder = Responder::start(Manner::default());
    for api in Api::ALL {
        let asked = LoadOptions { api, ..options(Arrivals::Closed { concurrency: 1 }, 2) };
        let (run, _) = load(&responder, &asked, 0);
        assert_eq!(run.counts.completed, 2, "{api:?}: {:?}", run.errors);
    }
}

fn antiphon(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_antiphon"));
    let Output { status, stdout, stderr } = command.args(arguments).stdin(Stdio::null()).output().expect("the binary starts");
    let text = |bytes| String::from_utf8(bytes).expect("it prints UTF-8");
    (status.code().expect("it exits by itself"), text(stdout), text(stderr))
}

#[test]
fn the_command_writes_its_reports_and_compares_them() {
    let (responder, folder) = (Responder::start(Manner::default()), tempfile::tempdir().unwrap());
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let (json, csv, html) = (path("a.json"), path("a.csv"), path("a.html"));
    let url = responder.url();
    let files = ["--json", &json, "--csv", &csv, "--html", &html];
    let (code, output, error) =
        antiphon(&[&["load", "--url", &url, "--requests", "7", "--output-tokens", "8"][..], &files].concat());
    assert_eq!((code, error.as_str()), (0, ""), "{output}");
    assert!(output.contains("7 sent, 7 completed") && output.contains("\nTTFT ") && output.contains("\nITL "), "{output}");
    let report: LoadReport = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!((report.runs.len(), report.model.as_str()), (1, "parrot"));
    assert_eq!(fs::read_to_string(&csv).unwrap().lines().count(), 8);
    let page = fs::read_to_string(&html).unwrap();
    assert!(
        page.matches("<svg").count() >= 6 && !page.contains("http-equiv") && !page.contains("<script") && !page.contains("NaN")
    );
    assert!(!page.contains("src=") && !page.contains("href="), "nothing is fetched");

    let (code, output, _) = antiphon(&["load", "--compare", &json, &json]);
    assert!(code == 0 && output.contains("TTFT p50") && output.contains("1.000"), "{output}");
    let (code, _, error) = antiphon(&["load", "--compare", &json, &csv]);
    assert!(code == 1 && error.contains("expected a report that antiphon load wrote with --json"), "{error}");
    // It is slower by far more than a busy machine can be.
    let other = Responder::start(Manner { model: "wren", first: Duration::from_millis(150), ..Manner::default() });
    let (code, output, error) = antiphon(&["load", "--url", &url, "--url", &other.url(), "--rounds", "2", "--requests", "3"]);
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(output.contains(&format!("A: {url}\nB: {}", other.url())) && output.contains("(4)"), "{output}");
    let ttft = output.lines().rfind(|line| line.starts_with("TTFT p50")).expect("it is compared");
    let [a, b, ratio] = [2, 3, 4].map(|column| ttft.split_whitespace().nth(column).and_then(|text| text.parse::<f64>().ok()));
    assert!(a < b && b >= Some(150.0) && ratio > Some(1.0), "the slow one is B: {output}");
    assert!(output.starts_with("parrot and wren at ") && other.bodies().iter().all(|body| body["model"] == "wren"), "{output}");
}

#[test]
fn what_goes_wrong_is_one_line_and_a_code() {
    let (code, _, error) = antiphon(&["load", "--url", "http://127.0.0.1:1"]);
    assert!(code == 1 && error.contains("http://127.0.0.1:1 is not reachable") && error.lines().count() == 1, "{error}");
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.jsonl");
    fs::write(&empty, "\n").unwrap();
    let responder = Responder::start(Manner { dies_after: 3, ..Manner::default() });
    let url = responder.url();
    let (code, _, error) = antiphon(&["load", "--url", &url, "--prompts", empty.to_str().unwrap()]);
    assert!(code == 1 && error.contains("empty.jsonl: it holds no prompt; expected JSON lines"), "{error}");
    for (arguments, said) in [
        (&["load"][..], "no server is named"),
        (&["load", "--url", "nonsense"], "`nonsense` is no address of a server"),
        (&["load", "--embedded", "--rate", "0"], "--rate is `0`; expected a number above 0"),
        (&["load", "--embedded", "--rate", "1", "--burst", "2"], "one of --concurrency, --rate and --burst"),
        (&["load", "--embedded", "--api", "sing"], "--api is `sing`; expected chat, completions"),
    ] {
        let (code, _, error) = antiphon(arguments);
        assert!(code == 2 && error.contains(said), "{arguments:?}: {error}");
    }
    // It dies in the middle: what was measured before is reported, marked, and the code says so.
    let json = folder.path().join("partial.json");
    let arguments = ["load", "--url", &url, "--concurrency", "1", "--failures-in-a-row", "5", "--json", json.to_str().unwrap()];
    let (code, output, error) = antiphon(&arguments);
    assert!(code == 1 && error.contains("the report is partial: 5 requests failed in a row"), "{error}");
    assert!(output.contains("PARTIAL: ") && output.contains("8 sent, 3 completed"), "{output}");
    let report: LoadReport = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    assert!(report.runs[0].partial.is_some() && report.runs[0].latencies.ttft.is_some());
}

#[test]
fn a_sweep_finds_where_the_server_stops_keeping_up() {
    // One answer takes 20 ms, one at a time: 50 a second, and no more.
    let responder = Responder::start(Manner { first: Duration::from_millis(20), one_at_a_time: true, ..Manner::default() });
    let sweep = ["--sweep", "--sweep-from", "10", "--sweep-stages", "5", "--arrivals", "constant", "--duration", "1.5"];
    let (code, output, error) = antiphon(&[&["load", "--url", &responder.url(), "--output-tokens", "2"][..], &sweep].concat());
    assert_eq!((code, error.as_str()), (0, ""), "{output}");
    let knee = output.lines().find_map(|line| line.strip_prefix("knee (highest rate that the server kept up with): ")).unwrap();
    let rate: f64 = knee.split(' ').next().unwrap().parse().expect("a rate was met");
    // A busy machine lowers it; nothing lifts it.
    assert!((1.0..62.0).contains(&rate), "{output}");
}

/// More users than a server takes from one address unless it is told to. What its queue has no
/// place for is refused, not failed.
#[test]
fn the_server_of_its_own_takes_a_connection_of_every_user() {
    let few = ["--api", "completions", "--prompt-tokens", "4", "--output-tokens", "1", "--ignore-eos"];
    let many = ["load", "--embedded", "--concurrency", "2100", "--requests", "2100"];
    let (code, output, error) = antiphon(&[&many[..], &few].concat());
    assert_eq!(code, 0, "{error}");
    assert!(output.contains("requests: 2100 sent") && output.contains(", 0 failed"), "{output}");
}
