//! `antiphon batch`: a file of requests, answered offline, that goes on where its output ends.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_antiphon");

fn run(arguments: &[&Path]) -> Output {
    Command::new(BINARY).arg("batch").args(arguments).env_remove("ANTIPHON_API_KEY").output().expect("the binary starts")
}

fn results(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("an output");
    text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

#[test]
fn a_file_is_answered_and_goes_on_where_its_output_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let (input, output) = (folder.path().join("in.jsonl"), folder.path().join("in.out.jsonl"));
    let line = |index: usize, temperature: u32| {
        let body = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "temperature": temperature});
        json!({"custom_id": format!("id-{index}"), "method": "POST", "url": "/v1/chat/completions", "body": body}).to_string()
    };
    let lines: Vec<String> = (0..6).map(|index| line(index, if index == 3 { 9 } else { 0 })).collect();
    fs::write(&input, lines.join("\n")).expect("written");
    let first = run(&[&input]);
    let said = String::from_utf8_lossy(&first.stderr).into_owned();
    assert!(first.status.success() && said.contains("6 requests") && said.contains("1 of this run failed"), "{said}");
    let whole = results(&output);
    let mut ids: Vec<&str> = whole.iter().map(|line| line["custom_id"].as_str().expect("an id")).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..6).map(|index| format!("id-{index}")).collect::<Vec<_>>());
    for line in &whole {
        let status = if line["custom_id"] == "id-3" { 400 } else { 200 };
        assert_eq!((&line["response"]["status_code"], &line["error"]), (&json!(status), &Value::Null), "{line}");
    }
    // As after an end in the middle of a line.
    let text = fs::read_to_string(&output).expect("an output");
    let kept: Vec<&str> = text.lines().take(2).collect();
    fs::write(&output, format!("{}\n{}", kept.join("\n"), &text.lines().nth(2).expect("a third")[..20])).expect("cut");
    assert!(run(&[&input]).status.success());
    let again = results(&output);
    assert_eq!((again.len(), &again[..2]), (6, &whole[..2]), "what was there stays");
    // Nothing is missing: no server is started for it.
    assert!(run(&[&input]).status.success());
    assert_eq!(results(&output), again);

    fs::write(&input, lines.join("\n") + "\n{no json").expect("written");
    let refused = run(&[&input]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains("in.jsonl: line 7: expected a JSON object"), "{said}");
    assert_eq!(results(&output), again, "nothing was asked");
}
