//! The sequences that run, in the order of service, which is that of their ids.
//!
//! What a step reads and writes of each lies side by side here, so that a step walks through memory
//! once: with 65,536 of them, reading each where its prompt is kept took four times as long as
//! everything else.

use std::collections::BTreeSet;
use std::ops::{Index, IndexMut};

use super::block_pool::BlockPools;
use super::block_tables::{BlockTables, Tables};
use super::geometry::Geometry;
use super::sequence::{PromptLogprobs, Sequence, SequenceIndex, Sequences};
use crate::batch::{MaskOutlook, SeqId, TokenId};

/// So many generated tokens go to their sequence together: each visit there costs a walk to far
/// memory.
const LATEST_MAX_COUNT: usize = 10;

/// A sequence that runs: what a decode step needs of it.
///
/// **`computed` is less than the number of tokens: there is always something to compute.**
#[derive(Debug)]
pub(super) struct Runner {
    pub(super) seq: SeqId,
    /// Where the rest of it is kept.
    pub(super) place: SequenceIndex,
    /// It ended, and is only still in the line.
    gone: bool,
    /// Whether it has caught up but for one token after its prompt; else it is being prefilled.
    pub(super) decoding: bool,
    /// Whether it was preempted and has not got further since.
    is_returning: bool,
    /// Whether its draws need all its tokens.
    pub(super) needs_history: bool,
    /// How far what it may draw does not depend on what it drew before.
    pub(super) outlook: MaskOutlook,
    /// Whether log-probabilities of its prompt are gathered.
    pub(super) awaits_prompt_logprobs: bool,
    /// The last of its tokens.
    pub(super) last: TokenId,
    /// The slice of the step under way that draws the last of its tokens, if that is not known yet.
    awaited_of: Option<u32>,
    /// Generated tokens that its sequence has not been given yet, and how many.
    latest: [TokenId; LATEST_MAX_COUNT],
    latest_count: u8,
    /// Tokens, prompt and output.
    pub(super) tokens_count: usize,
    /// Tokens generated so far, and still to be generated.
    pub(super) generated_count: u32,
    left_count: u32,
    /// Leading tokens whose keys and values are stored, or will be by the step under way, if its
    /// end is presumed.
    pub(super) computed: usize,
    /// How many are computed when its next block is filled that is not known yet; never if the
    /// prefix cache is off.
    pub(super) fills_at: usize,
    /// Of its leading tokens so many were known when it began, in the global group.
    pub(super) known_tokens: usize,
    /// Bit `i` is set if a stop token is `i` modulo 64: whether a token may be one is known without
    /// looking at the list.
    stops: u64,
    pub(super) tables: BlockTables,
}

impl Runner {
    /// Begins to run `sequence`, which is kept at `place`: nothing is computed, no block is held.
    pub(super) fn new(place: SequenceIndex, sequence: &Sequence) -> Self {
        let stops = &sequence.sampling.stop_tokens;
        let generated = sequence.tokens.len() - sequence.prompt_len;
        let generated_count = u32::try_from(generated).expect("no more than max_tokens are generated");
        Self {
            seq: sequence.id,
            place,
            gone: false,
            decoding: false,
            is_returning: sequence.advances_at > 0,
            needs_history: sequence.sampling.needs_history(),
            outlook: sequence.sampling.masks.as_ref().map_or(MaskOutlook::FREE, |masks| masks.0.outlook()),
            awaits_prompt_logprobs: matches!(sequence.prompt_logprobs, PromptLogprobs::Gathering(_)),
            last: *sequence.tokens.last().expect("a prompt without tokens is rejected"),
            awaited_of: None,
            latest: [TokenId(0); LATEST_MAX_COUNT],
            latest_count: 0,
            tokens_count: sequence.tokens.len(),
            generated_count,
            left_count: sequence.max_tokens - generated_count,
            computed: 0,
            fills_at: usize::MAX,
            known_tokens: 0,
            stops: stops.iter().fold(0, |bits, token| bits | bit(*token)),
            tables: BlockTables::default(),
        }
    }

    /// Whether it was preempted and has not got further since.
    pub(super) fn is_returning(&self) -> bool {
        self.is_returning
    }

