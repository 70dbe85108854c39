//! Spans of requests, as a collector gets them: a listener that reads OTLP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use antiphon::otel::SpanSender;
use serde_json::{Value, json};

use super::client::{post, post_with};
use super::world::{Plan, World, harmony};

const CHAT: &str = "/v1/chat/completions";
const SAID: &str = r#"{"messages":[{"role":"user","content":"Hi"}]}"#;
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
/// A test that waits for longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A collector: its address, and the spans that it is told. It answers with `status`.
fn collector(status: u16) -> (String, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let (told, spans) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream);
            let (mut head, mut length) = (String::new(), 0);
            while reader.read_line(&mut head).is_ok_and(|read| read > 2) {
                let line = head.lines().last().unwrap_or_default().to_ascii_lowercase();
                length = line.strip_prefix("content-length: ").map_or(length, |text| text.parse().expect("a number"));
            }
            let mut body = vec![0; length];
            if reader.read_exact(&mut body).is_err() {
                continue;
            }
            assert!(
                head.starts_with("POST /v1/traces ") && head.to_ascii_lowercase().contains("content-type: application/json"),
                "{head}"
            );
            let message: Value = serde_json::from_slice(&body).expect("JSON");
            let scope = &message["resourceSpans"][0]["scopeSpans"][0];
            for span in scope["spans"].as_array().expect("spans") {
                _ = told.send(span.clone());
            }
            _ = write!(reader.get_mut(), "HTTP/1.1 {status} x\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}");
        }
    });
    (address, spans)
}

async fn world(address: &str, endless: bool) -> World {
    let mut plan = Plan { answer: harmony("She greets.", "Hello."), endless, ..Plan::default() };
    plan.http.spans = Some(SpanSender::start(address).expect("an address"));
    World::open(plan).await
}

/// The next span; the runtime goes on meanwhile.
async fn next(spans: &Receiver<Value>) -> Value {
    let begun = std::time::Instant::now();
    loop {
        match spans.try_recv() {
            Ok(span) => return span,
            Err(_) => assert!(begun.elapsed() < PATIENCE, "no span is told"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn attribute(span: &Value, name: &str) -> Value {
    let all = span["attributes"].as_array().expect("attributes");
    all.iter().find(|one| one["key"] == name).map_or(Value::Null, |one| one["value"].clone())
}

#[actix_rt::test]
async fn a_request_is_a_span_in_its_clients_trace() {
    let (address, spans) = collector(200);
    let world = world(&address, false).await;
    let parent = format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\n");
    let answer = post_with(world.address, CHAT, &parent, SAID).await;
    let span = next(&spans).await;
    assert_eq!((&span["traceId"], &span["parentSpanId"]), (&json!(TRACE), &json!("00f067aa0ba902b7")));
    let handed_on = answer.header("traceparent").expect("a trace").to_owned();
    assert_eq!(handed_on, format!("00-{TRACE}-{}-01", span["spanId"].as_str().expect("an id")));
    assert_eq!((&span["name"], &span["kind"]), (&json!("chat tiny"), &json!(2)));
    let whole = answer.json();
    for (name, value) in [
        ("gen_ai.operation.name", json!({"stringValue": "chat"})),
        ("gen_ai.request.model", json!({"stringValue": "tiny"})),
        ("gen_ai.response.id", json!({"stringValue": whole["id"]})),
        ("gen_ai.usage.input_tokens", json!({"intValue": whole["usage"]["prompt_tokens"].to_string()})),
        ("gen_ai.usage.output_tokens", json!({"intValue": whole["usage"]["completion_tokens"].to_string()})),
        ("gen_ai.response.finish_reasons", json!({"arrayValue": {"values": [{"stringValue": "stop"}]}})),
        ("http.response.status_code", json!({"intValue": "200"})),
        ("http.route", json!({"stringValue": CHAT})),
    ] {
        assert_eq!(attribute(&span, name), value, "{name}");
    }
    for name in ["time_in_queue", "time_to_first_token", "time_in_model_prefill", "time_in_model_decode", "e2e"] {
        assert!(attribute(&span, &format!("gen_ai.latency.{name}"))["doubleValue"].is_number(), "{name} {span}");
    }
    let nanos = |value: &Value| value.as_str().expect("a text").parse::<u64>().expect("a number");
    let events = span["events"].as_array().expect("events");
    assert_eq!(
        events.iter().map(|event| &event["name"]).collect::<Vec<_>>(),
        [&json!("queued"), &json!("prefill"), &json!("decode")]
    );
    let mut times = vec![nanos(&span["startTimeUnixNano"])];
    times.extend(events.iter().map(|event| nanos(&event["timeUnixNano"])));
    times.push(nanos(&span["endTimeUnixNano"]));
    assert!(times.is_sorted(), "{span}");
    assert!(!span.to_string().contains("Hello"), "no text is told");
    world.close().await;
}

#[actix_rt::test]
async fn what_is_refused_is_a_span_too_and_what_is_not_sampled_is_none() {
    let (address, spans) = collector(200);
    let world = world(&address, false).await;
    let unsampled = format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-00\r\n");
    assert_eq!(post_with(world.address, CHAT, &unsampled, SAID).await.status, 200);
    assert_eq!(post(world.address, "/tokenize", r#"{"prompt":"a"}"#).await.status, 200);
    let refused = post(world.address, "/v1/completions", "{}").await;
    let span = next(&spans).await;
    assert_eq!(attribute(&span, "gen_ai.operation.name"), json!({"stringValue": "text_completion"}));
    assert_eq!(attribute(&span, "http.response.status_code"), json!({"intValue": "400"}));
    assert_eq!(
        (&span["parentSpanId"], &span["status"]),
        (&json!(""), &json!({})),
        "a trace begins; a bad request is no error of the server"
    );
    assert!(refused.header("traceparent").is_some_and(|told| told.contains(span["traceId"].as_str().unwrap())));
    world.close().await;
}

/// A collector that refuses, and one that is not there, cost requests nothing.
#[actix_rt::test]
async fn a_collector_holds_up_no_request() {
    let (refusing, spans) = collector(503);
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        format!("http://{}", listener.local_addr().expect("an address"))
    };
    for address in [refusing, gone] {
        let world = world(&address, false).await;
        for _ in 0..20 {
            assert_eq!(post(world.address, CHAT, SAID).await.status, 200);
        }
        world.assert_empty().await;
        world.close().await;
    }
    drop(spans);
}
