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
