use std::future::poll_fn;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::super::wire::text_answer::TextEncoder;
use super::*;
use crate::actors::messages::{Finish, FinishKind, Part, PartKind};

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

const KEEP_ALIVE: Duration = Duration::from_millis(200);

fn open() -> (mpsc::Sender<Part>, Events) {
    let (sender, receiver) = mpsc::channel(8);
    (sender, Events::new(Parts::new(vec![receiver], 1), Encoder::Text(TextEncoder), KEEP_ALIVE))
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
    let finish = Finish { kind: FinishKind::Length, reasoning_tokens: 0, completion_tokens: 0 };
    sender.send(part(PartKind::Finished(finish))).await.unwrap();
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
