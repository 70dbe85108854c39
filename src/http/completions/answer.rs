//! Answers of `/v1/completions`: the chunks of a stream, and the whole.

use std::sync::Arc;

use serde::Serialize;

use crate::actors::messages::{Finish, Part, PartKind};
use crate::batch::TokenId;

use crate::http::answer::encoder::{Frame, to_json};
use crate::http::answer::heading::{FINGERPRINT, Heading, Metadata};
use crate::http::answer::logprobs::{CompletionLogprobs, RankedPrompt};
use crate::http::answer::progress::{AnswerProgress, Usage, stop_reason};
use crate::http::answer::whole::{GatheredAnswer, WholeChoice};
use crate::http::chat::answer::ids;
use crate::http::wire::lists::TokenLists;
use crate::prompt::detokenizer::TokenPositions;

/// A prompt as its answer shows it.
#[derive(Debug, Clone)]
pub(crate) struct ShownPrompt {
    /// Its tokens.
    pub(crate) tokens: Arc<[TokenId]>,
    /// Its text, if it is to be echoed.
    pub(crate) echo: Option<String>,
    /// The bytes of its first token, if log-probabilities are echoed too.
    pub(crate) first_token: Vec<u8>,
}

/// What an answer is made with.
#[derive(Debug)]
pub(crate) struct CompletionAnswer {
    /// Its head.
    pub(crate) heading: Heading,
    /// Its end.
    pub(crate) metadata: Metadata,
    /// The prompts; each has the same number of choices, one prompt's after another's.
    pub(crate) prompts: Vec<ShownPrompt>,
    /// Choices a prompt.
    pub(crate) choices_a_prompt: usize,
    /// Only the prompt is shown.
    pub(crate) prompt_only: bool,
    /// The lists beside its text.
    pub(crate) lists: TokenLists,
}

/// Makes the chunks of a stream.
#[derive(Debug)]
pub(crate) struct CompletionEncoder {
    answer: CompletionAnswer,
    progress: AnswerProgress,
    include_usage: bool,
    continuous_usage: bool,
    choices: Vec<Begun>,
}

/// How much of a choice is written.
#[derive(Debug, Clone, Default)]
struct Begun {
    /// It has had a chunk.
    begun: bool,
    /// Where its next token begins; counted only with log-probabilities.
    places: TokenPositions,
}

#[derive(Serialize)]
struct Shape<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'static str,
    choices: Vec<ChoiceShape<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a Metadata>,
}

#[derive(Serialize)]
struct ChoiceShape<'a> {
    index: u32,
    text: String,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<&'static str>,
    stop_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<RankedPrompt>,
}

impl ShownPrompt {
    /// The first token, with its bytes.
    fn first(&self) -> (TokenId, &[u8]) {
        (*self.tokens.first().expect("a prompt is not empty"), &self.first_token)
    }
}

impl CompletionAnswer {
    fn prompt(&self, choice: usize) -> &ShownPrompt {
        &self.prompts[choice / self.choices_a_prompt]
    }

    fn usage(&self, progress: &AnswerProgress) -> Usage {
        if self.prompt_only { progress.prompt_usage() } else { progress.usage() }
    }

    fn shape<'a>(&'a self, choices: Vec<ChoiceShape<'a>>, usage: Option<Usage>, metadata: Option<&'a Metadata>) -> Shape<'a> {
        Shape {
            id: &self.heading.id,
            object: "text_completion",
            created: self.heading.created,
            model: &self.heading.model,
            system_fingerprint: FINGERPRINT,
            choices,
            usage,
            metadata,
        }
    }

    /// The answer in one piece, as JSON.
    pub(crate) fn whole(&self, whole: &GatheredAnswer) -> String {
        let choices = whole.ended().enumerate().map(|(index, (choice, finish))| {
            let prompt = self.prompt(index);
            let echo = prompt.echo.as_deref().unwrap_or_default();
            let content = if self.prompt_only { "" } else { choice.content.as_str() };
            ChoiceShape {
                index: index as u32,
                text: [echo, content].concat(),
                logprobs: self.lists.logprobs.is_some().then(|| self.whole_logprobs(prompt, choice)),
                finish_reason: Some(whole.progress.finish_reason(index as u32, finish)),
                stop_reason: stop_reason(finish),
                token_ids: self.lists.ids.then(|| if self.prompt_only { Vec::new() } else { ids(&choice.tokens) }),
                prompt_token_ids: self.lists.ids.then(|| ids(&prompt.tokens)),
                prompt_logprobs: self.lists.prompt_logprobs.map(|top| RankedPrompt::of(&choice.prompt_logprobs, top)),
            }
        });
        to_json(&self.shape(choices.collect(), Some(self.usage(&whole.progress)), Some(&self.metadata)))
    }

    fn whole_logprobs(&self, prompt: &ShownPrompt, choice: &WholeChoice) -> CompletionLogprobs {
        let mut places = TokenPositions::new();
        let mut logprobs = CompletionLogprobs::new(self.lists.listing());
        if prompt.echo.is_some() {
            logprobs.push_prompt(prompt.first(), &choice.prompt_logprobs, &mut places);
        }
        if !self.prompt_only {
            logprobs.push_generated(&choice.logprobs, &mut places);
            logprobs.push_generated(&choice.end_logprobs, &mut places);
        }
        logprobs
    }
}

