use proptest::prelude::*;

use crate::http::messages::request::*;
use crate::http::wire::samples::{any_json, blame, terms, value};
use crate::prompt::conversation::AnswerForm;

const MESSAGES: &str = r#""max_tokens":9,"messages":[{"role":"user","content":"hi"}]"#;
const F: &str = r#""tools":[{"name":"f","input_schema":{}}]"#;

fn of(json: &str, route: MessagesRoute) -> Result<MessagesRequest, WireError> {
    MessagesRequest::read(value(json), route, &terms(), |_| None)
}

fn read(rest: &str) -> Result<MessagesRequest, WireError> {
    of(&format!("{{{MESSAGES}{rest}}}"), MessagesRoute::Create)
}

#[test]
fn a_bare_message_is_enough() {
    let request = read(r#","unheard_of":[1],"another":null"#).unwrap();
    assert_eq!(request.model, "tiny");
    assert_eq!(request.conversation.messages, [Message::User { content: "hi".into() }]);
    assert_eq!(request.conversation.effort, ReasoningEffort::Medium);
    assert_eq!(request.generation.max_tokens, Some(9));
    assert!(request.generation.cuts_at_context && !request.streaming.on && !request.generation.has_cache_key);
    assert_eq!(request.thinking, ThinkingShown::Nothing);
}

#[test]
fn what_clients_send_unasked_is_taken() {
    for rest in [
        r#","system":"Be brief.","metadata":{"user_id":"u"},"service_tier":"auto","inference_geo":"eu","betas":["x"]"#,
        r#","context_management":{"edits":[{"type":"clear_thinking_20251015"}]},"diagnostics":{"previous_message_id":null}"#,
        r#","speed":"standard","container":null,"mcp_servers":[],"thinking":null,"tool_choice":null,"output_config":{}"#,
        r#","tools":[{"type":"tool_search_tool_bm25_20251119","name":"t"}],"temperature":1,"top_p":0.9,"top_k":5"#,
        r#","metadata":{"user_id":null},"stop":[],"stop_sequences":[],"reasoning_effort":null"#,
    ] {
        assert!(read(rest).is_ok(), "{rest}: {:?}", read(rest).unwrap_err());
    }
}

#[test]
fn what_would_be_ignored_is_refused_by_its_place() {
    for (rest, param) in [
        (r#","container":"c""#, "container"),
        (r#","mcp_servers":[{"type":"url"}]"#, "mcp_servers"),
        (r#","thread":{"id":"t"}"#, "thread"),
        (r#","logprobs":true"#, "logprobs"),
        (r#","n":2"#, "n"),
        (r#","stop":["x"]"#, "stop"),
        (r#","max_completion_tokens":5"#, "max_completion_tokens"),
        (r#","response_format":{"type":"json_object"}"#, "response_format"),
        (r#","reasoning_effort":"low""#, "reasoning_effort"),
        (r#","parallel_tool_calls":false"#, "parallel_tool_calls"),
        (r#","include_reasoning":false"#, "include_reasoning"),
        (r#","text":{"format":{"type":"json_object"}}"#, "text"),
        (r#","previous_response_id":"resp_1""#, "previous_response_id"),
        (r#","conversation":"conv_1""#, "conversation"),
        (r#","background":true"#, "background"),
        (r#","functions":[{"name":"f"}]"#, "functions"),
        (r#","bad_words":["x"]"#, "bad_words"),
        (r#","modalities":["audio"]"#, "modalities[0]"),
        (r#","system":7"#, "system"),
        (r#","system":[{"type":"image"}]"#, "system[0].type"),
        (r#","metadata":7"#, "metadata"),
        (r#","metadata":{"user_id":7}"#, "metadata.user_id"),
        (r#","stop_sequences":"#, "stop_sequences"),
        (r#","stop_sequences":["a",""]"#, "stop_sequences[1]"),
        (r#","thinking":true"#, "thinking"),
        (r#","thinking":{}"#, "thinking.type"),
        (r#","thinking":{"type":"on"}"#, "thinking.type"),
        (r#","thinking":{"type":"enabled"}"#, "thinking.budget_tokens"),
        (r#","thinking":{"type":"enabled","budget_tokens":1023}"#, "thinking.budget_tokens"),
        (r#","thinking":{"type":"adaptive","display":"all"}"#, "thinking.display"),
        (r#","output_config":7"#, "output_config"),
        (r#","output_config":{"effort":"much"}"#, "output_config.effort"),
        (r#","output_config":{"format":{"type":"text"}}"#, "output_config.format.type"),
        (r#","output_config":{"format":{"type":"json_schema"}}"#, "output_config.format.schema"),
        (r#","output_config":{"format":{"type":"json_schema","schema":true}}"#, "output_config.format.schema"),
        (r#","output_format":{"schema":{}}"#, "output_format.type"),
        (r#","tools":[{"type":"web_search_20250305","name":"web_search"}]"#, "tools[0].type"),
        (r#","tool_choice":{"type":"any"}"#, "tool_choice.type"),
        (r#","stream_options":{}"#, "stream_options"),
        (r#","model":"claude-opus-4-1""#, "model"),
    ] {
        let rest = if rest.ends_with(':') { format!("{rest}7") } else { rest.to_owned() };
        assert_eq!(blame(read(&rest)).0, param, "{rest}");
    }
    for (json, param) in [
        (r#"{"max_tokens":9}"#, "messages"),
        (r#"{"max_tokens":9,"messages":[]}"#, "messages"),
        (r#"{"messages":[{"role":"user","content":"hi"}]}"#, "max_tokens"),
        (r#"{"max_tokens":0,"messages":[{"role":"user","content":"hi"}]}"#, "max_tokens"),
        (
            r#"{"max_tokens":9,"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"Well,"}]}"#,
            "messages[1].role",
        ),
        ("[]", ""),
    ] {
        assert_eq!(blame(of(json, MessagesRoute::Create)).0, param, "{json}");
    }
}

#[test]
fn tokens_are_counted_of_what_need_not_be_answered() {
    let json = r#"{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"Well,"}]}"#;
    assert_eq!(of(json, MessagesRoute::Count).unwrap().conversation.messages.len(), 2);
    assert_eq!(blame(of("{}", MessagesRoute::Count)).0, "messages");
}

/// Clients of this API say many tokens: the context holds 1,000 here.
#[test]
fn more_tokens_than_the_context_holds_are_taken() {
    let json = r#"{"max_tokens":32000,"messages":[{"role":"user","content":"hi"}]}"#;
    let generation = of(json, MessagesRoute::Create).unwrap().generation;
    assert_eq!((generation.max_tokens, generation.cuts_at_context), (Some(32_000), true));
}

#[test]
fn thinking_and_effort_mean_one_of_three() {
    use ReasoningEffort::{High, Low, Medium};
    use ThinkingShown::{Nothing, Sealed, Text};
    for (rest, effort, budget_tokens, shown) in [
        ("", Medium, None, Nothing),
        (r#","thinking":{"type":"disabled"}"#, Low, Some(0), Nothing),
        (r#","thinking":{"type":"enabled","budget_tokens":1024}"#, Low, Some(1_024), Text),
        (r#","thinking":{"type":"enabled","budget_tokens":4999}"#, Low, Some(4_999), Text),
        (r#","thinking":{"type":"enabled","budget_tokens":5000}"#, Medium, Some(5_000), Text),
        (r#","thinking":{"type":"enabled","budget_tokens":9999}"#, Medium, Some(9_999), Text),
        (r#","thinking":{"type":"enabled","budget_tokens":31999,"display":"summarized"}"#, High, Some(31_999), Text),
        (r#","thinking":{"type":"enabled","budget_tokens":10000,"display":"omitted"}"#, High, Some(10_000), Sealed),
        (r#","thinking":{"type":"adaptive"}"#, Medium, None, Text),
        (r#","thinking":{"type":"between_tools"}"#, Medium, None, Text),
        (r#","thinking":{"type":"adaptive"},"output_config":{"effort":"max"}"#, High, None, Text),
        (r#","thinking":{"type":"adaptive"},"thinking_token_budget":7"#, Medium, Some(7), Text),
        (r#","thinking":{"type":"adaptive"},"reasoning_format":"hidden""#, Medium, None, Nothing),
        (r#","thinking":{"type":"disabled"},"output_config":{"effort":"high"}"#, High, Some(0), Nothing),
        (r#","output_config":{"effort":"low"}"#, Low, None, Nothing),
    ] {
        let MessagesRequest { conversation, thinking, .. } = read(rest).unwrap();
        let told = (conversation.effort, conversation.thinking.budget_tokens, thinking);
        assert_eq!(told, (effort, budget_tokens, shown), "{rest}");
    }
}

#[test]
fn stops_and_forms_have_their_own_names_here() {
    assert_eq!(read(r#","stop_sequences":["a","b"]"#).unwrap().generation.stop_strings, ["a", "b"]);
    for (rest, param) in [
        (r#","output_config":{"format":{"type":"json_schema","schema":{"type":"array"}}}"#, "output_config.format.schema"),
        (r#","output_format":{"type":"json_schema","schema":{"type":"array"}}"#, "output_format.schema"),
    ] {
        let request = read(rest).unwrap();
        let form = request.generation.form.unwrap();
        assert_eq!((form.param.as_str(), form.form), (param, AnswerForm::Json(serde_json::json!({"type": "array"}))));
        assert_eq!(request.conversation.schema.map(|schema| schema.name).as_deref(), Some("answer"));
    }
    let both =
        r#","output_config":{"format":{"type":"json_schema","schema":{}}},"output_format":{"type":"json_schema","schema":{}}"#;
    assert_eq!(blame(read(both)), ("output_format".into(), "conflicting_parameters"));
}

#[test]
fn what_is_marked_to_be_cached_is_kept_longer() {
    let mark = r#""cache_control":{"type":"ephemeral"}"#;
    let kept = |json: &str| of(json, MessagesRoute::Create).unwrap().generation.has_cache_key;
    assert!(kept(&format!("{{{MESSAGES},{mark}}}")));
    assert!(kept(&format!(r#"{{{MESSAGES},"system":[{{"type":"text","text":"x",{mark}}}]}}"#)));
    assert!(kept(&format!(r#"{{{MESSAGES},"tools":[{{"name":"f","input_schema":{{}},{mark}}}]}}"#)));
    assert!(kept(&format!(
        r#"{{"max_tokens":9,"messages":[{{"role":"user","content":[{{"type":"text","text":"x",{mark}}}]}}]}}"#
    )));
    assert!(!kept(&format!(
        r#"{{{MESSAGES},{F},"cache_control":null,"system":[{{"type":"text","text":"x","cache_control":null}}]}}"#
    )));
}

proptest! {
    #[test]
    fn no_body_panics(body in any_json(), name in prop::sample::select(vec![
        "messages", "system", "tools", "tool_choice", "thinking", "output_config", "output_format", "metadata", "max_tokens",
        "stop_sequences", "stream", "cache_control",
    ])) {
        let read = |body| MessagesRequest::read(body, MessagesRoute::Create, &terms(), |_| None);
        let _ = read(body.clone());
        let hi = serde_json::json!([{"role": "user", "content": "hi"}]);
        let mut fields = serde_json::json!({"max_tokens": 9, "messages": hi});
        fields[name] = body.clone();
        let blamed = read(fields).err().and_then(|error| error.param());
        prop_assert!(blamed.as_ref().is_none_or(|param| param.starts_with(name)), "{name} = {body} blames {blamed:?}");
        for role in ["user", "assistant", "system"] {
            let message = serde_json::json!([{"role": role, "content": [body]}]);
            let _ = read(serde_json::json!({"max_tokens": 9, "messages": message}));
        }
    }
}
