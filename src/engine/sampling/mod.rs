//! Drawing the next token from a row of logits.
//!
//! Owns: scratch memory, nothing that lasts from one draw to the next. Promises: what [`Sampling`]
//! documents, in its order; a draw depends on the logits and on the [`Draw`] alone, so neither
//! batching nor preemption changes it; equal logits go by the lowest id. Absent on purpose: stop
//! strings, grammars, threads (masks come from outside).

mod largest;
mod logprobs;
mod philox;
#[cfg(test)]
mod tests;

use crate::batch::{Allowed, Draw, DrawError, PositionLogprobs, Sampling, TokenId};
use largest::{Candidate, largest};

/// How many of the likeliest tokens top-p looks at first; each further look is [`LOOK_GROWTH`]
/// times wider.
const LOOK_FIRST: usize = 64;
const LOOK_GROWTH: usize = 8;

/// Maxima that are kept side by side: four vectors of the oldest CPUs.
const SIDE_BY_SIDE: usize = 16;
/// Logits of a stretch in which the largest is looked for.
const SEARCHED_AT_ONCE: usize = 256;

/// Draws tokens; keeps its scratch memory.
#[derive(Debug, Default)]
pub struct Sampler {
    /// The logits of a draw after bias, penalties and masks; `[V]`.
    adjusted: Vec<f32>,
    /// For each token, one more than how often it was generated, zero if it was not seen; all zero
    /// between draws; `[V]`.
    marks: Vec<u32>,
    /// The tokens that are still in the draw.
    kept: Vec<Candidate>,
}

impl Sampler {
    /// A sampler for rows of `vocab_size` logits; all its memory is taken here.
    #[must_use]
    pub fn new(vocab_size: usize) -> Self {
        Self { adjusted: Vec::with_capacity(vocab_size), marks: vec![0; vocab_size], kept: Vec::with_capacity(2 * vocab_size) }
    }

    /// Draws a token from `logits` `[V]`.
    ///
    /// # Errors
    /// [`DrawError::NotFinite`] if a logit is NaN or positive infinity, or if none is left that is
    /// finite; [`DrawError::NothingAllowed`] if its masks allow none.
    pub fn draw(&mut self, logits: &[f32], draw: &Draw) -> Result<TokenId, DrawError> {
        // The model's own logits go first: a bias or a mask must not hide that they are broken.
        finite_max(logits)?;
        let allowed = draw.sampling.allowed(draw.generated_count);
        if allowed == Allowed::Nothing {
            return Err(DrawError::NothingAllowed);
        }
        self.adjust(logits, draw, &allowed);
        let max = finite_max(&self.adjusted)?;
        let sampling = &*draw.sampling;
        if sampling.temperature == 0.0 {
            return first_of(&self.adjusted, max).ok_or(DrawError::NotFinite);
        }
        let weight = |logit: f32| f64::from(((logit - max) / sampling.temperature).exp());
        let share = philox::uniform(sampling.seed, draw.generated_count);
        let all = self.adjusted.len();
        let top_k = if sampling.top_k == 0 { all } else { all.min(sampling.top_k as usize) };
        if top_k == all && sampling.top_p >= 1.0 {
            return Ok(self.draw_from_all(share, f64::from(sampling.min_p), weight));
        }
        self.keep_likeliest(top_k, f64::from(sampling.top_p), weight);
        self.kept.retain(|candidate| weight(candidate.logit) >= f64::from(sampling.min_p));
        // By id, as without top-k and top-p, so that a bound that cuts nothing changes nothing.
        self.kept.sort_unstable_by_key(|candidate| candidate.token);
        Ok(pick(share, self.kept.iter().map(|candidate| (candidate.token, weight(candidate.logit)))))
    }

    /// Log-probabilities of the model at the position of `logits` `[V]`: of `chosen` and of the
    /// `top_count` likeliest tokens.
    ///
    /// # Panics
    /// If `chosen` is not in the vocabulary.
    pub fn logprobs(&mut self, logits: &[f32], chosen: TokenId, top_count: u32) -> PositionLogprobs {
        logprobs::position_logprobs(logits, chosen, top_count as usize, &mut self.kept)
    }

    /// Copies the logits and applies bias, penalties and masks, in the order of [`Sampling`].
    fn adjust(&mut self, logits: &[f32], draw: &Draw, allowed: &Allowed) {
        let sampling = &*draw.sampling;
        self.adjusted.clear();
        self.adjusted.extend_from_slice(logits);
        for (token, bias) in &sampling.logit_bias {
            if let Some(logit) = self.adjusted.get_mut(token.0 as usize) {
                *logit += bias;
            }
        }
        if sampling.needs_history() {
            self.penalise(sampling, draw);
        }
        match allowed {
            Allowed::Only(words) => mask(&mut self.adjusted, words),
            Allowed::Except(tokens) => self.take_out(tokens),
            Allowed::All | Allowed::Nothing => {}
        }
        if sampling.masks_stops(draw.generated_count, allowed) {
            self.take_out(&sampling.stop_tokens);
        }
    }

