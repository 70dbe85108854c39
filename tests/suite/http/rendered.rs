//! What a request becomes: the ids that are computed, and their text.

use serde_json::json;

use super::client::post;
use super::world::{CONTEXT_TOKENS_MAX, Plan, World};

#[actix_rt::test]
async fn a_request_is_rendered_as_it_would_be_computed() {
    let world = World::open(Plan { answer: "ok".to_owned(), ..Plan::default() }).await;
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}});
    let body = json!({
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hé <|end|> 안녕"}], "tools": [tool],
        "stream": true, "max_tokens": 7, "seed": 3, "temperature": 0.5, "stop": ["x"], "cache_salt": "a", "priority": 2,
    });
    let rendered = post(world.address, "/v1/chat/completions/render", &body.to_string()).await;
    assert_eq!((rendered.status, rendered.header("content-type")), (200, Some("application/json")));
    let rendered = rendered.json();
    let mut asked = body.clone();
    asked["stream"] = json!(false);
    asked["return_token_ids"] = json!(true);
    let answered = post(world.address, "/v1/chat/completions", &asked.to_string()).await.json();
    assert_eq!(rendered["token_ids"], answered["prompt_token_ids"], "the ids are those that are computed");
    let prompt = rendered["prompt"].as_str().unwrap();
    assert!(prompt.starts_with("<|start|>system<|message|>") && prompt.ends_with("<|end|><|start|>assistant"), "{prompt}");
    assert!(prompt.contains("user<|message|>Hé <|end|> 안녕<|end|>"), "{prompt}");
    let params = &rendered["sampling_params"];
    assert_eq!(
        (&params["max_tokens"], &params["seed"], &params["temperature"], &params["stop"]),
        (&json!(7), &json!(3), &json!(0.5), &json!(["x"]))
    );
    assert_eq!((&rendered["stream"], &rendered["cache_salt"], &rendered["priority"]), (&json!(true), &json!("a"), &json!(2)));
    assert!(rendered["request_id"].as_str().is_some_and(|id| id.starts_with("chatcmpl-")), "{rendered}");
    let template = post(world.address, "/apply-template", &body.to_string()).await.json();
    assert_eq!(template, json!({"prompt": prompt}));

    let message = json!({"messages": [{"role": "user", "content": "Hé <|end|> 안녕"}], "system": "Be brief.", "max_tokens": 100_000,
        "tools": [{"name": "f", "input_schema": {"type": "object"}}]});
    let same = post(world.address, "/v1/messages/render", &message.to_string()).await.json();
    assert_eq!(same["token_ids"], rendered["token_ids"], "whichever API says it");
    let room = CONTEXT_TOKENS_MAX - same["token_ids"].as_array().unwrap().len();
    assert_eq!(same["sampling_params"]["max_tokens"], json!(room));
    for path in ["/v1/chat/completions/render", "/apply-template"] {
        let refused = post(world.address, path, r#"{"messages":[{"role":"user"}]}"#).await;
        assert_eq!((refused.status, &refused.error()["param"]), (400, &json!("messages[0].content")), "{path}");
    }
    world.assert_empty().await;
    world.close().await;
}
