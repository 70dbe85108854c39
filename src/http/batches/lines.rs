//! The lines of a batch: requests, one a line, and what became of each.

use std::collections::HashSet;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::http::body::BODY_FACTOR;
use crate::http::wire::document;
use crate::http::wire::error::{clip, quoted};

/// Most lines of a file, as OpenAI has it.
const LINES_MAX: usize = 50_000;
/// Most faults that a batch tells of its file.
const FAULTS_MAX: usize = 100;
const CUSTOM_ID_MAX_BYTES: usize = 512;

/// A request of a batch.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct BatchLine {
    /// The name that the client gave it, of which there is no other in its file.
    pub(super) custom_id: String,
    /// The request, as JSON.
    pub(super) body: String,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub(super) struct LineFault {
    pub(super) code: String,
    /// Counted from one; null for the file as a whole.
    pub(super) line: Option<usize>,
    pub(super) message: String,
    pub(super) param: Option<String>,
}

impl LineFault {
    fn new(code: &str, line: Option<usize>, param: Option<&str>, message: String) -> Self {
        Self { code: code.to_owned(), line, message, param: param.map(str::to_owned) }
    }
}

/// What reading `content` may hold in memory: its lines, and the longest while it is parsed.
pub(super) fn reading_bytes(content: &[u8]) -> u64 {
    let longest = content.split(|byte| *byte == b'\n').map(<[u8]>::len).max().unwrap_or(0);
    2 * content.len() as u64 + BODY_FACTOR * longest as u64
}

/// The lines of `content`, all of which ask `endpoint`. Blank lines are passed over.
///
/// # Errors
/// What is wrong, line by line, as far as a hundred faults.
pub(super) fn read(content: &[u8], endpoint: &str) -> Result<Vec<BatchLine>, Vec<LineFault>> {
    let (mut lines, mut faults, mut ids) = (Vec::new(), Vec::new(), HashSet::new());
    for (index, text) in content.split(|byte| *byte == b'\n').enumerate() {
        if text.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match read_line(text, index + 1, endpoint) {
            Ok(line) if !ids.insert(line.custom_id.clone()) => {
                let message = format!("an earlier line has the custom_id {} too", quoted(&line.custom_id));
                faults.push(LineFault::new("duplicate_custom_id", Some(index + 1), Some("custom_id"), message));
            }
            Ok(line) => lines.push(line),
            Err(fault) => faults.push(fault),
        }
        if faults.len() == FAULTS_MAX {
            return Err(faults);
        }
        if lines.len() > LINES_MAX {
            let message = format!("the file has more than {LINES_MAX} lines; give the rest to another batch");
            return Err(vec![LineFault::new("too_many_lines", None, None, message)]);
        }
    }
    if lines.is_empty() && faults.is_empty() {
        let message = "the file has no line".to_owned();
        faults.push(LineFault::new("empty_file", None, None, message));
    }
    if faults.is_empty() { Ok(lines) } else { Err(faults) }
}

fn read_line(text: &[u8], line: usize, endpoint: &str) -> Result<BatchLine, LineFault> {
    let fault = |code: &str, param: &str, message: String| LineFault::new(code, Some(line), Some(param), message);
    let parsed = document::parse(text).map_err(|error| {
        let param = error.param();
        LineFault::new("invalid_json_line", Some(line), param.as_deref(), error.to_string())
    })?;
    let Value::Object(mut fields) = parsed else {
        return Err(LineFault::new("invalid_line", Some(line), None, "the line is no object".to_owned()));
    };
    let custom_id = match fields.swap_remove("custom_id") {
        Some(Value::String(id)) if (1..=CUSTOM_ID_MAX_BYTES).contains(&id.len()) => id,
        _ => {
            let message = format!("expected a string of 1 to {CUSTOM_ID_MAX_BYTES} bytes");
            return Err(fault("invalid_custom_id", "custom_id", message));
        }
    };
    match fields.get("method").and_then(Value::as_str) {
        Some("POST") => {}
        _ => return Err(fault("invalid_method", "method", "expected POST".to_owned())),
    }
    match fields.get("url").and_then(Value::as_str) {
        Some(url) if url == endpoint => {}
        Some(url) => {
            let message = format!("{} is not the endpoint of the batch, which is {endpoint}", quoted(url));
            return Err(fault("invalid_url", "url", message));
        }
        None => return Err(fault("invalid_url", "url", format!("expected {endpoint}"))),
    }
    match fields.swap_remove("body") {
        Some(body @ Value::Object(_)) => Ok(BatchLine { custom_id, body: body.to_string() }),
        _ => Err(fault("invalid_body", "body", "expected an object, the request".to_owned())),
    }
}

