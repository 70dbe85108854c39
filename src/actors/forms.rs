//! What the answers of a request must be: what the client asked for, compiled.

use std::sync::Arc;

use crate::actors::messages::{AskedForm, Refusal};
use crate::actors::prepare::TextWork;
use crate::prompt::constraint::{AnswerRules, Calls, Grammar, GrammarError};
use crate::prompt::conversation::Conversation;
use crate::prompt::harmony::parser::ParserStart;

impl TextWork {
    /// The grammar of a form that was asked for.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] with the path of what cannot be kept.
    pub(super) fn grammar(&self, asked: &AskedForm) -> Result<Arc<Grammar>, Refusal> {
        self.grammars.compile(&asked.form).map_err(|error| invalid(&asked.param, &error))
    }

    /// What the answers to `conversation` must be, whose prompt ends at `start`; `None` if every answer is taken.
    pub(super) fn chat_rules(
        &self,
        conversation: &Conversation,
        start: &ParserStart,
        answer: Option<&Arc<Grammar>>,
    ) -> Option<Arc<AnswerRules>> {
        let answer = Arc::clone(answer?);
        let calls: Calls = conversation.tools.iter().map(|tool| (tool.name.clone(), None)).collect();
        Some(Arc::new(AnswerRules::of_chat(&self.grammars, start, Some(answer), &calls, false)))
    }
}

fn invalid(param: &str, error: &GrammarError) -> Refusal {
    let param = match error.path.as_str() {
        "" => param.to_owned(),
        path if path.starts_with('[') => format!("{param}{path}"),
        path => format!("{param}.{path}"),
    };
    Refusal::Invalid { message: format!("{param} {}.", error.message), param: Some(param.into()), code: None }
}
