//! Reads Rust as far as the checks of this folder need it: tokens with their lines, without
//! comments and without what is compiled for tests alone; the paths that are named; the modules
//! that only tests have.

/// A word, a number, a literal, `::` or one sign of punctuation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) line: usize,
    pub(super) text: &'a str,
}

impl Token<'_> {
    /// Whether it is an identifier or a keyword.
    fn is_word(&self) -> bool {
        is_word_start(self.text.chars().next().unwrap_or(' ')) && !self.text.ends_with(['"', '#', '\''])
    }
}

/// A path as it is named (`crate::batch::Micros`) and the line where it begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NamedPath<'a> {
    pub(super) line: usize,
    pub(super) segments: Vec<&'a str>,
    /// The name that `use` gives it; `None` for a path of an expression or a type.
    pub(super) bound: Option<&'a str>,
    /// Whether a `pub use` names it, for other files to import from this one.
    pub(super) is_exported: bool,
}

/// `#[cfg(test)] mod name;`, perhaps with `#[path = "…"]`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TestModule<'a> {
    pub(super) name: &'a str,
    pub(super) path: Option<&'a str>,
}

/// A file without its comments and without what is compiled for tests alone.
#[derive(Debug)]
pub(super) struct Code<'a> {
    pub(super) tokens: Vec<Token<'a>>,
    pub(super) test_modules: Vec<TestModule<'a>>,
}

impl<'a> Code<'a> {
    /// Reads the text of a file.
    pub(super) fn read(text: &'a str) -> Self {
        let all = tokens(text);
        let mut code = Self { tokens: Vec::new(), test_modules: Vec::new() };
        let mut next = 0;
        while next < all.len() {
            if starts_with(&all[next..], &["#", "[", "cfg", "(", "test", ")", "]"]) {
                let end = item_end(&all, next);
                code.test_modules.extend(test_module(&all[next..end]));
                next = end;
            } else {
                code.tokens.push(all[next]);
                next += 1;
            }
        }
        code
    }

    /// Every path that `use` names, and every other one of two segments or more.
    pub(super) fn paths(&self) -> Vec<NamedPath<'a>> {
        let mut found = Vec::new();
        let mut next = 0;
        while next < self.tokens.len() {
            let rest = &self.tokens[next..];
            if rest[0].text == "use" && rest.get(1).is_some_and(|token| token.text != "<") {
                let length = rest.iter().position(|token| token.text == ";").unwrap_or(rest.len());
                let first = found.len();
                use_tree(&mut rest[1..length].iter().copied().peekable(), &[], &mut found);
                // Nothing but a visibility ends in `pub` or `)` before `use`.
                let before = next.checked_sub(1).map(|before| self.tokens[before].text);
                let is_exported = before.is_some_and(|before| ["pub", ")"].contains(&before));
                found[first..].iter_mut().for_each(|path| path.is_exported = is_exported);
                next += length;
            } else if rest[0].is_word() && rest.get(1).is_some_and(|token| token.text == "::") {
                let mut segments = vec![rest[0].text];
                while starts_with(&rest[segments.len() * 2 - 1..], &["::"]) {
                    match rest.get(segments.len() * 2) {
                        Some(token) if token.is_word() => segments.push(token.text),
                        _ => break,
                    }
                }
                next += segments.len() * 2 - 1;
                if segments.len() > 1 {
                    found.push(NamedPath { line: rest[0].line, segments, bound: None, is_exported: false });
                }
            } else {
                next += 1;
            }
        }
        found
    }
}

/// One level of what stands after `use`, up to its end or its closing brace.
fn use_tree<'a, T>(rest: &mut std::iter::Peekable<T>, prefix: &[&'a str], found: &mut Vec<NamedPath<'a>>)
where
    T: Iterator<Item = Token<'a>>,
{
    let mut segments = prefix.to_vec();
    let (mut line, mut bound, mut is_open) = (0, None, false);
    while let Some(token) = rest.next() {
        match token.text {
            "::" => {}
            "{" => {
                use_tree(rest, &segments, found);
                is_open = false;
            }
            "as" => bound = rest.next().map(|alias| alias.text),
            "," | "}" => {
                if is_open {
                    found.push(NamedPath { line, segments: segments.clone(), bound, is_exported: false });
                }
                if token.text == "}" {
                    return;
                }
                segments = prefix.to_vec();
                is_open = false;
            }
            name => {
                (line, is_open) = (token.line, true);
                // `a::b::{self}` is `a::b`, under the name `b`.
                if name != "self" || segments.is_empty() {
                    segments.push(name);
                }
                bound = segments.last().copied();
            }
        }
    }
    if is_open {
        found.push(NamedPath { line, segments, bound, is_exported: false });
    }
}

