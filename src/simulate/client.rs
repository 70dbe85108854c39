//! What the world knows of one sequence, without asking the scheduler: what it must get, and what
//! it got.

use crate::batch::{DrawError, EngineLimits, Micros, PositionLogprobs, SeqId, Slice, TokenId};
use crate::scheduler::{CacheSalt, FinishReason, NewSequence, SequenceEvent};

use super::config::{Config, ROT};

/// Stands for a token that is not known yet.
pub(super) const AWAITED: TokenId = TokenId(u32::MAX);

/// One sequence as its client sees it.
#[derive(Debug)]
pub(super) struct SimulatedClient {
    /// Prompt, then the tokens received, and [`AWAITED`] while a step is planned ahead of the one
    /// that draws it.
    pub(super) tokens: Vec<TokenId>,
    new: NewSequence,
    /// When its request did.
    pub(super) arrived: Micros,
    /// When it entered the queue, and which of all that did it is.
    pub(super) entered: (Micros, u64),
    /// The first sequence of its request, which may be itself.
    pub(super) request: SeqId,
    /// It is not the first of its request, and has no deadline of its own.
    pub(super) is_later: bool,
    /// Leading tokens whose keys and values the engine holds, as far as the batches tell.
    pub(super) computed: usize,
    /// It was preempted when so many of its tokens were computed, and no more are since.
    pub(super) returns_to: Option<usize>,
    /// It ran before the plan that is checked.
    pub(super) ran_before: bool,
    /// It was sent back and does not run again.
    away: bool,
    /// It had a slice in some step.
    pub(super) ran: bool,
    /// Tokens that were found computed when it began, if it was said.
    began: Option<usize>,
    /// Acquitted of a lost step once so many tokens are computed in steps of its own.
    pub(super) accused_until: Option<usize>,
    lost_alone: u32,
    prompt_reported: bool,
}

impl SimulatedClient {
    pub(super) fn new(new: NewSequence, arrived: Micros, entered: (Micros, u64), request: SeqId, is_later: bool) -> Self {
        Self {
            tokens: new.prompt.clone(),
            new,
            arrived,
            entered,
            request,
            is_later,
            computed: 0,
            returns_to: None,
            ran_before: false,
            away: false,
            ran: false,
            began: None,
            accused_until: None,
            lost_alone: 0,
            prompt_reported: false,
        }
    }

    /// Most tokens that it can ever have.
    pub(super) fn tokens_max(&self) -> usize {
        self.new.prompt.len() + self.new.max_tokens as usize
    }

    fn get_on(&mut self, end: usize) {
        self.computed = end;
        self.returns_to = self.returns_to.filter(|computed| end <= *computed);
    }

    /// Whether it waits and never ran.
    pub(super) fn is_fresh(&self) -> bool {
        !self.ran && self.began.is_none()
    }

    /// Whether its next slice is a decode slice.
    pub(super) fn decodes(&self) -> bool {
        let is_complete = self.generated() == self.new.max_tokens as usize;
        self.computed >= self.new.prompt.len() && self.computed + 1 == self.tokens.len() && !is_complete
    }

    /// A step is planned ahead of one with this slice of it.
    pub(super) fn presume(&mut self, slice: &Slice) {
        self.get_on(slice.end());
        self.tokens.extend(slice.draw.as_ref().map(|_| AWAITED));
    }

    /// That step has ended, one way or the other.
    pub(super) fn settle(&mut self) {
        self.tokens.pop_if(|token| *token == AWAITED);
    }

    /// What it may find computed is of this salt.
    pub(super) fn salt(&self) -> CacheSalt {
        self.new.cache_salt
    }

    /// As if it had arrived then, it is served.
    pub(super) fn due(&self, level_micros: u64) -> i128 {
        i128::from(self.entered.0.0) + i128::from(self.new.priority.clamp(-100, 100)) * i128::from(level_micros)
    }

    /// Lower is served earlier.
    pub(super) fn priority(&self) -> i32 {
        self.new.priority
    }

    /// Tokens of its prompt.
    pub(super) fn prompt_tokens(&self) -> usize {
        self.new.prompt.len()
    }

    fn generated(&self) -> usize {
        self.tokens.len() - self.new.prompt.len()
    }

