use crate::http::wire::defaults::RequestDefaults;
use crate::http::wire::samples::{blame, terms, value};
use crate::http::wire::sampling::*;

fn read(json: &str) -> Result<Generation, WireError> {
    Generation::read(&mut RequestFields::of(value(json), "").unwrap(), &terms())
}

#[test]
fn nothing_said_is_the_defaults_with_a_drawn_seed() {
    let generation = read("{}").unwrap();
    let sampling = Sampling { temperature: 1.0, seed: 77, ..Sampling::default() };
    let expected = Generation {
        choices_count: 1,
        max_tokens: None,
        cuts_at_context: false,
        sampling,
        written: WrittenNumbers { temperature: 1.0, top_p: 1.0 },
        seed: None,
        form: None,
        stop_strings: Vec::new(),
        ignore_eos: false,
        answer: AnswerOptions::default(),
        tokens: AskedTokens::default(),
        cut: None,
        cache_salt: None,
        has_cache_key: false,
        priority: 0,
    };
    assert_eq!(generation, expected);
    let nulls = "temperature top_p top_k min_p seed stop stop_token_ids max_tokens max_completion_tokens repetition_penalty \
                 presence_penalty frequency_penalty logit_bias n ignore_eos min_tokens user metadata cache_salt \
                 prompt_cache_key priority";
    let nulls: Vec<String> = nulls.split_whitespace().map(|name| format!("{name:?}:null")).collect();
    assert_eq!(read(&format!("{{{}}}", nulls.join(","))).unwrap(), expected);
}

