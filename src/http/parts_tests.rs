use std::sync::Arc;
use std::task::{Wake, Waker};

use super::*;
use crate::actors::messages::{PartKind, TokenText};

struct Asleep;

impl Wake for Asleep {
    fn wake(self: Arc<Self>) {}
}

fn part(choice: u32) -> Part {
    let logprobs: Vec<TokenText> = Vec::new();
    Part {
        choice,
        kind: PartKind::Content(String::new()),
        tokens: Vec::new(),
        logprobs,
        completion_tokens: 0,
        reasoning_tokens: 0,
    }
}

fn poll(parts: &mut Parts) -> Poll<Option<u32>> {
    let waker = Waker::from(Arc::new(Asleep));
    parts.poll(&mut Context::from_waker(&waker)).map(|part| part.map(|part| part.choice))
}

#[test]
fn choices_are_counted_through_all_prompts_in_turn() {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..3).map(|_| mpsc::channel(8)).unzip();
    let mut parts = Parts::new(receivers, 2);
    assert_eq!(poll(&mut parts), Poll::Pending);
    for sender in &senders {
        sender.try_send(part(1)).unwrap();
        sender.try_send(part(0)).unwrap();
    }
    let taken: Vec<_> = (0..6).map(|_| poll(&mut parts)).collect();
    assert_eq!(taken, [1, 3, 5, 0, 2, 4].map(|choice| Poll::Ready(Some(choice))), "no prompt holds back another");
    senders[2].try_send(part(1)).unwrap();
    drop(senders);
    assert_eq!(poll(&mut parts), Poll::Ready(Some(5)), "what was sent before the end still comes");
    assert_eq!(poll(&mut parts), Poll::Ready(None));
    assert_eq!(poll(&mut parts), Poll::Ready(None));
}

#[test]
fn closing_lets_go_of_every_prompt() {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..2).map(|_| mpsc::channel(8)).unzip();
    let mut parts = Parts::new(receivers, 1);
    parts.close();
    assert!(senders.iter().all(mpsc::Sender::is_closed));
}
