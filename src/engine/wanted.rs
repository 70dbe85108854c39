//! Which rows of a step need logits, and for which report.

use crate::batch::{Batch, Sampled, TokenId};

/// A row of the step whose logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Wanted {
    /// The row among the step's tokens.
    pub(super) row: usize,
    /// Its slice in the batch.
    pub(super) slice: usize,
    /// The slice's report in the step's.
    pub(super) report: usize,
    /// The prompt token whose log-probability is asked for; `None` asks for a draw.
    pub(super) target: Option<TokenId>,
    /// Which of the slice's draws it is, counted from zero: one for each draft before it.
    pub(super) draw: usize,
    /// How many likeliest tokens are to be reported; `None` asks for no log-probabilities.
    pub(super) top_count: Option<u32>,
}

/// Adds an empty report for each slice that asks for one, and for each of its drafts, and lists the
/// rows that they need: a slice's prompt targets in order, then its draws.
pub(super) fn list_wanted(batch: &Batch, sampled: &mut Vec<Sampled>, wanted: &mut Vec<Wanted>) {
    wanted.clear();
    for (index, slice) in batch.slices.iter().enumerate() {
        if slice.draw.is_none() && slice.prompt_targets.is_none() {
            continue;
        }
        let report = sampled.len();
        if let Some(targets) = &slice.prompt_targets {
            assert!(targets.tokens.len() <= slice.len(), "{:?}: more prompt targets than tokens", slice.seq);
            let rows = slice.tokens.clone().zip(&targets.tokens);
            let top_count = Some(targets.top_count);
            let wanted_of = |(row, target): (usize, &TokenId)| Wanted {
                row,
                slice: index,
                report,
                target: Some(*target),
                draw: 0,
                top_count,
            };
            wanted.extend(rows.map(wanted_of));
        }
        if let Some(draw) = &slice.draw {
            let (top_count, first) = (draw.sampling.logprobs, slice.tokens.end - 1 - slice.drafts);
            let wanted_of =
                |draw| Wanted { row: first + draw, slice: index, report: report + draw, target: None, draw, top_count };
            wanted.extend((0..=slice.drafts).map(wanted_of));
        }
        let empty = || Sampled { seq: slice.seq, token: None, logprobs: None, prompt_logprobs: Vec::new() };
        sampled.extend(std::iter::repeat_with(empty).take(1 + slice.drafts));
    }
}