/// Zero, a default and more digits than an f32 has: the key's numbers are what the request says.
#[test]
fn numbers_of_the_cache_key_stay_as_they_are_written() {
    let written = |json: &str| read(json).unwrap().written;
    let numbers = |temperature, top_p| WrittenNumbers { temperature, top_p };
    assert_eq!(written(r#"{"temperature":0.123456789012,"top_p":0.9}"#), numbers(0.123_456_789_012, 0.9));
    assert_eq!(written(r#"{"temperature":1e-9,"top_p":1e-20}"#), numbers(1e-9, 1e-20));
    let terms = Terms { defaults: RequestDefaults { temperature: 0.3, top_p: 0.95, top_k: 0 }, ..terms() };
    let assumed = Generation::read(&mut RequestFields::of(value("{}"), "").unwrap(), &terms).unwrap();
    assert_eq!((assumed.written, assumed.sampling.temperature), (numbers(0.3, 0.95), 0.3));
}

#[test]
fn everything_said_is_heard() {
    let generation = read(
        r#"{"temperature":0.5,"top_p":0.9,"top_k":-1,"min_p":0.1,"seed":-3,"stop":["a","b"],"stop_token_ids":[5,2047],
            "max_tokens":10,"max_completion_tokens":20,"repetition_penalty":1.5,"presence_penalty":-2,"frequency_penalty":2,
            "logit_bias":{"7":-100,"0":1.5},"n":3,"ignore_eos":true,"min_tokens":20,"user":"u","metadata":{"a":"b"},
            "cache_salt":"aZ+/=_-","priority":-4,"prompt_cache_key":"a b"}"#,
    )
    .unwrap();
    assert_eq!(generation.max_tokens, Some(20), "the newer name wins");
    assert_eq!(generation.seed, Some(-3));
    assert_eq!(generation.stop_strings, ["a", "b"]);
    assert_eq!((generation.cache_salt.as_deref(), generation.priority), (Some("aZ+/=_-"), -4));
    assert!(generation.has_cache_key && !read(r#"{"prompt_cache_key":""}"#).unwrap().has_cache_key);
    assert_eq!(read(r#"{"priority":9000000000}"#).unwrap().priority, i32::MAX);
    let sampling = generation.sampling;
    assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p), (0.5, 0.9, 0, 0.1));
    assert_eq!(sampling.seed, u64::MAX - 2);
    assert_eq!((sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty), (1.5, -2.0, 2.0));
    assert_eq!(sampling.logit_bias, [(TokenId(7), -100.0), (TokenId(0), 1.5)]);
    assert_eq!(sampling.stop_tokens, [TokenId(5), TokenId(2047)]);
    assert_eq!(sampling.min_tokens, 20);
}

#[test]
fn divisors_too_small_for_logits_are_moved() {
    let sampling = read(r#"{"temperature":1e-40,"repetition_penalty":1e-30}"#).unwrap().sampling;
    assert_eq!((sampling.temperature, sampling.repetition_penalty), (0.0, 1e-3));
}

#[test]
fn out_of_range_is_refused_by_name() {
    for (json, param) in [
        (r#"{"temperature":2.1}"#, "temperature"),
        (r#"{"temperature":-0.1}"#, "temperature"),
        (r#"{"top_p":-0.1}"#, "top_p"),
        (r#"{"top_p":1.1}"#, "top_p"),
        (r#"{"top_k":-2}"#, "top_k"),
        (r#"{"min_p":1.01}"#, "min_p"),
        (r#"{"seed":9223372036854775808}"#, "seed"),
        (r#"{"stop":["a",""]}"#, "stop[1]"),
        (r#"{"stop":["a",7]}"#, "stop[1]"),
        (r#"{"stop":["","","","","","","","","","","","","","","","",""]}"#, "stop"),
        (r#"{"stop_token_ids":[1,2048]}"#, "stop_token_ids[1]"),
        (r#"{"max_tokens":0}"#, "max_tokens"),
        (r#"{"repetition_penalty":0}"#, "repetition_penalty"),
        (r#"{"presence_penalty":2.5}"#, "presence_penalty"),
        (r#"{"frequency_penalty":1e308}"#, "frequency_penalty"),
        (r#"{"logit_bias":{"2048":1}}"#, "logit_bias"),
        (r#"{"logit_bias":{"01":1}}"#, "logit_bias"),
        (r#"{"logit_bias":{"1":101}}"#, "logit_bias.1"),
        (r#"{"logit_bias":[]}"#, "logit_bias"),
        (r#"{"n":0}"#, "n"),
        (r#"{"n":129}"#, "n"),
        (r#"{"min_tokens":-1}"#, "min_tokens"),
        (r#"{"cache_salt":"a b"}"#, "cache_salt"),
        (r#"{"user":7}"#, "user"),
        (r#"{"prompt_cache_key":7}"#, "prompt_cache_key"),
        (r#"{"priority":"high"}"#, "priority"),
        (r#"{"priority":0.5}"#, "priority"),
    ] {
        assert_eq!(blame(read(json)), (param.into(), "invalid_value"), "{json}");
    }
    let contradiction = r#"{"min_tokens":6,"max_tokens":5}"#;
    assert_eq!(blame(read(contradiction)), ("min_tokens".into(), "conflicting_parameters"));
    let long = format!(r#"{{"stop":"{}"}}"#, "x".repeat(257));
    assert_eq!(blame(read(&long)).0, "stop");
}

#[test]
fn what_means_the_least_is_taken() {
    assert_eq!(read(r#"{"top_p":0}"#).unwrap().sampling.top_p, 0.0);
    assert_eq!(read(r#"{"top_p":1e-50}"#).unwrap().sampling.top_p, 0.0);
    assert!(read(r#"{"stop":""}"#).unwrap().stop_strings.is_empty());
}

#[test]
fn more_tokens_than_the_context_holds_is_a_context_error() {
    for name in ["max_tokens", "max_completion_tokens"] {
        for value in ["1001", "1001.0", "18446744073709551616", "1e300"] {
            let error = read(&format!(r#"{{"{name}":{value}}}"#)).unwrap_err();
            assert_eq!((error.param().unwrap().as_str(), error.code()), (name, "context_length_exceeded"), "{value}");
            assert!(error.to_string().contains("this model's maximum context length is 1000 tokens"), "{error}");
        }
        assert_eq!(blame(read(&format!(r#"{{"{name}":0}}"#))).1, "invalid_value");
    }
}
