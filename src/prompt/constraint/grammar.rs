//! Grammars over the tokenizer's bytes, compiled within a budget and kept by what they were
//! compiled from.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use llguidance::api::TopLevelGrammar;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory, regex_to_lark};
use serde_json::{Value, json};

use super::{complaint, gbnf, schema};
use crate::batch::TokenId;
use crate::prompt::conversation::AnswerForm;
use crate::prompt::tokenizer::Tokenizer;

/// Longest text of a regular expression or a grammar, in bytes.
const TEXT_MAX_BYTES: usize = 64 << 10;
/// Most bytes of all texts to choose among.
const CHOICES_MAX_BYTES: usize = 256 << 10;
/// Most texts to choose among.
const CHOICES_MAX: usize = 4096;
/// White space between two tokens of JSON: a blank, or a line's end and an indentation of 16 levels
/// at most. A model that wants to say something else fills its `max_tokens` with whatever is
/// allowed: with 64 characters of any kind the embedded one did.
const JSON_SPACE: &str = r"\x20|\x0A[\x20\x09]{0,32}";

/// Work of compiling: 1,000,000 units take 20 ms (llguidance's figure), and its largest schema in
/// use needs half of them.
const COMPILE_FUEL: u64 = 1_000_000;
/// Stack of a thread that compiles. The compiler recurses through references, rules and long lists,
/// at 10 KB a level of a schema in a debug build; a schema has at most 10,000 levels and a grammar
/// 16,000 rules.
pub const STACK_BYTES: usize = 256 << 20;
/// Symbols of a grammar.
const SYMBOLS_MAX: usize = 500_000;
/// Ways to go on that the parser keeps at one place of the text: four for each property of an
/// object that may be left out.
const WAYS_MAX: usize = 5_000;
/// Work of one mask: 200,000 units take 14 ms (llguidance's figure).
const MASK_FUEL: u64 = 200_000;
/// States of a sequence's lexer, 1 to 2 KiB each (llguidance's figure).
const LEXER_STATES_MAX: usize = 10_000;
/// Bytes of the grammars that are kept.
const KEPT_MAX_BYTES: usize = 64 << 20;
/// What a compiled grammar takes besides its text, and how many bytes for each of those. It cannot
/// be asked: of a small schema 55 to 74 KiB were measured, of 4,096 choices 5.8 MB, and 1.7 MB a
/// matcher.
const COMPILED_BYTES: usize = 80 << 10;
const COMPILED_BYTES_EACH: usize = 64;
/// Longest echo of a path, a name or a value of the form, in characters.
const ECHO_MAX_CHARS: usize = 120;

/// Why an answer cannot be held to a form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct GrammarError {
    /// Where in the schema; empty for all of it, or for what is no schema.
    pub path: String,
    /// What is wrong with that, as a sentence that it is the subject of.
    pub message: String,
}

impl GrammarError {
    /// `message` of the whole form.
    pub(crate) fn of_all(message: String) -> Self {
        Self { path: String::new(), message }
    }
}

/// A compiled grammar.
pub struct Grammar {
    start: Matcher,
    bytes: usize,
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Grammar")
    }
}

impl Grammar {
    /// What it takes, or a matcher of it.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A matcher at its beginning, which shares nothing with others: what one sequence makes of it
    /// costs no other.
    pub(super) fn matcher(&self) -> Matcher {
        self.start.deep_clone()
    }
}

/// Compiles grammars for one tokenizer, and keeps those used last. May be called from several
/// threads.
pub struct Grammars {
    tokenizer: Arc<Tokenizer>,
    factory: OnceLock<Result<ParserFactory, String>>,
    /// The tokens that are text, by their bytes.
    sorted: OnceLock<Vec<TokenId>>,
    kept: Mutex<KeptGrammars>,
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Grammars")
    }
}

/// The grammars that are kept, by their text, each with when it was used last.
#[derive(Default)]
struct KeptGrammars {
    grammars: HashMap<String, (Arc<Grammar>, u64)>,
    bytes: usize,
    uses_count: u64,
}

