//! Guessing what a sequence draws next, so that one step computes several of its tokens.
//!
//! An answer that repeats its prompt or itself (code with a change, a quotation, a table) can be
//! guessed: what followed its last tokens before is likely to follow again (`prompt_lookup`). Its
//! slice gets those tokens as **drafts** behind its last one, and the engine draws after each of
//! them. A draw depends on the tokens before it and on its index alone. So the draws are those of a
//! sequence without drafts, as long as the drafts before them are what was drawn. **The longest
//! such run is taken, and one token more; the answer does not change by a bit.** What is stored
//! behind it is overwritten by the next slice.
//!
//! ```text
//! tokens so far   .. a b c         drafts  d e f
//! slice                  c d e f
//! drawn                  d e x ?   taken: d, e and x; the next slice begins with x
//! ```
//!
//! A commit takes such a slice for as many slices of one token as tokens are taken, one after
//! another. So blocks become known, windows slide and sequences end as without drafts: at a stop
//! token among the drafts too.
//!
//! * **Drafts take nothing from others**: tokens that the budget has left when all that runs and
//!   waits has its share, blocks only while none waits and all have theirs.
//! * A step has no more drafts than the profile says (`batch.draft_budget_tokens`), shared by those
//!   that decode. So a large batch has none: there a row more costs what it brings.
//! * A sequence guesses as far as its guesses were right lately, those where what was guessed
//!   before was right and those where it begins anew each by themselves. Where they do not pay it
//!   pauses with them, longer each time.
//! * Draws with a history follow from the draws before: those sequences do not guess. One with
//!   masks guesses as far as its mask holds on (`MaskOutlook`), and up to a token that may change
//!   it. A sequence that returns does not guess, nor does one whose drafts were in a lost step.
//! * A step with drafts is not followed by one that is planned ahead, and where a sequence could
//!   guess no step is planned ahead of its next token (`ahead`).

use super::block_tables::BlockTables;
use super::geometry::{BlockCounts, Geometry};
use super::prompt_lookup::{PromptLookup, Standing};
use super::step::{Planned, StepUnderWay};
use super::{Scheduler, SequenceEvent};
use crate::batch::{Sampled, TokenId};

/// What a row more adds to a step of one, as a share of it: a token must be right as often as that
/// to pay. On the CPU a step of 32 rows takes 10 times that of one on the small shape: 0.3 a row.
/// On gpt-oss-20b's a step of 8 rows takes 2.5 times, 0.2 a row (docs/performance.md, decode).
const ROW_COST: f32 = 0.35;
/// What is assumed before anything was verified: tokens right, of so many, where a place is read on
/// that was right, and where one was just found.
const ASSUMED_FOLLOWED: (f32, f32) = (9.0, 10.0);
const ASSUMED_FOUND: (f32, f32) = (3.0, 4.0);
/// What a verified slice leaves of the weight of those before it: some five count.
const DECAY: f32 = 0.8;
/// For so many tokens a sequence pauses whose guesses do not pay, at first; then twice as long each
/// time.
const PAUSE_MIN_TOKENS: usize = 16;
const PAUSE_MAX_TOKENS: usize = 1_024;

/// What came of guessing, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DraftCounts {
    /// Slices with drafts.
    pub drafts_total: u64,
    /// Tokens that were guessed.
    pub draft_tokens_total: u64,
    /// Those of them that were right, as all before them in their slices.
    pub accepted_tokens_total: u64,
}

/// How a sequence guesses.
#[derive(Debug)]
pub(super) struct Drafting {
    lookup: PromptLookup,
    followed: Trust,
    found: Trust,
    /// It guesses no more.
    is_stopped: bool,
}

/// How far guesses of one kind are trusted.
#[derive(Debug)]
struct Trust {
    assumed: (f32, f32),
    /// Of the latest guesses, older ones weighing less: tokens that were right, and those that were
    /// verified behind none that was wrong.
    right: f32,
    tried: f32,
    /// It pauses until the sequence has so many tokens.
    resumes_at: usize,
    pause_tokens: usize,
}

impl Trust {
    fn new(assumed: (f32, f32)) -> Self {
        let (right, tried) = assumed;
        Self { assumed, right, tried, resumes_at: 0, pause_tokens: PAUSE_MIN_TOKENS }
    }

    /// How many tokens to guess: the last of them is right often enough to pay.
    fn length(&self, tokens_count: usize, most: usize) -> usize {
        if tokens_count < self.resumes_at {
            return 0;
        }
        let rate = self.right / self.tried;
        let shares = std::iter::successors(Some(rate), |share| Some(share * rate));
        shares.take(most).take_while(|share| *share >= ROW_COST).count()
    }

