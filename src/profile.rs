//! Profiles: how a server trades the first token against throughput.
//!
//! Owns: the form of `profiles/*.toml`, its defaults and bounds. Promises: an unknown key, a wrong
//! type or a value out of bounds is an error that names the file, the line and what was expected; a
//! key left out has the default that `profiles/README.md` lists. Absent on purpose: what the
//! settings do; each is handed to the room that acts on it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::text_file;

/// Longest file; one with every key has 2 KB.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// The profiles in the binary, by name.
const BUILT_IN: [(&str, &str); 4] = [
    ("latency_first", include_str!("../profiles/latency_first.toml")),
    ("balanced", include_str!("../profiles/balanced.toml")),
    ("quality_first", include_str!("../profiles/quality_first.toml")),
    ("throughput", include_str!("../profiles/throughput.toml")),
];

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// Neither a built-in name nor a file.
    #[error("no profile `{name}`; expected {} or the path of a .toml file", built_in_names().join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The file cannot be read.
    #[error("profile {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file does not say what a profile says.
    #[error("profile {name}, line {line}: {message}")]
    Invalid {
        /// The profile's name or file.
        name: String,
        /// Where, counted from one.
        line: usize,
        /// What was found, and what was expected.
        message: String,
    },
}

/// An integer between `MIN` and `MAX`, checked while it is read so that the error knows the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounded<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Bounded<MIN, MAX> {
    /// The value.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The value as a count of things in memory.
    #[must_use]
    pub fn count(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Bounded<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = i64::deserialize(deserializer)?;
        match u64::try_from(found) {
            Ok(value) if (MIN..=MAX).contains(&value) => Ok(Self(value)),
            _ => Err(de::Error::custom(format!("found {found}, expected a whole number from {MIN} to {MAX}"))),
        }
    }
}

impl<const MIN: u64, const MAX: u64> Serialize for Bounded<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

/// A share between zero and one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Fraction(f64);

impl Fraction {
    /// The value.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Fraction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = f64::deserialize(deserializer)?;
        if (0.0..=1.0).contains(&found) {
            Ok(Self(found))
        } else {
            Err(de::Error::custom(format!("found {found}, expected a number from 0 to 1")))
        }
    }
}

/// How steps are filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchProfile {
    /// How long the first waiting prompt may be held so that others join its step.
    pub prefill_window_ms: Bounded<0, 10_000>,
    /// How long a decode step may be held for sequences about to join.
    pub decode_window_ms: Bounded<0, 10_000>,
    /// Most sequences that run at once.
    pub running_max_count: Bounded<1, 65_536>,
    /// Most tokens of a step.
    pub token_budget_tokens: Bounded<1, 1_048_576>,
    /// Most tokens of one prompt in a step.
    pub prefill_slice_tokens: Bounded<1, 1_048_576>,
    /// Percent of what running answers are expected to grow by that an admission leaves free.
    pub growth_reserve_percent: Bounded<0, 100>,
    /// Most tokens of a step that are guessed, over all sequences that decode.
    pub draft_budget_tokens: Bounded<0, 4_096>,
    /// The gap between an answer's tokens that prompts beside it are sliced for; zero: none.
    pub itl_target_ms: Bounded<0, 10_000>,
}

impl Default for BatchProfile {
    fn default() -> Self {
        Self {
            prefill_window_ms: Bounded(6),
            decode_window_ms: Bounded(4),
            running_max_count: Bounded(32),
            token_budget_tokens: Bounded(1_024),
            prefill_slice_tokens: Bounded(256),
            growth_reserve_percent: Bounded(10),
            draft_budget_tokens: Bounded(16),
            itl_target_ms: Bounded(0),
        }
    }
}

/// What may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueueProfile {
    /// Most sequences that wait; the next is refused with 429.
    pub waiting_max_count: Bounded<1, 1_048_576>,
    /// Most prompt tokens that wait; the next sequence is refused with 429.
    pub waiting_max_tokens: Bounded<1, 1_073_741_824>,
    /// How long a sequence may wait; then it ends with `queue_timeout`. Zero waits for ever.
    pub waiting_max_seconds: Bounded<0, 86_400>,
    /// Most prompts that are rendered and tokenized at once or wait for it; the next is refused
    /// with 429.
    pub preparing_max_count: Bounded<1, 1_048_576>,
    /// What a level of a request's priority is worth: so much earlier an arrival. Zero: priorities
    /// do not count.
    pub priority_seconds: Bounded<0, 3_600>,
}

impl Default for QueueProfile {
    fn default() -> Self {
        Self {
            waiting_max_count: Bounded(1_024),
            waiting_max_tokens: Bounded(1_048_576),
            waiting_max_seconds: Bounded(60),
            preparing_max_count: Bounded(1_024),
            priority_seconds: Bounded(10),
        }
    }
}

