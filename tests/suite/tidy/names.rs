//! A name of a type stands for one type, but for those that the glossary lists.

use std::collections::BTreeMap;
use std::fs;

use super::reader::Code;
use super::{fail_if_any, root, sources};

/// The section of `docs/glossary.md` whose table lists the exceptions.
const SECTION: &str = "## Names that two types share";

/// Every type of the root package that is declared outside functions and tests, with the files that
/// declare it.
fn types(sources: &[(String, String)]) -> BTreeMap<String, Vec<String>> {
    let is_test = |name: &str| name.ends_with("tests.rs") || name.contains("/tests/");
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, text) in sources.iter().filter(|(name, _)| name.starts_with("src/") && !is_test(name)) {
        let code = Code::read(text);
        let mut depth = 0_usize;
        for pair in code.tokens.windows(2) {
            match pair[0].text {
                "{" => depth += 1,
                "}" => depth = depth.saturating_sub(1),
                "struct" | "enum" | "trait" | "type" if depth == 0 => {
                    found.entry(pair[1].text.to_owned()).or_default().push(format!("{name}:{}", pair[1].line));
                }
                _ => {}
            }
        }
    }
    found
}

/// The names in the first cells of the glossary's table.
fn shared(glossary: &str) -> Vec<&str> {
    let section = glossary.split_once(SECTION).map_or("", |(_, rest)| rest);
    let section = section.split("\n## ").next().unwrap_or_default();
    let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    cells.flat_map(|cell| cell.split('`')).filter(|word| word.starts_with(char::is_uppercase)).collect()
}

/// Names that two types have, but for those that the glossary shares.
pub(super) fn names_of_two(sources: &[(String, String)]) -> Vec<String> {
    let glossary = fs::read_to_string(root().join("docs/glossary.md")).expect("readable");
    let (types, shared) = (types(sources), shared(&glossary));
    let twice = types.iter().filter(|(name, files)| files.len() > 1 && !shared.contains(&name.as_str()));
    twice.map(|(name, files)| format!("`{name}`: {}", files.join(", "))).collect()
}

#[test]
fn a_types_name_stands_for_one_type() {
    let glossary = fs::read_to_string(root().join("docs/glossary.md")).expect("readable");
    let (types, shared) = (types(&sources()), shared(&glossary));
    assert!(types.len() > 500 && types.contains_key("Scheduler"), "the types of the project: {}", types.len());
    let mut offences = names_of_two(&sources());
    let once = shared.iter().filter(|name| types.get(**name).is_none_or(|files| files.len() < 2));
    offences.extend(once.map(|name| format!("docs/glossary.md lists `{name}`, which no two types share")));
    fail_if_any("names of types", &offences);
}

#[test]
fn types_are_found_wherever_they_are_declared() {
    let text = "pub(super) struct A;\nimpl A {\n    type B = u8;\n}\nmod inner;\n#[cfg(test)]\nmod tests {\n    struct C;\n}\ntype D = u8;\n";
    let sources = [("src/x.rs".to_owned(), text.to_owned()), ("src/x_tests.rs".to_owned(), "struct E;".to_owned())];
    let expected = [("A".to_owned(), vec!["src/x.rs:1".to_owned()]), ("D".to_owned(), vec!["src/x.rs:10".to_owned()])];
    assert_eq!(types(&sources), BTreeMap::from(expected));
    let glossary =
        format!("| `No` | x |\n{SECTION}\n\n| name | why |\n|---|---|\n| `A`, `D` | the `B` |\n\n## Next\n| `No` | |\n");
    assert_eq!(shared(&glossary), ["A", "D"]);
}