impl CompletionEncoder {
    /// Nothing written yet. With `include_usage` the last chunk tells the usage, with
    /// `continuous_usage` every chunk does.
    pub(crate) fn new(answer: CompletionAnswer, progress: AnswerProgress, include_usage: bool, continuous_usage: bool) -> Self {
        let choices = vec![Begun::default(); progress.choices_count()];
        Self { answer, progress, include_usage, continuous_usage, choices }
    }

    /// The echoed prompts; with log-probabilities they come with the choice's first part instead.
    pub(crate) fn begin(&mut self, out: &mut impl Extend<Frame>) {
        if self.answer.lists.logprobs.is_some() {
            return;
        }
        for choice in 0..self.progress.choices_count() {
            if let Some(echo) = self.answer.prompt(choice).echo.clone() {
                let shape = self.choice(choice as u32, echo, None);
                out.extend([self.chunk(vec![shape])]);
            }
        }
    }

    /// The chunks of a part. True once the stream is over.
    pub(crate) fn part(&mut self, part: &Part, out: &mut impl Extend<Frame>) -> bool {
        self.progress.take(part);
        match &part.kind {
            PartKind::Prompt => {
                let logprobs = self.prompt_logprobs(part);
                let echo = self.answer.prompt(part.choice as usize).echo.clone().unwrap_or_default();
                let shape = self.choice(part.choice, echo, Some(logprobs));
                out.extend([self.chunk(vec![shape])]);
                false
            }
            PartKind::Finished(finish) => self.finished(part, finish, out),
            PartKind::Content(text) => {
                let worth = !text.is_empty() || !part.logprobs.is_empty() || self.answer.lists.ids;
                if worth && !self.answer.prompt_only {
                    let shape = self.generated(part, text.clone());
                    out.extend([self.chunk(vec![shape])]);
                }
                false
            }
            // A text has no analysis and no calls: only chats are parsed for them.
            PartKind::Reasoning(_) | PartKind::ToolCallStart { .. } | PartKind::ToolCallArguments { .. } => false,
        }
    }

    fn finished(&mut self, part: &Part, finish: &Finish, out: &mut impl Extend<Frame>) -> bool {
        let done = self.progress.is_done();
        let shape = if self.answer.prompt_only {
            self.choice(part.choice, String::new(), None)
        } else {
            self.generated(part, String::new())
        };
        let last = ChoiceShape {
            finish_reason: Some(self.progress.finish_reason(part.choice, finish)),
            stop_reason: stop_reason(finish),
            ..shape
        };
        let metadata = Some(&self.answer.metadata);
        let usage = self.answer.usage(&self.progress);
        let running = self.continuous_usage.then_some(usage);
        if !done {
            out.extend([Frame::json(&self.answer.shape(vec![last], running, None))]);
        } else if self.include_usage {
            let end = self.answer.shape(Vec::new(), Some(usage), metadata);
            out.extend([Frame::json(&self.answer.shape(vec![last], running, None)), Frame::json(&end), Frame::done()]);
        } else {
            out.extend([Frame::json(&self.answer.shape(vec![last], running, metadata)), Frame::done()]);
        }
        done
    }

    /// What a part of the answer adds to its choice.
    fn generated(&mut self, part: &Part, text: String) -> ChoiceShape<'static> {
        let logprobs = (self.answer.lists.logprobs.is_some() && !part.logprobs.is_empty()).then(|| {
            let mut logprobs = CompletionLogprobs::new(self.answer.lists.listing());
            logprobs.push_generated(&part.logprobs, &mut self.choices[part.choice as usize].places);
            logprobs
        });
        let token_ids = self.answer.lists.ids.then(|| ids(&part.tokens));
        ChoiceShape { token_ids, ..self.choice(part.choice, text, logprobs) }
    }

    fn prompt_logprobs(&mut self, part: &Part) -> CompletionLogprobs {
        let mut places = TokenPositions::new();
        let mut logprobs = CompletionLogprobs::new(self.answer.lists.listing());
        let prompt = self.answer.prompt(part.choice as usize);
        logprobs.push_prompt(prompt.first(), &part.logprobs, &mut places);
        self.choices[part.choice as usize].places = places;
        logprobs
    }

    /// A chunk's choice; the first one of each choice also shows the prompt's tokens, if they are
    /// wanted.
    fn choice(&mut self, index: u32, text: String, logprobs: Option<CompletionLogprobs>) -> ChoiceShape<'static> {
        let first = !std::mem::replace(&mut self.choices[index as usize].begun, true);
        let prompt = self.answer.prompt(index as usize);
        ChoiceShape {
            index,
            text,
            logprobs,
            finish_reason: None,
            stop_reason: None,
            token_ids: None,
            prompt_logprobs: None,
            prompt_token_ids: (first && self.answer.lists.ids).then(|| ids(&prompt.tokens)),
        }
    }

    fn chunk(&self, choices: Vec<ChoiceShape<'_>>) -> Frame {
        let usage = self.continuous_usage.then(|| self.answer.usage(&self.progress));
        Frame::json(&self.answer.shape(choices, usage, None))
    }
}