/// How text leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamProfile {
    /// Longest time that text may be held back so that several tokens share an event; zero sends
    /// every token's text at once.
    pub coalesce_max_ms: Bounded<0, 10_000>,
    /// Characters that are sent at once however little time has passed; zero means no such bound.
    pub coalesce_max_chars: Bounded<0, 65_536>,
    /// A reader that takes nothing for so long is cut off.
    pub slow_reader_seconds: Bounded<1, 3_600>,
}

impl Default for StreamProfile {
    fn default() -> Self {
        Self { coalesce_max_ms: Bounded(0), coalesce_max_chars: Bounded(0), slow_reader_seconds: Bounded(30) }
    }
}

/// What the operator wants to see; reported beside what is, never enforced.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TargetProfile {
    /// 95th percentile of the time to the first token.
    pub ttft_p95_ms: Bounded<1, 3_600_000>,
    /// 95th percentile of the time to the last token.
    pub e2e_p95_ms: Bounded<1, 3_600_000>,
    /// Share of requests that may fail.
    pub error_rate_max: Fraction,
}

impl Default for TargetProfile {
    fn default() -> Self {
        Self { ttft_p95_ms: Bounded(7_000), e2e_p95_ms: Bounded(20_000), error_rate_max: Fraction(0.005) }
    }
}

/// A profile, every key filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Its name, or its file's name without `.toml`.
    pub name: String,
    /// What it is for, in a sentence.
    pub description: String,
    /// How steps are filled.
    pub batch: BatchProfile,
    /// What may wait.
    pub queue: QueueProfile,
    /// How text leaves.
    pub stream: StreamProfile,
    /// What the operator wants to see.
    pub targets: TargetProfile,
}

/// A profile as it stands in a file.
#[derive(Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct ProfileFile {
    description: String,
    batch: BatchProfile,
    queue: QueueProfile,
    stream: StreamProfile,
    targets: TargetProfile,
}

/// The names of the profiles in the binary.
#[must_use]
pub fn built_in_names() -> [&'static str; 4] {
    BUILT_IN.map(|(name, _)| name)
}

impl Profile {
    /// Reads a built-in profile by name, or a file by path (anything that ends in `.toml` or holds
    /// a path separator).
    ///
    /// # Errors
    /// [`ProfileError`], with file and line.
    pub fn load(name_or_file: &str) -> Result<Self, ProfileError> {
        if let Some((name, text)) = BUILT_IN.iter().find(|(name, _)| *name == name_or_file) {
            return Self::parse(name, name, text);
        }
        if !(name_or_file.ends_with(".toml") || name_or_file.contains(std::path::MAIN_SEPARATOR)) {
            return Err(ProfileError::Unknown { name: name_or_file.to_owned() });
        }
        let path = Path::new(name_or_file);
        let text = text_file::read(path, FILE_MAX_BYTES)
            .map_err(|source| ProfileError::Unreadable { path: path.to_owned(), source })?;
        let stem = path.file_stem().map_or_else(|| name_or_file.into(), |stem| stem.to_string_lossy());
        Self::parse(&stem, name_or_file, &text)
    }

    /// Reads a profile called `name` from the text of the file `place`.
    fn parse(name: &str, place: &str, text: &str) -> Result<Self, ProfileError> {
        let invalid = |line, message| ProfileError::Invalid { name: place.to_owned(), line, message };
        let file: ProfileFile = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            invalid(line, error.message().to_owned())
        })?;
        let profile = Self::from_file(name, file);
        profile.check().map_err(|message| {
            let line = text.lines().position(|line| line.trim_start().starts_with("prefill_slice_tokens")).unwrap_or(0) + 1;
            invalid(line, message)
        })?;
        Ok(profile)
    }

    fn from_file(name: &str, file: ProfileFile) -> Self {
        let ProfileFile { description, batch, queue, stream, targets } = file;
        Self { name: name.to_owned(), description, batch, queue, stream, targets }
    }

    /// Whether the values agree with each other; a profile that was read does, one that was
    /// overlaid may not.
    ///
    /// # Errors
    /// What does not agree, and what was expected.
    pub fn check(&self) -> Result<(), String> {
        let (slice, budget) = (self.batch.prefill_slice_tokens.get(), self.batch.token_budget_tokens.get());
        if slice > budget {
            return Err(format!("prefill_slice_tokens is {slice}, expected at most token_budget_tokens, which is {budget}"));
        }
        Ok(())
    }

    /// The tables of a profile's file, every key filled in.
    #[must_use]
    pub fn tables(&self) -> toml::Table {
        let &Self { batch, queue, stream, targets, .. } = self;
        let file = ProfileFile { description: self.description.clone(), batch, queue, stream, targets };
        toml::Table::try_from(file).expect("a profile's values are integers, numbers and a text")
    }

    /// The same profile with another value of one key.
    ///
    /// # Errors
    /// What is wrong with the value, and what was expected.
    pub fn overlaid(&self, section: &str, key: &str, value: toml::Value) -> Result<Self, String> {
        let mut tables = self.tables();
        let section = tables.get_mut(section).and_then(toml::Value::as_table_mut);
        section.ok_or("no such table")?.insert(key.to_owned(), value);
        let file = ProfileFile::deserialize(tables).map_err(|error| error.message().to_owned())?;
        Ok(Self::from_file(&self.name, file))
    }
}