    /// Whether it runs no more.
    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Tokens of its prompt.
    pub(super) fn prompt_len(&self) -> usize {
        self.tokens_count - self.generated_count as usize
    }

    /// Tokens that are not computed yet.
    pub(super) fn pending(&self) -> usize {
        self.tokens_count - self.computed
    }

    /// What `decoding` must say.
    pub(super) fn has_caught_up(&self) -> bool {
        self.pending() == 1 && self.computed >= self.prompt_len()
    }

    /// Tokens still to be generated.
    pub(super) fn left_count(&self) -> u32 {
        self.left_count
    }

    /// Whether the tokens asked for are generated.
    pub(super) fn is_complete(&self) -> bool {
        self.left_count == 0
    }

    /// Whether `token` is one of its stop tokens.
    pub(super) fn stops_at(&self, token: TokenId, sequences: &Sequences) -> bool {
        self.stops & bit(token) != 0 && sequences[self.place].sampling.stop_tokens.contains(&token)
    }

    /// The slice of the step under way that draws the last of its tokens, if that is not known yet.
    pub(super) fn awaited_of(&self) -> Option<usize> {
        self.awaited_of.map(|slice| slice as usize)
    }

    /// Appends the token that this slice of the step under way draws.
    pub(super) fn append_awaited(&mut self, slice: usize, sequences: &mut Sequences) {
        self.append(TokenId(0), sequences);
        self.awaited_of = Some(u32::try_from(slice).expect("no step has 2^32 slices"));
    }

    /// Whether its next draw has to wait for the commit of the step under way, which tells what it
    /// may draw.
    pub(super) fn awaits_mask(&self) -> bool {
        self.awaited_of.is_some() && !self.outlook.covers(self.generated_count)
    }

    /// Appends a generated token, or puts it where it is awaited; which of the generated tokens it
    /// is, counted from zero.
    pub(super) fn append(&mut self, token: TokenId, sequences: &mut Sequences) -> u32 {
        if self.awaited_of.take().is_some() {
            self.latest[usize::from(self.latest_count) - 1] = token;
            self.last = token;
            return self.generated_count - 1;
        }
        if usize::from(self.latest_count) == LATEST_MAX_COUNT {
            self.hand_over(&mut sequences[self.place]);
        }
        self.latest[usize::from(self.latest_count)] = token;
        self.latest_count += 1;
        self.last = token;
        self.tokens_count += 1;
        self.generated_count += 1;
        self.left_count -= 1;
        self.generated_count - 1
    }

    /// Generated tokens that its sequence has not been given yet.
    pub(super) fn latest(&self) -> &[TokenId] {
        &self.latest[..usize::from(self.latest_count)]
    }

    /// Makes `history`, its tokens at some earlier time, its tokens now.
    pub(super) fn extend(&self, history: &mut Vec<TokenId>, sequences: &Sequences) {
        let kept_count = self.tokens_count - usize::from(self.latest_count);
        if history.len() < kept_count {
            history.extend_from_slice(&sequences[self.place].tokens[history.len()..]);
        }
        history.extend_from_slice(&self.latest()[history.len() - kept_count..]);
    }

    /// Appends `count` of its tokens to `out`, from the one at `from` on.
    pub(super) fn copy(&self, from: usize, count: usize, sequences: &Sequences, out: &mut Vec<TokenId>) {
        let tokens = &sequences[self.place].tokens;
        // The sequence has all but the latest.
        let (given_count, end) = (tokens.len(), from + count);
        if from < given_count {
            out.extend_from_slice(&tokens[from..end.min(given_count)]);
        }
        if end > given_count {
            out.extend_from_slice(&self.latest()[from.max(given_count) - given_count..end - given_count]);
        }
    }

    /// The token at `position`.
    pub(super) fn token(&self, position: usize, sequences: &Sequences) -> TokenId {
        let tokens = &sequences[self.place].tokens;
        tokens.get(position).copied().unwrap_or_else(|| self.latest[position - tokens.len()])
    }

    /// Whether what it draws next can be guessed and verified: it decodes, and no draw needs the
    /// tokens before it.
    pub(super) fn can_guess(&self) -> bool {
        self.decoding && !self.needs_history && !self.is_returning && self.awaited_of.is_none()
    }

