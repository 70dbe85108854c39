use std::future::poll_fn;
use std::sync::Arc;

use actix_web::body::to_bytes;
use actix_web::test::TestRequest;
use proptest::prelude::*;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::actors::budget::Budget;
use crate::actors::messages::{Cached, Finish};
use crate::actors::parts::PartReceiver;
use crate::batch::Micros;
use crate::http::answer::progress::AnswerProgress;
use crate::http::answer::stream::*;
use crate::http::legacy::event_answer::EventEncoder;
use crate::http::legacy::text_answer::TextEncoder;
use crate::http::wire::samples;
use crate::metrics::{Metrics, ModelTags};

fn part(kind: PartKind) -> Part {
    let (tokens, logprobs, cached) = (Vec::new(), Vec::new(), Cached::default());
    Part { choice: 0, kind, tokens, logprobs, completion_tokens: 0, reasoning_tokens: 0, cached }
}

/// What the stream says next, as SSE fields.
async fn next(events: &mut Events) -> Option<String> {
    let event = poll_fn(|context| Pin::new(&mut *events).poll_next(context)).await?;
    Some(match event {
        Ok(sse::Event::Comment(text)) => format!(": {text}"),
        Ok(sse::Event::Data(data)) => format!("{data:?}"),
        Err(never) => match never {},
    })
}

fn finished(kind: FinishKind) -> Part {
    part(PartKind::Finished(Finish { kind, reasoning_tokens: 0, completion_tokens: 0, thinking_stop: None }))
}

const KEEP_ALIVE: Duration = Duration::from_millis(200);

fn metrics() -> Metrics {
    let text = String::new;
    let (model_size, dtype, gpu_mode, prompt_version) = (text(), text(), text(), text());
    Metrics::new(ModelTags { model_id: "tiny".to_owned(), model_size, dtype, gpu_mode, prompt_version })
}

/// How many streams are open, and how many were cancelled.
fn streams(metrics: &Metrics) -> (u64, u64) {
    let stats = metrics.stats(Micros::default());
    (stats.stream_active, stats.stream_cancelled)
}

/// Parts beside any budget.
fn unpaid(parts: mpsc::Receiver<Part>) -> PartReceiver {
    PartReceiver::new(parts, Arc::new(Budget::new(0)).open())
}

fn open() -> (mpsc::Sender<Part>, Events) {
    open_counted(&metrics())
}

fn open_counted(metrics: &Metrics) -> (mpsc::Sender<Part>, Events) {
    let (sender, receiver) = mpsc::channel(8);
    (sender, Events::new(unpaid(receiver), Encoder::Text(TextEncoder), KEEP_ALIVE, metrics.stream_opened()))
}

#[tokio::test]
async fn silence_is_filled_after_its_time_and_not_before() {
    let (sender, mut events) = open();
    let begun = Instant::now();
    assert_eq!(next(&mut events).await.unwrap(), ": keep-alive");
    assert!(begun.elapsed() >= KEEP_ALIVE, "after {:?}", begun.elapsed());
    sleep(KEEP_ALIVE / 2).await;
    sender.send(part(PartKind::Content("a".into()))).await.unwrap();
    let sent = Instant::now();
    assert!(next(&mut events).await.unwrap().contains("text"));
    assert_eq!(next(&mut events).await.unwrap(), ": keep-alive");
    assert!(sent.elapsed() >= KEEP_ALIVE, "text puts the comment off: {:?}", sent.elapsed());
}

#[tokio::test]
async fn the_end_lets_go_of_the_parts() {
    let (sender, mut events) = open();
    sender.send(finished(FinishKind::Length)).await.unwrap();
    assert!(next(&mut events).await.unwrap().contains("[DONE]"));
    assert_eq!(next(&mut events).await, None);
    assert!(sender.is_closed());
}

