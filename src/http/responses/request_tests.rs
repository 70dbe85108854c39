use proptest::prelude::*;

use crate::http::responses::request::*;
use crate::http::wire::samples::{any_json, blame, terms, value};
use crate::prompt::conversation::{AnswerForm, ReasoningEffort};

fn read(fields: &str) -> Result<ResponsesRequest, WireError> {
    ResponsesRequest::read(value(&format!(r#"{{"input":"hi"{fields}}}"#)), &terms(), "resp_00ff")
}

#[test]
fn fields_reach_what_they_stand_for() {
    let asked = read(
        r#","model":"gpt-oss","max_output_tokens":9,"temperature":0.5,"top_p":0.25,"stream":true,"reasoning":{"effort":"high","summary":"auto"},
          "parallel_tool_calls":false,"top_logprobs":2,"include":["reasoning.encrypted_content"],"store":false,"user":"u",
          "safety_identifier":"s","prompt_cache_key":"k","truncation":"auto","service_tier":"auto","metadata":{"a":"b"}"#,
    )
    .unwrap();
    assert_eq!((asked.model.as_str(), asked.generation.max_tokens), ("gpt-oss", Some(9)));
    let sampling = &asked.generation.sampling;
    assert_eq!((sampling.temperature, sampling.top_p, sampling.logprobs), (0.5, 0.25, Some(2)));
    assert!(asked.streaming.on && asked.include_reasoning && asked.conversation.single_call && asked.keeping.seals);
    assert!(!asked.keeping.store && asked.input.is_none());
    let unasked = read("").unwrap();
    assert_eq!((unasked.keeping.store, unasked.keeping.seals), (true, false));
    let input: Value = serde_json::from_str(unasked.input.unwrap().get()).unwrap();
    let part = r#"[{"type":"message","role":"user","content":[{"type":"input_text","text":"hi"}],"id":"msg_00ff8000","status":"completed"}]"#;
    assert_eq!(input, value(part));
    assert_eq!(asked.conversation.effort, ReasoningEffort::High);
    let echoed: Value = serde_json::from_str(&serde_json::to_string(&asked.echoed).unwrap()).unwrap();
    for (field, expected) in [
        ("max_output_tokens", "9"),
        ("temperature", "0.5"),
        ("user", r#""u""#),
        ("prompt_cache_key", r#""k""#),
        ("reasoning", r#"{"effort":"high","summary":"auto"}"#),
        ("parallel_tool_calls", "false"),
        ("truncation", r#""auto""#),
        ("metadata", r#"{"a":"b"}"#),
        ("top_logprobs", "2"),
        ("safety_identifier", r#""s""#),
    ] {
        assert_eq!(echoed[field], value(expected), "{field}");
    }
    assert_eq!(read(r#","include":["message.output_text.logprobs"]"#).unwrap().generation.sampling.logprobs, Some(0));
    assert_eq!(read("").unwrap().generation.sampling.logprobs, None);
    assert_eq!(read(r#","temperature":null,"tools":null,"text":null,"include":null"#).unwrap().conversation.tools, []);
}

#[test]
fn functions_are_offered_and_other_tools_are_left_out() {
    let f = r#"{"type":"function","name":"f","description":"d","parameters":{"type":"object"},"strict":true}"#;
    let tools = format!(
        r#","tools":[{{"type":"web_search"}},{f},{{"type":"custom","name":"patch"}},{{"type":"function","name":"g"}}]"#
    );
    let asked = read(&tools).unwrap();
    let names: Vec<&str> = asked.conversation.tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!((names, asked.tool_places), (vec!["f", "g"], vec![1, 3]));
    assert!(asked.conversation.tools[0].strict && !asked.conversation.tools[1].strict);
    let forced = read(&format!(r#"{tools},"tool_choice":{{"type":"function","name":"g"}}"#)).unwrap().conversation.forced_tool;
    assert_eq!(forced.as_deref(), Some("g"));
    assert!(read(&format!(r#"{tools},"tool_choice":"required""#)).unwrap().conversation.must_call);
    let allowed = r#","tool_choice":{"type":"allowed_tools","mode":"auto","tools":[{"type":"function","name":"f"}]}"#;
    assert_eq!(read(&format!("{tools}{allowed}")).unwrap().conversation.callable, Some(vec!["f".to_owned()]));
    assert_eq!(read(&format!(r#"{tools},"tool_choice":"none""#)).unwrap().conversation.tools, []);
}

#[test]
fn the_form_stands_in_text() {
    let form = |fields: &str| read(fields).unwrap().generation.form;
    assert_eq!(form(r#","text":{"format":{"type":"text"},"verbosity":"low"}"#), None);
    assert_eq!(form(r#","text":{"format":{"type":"json_object"}}"#).unwrap().form, AnswerForm::object());
    let schema = r#","text":{"format":{"type":"json_schema","name":"n","schema":{"type":"object"},"strict":true}}"#;
    let asked = read(schema).unwrap();
    assert_eq!(asked.generation.form.unwrap().param, "text.format.schema");
    assert_eq!(asked.conversation.schema.unwrap().name, "n");
    assert_eq!(form(r#","structured_outputs":{"regex":"a+"}"#).unwrap().form, AnswerForm::Regex("a+".to_owned()));
}

#[test]
fn complaints_name_the_parameter() {
    for (fields, param, code) in [
        (r#","model":"other""#, "model", "model_not_found"),
        (r#","instructions":7"#, "instructions", "invalid_value"),
        (r#","max_output_tokens":0"#, "max_output_tokens", "invalid_value"),
        (r#","max_output_tokens":1001"#, "max_output_tokens", "context_length_exceeded"),
        (r#","temperature":3"#, "temperature", "invalid_value"),
        (r#","top_logprobs":21"#, "top_logprobs", "invalid_value"),
        (r#","include":["all"]"#, "include[0]", "invalid_value"),
        (r#","include":[7]"#, "include[0]", "invalid_value"),
        (r#","metadata":{"a":7}"#, "metadata.a", "invalid_value"),
        (r#","metadata":[]"#, "metadata", "invalid_value"),
        (r#","reasoning":{"effort":"much"}"#, "reasoning.effort", "invalid_value"),
        (r#","truncation":"some""#, "truncation", "invalid_value"),
        (r#","store":"yes""#, "store", "invalid_value"),
        (r#","n":2"#, "n", "unsupported_value"),
        (r#","store":false,"background":true"#, "background", "conflicting_parameters"),
        (r#","stream":true,"background":true"#, "background", "conflicting_parameters"),
        (r#","previous_response_id":7"#, "previous_response_id", "invalid_value"),
        (r#","conversation":"conv_1""#, "conversation", "unsupported_value"),
        (r#","prompt":{"id":"pmpt_1"}"#, "prompt", "unsupported_value"),
        (r#","response_format":{"type":"json_object"}"#, "response_format", "unsupported_value"),
        (r#","text":{"format":{"type":"xml"}}"#, "text.format.type", "unsupported_value"),
        (r#","text":{"format":{"type":"json_schema","name":"n"}}"#, "text.format.schema", "missing_required_parameter"),
        (r#","tools":[{"type":"web"}]"#, "tools[0].type", "unsupported_value"),
        (r#","tools":[{"name":"f"}]"#, "tools[0].type", "missing_required_parameter"),
        (r#","tools":[{"type":"function"}]"#, "tools[0].name", "missing_required_parameter"),
        (
            r#","tools":[{"type":"function","name":"f"},{"type":"function","name":"f"}]"#,
            "tools[1].name",
            "conflicting_parameters",
        ),
        (r#","tool_choice":"required""#, "tool_choice", "conflicting_parameters"),
        (
            r#","tools":[{"type":"function","name":"f"}],"tool_choice":{"type":"function","name":"g"}"#,
            "tool_choice.name",
            "invalid_value",
        ),
        (r#","stream_options":{}"#, "stream_options", "conflicting_parameters"),
        (r#","bad_words":["x"]"#, "bad_words", "unsupported_value"),
    ] {
        assert_eq!(blame(read(fields)), (param.to_owned(), code), "{fields}");
    }
    assert_eq!(
        blame(ResponsesRequest::read(value("{}"), &terms(), "resp_00ff")),
        ("input".to_owned(), "missing_required_parameter")
    );
    assert_eq!(
        blame(ResponsesRequest::read(value(r#"{"input":[]}"#), &terms(), "resp_00ff")),
        ("input".to_owned(), "invalid_value")
    );
    assert!(ResponsesRequest::read(value(r#"{"input":[],"instructions":"Greet."}"#), &terms(), "resp_00ff").is_ok());
    assert!(ResponsesRequest::read(value(r#"{"previous_response_id":"resp_1"}"#), &terms(), "resp_00ff").is_ok());
}

proptest! {
    #[test]
    fn no_body_panics(body in any_json(), name in prop::sample::select(vec![
        "input", "instructions", "tools", "tool_choice", "text", "reasoning", "metadata", "include", "truncation", "stream",
    ])) {
        let _ = ResponsesRequest::read(body.clone(), &terms(), "resp_00ff");
        let _ = ResponsesRequest::read(serde_json::json!({"input": "hi", name: body}), &terms(), "resp_00ff");
        let _ = ResponsesRequest::read(serde_json::json!({"input": [{"type": "message", "role": "user", "content": body}]}), &terms(), "resp_00ff");
    }
}
