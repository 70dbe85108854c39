//! Every promise of the architecture names the tests that hold it, and they are there.

use std::fs;

use crate::tidy::{root, sources};

/// What stands between two pairs of stars.
fn bold(text: &str) -> Vec<String> {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.split("**").skip(1).step_by(2).map(words).collect()
}

#[test]
fn every_promise_of_the_architecture_names_tests_that_exist() {
    let read = |name: &str| fs::read_to_string(root().join("docs").join(name)).expect("the page is there");
    let (promises, page) = (bold(&read("architecture.md")), read("testing.md"));
    assert!(promises.len() > 10, "the page has its promises in bold: {promises:?}");
    let all: String = sources().into_iter().map(|(_, text)| text).collect();
    let mut wrong = Vec::new();
    for promise in promises {
        // A row of the table: the promise, then its tests in backticks.
        let row = page.lines().find_map(|line| line.strip_prefix("| ")?.strip_prefix(promise.as_str())?.strip_prefix(" | "));
        let tests: Vec<&str> = row.into_iter().flat_map(|row| row.split('`').skip(1).step_by(2)).collect();
        if tests.is_empty() {
            wrong.push(format!("docs/testing.md has no row `| {promise} | ...` with a test in backticks"));
        }
        for test in tests {
            let name = test.rsplit("::").next().unwrap_or(test);
            if !all.contains(&format!("fn {name}(")) {
                wrong.push(format!("no test is called {name}, which is to hold: {promise}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
