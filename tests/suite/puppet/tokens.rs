//! A route in tokens: ids in and out, and lists that are one entry a token.

use serde_json::{Value, json};

use super::{ASKED, Puppet, Script, tool};

const PROMPT: &str = "Answer me: ";

/// `token_id:N` for each of `ids`.
fn named(ids: &Value) -> Value {
    ids.as_array().expect("ids").iter().map(|id| json!(format!("token_id:{id}"))).collect()
}

fn answer(puppet: &Puppet, path: &str, body: &Value) -> Value {
    serde_json::from_str(&puppet.server.ask("POST", path, &body.to_string())).expect("JSON")
}

#[test]
fn a_completion_lists_a_log_probability_for_each_token_whatever_it_is() {
    let script = "<|channel|>final<|message|>Hi there.<|end|>Bye 👋.<|return|>";
    let puppet = Puppet::saying(&Script::of(script), PROMPT);
    let fields = json!({"logprobs": 1, "return_token_ids": true, "return_tokens_as_token_ids": true});
    let said = &puppet.complete(PROMPT, &fields)[0];
    assert_eq!(said["token_ids"].as_array().map(Vec::len), Some(puppet.tokens_count), "the control tokens too: {said}");
    assert_eq!(said["tokens"], named(&said["token_ids"]));
    for (top, name) in said["top_logprobs"].as_array().expect("a list").iter().zip(said["tokens"].as_array().expect("a list")) {
        assert!(top.get(name.as_str().expect("a name")).is_some(), "{top} has {name}");
    }
    // By their texts they are as many, and those of control tokens are their spelling.
    let by_text = &puppet.complete(PROMPT, &json!({"logprobs": 1}))[0];
    assert_eq!(by_text["tokens"].as_array().map(Vec::len), Some(puppet.tokens_count));
    assert_eq!(by_text["tokens"][0], "<|channel|>");
    assert_eq!(by_text["text_offset"], said["text_offset"]);
    // A stop string cuts the text, and the lists stand beside the ids all the same.
    let cut = &puppet.complete(PROMPT, &json!({"logprobs": 1, "return_token_ids": true, "stop": ["there"]}))[0];
    assert_eq!((&cut["text"], &cut["stop_reason"]), (&json!("finalHi "), &json!("there")));
    let lengths = ["token_ids", "tokens", "text_offset"].map(|list| cut[list].as_array().map(Vec::len));
    assert!(lengths[0] > Some(3) && lengths.iter().all(|length| *length == lengths[0]), "{cut}");
}

#[test]
fn ids_are_taken_for_a_prompt_and_mean_the_same() {
    let puppet = Puppet::saying(&Script::of("onc¦e up¦on a¦ time"), PROMPT);
    let ask = |prompt: Value| {
        let body = json!({"prompt": prompt, "max_tokens": 4, "temperature": 0, "return_token_ids": true});
        answer(&puppet, "/v1/completions", &body)["choices"][0].clone()
    };
    let of_text = ask(json!(PROMPT));
    assert_eq!(of_text["text"], "once upon a time");
    let ids = &of_text["prompt_token_ids"];
    assert_eq!(ids.as_array().map(Vec::len), Some(PROMPT.len()), "a byte each: {ids}");
    assert_eq!(ask(ids.clone()), of_text);
}

#[test]
fn a_chat_s_log_probabilities_stand_beside_its_ids() {
    let puppet = Puppet::chat(
        "<|channel|>analysis<|message|>Two places.<|end|><|start|>assistant<|channel|>commentary<|message|>I will look.<|end|>\
         <|start|>assistant<|channel|>commentary to=functions.get_time <|constrain|>json<|message|>{\"city\": \"Bergen\"}<|call|>",
    );
    for more in [json!({}), json!({"include_reasoning": false}), json!({"stop": ["will"]}), json!({"max_tokens": 9})] {
        let mut fields = json!({"tools": [tool("get_time")], "logprobs": true, "top_logprobs": 1, "return_token_ids": true,
            "return_tokens_as_token_ids": true, "reserve_answer_tokens": 0});
        super::extend(&mut fields, &more);
        let said = puppet.ask(&fields);
        let names: Value =
            said["logprobs"].as_array().unwrap_or_else(|| panic!("{said}")).iter().map(|item| item["token"].clone()).collect();
        assert_eq!(names, named(&said["token_ids"]), "{more}");
        assert!(said["logprobs"].as_array().is_some_and(|list| list.iter().all(|item| item["top_logprobs"].is_array())));
    }
    // Without ids they are the answer's, as OpenAI has it, and may be named by id too.
    let said = puppet.ask(&json!({"tools": [tool("get_time")], "logprobs": true, "return_tokens_as_token_ids": true}));
    let text: Vec<u8> = said["logprobs"].as_array().expect("a list").iter().flat_map(bytes).collect();
    assert_eq!(String::from_utf8(text).expect("UTF-8"), "I will look.");
    assert!(said["logprobs"][0]["token"].as_str().is_some_and(|name| name.starts_with("token_id:")), "{said}");
}

