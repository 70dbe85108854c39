use proptest::prelude::*;

use crate::http::wire::document::*;
use crate::http::wire::samples::{any_json, blame};

fn refused(json: &str) -> (String, &'static str) {
    blame(parse(json.as_bytes()))
}

#[test]
fn a_key_given_twice_is_refused_at_any_depth() {
    assert_eq!(refused(r#"{"seed":1,"n":2,"seed":3}"#), ("seed".into(), "duplicate_field"));
    assert_eq!(refused(r#"{"a":[{"b":{"c":1,"c":1}}]}"#), ("a[0].b.c".into(), "duplicate_field"));
    assert!(parse(br#"{"a":{"x":1},"b":{"x":1}}"#).is_ok());
}

#[test]
fn what_is_no_json_is_refused_where_it_stops() {
    for (json, param) in [
        ("", ""),
        ("nonsense", ""),
        (r#"{"a":1} x"#, ""),
        (r#"{"temperature":NaN}"#, "temperature"),
        (r#"{"temperature":1e999}"#, "temperature"),
        (r#"{"messages":[{"content":"\u12g4"}]}"#, "messages[0].content"),
        (r#"{"a":1,}"#, ""),
        ("\u{feff}{}", ""),
    ] {
        assert_eq!(refused(json), (param.into(), "invalid_json"), "{json}");
    }
    assert_eq!(blame(parse(b"{\"a\":\"\xff\"}")).1, "invalid_json");
}

#[test]
fn depth_and_count_are_bounded() {
    let deep = format!("{}{}", "[".repeat(128), "]".repeat(128));
    assert_eq!(blame(parse(deep.as_bytes())).1, "invalid_json");
    let fine = format!("{}{}", "[".repeat(127), "]".repeat(127));
    assert!(parse(fine.as_bytes()).is_ok());
    // The list is a value too.
    let most = format!("[{}0]", "0,".repeat(VALUES_MAX - 2));
    assert!(parse(most.as_bytes()).is_ok());
    let many = format!("[{}0]", "0,".repeat(VALUES_MAX - 1));
    assert_eq!(blame(parse(many.as_bytes())), (String::new(), "too_many_values"));
}

#[test]
fn key_order_stays() {
    let schema = r#"{"zeta":1,"alpha":{"b":1,"a":2},"mid":[]}"#;
    assert_eq!(parse(schema.as_bytes()).unwrap().to_string(), schema);
}

proptest! {
    #[test]
    fn whatever_has_no_key_twice_reads_as_it_does_for_everybody(value in any_json()) {
        let text = value.to_string();
        prop_assert_eq!(parse(text.as_bytes()).unwrap(), serde_json::from_str::<Value>(&text).unwrap());
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let strict = parse(&bytes).is_ok();
        // What is taken here is JSON for every other parser too.
        prop_assert!(!strict || serde_json::from_slice::<Value>(&bytes).is_ok());
    }
}

#[test]
fn half_a_surrogate_pair_is_a_replacement_character() {
    for (written, text) in [
        (r"\ud83d\udc4b", "👋"),
        (r"\ud83d", "\u{fffd}"),
        (r"a\uDC4Bb", "a\u{fffd}b"),
        (r"\ud83d\ud83d\udc4b", "\u{fffd}👋"),
        (r"\udc4b\ud83d", "\u{fffd}\u{fffd}"),
        (r"\ud83d\n", "\u{fffd}\n"),
        (r"\\ud83d", r"\ud83d"),
        (r"\\\ud83d", "\\\u{fffd}"),
        (r"\ud83d\\udc4b", "\u{fffd}\\udc4b"),
        (r"\u00e9\ud83dx", "é\u{fffd}x"),
    ] {
        let value = parse(format!(r#"{{"a":"{written}"}}"#).as_bytes()).unwrap();
        assert_eq!(value["a"], text, "{written}");
    }
    assert_eq!(parse(br#"{"\ud83d":1}"#).unwrap()["\u{fffd}"], 1);
    assert_eq!(refused(r#"{"a":"\ud83"#).1, "invalid_json");
    assert_eq!(refused("{\"a\":\"\\").1, "invalid_json");
}
