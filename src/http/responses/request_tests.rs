use proptest::prelude::*;

use crate::http::responses::request::*;
use crate::http::wire::samples::{any_json, blame, terms, value};
use crate::prompt::conversation::{AnswerForm, CustomInput, ReasoningEffort};

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
    let tools = format!(r#","tools":[{{"type":"web_search"}},{f},{{"type":"local_shell"}},{{"type":"function","name":"g"}}]"#);
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
fn custom_tools_are_offered_in_the_flat_form_and_told_again_so() {
    let patch = r#"{"type":"custom","name":"patch","description":"d","format":{"type":"grammar","syntax":"lark","definition":"start: \"a\""}}"#;
    let say = r#"{"type":"custom","name":"say"}"#;
    let tools = format!(r#","tools":[{{"type":"web_search"}},{patch},{say}]"#);
    let asked = read(&tools).unwrap();
    assert_eq!(asked.tool_places, [1, 2]);
    let custom: Vec<_> = asked.conversation.tools.iter().map(|tool| tool.custom.clone().unwrap()).collect();
    let grammar = AnswerForm::Grammar("start: \"a\"".to_owned());
    assert_eq!(custom, [CustomInput::Form(grammar), CustomInput::Text]);
    let choice = r#","tool_choice":{"type":"custom","name":"say"}"#;
    let forced = read(&format!("{tools}{choice}")).unwrap();
    assert_eq!(forced.conversation.forced_tool.as_deref(), Some("say"));
    let told = serde_json::to_value(&forced.echoed).unwrap();
    let mut expected = value(&format!("[{patch},{say}]"));
    expected[1]["description"] = Value::Null;
    expected[1]["format"] = value(r#"{"type":"text"}"#);
    assert_eq!((&told["tools"], &told["tool_choice"]), (&expected, &value(r#"{"type":"custom","name":"say"}"#)));
    for (tools, param) in [
        (r#"{"type":"custom"}"#, "tools[0].name"),
        (r#"{"type":"custom","name":"p","format":{"type":"yaml"}}"#, "tools[0].format.type"),
        (r#"{"type":"custom","name":"p","format":{"type":"grammar","syntax":"lark"}}"#, "tools[0].format.definition"),
        (
            r#"{"type":"custom","name":"p","format":{"type":"grammar","syntax":"ebnf","definition":"x"}}"#,
            "tools[0].format.syntax",
        ),
        (r#"{"type":"custom","name":"p"},{"type":"function","name":"p"}"#, "tools[1].name"),
    ] {
        assert_eq!(blame(read(&format!(r#","tools":[{tools}]"#))).0, param, "{tools}");
    }
    let other = format!(r#"{tools},"tool_choice":{{"type":"function","name":"say"}}"#);
    assert_eq!(blame(read(&other)).0, "tool_choice.name", "it is no function");
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
        (r#","conversation":1"#, "conversation", "invalid_value"),
        (r#","max_output_tokens":5,"min_tokens":6"#, "min_tokens", "conflicting_parameters"),
        (r#","conversation":"conv_1","previous_response_id":"resp_1""#, "conversation", "conflicting_parameters"),
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

/// What typed clients find in the answer has the types that they know.
#[test]
fn what_comes_back_has_the_types_of_clients() {
    for (fields, param, code) in [
        (r#","stream_options":7"#, "stream_options", "invalid_value"),
        (
            r#","stream":true,"stream_options":{"include_obfuscation":"x"}"#,
            "stream_options.include_obfuscation",
            "invalid_value",
        ),
        (r#","service_tier":7"#, "service_tier", "invalid_value"),
        (r#","truncation":7"#, "truncation", "invalid_value"),
        (r#","previous_response_id":{}"#, "previous_response_id", "invalid_value"),
        (r#","reasoning":{"summary":"long"}"#, "reasoning.summary", "invalid_value"),
        (r#","reasoning":{"generate_summary":7}"#, "reasoning.generate_summary", "invalid_value"),
        (r#","text":{"verbosity":"loud"}"#, "text.verbosity", "invalid_value"),
        (r#","text":{"verbosity":7}"#, "text.verbosity", "invalid_value"),
        (r#","text":{"format":{"type":"json_schema","schema":{}}}"#, "text.format.name", "missing_required_parameter"),
        (r#","text":{"format":{"type":"json_schema","name":"a b","schema":{}}}"#, "text.format.name", "invalid_value"),
        (r#","text":{"format":{"type":"json_schema","name":"","schema":{}}}"#, "text.format.name", "invalid_value"),
        (r#","text":{"format":{"type":"json_schema","name":"n","schema":true}}"#, "text.format.schema", "invalid_value"),
        (r#","text":{"format":{"type":"json_object","schema":[]}}"#, "text.format.schema", "invalid_value"),
        (r#","tools":[{"type":"function","name":"f"}],"tool_choice":{}"#, "tool_choice.type", "missing_required_parameter"),
    ] {
        assert_eq!(blame(read(fields)), (param.to_owned(), code), "{fields}");
    }
}

/// Each event that holds the response repeats them, so they have OpenAI's bounds.
#[test]
fn texts_that_come_back_are_short() {
    let (fits, long) = ("é".repeat(64), "é".repeat(65));
    for name in ["user", "safety_identifier", "prompt_cache_key"] {
        assert!(read(&format!(r#","{name}":"{fits}""#)).is_ok(), "{name}");
        assert_eq!(blame(read(&format!(r#","{name}":"{long}""#))), (name.to_owned(), "invalid_value"));
    }
    let metadata = |key: &str, value: &str| read(&format!(r#","metadata":{{"{key}":"{value}"}}"#));
    assert!(metadata(&fits, &"é".repeat(512)).is_ok());
    assert_eq!(blame(metadata(&long, "v")), ("metadata".to_owned(), "invalid_value"));
    assert_eq!(blame(metadata("k", &"é".repeat(513))), ("metadata.k".to_owned(), "invalid_value"));
    let pairs: Vec<String> = (0..17).map(|at| format!(r#""k{at}":"v""#)).collect();
    assert_eq!(blame(read(&format!(r#","metadata":{{{}}}"#, pairs.join(",")))), ("metadata".to_owned(), "invalid_value"));
}

#[test]
fn what_chats_refuse_is_refused_and_their_fields_have_other_names_here() {
    for (fields, param, code) in [
        (r#","functions":[{"name":"f"}]"#, "functions", "unsupported_value"),
        (r#","function_call":{"name":"f"}"#, "function_call", "unsupported_value"),
        (r#","messages":[{"role":"user","content":"x"}]"#, "messages", "unsupported_value"),
        (r#","logprobs":true"#, "logprobs", "unsupported_value"),
        (r#","format":"json""#, "format", "unsupported_value"),
        (r#","format":{"type":"object"}"#, "format", "unsupported_value"),
        (r#","modalities":["text","audio"]"#, "modalities[1]", "unsupported_value"),
        (r#","max_tokens":8,"max_output_tokens":9"#, "max_tokens", "conflicting_parameters"),
        (r#","max_completion_tokens":8,"max_output_tokens":9"#, "max_completion_tokens", "conflicting_parameters"),
    ] {
        assert_eq!(blame(read(fields)), (param.to_owned(), code), "{fields}");
    }
    for fields in [
        r#","functions":[],"function_call":"auto""#,
        r#","messages":[],"logprobs":false,"format":null,"modalities":["text"]"#,
        r#","max_tokens":9,"max_output_tokens":9"#,
    ] {
        assert!(read(fields).is_ok(), "{fields}");
    }
    assert_eq!(read(r#","max_tokens":9"#).unwrap().generation.max_tokens, Some(9));
}

/// Typed clients check what comes back: it is in this API's form, and says what was used.
#[test]
fn what_is_repeated_is_what_was_used() {
    let echoed = |fields: &str, name: &str| {
        let echoed = serde_json::to_value(read(fields).unwrap().echoed).unwrap();
        echoed[name].clone()
    };
    let f = r#","tools":[{"type":"mcp"},{"type":"function","name":"f","strict":true,"x":1},{"type":"function","name":"g"}]"#;
    let told = r#"[{"type":"function","name":"f","description":null,"parameters":null,"strict":true},
        {"type":"function","name":"g","description":null,"parameters":null,"strict":false}]"#;
    assert_eq!(echoed(f, "tools"), value(told));
    assert_eq!(echoed(&format!(r#"{f},"tool_choice":"none""#), "tools"), value(told));
    for (choice, told) in [
        (r#""required""#, r#""required""#),
        (r#"{"type":"function","name":"g","x":1}"#, r#"{"type":"function","name":"g"}"#),
        (r#"{"type":"function","function":{"name":"g"}}"#, r#"{"type":"function","name":"g"}"#),
        (r#"{"name":"g"}"#, r#"{"type":"function","name":"g"}"#),
        (
            r#"{"type":"allowed_tools","allowed_tools":{"mode":"required","tools":[{"type":"function","function":{"name":"g"}}]}}"#,
            r#"{"type":"allowed_tools","mode":"required","tools":[{"type":"function","name":"g"}]}"#,
        ),
        (
            r#"{"type":"allowed_tools","tools":[{"name":"f"}]}"#,
            r#"{"type":"allowed_tools","mode":"auto","tools":[{"type":"function","name":"f"}]}"#,
        ),
    ] {
        assert_eq!(echoed(&format!(r#"{f},"tool_choice":{choice}"#), "tool_choice"), value(told), "{choice}");
    }
    for (fields, told) in [
        (r#","reasoning":{"effort":"minimal","summary":"auto","x":1}"#, r#"{"effort":"low","summary":"auto"}"#),
        (r#","reasoning":{"generate_summary":"concise"}"#, r#"{"effort":"medium","summary":"concise"}"#),
        (r#","reasoning_effort":"high","reasoning":{"effort":"low"}"#, r#"{"effort":"high","summary":null}"#),
        (r#","chat_template_kwargs":{"reasoning_effort":"low"}"#, r#"{"effort":"low","summary":null}"#),
    ] {
        assert_eq!(echoed(fields, "reasoning"), value(told), "{fields}");
    }
    let named = |name: &str| {
        format!(r#"{{"type":"json_schema","name":"{name}","description":null,"schema":{{"type":"array"}},"strict":true}}"#)
    };
    for (fields, told) in [
        (r#","text":{"format":{"type":"json_schema","name":"n","schema":{"type":"array"},"x":1}}"#, named("n")),
        (r#","guided_json":{"type":"array"}"#, named("answer")),
        (r#","structured_outputs":{"json":{"type":"array"}}"#, named("answer")),
        (r#","guided_json_object":true"#, r#"{"type":"json_object"}"#.to_owned()),
        (r#","guided_regex":"a+""#, r#"{"type":"text"}"#.to_owned()),
    ] {
        assert_eq!(echoed(fields, "text")["format"], value(&told), "{fields}");
    }
    assert_eq!(
        echoed(r#","text":{"verbosity":"low","x":1}"#, "text"),
        value(r#"{"format":{"type":"text"},"verbosity":"low"}"#)
    );
}

/// What is listed of a kept response's input has the types of clients too.
#[test]
fn items_are_kept_in_the_form_of_clients() {
    let kept = |item: &str| {
        let body = value(&format!(r#"{{"input":[{item}]}}"#));
        let input = ResponsesRequest::read(body, &terms(), "resp_00ff").unwrap().input.unwrap();
        let mut item = serde_json::from_str::<Value>(input.get()).unwrap()[0].take();
        assert!(item["id"].as_str().is_some_and(|id| id.ends_with("_00ff8000")), "{item}");
        item.as_object_mut().unwrap().retain(|name, _| ["content", "arguments", "summary"].contains(&name.as_str()));
        item
    };
    for (item, listed) in [
        (r#"{"role":"user","content":[{"text":"a"}]}"#, r#"{"content":[{"text":"a","type":"input_text"}]}"#),
        (r#"{"role":"assistant","content":"a"}"#, r#"{"content":[{"type":"output_text","text":"a","annotations":[]}]}"#),
        (
            r#"{"role":"assistant","content":[{"type":"text","text":"a"},{"type":"refusal","refusal":"b"}]}"#,
            r#"{"content":[{"type":"output_text","text":"a","annotations":[]},{"type":"refusal","refusal":"b"}]}"#,
        ),
        (r#"{"type":"reasoning"}"#, r#"{"summary":[]}"#),
        (r#"{"type":"function_call","call_id":"a","name":"f","arguments":{"b":1}}"#, r#"{"arguments":"{\"b\":1}"}"#),
    ] {
        assert_eq!(kept(item), value(listed), "{item}");
    }
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
