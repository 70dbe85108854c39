//! What an answer may be, token by token: the headers that harmony allows, and a grammar for what
//! stands in them.
//!
//! Owns: compiled grammars, and where in its answer a sequence is. Promises: an answer that ends by
//! itself has the form that was asked for, whatever the model wants to say. A grammar reaches the
//! text of the answer or the arguments of a call alone, never a control token. The same tokens give
//! the same masks. Absent on purpose: threads (what computes when), JSON's wire form.
//!
//! The grammars are those of the `llguidance` crate, over the bytes of this server's own tokenizer.

mod answer;
mod complaint;
mod gbnf;
mod grammar;
mod headers;
mod held;
mod schema;
#[cfg(test)]
mod tests;
mod thinking;
mod wanted;

pub use answer::{AnswerRules, ConstrainedAnswer, OfferedCall};
pub use grammar::{Grammar, GrammarError, Grammars, STACK_BYTES};
pub use headers::{HeaderTable, HeaderTables};
pub use thinking::ThinkingBounds;
pub use wanted::WantedTokens;

use crate::batch::TokenId;

/// Sets the bits of `tokens`.
fn set(words: &mut [u32], tokens: impl Iterator<Item = TokenId>) {
    for TokenId(token) in tokens {
        words[(token / u32::BITS) as usize] |= 1 << (token % u32::BITS);
    }
}
