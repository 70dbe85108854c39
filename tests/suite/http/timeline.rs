//! The flight recorder: a trace that a viewer takes, and why a first text was late.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::access::ring;
use super::client::{exchange, get, post, post_with, request};
use super::world::{Plan, World};

const SECRET: &str = "xylophone-of-the-user";

/// What the format asks of each event: a name, a phase that is known, whole numbers that are not
/// negative, a length for what is complete, a scope for an instant, values for a counter.
fn check_event(event: &Value) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{what}: {event}"));
    let is_whole = |key: &str| event[key].is_u64();
    if event["name"].as_str().is_none_or(str::is_empty) {
        return wrong("no name");
    }
    if !["ts", "pid", "tid"].into_iter().all(is_whole) {
        return wrong("a time or a track is no whole number");
    }
    let is_number = |value: &Value| value.is_u64() || value.is_f64();
    let args = event["args"].as_object();
    let right = match event["ph"].as_str() {
        Some("X") => is_whole("dur"),
        Some("C") => args.is_some_and(|values| !values.is_empty() && values.values().all(is_number)),
        Some("i") => matches!(event["s"].as_str(), Some("g" | "p" | "t")),
        Some("M") => {
            let names = ["process_name", "thread_name"].into_iter().any(|name| event["name"] == name);
            names && event["args"]["name"].as_str().is_some_and(|name| !name.is_empty())
        }
        _ => false,
    };
    if right { Ok(()) } else { wrong("not what its phase asks for") }
}

/// The document as a viewer takes it: every event is right, and on each track what is complete lies
/// one after another.
fn check_trace(trace: &Value) -> Result<(), String> {
    let events = trace["traceEvents"].as_array().ok_or("no events")?;
    if !["ms", "ns"].into_iter().any(|unit| trace["displayTimeUnit"] == unit) {
        return Err(format!("the unit is {}", trace["displayTimeUnit"]));
    }
    let mut tracks: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    let mut named = Vec::new();
    for event in events {
        check_event(event)?;
        let whole = |key: &str| event[key].as_u64().unwrap_or(0);
        let track = (whole("pid"), whole("tid"));
        match event["ph"].as_str() {
            Some("M") => named.push(track),
            Some("X") => {
                let end = tracks.entry(track).or_default();
                if whole("ts") < *end {
                    return Err(format!("begins before {end}, where the one before it ends: {event}"));
                }
                *end = whole("ts") + whole("dur");
            }
            _ => {}
        }
    }
    let unnamed = tracks.keys().find(|track| !named.contains(track));
    unnamed.map_or(Ok(()), |track| Err(format!("{track:?} has no name")))
}

#[test]
fn a_trace_that_no_viewer_takes_is_told() {
    let event = |event: Value| {
        let name = json!({"name": "thread_name", "ph": "M", "pid": 1, "tid": 1, "ts": 0, "args": {"name": "a"}});
        json!({"displayTimeUnit": "ms", "traceEvents": [name, {"name": "b", "ph": "X", "pid": 1, "tid": 1, "ts": 5, "dur": 5}, event]})
    };
    let good = json!({"name": "b", "ph": "X", "pid": 1, "tid": 1, "ts": 10, "dur": 0});
    assert_eq!(check_trace(&event(good.clone())), Ok(()));
    for (key, value) in [
        ("name", json!("")),
        ("ph", json!("Y")),
        ("ts", json!(10.5)),
        ("ts", json!(9)),
        ("dur", Value::Null),
        ("tid", json!(2)),
    ] {
        let mut bad = good.clone();
        bad[key] = value;
        assert!(check_trace(&event(bad.clone())).is_err(), "{bad}");
    }
}

