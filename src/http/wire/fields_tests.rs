use crate::http::wire::fields::*;
use crate::http::wire::samples::{blame, value};

fn fields(json: &str) -> RequestFields {
    RequestFields::of(value(json), "").unwrap()
}

#[test]
fn null_is_as_good_as_absent() {
    let mut fields = fields(r#"{"a":null}"#);
    assert_eq!(fields.text("a"), Ok(None));
    assert_eq!(fields.text("b"), Ok(None));
    assert_eq!(blame(fields.required("a", "a string")), ("a".into(), "missing_required_parameter"));
}

#[test]
fn integers_are_exact_or_refused() {
    for (json, expected) in [("7", Some(7)), ("7.0", Some(7)), ("-7", Some(-7)), ("9223372036854775807", Some(i64::MAX))] {
        assert_eq!(fields(&format!(r#"{{"a":{json}}}"#)).integer("a", i64::MIN..=i64::MAX), Ok(expected));
    }
    for json in ["7.5", "9223372036854775808", "18446744073709551616", "1e300", "\"7\"", "true", "[]", "{}"] {
        let refused = blame(fields(&format!(r#"{{"a":{json}}}"#)).integer("a", i64::MIN..=i64::MAX));
        assert_eq!(refused, ("a".into(), "invalid_value"), "{json}");
    }
}

#[test]
fn complaints_say_where_what_and_what_instead() {
    let mut outer = fields(r#"{"list":[{"inner":{"flag":"yes"}}]}"#);
    let list = outer.list("list").unwrap().unwrap();
    let mut item = RequestFields::of(list.into_iter().next().unwrap(), "list[0]").unwrap();
    let error = item.object("inner").unwrap().unwrap().flag("flag").unwrap_err();
    assert_eq!(error.to_string(), r#"list[0].inner.flag is the string "yes"; expected true or false"#);
    assert_eq!(RequestFields::of(value("[1]"), "").unwrap_err().to_string(), "the body is an array of 1; expected an object");
}

#[test]
fn what_is_echoed_is_short() {
    let long = "x".repeat(1 << 20);
    let error = fields(&format!(r#"{{"a":"{long}"}}"#)).flag("a").unwrap_err();
    assert!(error.to_string().len() < 300, "{} bytes", error.to_string().len());
}
