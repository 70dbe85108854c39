//! What a mask costs on OpenAI's own vocabulary: microseconds a token, at the median and at the
//! 99th percentile, for ten forms.
//!
//! An answer is made of tokens at random out of those allowed, as a model without any idea would
//! write it, and begun again where it ends: 1,000 masks a form. Beside them: building the tree of
//! the vocabulary, and compiling each form.

use std::sync::Arc;
use std::time::{Duration, Instant};

use antiphon::batch::{Allowed, TokenId};
use antiphon::prompt::constraint::{AnswerRules, Grammars};
use antiphon::prompt::conversation::AnswerForm;
use serde_json::{Value, json};

#[path = "../tests/suite/prompt/o200k.rs"]
mod o200k;

const MASKS_COUNT: usize = 1_000;

/// The forms, by name.
fn forms() -> Vec<(&'static str, AnswerForm)> {
    let object = |properties: Value| json!({"type": "object", "properties": properties, "additionalProperties": false});
    let fields = |count: usize| -> Value {
        Value::Object((0..count).map(|at| (format!("field_{at}"), json!({"type": ["string", "number", "null"]}))).collect())
    };
    let step = object(json!({"explanation": {"type": "string"}, "output": {"type": "string"}}));
    let tree = json!({"type": "object", "properties": {"value": {}, "children": {"type": "array", "items": {"$ref": "#"}}}});
    vec![
        ("any object", AnswerForm::object()),
        ("two fields", AnswerForm::Json(object(json!({"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}})))),
        ("steps in a list", AnswerForm::Json(object(json!({"steps": {"type": "array", "items": step}})))),
        ("a tree", AnswerForm::Json(tree)),
        ("100 fields", AnswerForm::Json(object(fields(100)))),
        ("an enum of 200", AnswerForm::Json(json!({"enum": (0..200).map(|at| format!("value {at}")).collect::<Vec<_>>()}))),
        ("a date and a time", AnswerForm::Json(json!({"type": "array", "items": {"type": "string", "format": "date-time"}}))),
        (
            "a pattern",
            AnswerForm::Json(json!({"type": "array", "items": {"type": "string", "pattern": "^[A-Z]{2,4}-\\d{3,9}$"}})),
        ),
        ("a regular expression", AnswerForm::Regex("([a-z]+( [a-z]+){0,9}\\. )+".to_owned())),
        (
            "a grammar",
            AnswerForm::Grammar("start: sum\nsum: term (\" + \" term)*\nterm: /[0-9]+/ | \"(\" sum \")\"".to_owned()),
        ),
    ]
}

/// The value below which `share` of the sorted `times` are.
fn quantile(times: &[Duration], share: f64) -> f64 {
    times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1e6
}

#[expect(clippy::print_stdout, reason = "a bench reports on standard output")]
fn main() {
    let grammars = Arc::new(Grammars::new(o200k::tokenizer()));
    let begun = Instant::now();
    grammars.warm_up();
    println!("the tree of {} tokens: {:.0} ms", o200k::VOCAB_SIZE, begun.elapsed().as_secs_f64() * 1e3);
    for (name, form) in forms() {
        let begun = Instant::now();
        let grammar = grammars.compile(&form).expect("it is a form");
        let compiled_ms = begun.elapsed().as_secs_f64() * 1e3;
        let rules = Arc::new(AnswerRules::of_text(&grammars, grammar));
        let (mut answer, mut times, mut state) = (rules.begin(), Vec::with_capacity(MASKS_COUNT), 7_u64);
        while times.len() < MASKS_COUNT {
            let begun = Instant::now();
            let allowed = answer.allowed().expect("it goes on");
            times.push(begun.elapsed());
            let ids: Vec<TokenId> = (0..).take(o200k::VOCAB_SIZE).map(TokenId).filter(|token| allowed.has(*token)).collect();
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            if allowed == Allowed::All {
                answer = rules.begin();
                continue;
            }
            answer.take(ids[(state >> 33) as usize % ids.len()]).expect("it was allowed");
        }
        times.sort_unstable();
        let [median, high, worst] = [0.5, 0.99, 1.0].map(|share| quantile(&times, share));
        println!("{name:22} compiled in {compiled_ms:6.1} ms, p50 {median:6.0} us, p99 {high:6.0} us, worst {worst:6.0} us");
    }
}
