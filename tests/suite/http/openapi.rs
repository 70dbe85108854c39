//! The document of the API, and the page that shows it: what it says of an answer is so.

use serde_json::{Value, json};

use super::client::{get, post};
use super::world::{Plan, World, harmony};

/// Holds `value` against `schema`: its type, what it must have, and that each of its fields is told.
/// Few words of JSON schema, those that the document uses.
fn check(document: &Value, schema: &Value, value: &Value, path: &str) {
    let named =
        schema["$ref"].as_str().map(|name| &document["components"]["schemas"][name.rsplit('/').next().expect("a name")]);
    let schema = named.unwrap_or(schema);
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let types: Vec<&str> = match &schema["type"] {
        Value::String(only) => vec![only],
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        _ => return,
    };
    assert!(types.contains(&kind) || (kind == "integer" && types.contains(&"number")), "{path}: {value} is none of {types:?}");
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        assert!(value.get(name).is_some(), "{path} lacks {name}");
    }
    if let (Some(properties), Some(fields)) = (schema["properties"].as_object(), value.as_object()) {
        for (name, field) in fields {
            // Of what repeats a request the schema names a part.
            if let Some(schema) = properties.get(name) {
                check(document, schema, field, &format!("{path}.{name}"));
            }
        }
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        check(document, &schema["items"], item, &format!("{path}[{index}]"));
    }
}

/// The names of an answer's fields that its schema does not tell of.
fn untold(document: &Value, name: &str, answer: &Value) -> Vec<String> {
    let properties = &document["components"]["schemas"][name]["properties"];
    answer.as_object().expect("an object").keys().filter(|key| properties.get(key).is_none()).cloned().collect()
}

#[actix_rt::test]
async fn answers_are_as_the_document_says() {
    let world = World::open(Plan { answer: harmony("She greets.", "Hello."), ..Plan::default() }).await;
    let document = get(world.address, "/openapi.json").await.json();
    assert_eq!((&document["openapi"], &document["info"]["version"]), (&json!("3.1.0"), &json!(antiphon::VERSION)));
    let said = json!([{"role": "user", "content": "Hi"}]);
    for (path, body) in [
        ("/v1/chat/completions", json!({"messages": said, "logprobs": true, "n": 2})),
        ("/v1/completions", json!({"prompt": "a", "logprobs": 1, "return_token_ids": true})),
        ("/v1/responses", json!({"input": "Hi"})),
        ("/v1/messages", json!({"messages": said, "max_tokens": 50, "thinking": {"type": "adaptive"}})),
        ("/v1/messages/count_tokens", json!({"messages": said})),
        ("/v1/chat/completions/render", json!({"messages": said})),
        ("/apply-template", json!({"messages": said})),
        ("/tokenize", json!({"prompt": "a", "return_token_strs": true})),
        ("/detokenize", json!({"tokens": [65]})),
        ("/v1/conversations", json!({"items": [{"role": "user", "content": "Hi"}]})),
        ("/cancel/none", json!({})),
    ] {
        let reply = post(world.address, path, &body.to_string()).await;
        assert_eq!(reply.status, 200, "{path} {reply:?}");
        let told = if path == "/cancel/none" { "/cancel/{request_id}" } else { path };
        let content = &document["paths"][told]["post"]["responses"]["200"]["content"];
        let schema = &content["application/json"]["schema"];
        check(&document, schema, &reply.json(), path);
        let name = schema["$ref"].as_str().expect("a name").rsplit('/').next().expect("a name");
        if ["ChatCompletion", "Completion", "Message", "Conversation", "Tokens"].contains(&name) {
            assert_eq!(untold(&document, name, &reply.json()), [""; 0], "{path}");
        }
        // A refusal has the form that is told of its status.
        let refused = post(world.address, told, "[").await;
        let told = &document["paths"][told]["post"]["responses"][refused.status.to_string()];
        if path != "/cancel/none" {
            check(&document, &told["content"]["application/json"]["schema"], &refused.json(), path);
        }
    }
    for (path, told) in [("/v1/models", "/v1/models"), ("/v1/models/tiny", "/v1/models/{model}"), ("/version", "/version")] {
        let reply = get(world.address, path).await;
        let content = &document["paths"][told]["get"]["responses"]["200"]["content"];
        check(&document, &content["application/json"]["schema"], &reply.json(), path);
    }
    world.close().await;
}

#[actix_rt::test]
async fn a_schema_tells_what_this_server_takes() {
    let world = World::open(Plan::default()).await;
    let document = get(world.address, "/openapi.json").await.json();
    let chat = &document["components"]["schemas"]["ChatRequest"]["properties"];
    let most = &chat["max_tokens"]["maximum"];
    assert_eq!(*most, json!(super::world::CONTEXT_TOKENS_MAX), "the bound is this model's");
    for (field, bound) in [("max_tokens", most.as_i64()), ("n", chat["n"]["maximum"].as_i64()), ("top_logprobs", Some(20))] {
        let bound = bound.expect("a bound");
        let ask = async |value: i64| {
            let body = json!({"messages": [{"role": "user", "content": "Hi"}], "logprobs": true, field: value});
            post(world.address, "/v1/chat/completions", &body.to_string()).await
        };
        let beyond = ask(bound + 1).await;
        assert_eq!((beyond.status, &beyond.error()["param"]), (400, &json!(field)));
        let within = ask(bound).await;
        assert!(within.status == 200 || within.error()["param"] != field, "{field} {within:?}");
    }
    let page = get(world.address, "/docs").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.header("content-security-policy").is_some());
    assert_eq!(get(world.address, "/page/docs.js").await.status, 200);
    world.close().await;
}
