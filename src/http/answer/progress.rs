//! How far the choices of an answer are, and what they have used.

use serde::Serialize;

use crate::actors::messages::{Cached, Finish, FinishKind, Part, PartKind};

/// `usage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Usage {
    /// Tokens of the prompt, counted once, not once a choice.
    pub(crate) prompt_tokens: usize,
    /// Tokens generated, all choices together.
    pub(crate) completion_tokens: u64,
    /// Both.
    pub(crate) total_tokens: u64,
    /// More about the prompt.
    pub(crate) prompt_tokens_details: PromptDetails,
    /// More about the generated tokens.
    pub(crate) completion_tokens_details: CompletionDetails,
}

/// More about the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct PromptDetails {
    /// Tokens whose keys and values were found computed.
    pub(crate) cached_tokens: u64,
    /// Why none were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache_miss: Option<&'static str>,
}

/// More about the generated tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct CompletionDetails {
    /// Tokens of the analysis channel.
    pub(crate) reasoning_tokens: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct ChoiceProgress {
    completion_tokens: u32,
    reasoning_tokens: u32,
    called: bool,
    finished: bool,
    cached: Cached,
}

/// How far the choices of an answer are.
#[derive(Debug)]
pub(crate) struct AnswerProgress {
    prompt_tokens: usize,
    prompts_count: usize,
    choices: Vec<ChoiceProgress>,
    open_count: usize,
}

impl AnswerProgress {
    /// `choices_count` choices of one prompt, none begun.
    pub(crate) fn new(prompt_tokens: usize, choices_count: usize) -> Self {
        let choices = vec![ChoiceProgress::default(); choices_count];
        Self { prompt_tokens, prompts_count: 1, choices, open_count: choices_count }
    }

    /// The same, if the choices are those of several prompts, each with as many.
    pub(crate) fn of_prompts(self, prompts_count: usize) -> Self {
        Self { prompts_count, ..self }
    }

    /// How many choices there are.
    pub(crate) fn choices_count(&self) -> usize {
        self.choices.len()
    }

    /// Takes note of a part.
    pub(crate) fn take(&mut self, part: &Part) {
        let choice = &mut self.choices[part.choice as usize];
        choice.completion_tokens = part.completion_tokens;
        choice.reasoning_tokens = part.reasoning_tokens;
        choice.cached = part.cached;
        match &part.kind {
            PartKind::ToolCallStart { .. } => choice.called = true,
            PartKind::Finished(finish) => {
                assert!(!choice.finished, "choice {} ended twice", part.choice);
                choice.finished = true;
                choice.completion_tokens = finish.completion_tokens;
                choice.reasoning_tokens = finish.reasoning_tokens;
                self.open_count -= 1;
            }
            PartKind::Prompt | PartKind::Reasoning(_) | PartKind::Content(_) | PartKind::ToolCallArguments { .. } => {}
        }
    }

    /// Every choice has ended.
    pub(crate) fn is_done(&self) -> bool {
        self.open_count == 0
    }

    /// What was used so far.
    pub(crate) fn usage(&self) -> Usage {
        let sum = |of: fn(&ChoiceProgress) -> u32| self.choices.iter().map(|choice| u64::from(of(choice))).sum();
        let completion_tokens: u64 = sum(|choice| choice.completion_tokens);
        Usage {
            prompt_tokens: self.prompt_tokens,
            completion_tokens,
            total_tokens: self.prompt_tokens as u64 + completion_tokens,
            prompt_tokens_details: self.prompt_details(),
            completion_tokens_details: CompletionDetails { reasoning_tokens: sum(|choice| choice.reasoning_tokens) },
        }
    }

    /// Of each prompt its first choice counts: what the others find may be what that one computed.
    fn prompt_details(&self) -> PromptDetails {
        let firsts = || self.choices.iter().step_by((self.choices.len() / self.prompts_count).max(1));
        PromptDetails {
            cached_tokens: firsts().map(|choice| u64::from(choice.cached.tokens)).sum(),
            cache_miss: firsts().find_map(|choice| choice.cached.miss),
        }
    }

    /// The same, for an answer that shows the prompt alone.
    pub(crate) fn prompt_usage(&self) -> Usage {
        Usage {
            completion_tokens: 0,
            total_tokens: self.prompt_tokens as u64,
            completion_tokens_details: CompletionDetails { reasoning_tokens: 0 },
            ..self.usage()
        }
    }

    /// `finish_reason` of a choice that ended so: a stop after a call is `tool_calls`, a cut stays
    /// `length`.
    pub(crate) fn finish_reason(&self, choice: u32, finish: &Finish) -> &'static str {
        match &finish.kind {
            FinishKind::Stop { .. } if self.choices[choice as usize].called => "tool_calls",
            FinishKind::Stop { .. } => "stop",
            FinishKind::Length => "length",
            FinishKind::ToolCalls => "tool_calls",
            FinishKind::Repetition => "repetition",
            FinishKind::Cancelled => "cancelled",
            FinishKind::Failed { .. } => "error",
        }
    }
}

/// The stop string that ended a choice, or what else did.
pub(crate) fn stop_reason(finish: &Finish) -> Option<&str> {
    match &finish.kind {
        FinishKind::Stop { matched } => matched.as_deref(),
        // vLLM's word.
        FinishKind::Repetition => Some("repetition_detected"),
        _ => None,
    }
}
