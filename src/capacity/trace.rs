//! Traces: when requests came, and how long their prompts and answers were.
//!
//! A file is CSV with a line of names, or JSON lines with the same names. Azure's traces have
//! `TIMESTAMP`, `ContextTokens` and `GeneratedTokens`; BurstGPT's have `Timestamp`, `Request
//! tokens`, `Response tokens`, and in newer releases `Session ID`; what `antiphon load --csv` wrote
//! has `begun_s`, `prompt_tokens` and `output_tokens`. Other columns are not read.
//!
//! Source: github.com/Azure/AzurePublicDataset (`AzureLLMInferenceTrace_*.csv`) and
//! github.com/HPMLL/BurstGPT.

use std::path::Path;

use serde_json::Value;

use super::CapacityError;
use super::times::moment;
use crate::text_file;

/// Longest file; BurstGPT's longest has 220 MB.
const FILE_MAX_BYTES: u64 = 1 << 30;
/// No prompt and no answer is longer: eight contexts of gpt-oss.
const TOKENS_MAX: u64 = 1 << 20;
/// No trace is longer, in microseconds: BurstGPT's has 121 days. Milliseconds that are taken for
/// seconds are found so.
const SPAN_MAX_MICROS: u64 = 366 * 86_400 * 1_000_000;

const EXPECTED_COLUMNS: &str = "TIMESTAMP, ContextTokens and GeneratedTokens (Azure), Timestamp, Request tokens and Response tokens (BurstGPT), or begun_s, \
     prompt_tokens and output_tokens (antiphon load)";
const EXPECTED_TIME: &str = "seconds, or a date with a time such as 2023-11-16 18:15:46.68";
const EXPECTED_TOKENS: &str = "a whole number from 1 to 1048576";
const EXPECTED_OBJECT: &str = "a JSON object a line";

/// A request of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceRequest {
    /// When it came, in microseconds from the first.
    pub at_micros: u64,
    /// Tokens of its prompt.
    pub prompt_tokens: u32,
    /// Tokens of its answer.
    pub output_tokens: u32,
    /// The conversation that it belongs to: requests of the same begin with the same tokens.
    /// `None`: it shares nothing.
    pub session: Option<u64>,
}

/// What is read of a line.
const FIELDS: [(&str, &[&str]); 4] = [
    ("time", &["timestamp", "beguns"]),
    ("tokens of the prompt", &["contexttokens", "requesttokens", "prompttokens"]),
    ("tokens of the answer", &["generatedtokens", "responsetokens", "outputtokens"]),
    ("session", &["sessionid", "session"]),
];

/// The texts of [`FIELDS`] in a line; what is missing is empty.
type Fields = [String; 4];

/// Which of [`FIELDS`] a column is, if any: spaces, case and underscores do not count.
fn field_of(column: &str) -> Option<usize> {
    let plain: String = column.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    FIELDS.iter().position(|(_, names)| names.contains(&plain.as_str()))
}

/// Reads a trace.
///
/// # Errors
/// [`CapacityError`], with the line.
pub fn read_trace(path: &str) -> Result<Vec<TraceRequest>, CapacityError> {
    let text = text_file::read(Path::new(path), FILE_MAX_BYTES)
        .map_err(|source| CapacityError::Unreadable { path: path.to_owned(), source })?;
    parse(path, &text)
}

/// The requests of a trace's text.
pub(super) fn parse(path: &str, text: &str) -> Result<Vec<TraceRequest>, CapacityError> {
    let mut reader = TraceReader { path, requests: Vec::new(), zero: 0 };
    if let Some(hole) = text.lines().position(|line| line.trim().is_empty()) {
        return Err(reader.wrong(hole as u64 + 1, "an empty line".to_owned(), "a request a line"));
    }
    if text.trim_start().starts_with('{') {
        reader.read_json(text)?;
    } else {
        reader.read_csv(text)?;
    }
    if reader.requests.is_empty() {
        return Err(reader.wrong(1, "no request".to_owned(), "a request a line"));
    }
    Ok(reader.requests)
}

struct TraceReader<'a> {
    path: &'a str,
    requests: Vec<TraceRequest>,
    /// The first request's moment.
    zero: i64,
}

