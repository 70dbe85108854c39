//! llama.cpp's notation of grammars, written in Lark's.
//!
//! Source: llama.cpp, grammars/README.md: rules `name ::= ...` with texts, classes of characters,
//! groups, `|`, `*`, `+`, `?` and `{m,n}`, comments behind `#`. Rules are named anew: a name in
//! capitals would be a terminal in Lark.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::iter::Peekable;
use std::str::Chars;

use super::grammar::clipped;

/// What complaints say besides.
pub(super) const SUPPORTED: &str =
    "supported are rules, texts, classes of characters, groups, alternatives, *, +, ? and {m,n} as llama.cpp has them";

/// A piece of a grammar.
#[derive(Debug, PartialEq)]
enum Piece {
    /// A rule begins.
    Define(String),
    /// A rule is meant.
    Name(String),
    /// What is written in Lark as it is here.
    Lark(String),
}

/// Whether a grammar is in this notation.
pub(super) fn is_gbnf(text: &str) -> bool {
    text.contains("::=")
}

/// The grammar in Lark's notation.
///
/// # Errors
/// What is no such grammar, as a sentence that the grammar is the subject of.
pub(super) fn to_lark(text: &str) -> Result<String, String> {
    let mut reader = Reader { rest: text.chars().peekable() };
    let pieces = reader.pieces().map_err(|message| {
        // What was read last is what is wrong.
        let read_count = text.chars().count() - reader.rest.count();
        format!("{message}, {}; {SUPPORTED}", place(text, read_count.saturating_sub(1)))
    })?;
    let mut names = BTreeMap::new();
    for piece in &pieces {
        if let Piece::Define(name) = piece {
            let number = names.len();
            if names.insert(name.as_str(), number).is_some() {
                return Err(format!("defines {:?} twice; {SUPPORTED}", clipped(name)));
            }
        }
    }
    let number = |name: &str| {
        let at = || word_at(text, name).map_or(String::new(), |at| format!(", which is meant {}", place(text, at)));
        names.get(name).copied().ok_or_else(|| format!("has no rule {:?}{}; {SUPPORTED}", clipped(name), at()))
    };
    let mut lark = format!("start: r{}", number("root")?);
    for piece in &pieces {
        let written = match piece {
            Piece::Define(name) => write!(lark, "\nr{}:", number(name)?),
            Piece::Name(name) => write!(lark, " r{}", number(name)?),
            Piece::Lark(text) => write!(lark, "{text}"),
        };
        written.expect("a text takes what is written");
    }
    Ok(lark)
}

/// In which rule of `text` line `line` of its translation is: `start`, and then each rule in a
/// line of its own.
pub(super) fn rule_at(text: &str, line: usize) -> String {
    let pieces = Reader { rest: text.chars().peekable() }.pieces().unwrap_or_default();
    let mut names = pieces.into_iter().filter_map(|piece| if let Piece::Define(name) = piece { Some(name) } else { None });
    match line.checked_sub(2).and_then(|at| names.nth(at)) {
        Some(name) => format!("in the rule {:?}", clipped(&name)),
        None => "in its rules".to_owned(),
    }
}

/// Character `at` of `text` in words.
fn place(text: &str, at: usize) -> String {
    let before: String = text.chars().take(at).collect();
    let line = 1 + before.matches('\n').count();
    let column = 1 + before.rsplit('\n').next().unwrap_or_default().chars().count();
    format!("at line {line}, column {column}")
}

/// The first character of `name` where it stands alone in `text`.
fn word_at(text: &str, name: &str) -> Option<usize> {
    let is_alone = |at: &usize| {
        let (before, behind) = (&text[..*at], &text[at + name.len()..]);
        !before.ends_with(is_of_name) && !behind.starts_with(is_of_name)
    };
    let at = text.match_indices(name).map(|(at, _)| at).find(is_alone)?;
    Some(text[..at].chars().count())
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
}

