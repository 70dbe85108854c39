//! A sequence as it was handed in and what came of it, and where all of them are kept.
//!
//! What a step needs of a sequence that runs is kept apart, in `running`: here is what it does not
//! read.

use std::ops::{Index, IndexMut};
use std::sync::Arc;

use super::NewSequence;
use super::chain_hash::{CacheSalt, ChainHash};
use super::speculation::Drafting;
use crate::batch::{Micros, PositionLogprobs, Sampling, SeqId, TokenId};

/// Log-probabilities of a prompt's tokens, gathered over the slices of its prefill.
#[derive(Debug)]
pub(super) enum PromptLogprobs {
    /// Not asked for, or reported already: a prompt that is computed again is not reported again.
    Settled,
    /// Those of the tokens computed so far.
    Gathering(Vec<PositionLogprobs>),
}

/// A prompt and the tokens generated after it. It waits, or a runner stands for it.
#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) id: SeqId,
    /// Prompt first; while it runs, the latest tokens are its runner's.
    pub(super) tokens: Vec<TokenId>,
    pub(super) prompt_len: usize,
    pub(super) max_tokens: u32,
    pub(super) sampling: Arc<Sampling>,
    /// When its request did.
    pub(super) arrived: Micros,
    /// The first sequence of its request, if that has several.
    pub(super) request: Option<SeqId>,
    pub(super) prompt_logprobs: PromptLogprobs,
    /// Which blocks it may find computed.
    pub(super) salt: CacheSalt,
    /// Whether its blocks are kept longer.
    pub(super) in_session: bool,
    /// How long the prefill window had held others when it entered the queue.
    pub(super) held_before_micros: u64,
    /// Whether it has ever run.
    pub(super) has_run: bool,
    /// It was preempted, and may be again once so many of its tokens are computed; zero if it was
    /// not.
    pub(super) advances_at: usize,
    /// While it waits: the hashes of its leading blocks, as far as they were looked up.
    pub(super) hashes: Vec<ChainHash>,
    /// While it waits: whether what the store has of it was asked for, or computing was chosen.
    pub(super) has_asked_store: bool,
    /// What its drafts are taken from, once there were any to look for.
    pub(super) drafting: Option<Box<Drafting>>,
}

impl Sequence {
    pub(super) fn new(id: SeqId, new: NewSequence, arrived: Micros, request: Option<SeqId>) -> Self {
        let prompt_logprobs = match new.sampling.prompt_logprobs {
            true => PromptLogprobs::Gathering(Vec::new()),
            false => PromptLogprobs::Settled,
        };
        Self {
            id,
            prompt_len: new.prompt.len(),
            tokens: new.prompt,
            max_tokens: new.max_tokens,
            sampling: new.sampling,
            arrived,
            request,
            prompt_logprobs,
            salt: new.cache_salt,
            in_session: new.in_session,
            held_before_micros: 0,
            has_run: false,
            advances_at: 0,
            hashes: Vec::new(),
            has_asked_store: false,
            drafting: None,
        }
    }

    /// Whether it is not the first of its request.
    pub(super) fn is_later(&self) -> bool {
        self.request.is_some_and(|first| first != self.id)
    }
}

/// Where a sequence is kept, from its submission to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SequenceIndex(u32);

/// All sequences, at places that do not move and are used again.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    places: Vec<Option<Sequence>>,
    vacant: Vec<SequenceIndex>,
}

impl Sequences {
    pub(super) fn count(&self) -> usize {
        self.places.len() - self.vacant.len()
    }

    pub(super) fn insert(&mut self, sequence: Sequence) -> SequenceIndex {
        if let Some(place) = self.vacant.pop() {
            self.places[place.0 as usize] = Some(sequence);
            place
        } else {
            self.places.push(Some(sequence));
            SequenceIndex(u32::try_from(self.places.len() - 1).expect("fewer than 2^32 sequences live at once"))
        }
    }

    pub(super) fn remove(&mut self, place: SequenceIndex) -> Sequence {
        self.vacant.push(place);
        self.places[place.0 as usize].take().expect("a place is given up once")
    }
}

impl Index<SequenceIndex> for Sequences {
    type Output = Sequence;

    fn index(&self, place: SequenceIndex) -> &Sequence {
        self.places[place.0 as usize].as_ref().expect("a sequence in a queue lives")
    }
}

impl IndexMut<SequenceIndex> for Sequences {
    fn index_mut(&mut self, place: SequenceIndex) -> &mut Sequence {
        self.places[place.0 as usize].as_mut().expect("a sequence in a queue lives")
    }
}