/// The line, counted from one, of the byte at `offset`.
fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_profiles_are_read() {
        for name in built_in_names() {
            let profile = Profile::load(name).expect("a built-in profile is valid");
            assert_eq!(profile.name, name);
            assert!(!profile.description.is_empty(), "{name} says what it is for");
        }
    }

    #[test]
    fn windows_widen_from_latency_first_to_throughput() {
        let windows: Vec<_> =
            built_in_names().iter().map(|name| Profile::load(name).expect("valid").batch.prefill_window_ms.get()).collect();
        assert!(windows.is_sorted(), "{windows:?}");
    }

    #[test]
    fn nonsense_is_refused_with_its_line() {
        for (text, line, part) in [
            ("[batch]\nprefil_window_ms = 1\n", 2, "unknown field `prefil_window_ms`"),
            ("\n\n[bach]\n", 3, "unknown field `bach`"),
            ("[batch]\nrunning_max_count = 0\n", 2, "found 0, expected a whole number from 1 to 65536"),
            ("[batch]\n\ndecode_window_ms = -4\n", 3, "found -4, expected a whole number from 0 to 10000"),
            ("[stream]\ncoalesce_max_ms = \"fast\"\n", 2, "invalid type: string \"fast\""),
            ("[targets]\nerror_rate_max = 1.5\n", 2, "found 1.5, expected a number from 0 to 1"),
            ("[targets]\nerror_rate_max = nan\n", 2, "found NaN"),
            ("[batch]\ntoken_budget_tokens = 64\nprefill_slice_tokens = 65\n", 3, "at most token_budget_tokens"),
            ("[queue\n", 1, "unclosed table"),
        ] {
            match Profile::parse("x", "x.toml", text) {
                Err(ProfileError::Invalid { line: found, message, .. }) => {
                    assert_eq!(found, line, "{text:?}: {message}");
                    assert!(message.contains(part), "{text:?}: {message}");
                }
                other => panic!("{text:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn one_key_can_be_set_over_a_profile() {
        let profile = Profile::load("balanced").expect("valid");
        let set = |section, key, value: i64| profile.overlaid(section, key, toml::Value::Integer(value));
        let wide = set("batch", "prefill_window_ms", 70).expect("within bounds");
        assert_eq!(wide.batch.prefill_window_ms.get(), 70);
        assert_eq!(Profile { batch: profile.batch, ..wide }, profile);
        let said = set("batch", "running_max_count", 0).expect_err("out of bounds");
        assert!(said.contains("found 0, expected a whole number from 1 to 65536"), "{said}");
        assert!(set("batch", "prefil_window_ms", 1).expect_err("unknown").contains("unknown field"));
        assert!(set("bach", "prefill_window_ms", 1).is_err());
        let narrow = set("batch", "token_budget_tokens", 1).expect("within bounds");
        assert!(narrow.check().expect_err("they disagree").contains("at most token_budget_tokens, which is 1"));
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let message = Profile::load("fastest").expect_err("no such profile").to_string();
        assert!(message.contains("fastest") && message.contains("latency_first, balanced"), "{message}");
        assert!(matches!(Profile::load("no/such.toml"), Err(ProfileError::Unreadable { .. })));
    }

    /// The table in `profiles/README.md` must list each key once, with the default that holds.
    #[test]
    fn the_readme_lists_every_key_with_its_default() {
        let readme = include_str!("../profiles/README.md");
        let file = ProfileFile::default();
        let defaults = format!("{:?} {:?} {:?} {:?}", file.batch, file.queue, file.stream, file.targets);
        let mut documented: Vec<(&str, &str)> = Vec::new();
        for row in readme.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            let key = cells[1].trim_matches('`').rsplit('.').next().expect("a key");
            documented.push((key, cells[3]));
        }
        let keys = defaults.matches(": ").count();
        assert_eq!(documented.iter().filter(|(key, _)| *key != "description").count(), keys, "{defaults}");
        for (key, default) in documented {
            if key == "description" {
                continue;
            }
            let debug = format!("{key}: Bounded({default})");
            let share = format!("{key}: Fraction({default})");
            assert!(defaults.contains(&debug) || defaults.contains(&share), "{key} = {default} is not in {defaults}");
        }
    }
}
