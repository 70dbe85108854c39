//! What is asked: texts of our own, of a file, or of random words of a wanted length.

use std::path::Path;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::LoadError;
use crate::client::{Client, Request};
use crate::text_file;

/// Longest file of prompts: ShareGPT's have 0.7 GB.
const FILE_MAX_BYTES: u64 = 1 << 30;
const EXPECTED: &str =
    "JSON lines, each a string or an object with `prompt` or `messages`, or ShareGPT's array of objects with `conversations`";
/// What a token has in characters, where the server does not tell.
const CHARS_A_TOKEN: f64 = 4.0;

const BUILT_IN: [&str; 8] = [
    "Write Python code that prints \"Jay\".",
    "What is 2+2?",
    "Count from 1 to 20.",
    "What is the capital of France?",
    "Explain in two sentences why the sky is blue.",
    "Write a function that reverses a string.",
    "List three fruits as JSON.",
    "Hello, how are you?",
];

const WORDS: [&str; 32] = [
    "river", "stone", "light", "open", "table", "seven", "green", "quiet", "north", "bread", "paper", "small", "window",
    "carry", "early", "winter", "yellow", "garden", "simple", "number", "letter", "under", "music", "travel", "silver",
    "island", "corner", "voice", "market", "summer", "little", "bridge",
];

/// Where prompts come from.
#[derive(Debug, Clone, PartialEq)]
pub enum PromptSource {
    /// A few short questions.
    BuiltIn,
    /// A file.
    File(String),
    /// Random words, between so many tokens.
    Random {
        /// Fewest tokens.
        from: u32,
        /// Most tokens.
        to: u32,
    },
}

/// A set of prompts.
#[derive(Debug, Clone)]
pub struct Prompts {
    kind: PromptKind,
    /// What all conversations begin with.
    prefix: Option<String>,
    seed: u64,
    /// What there is to say about lengths.
    pub notes: Vec<String>,
}

#[derive(Debug, Clone)]
enum PromptKind {
    /// Each the messages that a conversation's requests add, in order.
    List(Vec<Vec<String>>),
    Random {
        from: u32,
        to: u32,
        words_a_token: f64,
    },
}

impl Prompts {
    /// Reads, or prepares to draw. `prefix_tokens` is the length of what all conversations share.
    ///
    /// # Errors
    /// [`LoadError::File`]. A server without `/tokenize` is no error: lengths are approximated, and
    /// a note says so.
    pub async fn open(
        source: &PromptSource,
        prefix_tokens: u32,
        seed: u64,
        client: &Client,
        model: &str,
    ) -> Result<Self, LoadError> {
        let mut notes = Vec::new();
        let needs_length = prefix_tokens > 0 || matches!(source, PromptSource::Random { .. });
        let words_a_token = if needs_length { words_a_token(client, model, &mut notes).await } else { 1.0 };
        let kind = match source {
            PromptSource::BuiltIn => PromptKind::List(BUILT_IN.iter().map(|text| vec![(*text).to_owned()]).collect()),
            PromptSource::File(path) => PromptKind::List(read_file(path)?),
            PromptSource::Random { from, to } => PromptKind::Random { from: *from, to: *to, words_a_token },
        };
        let prefix = (prefix_tokens > 0).then(|| {
            let mut random = SmallRng::seed_from_u64(seed ^ 0x7072_6566_6978);
            words(&mut random, f64::from(prefix_tokens) * words_a_token)
        });
        Ok(Self { kind, prefix, seed, notes })
    }

    /// What all conversations begin with, if anything.
    #[must_use]
    pub fn prefix(&self) -> Option<&str> {
        self.prefix.as_deref()
    }

