//! Rounds of draws: rows of a step whose logits are computed at once, and what is asked of each.
//!
//! Owns: the host's side of a round. A row's changes to logits (bias, penalties, masked stop
//! tokens) are gathered by token on the host, so that the device touches each logit once; which
//! tokens a grammar allows goes beside it, a bit each.

use std::borrow::Cow;

use super::memory::CudaOptions;
use crate::batch::{Allowed, Batch, Draw, DrawError, PositionLogprobs, Sampled, Slice, TokenId, TokenLogprob};
use crate::engine::config::ModelConfig;
use crate::engine::wanted::Wanted;
use antiphon_kernels::cuda::{LogitEdit, NOT_FINITE, Region, RowDraw, TOP_MAX};

const DRAW_WORDS: usize = 20;
const EDIT_WORDS: usize = 4;

/// How long a round's lists may be.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RoundSizes {
    pub(super) rows: usize,
    pub(super) edits: usize,
}

impl RoundSizes {
    fn draws_at(&self) -> usize {
        self.rows.next_multiple_of(4)
    }

    fn edits_at(&self) -> usize {
        self.draws_at() + self.rows * DRAW_WORDS
    }

    pub(super) fn words(&self) -> usize {
        self.edits_at() + self.edits * EDIT_WORDS
    }
}

/// A round's lists on the device.
pub(super) struct RoundRegions {
    pub(super) rows: Region<u32>,
    pub(super) draws: Region<RowDraw>,
    pub(super) edits: Region<LogitEdit>,
}

impl RoundRegions {
    pub(super) fn of(words: &Region<u32>, sizes: &RoundSizes) -> Self {
        Self {
            rows: words.view(0, sizes.rows),
            draws: words.view(sizes.draws_at(), sizes.rows),
            edits: words.view(sizes.edits_at(), sizes.edits),
        }
    }
}

/// A round on the host.
#[derive(Debug, Default)]
pub(super) struct HostRound {
    draws: Vec<RowDraw>,
    edits: Vec<LogitEdit>,
    /// The masks of its rows that have one, one after another.
    masks: Vec<u32>,
    /// Rows that may draw nothing.
    dead: Vec<usize>,
    /// For each token, one more than the index of its edit in the row at hand; all zero between
    /// rows.
    edit_of: Vec<u32>,
}

impl HostRound {
    pub(super) fn new(vocab_size: usize) -> Self {
        Self { edit_of: vec![0; vocab_size], ..Self::default() }
    }

    /// Takes rows from the front of `wanted` until the round is full; how many.
    pub(super) fn fill(&mut self, batch: &Batch, wanted: &[Wanted], config: &ModelConfig, options: &CudaOptions) -> usize {
        self.draws.clear();
        self.edits.clear();
        self.masks.clear();
        self.dead.clear();
        for wanted in wanted.iter().take(options.logit_rows()) {
            let slice = &batch.slices[wanted.slice];
            let begin = self.edits.len();
            let row = self.draw_of(slice, *wanted, config.vocab_size);
            // A row alone always fits: it has no token twice.
            if self.edits.len() > options.edits(config) {
                self.edits.truncate(begin);
                self.dead.retain(|row| *row < self.draws.len());
                break;
            }
            self.draws.push(row);
        }
        self.draws.len()
    }

    pub(super) fn sizes(&self) -> RoundSizes {
        RoundSizes { rows: self.draws.len(), edits: self.edits.len() }
    }

    /// The masks, to which draws refer.
    pub(super) fn masks(&self) -> &[u32] {
        &self.masks
    }

