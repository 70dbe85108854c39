//! Parts gathered into an answer in one piece.

use crate::actors::messages::{Finish, FinishKind, Part, PartKind, TokenText};
use crate::batch::TokenId;
use crate::http::answer::progress::AnswerProgress;
use crate::prompt::conversation::CallKind;

/// A function call.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct WholeCall {
    /// Its id.
    pub(crate) id: String,
    /// The function.
    pub(crate) name: String,
    /// The arguments, or the input of a custom tool, as generated.
    pub(crate) arguments: String,
    /// Which of both.
    pub(crate) kind: CallKind,
}

/// A choice.
#[derive(Debug, Default)]
pub(crate) struct WholeChoice {
    /// The answer.
    pub(crate) content: String,
    /// The analysis.
    pub(crate) reasoning: String,
    /// The calls.
    pub(crate) calls: Vec<WholeCall>,
    /// Log-probabilities of the answer's tokens, or of all, if asked for.
    pub(crate) logprobs: Vec<TokenText>,
    /// Log-probabilities of tokens after the last text, the stop token's among them.
    pub(crate) end_logprobs: Vec<TokenText>,
    /// Log-probabilities of the prompt's tokens but the first, if asked for.
    pub(crate) prompt_logprobs: Vec<TokenText>,
    /// The generated tokens.
    pub(crate) tokens: Vec<TokenId>,
    finish: Option<Finish>,
}

/// An answer while it is gathered.
#[derive(Debug)]
pub(crate) struct GatheredAnswer {
    /// How far it is.
    pub(crate) progress: AnswerProgress,
    choices: Vec<WholeChoice>,
    /// Log-probabilities are listed of every token.
    lists_all: bool,
}

/// What an answer in one piece is gathered in.
pub(crate) trait Gather {
    /// Gathers a part.
    ///
    /// # Errors
    /// [`Broken`] if the part says that its choice failed.
    fn take(&mut self, part: Part) -> Result<(), Broken>;

    /// Every choice has ended.
    fn is_done(&self) -> bool;
}

/// A choice broke, and the answer with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    /// The failure's code.
    pub(crate) code: &'static str,
    /// What happened, fit for the client.
    pub(crate) message: String,
}

impl Broken {
    /// # Errors
    /// The failure that `part` tells of its choice, if it does.
    pub(crate) fn check(part: &Part) -> Result<(), Self> {
        match &part.kind {
            PartKind::Finished(Finish { kind: FinishKind::Failed { code, message }, .. }) => {
                Err(Self { code, message: message.clone() })
            }
            _ => Ok(()),
        }
    }
}

impl GatheredAnswer {
    /// Nothing gathered yet.
    pub(crate) fn new(progress: AnswerProgress) -> Self {
        let choices = (0..progress.choices_count()).map(|_| WholeChoice::default()).collect();
        Self { progress, choices, lists_all: false }
    }

    /// The same; if `lists_all`, log-probabilities are those of every token.
    pub(crate) fn listing_all(self, lists_all: bool) -> Self {
        Self { lists_all, ..self }
    }

    /// The choices that have ended, with how; all of them once [`AnswerProgress::is_done`].
    pub(crate) fn ended(&self) -> impl Iterator<Item = (&WholeChoice, &Finish)> {
        self.choices.iter().filter_map(|choice| choice.finish.as_ref().map(|finish| (choice, finish)))
    }
}

impl Gather for GatheredAnswer {
    fn take(&mut self, mut part: Part) -> Result<(), Broken> {
        Broken::check(&part)?;
        self.progress.take(&part);
        let choice = &mut self.choices[part.choice as usize];
        if self.lists_all && part.kind != PartKind::Prompt {
            choice.logprobs.append(&mut part.logprobs);
        }
        choice.tokens.extend(part.tokens);
        match part.kind {
            PartKind::Prompt => choice.prompt_logprobs = part.logprobs,
            PartKind::Reasoning(text) => choice.reasoning.push_str(&text),
            PartKind::Content(text) => {
                choice.content.push_str(&text);
                choice.logprobs.extend(part.logprobs);
            }
            PartKind::ToolCallStart { index, id, name, kind } => {
                assert_eq!(index as usize, choice.calls.len(), "calls are counted from zero, without gaps");
                choice.calls.push(WholeCall { id, name, arguments: String::new(), kind });
            }
            PartKind::ToolCallArguments { index, text, .. } => choice.calls[index as usize].arguments.push_str(&text),
            PartKind::Finished(finish) => {
                choice.finish = Some(finish);
                choice.end_logprobs = part.logprobs;
            }
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.progress.is_done()
    }
}
