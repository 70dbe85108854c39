//! An answer that says the same again and again ends where that is asked for.

use serde_json::json;

use super::client::post;
use super::world::{Plan, World};

#[actix_rt::test]
async fn what_repeats_ends_the_answer() {
    let world = World::open(Plan { endless: true, ..Plan::default() }).await;
    let chat = r#""messages":[{"role":"user","content":"hi"}],"max_tokens":500"#;
    let text = r#""prompt":"hi","max_tokens":500"#;
    let limits = r#""repetition_detection":{"max_pattern_size":3,"min_count":7}"#;
    for (path, body) in [("/v1/completions", text), ("/v1/chat/completions", chat)] {
        let whole = post(world.address, path, &format!("{{{body},{limits}}}")).await.json();
        let choice = &whole["choices"][0];
        assert_eq!((&choice["finish_reason"], &choice["stop_reason"]), (&json!("repetition"), &json!("repetition_detected")));
        // Three tokens are the pattern.
        assert_eq!(whole["usage"]["completion_tokens"], 21, "{whole}");
        let chunks = post(world.address, path, &format!(r#"{{{body},{limits},"stream":true}}"#)).await.chunks();
        assert!(chunks.iter().any(|chunk| chunk["choices"][0]["finish_reason"] == "repetition"), "{chunks:?}");
        let unasked = post(world.address, path, &format!("{{{body}}}")).await.json();
        assert_eq!(unasked["choices"][0]["finish_reason"], "length");
    }
    let elsewhere = post(world.address, "/v1/responses", &format!(r#"{{"input":"hi",{limits}}}"#)).await;
    assert_eq!((elsewhere.status, &elsewhere.error()["param"]), (400, &json!("repetition_detection")));
    world.assert_empty().await;
    world.close().await;
}
