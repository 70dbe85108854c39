//! `antiphon simulate` as a planning tool, and a server whose engine is simulated.

use std::fs;
use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::{antiphon, ended, refused};
use crate::embedded::{Server, command, joined};

/// A machine whose steps take 20 ms, and 1 ms a token of a prompt; answers have nine tokens.
fn slow_machine(folder: &std::path::Path) -> String {
    let (code, text, error) = ended(&mut antiphon(&["simulate", "cost-model", "h200-20b"]));
    assert_eq!((code, error.as_str()), (0, ""));
    let (before, rest) = text.split_once("[roof]").expect("it has a roof");
    let (_, after) = rest.split_once("[request]").expect("it goes on");
    let text = format!("{before}[request]{after}")
        .replace("fixed_us = 300", "fixed_us = 20000")
        .replace("prefill_token_us = 0", "prefill_token_us = 1000")
        .replace("answer_tokens = 256", "answer_tokens = 9")
        .replace("name = \"h200-20b\"", "name = \"slow\"");
    let path = folder.join("slow.toml");
    fs::write(&path, text).expect("it can be written");
    path.to_str().expect("a path in UTF-8").to_owned()
}

#[test]
fn a_plan_is_printed_and_written_and_the_same_seed_gives_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("plan.json").to_str().unwrap().to_owned();
    // A debug build checks every block after every call: a GPU's memory of them takes minutes.
    let few = ["--kv-bytes", "64MiB", "--output-tokens", "16", "--prompt-tokens", "64", "--target-ttft", "200"];
    let line = ["simulate", "--poisson", "20", "--requests", "40", "--cost-model", "h200-20b"];
    let plan = |more: &[&str]| {
        let (code, table, error) = ended(antiphon(&line).args(["--json", &json]).args(few).args(more));
        assert_eq!((code, error.as_str()), (0, ""), "{table}");
        let report: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
        (table, report)
    };
    let (table, report) = plan(&["--replicas", "3", "--route", "least-loaded"]);
    assert!(table.starts_with("simulated, not measured: cost model h200-20b (estimate)"), "{table}");
    assert_eq!((&report["counts"]["completed"], &report["replicas"]), (&40.into(), &3.into()), "{report}");
    let parts = ["ttft", "itl", "tpot", "e2e"].map(|name| report[name]["p95"].as_f64().unwrap_or(0.0));
    assert!(parts.into_iter().all(|value| value > 0.0) && report["goodput_per_s"].is_f64(), "{report}");
    assert_eq!(plan(&["--replicas", "3", "--route", "least-loaded"]).1, report);
    assert_ne!(plan(&["--replicas", "3", "--route", "least-loaded", "--seed", "5"]).1, report);
    let (_, report) = plan(&["--session-turns", "3", "--shared-prefix-tokens", "32"]);
    assert!(report["prefix_cache"]["hit_rate"].as_f64().unwrap() > 0.3, "{report}");
}

#[test]
fn what_makes_no_plan_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace.csv").to_str().unwrap().to_owned();
    fs::write(&trace, "TIMESTAMP,ContextTokens,GeneratedTokens\n1,5,5\n-3,5,5\n").unwrap();
    let of_trace = format!("trace {trace}, line 3: the time is -3; expected a time that is not negative");
    for (arguments, code, said) in [
        (&["simulate", "--poisson", "1"][..], 2, "no cost model is named; expected --cost-model with h100-20b"),
        (&["simulate", "--poisson", "0", "--cost-model", "h100-20b"], 2, "--poisson is `0`; expected a number above 0"),
        (&["simulate", "--poisson", "1", "--cost-model", "h100"], 1, "no cost model `h100`; expected h100-20b"),
        (&["simulate", "--poisson", "1", "--concurrency", "2", "--cost-model", "h100-20b"], 2, "expected one of --trace"),
        (&["simulate", "--poisson", "1", "--cost-model", "h100-20b", "--replicas", "1001"], 2, "from 1 to 1000"),
        (&["simulate", "--poisson", "1", "--cost-model", "h100-20b", "--tune", "ttft=5"], 2, "targets such as ttft-p99=500"),
        (&["simulate", "--trace", &trace, "--cost-model", "h100-20b"], 1, &of_trace),
        (&["simulate", "fit"], 2, "no steps are named; expected --url or --timeline"),
        (&["serve", "--device", "sim"], 1, "cost_model is `none`; expected the model that --device sim takes: h100-20b"),
        (&["serve", "--cost-model", "h100-20b"], 2, "expected --device sim beside it"),
    ] {
        let line = refused(&mut antiphon(arguments), code);
        assert!(line.contains(said), "{arguments:?}: {line}");
    }
}

