//! How answers are made and shown: what `/set` changes.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::input::quote;

/// What a value may be.
enum ValueKind {
    /// A number from zero to this one.
    UpTo(f64),
    /// A whole number from this one on.
    From(u64),
    /// One of these words.
    OneOf(&'static [&'static str]),
}

/// The setting that stays here; all others are sent to the server.
const REASONING: &str = "reasoning";

/// The settings by name.
const SETTINGS: [(&str, ValueKind); 6] = [
    (REASONING, ValueKind::OneOf(&["on", "off"])),
    ("reasoning_effort", ValueKind::OneOf(&["low", "medium", "high"])),
    ("temperature", ValueKind::UpTo(2.0)),
    ("top_p", ValueKind::UpTo(1.0)),
    ("max_tokens", ValueKind::From(1)),
    ("seed", ValueKind::From(0)),
];

/// The word that takes a value back.
const DEFAULT: &str = "default";

/// What was set; everything else is the server's choice.
#[derive(Debug, Clone, Default)]
pub(super) struct ChatSettings {
    /// Whether the model's reasoning is shown.
    pub(super) shows_reasoning: bool,
    sent: Map<String, Value>,
}

impl ChatSettings {
    /// Nothing set, the reasoning shown or not.
    pub(super) fn new(shows_reasoning: bool) -> Self {
        Self { shows_reasoning, sent: Map::new() }
    }

    /// The fields of a request.
    pub(super) fn sent(&self) -> &Map<String, Value> {
        &self.sent
    }

    /// Sets one, or takes its value back.
    ///
    /// # Errors
    /// Says what is no setting or no value, and what there is.
    pub(super) fn set(&mut self, name: &str, text: &str) -> Result<(), String> {
        let Some((name, kind)) = SETTINGS.iter().find(|(known, _)| *known == name) else {
            let names: Vec<&str> = SETTINGS.iter().map(|(name, _)| *name).collect();
            return Err(format!("{} is no setting; expected {}", quote(name), names.join(", ")));
        };
        let value = if text == DEFAULT { None } else { Some(read(kind, text).map_err(|why| format!("{name}: {why}"))?) };
        match (*name, value) {
            (REASONING, value) => self.shows_reasoning = value == Some(json!("on")),
            (name, Some(value)) => _ = self.sent.insert(name.to_owned(), value),
            (name, None) => _ = self.sent.remove(name),
        }
        Ok(())
    }

    /// A line for the setting `name`, or for each where it is empty.
    pub(super) fn shown(&self, name: &str) -> String {
        let mut text = String::new();
        for (known, kind) in SETTINGS.iter().filter(|(known, _)| name.is_empty() || *known == name) {
            let value = match (*known, self.sent.get(*known)) {
                (REASONING, _) => if self.shows_reasoning { "on" } else { "off" }.to_owned(),
                (_, Some(Value::String(word))) => word.clone(),
                (_, Some(value)) => value.to_string(),
                (_, None) => DEFAULT.to_owned(),
            };
            let _ = writeln!(text, "{known:17} {value:10} {}, or {DEFAULT}", expected(kind));
        }
        text
    }
}

fn expected(kind: &ValueKind) -> String {
    match kind {
        ValueKind::UpTo(most) => format!("a number from 0 to {most}"),
        ValueKind::From(least) => format!("a whole number from {least}"),
        ValueKind::OneOf(words) => words.join(", "),
    }
}

fn read(kind: &ValueKind, text: &str) -> Result<Value, String> {
    let value = match kind {
        ValueKind::UpTo(most) => {
            text.parse().ok().filter(|value: &f64| (0.0..=*most).contains(value)).map(|value| json!(value))
        }
        ValueKind::From(least) => text.parse().ok().filter(|value: &u64| value >= least).map(|value| json!(value)),
        ValueKind::OneOf(words) => words.contains(&text).then(|| json!(text)),
    };
    value.ok_or_else(|| format!("found {}, expected {}, or {DEFAULT}", quote(text), expected(kind)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked_sent_and_taken_back() {
        let mut settings = ChatSettings::new(false);
        for (name, text) in [("temperature", "0.5"), ("seed", "7"), ("max_tokens", "20"), ("reasoning_effort", "low")] {
            settings.set(name, text).unwrap();
        }
        settings.set(REASONING, "on").unwrap();
        assert!(settings.shows_reasoning && settings.shown("reasoning").contains(" on "), "{}", settings.shown(""));
        let sent = json!({"temperature": 0.5, "seed": 7, "max_tokens": 20, "reasoning_effort": "low"});
        assert_eq!(Value::Object(settings.sent().clone()), sent);
        for (name, text) in [
            ("temperature", "3"),
            ("temperature", "NaN"),
            ("top_p", "-0.1"),
            ("max_tokens", "0"),
            ("max_tokens", "1.5"),
            ("seed", ""),
            ("reasoning", "yes"),
            ("reasoning_effort", "lots"),
            ("model", "gpt"),
        ] {
            let why = settings.set(name, text).unwrap_err();
            assert!(why.contains("expected") && why.contains(name), "{why}");
        }
        settings.set("temperature", DEFAULT).unwrap();
        settings.set(REASONING, DEFAULT).unwrap();
        assert!(!settings.shows_reasoning && !settings.sent().contains_key("temperature"));
        assert_eq!(settings.shown("").lines().count(), SETTINGS.len());
    }
}
