//! Answers that must have a form, on the embedded model: whatever it would say.

use serde_json::{Value, json};

use super::{Server, joined};

/// What the model would answer in prose.
const QUESTION: &str = "Write Python code that prints \"Jay\".";

fn ask(server: &Server, fields: &Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 400, "temperature": 0});
    body.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
    let whole: Value = serde_json::from_str(&server.ask("POST", "/v1/chat/completions", &body.to_string())).expect("JSON");
    body["stream"] = json!(true);
    let stream = server.ask("POST", "/v1/chat/completions", &body.to_string());
    let content = whole["choices"][0]["message"]["content"].as_str().unwrap_or_default();
    assert_eq!(joined(&stream, "/choices/0/delta/content"), content, "the stream joined is the answer in one piece");
    whole
}

fn content_of(answer: &Value) -> Value {
    let content = answer["choices"][0]["message"]["content"].as_str().expect("content");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
    serde_json::from_str(content).unwrap_or_else(|error| panic!("{content:?}: {error}"))
}

fn of_schema(schema: &Value) -> Value {
    json!({"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "strict": true, "schema": schema}}})
}

fn object(properties: &Value, required: &[&str]) -> Value {
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

#[test]
fn a_chat_answers_in_the_form_that_was_asked_for() {
    let server = Server::start();
    assert!(content_of(&ask(&server, &json!({"response_format": {"type": "json_object"}}))).is_object());
    let colour = json!({"enum": ["red", "green", "blue"]});
    let step = object(&json!({"say": {"type": "string", "maxLength": 20}, "good": {"type": "boolean"}}), &["say", "good"]);
    let schema = object(
        &json!({"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 99}, "colour": colour,
            "steps": {"type": "array", "items": step, "minItems": 1, "maxItems": 3}}),
        &["name", "age", "colour", "steps"],
    );
    for fields in [json!({}), json!({"temperature": 1, "seed": 7}), json!({"temperature": 1.5, "seed": 8, "top_p": 0.9})] {
        let mut asked = of_schema(&schema);
        asked.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        let value = content_of(&ask(&server, &asked));
        let keys: Vec<&String> = value.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["name", "age", "colour", "steps"], "in the schema's order: {value}");
        assert!(value["age"].as_u64().is_some_and(|age| age <= 99), "{value}");
        assert!(["red", "green", "blue"].iter().any(|colour| value["colour"] == *colour), "{value}");
        let steps = value["steps"].as_array().expect("an array");
        assert!((1..=3).contains(&steps.len()), "{value}");
        assert!(steps.iter().all(|step| step["say"].is_string() && step["good"].is_boolean()), "{value}");
    }
    // Log-probabilities are those of the model, which wanted to say something else.
    let answer = ask(&server, &json!({"response_format": {"type": "json_object"}, "logprobs": true, "top_logprobs": 1}));
    let first = &answer["choices"][0]["logprobs"]["content"][0];
    assert_eq!(first["token"].as_str().map(|token| token.starts_with('{')), Some(true), "{first}");
    assert!(first["logprob"].as_f64() <= first["top_logprobs"][0]["logprob"].as_f64(), "{first}");
}

/// A request with a form changes no answer of those without, and gets the same answer beside
/// them.
/// Each ended the process, or held up every other request: the compiler recurses, and took as long as it
/// liked. They are refused, or taken, and a request without a form is answered meanwhile.
#[test]
fn a_form_that_is_made_to_hurt_hurts_its_request_alone() {
    let server = Server::start();
    let plain = json!({"prompt": "Count from 1 to 5.", "max_tokens": 8, "temperature": 0}).to_string();
    let free = |server: &Server| {
        let answer: Value = serde_json::from_str(&server.ask("POST", "/v1/completions", &plain)).expect("JSON");
        answer["choices"][0]["text"].as_str().expect("text").to_owned()
    };
    let expected = free(&server);
    let chain: serde_json::Map<String, Value> = (0..900)
        .map(|at| (format!("a{at}"), json!({"anyOf": [{"$ref": format!("#/$defs/a{}", at + 1)}, {"type": "null"}]})))
        .chain([("a900".to_owned(), json!({"type": "null"}))])
        .collect();
    let flat: serde_json::Map<String, Value> = (0..8_000).map(|at| (format!("p{at}"), json!({}))).collect();
    let crossed: Vec<Value> = (1..40).map(|at| json!({"$ref": format!("#/$defs/x{at}")})).collect();
    let patterns: serde_json::Map<String, Value> =
        (1..40).map(|at| (format!("x{at}"), json!({"type": "string", "pattern": format!(".*[a-f]{{{at}}}.*{at}")}))).collect();
    let rules: String = (0..2_000).map(|at| format!("r{at}: \"a\" r{}\n", at + 1)).collect();
    let mut forms = vec![
        json!({"guided_json": {"$defs": chain, "$ref": "#/$defs/a0"}}),
        json!({"guided_json": {"type": "object", "properties": flat}}),
        json!({"guided_grammar": format!("start: r0\n{rules}r2000: \"b\"\n")}),
        json!({"guided_grammar": "start: s\ns: s s s | s s | /[a-z ]/ | "}),
    ];
    // As the last one: what it takes, it takes from those behind it.
    forms.push(json!({"guided_json": {"allOf": crossed, "$defs": patterns}}));
    for form in forms {
        let mut body = json!({"prompt": "x", "max_tokens": 12});
        body.as_object_mut().expect("an object").extend(form.as_object().expect("an object").clone());
        let (status, answer) = server.answer("POST", "/v1/completions", &body.to_string());
        assert!([200, 400, 503].contains(&status), "{status}: {answer}");
        assert_eq!(free(&server), expected);
    }
}

#[test]
fn answers_in_a_form_and_free_ones_do_not_change_each_other() {
    let server = Server::start();
    let free = json!({"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 60, "temperature": 1, "seed": 3});
    let mut held = free.clone();
    let schema =
        object(&json!({"items": {"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 6}}), &["items"]);
    held.as_object_mut().expect("an object").extend(of_schema(&schema).as_object().expect("an object").clone());
    held["max_tokens"] = json!(300);
    let say = |body: &Value| {
        let answer: Value = serde_json::from_str(&server.ask("POST", "/v1/chat/completions", &body.to_string())).expect("JSON");
        answer["choices"].clone()
    };
    let alone = [say(&free), say(&held)];
    let together: Vec<(usize, Value)> = std::thread::scope(|scope| {
        let (bodies, say) = ([&free, &held], &say);
        let ask = |at: usize| scope.spawn(move || (at, say(bodies[at])));
        let asked: Vec<_> = (0..8).map(|at| ask(at % 2)).collect();
        asked.into_iter().map(|asked| asked.join().expect("an answer")).collect()
    });
    assert!(content_of(&json!({"choices": alone[1]}))["items"].as_array().is_some_and(|items| items.len() >= 3));
    for (at, choices) in together {
        assert_eq!(choices, alone[at]);
    }
}

#[test]
fn what_cannot_be_kept_is_refused_with_its_path() {
    let server = Server::start();
    let items = json!({"type": "object", "properties": {"a": {"type": "array", "maxItems": 4_294_967_296_u64}}});
    let deep = (0..70).fold(json!({}), |inner, _| json!({"items": inner}));
    let at = "response_format.json_schema.schema";
    for (schema, param) in [
        (items, format!("{at}.properties.a.maxItems")),
        (json!({"type": "strong"}), format!("{at}.type")),
        (json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}), format!("{at}.$ref")),
        (json!({"pattern": "("}), at.to_owned()),
        (json!({"allOf": [{"not": {}}]}), format!("{at}.allOf[0].not")),
        (json!(3), at.to_owned()),
        (deep, format!("{at}{}", ".items".repeat(65))),
    ] {
        let mut body = of_schema(&schema);
        body["messages"] = json!([{"role": "user", "content": "hi"}]);
        let (status, answer) = server.answer("POST", "/v1/chat/completions", &body.to_string());
        let error: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!(status, 400, "{schema}: {answer}");
        let said = error["error"]["param"].as_str().expect("a path");
        assert!(said == param || said.ends_with('…') && param.starts_with(said.trim_end_matches('…')), "{said} for {param}");
        assert_eq!(error["error"]["code"], Value::Null, "{answer}");
    }
    let parameters = json!({"type": "object", "properties": {"a": {"not": {}}}});
    let ask = |strict: bool, rest: Value| {
        let tool = json!({"type": "function", "function": {"name": "f", "strict": strict, "parameters": parameters}});
        let mut body =
            json!({"messages": [{"role": "user", "content": "hi"}], "tools": [tool], "max_tokens": 400, "temperature": 0});
        body.as_object_mut().expect("an object").extend(rest.as_object().expect("an object").clone());
        let (status, answer) = server.answer("POST", "/v1/chat/completions", &body.to_string());
        (status, serde_json::from_str::<Value>(&answer).expect("JSON"))
    };
    let (status, error) = ask(true, json!({}));
    assert_eq!((status, &error["error"]["param"]), (400, &json!("tools[0].function.parameters.properties.a.not")), "{error}");
    // What is not strict is taken: a call that is required has an object.
    assert_eq!(ask(false, json!({})).0, 200);
    let (status, answer) = ask(false, json!({"tool_choice": "required"}));
    let call = &answer["choices"][0]["message"]["tool_calls"][0]["function"];
    let arguments = call["arguments"].as_str().expect("arguments");
    assert_eq!(status, 200);
    let is_cut = answer["choices"][0]["finish_reason"] == "length";
    assert!(arguments.starts_with('{') && (is_cut || serde_json::from_str::<Value>(arguments).is_ok()), "{answer}");
    for (rest, param) in [
        (json!({"tool_choice": {"type": "function", "function": {"name": "g"}}}), "tool_choice.function.name"),
        (json!({"guided_json": {}, "guided_regex": "a", "guided_choice": ["b"]}), "guided_choice"),
        (json!({"guided_regex": "("}), "guided_regex"),
        (json!({"grammar": "root ::= missing"}), "grammar"),
        (json!({"guided_regex": "a", "ignore_eos": true}), "guided_regex"),
    ] {
        let (status, error) = ask(false, rest);
        assert_eq!((status, &error["error"]["param"]), (400, &json!(param)), "{error}");
    }
    assert_eq!(server.stats()["requests"]["active"].as_u64().unwrap_or(0), 0);
}