    /// Takes the rows that may draw nothing, whatever the device says.
    pub(super) fn take_dead(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.dead)
    }

    /// Writes rows, draws and edits where `sizes` has them; rows that fill up to its size report
    /// token zero, which is not read.
    pub(super) fn write(&self, wanted: &[Wanted], sizes: &RoundSizes, words: &mut [u32]) {
        let (rows, rest) = words.split_at_mut(sizes.draws_at());
        rows.fill(0);
        for (word, wanted) in rows.iter_mut().zip(wanted) {
            *word = wanted.row as u32;
        }
        let (draws, edits) = rest.split_at_mut(sizes.rows * DRAW_WORDS);
        let padding = RowDraw { is_draw: 0, ..RowDraw::default() };
        let every = self.draws.iter().chain(std::iter::repeat(&padding));
        for (words, draw) in draws.as_chunks_mut::<DRAW_WORDS>().0.iter_mut().zip(every) {
            *words = draw.words();
        }
        for (words, edit) in edits.as_chunks_mut::<EDIT_WORDS>().0.iter_mut().zip(&self.edits) {
            *words = edit.words();
        }
    }

    fn draw_of(&mut self, slice: &Slice, wanted: Wanted, vocab_size: usize) -> RowDraw {
        let top_count = on_device(wanted.top_count.unwrap_or(0));
        if let Some(TokenId(target)) = wanted.target {
            return RowDraw { is_draw: 0, wants_logprobs: 1, target, top_count, ..RowDraw::default() };
        }
        let Some(draw) = &slice.draw else { return RowDraw { is_draw: 0, ..RowDraw::default() } };
        let draw = &match wanted.draw {
            0 => Cow::Borrowed(draw),
            later => Cow::Owned(draw.later(later)),
        };
        let (sampling, edit) = (&*draw.sampling, self.edits.len());
        let allowed = sampling.allowed(draw.generated_count);
        self.add_edits(draw, &allowed);
        let mask = self.add_mask(&allowed, vocab_size);
        RowDraw {
            is_draw: 1,
            wants_logprobs: u32::from(wanted.top_count.is_some()),
            temperature: sampling.temperature,
            // The kernel sums likeliest tokens until the share is reached: of zero it would take
            // none.
            top_p: sampling.top_p.max(f32::MIN_POSITIVE),
            top_k: sampling.top_k,
            min_p: sampling.min_p,
            seed_low: sampling.seed as u32,
            seed_high: (sampling.seed >> 32) as u32,
            index: draw.generated_count,
            edit: edit as u32,
            edit_end: self.edits.len() as u32,
            mask,
            top_count,
            repetition: sampling.repetition_penalty,
            presence: sampling.presence_penalty,
            frequency: sampling.frequency_penalty,
            ..RowDraw::default()
        }
    }

    /// The changes that a draw makes to its logits, each token once.
    fn add_edits(&mut self, draw: &Draw, allowed: &Allowed) {
        let (sampling, begin) = (&*draw.sampling, self.edits.len());
        for (token, bias) in &sampling.logit_bias {
            self.edit(begin, *token, |edit| edit.bias += bias);
        }
        if sampling.needs_history() {
            for (position, token) in draw.history.iter().enumerate() {
                let generated = u32::from(position >= draw.history_prompt_len);
                self.edit(begin, *token, |edit| edit.seen = edit.seen.max(1) + generated);
            }
        }
        let masks_stops = sampling.masks_stops(draw.generated_count, allowed);
        let stops = masks_stops.then_some(sampling.stop_tokens.as_slice());
        let excepted = if let Allowed::Except(tokens) = allowed { Some(&**tokens) } else { None };
        for token in stops.into_iter().chain(excepted).flatten() {
            self.edit(begin, *token, |edit| edit.is_masked = 1);
        }
        for edit in &self.edits[begin..] {
            self.edit_of[edit.token as usize] = 0;
        }
    }

    /// The place of a row's mask; -1 if it has none.
    fn add_mask(&mut self, allowed: &Allowed, vocab_size: usize) -> i32 {
        let words = match allowed {
            // What is excepted is among the edits.
            Allowed::All | Allowed::Except(_) => return -1,
            Allowed::Only(words) => words,
            Allowed::Nothing => {
                self.dead.push(self.draws.len());
                return -1;
            }
        };
        let place = self.masks.len();
        self.masks.extend_from_slice(words);
        self.masks.resize(place + mask_words(vocab_size), 0);
        i32::try_from(place).expect("a round's masks are a few MiB")
    }

    fn edit(&mut self, begin: usize, token: TokenId, change: impl FnOnce(&mut LogitEdit)) {
        let Some(place) = self.edit_of.get_mut(token.0 as usize) else { return };
        if *place == 0 {
            self.edits.push(LogitEdit { token: token.0, ..LogitEdit::default() });
            *place = (self.edits.len() - begin) as u32;
        }
        change(&mut self.edits[begin + *place as usize - 1]);
    }
}

/// Words of a row's mask.
pub(super) fn mask_words(vocab_size: usize) -> usize {
    vocab_size.div_ceil(u32::BITS as usize)
}

/// What the device reports of `top_count` tokens; the host sees to the rest.
fn on_device(top_count: u32) -> u32 {
    if top_count as usize > TOP_MAX { 0 } else { top_count }
}

/// The token that a row reports: what was drawn, or the target.
pub(super) fn reported_token(words: &[u32]) -> Result<TokenId, DrawError> {
    if words[0] == NOT_FINITE { Err(DrawError::NotFinite) } else { Ok(TokenId(words[0])) }
}

/// Log-probabilities in a row's report.
pub(super) fn read_logprobs(words: &[u32], top_count: u32) -> PositionLogprobs {
    let top = words[4..].as_chunks::<2>().0.iter().take(top_count as usize).zip(1..);
    PositionLogprobs {
        chosen: TokenLogprob { token: TokenId(words[0]), logprob: f32::from_bits(words[1]), rank: words[2] },
        top: top
            .map(|([token, logprob], rank)| TokenLogprob { token: TokenId(*token), logprob: f32::from_bits(*logprob), rank })
            .collect(),
    }
}

/// Puts a row's outcome into its slice's report.
pub(super) fn put_report(
    wanted: Wanted,
    token: Result<TokenId, DrawError>,
    logprobs: Option<PositionLogprobs>,
    sampled: &mut [Sampled],
) {
    let report = &mut sampled[wanted.report];
    if wanted.target.is_some() {
        report.prompt_logprobs.extend(logprobs);
    } else {
        report.token = Some(token);
        report.logprobs = logprobs.map(Box::new);
    }
}