impl TraceReader<'_> {
    fn wrong(&self, line: u64, found: String, expected: &'static str) -> CapacityError {
        CapacityError::Line { path: self.path.to_owned(), line, found, expected }
    }

    fn read_json(&mut self, text: &str) -> Result<(), CapacityError> {
        for (line, text) in (1..).zip(text.lines()) {
            let read: Result<Value, _> = serde_json::from_str(text);
            let value = read.map_err(|error| self.wrong(line, error.to_string(), EXPECTED_OBJECT))?;
            let object = value.as_object().ok_or_else(|| self.wrong(line, "no object".to_owned(), EXPECTED_OBJECT))?;
            let mut fields = Fields::default();
            for (key, value) in object {
                if let Some(at) = field_of(key) {
                    fields[at] = match value {
                        Value::String(text) => text.clone(),
                        Value::Null => String::new(),
                        other => other.to_string(),
                    };
                }
            }
            self.add(line, &fields)?;
        }
        Ok(())
    }

    fn read_csv(&mut self, text: &str) -> Result<(), CapacityError> {
        let mut reader = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(text.as_bytes());
        let unreadable = |error: &csv::Error| (error.position().map_or(1, csv::Position::line), error.to_string());
        let names = reader.headers().map_err(|error| {
            let (line, said) = unreadable(&error);
            self.wrong(line, said, EXPECTED_COLUMNS)
        })?;
        let columns: Vec<Option<usize>> = names.iter().map(field_of).collect();
        let width = columns.len();
        for (at, (what, _)) in FIELDS.iter().enumerate().take(3) {
            if !columns.contains(&Some(at)) {
                return Err(self.wrong(1, format!("no column for the {what}"), EXPECTED_COLUMNS));
            }
        }
        let mut record = csv::StringRecord::new();
        loop {
            let more = reader.read_record(&mut record).map_err(|error| {
                let (line, said) = unreadable(&error);
                self.wrong(line, said, EXPECTED_COLUMNS)
            })?;
            if !more {
                return Ok(());
            }
            let line = record.position().map_or(0, csv::Position::line);
            if record.len() != width {
                return Err(self.wrong(line, format!("{} values", record.len()), "a value for each name of the first line"));
            }
            let mut fields = Fields::default();
            for (column, value) in columns.iter().zip(&record) {
                if let Some(at) = column {
                    value.clone_into(&mut fields[*at]);
                }
            }
            self.add(line, &fields)?;
        }
    }

    fn add(&mut self, line: u64, fields: &Fields) -> Result<(), CapacityError> {
        let [time, prompt, output, session] = fields;
        let at = moment(time).ok_or_else(|| self.wrong(line, format!("the time is `{}`", shown(time)), EXPECTED_TIME))?;
        if at < 0 {
            return Err(self.wrong(line, format!("the time is {}", shown(time)), "a time that is not negative"));
        }
        if self.requests.is_empty() {
            self.zero = at;
        }
        let earlier = self.requests.last().map_or(0, |last| last.at_micros);
        let since = at.checked_sub(self.zero).and_then(|since| u64::try_from(since).ok()).filter(|since| *since >= earlier);
        let Some(at_micros) = since else {
            let found = format!("the time is {}, before that of the line above", shown(time));
            return Err(self.wrong(line, found, "lines in the order of their times"));
        };
        if at_micros > SPAN_MAX_MICROS {
            let found = format!("the time is {}, more than 366 days after the first", shown(time));
            return Err(self.wrong(line, found, "seconds within a year"));
        }
        let tokens = |at: usize, text: &str| {
            let count = text.parse::<u64>().ok().filter(|count| (1..=TOKENS_MAX).contains(count));
            let found = || self.wrong(line, format!("the {} are `{}`", FIELDS[at].0, shown(text)), EXPECTED_TOKENS);
            count.and_then(|count| u32::try_from(count).ok()).ok_or_else(found)
        };
        let (prompt_tokens, output_tokens) = (tokens(1, prompt)?, tokens(2, output)?);
        let session = (!session.is_empty()).then(|| hash(session));
        self.requests.push(TraceRequest { at_micros, prompt_tokens, output_tokens, session });
        Ok(())
    }
}

/// The beginning of a value, for a message.
fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

