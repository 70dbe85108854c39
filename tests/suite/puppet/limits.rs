//! What bounds an answer besides its form: stop strings and where they act, words that are not said,
//! prompts that are cut, texts that are gone on with.

use serde_json::{Value, json};

use super::{ASKED, Puppet, Script};

const ANSWER: &str = "<|channel|>analysis<|message|>She says hello, so I greet her.<|end|><|start|>assistant<|channel|>final<|message|>\
                      Hello! Sure, my friend.<|return|>";
const PROMPT: &str = "Answer me: ";

fn texts(list: &Value) -> String {
    list.as_array().into_iter().flatten().map(|item| item["token"].as_str().or(item.as_str()).expect("a text")).collect()
}

#[test]
fn a_stop_string_is_kept_where_that_is_asked_for() {
    let puppet = Puppet::chat(ANSWER);
    for stop in ["Sure", "lo! S", "friend."] {
        let fields = json!({"stop": [stop], "include_stop_str_in_output": true, "logprobs": true});
        let said = puppet.ask(&fields);
        let content = said["content"].as_str().expect("a text");
        assert!(content.ends_with(stop) && content.matches(stop).count() == 1, "{said}");
        assert_eq!((&said["stop_reason"], &said["finish_reason"]), (&json!(stop), &json!("stop")));
        assert_eq!(texts(&said["logprobs"]), content, "{stop}");
    }
    let puppet = Puppet::saying(&Script::of("Hel¦lo!¦ How¦ can I¦ help"), PROMPT);
    let said = &puppet.complete(PROMPT, &json!({"stop": "w can", "include_stop_str_in_output": true, "logprobs": 0}))[0];
    assert_eq!((&said["text"], texts(&said["tokens"])), (&json!("Hello! How can"), "Hello! How can".to_owned()), "{said}");
}

#[test]
fn a_stop_string_ends_the_analysis_where_that_is_asked_for() {
    let puppet = Puppet::chat(ANSWER);
    let said = puppet.ask(&json!({"stop": ["greet"], "stop_in_reasoning": true}));
    assert_eq!((&said["reasoning"], said.get("content")), (&json!("She says hello, so I "), None), "{said}");
    assert_eq!((&said["finish_reason"], &said["stop_reason"]), (&json!("stop"), &json!("greet")));
    let kept = puppet.ask(&json!({"stop": ["so I g"], "stop_in_reasoning": true, "include_stop_str_in_output": true}));
    assert_eq!(kept["reasoning"], "She says hello, so I g", "{kept}");
    // What may become one and does not is given out in its place, and the answer is searched too.
    let whole = puppet.ask(&json!({"stop": ["her. Hello", "friend"], "stop_in_reasoning": true}));
    assert_eq!(
        (&whole["reasoning"], &whole["content"]),
        (&json!("She says hello, so I greet her."), &json!("Hello! Sure, my "))
    );
    let unasked = puppet.ask(&json!({"stop": ["greet"]}));
    assert_eq!(unasked["content"], "Hello! Sure, my friend.", "{unasked}");
}

#[test]
fn unwanted_words_are_not_said() {
    let puppet = Puppet::saying(&Script::of("once¦ Z¦ upon"), PROMPT);
    let plain = &puppet.complete(PROMPT, &json!({}))[0];
    assert_eq!(plain["text"], "once Z upon");
    // The tokens of the words are the vocabulary's: bytes.
    let ids = |text: &str| {
        let answer = puppet.server.ask("POST", "/tokenize", &json!({"prompt": text}).to_string());
        serde_json::from_str::<Value>(&answer).expect("JSON")["tokens"].clone()
    };
    assert_eq!(ids("Z").as_array().map(Vec::len), Some(1));
    let puppet = Puppet::saying(&Script::of("y¦x¦w¦z"), PROMPT);
    for (words, kept) in [(json!(["w"]), "yx"), (json!(["xw"]), "yx"), (json!(["yxw"]), "yx"), (json!(["xx", "wx"]), "yxwz")] {
        let said = &puppet.complete(PROMPT, &json!({"bad_words": words, "max_tokens": 4}))[0];
        let text = said["text"].as_str().expect("a text");
        assert!(text.starts_with(kept), "{words}: {said}");
        assert!(words.as_array().expect("a list").iter().all(|word| !text.contains(word.as_str().expect("a word"))), "{said}");
    }
    // In a chat the headers are harmony's, whatever they are made of.
    let puppet = Puppet::chat("<|channel|>final<|message|>y¦x¦w<|return|>");
    let said = puppet.ask(&json!({"bad_words": ["w", "final", "f"], "max_tokens": 6}));
    let content = said["content"].as_str().unwrap_or_else(|| panic!("{said}"));
    assert!(content.starts_with("yx") && !content.contains('w'), "{said}");
}

