//! A strict reader of Prometheus' text format, version 0.0.4: what a scraper would stumble over is
//! an error.

use std::collections::{BTreeMap, BTreeSet};

/// What is wrong, and in which line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ExpositionError {
    /// Its number, from one; the last one for what concerns the whole.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

/// A series: its name and its labels.
type Series = (String, BTreeMap<String, String>);

/// Everything that was exposed.
#[derive(Debug, Default)]
pub struct Exposition {
    kinds: BTreeMap<String, String>,
    helped: BTreeSet<String>,
    closed: BTreeSet<String>,
    family: Option<String>,
    samples: BTreeMap<Series, f64>,
}

impl Exposition {
    /// Reads a text.
    ///
    /// # Errors
    /// [`ExpositionError`] for the first line that is wrong, or for a histogram that does not add
    /// up.
    pub fn read(text: &str) -> Result<Self, ExpositionError> {
        let mut read = Self::default();
        let lines = text.lines().count();
        if !text.is_empty() && !text.ends_with('\n') {
            return Err(ExpositionError { line: lines, message: "the last line does not end".to_owned() });
        }
        for (index, line) in text.lines().enumerate() {
            read.line(line).map_err(|message| ExpositionError { line: index + 1, message })?;
        }
        read.histograms().map_err(|message| ExpositionError { line: lines, message })?;
        Ok(read)
    }

    /// The sum of all series of this name whose labels hold these; `None` if there are none.
    #[must_use]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted = |series: &Series| {
            series.0 == name && labels.iter().all(|(key, value)| series.1.get(*key).is_some_and(|found| found == value))
        };
        let mut found = self.samples.iter().filter(|(series, _)| wanted(series)).map(|(_, value)| *value).peekable();
        found.peek()?;
        Some(found.sum())
    }

    /// Series of this name.
    pub fn labels_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a BTreeMap<String, String>> {
        self.samples.keys().filter(move |series| series.0 == name).map(|series| &series.1)
    }

    /// Families.
    #[must_use]
    pub fn families(&self) -> usize {
        self.kinds.len()
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        if line.is_empty() {
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let name = rest.split(' ').next().unwrap_or_default();
            self.enter(name)?;
            if !self.helped.insert(name.to_owned()) { Err(format!("a second HELP of {name}")) } else { Ok(()) }
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or("a TYPE without a kind")?;
            self.enter(name)?;
            if !["counter", "gauge", "histogram", "summary", "untyped"].contains(&kind) {
                return Err(format!("{kind} is no type of a metric"));
            }
            match self.kinds.insert(name.to_owned(), kind.to_owned()) {
                Some(_) => Err(format!("a second TYPE of {name}")),
                None => Ok(()),
            }
        } else if line.starts_with('#') {
            Ok(())
        } else {
            self.sample(line)
        }
    }

    /// A family's lines stand together.
    fn enter(&mut self, name: &str) -> Result<(), String> {
        if !is_name(name, ":") {
            return Err(format!("`{name}` is no name of a metric"));
        }
        if self.family.as_deref() != Some(name) {
            if let Some(left) = self.family.replace(name.to_owned()) {
                self.closed.insert(left);
            }
            if self.closed.contains(name) {
                return Err(format!("lines of {name} stand apart"));
            }
        }
        Ok(())
    }

    fn sample(&mut self, line: &str) -> Result<(), String> {
        let end = line.find(['{', ' ']).ok_or("a sample without a value")?;
        let name = &line[..end];
        let (labels, rest) =
            if line[end..].starts_with('{') { labels(&line[end + 1..])? } else { (BTreeMap::new(), &line[end..]) };
        let mut words = rest.split_whitespace();
        let value = words.next().and_then(number).ok_or("a sample without a value")?;
        if words.next().is_some_and(|time| time.parse::<i64>().is_err()) || words.next().is_some() {
            return Err("something follows the value that is no time".to_owned());
        }
        let family = self.family_of(name);
        self.enter(&family)?;
        let kind = self.kinds.get(&family).ok_or_else(|| format!("{name} has no TYPE before it"))?;
        if kind == "counter" && (value < 0.0 || value.is_nan()) {
            return Err(format!("the counter {name} is {value}"));
        }
        match self.samples.insert((name.to_owned(), labels), value) {
            Some(_) => Err(format!("the same series of {name} twice")),
            None => Ok(()),
        }
    }

    /// The family of a sample: histograms and summaries put an ending to their name.
    fn family_of(&self, name: &str) -> String {
        for ending in ["_bucket", "_sum", "_count"] {
            if let Some(base) = name.strip_suffix(ending)
                && self.kinds.get(base).is_some_and(|kind| kind == "histogram" || kind == "summary")
            {
                return base.to_owned();
            }
        }
        name.to_owned()
    }

    /// Buckets grow, and the last one is the count.
    fn histograms(&self) -> Result<(), String> {
        for name in self.kinds.iter().filter(|(_, kind)| *kind == "histogram").map(|(name, _)| name) {
            let mut series: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
            let bucket = format!("{name}_bucket");
            for ((found, labels), value) in self.samples.iter().filter(|((found, _), _)| *found == bucket) {
                let mut labels = labels.clone();
                let bound = labels.remove("le").and_then(|bound| number(&bound));
                let bound = bound.ok_or_else(|| format!("a bucket of {found} without a bound"))?;
                series.entry(labels).or_default().push((bound, *value));
            }
            for (labels, mut buckets) in series {
                buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
                let grows = buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1);
                let count = self.samples.get(&(format!("{name}_count"), labels.clone()));
                let last = buckets.last().filter(|bucket| bucket.0 == f64::INFINITY).map(|bucket| &bucket.1);
                if !grows || last.is_none() || last != count || !self.samples.contains_key(&(format!("{name}_sum"), labels)) {
                    return Err(format!("the buckets, the count and the sum of {name} do not agree"));
                }
            }
        }
        Ok(())
    }
}

fn is_name(name: &str, more: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_' || more.contains(c);
    name.chars().next().is_some_and(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit())
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        "NaN" => Some(f64::NAN),
        _ => text.parse().ok().filter(|_| text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c))),
    }
}

/// Labels, from behind the opening brace; what follows the closing one.
fn labels(text: &str) -> Result<(BTreeMap<String, String>, &str), String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Ok((labels, after));
        }
        let (name, after) = rest.split_once("=\"").ok_or("a label without a value")?;
        if !is_name(name, "") {
            return Err(format!("`{name}` is no name of a label"));
        }
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().ok_or("a label's value does not end")? {
                (at, '"') => break at,
                (_, '\\') => match chars.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, escaped @ ('\\' | '"'))) => value.push(escaped),
                    _ => return Err("an unknown escape in a label's value".to_owned()),
                },
                (_, other) => value.push(other),
            }
        };
        if labels.insert(name.to_owned(), value).is_some() {
            return Err(format!("the label {name} twice"));
        }
        rest = after[end + 1..].strip_prefix(',').unwrap_or(&after[end + 1..]);
    }
}

#[cfg(test)]
#[path = "exposition_tests.rs"]
mod tests;
