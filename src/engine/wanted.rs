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
    /// How many likeliest tokens are to be reported; `None` asks for no log-probabilities.
    pub(super) top_count: Option<u32>,
}

/// Adds an empty report for each slice that asks for one, and lists the rows that they need: a
/// slice's prompt targets in order, then its draw.
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
            wanted.extend(rows.map(|(row, target)| Wanted { row, slice: index, report, target: Some(*target), top_count }));
        }
        if let Some(draw) = &slice.draw {
            let top_count = draw.sampling.logprobs;
            wanted.push(Wanted { row: slice.tokens.end - 1, slice: index, report, target: None, top_count });
        }
        sampled.push(Sampled { seq: slice.seq, token: None, logprobs: None, prompt_logprobs: Vec::new() });
    }
}