    /// Of so many guessed tokens so many were right, of a sequence of `tokens_count` tokens before.
    fn note(&mut self, draft_tokens: usize, accepted_tokens: usize, tokens_count: usize) {
        let is_right = accepted_tokens == draft_tokens;
        self.right = self.right * DECAY + accepted_tokens as f32;
        self.tried = self.tried * DECAY + accepted_tokens as f32 + f32::from(u8::from(!is_right));
        if is_right {
            self.pause_tokens = PAUSE_MIN_TOKENS;
        } else if self.right < ROW_COST * self.tried {
            self.resumes_at = tokens_count + self.pause_tokens;
            self.pause_tokens = (2 * self.pause_tokens).min(PAUSE_MAX_TOKENS);
            (self.right, self.tried) = self.assumed;
        }
    }
}

impl Drafting {
    fn new(tokens_count: usize) -> Self {
        Self {
            lookup: PromptLookup::new(tokens_count),
            followed: Trust::new(ASSUMED_FOLLOWED),
            found: Trust::new(ASSUMED_FOUND),
            is_stopped: false,
        }
    }

    fn trust(&mut self, standing: Standing) -> &mut Trust {
        match standing {
            Standing::Followed => &mut self.followed,
            Standing::Found => &mut self.found,
        }
    }

    /// What follows the first `tokens_count` tokens, at most `most` of it.
    fn guess(&mut self, tokens_count: usize, most: usize, token: impl Fn(usize) -> TokenId + Copy) -> Vec<TokenId> {
        if self.is_stopped {
            return Vec::new();
        }
        let Some(place) = self.lookup.find(tokens_count, token) else { return Vec::new() };
        let length = self.trust(place.standing()).length(tokens_count, most);
        place.read(length, token)
    }

    /// Of so many tokens guessed behind so many others so many were right.
    fn note(&mut self, draft_tokens: usize, accepted_tokens: usize, tokens_count: usize) {
        if let Some(standing) = self.lookup.standing() {
            self.trust(standing).note(draft_tokens, accepted_tokens, tokens_count);
        }
    }
}

impl Scheduler {
    /// Guesses what the sequences draw that decode, for the step that begins, and takes the blocks
    /// for it. Tokens are left for all others, so none has to count the guessed ones.
    pub(super) fn guess(&mut self) {
        let most = self.slice_drafts_max();
        if most == 0 {
            return;
        }
        let (mut room, mut spare) = (self.spare_tokens(), self.spare_blocks());
        for at in 0..self.running.line_len() {
            let mut drafts = self.look_up(at, most.min(room));
            if drafts.is_empty() {
                continue;
            }
            let Self { running, tables, pools, geometry, .. } = self;
            let runner = &mut running[at];
            let (len, missing) = affordable(&runner.tables, runner.computed + 1, drafts.len(), &mut spare, geometry);
            runner.tables.grow(missing, tables, pools);
            drafts.truncate(len);
            room -= len;
            if len > 0 {
                self.step.guesses.push_back((runner.seq, drafts));
            }
        }
    }

    /// Whether a sequence that decodes could guess what the step under way draws.
    pub(super) fn guesses_next(&mut self) -> bool {
        let most = self.slice_drafts_max();
        most > 0 && (0..self.running.line_len()).any(|at| !self.look_up(at, most).is_empty())
    }

    /// Most drafts of a slice, if all that decode have as many.
    fn slice_drafts_max(&self) -> usize {
        let each = self.limits.draft_budget_tokens.checked_div(self.running.decoding_count()).unwrap_or(0);
        each.min(self.limits.slice_drafts_max).min(self.geometry.slice_tokens_max - 1).min(u8::MAX.into())
    }

    /// Tokens that the budget has left when everything that runs or waits has what it may take.
    fn spare_tokens(&self) -> usize {
        let slices = self.running.iter().map(|runner| runner.pending().min(self.geometry.slice_tokens_max));
        let taken = slices.sum::<usize>() + self.waiting.demand().step_tokens;
        self.limits.token_budget_tokens.saturating_sub(taken)
    }

    /// Blocks that are left when all that runs has those of its next slice; `None` if others want
    /// them.
    fn spare_blocks(&self) -> Option<BlockCounts> {
        let (missing, available) = (self.next_missing(), self.available());
        let is_wanted = self.waiting.count() > 0 || !self.running.returning().is_empty() || !missing.fit(available);
        (!is_wanted).then(|| available.less(missing))
    }

