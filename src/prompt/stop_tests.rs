use std::sync::Arc;

use proptest::prelude::*;

use super::{StopSet, StopStrings};

fn search(strings: &[&str]) -> StopStrings {
    let strings: Vec<String> = strings.iter().map(ToString::to_string).collect();
    StopStrings::new(Arc::new(StopSet::new(&strings)))
}

/// Pushes the pieces; the text given out, and the stop string found.
fn run(strings: &[&str], pieces: &[&str]) -> (String, Option<String>) {
    let mut search = search(strings);
    let mut out = String::new();
    for piece in pieces {
        if let Some(found) = search.push(piece, &mut out) {
            assert_eq!(search.push("more", &mut out), None, "nothing follows a match");
            search.flush(&mut out);
            return (out, Some(found));
        }
    }
    search.flush(&mut out);
    (out, None)
}

/// The same by definition: the first end of any stop string in the whole text; the longest that
/// ends there.
fn naive(strings: &[&str], text: &str) -> (String, Option<String>) {
    for end in 1..=text.len() {
        let longest =
            strings.iter().filter(|s| !s.is_empty() && text.as_bytes()[..end].ends_with(s.as_bytes())).max_by_key(|s| s.len());
        if let Some(found) = longest {
            return (text[..end - found.len()].to_owned(), Some((*found).to_owned()));
        }
    }
    (text.to_owned(), None)
}

#[test]
fn a_stop_string_over_three_pieces_is_found_and_not_shown() {
    assert_eq!(run(&["STOP"], &["one S", "TO", "P two"]), ("one ".into(), Some("STOP".into())));
}

#[test]
fn only_what_may_become_a_stop_string_is_held() {
    let mut search = search(&["\n\nUser:"]);
    let mut out = String::new();
    assert_eq!(search.push("hello\n", &mut out), None);
    assert_eq!((out.as_str(), search.held()), ("hello", "\n"));
    assert_eq!(search.push("\n\n", &mut out), None);
    assert_eq!((out.as_str(), search.held()), ("hello\n", "\n\n"));
    assert_eq!(search.push("x", &mut out), None);
    assert_eq!((out.as_str(), search.held()), ("hello\n\n\nx", ""));
}

#[test]
fn what_completes_first_wins_and_the_longest_of_those() {
    assert_eq!(run(&["abcd", "bc"], &["xabcd"]), ("xa".into(), Some("bc".into())));
    assert_eq!(run(&["c", "abc", "bc"], &["xabc"]), ("x".into(), Some("abc".into())));
}

#[test]
fn held_text_comes_out_at_the_end() {
    assert_eq!(run(&["안녕하세요"], &["안녕", "하"]), ("안녕하".into(), None));
}

#[test]
fn empty_stop_strings_stop_nothing() {
    assert_eq!(run(&[""], &["text"]), ("text".into(), None));
    assert!(StopSet::new(&[String::new()]).is_empty());
}

#[test]
fn ten_thousand_stop_strings_and_one_of_a_megabyte() {
    let mut strings: Vec<String> = (0..10_000).map(|i| format!("{}{i}", "a".repeat(40))).collect();
    strings.push("a".repeat(1 << 20));
    let mut search = StopStrings::new(Arc::new(StopSet::new(&strings)));
    let text = "a".repeat((1 << 20) - 1) + "b" + &"a".repeat(1 << 20);
    let mut out = String::new();
    let mut found = None;
    for piece in text.as_bytes().chunks(4096) {
        found = found.or(search.push(std::str::from_utf8(piece).unwrap(), &mut out));
    }
    assert_eq!(found.map(|found| found.len()), Some(1 << 20));
    assert_eq!(out.len(), 1 << 20);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn any_splitting_gives_what_a_search_of_the_whole_gives(
        strings in prop::collection::vec("[ab안]{0,4}", 0..5),
        pieces in prop::collection::vec("[abc안]{0,4}", 0..12),
    ) {
        let strings: Vec<&str> = strings.iter().map(String::as_str).collect();
        let split: Vec<&str> = pieces.iter().map(String::as_str).collect();
        prop_assert_eq!(run(&strings, &split), naive(&strings, &pieces.concat()));
    }
}
