//! What a client is told of a form that the compiler did not take: which construct, at which place
//! of the client's own text, and what is supported.

use std::sync::LazyLock;

use regex::Regex;

use super::gbnf;
use super::grammar::clipped;
use crate::prompt::conversation::AnswerForm;

const LARK: &str = "supported are Lark's rules, terminals, texts, ranges, regular expressions, %import common and %ignore; not templates, \
                    priorities, %declare, %override, look-around and backreferences";
const REGEX: &str = "supported are classes, groups, alternatives and repetitions, and anchors at both ends; not look-around, \
                     backreferences and word boundaries";
/// Longest part of the compiler's message that a client sees, in characters.
const MESSAGE_MAX_CHARS: usize = 300;
/// Longest echo of the construct, in characters.
const CONSTRUCT_MAX_CHARS: usize = 24;

/// Where the compiler says that something is: line and column, from one.
static PLACE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?m)^(?:at )?(\d+)\((\d+)\): (.*)$").expect("an expression of this file"));

/// The compiler's `error` about `form`, as a sentence that the form is the subject of.
pub(super) fn of(form: &AnswerForm, error: &str) -> String {
    match form {
        AnswerForm::Json(_) | AnswerForm::Choice(_) => of_all(error),
        AnswerForm::Regex(text) => regex(text, error),
        AnswerForm::Grammar(text) => match PLACE.captures(error) {
            None => of_all(error),
            Some(place) => {
                let number = |group: usize| place[group].parse::<usize>().unwrap_or(1);
                let cause = cause(&place[3], error);
                match gbnf::is_gbnf(text) {
                    true => format!(
                        "cannot be turned into a grammar {}: {cause}; {}",
                        gbnf::rule_at(text, number(1)),
                        gbnf::SUPPORTED
                    ),
                    false => {
                        let place = place_of(text, number(1), number(2));
                        format!("cannot be turned into a grammar {place}: {cause}; {LARK}")
                    }
                }
            }
        },
    }
}

/// The first line of the message holds what is wrong, the rest is for the compiler's developers.
fn of_all(error: &str) -> String {
    let line = error.lines().find(|line| !line.trim().is_empty()).unwrap_or("it was not taken").trim();
    format!("cannot be turned into a grammar: {}", cut(line))
}

fn cut(text: &str) -> String {
    text.chars().take(MESSAGE_MAX_CHARS).collect()
}

/// What is wrong. Of a regular expression inside a grammar the last line says it.
fn cause(said: &str, error: &str) -> String {
    let of_regex = error.lines().find_map(|line| line.strip_prefix("error: "));
    match (said.split_once("regex parse error"), of_regex) {
        (Some((before, _)), Some(cause)) => cut(&format!("{before}{cause}")),
        _ => cut(said),
    }
}

/// A place of `text` in words, with what stands there.
fn place_of(text: &str, line: usize, column: usize) -> String {
    let at = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let construct: String = at.chars().skip(column.saturating_sub(1)).take(CONSTRUCT_MAX_CHARS).collect();
    match construct.is_empty() {
        true => format!("at line {line}, column {column}"),
        false => format!("at line {line}, column {column} ({construct:?})"),
    }
}

/// Of a regular expression by itself the place is a character of it.
fn regex(text: &str, error: &str) -> String {
    let found = match Regex::new(text) {
        Err(regex::Error::Syntax(said)) => {
            let cause = said.lines().rev().find_map(|line| line.strip_prefix("error: ")).unwrap_or("it is none").to_owned();
            // Under the line of the expression, which is indented by four.
            let caret = said.lines().find(|line| line.trim_start().starts_with('^')).filter(|_| !text.contains('\n'));
            Some((
                caret.map(|line| line.chars().count() - line.trim_start().chars().count()).map(|at| at.saturating_sub(4)),
                cause,
            ))
        }
        _ => boundary_at(text).map(|at| (Some(at), "an anchor or a word boundary inside of it".to_owned())),
    };
    match found {
        None => of_all(error),
        Some((None, cause)) => format!("is no regular expression that is supported: {}; {REGEX}", cut(&cause)),
        Some((Some(at), cause)) => {
            let construct: String = text.chars().skip(at).take(CONSTRUCT_MAX_CHARS).collect();
            let (at, construct) = (at + 1, clipped(&construct));
            format!("is no regular expression that is supported, at character {at} ({construct:?}): {}; {REGEX}", cut(&cause))
        }
    }
}

/// The character at which an anchor or a word boundary stands, neither at the beginning nor at the
/// end.
fn boundary_at(text: &str) -> Option<usize> {
    let (mut is_escaped, mut is_class) = (false, false);
    let last = text.chars().count().saturating_sub(1);
    text.chars()
        .enumerate()
        .position(|(at, character)| {
            let was_escaped = std::mem::replace(&mut is_escaped, false);
            match character {
                '\\' if !was_escaped => is_escaped = true,
                '[' if !was_escaped => is_class = true,
                ']' if !was_escaped => is_class = false,
                _ => {}
            }
            let is_boundary = was_escaped && matches!(character, 'b' | 'B' | 'A' | 'z');
            let is_anchor =
                !was_escaped && matches!((character, at), ('^', 1..)) || !was_escaped && character == '$' && at < last;
            !is_class && (is_boundary || is_anchor)
        })
        .map(|at| at - usize::from(text.chars().nth(at).is_some_and(char::is_alphabetic)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::prompt::constraint::Grammars;
    use crate::prompt::tokenizer::Tokenizer;

    fn said(form: &AnswerForm) -> String {
        let json = include_bytes!("../../../models/tiny/tokenizer.json");
        let grammars = Grammars::new(Arc::new(Tokenizer::from_json("tokenizer.json", json, 2_048).unwrap()));
        grammars.compile(form).unwrap_err().message
    }

    #[test]
    fn complaints_name_the_construct_its_place_and_what_is_supported() {
        let lark = |text: &str| said(&AnswerForm::Grammar(text.to_owned()));
        let regex = |text: &str| said(&AnswerForm::Regex(text.to_owned()));
        for (message, parts) in [
            (lark("start: a\na: \"x\" nothing"), ["line 2, column", "nothing", "supported are Lark"]),
            (lark("start: a\na: /x(y/"), ["line 2, column", "unclosed group", "supported are Lark"]),
            (lark("start: a\na: /x(?=y)/"), ["line 2, column", "look-around", "supported are Lark"]),
            (lark("start: \"x\"\n%declare Y"), ["line 2, column", "declare", "supported are Lark"]),
            (lark("start: \"x\" )"), ["line 1, column", ")", "supported are Lark"]),
            (regex("x(y"), ["character 2 (\"(y\")", "unclosed group", "not look-around"]),
            (regex("x(?=y)"), ["character 2 (\"(?=y)\")", "look-around", "not look-around"]),
            (regex(r"(x)\1"), [r#"character 4 ("\\1")"#, "backreferences", "not look-around"]),
            (regex(r"[b]x\by"), [r#"character 5 ("\\by")"#, "word boundary", "not look-around"]),
            (regex("a$b"), ["character 2 (\"$b\")", "anchor", "not look-around"]),
            (lark("root ::= a\na ::= \"x\" nothing"), ["line 2, column 11", "nothing", "llama.cpp"]),
            (lark("root ::= \"x\" %"), ["line 1, column 14", "%", "llama.cpp"]),
            (lark("root ::= [a"), ["line 1, column 11", "class of characters", "llama.cpp"]),
        ] {
            for part in parts {
                assert!(message.contains(part), "{part:?} is not in: {message}");
            }
        }
    }
}