    /// How many of these guesses may stand before a draw under the mask that holds now: none that
    /// its masks are told of, for they may change it.
    pub(super) fn unheeded_count(&self, drafts: &[TokenId]) -> usize {
        let draws = drafts.iter().zip(self.generated_count..);
        draws.take_while(|(token, index)| !self.outlook.heeds(*index, **token)).count()
    }

    /// Gives back the sliding blocks that no later token of it sees.
    pub(super) fn slide(&mut self, geometry: &Geometry, tables: &mut Tables, pools: &mut BlockPools) {
        let ends = [self.prompt_len(), self.known_tokens];
        self.tables.slide(self.computed, ends, geometry, tables, pools);
    }

    /// It never gets the token that it awaits.
    fn forget_awaited(&mut self) {
        // It is taken out of the line: what it counts besides is not read again.
        if self.awaited_of.is_some() {
            self.latest_count -= 1;
        }
    }

    fn hand_over(&mut self, sequence: &mut Sequence) {
        sequence.tokens.extend_from_slice(self.latest());
        self.latest_count = 0;
    }
}

fn bit(token: TokenId) -> u64 {
    1 << (token.0 % 64)
}

/// All that run.
///
/// An index into them holds from the beginning of a plan to its commit. A sequence that ends stays
/// in the line until the next plan without a step under way. Others come at its end only, and are
/// taken out only where no step knows those behind them.
#[derive(Debug, Default)]
pub(super) struct RunningSequences {
    line: Vec<Runner>,
    /// So many of them, from the first on, are in order: one that goes before others and came
    /// later stands behind them till the next plan without a step under way.
    ordered_count: usize,
    gone_count: usize,
    decoding_count: usize,
    /// Those that return, in no order.
    returning: Vec<SeqId>,
}

impl RunningSequences {
    pub(super) fn count(&self) -> usize {
        self.line.len() - self.gone_count
    }

    /// How many of them decode.
    pub(super) fn decoding_count(&self) -> usize {
        self.decoding_count
    }

    /// How long the line is, with those that are gone.
    pub(super) fn line_len(&self) -> usize {
        self.line.len()
    }