fn starts_with(tokens: &[Token<'_>], texts: &[&str]) -> bool {
    tokens.len() >= texts.len() && tokens.iter().zip(texts).all(|(token, text)| token.text == *text)
}

/// Keywords that an item begins with; what else an attribute stands on (a field, a variant, an arm)
/// ends at a comma.
const ITEM_WORDS: [&str; 15] = [
    "pub", "mod", "fn", "use", "struct", "enum", "impl", "const", "static", "type", "trait", "extern", "unsafe", "async", "let",
];

/// Where the item ends whose first attribute stands at `begin`.
fn item_end(tokens: &[Token<'_>], begin: usize) -> usize {
    let mut next = begin;
    while starts_with(&tokens[next..], &["#", "["]) {
        let mut depth = 0;
        while let Some(token) = tokens.get(next) {
            next += 1;
            depth += depth_of(token);
            if token.text == "]" && depth == 0 {
                break;
            }
        }
    }
    let is_item = tokens.get(next).is_some_and(|token| ITEM_WORDS.contains(&token.text));
    let is_use = tokens[next..].iter().take_while(|token| token.text != "{").any(|token| token.text == "use");
    let mut depth = 0;
    while let Some(token) = tokens.get(next) {
        depth += depth_of(token);
        if depth < 0 {
            // The brace of what the field or the arm stands in.
            return next;
        }
        next += 1;
        let ends = match token.text {
            ";" => true,
            "}" => is_item && !is_use && !starts_with(&tokens[next..], &[";"]),
            "," => !is_item,
            _ => false,
        };
        if ends && depth == 0 {
            return next;
        }
    }
    next
}

fn depth_of(token: &Token<'_>) -> i32 {
    match token.text {
        "{" | "(" | "[" => 1,
        "}" | ")" | "]" => -1,
        _ => 0,
    }
}

/// The module that an item declares, if it has a file of its own.
fn test_module<'a>(item: &[Token<'a>]) -> Option<TestModule<'a>> {
    let [.., word, name, end] = item else { return None };
    let path = item.windows(3).find(|tokens| tokens[0].text == "path" && tokens[1].text == "=");
    let path = path.map(|tokens| tokens[2].text.trim_matches('"'));
    (word.text == "mod" && end.text == ";").then_some(TestModule { name: name.text, path })
}

fn is_word_start(first: char) -> bool {
    first.is_alphabetic() || first == '_'
}

/// Every token of `text`. Comments are none; a literal is one.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let (mut rest, mut line) = (text, 1);
    while let Some(first) = rest.chars().next() {
        let length = match first {
            _ if first.is_whitespace() => first.len_utf8(),
            _ if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            _ if rest.starts_with("/*") => block_comment(rest),
            _ => token_length(rest, first),
        };
        let (taken, left) = rest.split_at(length);
        if !first.is_whitespace() && !taken.starts_with("//") && !taken.starts_with("/*") {
            found.push(Token { line, text: taken });
        }
        line += taken.matches('\n').count();
        rest = left;
    }
    found
}

/// The length of a comment that others may stand in.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let (step, change) = match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => (2, 1),
            [b'*', b'/', ..] => (2, -1),
            _ => (1, 0),
        };
        (at, depth) = (at + step, depth + change);
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// The length of the token that `text` begins with.
fn token_length(text: &str, first: char) -> usize {
    match first {
        '"' => literal_length(text, '"'),
        '\'' => {
            let name = word_length(&text[1..]);
            let is_lifetime = name > 0 && !text[1 + name..].starts_with('\'');
            if is_lifetime { 1 + name } else { literal_length(text, '\'') }
        }
        _ if is_word_start(first) => {
            let length = word_length(text);
            let (word, after) = text.split_at(length);
            let hashes = after.len() - after.trim_start_matches('#').len();
            match word {
                "r" | "br" | "cr" if after[hashes..].starts_with('"') => {
                    let end = format!("\"{}", "#".repeat(hashes));
                    let inside = length + hashes + 1;
                    text[inside..].find(&end).map_or(text.len(), |found| inside + found + end.len())
                }
                "b" | "c" if after.starts_with('"') => length + literal_length(after, '"'),
                _ => length,
            }
        }
        _ if first.is_ascii_digit() => word_length(text),
        ':' if text.starts_with("::") => 2,
        _ => first.len_utf8(),
    }
}