#[tokio::test]
async fn a_lost_answer_ends_with_an_error() {
    let (sender, mut events) = open();
    drop(sender);
    assert!(next(&mut events).await.unwrap().contains("the answer ended before it was finished"));
    assert!(next(&mut events).await.unwrap().contains("[DONE]"));
    assert_eq!(next(&mut events).await, None);
}

#[tokio::test]
async fn only_streams_that_were_cut_count_as_cancelled() {
    let metrics = metrics();
    let mut cancelled = 0;
    for (end, is_cut) in [(Some(FinishKind::Length), false), (Some(FinishKind::Cancelled), true), (None, true)] {
        let (sender, mut events) = open_counted(&metrics);
        assert_eq!(streams(&metrics), (1, cancelled));
        if let Some(kind) = end {
            sender.send(finished(kind)).await.unwrap();
            while next(&mut events).await.is_some() {}
        }
        drop(events);
        cancelled += u64::from(is_cut);
        assert_eq!(streams(&metrics), (0, cancelled));
    }
}

/// Events as the HTML standard reads them (section 9.2.6, "Interpreting an event stream"): a name
/// and a datum each.
fn interpreted(stream: &str) -> Vec<(String, String)> {
    let (mut events, mut name, mut data) = (Vec::new(), String::new(), String::new());
    let one_way = stream.replace("\r\n", "\n").replace('\r', "\n");
    for line in one_way.split('\n') {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" if line.is_empty() => {
                let (name, mut data) = (std::mem::take(&mut name), std::mem::take(&mut data));
                if data.pop().is_some() {
                    events.push((name, data));
                }
            }
            "event" => name = value.to_owned(),
            "data" => data = data + value + "\n",
            _ => {}
        }
    }
    events
}

fn named_events() -> EventEncoder {
    let (heading, metadata, progress) = (samples::heading(), samples::metadata(), AnswerProgress::new(3, 1));
    EventEncoder { heading, metadata, progress, include_usage: false, named: true }
}

/// The body of a whole stream of `texts`.
fn body(texts: &[String], encoder: Encoder) -> String {
    let (sender, receiver) = mpsc::channel(texts.len() + 1);
    let contents = texts.iter().map(|text| part(PartKind::Content(text.clone())));
    for part in contents.chain([finished(FinishKind::Length)]) {
        sender.try_send(part).expect("the channel has room");
    }
    let receiver = unpaid(receiver);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let bytes = runtime.block_on(async {
        let request = TestRequest::default().to_http_request();
        let response = respond(&request, receiver, encoder, KEEP_ALIVE, metrics().stream_opened());
        to_bytes(response.into_body()).await.expect("the body ends")
    });
    String::from_utf8(bytes.to_vec()).expect("events are UTF-8")
}

proptest! {
    #[test]
    fn any_text_comes_back_from_the_events_and_no_line_end_gets_into_one(
        texts in prop::collection::vec("([\r\n:{}\" ]|data: |event: x|\\n\\n|\u{2028}|\u{0}|안|😀|\\PC){0,12}", 1..6),
        named in any::<bool>(),
    ) {
        let encoder = match named {
            true => Encoder::Events(Box::new(named_events())),
            false => Encoder::Text(TextEncoder),
        };
        let body = body(&texts, encoder);
        prop_assert!(!body.contains('\r'));
        // Each event is one line of data, and its name before it: no text makes another line.
        prop_assert!(body.lines().all(|line| line.is_empty() || line.starts_with("data: ") || line.starts_with("event: ")));
        let events = interpreted(&body);
        let said = |(_, data): &(String, String)| -> Option<String> {
            let event: Value = serde_json::from_str(data).ok()?;
            event.get(if named { "content" } else { "text" })?.as_str().map(str::to_owned)
        };
        prop_assert_eq!(events.iter().filter_map(said).collect::<String>(), texts.concat());
        prop_assert!(events.iter().all(|(name, _)| name.is_empty() != named), "{:?}", events);
    }
}
