//! What a made-up answer says.

use crate::batch::{DrawError, Sampling, TokenId};
use crate::engine::fake::first_allowed;

/// The tokens of made-up answers, in the vocabulary of the model that is stood in for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeUpWords {
    /// The header of a chat's answer: behind which token of the prompt or the header which token
    /// comes, by the index of the draw.
    pub header: Vec<(TokenId, TokenId)>,
    /// The text, said again and again; not empty.
    pub text: Vec<TokenId>,
    /// The token that ends an answer, where the request knows it.
    pub end: TokenId,
    /// Tokens after which an answer ends by itself.
    pub answer_tokens: usize,
}

impl MadeUpWords {
    /// Draw `index` behind the token `last`: of the header as long as that is what was said so far,
    /// then of the text, and the end after as many as an answer has. What the request does not let
    /// be drawn is passed over.
    ///
    /// # Errors
    /// [`DrawError`] if it lets nothing be drawn.
    pub(super) fn next(&self, last: TokenId, index: u32, sampling: &Sampling, vocab_size: usize) -> Result<TokenId, DrawError> {
        let at = index as usize;
        let ends = at >= self.answer_tokens && sampling.stop_tokens.contains(&self.end);
        let heading = self.header.get(at).filter(|(behind, _)| *behind == last);
        let wanted = match heading {
            _ if ends => self.end,
            Some((_, token)) => *token,
            // Behind a header the text begins where it does; without one somewhere in it.
            None => self.text[(at + self.text.len() - self.header.len() % self.text.len()) % self.text.len()],
        };
        first_allowed(wanted, sampling, index, u32::try_from(vocab_size).unwrap_or(u32::MAX))
    }
}
