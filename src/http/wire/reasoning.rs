//! How much the model is to think, and whether its analysis is shown: one meaning under the names
//! of several servers.

use serde_json::Value;

use crate::http::wire::error::WireError;
use crate::http::wire::fields::{RequestFields, unfit};
use crate::prompt::conversation::ReasoningEffort;

const EFFORTS: &str = "none, minimal, low, medium, high, xhigh or max";

/// What a request says of the analysis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reasoning {
    /// How much to think.
    pub(crate) effort: ReasoningEffort,
    /// The answer holds the analysis.
    pub(crate) include: bool,
}

impl Reasoning {
    /// Reads `reasoning_effort`, `reasoning`, `chat_template_kwargs` and `include_reasoning`. The
    /// field that stands first here wins; all are checked.
    pub(crate) fn read(fields: &mut RequestFields) -> Result<Self, WireError> {
        let own = effort(fields, "reasoning_effort")?;
        let mut include = fields.flag("include_reasoning")?.unwrap_or(true);
        let mut nested = None;
        if let Some(mut reasoning) = fields.object("reasoning")? {
            nested = effort(&mut reasoning, "effort")?;
            include &= !reasoning.flag("exclude")?.unwrap_or(false);
            refuse(&mut reasoning, &["max_tokens"])?;
        }
        let mut template = None;
        if let Some(mut arguments) = fields.object("chat_template_kwargs")? {
            template = effort(&mut arguments, "reasoning_effort")?;
            refuse(&mut arguments, &["builtin_tools", "model_identity"])?;
        }
        Ok(Self { effort: own.or(nested).or(template).unwrap_or(ReasoningEffort::Medium), include })
    }
}

/// gpt-oss knows three efforts and always thinks: the names of other models mean the nearest.
pub(crate) fn effort(fields: &mut RequestFields, name: &str) -> Result<Option<ReasoningEffort>, WireError> {
    let path = fields.path_of(name);
    match fields.text(name)?.as_deref() {
        None => Ok(None),
        Some("none" | "minimal" | "low") => Ok(Some(ReasoningEffort::Low)),
        Some("medium") => Ok(Some(ReasoningEffort::Medium)),
        Some("high" | "xhigh" | "max") => Ok(Some(ReasoningEffort::High)),
        Some(other) => Err(unfit(&path, &Value::String(other.to_owned()), EFFORTS)),
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