    /// Guesses at most `most` tokens of the sequence at `at`; none if it does not decode, or may
    /// not guess.
    fn look_up(&mut self, at: usize, most: usize) -> Vec<TokenId> {
        let (runner, sequences) = (&self.running[at], &mut self.sequences);
        let most = most.min((runner.left_count() as usize).saturating_sub(1));
        if most == 0 || !runner.can_guess() {
            return Vec::new();
        }
        let drafting = sequences[runner.place].drafting.take();
        let mut drafting = drafting.unwrap_or_else(|| Box::new(Drafting::new(runner.tokens_count)));
        let mut drafts = drafting.guess(runner.tokens_count, most, |position: usize| runner.token(position, sequences));
        drafts.truncate(runner.unheeded_count(&drafts));
        sequences[runner.place].drafting = Some(drafting);
        drafts
    }

    /// Takes each slice with drafts for as many slices of a token as were drawn with the right
    /// tokens before them; the reports of the others are dropped.
    pub(super) fn settle_drafts(
        &mut self,
        mut step: StepUnderWay,
        reports: Vec<Sampled>,
        events: &mut Vec<SequenceEvent>,
    ) -> (StepUnderWay, Vec<Sampled>) {
        if step.drafts.is_empty() {
            return (step, reports);
        }
        let (mut reports, mut drafts) = (reports.into_iter(), step.drafts.as_slice());
        let (mut planned, mut taken) = (Vec::new(), Vec::new());
        for slice in &step.planned {
            let (own, rest) = drafts.split_at(slice.drafts.into());
            drafts = rest;
            let own_reports: Vec<Sampled> = reports.by_ref().take(slice.reports_count()).collect();
            assert_eq!(own_reports.len(), slice.reports_count(), "the engine reports every draft");
            let is_right = |(draft, report): &(&TokenId, &Sampled)| report.token == Some(Ok(**draft));
            let accepted_tokens = own.iter().zip(&own_reports).take_while(is_right).count();
            self.note_drafts(slice, accepted_tokens, events);
            planned.extend((0..=accepted_tokens).map(|ahead| Planned { end: slice.end + ahead, drafts: 0, ..*slice }));
            taken.extend(own_reports.into_iter().take(1 + accepted_tokens));
        }
        taken.extend(reports);
        step.planned = planned;
        (step, taken)
    }

    fn note_drafts(&mut self, slice: &Planned, accepted_tokens: usize, events: &mut Vec<SequenceEvent>) {
        let (runner, draft_tokens) = (&self.running[slice.at], usize::from(slice.drafts));
        if draft_tokens == 0 || runner.is_gone() {
            return;
        }
        self.drafts.drafts_total += 1;
        self.drafts.draft_tokens_total += draft_tokens as u64;
        self.drafts.accepted_tokens_total += accepted_tokens as u64;
        if let Some(drafting) = &mut self.sequences[runner.place].drafting {
            drafting.note(draft_tokens, accepted_tokens, runner.tokens_count);
        }
        events.push(SequenceEvent::Drafted { seq: runner.seq, draft_tokens, accepted_tokens });
    }

    /// The step is lost: what it guessed may be what the engine failed on, and no trial has drafts.
    pub(super) fn stop_guessing(&mut self, step: &StepUnderWay) {
        for slice in step.planned.iter().filter(|slice| slice.drafts > 0) {
            let runner = &self.running[slice.at];
            if !runner.is_gone()
                && let Some(drafting) = &mut self.sequences[runner.place].drafting
            {
                drafting.is_stopped = true;
            }
        }
    }
}

/// How many of `drafts_max` drafts have blocks behind the first `end` tokens of a sequence, or get
/// some of those to `spare`; and what it needs for them.
fn affordable(
    tables: &BlockTables,
    end: usize,
    drafts_max: usize,
    spare: &mut Option<BlockCounts>,
    geometry: &Geometry,
) -> (usize, BlockCounts) {
    for len in (1..=drafts_max).rev() {
        let missing = tables.missing(end + len, geometry);
        if missing == BlockCounts::default() {
            return (len, missing);
        }
        // What it needs without drafts is not of what is to spare.
        let more = missing.less(tables.missing(end, geometry));
        if let Some(left) = spare.filter(|left| more.fit(*left)) {
            *spare = Some(left.less(more));
            return (len, missing);
        }
    }
    (0, BlockCounts::default())
}