#[actix_rt::test]
async fn the_timeline_is_a_trace_and_holds_what_happened() {
    let step_time = Duration::from_millis(2);
    let world = World::open(Plan { endless: true, step_time, running_max_count: 1, ..Plan::default() }).await;
    let body = json!({"prompt": SECRET, "max_tokens": 12}).to_string();
    let headers = "X-Session-ID: somebody's session\r\n";
    let (address, first) = (world.address, json!({"prompt": "la", "max_tokens": 100}).to_string());
    let one = actix_rt::spawn(async move { post(address, "/v1/completions", &first).await });
    world.until(|snapshot| snapshot.scheduler.decode_count == 1).await;
    let other = post_with(address, "/v1/completions", headers, &body).await;
    let one = one.await.expect("it is answered");
    assert_eq!((one.status, other.status), (200, 200));
    world.assert_empty().await;
    let reply = get(world.address, "/debug/timeline").await;
    assert_eq!((reply.status, reply.header("cache-control")), (200, Some("no-store")));
    let trace = reply.json();
    assert_eq!(check_trace(&trace), Ok(()));
    let events = trace["traceEvents"].as_array().expect("events");
    let named = |name: &str| events.iter().filter(|event| event["name"] == name).collect::<Vec<_>>();
    let counts = world.service.snapshot().scheduler;
    let sum = |key: &str| named("step").iter().filter_map(|step| step["args"][key].as_u64()).sum::<u64>();
    assert_eq!(named("step").len() as u64, counts.steps_total);
    assert_eq!(sum("tokens_drawn"), counts.decode_tokens_total);
    // Every token is computed once, but for the last one of each answer.
    let prompts: u64 = named("step")
        .iter()
        .flat_map(|step| step["args"]["prompts"].as_array().expect("slices"))
        .filter_map(|slice| slice["tokens"].as_u64())
        .sum();
    assert_eq!(prompts, counts.prefill_tokens_total);
    for step in named("step") {
        assert!(step["args"]["planned_us"].as_u64() <= step["ts"].as_u64(), "{step}");
    }
    // A step begins when the one before it was taken, so only all of them together take no less than
    // the engine did.
    let whole = |step: &Value, key: &str| step[key].as_u64().expect("a time");
    let (first, last) = (named("step")[0], named("step")[named("step").len() - 1]);
    let took = whole(last, "ts") + whole(last, "dur") - whole(first, "ts");
    assert!(took >= 2_000 * counts.steps_total, "{took} us for {} steps of two milliseconds", counts.steps_total);
    assert_eq!((named("prefill").len(), named("decode").len(), named("first text").len()), (2, 2, 2));
    // The second waits for the place that the first has, and says so.
    let live = get(world.address, "/console/live").await.json();
    let second = named("building")[1]["args"]["ttft"].as_object().expect("reasons");
    let most = second
        .iter()
        .filter(|(key, _)| key.ends_with("_ms"))
        .max_by(|(_, one), (_, other)| one.as_f64().partial_cmp(&other.as_f64()).expect("times are numbers"));
    assert_eq!(most.map(|(key, _)| key.as_str()), Some("queued_ms"), "{second:?}");
    for ended in live["ended"].as_array().expect("requests") {
        let ttft = ended["ttft"].as_object().expect("reasons");
        let sum: f64 = ttft.iter().filter(|(key, _)| key.ends_with("_ms")).filter_map(|(_, ms)| ms.as_f64()).sum();
        let first_text = ended["first_text_ms"].as_f64().expect("a time");
        assert!((sum - first_text).abs() < 1e-6, "{sum} is not {first_text}: {ended}");
        assert_eq!(ttft["prefill_slices"], 1, "{ended}");
    }
    for secret in [SECRET, "somebody's session"] {
        assert!(!trace.to_string().contains(secret), "{secret} is shown");
    }
    world.close().await;
}

#[actix_rt::test]
async fn the_timeline_is_an_admins() {
    let mut plan = Plan::default();
    plan.http.keys = ring(&["user"], &["root"]);
    let world = World::open(plan).await;
    for (key, status) in [("user", 403), ("root", 200)] {
        let headers = format!("Authorization: Bearer {key}\r\n");
        assert_eq!(exchange(world.address, &request("GET", "/debug/timeline", &headers, "")).await.status, status, "{key}");
    }
    world.close().await;
}
