//! Parts that wait for their reader.
//!
//! Promises: order; while parts wait, text that would go into one part goes into one part, so that a slow reader costs text and
//! not messages. Remembers which choices have given out their last part, and how the response ended.

use std::collections::VecDeque;

use crate::actors::messages::{FinishKind, Part, PartKind};
use crate::metrics::Outcome;

/// The waiting parts of a response.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    parts: VecDeque<Part>,
    finished: Vec<(u32, Outcome)>,
}

impl Outbox {
    /// Appends a part.
    pub(super) fn push(&mut self, part: Part) {
        if let PartKind::Finished(finish) = &part.kind {
            self.finished.push((part.choice, outcome(&finish.kind)));
        }
        if let Some(last) = self.parts.back_mut()
            && last.choice == part.choice
            && join(&mut last.kind, &part.kind)
        {
            last.tokens.extend(part.tokens);
            last.logprobs.extend(part.logprobs);
            last.completion_tokens = part.completion_tokens;
            last.reasoning_tokens = part.reasoning_tokens;
        } else {
            self.parts.push_back(part);
        }
    }

    /// Appends parts.
    pub(super) fn extend(&mut self, parts: Vec<Part>) {
        for part in parts {
            self.push(part);
        }
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
    pub(super) fn outcome(&self) -> Outcome {
        let worst_first = [Outcome::Failed, Outcome::Cancelled, Outcome::Length];
        let any = |wanted: &Outcome| self.finished.iter().any(|(_, outcome)| outcome == wanted);
        worst_first.into_iter().find(any).unwrap_or(Outcome::Stop)
    }
}

/// Appends the text of `next` to `last` if both are text of the same kind.
fn join(last: &mut PartKind, next: &PartKind) -> bool {
    match (last, next) {
        (PartKind::Reasoning(text), PartKind::Reasoning(more)) | (PartKind::Content(text), PartKind::Content(more)) => {
            text.push_str(more);
            true
        }
        (PartKind::ToolCallArguments { index, text }, PartKind::ToolCallArguments { index: same, text: more })
            if index == same =>
        {
            text.push_str(more);
            true
        }
        _ => false,
    }
}

fn outcome(kind: &FinishKind) -> Outcome {
    match kind {
        FinishKind::Stop { .. } | FinishKind::ToolCalls => Outcome::Stop,
        FinishKind::Length => Outcome::Length,
        FinishKind::Cancelled => Outcome::Cancelled,
        FinishKind::Failed { .. } => Outcome::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::messages::Finish;
    use crate::batch::TokenId;

    fn part(choice: u32, kind: PartKind, token: u32) -> Part {
        Part { choice, kind, tokens: vec![TokenId(token)], logprobs: Vec::new(), completion_tokens: token, reasoning_tokens: 0 }
    }

    fn content(choice: u32, text: &str, token: u32) -> Part {
        part(choice, PartKind::Content(text.to_owned()), token)
    }

    #[test]
    fn waiting_text_of_one_kind_and_choice_becomes_one_part() {
        let mut outbox = Outbox::default();
        outbox.extend(vec![content(0, "a", 1), content(0, "b", 2), content(1, "c", 3), content(0, "d", 4)]);
        outbox.push(part(0, PartKind::Reasoning("e".to_owned()), 5));
        let first = outbox.pop().unwrap();
        assert_eq!(first.kind, PartKind::Content("ab".to_owned()));
        assert_eq!((first.tokens, first.completion_tokens), (vec![TokenId(1), TokenId(2)], 2));
        let rest: Vec<Part> = std::iter::from_fn(|| outbox.pop()).collect();
        assert_eq!(rest, [content(1, "c", 3), content(0, "d", 4), part(0, PartKind::Reasoning("e".to_owned()), 5)]);
        assert!(outbox.is_empty());
    }

    #[test]
    fn arguments_of_two_calls_are_not_joined() {
        let arguments = |index, text: &str| part(0, PartKind::ToolCallArguments { index, text: text.to_owned() }, 1);
        let mut outbox = Outbox::default();
        outbox.extend(vec![arguments(0, "{"), arguments(0, "}"), arguments(1, "{}")]);
        assert_eq!(outbox.pop().unwrap().kind, arguments(0, "{}").kind);
        assert_eq!(outbox.pop().unwrap().kind, arguments(1, "{}").kind);
    }

    #[test]
    fn a_response_ended_as_the_worst_of_its_choices() {
        let finish =
            |choice, kind| part(choice, PartKind::Finished(Finish { kind, reasoning_tokens: 0, completion_tokens: 0 }), 0);
        let mut outbox = Outbox::default();
        outbox.push(finish(1, FinishKind::Stop { matched: None }));
        assert!(outbox.has_finished(1) && !outbox.has_finished(0));
        assert_eq!(outbox.outcome(), Outcome::Stop);
        outbox.push(finish(0, FinishKind::Length));
        assert_eq!(outbox.outcome(), Outcome::Length);
        outbox.push(finish(2, FinishKind::Failed { code: "engine_failed", message: String::new() }));
        outbox.push(finish(3, FinishKind::Cancelled));
        assert_eq!(outbox.outcome(), Outcome::Failed);
    }
}