    /// Takes `tokens` out of the draw.
    fn take_out(&mut self, tokens: &[TokenId]) {
        for token in tokens {
            if let Some(logit) = self.adjusted.get_mut(token.0 as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }

    /// Applies the three penalties, each token once.
    fn penalise(&mut self, sampling: &Sampling, draw: &Draw) {
        for (position, token) in draw.history.iter().enumerate() {
            let mark = &mut self.marks[token.0 as usize];
            *mark = (*mark).max(1) + u32::from(position >= draw.history_prompt_len);
        }
        for token in &draw.history {
            // Taking the mark makes later occurrences do nothing, and leaves the marks clean for
            // the next draw.
            let mark = std::mem::take(&mut self.marks[token.0 as usize]);
            let Some(generated) = mark.checked_sub(1) else { continue };
            let logit = &mut self.adjusted[token.0 as usize];
            let penalty = sampling.repetition_penalty;
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            if generated > 0 {
                *logit -= sampling.presence_penalty + sampling.frequency_penalty * generated as f32;
            }
        }
    }

    /// Draws without top-k and top-p: two passes in order of id, nothing sorted.
    fn draw_from_all(&mut self, share: f64, min_p: f64, weight: impl Fn(f32) -> f64) -> TokenId {
        for logit in &mut self.adjusted {
            let weight = weight(*logit);
            // The weights take the logits' place; they came from f32 and go back without loss.
            let kept = if weight >= min_p { weight as f32 } else { 0.0 };
            *logit = kept;
        }
        pick(share, (0..).map(TokenId).zip(self.adjusted.iter().map(|weight| f64::from(*weight))))
    }

    /// Leaves in `kept` the `top_k` likeliest tokens, and of those the fewest whose share of their
    /// weight reaches `top_p`.
    fn keep_likeliest(&mut self, top_k: usize, top_p: f64, weight: impl Fn(f32) -> f64) {
        let all = self.adjusted.len();
        if top_k < all {
            largest(&self.adjusted, top_k, &mut self.kept);
            if top_p < 1.0 {
                let total: f64 = self.kept.iter().map(|candidate| weight(candidate.logit)).sum();
                self.cut_at(top_p * total, weight);
            }
            return;
        }
        let total: f64 = self.adjusted.iter().map(|logit| weight(*logit)).sum();
        let mut look = LOOK_FIRST;
        loop {
            largest(&self.adjusted, look, &mut self.kept);
            if self.cut_at(top_p * total, &weight) || look >= all {
                return;
            }
            look *= LOOK_GROWTH;
        }
    }

    /// Cuts `kept`, likeliest first, behind the token with which its weight reaches `mass`; whether
    /// it does.
    fn cut_at(&mut self, mass: f64, weight: impl Fn(f32) -> f64) -> bool {
        let mut sum = 0.0;
        let reached = self.kept.iter().position(|candidate| {
            sum += weight(candidate.logit);
            sum >= mass
        });
        self.kept.truncate(reached.map_or(self.kept.len(), |last| last + 1));
        reached.is_some()
    }
}

/// Takes every token out of the draw whose bit in `words` is not set.
fn mask(logits: &mut [f32], words: &[u32]) {
    let mut words = words.iter();
    for logits in logits.chunks_mut(u32::BITS as usize) {
        match words.next().copied().unwrap_or(0) {
            u32::MAX => {}
            0 => logits.fill(f32::NEG_INFINITY),
            word => {
                for (_, logit) in (0..).zip(logits).filter(|(bit, _)| word >> bit & 1 == 0) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }
}

/// The largest logit, if the row can be drawn from.
fn finite_max(logits: &[f32]) -> Result<f32, DrawError> {
    // Several maxima side by side, which the compiler makes vectors of: a single one waits for
    // itself at every logit, 26 us for 8,192 of them and not 1.5, and other threads have nothing to
    // do meanwhile.
    let mut maxima = [f32::NEG_INFINITY; SIDE_BY_SIDE];
    let mut has_nan = [false; SIDE_BY_SIDE];
    let mut take = |logits: &[f32]| {
        for ((max, has_nan), &logit) in maxima.iter_mut().zip(&mut has_nan).zip(logits) {
            *max = if logit > *max { logit } else { *max };
            *has_nan |= logit.is_nan();
        }
    };
    // Stretches of a known length: without that the loop is five times slower.
    let (whole, rest) = logits.as_chunks::<SIDE_BY_SIDE>();
    whole.iter().for_each(|logits| take(logits));
    take(rest);
    let max = maxima.into_iter().fold(f32::NEG_INFINITY, f32::max);
    if has_nan.contains(&true) || !max.is_finite() { Err(DrawError::NotFinite) } else { Ok(max) }
}

/// The first token with the logit `max`.
fn first_of(logits: &[f32], max: f32) -> Option<TokenId> {
    // Whole stretches are compared without looking at the single results, as vectors.
    let has_max = |logits: &[f32]| logits.iter().fold(false, |found, logit| found | (*logit == max));
    let stretch = logits.chunks(SEARCHED_AT_ONCE).position(has_max)? * SEARCHED_AT_ONCE;
    let token = logits[stretch..].iter().position(|logit| *logit == max)?;
    u32::try_from(stretch + token).ok().map(TokenId)
}

/// The token at which the running weight first exceeds `share` of the whole. The likeliest has
/// weight one, so there is one.
fn pick(share: f64, weighted: impl Iterator<Item = (TokenId, f64)> + Clone) -> TokenId {
    let target = share * weighted.clone().map(|(_, weight)| weight).sum::<f64>();
    let mut sum = 0.0;
    let mut last = TokenId(0);
    for (token, weight) in weighted.filter(|(_, weight)| *weight > 0.0) {
        sum += weight;
        last = token;
        if sum > target {
            break;
        }
    }
    last
}
