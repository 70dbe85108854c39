use actix_web::ResponseError;
use proptest::prelude::*;

use crate::actors::messages::{AskedForm, Coalescing};
use crate::http::chat::request::*;
use crate::http::errors::ApiError;
use crate::http::wire::samples::{any_json, blame, terms, value};
use crate::prompt::conversation::{AnswerForm, PromptEnd, ReasoningEffort};

const MESSAGES: &str = r#""messages":[{"role":"user","content":"hi"}]"#;

fn read(rest: &str) -> Result<ChatRequest, WireError> {
    ChatRequest::read(value(&format!("{{{MESSAGES}{rest}}}")), BodyRoute::Chat, &terms())
}

#[test]
fn a_bare_chat_is_enough() {
    let request = read(r#","unheard_of":[1],"another":null"#).unwrap();
    assert_eq!(request.model, "tiny");
    assert_eq!(request.conversation.messages, [Message::User { content: "hi".into() }]);
    assert!(!request.streaming.on && !request.lists.ids);
    assert_eq!(request.generation.sampling.logprobs, None);
}

#[test]
fn models_are_known_by_all_their_names() {
    assert_eq!(read(r#","model":"gpt-oss""#).unwrap().model, "gpt-oss");
    let refused = read(r#","model":"gpt-4""#).unwrap_err();
    assert_eq!((refused.param().as_deref(), refused.code()), (Some("model"), "model_not_found"));
    assert_eq!(refused.to_string(), r#"the model "gpt-4" does not exist here; this server has tiny, gpt-oss"#);
}

#[test]
fn streams_are_gathered_as_the_request_the_profile_or_the_server_says() {
    let coalescing = |rest| read(rest).unwrap().streaming.coalescing;
    assert_eq!(coalescing(r#","stream":true"#), Coalescing { max_ms: 5, max_chars: 0 });
    assert_eq!(coalescing(r#","stream":true,"profile":"slow""#), Coalescing { max_ms: 99, max_chars: 9 });
    let asked = r#","stream":true,"profile":"slow","stream_options":{"coalesce_max_ms":1}"#;
    assert_eq!(coalescing(asked), Coalescing { max_ms: 1, max_chars: 9 });
    assert_eq!(blame(read(r#","profile":"unknown""#)).0, "profile");
}

#[test]
fn stream_options_need_a_stream() {
    let options = r#","stream_options":{"include_usage":true,"continuous_usage_stats":true}"#;
    assert_eq!(blame(read(options)), ("stream_options".into(), "conflicting_parameters"));
    let streaming = read(&format!(r#"{options},"stream":true"#)).unwrap().streaming;
    assert!(streaming.on && streaming.include_usage && streaming.continuous_usage);
    let wrong = r#","stream":true,"stream_options":{"include_usage":"yes"}"#;
    assert_eq!(blame(read(wrong)).0, "stream_options.include_usage");
}

#[test]
fn logprobs_come_in_pairs() {
    let logprobs = |rest| read(rest).map(|request| request.generation.sampling.logprobs);
    assert_eq!(logprobs(r#","logprobs":true"#), Ok(Some(0)));
    assert_eq!(logprobs(r#","logprobs":true,"top_logprobs":20"#), Ok(Some(20)));
    assert_eq!(logprobs(r#","logprobs":false,"top_logprobs":0"#), Ok(None));
    assert_eq!(blame(logprobs(r#","top_logprobs":5"#)).0, "top_logprobs");
    assert_eq!(blame(logprobs(r#","logprobs":true,"top_logprobs":21"#)).0, "top_logprobs");
}

#[test]
fn what_would_be_ignored_is_refused() {
    for (rest, param) in [
        (r#","response_format":{"type":"json_schema","json_schema":{}}"#, "response_format.json_schema.schema"),
        (r#","response_format":{"type":"json_schema","json_schema":[]}"#, "response_format.json_schema"),
        (r#","response_format":{"type":"json_schema"}"#, "response_format.json_schema"),
        (r#","response_format":{"type":"structural_tag"}"#, "response_format.type"),
        (r#","response_format":{}"#, "response_format.type"),
        (r#","response_format":{"type":"json_object"},"ignore_eos":true"#, "response_format"),
        (r#","modalities":["text","audio"]"#, "modalities[1]"),
        (r#","reasoning_effort":"much""#, "reasoning_effort"),
        (r#","reasoning":{"effort":7}"#, "reasoning.effort"),
        (r#","reasoning":{"max_tokens":-7}"#, "reasoning.max_tokens"),
        (r#","thinking_token_budget":"many""#, "thinking_token_budget"),
        (r#","reserve_answer_tokens":-1"#, "reserve_answer_tokens"),
        (r#","reasoning_format":"raw""#, "reasoning_format"),
        (r#","chat_template_kwargs":{"reasoning_effort":"much"}"#, "chat_template_kwargs.reasoning_effort"),
        (r#","chat_template_kwargs":{"model_identity":"a cat"}"#, "chat_template_kwargs.model_identity"),
        (r#","guided_json":"{""#, "guided_json"),
        (r#","guided_choice":["a",3]"#, "guided_choice[1]"),
        (r#","guided_choice":"a""#, "guided_choice"),
        (r#","structured_outputs":{"structural_tag":"a"}"#, "structured_outputs.structural_tag"),
        (r#","structured_outputs":{"regex":"a","json":{"a":1}}"#, "structured_outputs.regex"),
        (r#","guided_regex":"a","response_format":{"type":"json_object"}"#, "guided_regex"),
        (r#","guided_whitespace_pattern":" ""#, "guided_whitespace_pattern"),
        (r#","structural_tag":{"a":1}"#, "structural_tag"),
        (r#","continue_final_message":true"#, "continue_final_message"),
        (r#","add_generation_prompt":0"#, "add_generation_prompt"),
        (r#","bad_words":["x",7]"#, "bad_words[1]"),
        (r#","allowed_token_ids":[1]"#, "allowed_token_ids"),
        (r#","truncate_prompt_tokens":1"#, "truncate_prompt_tokens"),
        (r#","prompt_logprobs":21"#, "prompt_logprobs"),
        (r#","prompt_logprobs":1,"stream":true"#, "prompt_logprobs"),
        (r#","echo":true"#, "echo"),
        (r#","skip_special_tokens":false"#, "skip_special_tokens"),
        (r#","typical_p":0.5"#, "typical_p"),
    ] {
        assert_eq!(blame(read(rest)).0, param, "{rest}");
    }
    assert!(read(r#","response_format":{"type":"text"},"modalities":["text"]"#).is_ok());
}

#[test]
fn a_prompt_ends_where_it_is_asked_to_and_what_contradicts_that_is_refused() {
    let of = |last: &str, rest: &str| {
        let messages = format!(r#"[{{"role":"user","content":"x"}}{last}]"#);
        ChatRequest::read(value(&format!(r#"{{"messages":{messages}{rest}}}"#)), BodyRoute::Chat, &terms())
    };
    let said = r#",{"role":"assistant","content":"On"}"#;
    let end = |last: &str, rest: &str| of(last, rest).unwrap().conversation.end;
    assert_eq!(end("", r#","add_generation_prompt":true,"continue_final_message":false"#), PromptEnd::Opened);
    assert_eq!(end("", r#","add_generation_prompt":false"#), PromptEnd::Bare);
    for rest in ["", r#","add_generation_prompt":false"#] {
        assert_eq!(end(said, &format!(r#","continue_final_message":true{rest}"#)), PromptEnd::FinalText);
    }
    let tools = r#","tools":[{"type":"function","function":{"name":"f"}},{"type":"function","function":{"name":"g"}}]"#;
    let continues = r#","continue_final_message":true"#;
    for (last, rest, param) in [
        (said, format!(r#"{continues},"add_generation_prompt":true"#), "continue_final_message"),
        (r#",{"role":"assistant","content":""}"#, continues.to_owned(), "continue_final_message"),
        (
            r#",{"role":"assistant","content":"x","tool_calls":[{"id":"c","function":{"name":"f","arguments":"{}"}}]}"#,
            continues.to_owned(),
            "continue_final_message",
        ),
        (said, format!(r#"{continues}{tools},"tool_choice":"required""#), "continue_final_message"),
        (said, format!(r#"{continues},"response_format":{{"type":"json_object"}}"#), "continue_final_message"),
        (
            "",
            format!(r#","add_generation_prompt":false{tools},"tool_choice":{{"type":"function","function":{{"name":"f"}}}}"#),
            "add_generation_prompt",
        ),
    ] {
        assert_eq!(blame(of(last, &rest)).0, param, "{rest}");
    }
    assert!(of("", &format!(r#","add_generation_prompt":false{tools},"tool_choice":"required""#)).is_ok());
}

fn of_type(kind: &str) -> AnswerForm {
    AnswerForm::Json(serde_json::json!({"type": kind}))
}

#[test]
fn an_answer_s_form_is_read_as_each_server_has_it() {
    let regex = || AnswerForm::Regex("a+".into());
    for (field, param, form) in [
        (r#""guided_json":{"type":"array"}"#, "guided_json", of_type("array")),
        (r#""guided_json":"{\"type\":\"array\"}""#, "guided_json", of_type("array")),
        (r#""json_schema":{"type":"array"}"#, "json_schema", of_type("array")),
        (r#""structured_outputs":{"json":{"type":"array"}}"#, "structured_outputs.json", of_type("array")),
        (r#""structured_outputs":{"json_object":true}"#, "structured_outputs.json_object", of_type("object")),
        (r#""guided_regex":"a+""#, "guided_regex", regex()),
        (r#""structured_outputs":{"regex":"a+","disable_any_whitespace":true}"#, "structured_outputs.regex", regex()),
        (r#""regex":"a+""#, "regex", regex()),
        (r#""guided_choice":["a","b"]"#, "guided_choice", AnswerForm::Choice(vec!["a".into(), "b".into()])),
        (r#""structured_outputs":{"choice":["a"]}"#, "structured_outputs.choice", AnswerForm::Choice(vec!["a".into()])),
        (r#""grammar":"root ::= x""#, "grammar", AnswerForm::Grammar("root ::= x".into())),
        (r#""ebnf":"root ::= x""#, "ebnf", AnswerForm::Grammar("root ::= x".into())),
        (r#""guided_grammar":"start: x""#, "guided_grammar", AnswerForm::Grammar("start: x".into())),
    ] {
        let request = read(&format!(",{field}")).unwrap();
        assert_eq!(request.generation.form, Some(AskedForm { form, param: param.to_owned() }), "{field}");
        assert_eq!(request.conversation.schema, None, "the model is told of what response_format names");
    }
    let named =
        r#"{"type":"json_schema","json_schema":{"name":"n","description":"d","strict":true,"schema":{"type":"array"}}}"#;
    let schema = r#"{"type":"array"}"#;
    for (format, schema, param) in [
        (named, schema, "response_format.json_schema.schema"),
        (r#"{"type":"json_schema","schema":{"type":"array"}}"#, schema, "response_format.schema"),
        (r#"{"type":"json_object","schema":{"type":"array"}}"#, schema, "response_format.schema"),
        (r#"{"type":"json_object"}"#, r#"{"type":"object"}"#, "response_format"),
    ] {
        let request = read(&format!(r#","response_format":{format}"#)).unwrap();
        let form = AnswerForm::Json(serde_json::from_str(schema).unwrap());
        assert_eq!(request.generation.form, Some(AskedForm { form, param: param.to_owned() }), "{format}");
        // What has a name is told to the model.
        let shown = request.conversation.schema.map(|shown| (shown.name, shown.description));
        assert_eq!(shown, (format == named).then(|| ("n".to_owned(), Some("d".to_owned()))));
    }
}

#[test]
fn what_asks_for_nothing_is_taken() {
    for rest in [
        r#","guided_json":null,"guided_choice":[],"structured_outputs":{},"grammar":"","echo":false,"bad_words":[]"#,
        r#","add_generation_prompt":true,"continue_final_message":false,"skip_special_tokens":true,"separate_reasoning":true"#,
        r#","typical_p":1,"length_penalty":1.0,"mirostat":0,"prompt_logprobs":null,"n_probs":0,"best_of":1"#,
        r#","cache_salt":"a","priority":3,"chat_template_kwargs":{"enable_thinking":false},"reasoning":{"summary":"auto"}"#,
    ] {
        assert!(read(rest).is_ok(), "{rest}: {:?}", read(rest));
    }
}

#[test]
fn effort_has_several_names_and_its_values_mean_the_nearest() {
    use ReasoningEffort::{High, Low, Medium};
    for (value, effort) in
        [("none", Low), ("minimal", Low), ("low", Low), ("medium", Medium), ("high", High), ("xhigh", High), ("max", High)]
    {
        for rest in [
            format!(r#","reasoning_effort":"{value}""#),
            format!(r#","reasoning":{{"effort":"{value}"}}"#),
            format!(r#","chat_template_kwargs":{{"reasoning_effort":"{value}"}}"#),
        ] {
            assert_eq!(read(&rest).unwrap().conversation.effort, effort, "{rest}");
        }
    }
    let all = r#","reasoning_effort":"low","reasoning":{"effort":"high"},"chat_template_kwargs":{"reasoning_effort":"high"}"#;
    assert_eq!(read(all).unwrap().conversation.effort, Low, "the first name wins");
    assert_eq!(read(r#","reasoning_effort":null"#).unwrap().conversation.effort, Medium);
    for rest in [r#","include_reasoning":false"#, r#","reasoning":{"exclude":true}"#, r#","reasoning_format":"hidden""#] {
        assert!(!read(rest).unwrap().include_reasoning && read("").unwrap().include_reasoning);
    }
}

#[test]
fn a_budget_of_thinking_has_several_names() {
    let thinking = |rest: &str| read(rest).unwrap().conversation.thinking;
    for rest in [
        r#","thinking_token_budget":7"#,
        r#","max_thinking_tokens":7"#,
        r#","reasoning":{"max_tokens":7}"#,
        r#","chat_template_kwargs":{"thinking_budget":7}"#,
        r#","thinking_token_budget":7,"reasoning":{"max_tokens":8,"effort":"none"}"#,
    ] {
        assert_eq!(thinking(rest).budget_tokens, Some(7), "{rest}");
    }
    for value in ["minimal", "low", "xhigh"] {
        assert_eq!(thinking(&format!(r#","reasoning_effort":"{value}""#)), Default::default(), "{value}");
    }
    assert_eq!(thinking(r#","reasoning_effort":"none""#).budget_tokens, Some(0), "no analysis");
    assert_eq!(thinking(r#","reserve_answer_tokens":0"#).answer_tokens, Some(0));
    assert_eq!(thinking(r#","reasoning_format":"parsed""#), Default::default());
}

#[test]
fn generate_takes_a_prompt_in_place_of_messages() {
    let read = |json: &str| ChatRequest::read(value(json), BodyRoute::Generate, &terms());
    let request = read(r#"{"prompt":"hi"}"#).unwrap();
    assert_eq!(request.conversation.messages, [Message::User { content: "hi".into() }]);
    assert!(request.streaming.on, "streamed unless it says otherwise");
    assert!(!read(r#"{"prompt":"hi","stream":false}"#).unwrap().streaming.on);
    assert!(read(&format!("{{{MESSAGES}}}")).is_ok());
    assert_eq!(blame(read(&format!(r#"{{{MESSAGES},"prompt":"hi"}}"#))).0, "prompt");
    assert_eq!(blame(read("{}")), ("messages".into(), "missing_required_parameter"));
}

/// Fields whose every wrong value must be refused under their own name, and what none of them
/// takes.
const FIELDS: &str = "model temperature top_p top_k min_p seed stop stop_token_ids max_tokens max_completion_tokens \
    repetition_penalty presence_penalty frequency_penalty logit_bias n ignore_eos min_tokens user metadata cache_salt \
    prompt_cache_key priority stream stream_options profile logprobs top_logprobs tools tool_choice parallel_tool_calls \
    response_format reasoning_effort modalities return_token_ids functions function_call messages";

/// Bodies that are nearly right: messages with roles and any content, and some fields with any
/// value; and any JSON at all.
fn bodies() -> impl Strategy<Value = Value> {
    let role = prop::sample::select(vec!["system", "developer", "user", "assistant", "tool", "function", "nobody"]);
    let content = prop_oneof![any::<String>().prop_map(Value::from), any_json()];
    let extra = prop::collection::hash_map("name|tool_calls|tool_call_id|reasoning|thinking|refusal", any_json(), 0..2);
    let message = (role, content, extra).prop_map(|(role, content, extra)| {
        let fields = [("role".to_owned(), role.into()), ("content".to_owned(), content)];
        Value::Object(extra.into_iter().chain(fields).collect())
    });
    let messages = prop::collection::vec(prop_oneof![4 => message, 1 => any_json()], 0..4).prop_map(Value::from);
    let number = prop_oneof![(-3_i64..300).prop_map(Value::from), (-3.0..3.0).prop_map(Value::from)];
    let value = prop_oneof![2 => number, 1 => any::<bool>().prop_map(Value::from), 1 => any_json()];
    let name = prop::sample::select(FIELDS.split_whitespace().collect::<Vec<_>>()).prop_map(str::to_owned);
    let fields = prop::collection::hash_map(name, value, 0..4);
    let near = (messages, fields)
        .prop_map(|(messages, fields)| Value::Object([("messages".to_owned(), messages)].into_iter().chain(fields).collect()));
    prop_oneof![8 => near, 1 => any_json()]
}

/// Panics unless a request that was taken asks for what can be done.
fn check_taken(request: &ChatRequest) {
    let (terms, generation) = (terms(), &request.generation);
    let sampling = &generation.sampling;
    assert!(terms.names.contains(&request.model) && !request.conversation.messages.is_empty());
    assert!(generation.choices_count > 0 && generation.stop_strings.iter().all(|stop| !stop.is_empty()));
    assert!(generation.max_tokens.is_none_or(|count| (1..=1_000).contains(&count) && sampling.min_tokens <= count));
    assert!((0.0..=2.0).contains(&sampling.temperature) && sampling.top_p >= 0.0 && sampling.top_p <= 1.0);
    assert!((0.0..=1.0).contains(&sampling.min_p) && sampling.repetition_penalty > 0.0);
    assert!(sampling.presence_penalty.abs() <= 2.0 && sampling.frequency_penalty.abs() <= 2.0);
    assert!(sampling.logprobs.is_none_or(|count| count <= TOP_LOGPROBS_MAX));
    let tokens = sampling.stop_tokens.iter().chain(sampling.logit_bias.iter().map(|(token, _)| token));
    assert!(tokens.copied().all(|token| (token.0 as usize) < terms.vocab_size));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_body_is_a_request_that_can_be_served_or_an_error_that_says_where(body in bodies(), generate in any::<bool>()) {
        let form = if generate { BodyRoute::Generate } else { BodyRoute::Chat };
        let is_object = body.is_object();
        match ChatRequest::read(value(&body.to_string()), form, &terms()) {
            Ok(request) => check_taken(&request),
            Err(error) => {
                let unknown_model = matches!(error, WireError::UnknownModel { .. });
                let param = error.param();
                let answer = ApiError::from(error);
                prop_assert_eq!(answer.status_code().as_u16(), if unknown_model { 404 } else { 400 });
                prop_assert!(param.is_some() == is_object, "{param:?} of {body}: {answer}");
                prop_assert!(answer.object().message.len() < 1_000 && !answer.object().message.is_empty());
            }
        }
    }
}

proptest! {
    #[test]
    fn any_value_of_any_field_is_taken_or_blamed(
        field in prop::sample::select(FIELDS.split_whitespace().collect::<Vec<_>>()),
        json in prop::sample::select(vec![
            "null", "\"\"", "-1", "0", "1", "2147483648", "9223372036854775808", "18446744073709551616", "1e308", "\"NaN\"",
            "true", "false", "[]", "{}", "[[]]", "[{}]", "[null]", "{\"a\":{}}", "0.5", "\"x\"", "[\"x\"]", "[-1]", "[1e308]",
        ]),
    ) {
        let rest = if field == "messages" { String::new() } else { format!("{MESSAGES},") };
        let request = ChatRequest::read(value(&format!("{{{rest}{field:?}:{json}}}")), BodyRoute::Chat, &terms());
        if let Err(error) = request {
            let param = error.param().unwrap_or_default();
            prop_assert!(param.starts_with(field), "{field} = {json} blames {param:?}: {error}");
        }
    }
}