#[test]
fn a_profile_that_was_searched_for_is_one_that_a_server_takes() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (slow_machine(folder.path()), folder.path().join("found.toml").to_str().unwrap().to_owned());
    let load = ["simulate", "--concurrency", "4", "--requests", "8", "--prompt-tokens", "100-300", "--output-tokens", "6"];
    let tuned = |target: &str| {
        ended(antiphon(&load).args(["--cost-model", &model, "--kv-bytes", "64MiB", "--tune", target, "--profile-out", &out]))
    };
    let (code, said, error) = tuned("itl-p99=120");
    assert_eq!((code, error.as_str()), (0, ""), "{said}");
    let (code, shown, error) = ended(&mut antiphon(&["serve", "--print-config", "--profile", &out]));
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(shown.contains("Found by antiphon simulate for itl-p99=120 with the cost model slow"), "{shown}");
    let json = folder.path().join("plan.json");
    let again = ["--cost-model", &model, "--kv-bytes", "64MiB", "--profile", &out, "--json", json.to_str().unwrap()];
    let (code, said, error) = ended(antiphon(&load).args(again));
    assert_eq!((code, error.as_str()), (0, ""), "{said}");
    let plan: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    assert!(plan["itl"]["p99"].as_f64().unwrap() <= 120.0, "the profile does what was found: {plan}");
    let (code, _, error) = tuned("itl-p99=1");
    assert_eq!(code, 1);
    assert!(error.contains("no profile that was tried meets itl-p99=1"), "{error}");
}

#[test]
fn a_simulated_server_waits_as_its_model_says_and_says_that_it_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let model = slow_machine(folder.path());
    let mut server = Server::of(&mut command(&["--model", "tiny", "--device", "sim", "--cost-model", &model]));
    assert!(server.log.contains("SIMULATED") && server.log.contains("\"cost_model\":\"slow\""), "{}", server.log);
    let listed: Value = serde_json::from_str(&server.ask("GET", "/v1/models", "")).unwrap();
    assert_eq!(listed["data"][0]["simulated"], "slow", "{listed}");
    assert_eq!(server.stats()["gpu_routing"]["mode"], "simulated");
    let chat = |stream: bool| {
        format!(r#"{{"messages":[{{"role":"user","content":"Hello"}}],"stream":{stream},"stream_options":STREAM}}"#)
            .replace("STREAM", if stream { r#"{"include_usage":true}"# } else { "null" })
    };
    let began = Instant::now();
    let mut head = String::new();
    server.send("POST", "/v1/chat/completions", &chat(false)).read_to_string(&mut head).unwrap();
    let took = began.elapsed();
    assert!(head.to_lowercase().contains("\r\nx-antiphon-simulated: slow\r\n"), "{head}");
    let whole: Value = serde_json::from_str(head.split_once("\r\n\r\n").unwrap().1).unwrap();
    let usage = &whole["usage"];
    let (prompt, generated) = (usage["prompt_tokens"].as_u64().unwrap(), usage["completion_tokens"].as_u64().unwrap());
    // Nine tokens and the one that ends them; each but the first a step of 20 ms.
    assert!(generated == 9 || generated == 10, "{whole}");
    assert!(took >= Duration::from_millis(prompt + 20 * generated), "{took:?}: {whole}");
    let content = whole["choices"][0]["message"]["content"].as_str().expect("content");
    assert!(
        "This answer is made up: the server simulates slow. ".starts_with(content.trim_end()) && !content.is_empty(),
        "{whole}"
    );
    assert_eq!(whole["choices"][0]["finish_reason"], "stop", "{whole}");
    let stream = server.ask("POST", "/v1/chat/completions", &chat(true));
    assert_eq!(joined(&stream, "/choices/0/delta/content"), content, "the joined stream is the whole answer");
    assert!(stream.contains(&format!("\"completion_tokens\":{generated}")) && stream.contains("data: [DONE]"), "{stream}");
    let body = r#"{"prompt":"Hello","max_tokens":30,"ignore_eos":true}"#;
    let whole: Value = serde_json::from_str(&server.ask("POST", "/v1/completions", body)).unwrap();
    assert_eq!((&whole["usage"]["completion_tokens"], &whole["choices"][0]["finish_reason"]), (&30.into(), &"length".into()));
    fitted(&server, folder.path());
    server.signal("-TERM");
    assert_eq!(server.end().0, Some(0));
}

/// A model that is fitted to the steps of that server is the model that it waits by, and what its
/// own work adds.
fn fitted(server: &Server, folder: &std::path::Path) {
    let out = folder.join("fit.toml").to_str().expect("a path in UTF-8").to_owned();
    let url = format!("http://{}", server.address());
    let (code, said, error) = ended(&mut antiphon(&["simulate", "fit", "--url", &url, "--name", "again", "--out", &out]));
    assert_eq!((code, error.as_str()), (0, ""), "{said}");
    let text = fs::read_to_string(&out).expect("it was written");
    let cost = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{key} = "))).expect("a cost");
        line.parse::<f64>().expect("a number")
    };
    // A busy machine adds to every step, and the three prompts have about the same length.
    let decode = cost("fixed_us") + cost("decode_sequence_us") + 10.0 * cost("context_token_us");
    assert!((15_000.0..80_000.0).contains(&decode), "{text}");
    assert!(text.contains("kind = \"fit\"") && text.contains("global_blocks = "), "{text}");
    let plan = ["simulate", "--concurrency", "2", "--requests", "4", "--prompt-tokens", "20", "--output-tokens", "5"];
    assert_eq!(ended(antiphon(&plan).args(["--cost-model", &out])).0, 0);
}
