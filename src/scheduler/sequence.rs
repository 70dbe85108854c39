//! One sequence, and where all of them are kept.

use std::ops::{Index, IndexMut};
use std::sync::Arc;

use super::NewSequence;
use super::block_pool::BlockPools;
use super::block_tables::BlockTables;
use crate::batch::{Micros, PositionLogprobs, Sampling, SeqId, TokenId};

/// Log-probabilities of a prompt's tokens, gathered over the slices of its prefill.
#[derive(Debug)]
pub(super) enum PromptLogprobs {
    /// Not asked for, or reported already: a prompt that is computed again is not reported again.
    Settled,
    /// Those of the tokens computed so far.
    Gathering(Vec<PositionLogprobs>),
}

/// A prompt and the tokens generated after it.
///
/// **`computed` is less than the number of tokens: there is always something to compute.**
#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) id: SeqId,
    /// Prompt first.
    pub(super) tokens: Vec<TokenId>,
    /// The last of them. A decode slice needs no other, and `tokens` lies far away: with 65,536 sequences reading it there took
    /// a third of a step's time.
    pub(super) last: TokenId,
    pub(super) prompt_len: usize,
    /// Leading tokens whose keys and values are stored.
    pub(super) computed: usize,
    /// Whether it runs and has caught up but for one token after its prompt; else it waits or is being prefilled.
    pub(super) decoding: bool,
    pub(super) tables: BlockTables,
    pub(super) max_tokens: u32,
    pub(super) sampling: Arc<Sampling>,
    pub(super) arrived: Micros,
    pub(super) prompt_logprobs: PromptLogprobs,
}

impl Sequence {
    pub(super) fn new(id: SeqId, new: NewSequence, arrived: Micros) -> Self {
        let prompt_logprobs = match new.sampling.prompt_logprobs {
            true => PromptLogprobs::Gathering(Vec::new()),
            false => PromptLogprobs::Settled,
        };
        Self {
            id,
            prompt_len: new.prompt.len(),
            last: *new.prompt.last().expect("a prompt without tokens is rejected"),
            tokens: new.prompt,
            computed: 0,
            decoding: false,
            tables: BlockTables::default(),
            max_tokens: new.max_tokens,
            sampling: new.sampling,
            arrived,
            prompt_logprobs,
        }
    }

    /// Tokens generated so far.
    pub(super) fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    /// Tokens that are not computed yet.
    pub(super) fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// What `decoding` must say of a running sequence.
    pub(super) fn has_caught_up(&self) -> bool {
        self.pending() == 1 && self.computed >= self.prompt_len
    }

    /// Gives all blocks back; everything must be computed again.
    pub(super) fn forget_computed(&mut self, pools: &mut BlockPools) {
        self.tables.release(pools);
        self.computed = 0;
        if let PromptLogprobs::Gathering(logprobs) = &mut self.prompt_logprobs {
            logprobs.clear();
        }
    }
}

/// Where a sequence is kept, from its submission to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u32);

/// All sequences, at places that do not move and are used again.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    places: Vec<Option<Sequence>>,
    vacant: Vec<Place>,
}

impl Sequences {
    pub(super) fn count(&self) -> usize {
        self.places.len() - self.vacant.len()
    }

    pub(super) fn insert(&mut self, sequence: Sequence) -> Place {
        if let Some(place) = self.vacant.pop() {
            self.places[place.0 as usize] = Some(sequence);
            place
        } else {
            self.places.push(Some(sequence));
            Place(u32::try_from(self.places.len() - 1).expect("fewer than 2^32 sequences live at once"))
        }
    }

    pub(super) fn remove(&mut self, place: Place) -> Sequence {
        self.vacant.push(place);
        self.places[place.0 as usize].take().expect("a place is given up once")
    }

    /// Whether `seq` lives at `place`: it may have ended, and another may live there now.
    pub(super) fn lives(&self, place: Place, seq: SeqId) -> bool {
        self.places[place.0 as usize].as_ref().is_some_and(|sequence| sequence.id == seq)
    }
}

impl Index<Place> for Sequences {
    type Output = Sequence;

    fn index(&self, place: Place) -> &Sequence {
        self.places[place.0 as usize].as_ref().expect("a sequence in a queue lives")
    }
}

impl IndexMut<Place> for Sequences {
    fn index_mut(&mut self, place: Place) -> &mut Sequence {
        self.places[place.0 as usize].as_mut().expect("a sequence in a queue lives")
    }
}
