//! Parts that wait for their reader.
//!
//! Promises: order; while parts wait, text that would go into one part goes into one part, so that
//! a slow reader costs text and not messages. Remembers which choices have given out their last
//! part, and how the response ended.

use std::collections::VecDeque;

use crate::actors::budget::{NoRoom, Reserved, Use};
use crate::actors::messages::{FinishKind, Part, PartKind};
use crate::metrics::RequestOutcome;

/// Parts this large are not added to: what is encoded at once stays small, however slow the reader.
const JOINED_MAX_BYTES: u64 = 16 << 10;

/// The waiting parts of a response.
#[derive(Debug)]
pub(super) struct Outbox {
    parts: VecDeque<Part>,
    /// How large the last of them is.
    last_bytes: u64,
    /// What they hold, and those that were handed over and not taken yet.
    memory: Reserved,
    finished: Vec<(u32, RequestOutcome)>,
}

impl Outbox {
    /// An empty one, whose parts are paid from `memory` until their reader has them.
    pub(super) fn new(memory: Reserved) -> Self {
        Self { parts: VecDeque::new(), last_bytes: 0, memory, finished: Vec::new() }
    }

    /// Appends a part.
    ///
    /// # Errors
    /// [`NoRoom`] if there is no memory for it; the last part of a choice is taken all the same.
    pub(super) fn push(&mut self, part: Part) -> Result<(), NoRoom> {
        let (bytes, more) = (part.bytes(), part.joined_bytes() as u64);
        if let PartKind::Finished(finish) = &part.kind {
            self.finished.push((part.choice, outcome(&finish.kind)));
        }
        if let Some(last) = self.parts.back_mut()
            && last.choice == part.choice
            && self.last_bytes + more <= JOINED_MAX_BYTES
            && can_join(&last.kind, &part.kind)
        {
            self.memory.grow(Use::Answer, more)?;
            self.last_bytes += more;
            join(&mut last.kind, &part.kind);
            last.tokens.extend(part.tokens);
            last.logprobs.extend(part.logprobs);
            last.completion_tokens = part.completion_tokens;
            last.reasoning_tokens = part.reasoning_tokens;
        } else {
            let paid = self.memory.grow(Use::Answer, bytes);
            if !matches!(part.kind, PartKind::Finished(_)) {
                paid?;
            }
            self.last_bytes = bytes;
            self.parts.push_back(part);
        }
        Ok(())
    }

    /// Appends parts.
    ///
    /// # Errors
    /// [`NoRoom`] as [`Outbox::push`]; those behind the first without room are lost.
    pub(super) fn extend(&mut self, parts: Vec<Part>) -> Result<(), NoRoom> {
        parts.into_iter().try_for_each(|part| self.push(part))
    }

    /// Forgets what waits, but for the ends of choices.
    pub(super) fn forget_texts(&mut self) {
        let memory = &self.memory;
        self.parts.retain(|part| {
            let is_end = matches!(part.kind, PartKind::Finished(_));
            if !is_end {
                memory.shrink(part.bytes());
            }
            is_end
        });
    }

    /// The oldest part.
    pub(super) fn pop(&mut self) -> Option<Part> {
        self.parts.pop_front()
    }

    /// The oldest part could not be sent after all.
    pub(super) fn put_back(&mut self, part: Part) {
        self.parts.push_front(part);
    }

    /// Whether no part waits.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether the last part of a choice was appended.
    pub(super) fn has_finished(&self, choice: u32) -> bool {
        self.finished.iter().any(|(finished, _)| *finished == choice)
    }

    /// How the response ended, for the metrics: as the worst of its choices.
    pub(super) fn outcome(&self) -> RequestOutcome {
        let worst_first = [RequestOutcome::Failed, RequestOutcome::Cancelled, RequestOutcome::Length];
        let any = |wanted: &RequestOutcome| self.finished.iter().any(|(_, outcome)| outcome == wanted);
        worst_first.into_iter().find(any).unwrap_or(RequestOutcome::Stop)
    }
}

/// Whether both are text of the same kind.
fn can_join(last: &PartKind, next: &PartKind) -> bool {
    match (last, next) {
        (PartKind::Reasoning(_), PartKind::Reasoning(_)) | (PartKind::Content(_), PartKind::Content(_)) => true,
        (PartKind::ToolCallArguments { index, .. }, PartKind::ToolCallArguments { index: same, .. }) => index == same,
        _ => false,
    }
}

/// Appends the text of `next` to `last`, of the same kind.
fn join(last: &mut PartKind, next: &PartKind) {
    if let (
        PartKind::Reasoning(text) | PartKind::Content(text) | PartKind::ToolCallArguments { text, .. },
        PartKind::Reasoning(more) | PartKind::Content(more) | PartKind::ToolCallArguments { text: more, .. },
    ) = (last, next)
    {
        text.push_str(more);
    }
}

