//! The layout holds: which room imports which, how long files and functions are, which names are refused.

mod circles;
mod layers;
mod names;
mod planted;
mod prose;
mod reader;

use std::fs;
use std::path::{Path, PathBuf};

/// Words that say nothing about what is in a file or a type.
const REFUSED_NAMES: [&str; 4] = ["manager", "helper", "util", "misc"];

/// How paths of a machine begin, in two pieces: this file is read too.
const MACHINE_PATHS: [&str; 2] = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `folder` that end in one of `endings`.
fn files(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| endings.iter().any(|known| ending == *known)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Every Rust, CUDA, C++ and Python file of the project, with its path from the root.
pub(crate) fn sources() -> Vec<(String, String)> {
    let root = root();
    ["src", "kernels", "tests/suite", "tests/models", "benches", "fuzz", "scripts", "models/recipe"]
        .iter()
        .flat_map(|folder| files(&root.join(folder), &["rs", "cu", "cuh", "cpp", "h", "py"]))
        .filter(|path| !path.components().any(|part| part.as_os_str() == "target"))
        .map(|path| {
            let name = path.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).expect("a source file is readable"))
        })
        .collect()
}

/// The name that follows `prefix` wherever it occurs in `line`.
fn names_after<'a>(line: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    line.match_indices(prefix)
        .filter(|(at, _)| !line[..*at].ends_with(|before: char| before.is_alphanumeric() || before == '_'))
        .map(move |(at, _)| {
            let rest = &line[at + prefix.len()..];
            rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default()
        })
        .filter(|name| !name.is_empty())
}

fn fail_if_any(what: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{what}:\n{}", offences.join("\n"));
}

fn long_files(sources: &[(String, String)]) -> Vec<String> {
    let long = sources.iter().filter(|(_, text)| text.lines().count() > FILE_LINES_MAX);
    long.map(|(name, text)| format!("{name}: {} lines, at most {FILE_LINES_MAX}", text.lines().count())).collect()
}

/// A function begins at a line with `fn name` and ends at the first line that closes at the same
/// indentation.
fn long_functions(sources: &[(String, String)]) -> Vec<String> {
    let mut offences = Vec::new();
    for (name, text) in sources.iter().filter(|(name, _)| name.ends_with(".rs")) {
        let lines: Vec<_> = text.lines().collect();
        for (start, line) in lines.iter().enumerate() {
            let code = line.trim_start();
            let begins = names_after(code, "fn ").next().is_some() && !code.starts_with("//") && !code.ends_with(';');
            if !begins {
                continue;
            }
            let indent = &line[..line.len() - code.len()];
            let end = lines[start..].iter().position(|line| {
                line.strip_prefix(indent).is_some_and(|rest| rest.starts_with('}')) && !line.trim_end().ends_with('{')
            });
            if let Some(length) = end.map(|end| end + 1).filter(|length| *length > FUNCTION_LINES_MAX) {
                offences.push(format!("{name}:{}: {length} lines, at most {FUNCTION_LINES_MAX}", start + 1));
            }
        }
    }
    offences
}

fn empty_names(sources: &[(String, String)]) -> Vec<String> {
    let mut offences = Vec::new();
    for (name, text) in sources {
        for word in REFUSED_NAMES.iter().filter(|word| name.to_lowercase().contains(**word)) {
            offences.push(format!("{name}: `{word}` in a file's name"));
        }
        for (number, line) in text.lines().enumerate() {
            for kind in ["struct ", "enum ", "trait ", "mod ", "fn ", "class ", "def "] {
                for item in names_after(line.trim_start(), kind) {
                    let lower = item.to_lowercase();
                    let plain_code = !line.trim_start().starts_with("//") && !line.trim_start().starts_with('*');
                    if plain_code && REFUSED_NAMES.iter().any(|word| lower.split('_').any(|part| part == *word)) {
                        offences.push(format!("{name}:{}: `{item}` says nothing", number + 1));
                    }
                }
            }
        }
    }
    offences
}

fn machine_paths(sources: &[(String, String)]) -> Vec<String> {
    let lines =
        sources.iter().flat_map(|(name, text)| text.lines().enumerate().map(move |(index, line)| (name, index + 1, line)));
    let named = lines.filter(|(.., line)| MACHINE_PATHS.iter().any(|path| line.contains(path)));
    named.map(|(name, number, line)| format!("{name}:{number}: {}", line.trim())).collect()
}

#[test]
fn files_are_short() {
    fail_if_any("files are too long", &long_files(&sources()));
}

#[test]
fn functions_are_short() {
    fail_if_any("functions are too long", &long_functions(&sources()));
}

#[test]
fn names_say_something() {
    fail_if_any("names that say nothing", &empty_names(&sources()));
}

/// The compiler keeps this promise; this test keeps the line that asks it to.
#[test]
fn the_root_package_forbids_unsafe_code() {
    for name in ["src/lib.rs", "src/main.rs"] {
        let text = fs::read_to_string(root().join(name)).expect("readable");
        assert!(text.contains("#![forbid(unsafe_code)]"), "{name} must forbid unsafe code");
    }
}

/// Commits and files speak of the project alone: no path of a machine.
#[test]
fn no_file_names_a_machine() {
    fail_if_any("paths of a machine", &machine_paths(&sources()));
}
