//! Calls in a chat's answer: as tools, or in the form that OpenAI had before.

use serde::Serialize;

use crate::http::answer::whole::WholeCall;
use crate::prompt::conversation::CallKind;

/// How an answer tells its calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallStyle {
    /// `tool_calls`.
    Tools,
    /// `function_call`: there is one at most.
    Function,
}

impl CallStyle {
    /// `finish_reason` in this style.
    pub(super) fn finish_reason(self, reason: &'static str) -> &'static str {
        match self {
            Self::Function if reason == "tool_calls" => "function_call",
            Self::Function | Self::Tools => reason,
        }
    }
}

/// What a chunk adds to the calls.
#[derive(Serialize, Default)]
pub(super) struct CallsDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[CallDelta<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_call: Option<FunctionDelta<'a>>,
}

#[derive(Serialize)]
struct CallDelta<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(flatten)]
    called: CalledDelta<'a>,
}

/// A piece of a call, under the name of what is called.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum CalledDelta<'a> {
    Function(FunctionDelta<'a>),
    Custom(CustomDelta<'a>),
}

#[derive(Serialize)]
struct CustomDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    input: &'a str,
}

#[derive(Serialize)]
struct FunctionDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

impl<'a> CallsDelta<'a> {
    /// Call `index` begins, of what has that name.
    pub(super) fn begun(style: CallStyle, index: u32, id: &'a str, (kind, name): (CallKind, &'a str)) -> Self {
        Self::of(style, index, Some(id), kind, (Some(name), ""))
    }

    /// More text of call `index`.
    pub(super) fn more(style: CallStyle, index: u32, (kind, text): (CallKind, &'a str)) -> Self {
        Self::of(style, index, None, kind, (None, text))
    }

    fn of(style: CallStyle, index: u32, id: Option<&'a str>, kind: CallKind, (name, text): (Option<&'a str>, &'a str)) -> Self {
        let called = match (style, kind) {
            (CallStyle::Function, _) => {
                return Self { tool_calls: None, function_call: Some(FunctionDelta { name, arguments: text }) };
            }
            (CallStyle::Tools, CallKind::Function) => CalledDelta::Function(FunctionDelta { name, arguments: text }),
            (CallStyle::Tools, CallKind::Custom) => CalledDelta::Custom(CustomDelta { name, input: text }),
        };
        let call = CallDelta { index, id, kind: id.map(|_| type_of(kind)), called };
        Self { tool_calls: Some([call]), function_call: None }
    }
}

/// `type` of a call.
fn type_of(kind: CallKind) -> &'static str {
    match kind {
        CallKind::Function => "function",
        CallKind::Custom => "custom",
    }
}

/// The calls of an answer in one piece.
#[derive(Serialize)]
pub(super) struct CallsAnswer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    function_call: Option<FunctionAnswer<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<CallAnswer<'a>>,
}

#[derive(Serialize)]
struct CallAnswer<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    called: CalledAnswer<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum CalledAnswer<'a> {
    Function(FunctionAnswer<'a>),
    Custom(CustomAnswer<'a>),
}

#[derive(Serialize)]
struct CustomAnswer<'a> {
    name: &'a str,
    input: &'a str,
}

#[derive(Serialize)]
struct FunctionAnswer<'a> {
    name: &'a str,
    arguments: &'a str,
}

impl<'a> CallsAnswer<'a> {
    /// Those of `calls`.
    pub(super) fn of(style: CallStyle, calls: &'a [WholeCall]) -> Self {
        let function = |call: &'a WholeCall| FunctionAnswer { name: &call.name, arguments: &call.arguments };
        let called = |call: &'a WholeCall| match call.kind {
            CallKind::Function => CalledAnswer::Function(function(call)),
            CallKind::Custom => CalledAnswer::Custom(CustomAnswer { name: &call.name, input: &call.arguments }),
        };
        let tool = |call: &'a WholeCall| CallAnswer { id: &call.id, kind: type_of(call.kind), called: called(call) };
        match style {
            CallStyle::Function => Self { function_call: calls.first().map(function), tool_calls: Vec::new() },
            CallStyle::Tools => Self { function_call: None, tool_calls: calls.iter().map(tool).collect() },
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.function_call.is_none() && self.tool_calls.is_empty()
    }
}
