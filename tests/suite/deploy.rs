//! What lies in `deploy/` names only metrics that `/metrics` has.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use antiphon::batch::Micros;
use antiphon::metrics::{Metrics, ModelTags, Names};
use regex::Regex;
use serde_json::Value;

/// The names of all samples.
fn exposed() -> BTreeSet<String> {
    let text = String::new;
    let (model_size, dtype, gpu_mode, prompt_version) = (text(), text(), text(), text());
    let metrics = Metrics::new(ModelTags { model_id: "tiny".to_owned(), model_size, dtype, gpu_mode, prompt_version });
    let exposition = metrics.exposition(Names::All, Micros(0));
    let samples = exposition.lines().filter(|line| !line.starts_with('#'));
    // `up` is Prometheus's own.
    samples.filter_map(|line| line.split(['{', ' ']).next()).chain(["up"]).map(str::to_owned).collect()
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names before a selector in an expression; every metric of these files has one.
fn names(expression: &str) -> Vec<String> {
    let name = Regex::new(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{").expect("a pattern");
    name.captures_iter(expression).map(|found| found[1].to_owned()).collect()
}

/// Every text under a key named `expr`.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| match value {
            Value::String(text) if key == "expr" => found.push(text.clone()),
            other => expressions(other, found),
        }),
        Value::Array(list) => list.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let exposed = exposed();
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/antiphon.json")).expect("JSON");
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    assert!(found.len() > 30, "{} expressions", found.len());
    for expression in found {
        let names = names(&expression);
        assert!(!names.is_empty(), "no metric in {expression}");
        for name in names {
            assert!(exposed.contains(&name), "{name} of {expression} is not exposed");
        }
    }
}

#[test]
fn alerts_watch_what_there_is_and_the_handbook_knows_them() {
    let (exposed, rules, handbook) = (exposed(), read("deploy/prometheus/antiphon.rules.yml"), read("docs/operations.md"));
    let watched: Vec<String> = rules.lines().filter(|line| !line.contains("summary:")).flat_map(names).collect();
    assert!(watched.len() > 9, "{watched:?}");
    for name in watched {
        assert!(exposed.contains(&name), "{name} is not exposed");
    }
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 5);
    for alert in alerts {
        assert!(handbook.contains(&format!("**{alert}.**")), "docs/operations.md does not say what to do about {alert}");
    }
}
