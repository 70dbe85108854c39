//! How much the model is to think, and whether its analysis is shown: one meaning under the names
//! of several servers.

use serde_json::Value;

use crate::http::wire::error::WireError;
use crate::http::wire::fields::{RequestFields, unfit};
use crate::prompt::conversation::{ReasoningEffort, ThinkingLimits};

const EFFORTS: &str = "none, minimal, low, medium, high, xhigh or max";

/// What a request says of the analysis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reasoning {
    /// How much to think.
    pub(crate) effort: ReasoningEffort,
    /// The answer holds the analysis.
    pub(crate) include: bool,
    /// How much of the answer it may take.
    pub(crate) thinking: ThinkingLimits,
}

impl Reasoning {
    /// Reads `reasoning_effort`, `reasoning`, `chat_template_kwargs`, `include_reasoning`,
    /// `reasoning_format` and the budgets. Of an effort and of a budget that stand in several, the
    /// field that stands first here wins; all are checked.
    pub(crate) fn read(fields: &mut RequestFields) -> Result<Self, WireError> {
        let own = effort(fields, "reasoning_effort")?;
        let mut include = fields.flag("include_reasoning")?.unwrap_or(true) && is_shown(fields)?;
        let mut budget = fields.count("thinking_token_budget", 0..=u32::MAX)?;
        budget = budget.or(fields.count("max_thinking_tokens", 0..=u32::MAX)?);
        let mut nested = None;
        if let Some(mut reasoning) = fields.object("reasoning")? {
            nested = effort(&mut reasoning, "effort")?;
            include &= !reasoning.flag("exclude")?.unwrap_or(false);
            budget = budget.or(reasoning.count("max_tokens", 0..=u32::MAX)?);
        }
        let mut template = None;
        if let Some(mut arguments) = fields.object("chat_template_kwargs")? {
            template = effort(&mut arguments, "reasoning_effort")?;
            budget = budget.or(arguments.count("thinking_budget", 0..=u32::MAX)?);
            refuse(&mut arguments, &["builtin_tools", "model_identity"])?;
        }
        let answer_tokens = fields.count("reserve_answer_tokens", 0..=u32::MAX)?;
        let asked = own.or(nested).or(template);
        let budget_tokens = budget.or(asked.filter(|asked| !asked.thinks).map(|_| 0));
        let effort = asked.map_or(ReasoningEffort::Medium, |asked| asked.effort);
        Ok(Self { effort, include, thinking: ThinkingLimits { budget_tokens, answer_tokens } })
    }
}

/// An effort by its name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AskedEffort {
    pub(crate) effort: ReasoningEffort,
    /// There is an analysis at all.
    thinks: bool,
}

/// gpt-oss knows three efforts: the names of other models mean the nearest, and `none` no analysis.
pub(crate) fn effort(fields: &mut RequestFields, name: &str) -> Result<Option<AskedEffort>, WireError> {
    let path = fields.path_of(name);
    let Some(asked) = fields.text(name)? else { return Ok(None) };
    let effort = match asked.as_str() {
        "none" | "minimal" | "low" => ReasoningEffort::Low,
        "medium" => ReasoningEffort::Medium,
        "high" | "xhigh" | "max" => ReasoningEffort::High,
        _ => return Err(unfit(&path, &Value::String(asked), EFFORTS)),
    };
    Ok(Some(AskedEffort { effort, thinks: asked != "none" }))
}

/// `reasoning_format`, as Groq and llama.cpp have it. The analysis stands beside the answer, or
/// nowhere: within it is not done.
fn is_shown(fields: &mut RequestFields) -> Result<bool, WireError> {
    let path = fields.path_of("reasoning_format");
    match fields.text("reasoning_format")?.as_deref() {
        None | Some("auto" | "parsed" | "deepseek") => Ok(true),
        Some("hidden") => Ok(false),
        Some(other) => Err(unfit(&path, &Value::String(other.to_owned()), "auto, parsed, deepseek or hidden")),
    }
}

/// What would change the prompt or the answer and is not done.
fn refuse(fields: &mut RequestFields, names: &[&str]) -> Result<(), WireError> {
    match names.iter().find(|name| fields.take(name).is_some()) {
        None => Ok(()),
        Some(name) => {
            let message = "this server does not do that; leave it out".to_owned();
            Err(WireError::Unsupported { param: fields.path_of(name), message })
        }
    }
}