impl Grammars {
    /// A compiler that has compiled nothing.
    #[must_use]
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, factory: OnceLock::new(), sorted: OnceLock::new(), kept: Mutex::default() }
    }

    /// The tokenizer whose bytes the grammars are about.
    #[must_use]
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// Builds the tree of all tokens, if it is not built: the first grammar need not wait for it
    /// then.
    pub fn warm_up(&self) {
        // Every chat needs these, a form the tree too.
        self.sorted();
        let _ = self.factory();
    }

    /// The tokens with which `text` may begin.
    pub(super) fn beginnings(&self, text: &[u8]) -> impl Iterator<Item = TokenId> {
        let sorted = self.sorted();
        (1..=text.len()).filter_map(move |len| {
            let at = sorted.binary_search_by(|token| self.tokenizer.bytes_of(*token).cmp(&text[..len])).ok()?;
            Some(sorted[at])
        })
    }

    /// The tokens that are text, by their bytes.
    pub(super) fn sorted(&self) -> &[TokenId] {
        self.sorted.get_or_init(|| {
            let ids = (0..).take(self.tokenizer.vocab_size()).map(TokenId);
            let mut sorted: Vec<TokenId> = ids.filter(|token| self.is_text(*token)).collect();
            sorted.sort_unstable_by_key(|token| self.tokenizer.bytes_of(*token));
            sorted
        })
    }

    /// Whether a token is text.
    pub(super) fn is_text(&self, token: TokenId) -> bool {
        !self.tokenizer.is_control(token) && !self.tokenizer.bytes_of(token).is_empty()
    }

    /// The grammar of `form`, if it is kept.
    pub fn kept(&self, form: &AnswerForm) -> Option<Arc<Grammar>> {
        self.look_up(&key_of(form))
    }

    /// The grammar of `form`. Call it from a thread with [`STACK_BYTES`]: the compiler recurses.
    ///
    /// # Errors
    /// [`GrammarError`] if it is none, asks for what a grammar cannot express, or takes more than
    /// the budget to compile.
    pub fn compile(&self, form: &AnswerForm) -> Result<Arc<Grammar>, GrammarError> {
        let key = key_of(form);
        if let Some(kept) = self.look_up(&key) {
            return Ok(kept);
        }
        let grammar = top_level(form)?;
        let factory = self.factory().as_ref().map_err(|message| GrammarError::of_all(message.clone()))?;
        let mut start = Matcher::new(factory.create_parser(grammar));
        // The first mask too: a grammar that cannot begin is none, and every matcher begins with
        // what that found out.
        start.compute_mask_or_eos().map_err(|error| GrammarError::of_all(complaint::of(form, &error.to_string())))?;
        let grammar = Arc::new(Grammar { start, bytes: bytes_of(&key) });
        self.keep(key, &grammar);
        Ok(grammar)
    }

    fn look_up(&self, key: &str) -> Option<Arc<Grammar>> {
        let mut kept = self.locked();
        kept.uses_count += 1;
        let now = kept.uses_count;
        let (grammar, used) = kept.grammars.get_mut(key)?;
        *used = now;
        Some(Arc::clone(grammar))
    }

    fn keep(&self, key: String, grammar: &Arc<Grammar>) {
        let mut kept = self.locked();
        let (used, bytes) = (kept.uses_count, bytes_of(&key));
        if kept.grammars.insert(key, (Arc::clone(grammar), used)).is_none() {
            kept.bytes += bytes;
        }
        while kept.bytes > KEPT_MAX_BYTES
            && let Some(oldest) = kept.grammars.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone())
        {
            kept.grammars.remove(&oldest);
            kept.bytes -= bytes_of(&oldest);
        }
    }

    fn locked(&self) -> MutexGuard<'_, KeptGrammars> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn factory(&self) -> &Result<ParserFactory, String> {
        self.factory.get_or_init(|| factory(&self.tokenizer))
    }
}

fn bytes_of(key: &str) -> usize {
    COMPILED_BYTES + COMPILED_BYTES_EACH * key.len()
}

/// What tells a form from every other.
fn key_of(form: &AnswerForm) -> String {
    match form {
        // The order of keys is part of it: properties are written in that order.
        AnswerForm::Json(schema) => format!("j{schema}"),
        AnswerForm::Regex(text) => format!("r{text}"),
        AnswerForm::Choice(texts) => format!("c{texts:?}"),
        AnswerForm::Grammar(text) => format!("g{text}"),
    }
}

