use std::future::poll_fn;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::super::wire::text_answer::TextEncoder;
use super::*;
use crate::actors::messages::Finish;
use crate::batch::Micros;
use crate::metrics::{Metrics, ModelTags};

fn part(kind: PartKind) -> Part {
    Part { choice: 0, kind, tokens: Vec::new(), logprobs: Vec::new(), completion_tokens: 0 }
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
    part(PartKind::Finished(Finish { kind, reasoning_tokens: 0, completion_tokens: 0 }))
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

fn open() -> (mpsc::Sender<Part>, Events) {
    open_counted(&metrics())
}

fn open_counted(metrics: &Metrics) -> (mpsc::Sender<Part>, Events) {
    let (sender, receiver) = mpsc::channel(8);
    let parts = Parts::new(vec![receiver], 1);
    (sender, Events::new(parts, Encoder::Text(TextEncoder), KEEP_ALIVE, metrics.stream_opened()))
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