    /// Whether a slice is what a slice of this sequence must be.
    pub(super) fn check_slice(&self, slice: &Slice, tokens: &[TokenId], config: &Config) -> Result<(), String> {
        // From zero again after a preemption, or from what was found computed; whether it was
        // preempted the world cannot see.
        let block_tokens = config.limits.block_tokens;
        let goes_on = config.limits.copies_blocks || slice.start.is_multiple_of(block_tokens);
        let finds = goes_on && config.limits.prefix_cache.is_some() && !self.reports_prompt();
        expect(slice.start == self.computed || slice.start == 0 || finds, || {
            format!("begins at {}, {} are computed", slice.start, self.computed)
        })?;
        if !self.ran {
            let began = self.began.or(config.limits.prefix_cache.is_none().then_some(0));
            expect(began == Some(slice.start), || format!("begins at {}, and {began:?} was said", slice.start))?;
        }
        let (end, tokens) = (slice.end() - slice.drafts, &tokens[..slice.len() - slice.drafts]);
        expect(self.tokens.get(slice.start..end) == Some(tokens), || "computes tokens that it has not".into())?;
        expect(slice.draw.is_some() == (end == self.tokens.len()), || "draws where it does not end".into())?;
        let left_count = self.new.max_tokens as usize - self.generated();
        expect(slice.drafts < left_count || slice.drafts == 0, || format!("{} drafts, {left_count} left", slice.drafts))?;
        if let Some(draw) = &slice.draw {
            expect(draw.generated_count as usize == self.generated(), || "miscounts what was generated".into())?;
        }
        Ok(())
    }

    /// Whether log-probabilities of its prompt are still to come.
    fn reports_prompt(&self) -> bool {
        self.new.sampling.prompt_logprobs && !self.prompt_reported
    }

    /// A step with its slice was computed.
    pub(super) fn computed_to(&mut self, end: usize) {
        self.get_on(end);
        if self.accused_until.is_some_and(|until| end >= until) {
            self.accused_until = None;
        }
    }

    /// A step with its slice was computed, of which these tokens were guessed, and it has got what
    /// came of it since it had `tokens_count`.
    pub(super) fn drafted(&mut self, drafts: &[TokenId], tokens_count: usize) -> Result<(), String> {
        let got = &self.tokens[tokens_count..];
        let right_count = got.iter().zip(drafts).take_while(|(token, draft)| token == draft).count();
        expect(got.len() == 1 + right_count, || format!("got {got:?} of a slice with the drafts {drafts:?}"))?;
        self.computed_to(self.tokens.len() - 1);
        Ok(())
    }

    /// A step with its slice was lost.
    pub(super) fn lost(&mut self, end: usize, alone: bool) {
        self.accused_until = self.accused_until.max(Some(end));
        self.lost_alone += u32::from(alone);
    }

    /// Takes an event; answers whether it was the end.
    pub(super) fn take(&mut self, event: &SequenceEvent, config: &Config, limits: &EngineLimits) -> Result<bool, String> {
        match event {
            SequenceEvent::Entered { .. } => Err("entered twice".into()),
            SequenceEvent::Began { prompt_tokens, cached_tokens, missed_tokens, miss, held_micros, .. } => {
                let finds = config.limits.prefix_cache.is_some();
                let is_said = miss.is_some() == (finds && *cached_tokens == 0) && (finds || *cached_tokens == 0);
                expect(is_said, || format!("found {cached_tokens} tokens, and {miss:?}"))?;
                expect(*prompt_tokens == self.new.prompt.len(), || format!("has {prompt_tokens} tokens"))?;
                expect(cached_tokens + missed_tokens < *prompt_tokens, || {
                    "has its last token computed before it began".into()
                })?;
                let can_hold = config.limits.prefill_window_micros > 0;
                expect(can_hold || *held_micros == 0, || format!("was held for {held_micros}"))?;
                expect(self.began.replace(*cached_tokens).is_none() && !self.ran, || "began twice".into()).map(|()| false)
            }
            SequenceEvent::SentBack { .. } => {
                // It may have begun in a step that was withdrawn, and never had a slice.
                self.ran = true;
                expect(!std::mem::replace(&mut self.away, true) && self.began.is_some(), || "was sent back twice".into())
                    .map(|()| false)
            }
            SequenceEvent::Resumed { .. } => {
                expect(std::mem::replace(&mut self.away, false), || "goes on, and was not away".into()).map(|()| false)
            }
            SequenceEvent::Drafted { draft_tokens, accepted_tokens, .. } => {
                let right = accepted_tokens <= draft_tokens;
                expect(right, || format!("{accepted_tokens} of {draft_tokens} are right")).map(|()| false)
            }
            SequenceEvent::PromptLogprobs { logprobs, .. } => self.take_prompt_logprobs(logprobs).map(|()| false),
            SequenceEvent::Token { token, logprobs, .. } => {
                let expected = self.next_alone(config, limits);
                expect(expected == Ok(*token), || format!("got {token:?}, and alone it gets {expected:?}"))?;
                expect(!self.new.sampling.stop_tokens.contains(token), || "got a stop token as a token".into())?;
                expect(self.prompt_reported == self.new.sampling.prompt_logprobs, || "lacks its prompt's report".into())?;
                self.check_logprobs(logprobs.as_deref(), *token)?;
                self.tokens.push(*token);
                Ok(false)
            }
            SequenceEvent::Finished { reason, logprobs, .. } => {
                self.check_end(*reason, logprobs.as_deref(), config, limits)?;
                Ok(true)
            }
        }
    }

