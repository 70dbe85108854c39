//! Text with what changes from request to request replaced, for cache keys alone: the model never
//! sees it.
//!
//! The order of the replacements is part of the protocol (`WIRE.md`, section 4). Two texts that
//! differ only in what is replaced have the same key, so a key alone never answers for a text.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

/// What is replaced, by what, in this order. Word borders are those of ASCII: Unicode's would keep
/// the search from its fast path on any text that is not ASCII.
const REPLACEMENTS: [(&str, &str); 14] = [
    (r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?(?:Z|[+-][0-9]{2}:?[0-9]{2})?", "<timestamp>"),
    (r"(?-u:\b)(?:[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{1,2}/[0-9]{1,2}/[0-9]{4})(?-u:\b)", "<date>"),
    (r"(?-u:\b)[0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?(?-u:\b)", "<time>"),
    (r"(?-u:\b)[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}(?-u:\b)", "<uuid>"),
    (r"(?-u:\b)(?i:sess|session|session_id|sessionid)[_=:-][A-Za-z0-9_-]*[0-9][A-Za-z0-9_-]*", "<session_id>"),
    (r#"(^|[\s"'`(\[=,])(?:~|\.{1,2})?(?:/[A-Za-z0-9_.+@-]+){2,}/?"#, "${1}<path>"),
    (r#"(?-u:\b)[A-Za-z]:\\[^\s"'<>|*?]+"#, "<path>"),
    (r"(?-u:\b)localhost:[0-9]+(?-u:\b)", "<host>"),
    (r"(?-u:\b)[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?-u:\b)", "<ip>"),
    (r"(?-u:\b)[A-Za-z0-9][A-Za-z0-9.-]*\.local(?-u:\b)", "<hostname>"),
    (r"(?-u:\b)(?:https?|ftp|wss?)://\S+", "<url>"),
    (r"(?-u:\b)[0-9a-fA-F]{32,}(?-u:\b)", "<hash>"),
    (r"(?-u:\b)0[xX][0-9a-fA-F]+(?-u:\b)", "<hex>"),
    (r"(?-u:\b)(?i:req|request|request_id|chatcmpl|cmpl)[_=:-][A-Za-z0-9_-]*[0-9][A-Za-z0-9_-]*", "<request_id>"),
];

static PATTERNS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let compile = |(pattern, by): &(&str, &'static str)| (Regex::new(pattern).expect("a constant pattern"), *by);
    REPLACEMENTS.iter().map(compile).collect()
});

/// `text` with its replacements made, white space collapsed and trimmed.
pub(super) fn normalise(text: &str) -> String {
    let mut text = Cow::Borrowed(text);
    for (pattern, by) in PATTERNS.iter() {
        if let Cow::Owned(replaced) = pattern.replace_all(&text, *by) {
            text = replaced.into();
        }
    }
    // Python counts the four separators U+001C to U+001F as white space, Rust does not.
    let is_space = |character: char| character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character);
    let words: Vec<&str> = text.split(is_space).filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::normalise;

    #[test]
    fn what_changes_from_request_to_request_is_replaced() {
        for (text, expected) in [
            ("at 2025-11-22T10:11:12.5Z or 2025-11-22 10:11", "at <timestamp> or <timestamp>"),
            ("on 2025-11-22, 1/2/2025", "on <date>, <date>"),
            ("at 9:05 and 23:59:59", "at <time> and <time>"),
            ("id 123e4567-e89b-12d3-a456-426614174000.", "id <uuid>."),
            ("session_id=ab12-3 sess-9f", "<session_id> <session_id>"),
            ("open /etc/hosts or ~/a/b.txt (./x/y) C:\\dir\\f.txt", "open <path> or <path> (<path>) <path>"),
            ("localhost:8000 10.0.0.1 printer.local", "<host> <ip> <hostname>"),
            ("see https://a.example/b?c=1 http://localhost:80/x", "see <url> <url>"),
            ("d41d8cd98f00b204e9800998ecf8427e 0xDEADbeef", "<hash> <hex>"),
            ("chatcmpl-12ab req_7", "<request_id> <request_id>"),
            ("  a\t\n b\u{3000}c\u{1f}d ", "a b c d"),
        ] {
            assert_eq!(normalise(text), expected);
        }
    }

    #[test]
    fn ordinary_text_stays() {
        for text in
            ["What is 2+2?", "Hello, how are you?", "안녕", "a/b", "and/or", "3.5", "the request was", "0x", "ratio 1:2"]
        {
            assert_eq!(normalise(text), text);
        }
    }
}
