//! OTLP's traces as JSON. Source: OpenTelemetry protocol 1.x, `ExportTraceServiceRequest` in its
//! JSON mapping: ids are hexadecimal, integers of 64 bits are texts, enums are numbers.

use serde_json::{Value, json};

/// The kind of a span that answers a request.
const SERVER: u8 = 2;
/// The status of a span that went wrong.
const ERROR: u8 = 2;

/// What an attribute says.
#[derive(Debug, Clone, PartialEq)]
pub enum SpanValue {
    /// A text.
    Text(String),
    /// An integer.
    Count(u64),
    /// A number.
    Number(f64),
    /// Texts.
    Texts(Vec<String>),
}

/// Something that happened while a span lasted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanEvent {
    /// What.
    pub name: &'static str,
    /// When, in nanoseconds since 1970.
    pub at_nanos: u64,
}

/// A span that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// The trace: 32 hexadecimal digits.
    pub trace_id: String,
    /// The span: 16 hexadecimal digits.
    pub span_id: String,
    /// The span above it, if there is one.
    pub parent_id: Option<String>,
    /// What it is called.
    pub name: String,
    /// When it began, in nanoseconds since 1970.
    pub began_nanos: u64,
    /// When it ended.
    pub ended_nanos: u64,
    /// What is said of it, by OpenTelemetry's names.
    pub attributes: Vec<(&'static str, SpanValue)>,
    /// What happened meanwhile, in order.
    pub events: Vec<SpanEvent>,
    /// It went wrong through the server's fault.
    pub is_error: bool,
}

/// The message that tells of `spans`.
pub(super) fn message(spans: &[Span]) -> String {
    let told: Vec<Value> = spans.iter().map(span).collect();
    let text = |name: &str, value: &str| json!({"key": name, "value": {"stringValue": value}});
    json!({"resourceSpans": [{
        "resource": {"attributes": [text("service.name", "antiphon"), text("service.version", crate::VERSION)]},
        "scopeSpans": [{"scope": {"name": "antiphon", "version": crate::VERSION}, "spans": told}],
    }]})
    .to_string()
}

fn span(span: &Span) -> Value {
    let attributes: Vec<Value> =
        span.attributes.iter().map(|(name, value)| json!({"key": name, "value": attribute(value)})).collect();
    let events: Vec<Value> =
        span.events.iter().map(|event| json!({"name": event.name, "timeUnixNano": event.at_nanos.to_string()})).collect();
    json!({
        "traceId": span.trace_id,
        "spanId": span.span_id,
        "parentSpanId": span.parent_id.as_deref().unwrap_or_default(),
        "name": span.name,
        "kind": SERVER,
        "startTimeUnixNano": span.began_nanos.to_string(),
        "endTimeUnixNano": span.ended_nanos.to_string(),
        "attributes": attributes,
        "events": events,
        "status": if span.is_error { json!({"code": ERROR}) } else { json!({}) },
    })
}

fn attribute(value: &SpanValue) -> Value {
    match value {
        SpanValue::Text(text) => json!({"stringValue": text}),
        SpanValue::Count(count) => json!({"intValue": count.to_string()}),
        SpanValue::Number(number) => json!({"doubleValue": number}),
        SpanValue::Texts(texts) => {
            let values: Vec<Value> = texts.iter().map(|text| json!({"stringValue": text})).collect();
            json!({"arrayValue": {"values": values}})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_the_form_of_otlp() {
        let one = Span {
            trace_id: "ab".repeat(16),
            span_id: "cd".repeat(8),
            parent_id: None,
            name: "chat tiny".to_owned(),
            began_nanos: 1_700_000_000_000_000_001,
            ended_nanos: 1_700_000_000_000_000_002,
            attributes: vec![
                ("gen_ai.usage.input_tokens", SpanValue::Count(7)),
                ("gen_ai.response.finish_reasons", SpanValue::Texts(vec!["stop".to_owned()])),
            ],
            events: vec![SpanEvent { name: "decode", at_nanos: 5 }],
            is_error: true,
        };
        let told: Value = serde_json::from_str(&message(&[one])).unwrap();
        let span = &told["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        assert_eq!(span["startTimeUnixNano"], "1700000000000000001", "a number of JSON would lose the last digits");
        assert_eq!((&span["kind"], &span["status"]["code"], &span["parentSpanId"]), (&json!(2), &json!(2), &json!("")));
        assert_eq!(span["attributes"][0], json!({"key": "gen_ai.usage.input_tokens", "value": {"intValue": "7"}}));
        assert_eq!(span["attributes"][1]["value"]["arrayValue"]["values"][0]["stringValue"], "stop");
        assert_eq!(span["events"][0], json!({"name": "decode", "timeUnixNano": "5"}));
        assert_eq!(told["resourceSpans"][0]["resource"]["attributes"][0]["value"]["stringValue"], "antiphon");
    }
}