/// What became of a line, as the output and the error file have it.
#[derive(Debug, Serialize)]
pub(super) struct LineResult<'a> {
    pub(super) id: String,
    pub(super) custom_id: &'a str,
    pub(super) response: Option<LineResponse<'a>>,
    pub(super) error: Option<LineError>,
}

/// What the route answered.
#[derive(Debug, Serialize)]
pub(super) struct LineResponse<'a> {
    pub(super) status_code: u16,
    pub(super) request_id: &'a str,
    pub(super) body: Box<RawValue>,
}

/// Why a line was not asked.
#[derive(Debug, Serialize)]
pub(super) struct LineError {
    pub(super) code: &'static str,
    pub(super) message: &'static str,
}

/// A body as a line holds it: JSON without line ends, or the text itself as a string.
pub(super) fn held_body(bytes: &[u8]) -> Box<RawValue> {
    let raw = std::str::from_utf8(bytes).ok().and_then(|text| serde_json::from_str::<Box<RawValue>>(text).ok());
    match raw.filter(|raw| !raw.get().contains('\n')) {
        Some(raw) => raw,
        None => {
            let value = serde_json::from_slice::<Value>(bytes).unwrap_or_else(|_| clip(&String::from_utf8_lossy(bytes)).into());
            serde_json::value::to_raw_value(&value).expect("a tree of JSON is written as JSON")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAT: &str = "/v1/chat/completions";

    fn faults(content: &str) -> Vec<(String, Option<usize>)> {
        read(content.as_bytes(), CHAT).unwrap_err().into_iter().map(|fault| (fault.code, fault.line)).collect()
    }

    fn line(id: &str, url: &str) -> String {
        format!(r#"{{"custom_id":"{id}","method":"POST","url":"{url}","body":{{"messages":[]}}}}"#)
    }

    #[test]
    fn lines_are_read_in_order_and_blank_ones_passed_over() {
        let content = format!("{}\r\n\n  \n{}", line("a", CHAT), line("b", CHAT));
        let read = read(content.as_bytes(), CHAT).unwrap();
        assert_eq!(read.iter().map(|line| line.custom_id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn memory_is_reserved_for_the_longest_line() {
        assert_eq!(reading_bytes(b""), 0);
        assert_eq!(reading_bytes(b"1234\n12"), 2 * 7 + BODY_FACTOR * 4);
    }

    #[test]
    fn each_fault_names_its_line() {
        let told = |code: &str, line: usize| (code.to_owned(), Some(line));
        assert_eq!(faults(""), [("empty_file".to_owned(), None)]);
        assert_eq!(faults("\n \n"), [("empty_file".to_owned(), None)]);
        let content = [
            &line("a", CHAT),
            "{not json",
            &line("a", CHAT),
            &line("c", "/v1/embeddings"),
            "[]",
            r#"{"custom_id":"e","method":"GET","url":"/v1/chat/completions","body":{}}"#,
            r#"{"custom_id":"","method":"POST","url":"/v1/chat/completions","body":{}}"#,
            r#"{"custom_id":"f","method":"POST","url":"/v1/chat/completions","body":[]}"#,
            r#"{"custom_id":"g","custom_id":"h"}"#,
            "\u{1}",
        ]
        .join("\n");
        assert_eq!(
            faults(&content),
            [
                told("invalid_json_line", 2),
                told("duplicate_custom_id", 3),
                told("invalid_url", 4),
                told("invalid_line", 5),
                told("invalid_method", 6),
                told("invalid_custom_id", 7),
                told("invalid_body", 8),
                told("invalid_json_line", 9),
                told("invalid_json_line", 10),
            ]
        );
        assert_eq!(faults(&"x\n".repeat(1_000)).len(), FAULTS_MAX);
        let many: String = (0..=LINES_MAX).map(|index| line(&index.to_string(), CHAT) + "\n").collect();
        assert_eq!(faults(&many), [("too_many_lines".to_owned(), None)]);
    }

    #[test]
    fn a_body_is_held_in_one_line() {
        assert_eq!(held_body(br#"{"a": 1.50}"#).get(), r#"{"a": 1.50}"#);
        assert_eq!(held_body(b"{\"a\":\n1}").get(), r#"{"a":1}"#);
        assert_eq!(held_body(b"no\njson").get(), r#""no\njson""#);
    }
}
