//! The form of a cost model's file.

use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{CostError, CostModel, EngineShape, built_in};
use crate::text_file;

/// Longest file; one with every key has 2 KB.
const FILE_MAX_BYTES: u64 = 1 << 20;
/// No figure is larger: a thousand terabytes of memory.
const FIGURE_MAX: f64 = 1e15;

/// A number from zero to 10^15, checked while it is read so that the error knows the line.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
pub struct Figure(pub f64);

impl Figure {
    /// As a count.
    #[must_use]
    pub fn count(self) -> usize {
        self.0 as usize
    }
}

impl<'de> Deserialize<'de> for Figure {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = f64::deserialize(deserializer)?;
        if (0.0..=FIGURE_MAX).contains(&found) {
            Ok(Self(found))
        } else {
            Err(de::Error::custom(format!("found {found}, expected a number from 0 to 10^15")))
        }
    }
}

impl Serialize for Figure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.fract() == 0.0 { serializer.serialize_i64(self.0 as i64) } else { serializer.serialize_f64(self.0) }
    }
}

impl CostModel {
    /// Reads a built-in model by name, or a file by path (what ends in `.toml` or holds a path
    /// separator).
    ///
    /// # Errors
    /// [`CostError`], with file and line.
    pub fn load(name_or_file: &str) -> Result<Self, CostError> {
        if let Some(model) = built_in::model(name_or_file) {
            return Ok(model);
        }
        if !(name_or_file.ends_with(".toml") || name_or_file.contains(std::path::MAIN_SEPARATOR)) {
            return Err(CostError::Unknown { name: name_or_file.to_owned() });
        }
        let path = Path::new(name_or_file);
        let text =
            text_file::read(path, FILE_MAX_BYTES).map_err(|source| CostError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(name_or_file, &text)
    }

    /// Reads a model from the text of the file `place`.
    pub(super) fn parse(place: &str, text: &str) -> Result<Self, CostError> {
        let invalid = |line, message| CostError::Invalid { name: place.to_owned(), line, message };
        let model: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text.bytes().take(span.start).filter(|byte| *byte == b'\n').count() + 1);
            invalid(line, error.message().to_owned())
        })?;
        match model.contradiction() {
            None => Ok(model),
            Some((key, message)) => {
                let line = text.lines().position(|line| line.trim_start().starts_with(key)).unwrap_or(0) + 1;
                Err(invalid(line, format!("{key} {message}")))
            }
        }
    }

    /// A key whose value no machine can have, and what was expected.
    fn contradiction(&self) -> Option<(&'static str, String)> {
        // It stands in a header of every answer that is simulated.
        if self.name.is_empty() || self.name.len() > 100 || !self.name.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Some(("name", "is no name, expected 1 to 100 printable ASCII characters".to_owned()));
        }
        let EngineShape { block_tokens, sliding_window_tokens, context_tokens_max, steps_max, answer_tokens, .. } = self.engine;
        let whole = [
            ("block_tokens", block_tokens, 1.0, 4_096.0),
            ("sliding_window_tokens", sliding_window_tokens, 1.0, 1e9),
            ("context_tokens_max", context_tokens_max, 1.0, 1e9),
            ("steps_max", steps_max, 1.0, 2.0),
            ("answer_tokens", answer_tokens, 1.0, 1e9),
        ];
        let blocks = [("global_blocks", self.engine.global_blocks), ("sliding_blocks", self.engine.sliding_blocks)];
        let blocks = blocks.into_iter().filter_map(|(key, blocks)| Some((key, blocks?, 1.0, f64::from(u32::MAX))));
        for (key, Figure(found), least, most) in whole.into_iter().chain(blocks) {
            if found.fract() != 0.0 || !(least..=most).contains(&found) {
                return Some((key, format!("is {found}, expected a whole number from {least} to {most}")));
            }
        }
        let roof = self.roof?;
        let above_zero = [("memory_gb_per_s", roof.memory_gb_per_s), ("tflop_per_s", roof.tflop_per_s)];
        if let Some((key, _)) = above_zero.into_iter().find(|(_, figure)| figure.0 == 0.0) {
            return Some((key, "is 0, expected a number above it: nothing would ever end".to_owned()));
        }
        let (experts, taken) = (roof.experts.0, roof.experts_per_token.0);
        (taken > experts)
            .then(|| ("experts_per_token", format!("is {taken}, expected at most the experts, which are {experts}")))
    }

    /// The model as a file that [`CostModel::load`] reads.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let text = toml::to_string(self).expect("a model is tables of numbers and texts");
        let head = "# A cost model: microseconds of a step by what it computes. docs/simulator.md says what each key means.\n";
        format!("{head}{text}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::built_in_names;
    use super::*;

    #[test]
    fn a_model_is_read_as_it_was_written() {
        for name in built_in_names() {
            let model = CostModel::load(&name).expect("it is built in");
            assert_eq!(CostModel::parse("x.toml", &model.to_toml()).expect("its own file"), model);
        }
    }

    #[test]
    fn nonsense_is_refused_with_its_line() {
        let good = CostModel::load("h100-20b").expect("it is built in").to_toml();
        let with = |key: &str, value: &str| {
            let mut lines: Vec<&str> = good.lines().collect();
            let at = lines.iter().position(|line| line.starts_with(&format!("{key} ="))).expect("a key of the file");
            lines[at] = value;
            lines.join("\n")
        };
        for (key, value, part) in [
            ("fixed_us", "fixed_us = -1", "found -1, expected a number from 0 to 10^15"),
            ("fixed_us", "fixed_us = nan", "found NaN"),
            ("fixed_us", "fixed_ms = 1", "unknown field `fixed_ms`"),
            ("kind", "kind = \"guess\"", "unknown variant `guess`"),
            ("name", "name = \"ü\"", "expected 1 to 100 printable ASCII characters"),
            ("block_tokens", "block_tokens = 0", "expected a whole number from 1 to 4096"),
            ("block_tokens", "block_tokens = 1.5", "expected a whole number"),
            ("steps_max", "steps_max = 3", "expected a whole number from 1 to 2"),
            ("memory_gb_per_s", "memory_gb_per_s = 0", "expected a number above it"),
            ("experts_per_token", "experts_per_token = 33", "at most the experts, which are 32"),
        ] {
            let text = with(key, value);
            let expected = text.lines().position(|line| line == value).expect("it is in the text") + 1;
            match CostModel::parse("x.toml", &text) {
                Err(CostError::Invalid { line, message, .. }) => {
                    assert!(message.contains(part), "{value}: {message}");
                    assert_eq!(line, expected, "{value}: {message}");
                }
                other => panic!("{value}: {other:?}"),
            }
        }
        let said = CostModel::load("h300-20b").expect_err("there is none").to_string();
        assert!(said.contains("expected h100-20b") && said.contains(".toml file"), "{said}");
    }
}