impl Reader<'_> {
    fn pieces(&mut self) -> Result<Vec<Piece>, String> {
        let mut pieces = Vec::new();
        while let Some(character) = self.rest.next() {
            match character {
                ' ' | '\t' | '\r' | '\n' => {}
                '#' => while self.rest.next_if(|next| *next != '\n').is_some() {},
                '"' => pieces.push(Piece::Lark(format!(" {}", self.quoted()?))),
                '[' => pieces.push(Piece::Lark(format!(" /{}/", self.class()?))),
                '.' => pieces.push(Piece::Lark(" /(.|\\n)/".to_owned())),
                '(' | '|' => pieces.push(Piece::Lark(format!(" {character}"))),
                ')' | '*' | '+' | '?' => pieces.push(Piece::Lark(character.to_string())),
                '{' => pieces.push(Piece::Lark(self.repeat()?)),
                ':' => match (self.rest.next(), self.rest.next(), pieces.pop()) {
                    (Some(':'), Some('='), Some(Piece::Name(name))) => pieces.push(Piece::Define(name)),
                    _ => return Err("has \"::=\" without a name before it".to_owned()),
                },
                name if is_of_name(name) => {
                    let mut name = name.to_string();
                    while let Some(next) = self.rest.next_if(|next| is_of_name(*next)) {
                        name.push(next);
                    }
                    pieces.push(Piece::Name(name));
                }
                other => return Err(format!("has {other:?} where a rule goes on")),
            }
        }
        Ok(pieces)
    }

    /// A text, as JSON has it.
    fn quoted(&mut self) -> Result<String, String> {
        let mut text = String::new();
        loop {
            match self.rest.next() {
                Some('"') => return Ok(serde_json::Value::String(text).to_string()),
                Some('\\') => text.push(self.escaped()?),
                Some(character) => text.push(character),
                None => return Err("ends within a text".to_owned()),
            }
        }
    }

    /// A class of characters, as a regular expression has it.
    fn class(&mut self) -> Result<String, String> {
        let mut class = "[".to_owned();
        if self.rest.next_if_eq(&'^').is_some() {
            class.push('^');
        }
        loop {
            let character = match self.rest.next() {
                Some(']') => return Ok(class + "]"),
                Some('-') => {
                    // Between two characters a range, else itself.
                    let is_range = !class.ends_with(['[', '^']) && self.rest.peek().is_some_and(|next| *next != ']');
                    class.push_str(if is_range { "-" } else { "\\-" });
                    continue;
                }
                Some('\\') => self.escaped()?,
                Some(character) => character,
                None => return Err("ends within a class of characters".to_owned()),
            };
            write!(class, "\\u{{{:x}}}", u32::from(character)).expect("a text takes what is written");
        }
    }

    /// What stands behind a backslash.
    fn escaped(&mut self) -> Result<char, String> {
        let digits = match self.rest.next() {
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            Some(character) if !character.is_ascii_alphanumeric() => return Ok(character),
            _ => return Err("has a backslash before what is never escaped".to_owned()),
        };
        let code: String = (0..digits).filter_map(|_| self.rest.next()).collect();
        let code = u32::from_str_radix(&code, 16).ok().and_then(char::from_u32);
        code.ok_or_else(|| "has an escape that is no character".to_owned())
    }

    /// `{m}`, `{m,}` or `{m,n}`, which Lark has too.
    fn repeat(&mut self) -> Result<String, String> {
        let mut inside = String::new();
        while let Some(next) = self.rest.next_if(|next| next.is_ascii_digit() || matches!(next, ',' | ' ')) {
            inside.push(next);
        }
        let inside = inside.replace(' ', "");
        let parts: Vec<&str> = inside.split(',').collect();
        let is_count = |part: &str| part.parse::<u32>().is_ok_and(|count| count <= 100_000);
        let fits = match parts.as_slice() {
            [count] | [count, ""] => is_count(count),
            [least, most] => is_count(least) && is_count(most),
            _ => false,
        };
        match self.rest.next() {
            Some('}') if fits => Ok(format!("{{{inside}}}")),
            _ => Err("has braces that hold no counts up to 100000".to_owned()),
        }
    }
}

fn is_of_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '-' | '_')
}