fn word_length(text: &str) -> usize {
    text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())
}

/// The length of a literal between two `quote`s, in which a backslash takes its meaning from the
/// sign after it.
fn literal_length(text: &str, quote: char) -> usize {
    let mut signs = text.char_indices().skip(1);
    while let Some((index, sign)) = signs.next() {
        match sign {
            '\\' => _ = signs.next(),
            _ if sign == quote => return index + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        Code::read(text).tokens.iter().map(|token| token.text.to_owned()).collect()
    }

    fn paths(text: &str) -> Vec<String> {
        let named = |path: NamedPath<'_>| format!("{}:{}", path.line, path.segments.join("::"));
        Code::read(text).paths().into_iter().map(named).collect()
    }

    #[test]
    fn comments_and_literals_hide_what_stands_in_them() {
        let text = "let a = \"x // y \\\" z\"; // b\n/* c /* d */ e */ f('\\'', '\"', r#\"g\"h\"#, b\"i\", 'j: loop)";
        let expected =
            ["let", "a", "=", "\"x // y \\\" z\"", ";", "f", "(", "'\\''", ",", "'\"'", ",", "r#\"g\"h\"#", ",", "b\"i\"", ","];
        assert_eq!(words(text)[..expected.len()], expected);
        assert_eq!(words(text)[expected.len()..], ["'j", ":", "loop", ")"]);
    }

    /// What an attribute of the tests stands on is left out, whatever it is, and what follows is
    /// read.
    #[test]
    fn what_only_tests_have_is_left_out_and_the_rest_is_read() {
        let kept = |item: &str| words(&format!("before(); {item} after"));
        for item in [
            "#[cfg(test)] mod tests;",
            "#[cfg(test)]\n#[path = \"x_tests.rs\"]\nmod tests;",
            "#[cfg(test)] mod tests { fn a() { b(); } }",
            "#[cfg(test)] pub(crate) mod samples;",
            "#[cfg(test)] #[allow(dead_code)] fn c<A, B>(a: A) -> [u8; 2] { [1, 2] }",
            "#[cfg(test)] use a::{b, c};",
            "#[cfg(test)] const D: E = E { f: 1 };",
        ] {
            assert_eq!(kept(item), ["before", "(", ")", ";", "after"], "{item}");
        }
        assert_eq!(words("enum A { #[cfg(test)] B { c: u8 }, D }"), ["enum", "A", "{", "D", "}"]);
        let arms = words("match a { b => 1, #[cfg(test)] d => panic!(\"e, f\"), g => 2 }").concat();
        assert_eq!(arms, "matcha{b=>1,g=>2}");
        assert_eq!(words("struct A { b: C, #[cfg(test)] d: E }"), ["struct", "A", "{", "b", ":", "C", ",", "}"]);
    }

    #[test]
    fn modules_that_only_tests_have_are_named() {
        let code =
            Code::read("mod a;\n#[cfg(test)] mod b;\n#[cfg(test)] #[path = \"c_tests.rs\"] mod c;\n#[cfg(test)] mod d { }");
        let expected = [TestModule { name: "b", path: None }, TestModule { name: "c", path: Some("c_tests.rs") }];
        assert_eq!(code.test_modules, expected);
    }

    #[test]
    fn every_path_is_named_where_it_begins() {
        let text = "use a::{self, b::{c, d as e},\n f::*};\nuse g;\nfn h(i: j::K<l::M>) -> impl N + use<'_> { ::o::p(); q.r::<s::T>() }";
        let expected = ["1:a", "1:a::b::c", "1:a::b::d", "2:a::f::*", "3:g", "4:j::K", "4:l::M", "4:o::p", "4:s::T"];
        assert_eq!(paths(text), expected);
    }
}
