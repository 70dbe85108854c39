//! What the answers of a request must be: what the client asked for, compiled.

use std::sync::Arc;

use crate::actors::compiler::CompileError;
use crate::actors::masks::MaskThreads;
use crate::actors::messages::{AskedForm, Refusal};
use crate::actors::prepare::TextWork;
use crate::batch::Masks;
use crate::prompt::constraint::{AnswerRules, Grammar, HeaderTable, OfferedCall, ThinkingBounds};
use crate::prompt::conversation::{AnswerForm, CallKind, Conversation, CustomInput, Tool};
use crate::prompt::harmony::parser::ParserStart;

/// What the answers to a prompt are held to.
#[derive(Debug)]
pub(super) enum HeldTo {
    /// Nothing: any token may be drawn.
    Nothing,
    /// The headers that harmony allows.
    Headers {
        table: Arc<HeaderTable>,
        /// Where the prompt ends.
        start: ParserStart,
        /// It is of the functions that the request offers.
        is_own: bool,
    },
    /// Those, and forms of what stands behind them.
    Form(Arc<AnswerRules>),
}

impl HeldTo {
    /// The masks of a sequence whose answer begins, and thinks within `thinking`.
    pub(super) fn masks(&self, threads: &MaskThreads, thinking: ThinkingBounds) -> Option<Masks> {
        match self {
            Self::Nothing => None,
            Self::Headers { table, start, .. } => Some(table.masks(start, thinking)),
            Self::Form(rules) => Some(threads.masks(rules.begin_within(thinking))),
        }
    }

    /// Memory that each sequence holds for it.
    pub(super) fn sequence_bytes(&self) -> u64 {
        if let Self::Form(rules) = self { rules.sequence_bytes() } else { 0 }
    }

    /// Memory that all sequences of a prompt hold for it together: the table of a function list,
    /// which others may not share. That of chats without functions is always there.
    pub(super) fn shared_bytes(&self) -> u64 {
        if let Self::Headers { table, is_own: true, .. } = self { table.bytes() } else { 0 }
    }
}

impl TextWork {
    /// The grammar of a form that was asked for.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] with the path of what cannot be kept.
    pub(super) fn grammar(&self, asked: &AskedForm) -> Result<Arc<Grammar>, Refusal> {
        self.compiler.compile(&asked.form).map_err(|error| refusal(&asked.param, &error))
    }

    /// What the answers to `conversation` must be, whose prompt ends at `start`.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] with the path of what cannot be kept of a strict function's parameters,
    /// or of a custom tool's grammar.
    pub(super) fn chat_rules(
        &self,
        conversation: &Conversation,
        start: &ParserStart,
        answer: Option<&Arc<Grammar>>,
    ) -> Result<HeldTo, Refusal> {
        let must_call = conversation.must_call || conversation.forced_tool.is_some();
        let has_form = |tool: &Tool| tool.strict || matches!(tool.custom, Some(CustomInput::Form(_)));
        let is_held = must_call || conversation.callable.is_some() || conversation.offered().any(|(_, tool)| has_form(tool));
        if answer.is_none() && !is_held {
            // A bound that was asked for is kept, even where headers are the model's.
            let thinking = conversation.thinking;
            let is_bounded = thinking.budget_tokens.is_some() || thinking.answer_tokens.is_some_and(|tokens| tokens > 0);
            return Ok(match self.header_grammar || is_bounded {
                true => {
                    let names = |kind| {
                        let of_kind = conversation.offered().filter(move |(_, tool)| tool.kind() == kind);
                        of_kind.map(|(_, tool)| tool.name.clone()).collect::<Vec<String>>()
                    };
                    let (functions, customs) = (names(CallKind::Function), names(CallKind::Custom));
                    let is_own = !(functions.is_empty() && customs.is_empty());
                    HeldTo::Headers { table: self.headers.table(&functions, &customs), start: start.clone(), is_own }
                }
                false => HeldTo::Nothing,
            });
        }
        let call = |(index, tool): (usize, &Tool)| {
            let grammar = match &tool.custom {
                Some(CustomInput::Text) => None,
                Some(CustomInput::Form(form)) => {
                    let param = format!("tools[{index}].custom.format.grammar.definition");
                    Some(self.grammar(&AskedForm { form: form.clone(), param })?)
                }
                None => (must_call || tool.strict).then(|| self.arguments(index, tool)).transpose()?,
            };
            Ok(OfferedCall { name: tool.name.clone(), kind: tool.kind(), grammar })
        };
        let calls = conversation.offered().map(call).collect::<Result<Vec<_>, Refusal>>()?;
        let rules = AnswerRules::of_chat(self.compiler.grammars(), start, answer.cloned(), &calls, must_call);
        Ok(HeldTo::Form(Arc::new(rules)))
    }

    /// The grammar of a call's arguments. Of a function that is not strict they are an object, if
    /// its schema cannot be kept.
    fn arguments(&self, index: usize, tool: &Tool) -> Result<Arc<Grammar>, Refusal> {
        let param = format!("tools[{index}].function.parameters");
        match self.compiler.compile(&tool.arguments()) {
            Ok(grammar) => Ok(grammar),
            Err(CompileError::Form(_)) if !tool.strict => {
                let object = self.compiler.compile(&AnswerForm::object());
                object.map_err(|error| refusal(&param, &error))
            }
            Err(error) => Err(refusal(&param, &error)),
        }
    }
}

fn refusal(param: &str, error: &CompileError) -> Refusal {
    let CompileError::Form(error) = error else {
        return Refusal::Unavailable { retry_after_seconds: 1, code: "compiler_busy" };
    };
    let param = match error.path.as_str() {
        "" => param.to_owned(),
        path if path.starts_with('[') => format!("{param}{path}"),
        path => format!("{param}.{path}"),
    };
    Refusal::Invalid { message: format!("{param} {}.", error.message), param: Some(param.into()), code: None }
}
