//! What is asked: of a trace, or made up from a seed.

use super::trace::TraceRequest;
use crate::batch::TokenId;
use crate::engine::simulated::mix;
use crate::load::Arrivals;

/// Between so many tokens, each count alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenRange {
    /// Fewest; at least one.
    pub from: u32,
    /// Most.
    pub to: u32,
}

impl TokenRange {
    /// One of the range, by these keys alone.
    fn draw(self, seed: u64, keys: [u64; 3]) -> u32 {
        let key = keys.into_iter().fold(seed, |hash, key| mix(hash ^ key));
        let span = u64::from(self.to.saturating_sub(self.from)) + 1;
        self.from + u32::try_from(key % span).expect("within the range")
    }
}

/// Conversations that are made up.
#[derive(Debug, Clone, PartialEq)]
pub struct MadeUpLoad {
    /// When conversations begin.
    pub arrivals: Arrivals,
    /// How many there are.
    pub conversations: usize,
    /// Tokens that the first request of a conversation adds to what all share, and each later one
    /// to the history.
    pub prompt: TokenRange,
    /// Tokens of an answer.
    pub output: TokenRange,
    /// Tokens that the prompts of all conversations begin with.
    pub prefix_tokens: u32,
    /// Requests of a conversation.
    pub turns: u32,
    /// From the end of an answer to the next request of its conversation, in microseconds.
    pub think_micros: u64,
    /// What every length and moment comes from.
    pub seed: u64,
}

/// A load.
#[derive(Debug, Clone, PartialEq)]
pub enum OfferedLoad {
    /// The requests of a trace, each at its time.
    Trace(Vec<TraceRequest>),
    /// Made up.
    MadeUp(MadeUpLoad),
}

/// A request, before its replica is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct AskedRequest {
    /// The conversation, counted from zero; of a trace the request's own number or its session.
    pub(super) conversation: u64,
    /// What its own tokens follow from.
    pub(super) key: u64,
    /// Which request of the conversation, counted from zero.
    pub(super) turn: u32,
    pub(super) prompt_tokens: u32,
    pub(super) output_tokens: u32,
}

impl OfferedLoad {
    /// Moments in microseconds and requests that come whatever the replicas do, in their order.
    pub(super) fn scheduled(&self) -> Box<dyn Iterator<Item = (u64, AskedRequest)> + '_> {
        match self {
            Self::Trace(requests) => Box::new((0..).zip(requests).map(|(index, request)| {
                let conversation = request.session.unwrap_or(index);
                // A session's name and another request's number are no same conversation.
                let key = mix(conversation ^ if request.session.is_some() { 0x7365_7373 } else { 0 });
                let asked = AskedRequest {
                    conversation: key,
                    key,
                    turn: 0,
                    prompt_tokens: request.prompt_tokens,
                    output_tokens: request.output_tokens,
                };
                (request.at_micros, asked)
            })),
            Self::MadeUp(made_up) => {
                let begin = (0..made_up.conversations as u64).map(|conversation| made_up.first(conversation));
                match made_up.arrivals {
                    Arrivals::Closed { concurrency } => Box::new(begin.take(concurrency).map(|asked| (0, asked))),
                    arrivals => {
                        let times = crate::load::times(arrivals, made_up.seed);
                        Box::new(times.map(|seconds| (seconds * 1e6) as u64).zip(begin))
                    }
                }
            }
        }
    }

    /// How many requests come whatever the replicas do, or begin a conversation.
    pub(super) fn begun_count(&self) -> u64 {
        match self {
            Self::Trace(requests) => requests.len() as u64,
            Self::MadeUp(made_up) => match made_up.arrivals {
                Arrivals::Closed { concurrency } => concurrency.min(made_up.conversations) as u64,
                _ => made_up.conversations as u64,
            },
        }
    }

    /// What follows the end of `asked`, and after how many microseconds; `next` is the number of
    /// the first conversation that has not begun. One that was not answered ends its conversation.
    pub(super) fn after(&self, asked: &AskedRequest, is_answered: bool, next: &mut u64) -> Option<(u64, AskedRequest)> {
        let Self::MadeUp(made_up) = self else { return None };
        if is_answered && asked.turn + 1 < made_up.turns {
            return Some((made_up.think_micros, made_up.following(asked)));
        }
        let begins = matches!(made_up.arrivals, Arrivals::Closed { .. }) && *next < made_up.conversations as u64;
        begins.then(|| {
            *next += 1;
            (0, made_up.first(*next - 1))
        })
    }

    /// Tokens that all prompts begin with.
    fn prefix_tokens(&self) -> usize {
        match self {
            Self::Trace(_) => 0,
            Self::MadeUp(made_up) => made_up.prefix_tokens as usize,
        }
    }

    /// Whether prompts have anything in common, so that their tokens matter.
    pub(super) fn shares_tokens(&self) -> bool {
        match self {
            Self::Trace(requests) => requests.iter().any(|request| request.session.is_some()),
            Self::MadeUp(made_up) => made_up.turns > 1 || made_up.prefix_tokens > 0,
        }
    }

    /// The tokens of a request's prompt: those that all share, then those of its conversation.
    pub(super) fn prompt(&self, asked: &AskedRequest) -> Vec<TokenId> {
        let shared = self.prefix_tokens();
        let token = |position: usize| token_at(if position < shared { PREFIX_KEY } else { asked.key }, position);
        (0..asked.prompt_tokens as usize).map(token).collect()
    }
}

impl MadeUpLoad {
    fn first(&self, conversation: u64) -> AskedRequest {
        let prompt_tokens = self.prefix_tokens + self.prompt.draw(self.seed, [conversation, 0, 1]);
        let output_tokens = self.output.draw(self.seed, [conversation, 0, 2]);
        let key = mix(self.seed ^ mix(conversation));
        AskedRequest { conversation, key, turn: 0, prompt_tokens, output_tokens }
    }

    /// The next request of a conversation: with the history before it.
    fn following(&self, asked: &AskedRequest) -> AskedRequest {
        let turn = asked.turn + 1;
        let keys = |which| [asked.conversation, u64::from(turn), which];
        let history_tokens = asked.prompt_tokens.saturating_add(asked.output_tokens);
        AskedRequest {
            turn,
            prompt_tokens: history_tokens.saturating_add(self.prompt.draw(self.seed, keys(1))),
            output_tokens: self.output.draw(self.seed, keys(2)),
            ..*asked
        }
    }
}

/// The key of the tokens that all conversations begin with.
const PREFIX_KEY: u64 = 0x7072_6566_6978;

/// The token at a position of the conversation with this key: of a prompt, or of an answer, which
/// is in the prompt of the next turn.
pub(super) fn token_at(key: u64, position: usize) -> TokenId {
    TokenId(mix(key ^ (position as u64) << 1) as u32)
}