    fn take_prompt_logprobs(&mut self, logprobs: &[PositionLogprobs]) -> Result<(), String> {
        expect(self.new.sampling.prompt_logprobs, || "did not ask for its prompt's log-probabilities".into())?;
        expect(!self.prompt_reported, || "got its prompt's log-probabilities twice".into())?;
        expect(self.generated() == 0, || "got its prompt's log-probabilities after a token".into())?;
        self.prompt_reported = true;
        let chosen: Vec<TokenId> = logprobs.iter().map(|logprobs| logprobs.chosen.token).collect();
        expect(chosen == self.new.prompt[1..], || format!("prompt log-probabilities of {chosen:?}"))?;
        let top_count = self.new.sampling.logprobs.unwrap_or(0) as usize;
        expect(logprobs.iter().all(|logprobs| logprobs.top.len() == top_count), || "other likeliest tokens".into())
    }

    fn check_logprobs(&self, logprobs: Option<&PositionLogprobs>, token: TokenId) -> Result<(), String> {
        let wanted = self.new.sampling.logprobs.map(|top_count| (token, top_count as usize));
        let got = logprobs.map(|logprobs| (logprobs.chosen.token, logprobs.top.len()));
        expect(wanted == got, || format!("log-probabilities of {got:?}, expected {wanted:?}"))
    }

    fn check_end(
        &self,
        reason: FinishReason,
        logprobs: Option<&PositionLogprobs>,
        config: &Config,
        limits: &EngineLimits,
    ) -> Result<(), String> {
        let right = match reason {
            FinishReason::Stop(token) => {
                self.check_logprobs(logprobs, token)?;
                self.new.sampling.stop_tokens.contains(&token)
                    && self.generated() >= self.new.sampling.min_tokens as usize
                    && self.next_alone(config, limits) == Ok(token)
            }
            FinishReason::Length => self.generated() == self.new.max_tokens as usize,
            FinishReason::NotFinite => self.next_alone(config, limits) == Err(DrawError::NotFinite),
            FinishReason::EngineFailed => self.lost_alone >= 2,
            FinishReason::QueueTimeout => !self.ran && !self.is_later && config.limits.waiting_max_micros > 0,
            // No draw has masks here.
            FinishReason::Cancelled | FinishReason::NothingAllowed => false,
            // Whether another one failed is the world's to know.
            FinishReason::RequestFailed => true,
        };
        expect(right, || format!("ended by {reason:?} after {} tokens, wrongly", self.generated()))
    }

    /// The token that follows if the sequence runs alone on an engine with room for it. Called for
    /// every token in turn this is what a run alone gives: an answer is a function of the
    /// tokens before.
    fn next_alone(&self, config: &Config, limits: &EngineLimits) -> Result<TokenId, DrawError> {
        if config.rot && self.tokens.contains(&ROT) {
            return Err(DrawError::NotFinite);
        }
        let seen = self.tokens.len().saturating_sub(limits.sliding_window_tokens);
        let generated = u32::try_from(self.generated()).expect("sequences are short");
        config.answer.next(&self.tokens, &self.tokens[seen..], &self.new.sampling, generated, limits.vocab_size)
    }
}

/// `Ok` if `right`, else what is wrong.
pub(super) fn expect(right: bool, wrong: impl FnOnce() -> String) -> Result<(), String> {
    if right { Ok(()) } else { Err(wrong()) }
}
