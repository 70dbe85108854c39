//! How comments are written: what their sentences are about, how long they are, how wide a line is
//! (`docs/style.md`).

use super::{fail_if_any, sources};

/// What is no subject of a sentence about code.
const NO_SUBJECTS: [&str; 7] = ["who", "whoever", "whom", "nobody", "somebody", "anybody", "everybody"];

const COMMENT_COLUMNS_MAX: usize = 100;
/// About 25 are meant; here stands what no reader takes in at once.
const SENTENCE_WORDS_MAX: usize = 40;

/// A paragraph of a comment: its first line's number, and its text in one piece.
type Paragraph = (usize, String);

/// The text of a line that is nothing but a comment.
fn comment(line: &str) -> Option<&str> {
    let text = line.trim_start().strip_prefix("//")?;
    Some(text.trim_start_matches(['/', '!']).trim())
}

/// Whether a paragraph begins here: an item of a list does, a heading, a row of a table.
fn begins(text: &str) -> bool {
    let numbered = text.split_once(". ").is_some_and(|(number, _)| number.chars().all(|c| c.is_ascii_digit()));
    numbered || ["* ", "- ", "#", "|"].iter().any(|sign| text.starts_with(sign))
}

/// The paragraphs of a file's comments, code in them left out.
fn paragraphs(text: &str) -> Vec<Paragraph> {
    let mut found: Vec<Paragraph> = Vec::new();
    let (mut is_open, mut is_code) = (false, false);
    for (index, line) in text.lines().enumerate() {
        let text = comment(line).unwrap_or_default();
        let fence = text.starts_with("```");
        is_code = comment(line).is_some() && is_code != fence;
        if text.is_empty() || fence || is_code {
            is_open = false;
        } else if is_open && !begins(text) {
            let (_, paragraph) = found.last_mut().expect("an open paragraph is the last one");
            paragraph.push(' ');
            paragraph.push_str(text);
        } else {
            found.push((index + 1, text.to_owned()));
            is_open = true;
        }
    }
    found
}

/// The sentences of a paragraph: each ends in a full stop, a question mark or an exclamation mark
/// before white space.
fn sentences(paragraph: &str) -> Vec<&str> {
    let (mut found, mut rest) = (Vec::new(), paragraph);
    let ends = |word: &str| word.trim_end_matches(['"', '\'', ')', '*', '`', '_']).ends_with(['.', '?', '!']);
    while !rest.is_empty() {
        let mut breaks = rest.match_indices(' ').map(|(at, _)| at);
        let end = breaks.find(|at| ends(&rest[..*at])).unwrap_or(rest.len());
        found.push(rest[..end].trim());
        rest = rest[end..].trim_start();
    }
    found
}

/// Words that have a letter or a digit.
fn words(sentence: &str) -> usize {
    sentence.split_whitespace().filter(|word| word.contains(char::is_alphanumeric)).count()
}

pub(super) fn long_sentences(sources: &[(String, String)]) -> Vec<String> {
    let mut offences = Vec::new();
    for (name, text) in sources.iter().filter(|(name, _)| !name.ends_with(".py")) {
        for (line, paragraph) in paragraphs(text) {
            for sentence in sentences(&paragraph).into_iter().filter(|sentence| words(sentence) > SENTENCE_WORDS_MAX) {
                offences.push(format!("{name}:{line}: {} words, at most {SENTENCE_WORDS_MAX}: {sentence}", words(sentence)));
            }
        }
    }
    offences
}

pub(super) fn empty_subjects(sources: &[(String, String)]) -> Vec<String> {
    let mut offences = Vec::new();
    for (name, text) in sources.iter().filter(|(name, _)| !name.ends_with(".py")) {
        for (number, line) in text.lines().enumerate() {
            let comment = line.split_once("//").map_or("", |(_, comment)| comment).to_lowercase();
            let mut words = comment.split(|c: char| !c.is_alphanumeric());
            if let Some(word) = words.find(|word| NO_SUBJECTS.contains(word)) {
                offences.push(format!("{name}:{}: `{word}`: {}", number + 1, line.trim()));
            }
        }
    }
    offences
}

pub(super) fn wide_comments(sources: &[(String, String)]) -> Vec<String> {
    let held = |name: &str| (name.starts_with("src/") || name.starts_with("kernels/src/")) && name.ends_with(".rs");
    let mut offences = Vec::new();
    for (name, text) in sources.iter().filter(|(name, _)| held(name)) {
        let comments = text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with("//"));
        for (number, line) in comments.filter(|(_, line)| line.chars().count() > COMMENT_COLUMNS_MAX) {
            offences.push(format!("{name}:{}: {} columns, at most {COMMENT_COLUMNS_MAX}", number + 1, line.chars().count()));
        }
    }
    offences
}

/// Sentences of comments are about things in the code and roles with a name.
#[test]
fn comments_are_about_things() {
    fail_if_any("comments with a subject that is no thing", &empty_subjects(&sources()));
}

#[test]
fn sentences_of_comments_are_short() {
    fail_if_any("sentences that are too long", &long_sentences(&sources()));
}

/// A comment is read beside the code, so it is narrower.
#[test]
fn comments_are_narrow() {
    fail_if_any("comments are too wide", &wide_comments(&sources()));
}

#[test]
fn comments_are_read_by_the_sentence() {
    let text = "//! One. Two, `a.b` and 3.5;\n//! (still two.) Three!\n//!\n//! 1. Four\n//!    goes on\n//! * Five\n\nlet a = \"// no\"; // no\n\
                    /// ```\n    /// code. Code.\n    /// ```\n    /// Six\nfn f() {}\n// Seven";
    let paragraphs = paragraphs(text);
    let expected = [
        (1, "One. Two, `a.b` and 3.5; (still two.) Three!"),
        (4, "1. Four goes on"),
        (6, "* Five"),
        (12, "Six"),
        (14, "Seven"),
    ];
    assert_eq!(paragraphs, expected.map(|(line, text)| (line, text.to_owned())));
    assert_eq!(sentences(&paragraphs[0].1), ["One.", "Two, `a.b` and 3.5; (still two.)", "Three!"]);
    assert_eq!(words("Two, `a.b` - and 3.5: * x"), 5);
    let long = |words: usize| vec![("a.rs".to_owned(), format!("// Short.\n// {}\n// end. Short.", "a ".repeat(words - 1)))];
    assert_eq!(long_sentences(&long(SENTENCE_WORDS_MAX)), Vec::<String>::new());
    assert_eq!(long_sentences(&long(SENTENCE_WORDS_MAX + 1)).len(), 1);
}