/// FNV-1a, 64 bits: a session's name as a number.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<TraceRequest>, String> {
        parse("x.csv", text).map_err(|error| error.to_string())
    }

    #[test]
    fn the_public_forms_are_read() {
        let of =
            |at_micros, prompt_tokens, output_tokens| TraceRequest { at_micros, prompt_tokens, output_tokens, session: None };
        let azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,3180,8\n";
        assert_eq!(read(azure), Ok(vec![of(0, 4808, 10), of(52_000, 3180, 8)]));
        let burst = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,Conversation log\n\
                     45.5,GPT-4,1087,230,1317,API log\n";
        assert_eq!(read(burst), Ok(vec![of(0, 472, 18), of(40_500_000, 1087, 230)]));
        let json = "{\"TIMESTAMP\": \"2024-05-10 00:00:00.5+00:00\", \"ContextTokens\": 7, \"GeneratedTokens\": 2}\n\
                    {\"timestamp\": \"2024-05-10 00:00:01+00:00\", \"context_tokens\": \"8\", \"generated_tokens\": 3, \"x\": [1]}\n";
        assert_eq!(read(json), Ok(vec![of(0, 7, 2), of(500_000, 8, 3)]));
        let load =
            "index,turn,begun_s,late_ms,prompt_tokens,cached_tokens,output_tokens\n0,0,0.0,0.9,12,0,8\n1,0,0.25,0.1,7,0,9\n";
        assert_eq!(read(load), Ok(vec![of(0, 12, 8), of(250_000, 7, 9)]));
        let sessions = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
                        1,a,2,m,10,5,15,c\n2,b,2,m,10,5,15,c\n3,a,2,m,30,5,35,c\n4,,2,m,30,5,35,c\n";
        let sessions: Vec<_> = read(sessions).expect("it is read").iter().map(|request| request.session).collect();
        assert!(sessions[0].is_some() && sessions[0] == sessions[2] && sessions[0] != sessions[1] && sessions[3].is_none());
    }

    #[test]
    fn a_line_that_makes_no_sense_is_refused_with_its_number_and_reason() {
        let azure = |line: &str| format!("TIMESTAMP,ContextTokens,GeneratedTokens\n10,5,5\n{line}\n12,5,5\n");
        for (text, part) in [
            (azure("11,5"), "line 3: 2 values; expected a value for each name of the first line"),
            (azure("11,,5"), "line 3: the tokens of the prompt are ``; expected a whole number from 1 to 1048576"),
            (azure(",5,5"), "line 3: the time is ``; expected seconds, or a date"),
            (azure(""), "line 3: an empty line; expected a request a line"),
            (azure("-1,5,5"), "line 3: the time is -1; expected a time that is not negative"),
            (azure("9,5,5"), "line 3: the time is 9, before that of the line above; expected lines in the order"),
            (azure("1700000000000,5,5"), "line 3: the time is 1700000000000, more than 366 days after the first"),
            (azure("11,0,5"), "line 3: the tokens of the prompt are `0`"),
            (azure("11,5,0"), "line 3: the tokens of the answer are `0`"),
            (azure("11,1048577,5"), "the tokens of the prompt are `1048577`; expected a whole number from 1 to 1048576"),
            (azure("11,99999999999999999999,5"), "are `99999999999999999999`"),
            (azure("11,-5,5"), "are `-5`"),
            (azure("11,5.5,5"), "are `5.5`"),
            (azure("noon,5,5"), "the time is `noon`"),
            (
                "TIMESTAMP,Tokens\n1,2\n".to_owned(),
                "line 1: no column for the tokens of the prompt; expected TIMESTAMP, Context",
            ),
            ("TIMESTAMP,ContextTokens,GeneratedTokens\n".to_owned(), "line 1: no request; expected a request a line"),
            (String::new(), "line 1: no column for the time"),
            ("{\"timestamp\": 1, \"ContextTokens\": 3}\n".to_owned(), "line 1: the tokens of the answer are ``"),
            ("{\"timestamp\": 1, \"ContextTokens\": 3, \"GeneratedTokens\": null}\n".to_owned(), "answer are ``"),
            ("{\"timestamp\": 1,\n".to_owned(), "line 1: EOF while parsing"),
            ("{}\n".to_owned(), "line 1: the time is ``"),
            ("{\"timestamp\": 1, \"ContextTokens\": 3, \"GeneratedTokens\": 3}\n\n".to_owned(), "line 2: an empty line"),
        ] {
            let said = read(&text).expect_err(part);
            assert!(said.starts_with("trace x.csv, line ") && said.contains(part), "{text:?}: {said}");
        }
    }
}