fn top_level(form: &AnswerForm) -> Result<TopLevelGrammar, GrammarError> {
    match form {
        AnswerForm::Json(schema) => {
            schema::check(schema)?;
            let mut schema = match schema {
                Value::Object(_) => schema.clone(),
                _ => json!({"anyOf": [schema]}),
            };
            let options =
                JsonCompileOptions { whitespace_pattern: Some(JSON_SPACE.to_owned()), ..JsonCompileOptions::default() };
            options.apply_to(&mut schema);
            Ok(TopLevelGrammar::from_json_schema(schema))
        }
        AnswerForm::Regex(text) => {
            within(text, schema::PATTERN_MAX_BYTES)?;
            // `\d` and `\w` are ASCII's, as in JavaScript and in a schema's patterns.
            Ok(TopLevelGrammar::from_lark(format!("start: /{}/", regex_to_lark(unanchored(text), "dw"))))
        }
        AnswerForm::Choice(texts) => {
            if texts.is_empty() || texts.len() > CHOICES_MAX || texts.iter().any(String::is_empty) {
                return Err(GrammarError::of_all(format!("is no list of 1 to {CHOICES_MAX} texts that are not empty")));
            }
            within(&texts.concat(), CHOICES_MAX_BYTES)?;
            let quoted: Vec<String> = texts.iter().map(|text| Value::String(text.clone()).to_string()).collect();
            Ok(TopLevelGrammar::from_lark(format!("start: {}", quoted.join(" | "))))
        }
        AnswerForm::Grammar(text) => {
            within(text, TEXT_MAX_BYTES)?;
            // A schema inside a grammar would pass by every check of schemas.
            if let Some(word) = ["%json", "%llguidance"].iter().find(|word| text.contains(**word)) {
                return Err(GrammarError::of_all(format!("has {word}, which is not taken; send a schema by itself")));
            }
            let is_lark = !gbnf::is_gbnf(text);
            let lark = if is_lark { text.clone() } else { gbnf::to_lark(text).map_err(GrammarError::of_all)? };
            Ok(TopLevelGrammar::from_lark(lark))
        }
    }
}

/// `text` without the anchors at its ends, which every such expression has anyway.
fn unanchored(text: &str) -> &str {
    let text = text.strip_prefix('^').unwrap_or(text);
    match text.strip_suffix('$') {
        Some(rest) if rest.len() == rest.trim_end_matches('\\').len() => rest,
        _ => text,
    }
}

fn within(text: &str, max_bytes: usize) -> Result<(), GrammarError> {
    match text.len() {
        0 => Err(GrammarError::of_all("is empty".to_owned())),
        bytes if bytes > max_bytes => Err(GrammarError::of_all(format!("is {bytes} bytes long; expected {max_bytes} at most"))),
        _ => Ok(()),
    }
}

fn factory(tokenizer: &Tokenizer) -> Result<ParserFactory, String> {
    let ids = (0..).take(tokenizer.vocab_size()).map(TokenId);
    let words: Vec<Vec<u8>> = ids
        .map(|token| match tokenizer.is_control(token) {
            // So marked, it is no text, whatever it is spelt like.
            true => [&[TokTrie::SPECIAL_TOKEN_MARKER], tokenizer.bytes_of(token)].concat(),
            false => tokenizer.bytes_of(token).to_vec(),
        })
        .collect();
    let vocab_size = u32::try_from(words.len()).expect("ids are 32 bits");
    let trie = TokTrie::from(&TokRxInfo::new(vocab_size, tokenizer.control().return_.0), &words);
    let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let slices = SlicedBiasComputer::general_slices();
    let factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices);
    let mut factory = factory.map_err(|error| error.to_string())?;
    factory.quiet();
    let limits = factory.limits_mut();
    limits.initial_lexer_fuel = COMPILE_FUEL;
    limits.max_grammar_size = SYMBOLS_MAX;
    limits.max_items_in_row = WAYS_MAX;
    limits.step_lexer_fuel = MASK_FUEL;
    limits.max_lexer_states = LEXER_STATES_MAX;
    limits.verbose_errors = false;
    Ok(factory)
}

/// `text`, which is the client's and of any length, cut for an echo.
pub(super) fn clipped(text: &str) -> String {
    match text.char_indices().nth(ECHO_MAX_CHARS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grammar_is_as_long_as_it_may_be_and_no_longer() {
        let said = |text| within(text, 3).map_err(|error| error.to_string());
        assert_eq!((said("abc"), said("a")), (Ok(()), Ok(())));
        assert!(said("abcd").is_err_and(|said| said.contains("is 4 bytes long; expected 3 at most")));
        assert!(said("").is_err_and(|said| said.contains("is empty")));
    }

    #[test]
    fn anchors_at_the_ends_of_an_expression_say_nothing_and_escaped_ones_do() {
        let expressions = ["^a$", "a$", "^a", "a", "^", "$", r"a\$", r"a\\$", "^^a$$", "a^b$c"];
        let bare = ["a", "a", "a", "a", "", "", r"a\$", r"a\\$", "^a$", "a^b$c"];
        assert_eq!(expressions.map(unanchored), bare);
    }
}
