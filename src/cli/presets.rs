//! Loads with a name, for `load` and `simulate` alike.

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches};

use super::failure::CommandFailure;

/// A load that others measure too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Preset {
    /// Its name on the command line.
    pub(super) name: &'static str,
    /// What it is.
    about: &'static str,
    /// The options that it stands for, of `load` and of `simulate`, and their values.
    values: &'static [(&'static str, &'static str)],
}

/// When requests come: one of these, and what is given by hand takes the place of the preset's.
const ARRIVALS: [&str; 6] = ["concurrency", "rate", "burst", "sweep", "poisson", "trace"];

/// All of them.
const PRESETS: [Preset; 5] = [
    Preset {
        name: "mlperf-server",
        about: "the bounds of MLPerf Inference for gpt-oss-120b, scenario Server: 99 % within 3 s and 80 ms a token",
        values: &[("rate", "1"), ("poisson", "1"), ("target-ttft", "3000"), ("target-tpot", "80"), ("target-share", "0.99")],
    },
    Preset {
        name: "mlperf-interactive",
        about: "the same, scenario Interactive: 99 % within 2 s and 15 ms a token",
        values: &[("rate", "1"), ("poisson", "1"), ("target-ttft", "2000"), ("target-tpot", "15"), ("target-share", "0.99")],
    },
    // bench_serving draws between 0.8 of a length and all of it, ten prompts a user, and ignores
    // the end; servers run without a prefix cache. Source: InferenceMAX's README.
    Preset {
        name: "inferencex",
        about: "InferenceX: 1k tokens in, 1k out, from 0.8 of it on, ten requests a user, no prefix cache",
        values: &[
            ("concurrency", "64"),
            ("requests-per-user", "10"),
            ("prompt-tokens", "819-1024"),
            ("output-tokens", "819-1024"),
            ("ignore-eos", ""),
            ("prefix-cache", "off"),
        ],
    },
    Preset {
        name: "inferencex-8k",
        about: "the same with 8k tokens in",
        values: &[
            ("concurrency", "64"),
            ("requests-per-user", "10"),
            ("prompt-tokens", "6553-8192"),
            ("output-tokens", "819-1024"),
            ("ignore-eos", ""),
            ("prefix-cache", "off"),
        ],
    },
    Preset {
        name: "agentic",
        about: "agents: 2,000 tokens of instructions, ten turns of 500 tokens with answers of 150; nine tenths were seen before",
        values: &[
            ("concurrency", "8"),
            ("requests", "80"),
            ("shared-prefix-tokens", "2000"),
            ("prompt-tokens", "400-600"),
            ("output-tokens", "100-200"),
            ("turns", "10"),
            ("session-turns", "10"),
        ],
    },
];

impl Preset {
    fn value(&self, name: &str) -> Option<&'static str> {
        self.values.iter().find(|(own, _)| *own == name).map(|(_, value)| *value)
    }
}

/// The option that names one.
pub(super) fn argument() -> Arg {
    let described: Vec<String> = PRESETS.iter().map(|preset| format!("{} ({})", preset.name, preset.about)).collect();
    let help = format!("A load with a name, whose options can be given besides: {}", described.join("; "));
    Arg::new("preset").long("preset").value_name("NAME").help(help)
}

/// The options of a load: those that were given, else the preset's, else their defaults.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    matches: &'a ArgMatches,
    preset: Option<&'static Preset>,
}

impl<'a> Asked<'a> {
    /// The options of a command line that has [`argument`].
    ///
    /// # Errors
    /// If there is no such preset.
    pub(super) fn new(matches: &'a ArgMatches) -> Result<Self, CommandFailure> {
        let Some(name) = matches.get_one::<String>("preset") else { return Ok(Self { matches, preset: None }) };
        let preset = PRESETS.iter().find(|preset| preset.name == name);
        let names = || PRESETS.map(|preset| preset.name).join(", ");
        let wrong = || CommandFailure::Usage(format!("--preset is `{name}`; expected one of {}", names()));
        Ok(Self { matches, preset: Some(preset.ok_or_else(wrong)?) })
    }

    fn is_given(&self, name: &str) -> bool {
        matches!(self.matches.try_contains_id(name), Ok(true))
            && self.matches.value_source(name) == Some(ValueSource::CommandLine)
    }