    /// What the user says in a turn of a conversation; the same for the same seed.
    #[must_use]
    pub fn text(&self, index: usize, turn: usize) -> String {
        match &self.kind {
            PromptKind::List(all) => {
                let talk = &all[index % all.len()];
                talk.get(turn).cloned().unwrap_or_else(|| all[(index + turn) % all.len()][0].clone())
            }
            PromptKind::Random { from, to, words_a_token } => {
                let key = (index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ ((turn as u64) << 48);
                let mut random = SmallRng::seed_from_u64(self.seed ^ key);
                let tokens = random.random_range(*from..=*to);
                words(&mut random, f64::from(tokens) * words_a_token)
            }
        }
    }
}

fn words(random: &mut SmallRng, count: f64) -> String {
    let count = (count.round() as usize).max(1);
    let words: Vec<&str> = (0..count).map(|_| WORDS[random.random_range(0..WORDS.len())]).collect();
    words.join(" ")
}

/// How many of our words make a token, as the server counts.
async fn words_a_token(client: &Client, model: &str, notes: &mut Vec<String>) -> f64 {
    const SAMPLE_WORDS: f64 = 512.0;
    let text = words(&mut SmallRng::seed_from_u64(1), SAMPLE_WORDS);
    let asked = client.json(&Request::post_json("/tokenize", &json!({"model": model, "prompt": text}))).await;
    let count =
        asked.ok().and_then(|answer| answer["count"].as_u64().or_else(|| Some(answer["tokens"].as_array()?.len() as u64)));
    match count.filter(|count| *count > 0) {
        Some(count) => SAMPLE_WORDS / count as f64,
        None => {
            notes.push(format!(
                "prompt lengths are approximated by {CHARS_A_TOKEN} characters a token: the server has no /tokenize"
            ));
            SAMPLE_WORDS * CHARS_A_TOKEN / text.len() as f64
        }
    }
}

/// The conversations of a file.
fn read_file(path: &str) -> Result<Vec<Vec<String>>, LoadError> {
    let wrong = |place: String, message: String| LoadError::File { path: path.to_owned(), place, message, expected: EXPECTED };
    let text = text_file::read(Path::new(path), FILE_MAX_BYTES).map_err(|error| wrong(String::new(), error.to_string()))?;
    let mut talks = Vec::new();
    if text.trim_start().starts_with('[') {
        let all: Vec<Value> = serde_json::from_str(&text).map_err(|error| wrong(String::new(), error.to_string()))?;
        for (index, entry) in all.iter().enumerate() {
            let place = || format!(", entry {}", index + 1);
            talks.push(talk(entry).ok_or_else(|| wrong(place(), "no conversation".to_owned()))?);
        }
    } else {
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let place = || format!(", line {}", index + 1);
            let entry: Value = serde_json::from_str(line).map_err(|error| wrong(place(), error.to_string()))?;
            talks.push(talk(&entry).ok_or_else(|| wrong(place(), "no prompt".to_owned()))?);
        }
    }
    // ShareGPT's files hold conversations without a first turn.
    talks.retain(|talk| !talk.is_empty());
    if talks.is_empty() { Err(wrong(String::new(), "it holds no prompt".to_owned())) } else { Ok(talks) }
}

/// What the user says in an entry of a file; `None` if it is no entry.
fn talk(entry: &Value) -> Option<Vec<String>> {
    let said = |list: &Value, role: &str, users: [&str; 2], content: &str| {
        let own = list.as_array()?.iter().filter(|message| users.iter().any(|user| message[role] == *user));
        own.map(|message| message[content].as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
    };
    match entry {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Object(object) => match (object.get("prompt"), object.get("messages"), object.get("conversations")) {
            (Some(prompt), _, _) => Some(vec![prompt.as_str()?.to_owned()]),
            (_, Some(messages), _) => said(messages, "role", ["user", "user"], "content"),
            (_, _, Some(talk)) => said(talk, "from", ["human", "user"], "value"),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;

    fn read(content: &str) -> Result<Vec<Vec<String>>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts");
        fs::write(&path, content).unwrap();
        read_file(path.to_str().unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn files_of_every_form_are_read() {
        let lines = "\"a\"\n\n{\"prompt\":\"b\"}\n{\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"c\"}]}\n";
        assert_eq!(read(lines).unwrap(), [["a"], ["b"], ["c"]]);
        let share = r#"[{"id":"1","conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"x"},{"from":"human","value":"b"}]},{"conversations":[]}]"#;
        assert_eq!(read(share).unwrap(), [["a", "b"]]);
    }

    #[test]
    fn files_that_hold_no_prompt_are_refused_with_the_place() {
        for (content, said) in [
            ("", "it holds no prompt; expected JSON lines"),
            ("[]", "it holds no prompt"),
            ("\"a\"\n{\"text\":\"b\"}\n", ", line 2: no prompt"),
            ("\"a\"\n{\n", ", line 2: EOF"),
            ("[{\"x\":1}]", ", entry 1: no conversation"),
            ("{\"prompt\":7}", ", line 1: no prompt"),
        ] {
            let error = read(content).unwrap_err();
            assert!(error.contains(said), "{content:?}: {error}");
        }
        assert!(read_file("/").unwrap_err().to_string().contains("it is a directory"));
    }

    #[test]
    fn random_prompts_have_the_length_and_come_again_with_the_seed() {
        let kind = PromptKind::Random { from: 10, to: 20, words_a_token: 0.5 };
        let prompts = Prompts { kind, prefix: None, seed: 1, notes: Vec::new() };
        let texts: Vec<String> = (0..50).map(|index| prompts.text(index, 0)).collect();
        assert!(texts.iter().all(|text| (5..=10).contains(&text.split(' ').count())));
        assert_eq!(texts[3], prompts.text(3, 0));
        assert_ne!(texts[3], prompts.text(3, 1));
    }
}
