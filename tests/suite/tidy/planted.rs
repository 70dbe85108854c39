//! An offence of each kind, planted at the end of a file that has modules of tests before it, is
//! found there.

use super::layers::trespasses;
use super::names::names_of_two;
use super::prose::{empty_subjects, long_sentences, wide_comments};
use super::{FILE_LINES_MAX, FUNCTION_LINES_MAX, MACHINE_PATHS, empty_names, long_files, long_functions, sources};

/// Files whose rest was not read once: `mod tests;` stands in their lists of modules.
const FILES: [&str; 7] = [
    "src/scheduler/mod.rs",
    "src/engine/fake/mod.rs",
    "src/engine/config/mod.rs",
    "src/engine/sampling/mod.rs",
    "src/simulate/mod.rs",
    "src/actors/mod.rs",
    "src/http/wire/mod.rs",
];

type Check = fn(&[(String, String)]) -> Vec<String>;

/// What is planted, and the check that is to find it.
fn offences() -> Vec<(String, Check)> {
    let long_function = format!("fn planted() {{\n{}}}", "    step();\n".repeat(FUNCTION_LINES_MAX));
    vec![
        ("use crate::cli::Planted;".to_owned(), trespasses),
        ("fn planted() { super::super::super::verify::planted(); crate::app::planted() }".to_owned(), trespasses),
        ("type Planted = indicatif::ProgressBar;".to_owned(), trespasses),
        ("pub struct SharedByTwo;".to_owned(), names_of_two),
        (long_function, long_functions),
        ("\n".repeat(FILE_LINES_MAX), long_files),
        (concat!("fn planted_", "helper() {}").to_owned(), empty_names),
        (concat!("/", "/ Whoever asks is told.").to_owned(), empty_subjects),
        (format!("// {}.", "word ".repeat(50)), long_sentences),
        (format!("// {}", "a".repeat(100)), wide_comments),
        (format!("const PLANTED: &str = \"{}planted\";", MACHINE_PATHS[0]), super::machine_paths),
    ]
}

#[test]
fn an_offence_of_each_kind_is_found_where_checks_were_blind() {
    let sources = sources();
    for file in FILES {
        let (name, text) = sources.iter().find(|(name, _)| name == file).unwrap_or_else(|| panic!("{file} is gone"));
        assert!(text.contains("#[cfg(test)]"), "{file} has modules of tests");
        let with = |planted: &str| {
            let other = ("src/batch.rs".to_owned(), "pub struct SharedByTwo;".to_owned());
            [(name.clone(), format!("{text}\n{planted}\n")), other]
        };
        for (planted, check) in offences() {
            assert_eq!(check(&with("")), Vec::<String>::new(), "{file} as it is");
            let found = check(&with(&planted));
            assert!(!found.is_empty() && found.iter().all(|offence| offence.contains(file)), "{file}: {planted}: {found:?}");
        }
    }
    let scheduler = sources.iter().find(|(name, _)| name == FILES[0]).map(|(name, text)| (name.clone(), text.clone()));
    let mut scheduler = scheduler.expect("the first of the files");
    scheduler.1.push_str("fn planted() -> std::time::Instant { panic!() }\n");
    assert_eq!(trespasses(&[scheduler]).len(), 1, "a name that its row forbids");
}