fn outcome(kind: &FinishKind) -> RequestOutcome {
    match kind {
        FinishKind::Stop { .. } | FinishKind::ToolCalls | FinishKind::Repetition => RequestOutcome::Stop,
        FinishKind::Length => RequestOutcome::Length,
        FinishKind::Cancelled => RequestOutcome::Cancelled,
        FinishKind::Failed { .. } => RequestOutcome::Failed,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::actors::budget::Budget;
    use crate::actors::messages::{Cached, Finish};
    use crate::batch::TokenId;
    use crate::prompt::conversation::CallKind;

    fn outbox(most_bytes: u64) -> Outbox {
        Outbox::new(Arc::new(Budget::new(most_bytes)).open())
    }

    fn part(choice: u32, kind: PartKind, token: u32) -> Part {
        let (tokens, cached) = (vec![TokenId(token)], Cached::default());
        Part { choice, kind, tokens, logprobs: Vec::new(), completion_tokens: token, reasoning_tokens: 0, cached }
    }

    fn content(choice: u32, text: &str, token: u32) -> Part {
        part(choice, PartKind::Content(text.to_owned()), token)
    }

    #[test]
    fn waiting_text_of_one_kind_and_choice_becomes_one_part() {
        let mut outbox = outbox(1 << 20);
        outbox.extend(vec![content(0, "a", 1), content(0, "b", 2), content(1, "c", 3), content(0, "d", 4)]).unwrap();
        outbox.push(part(0, PartKind::Reasoning("e".to_owned()), 5)).unwrap();
        let first = outbox.pop().unwrap();
        assert_eq!(first.kind, PartKind::Content("ab".to_owned()));
        assert_eq!((first.tokens, first.completion_tokens), (vec![TokenId(1), TokenId(2)], 2));
        let rest: Vec<Part> = std::iter::from_fn(|| outbox.pop()).collect();
        assert_eq!(rest, [content(1, "c", 3), content(0, "d", 4), part(0, PartKind::Reasoning("e".to_owned()), 5)]);
        assert!(outbox.is_empty());
    }

    #[test]
    fn arguments_of_two_calls_are_not_joined() {
        let arguments = |index, text: &str| {
            part(0, PartKind::ToolCallArguments { index, kind: CallKind::Function, text: text.to_owned() }, 1)
        };
        let mut outbox = outbox(1 << 20);
        outbox.extend(vec![arguments(0, "{"), arguments(0, "}"), arguments(1, "{}")]).unwrap();
        assert_eq!(outbox.pop().unwrap().kind, arguments(0, "{}").kind);
        assert_eq!(outbox.pop().unwrap().kind, arguments(1, "{}").kind);
    }

    #[test]
    fn a_response_ended_as_the_worst_of_its_choices() {
        let finish = |choice, kind| {
            part(choice, PartKind::Finished(Finish { kind, reasoning_tokens: 0, completion_tokens: 0, thinking_stop: None }), 0)
        };
        let mut outbox = outbox(1 << 20);
        outbox.push(finish(1, FinishKind::Stop { matched: None })).unwrap();
        assert!(outbox.has_finished(1) && !outbox.has_finished(0));
        assert_eq!(outbox.outcome(), RequestOutcome::Stop);
        outbox.push(finish(0, FinishKind::Length)).unwrap();
        assert_eq!(outbox.outcome(), RequestOutcome::Length);
        outbox.push(finish(2, FinishKind::Failed { code: "engine_failed", message: String::new() })).unwrap();
        outbox.push(finish(3, FinishKind::Cancelled)).unwrap();
        assert_eq!(outbox.outcome(), RequestOutcome::Failed);
    }

    #[test]
    fn a_part_grows_to_its_bound_and_what_waits_is_paid_for() {
        let mut outbox = outbox(1 << 20);
        let text = "x".repeat(1_000);
        for token in 0..100 {
            outbox.push(content(0, &text, token)).unwrap();
        }
        let memory = outbox.memory.clone();
        let mut count = 0;
        while let Some(part) = outbox.pop() {
            assert!(part.bytes() <= JOINED_MAX_BYTES + size_of::<Part>() as u64, "{}", part.bytes());
            memory.shrink(part.bytes());
            count += 1;
        }
        assert!((6..10).contains(&count), "{count}");
        assert_eq!(memory.bytes(), 0);
    }

    #[test]
    fn without_memory_texts_are_refused_and_ends_are_taken() {
        let end = || Finish { kind: FinishKind::Length, reasoning_tokens: 0, completion_tokens: 0, thinking_stop: None };
        let mut outbox = outbox(10_000);
        while outbox.push(content(0, "more and more", 1)).is_ok() {}
        let memory = outbox.memory.clone();
        assert!(memory.bytes() > 9_000, "{}", memory.bytes());
        outbox.push(part(0, PartKind::Finished(end()), 2)).unwrap();
        assert!(outbox.has_finished(0));
        outbox.forget_texts();
        assert!(matches!(outbox.pop().unwrap().kind, PartKind::Finished(_)) && outbox.is_empty());
        assert!(memory.bytes() < 1_000, "{}", memory.bytes());
    }
}
