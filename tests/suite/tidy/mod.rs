//! The layout holds: which room imports which, how long files and functions are, which names are refused.

mod layers;
mod names;
mod reader;

use std::fs;
use std::path::{Path, PathBuf};

/// Words that say nothing about what is in a file or a type.
const REFUSED_NAMES: [&str; 4] = ["manager", "helper", "util", "misc"];

/// What is no subject of a sentence about code (docs/style.md).
const NO_SUBJECTS: [&str; 7] = ["who", "whoever", "whom", "nobody", "somebody", "anybody", "everybody"];

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
const COMMENT_COLUMNS_MAX: usize = 100;

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

#[test]
fn files_are_short() {
    let offences: Vec<_> = sources()
        .iter()
        .filter(|(_, text)| text.lines().count() > FILE_LINES_MAX)
        .map(|(name, text)| format!("{name}: {} lines, at most {FILE_LINES_MAX}", text.lines().count()))
        .collect();
    fail_if_any("files are too long", &offences);
}

/// A function begins at a line with `fn name` and ends at the first line that closes at the same
/// indentation.
#[test]
fn functions_are_short() {
    let mut offences = Vec::new();
    for (name, text) in sources().iter().filter(|(name, _)| name.ends_with(".rs")) {
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
    fail_if_any("functions are too long", &offences);
}

#[test]
fn names_say_something() {
    let mut offences = Vec::new();
    for (name, text) in sources() {
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
    fail_if_any("names that say nothing", &offences);
}

/// Sentences of comments are about things in the code and roles with a name.
#[test]
fn comments_are_about_things() {
    let mut offences = Vec::new();
    for (name, text) in sources().iter().filter(|(name, _)| !name.ends_with(".py")) {
        for (number, line) in text.lines().enumerate() {
            let comment = line.split_once("//").map_or("", |(_, comment)| comment).to_lowercase();
            let mut words = comment.split(|c: char| !c.is_alphanumeric());
            if let Some(word) = words.find(|word| NO_SUBJECTS.contains(word)) {
                offences.push(format!("{name}:{}: `{word}`: {}", number + 1, line.trim()));
            }
        }
    }
    fail_if_any("comments with a subject that is no thing", &offences);
}

/// A comment is read beside the code, so it is narrower.
#[test]
fn comments_are_narrow() {
    let held = |name: &str| (name.starts_with("src/") || name.starts_with("kernels/src/")) && name.ends_with(".rs");
    let mut offences = Vec::new();
    for (name, text) in sources().iter().filter(|(name, _)| held(name)) {
        let comments = text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with("//"));
        for (number, line) in comments.filter(|(_, line)| line.chars().count() > COMMENT_COLUMNS_MAX) {
            offences.push(format!("{name}:{}: {} columns, at most {COMMENT_COLUMNS_MAX}", number + 1, line.chars().count()));
        }
    }
    fail_if_any("comments are too wide", &offences);
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
    let offences: Vec<_> = sources()
        .iter()
        .filter(|(name, _)| name != "tests/suite/tidy/mod.rs")
        .flat_map(|(name, text)| text.lines().enumerate().map(move |(number, line)| (name, number + 1, line)))
        .filter(|(_, _, line)| line.contains("/work/") || line.contains("/root/"))
        .map(|(name, number, line)| format!("{name}:{number}: {}", line.trim()))
        .collect();
    fail_if_any("paths of a machine", &offences);
}