    /// The text of an option.
    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        let own = || self.matches.try_get_one::<String>(name).ok().flatten().map(String::as_str);
        if self.is_given(name) {
            return own();
        }
        let is_decided = ARRIVALS.contains(&name) && ARRIVALS.iter().any(|other| self.is_given(other));
        let preset = self.preset.filter(|_| !is_decided).and_then(|preset| preset.value(name));
        preset.or_else(own)
    }

    /// Whether a switch is on.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.matches.get_flag(name) || self.preset.is_some_and(|preset| preset.value(name).is_some())
    }

    /// The value of an option as `read` understands it, if there is one.
    pub(super) fn value<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, CommandFailure> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let wrong = || CommandFailure::Usage(format!("--{name} is `{text}`; expected {expected}"));
        read(text).map(Some).ok_or_else(wrong)
    }

    /// A value within bounds.
    pub(super) fn within<T: std::str::FromStr + PartialOrd + Copy>(
        &self,
        name: &str,
        expected: &str,
        least: T,
        most: T,
    ) -> Result<Option<T>, CommandFailure> {
        self.value(name, expected, |text| text.parse().ok().filter(|value| *value >= least && *value <= most))
    }

    /// A count from `least` to ten million.
    pub(super) fn count(&self, name: &str, least: usize) -> Result<Option<usize>, CommandFailure> {
        self.within(name, &format!("a whole number from {least} to 10000000"), least, 10_000_000)
    }

    /// A share from 0 to 1; 0 unless it is given.
    pub(super) fn share(&self, name: &str) -> Result<f64, CommandFailure> {
        Ok(self.within(name, "a share from 0 to 1", 0.0, 1.0)?.unwrap_or_default())
    }

    /// A number above 0.
    pub(super) fn positive(&self, name: &str) -> Result<Option<f64>, CommandFailure> {
        self.within(name, "a number above 0", f64::MIN_POSITIVE, 1e9)
    }

    /// Tokens: a count, or the fewest and the most.
    pub(super) fn tokens(&self, name: &str) -> Result<Option<(u32, u32)>, CommandFailure> {
        self.value(name, "tokens such as 512, or 100-900", |text| {
            let (from, to) = text.split_once('-').unwrap_or((text, text));
            let (from, to) = (from.parse().ok()?, to.parse().ok()?);
            (0 < from && from <= to && to <= 10_000_000).then_some((from, to))
        })
    }

    /// How many conversations, if that is said: by count, or so many for each of `users`.
    pub(super) fn conversations(&self, users: Option<usize>) -> Result<Option<usize>, CommandFailure> {
        if self.is_given("requests") {
            return self.count("requests", 1);
        }
        let per_user = self.preset.and_then(|preset| preset.value("requests-per-user")?.parse::<usize>().ok());
        match (per_user, users) {
            (Some(per_user), Some(users)) => Ok(Some(per_user * users)),
            _ => self.count("requests", 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{load, simulate};
    use super::*;

    fn with<T>(arguments: &[&str], read: impl FnOnce(Asked<'_>) -> T) -> T {
        let command = if arguments[0] == "load" { load::command() } else { simulate::command() };
        let matches = command.try_get_matches_from(arguments).expect("it is a command line");
        read(Asked::new(&matches).expect("there is such a preset"))
    }

    #[test]
    fn a_preset_stands_for_options_and_what_is_given_comes_before_it() {
        let tokens = |arguments: &[&str]| with(arguments, |asked| asked.tokens("prompt-tokens").expect("tokens"));
        assert_eq!(tokens(&["load", "--embedded"]), None);
        assert_eq!(tokens(&["load", "--embedded", "--preset", "inferencex"]), Some((819, 1024)));
        assert_eq!(tokens(&["load", "--embedded", "--preset", "inferencex-8k"]), Some((6553, 8192)));
        assert_eq!(tokens(&["simulate", "--preset", "inferencex", "--prompt-tokens", "7"]), Some((7, 7)));
        let share = |arguments: &[&str]| with(arguments, |asked| asked.share("target-share").expect("a share"));
        assert_eq!(share(&["load", "--embedded"]), 0.95, "the option's own default");
        assert_eq!(share(&["load", "--embedded", "--preset", "mlperf-server"]), 0.99, "the preset's comes before it");
        assert_eq!(share(&["load", "--embedded", "--preset", "mlperf-server", "--target-share", "0.5"]), 0.5);
    }

    #[test]
    fn a_way_of_arriving_that_is_given_takes_the_place_of_the_presets() {
        let arrivals = |arguments: &[&str]| {
            with(arguments, |asked| (asked.text("concurrency").map(str::to_owned), asked.text("rate").map(str::to_owned)))
        };
        assert_eq!(arrivals(&["load", "--embedded", "--preset", "inferencex"]), (Some("64".to_owned()), None));
        let given = ["load", "--embedded", "--preset", "inferencex", "--rate", "3"];
        assert_eq!(arrivals(&given), (None, Some("3".to_owned())));
        let users = |arguments: &[&str], users| with(arguments, |asked| asked.conversations(users).expect("a count"));
        assert_eq!(users(&["load", "--embedded", "--preset", "inferencex"], Some(64)), Some(640));
        assert_eq!(users(&["load", "--embedded", "--preset", "inferencex", "--requests", "9"], Some(64)), Some(9));
        assert_eq!(users(&["simulate", "--preset", "agentic"], Some(8)), Some(80));
    }

    /// Nine tenths of what an agent says were said before: counted over its ten turns.
    #[test]
    fn agents_repeat_nine_tenths() {
        let (prefix, added, answer) = (2_000.0, 500.0, 150.0);
        let prompts: f64 = (0..10).map(|turn| prefix + f64::from(turn) * (added + answer) + added).sum();
        let share = 1.0 - 10.0 * added / prompts;
        assert!((share - 0.9).abs() < 0.01, "{share}");
    }

    #[test]
    fn an_unknown_preset_lists_the_known_ones() {
        let matches = simulate::command().try_get_matches_from(["simulate", "--preset", "mlperf"]).expect("a line");
        let said = Asked::new(&matches).expect_err("there is none").to_string();
        assert!(said.contains("`mlperf`; expected one of mlperf-server, mlperf-interactive, inferencex"), "{said}");
    }
}
