//! The service layer: the same question, asked of the actors in this process, with no HTTP between.

use std::time::{Duration, Instant};

use super::super::asking::TextChunk;
use super::super::bench::Bench;
use super::super::case::Halt;
use crate::actors::messages::{
    AnswerOptions, AskedTokens, Coalescing, FinishKind, Generate, KeyId, PartKind, ResponseInput, WrittenNumbers,
};
use crate::batch::Sampling;
use crate::prompt::conversation::{Conversation, Message};

/// An answer of the service.
pub(super) struct Served {
    pub(super) started: Instant,
    pub(super) ended: Instant,
    pub(super) content: Vec<TextChunk>,
    pub(super) finish: FinishKind,
}

impl Served {
    /// The answer.
    pub(super) fn text(&self) -> String {
        self.content.iter().map(|chunk| chunk.text.as_str()).collect()
    }

    /// From the request to the end.
    pub(super) fn seconds(&self) -> f64 {
        (self.ended - self.started).as_secs_f64()
    }
}

/// Asks the service, greedy, and takes the parts at a pace if there is one.
pub(super) async fn serve(
    bench: &Bench,
    question: &str,
    coalescing: Coalescing,
    pace: Option<Duration>,
) -> Result<Served, Halt> {
    let Some(service) = &bench.target.service else {
        return Err(Halt::Skip("the service layer of a server elsewhere cannot be called; --embedded has one here".to_owned()));
    };
    let messages = vec![Message::User { content: question.to_owned() }];
    let started = Instant::now();
    let accepted = service
        .generate(Generate {
            request_id: format!("verify-{}", uuid::Uuid::new_v4().simple()),
            inputs: vec![ResponseInput::Chat(Conversation { messages, ..Conversation::default() })],
            choices_count: 1,
            max_tokens: Some(u32::try_from(bench.context_tokens / 2).unwrap_or(u32::MAX).min(1024)),
            cuts_at_context: false,
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            written: WrittenNumbers::default(),
            seed: None,
            form: None,
            stop_strings: Vec::new(),
            ignore_eos: false,
            answer: AnswerOptions::default(),
            tokens: AskedTokens::default(),
            cut: None,
            coalescing,
            session: None,
            owner: KeyId::default(),
            cache_salt: None,
            has_cache_key: false,
            priority: 0,
            memory: None,
        })
        .await;
    let mut accepted = accepted.map_err(|refusal| Halt::Fail(format!("the service refuses: {refusal:?}")))?;
    let mut content: Vec<TextChunk> = Vec::new();
    while let Some(part) = accepted.parts.recv().await {
        match part.kind {
            PartKind::Content(text) if !text.is_empty() => {
                if let (Some(pace), Some(last)) = (pace, content.last()) {
                    tokio::time::sleep_until((last.at + pace).into()).await;
                }
                content.push(TextChunk { at: Instant::now(), text });
            }
            PartKind::Finished(finish) => return Ok(Served { started, ended: Instant::now(), content, finish: finish.kind }),
            _ => {}
        }
    }
    Err(Halt::Fail("the service ended its parts without a finish".to_owned()))
}
