//! Calls in a chat's answer: as tools, or in the form that OpenAI had before.

use serde::Serialize;

use crate::http::answer::whole::WholeCall;

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
    function: FunctionDelta<'a>,
}

#[derive(Serialize)]
struct FunctionDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

impl<'a> CallsDelta<'a> {
    /// Call `index` begins.
    pub(super) fn begun(style: CallStyle, index: u32, id: &'a str, name: &'a str) -> Self {
        Self::of(style, index, Some(id), FunctionDelta { name: Some(name), arguments: "" })
    }

    /// More arguments of call `index`.
    pub(super) fn more(style: CallStyle, index: u32, arguments: &'a str) -> Self {
        Self::of(style, index, None, FunctionDelta { name: None, arguments })
    }

    fn of(style: CallStyle, index: u32, id: Option<&'a str>, function: FunctionDelta<'a>) -> Self {
        match style {
            CallStyle::Function => Self { tool_calls: None, function_call: Some(function) },
            CallStyle::Tools => {
                let call = CallDelta { index, id, kind: id.map(|_| "function"), function };
                Self { tool_calls: Some([call]), function_call: None }
            }
        }
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
    function: FunctionAnswer<'a>,
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
        let tool = |call: &'a WholeCall| CallAnswer { id: &call.id, kind: "function", function: function(call) };
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