fn bytes(item: &Value) -> Vec<u8> {
    serde_json::from_value(item["bytes"].clone()).expect("bytes")
}

#[test]
fn the_prompt_s_log_probabilities_are_those_of_an_echo() {
    let puppet = Puppet::saying(&Script::of("onc¦e up¦on a¦ time"), PROMPT);
    let body = json!({"prompt": PROMPT, "max_tokens": 2, "temperature": 0, "return_token_ids": true, "echo": true,
        "logprobs": 3, "prompt_logprobs": 1});
    let choice = answer(&puppet, "/v1/completions", &body)["choices"][0].clone();
    let (ranked, ids) = (&choice["prompt_logprobs"], &choice["prompt_token_ids"]);
    assert_eq!((ranked.as_array().map(Vec::len), &ranked[0]), (ids.as_array().map(Vec::len), &Value::Null));
    for at in 1..PROMPT.len() {
        let place = ranked[at].as_object().expect("tokens by their ids");
        let own = &place[&ids[at].to_string()];
        let echoed = choice["logprobs"]["token_logprobs"][at].as_f64().expect("a number");
        assert!(own["logprob"].as_f64().is_some_and(|own| own == echoed), "{own} {echoed}");
        assert_eq!(own["decoded_token"], PROMPT[at..=at]);
        let first = place.values().find(|token| token["rank"] == 1).expect("the likeliest");
        assert!(place.len() <= 2 && first["logprob"].as_f64() >= own["logprob"].as_f64(), "{place:?}");
        assert!(
            choice["logprobs"]["top_logprobs"][at].as_object().is_some_and(|top| top.len() >= 2),
            "its own number: {choice}"
        );
    }
    // A chat has them beside its choices, once.
    let body = json!({"messages": [{"role": "user", "content": ASKED}], "max_tokens": 2, "n": 2, "prompt_logprobs": 0,
        "return_token_ids": true});
    let chat = answer(&puppet, "/v1/chat/completions", &body);
    let (ranked, ids) =
        (chat["prompt_logprobs"].as_array().expect("a list"), chat["prompt_token_ids"].as_array().expect("ids"));
    assert!(ranked.len() == ids.len() && ranked[0].is_null(), "{chat}");
    assert!(ranked.iter().zip(ids).skip(1).all(|(place, id)| place[id.to_string()]["rank"].is_u64()), "{chat}");
    assert_eq!(chat["choices"][0]["logprobs"], Value::Null, "those of the answer were not asked for");
    let mut streamed = body;
    streamed["stream"] = json!(true);
    assert_eq!(puppet.refusal("/v1/chat/completions", &streamed)["param"], "prompt_logprobs");
}

/// What /tokenize counts is what a chat becomes, with whatever the model is told.
#[test]
fn a_chat_s_tokens_are_counted_with_its_schema() {
    let puppet = Puppet::chat("<|channel|>final<|message|>Hi.<|return|>");
    let schema = json!({"type": "json_schema", "json_schema": {"name": "time", "schema": {"type": "object"}}});
    let mut lengths = Vec::new();
    for fields in [
        json!({}),
        json!({"response_format": {"type": "json_object"}}),
        json!({"response_format": schema}),
        json!({"functions": [{"name": "f"}]}),
        json!({"tools": [tool("f")], "response_format": schema, "tool_choice": "required", "reasoning_effort": "high"}),
    ] {
        let mut body = json!({"messages": [{"role": "user", "content": ASKED}]});
        super::extend(&mut body, &fields);
        let counted = answer(&puppet, "/tokenize", &body);
        let rendered = answer(&puppet, "/v1/chat/completions/render", &body);
        assert_eq!(counted["tokens"], rendered["token_ids"], "{fields}");
        lengths.push(counted["count"].as_u64());
    }
    assert!(lengths[0] == lengths[1] && lengths[1] < lengths[2] && lengths[0] < lengths[3], "{lengths:?}");
}