#[test]
fn only_allowed_tokens_are_drawn() {
    let puppet = Puppet::saying(&Script::of("onc¦e up¦on a¦ time"), PROMPT);
    let whole = &puppet.complete(PROMPT, &json!({"return_token_ids": true}))[0];
    let ids = whole["token_ids"].as_array().expect("ids").clone();
    let allowed = [ids[0].clone(), ids[2].clone()];
    let said = &puppet.complete(PROMPT, &json!({"return_token_ids": true, "allowed_token_ids": allowed}))[0];
    let drawn = said["token_ids"].as_array().expect("ids");
    assert!(drawn.iter().all(|id| allowed.contains(id)) && drawn[0] == ids[0], "{said}");
    assert_eq!(said["finish_reason"], "length", "no end is allowed");
}

#[test]
fn a_prompt_is_cut_to_its_end_or_its_beginning() {
    let puppet = Puppet::saying(&Script::of("onc¦e up¦on a¦ time"), PROMPT);
    let ask = |prompt: &Value, fields: &Value| {
        let mut body = json!({"prompt": prompt, "max_tokens": 4, "temperature": 0, "echo": true, "return_token_ids": true});
        super::extend(&mut body, fields);
        let answer = puppet.server.ask("POST", "/v1/completions", &body.to_string());
        serde_json::from_str::<Value>(&answer).expect("JSON")
    };
    let long = format!("{}{PROMPT}", "abc ".repeat(20));
    let cut = json!({"truncate_prompt_tokens": PROMPT.len()});
    let answer = ask(&json!(long), &cut);
    let choice = &answer["choices"][0];
    assert_eq!(choice["text"], format!("{PROMPT}once upon a time"), "as if the prompt were its end: {answer}");
    assert_eq!(answer["usage"]["prompt_tokens"], PROMPT.len());
    let metadata = &answer["metadata"];
    assert_eq!((&metadata["tokens_before"], &metadata["tokens_after"]), (&json!(long.len()), &json!(PROMPT.len())));
    assert_eq!(metadata["truncated"], true);
    let first = ask(&json!(long), &json!({"truncate_prompt_tokens": 5, "truncation_side": "right"}));
    assert!(first["choices"][0]["text"].as_str().is_some_and(|text| text.starts_with("abc a")), "{first}");
    assert_eq!(ask(&json!(PROMPT), &json!({"truncate_prompt_tokens": 4_000}))["metadata"]["truncated"], false);
    // Longer than the context, as text and as ids: as much as there is room for.
    let id = choice["prompt_token_ids"][0].clone();
    for prompt in [json!("abc ".repeat(3_000) + PROMPT), json!(vec![id; 9_000])] {
        let answer = ask(&prompt, &json!({"truncate_prompt_tokens": -1}));
        let used = answer["usage"]["total_tokens"].as_u64().expect("a number");
        assert!(used > 1_000 && answer["metadata"]["truncated"] == true, "{}", answer["usage"]);
        let body = json!({"prompt": prompt, "max_tokens": 4});
        assert_eq!(puppet.refusal("/v1/completions", &body)["param"], "prompt");
    }
}

#[test]
fn a_final_message_is_gone_on_with() {
    let messages = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "reasoning": "Short.", "content": ASKED}]);
    let puppet = Puppet::saying(&Script::of(" Done.<|return|>"), &format!("<|message|>{ASKED}"));
    for more in [json!({}), json!({"tools": [super::tool("f")]})] {
        let mut fields = json!({"messages": messages, "continue_final_message": true, "return_token_ids": true});
        super::extend(&mut fields, &more);
        let said = puppet.ask(&fields);
        assert_eq!((&said["content"], &said["finish_reason"]), (&json!(" Done."), &json!("stop")), "{said}");
        assert_eq!(said["token_ids"].as_array().map(Vec::len), Some(puppet.tokens_count), "no header: {said}");
    }
    let strict = json!({"type": "function", "function": {"name": "f", "strict": true}});
    let said = puppet.ask(&json!({"messages": messages, "continue_final_message": true, "tools": [strict]}));
    assert_eq!(said["content"], " Done.", "{said}");
    let body = json!({"messages": messages, "continue_final_message": true});
    let prompt = puppet.server.ask("POST", "/apply-template", &body.to_string());
    let end = format!("<|channel|>analysis<|message|>Short.<|end|><|start|>assistant<|channel|>final<|message|>{ASKED}");
    let prompt: Value = serde_json::from_str(&prompt).expect("JSON");
    assert!(prompt["prompt"].as_str().is_some_and(|prompt| prompt.ends_with(&end)), "{prompt}");
}

#[test]
fn an_answer_begins_with_its_header_where_the_prompt_has_none() {
    let script = "<|start|>assistant<|channel|>final<|message|>Done.<|return|>";
    let puppet = Puppet::saying(&Script::of(script), &format!("{ASKED}<|end|>"));
    let said = puppet.ask(&json!({"add_generation_prompt": false, "return_token_ids": true}));
    assert_eq!((&said["content"], &said["finish_reason"]), (&json!("Done."), &json!("stop")), "{said}");
    assert_eq!(said["token_ids"].as_array().map(Vec::len), Some(puppet.tokens_count));
    let formed = puppet.ask(&json!({"add_generation_prompt": false, "guided_choice": ["yes", "no"]}));
    assert!(["yes", "no"].iter().any(|choice| formed["content"] == *choice), "{formed}");
}