    /// First first.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Runner> {
        self.line.iter().filter(|runner| !runner.gone)
    }

    /// Those that return.
    pub(super) fn returning(&self) -> &[SeqId] {
        &self.returning
    }

    /// The last one, from the one at `from` on, that does not return.
    pub(super) fn last_settled(&self, from: usize) -> Option<usize> {
        (from..self.line.len()).rev().find(|at| !self.line[*at].gone && !self.line[*at].is_returning)
    }

    /// Whether none runs that stands behind the one at `at`.
    pub(super) fn is_last(&self, at: usize) -> bool {
        self.line[at + 1..].iter().all(|runner| runner.gone)
    }

    /// Where `seq` is, if it runs.
    pub(super) fn find(&self, seq: SeqId) -> Option<usize> {
        let (ordered, others) = self.line.split_at(self.ordered_count);
        let at = match ordered.binary_search_by_key(&seq, |runner| runner.seq) {
            Ok(at) => at,
            Err(_) => self.ordered_count + others.iter().position(|runner| runner.seq == seq)?,
        };
        (!self.line[at].gone).then_some(at)
    }

    /// Puts one at the end; answers its index.
    pub(super) fn enter(&mut self, runner: Runner) -> usize {
        self.returning.extend(runner.is_returning.then_some(runner.seq));
        let is_in_order = self.is_in_order() && self.line.last().is_none_or(|last| last.seq < runner.seq);
        self.line.push(runner);
        self.ordered_count += usize::from(is_in_order);
        self.line.len() - 1
    }

    pub(super) fn set_decoding(&mut self, at: usize, decoding: bool) {
        let before = std::mem::replace(&mut self.line[at].decoding, decoding);
        self.decoding_count = self.decoding_count + usize::from(decoding) - usize::from(before);
    }

    /// The one at `at` has got further than it ever was.
    pub(super) fn set_returned(&mut self, at: usize) {
        let runner = &mut self.line[at];
        if std::mem::take(&mut runner.is_returning) {
            self.returning.retain(|seq| *seq != runner.seq);
        }
    }

    /// The one at `at` has ended: its blocks are given back.
    pub(super) fn end(&mut self, at: usize, tables: &mut Tables, pools: &mut BlockPools) {
        self.set_decoding(at, false);
        self.set_returned(at);
        let runner = &mut self.line[at];
        assert!(!std::mem::replace(&mut runner.gone, true), "sequence {} ends once", runner.seq.0);
        runner.tables.release(tables, pools);
        self.gone_count += 1;
    }

    /// Takes the one at `at` out, whose blocks are given back, and gives its sequence its tokens;
    /// answers its place.
    pub(super) fn take_out(
        &mut self,
        at: usize,
        sequences: &mut Sequences,
        tables: &mut Tables,
        pools: &mut BlockPools,
    ) -> SequenceIndex {
        self.set_returned(at);
        let mut runner = self.line.remove(at);
        self.ordered_count -= usize::from(at < self.ordered_count);
        runner.tables.release(tables, pools);
        runner.forget_awaited();
        runner.hand_over(&mut sequences[runner.place]);
        self.decoding_count -= usize::from(runner.decoding);
        runner.place
    }

    /// As [`RunningSequences::take_out`], for the last one that runs.
    pub(super) fn take_last(
        &mut self,
        sequences: &mut Sequences,
        tables: &mut Tables,
        pools: &mut BlockPools,
    ) -> Option<SequenceIndex> {
        while self.line.pop_if(|runner| runner.gone).is_some() {
            self.gone_count -= 1;
        }
        self.ordered_count = self.ordered_count.min(self.line.len());
        let last = self.line.len().checked_sub(1)?;
        Some(self.take_out(last, sequences, tables, pools))
    }

    /// No block of theirs is known: their next one is the first, of so many tokens.
    pub(super) fn fill_anew(&mut self, block_tokens: usize) {
        self.line.iter_mut().for_each(|runner| runner.fills_at = block_tokens);
    }

    /// Whether few enough are gone that the line may grow.
    pub(super) fn is_tidy(&self) -> bool {
        self.gone_count <= self.line.len() / 8
    }

    /// Whether each stands where it belongs.
    pub(super) fn is_in_order(&self) -> bool {
        self.ordered_count == self.line.len()
    }

    /// Puts all in order, and forgets those that are gone, where it pays. Indices change.
    pub(super) fn tidy(&mut self) {
        if !self.is_tidy() {
            let is_in_order = self.is_in_order();
            self.line.retain(|runner| !runner.gone);
            self.gone_count = 0;
            self.ordered_count = if is_in_order { self.line.len() } else { 0 };
        }
        if !self.is_in_order() {
            self.line.sort_by_key(|runner| runner.seq);
            self.ordered_count = self.line.len();
        }
    }

    /// Packs the tables, where it pays.
    pub(super) fn pack(&mut self, tables: &mut Tables) {
        assert!(self.is_tidy(), "the line does not grow with those that are gone");
        let held = self.line.iter_mut().filter(|runner| !runner.gone).map(|runner| &mut runner.tables);
        if tables.global.wants_packing() {
            tables.global.pack(held.map(|held| &mut held.global));
        } else if tables.sliding.wants_packing() {
            tables.sliding.pack(held.map(|held| &mut held.sliding));
        }
    }

    /// Panics unless the line is in order and its counts are right.
    pub(super) fn check(&self) {
        let ordered = &self.line[..self.ordered_count];
        assert!(ordered.is_sorted_by(|one, other| one.seq < other.seq), "running sequences are in the order of service");
        let returning = self.iter().filter(|runner| runner.is_returning).map(|runner| runner.seq).collect::<BTreeSet<_>>();
        assert_eq!(returning, self.returning.iter().copied().collect(), "those that return are known");
        assert_eq!(self.gone_count, self.line.iter().filter(|runner| runner.gone).count(), "as many are gone as are counted");
        let decoding_count = self.iter().filter(|runner| runner.decoding).count();
        assert_eq!(self.decoding_count, decoding_count, "as many decode as are counted");
    }
}

impl Index<usize> for RunningSequences {
    type Output = Runner;

    fn index(&self, at: usize) -> &Runner {
        &self.line[at]
    }
}

impl IndexMut<usize> for RunningSequences {
    fn index_mut(&mut self, at: usize) -> &mut Runner {
        &mut self.line[at]
    }
}
