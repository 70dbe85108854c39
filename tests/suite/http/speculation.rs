//! Answers that repeat themselves: the same with drafts and without, streamed and whole, and what is
//! told of the drafts.

use serde_json::{Value, json};

use super::client::{get, post};
use super::observe::total;
use super::world::{Plan, World, harmony};

const PATH: &str = "/v1/chat/completions";
const VERSE: &str = "The boats went out at six, and the gulls went out with them. ";

fn plan(draft_budget_tokens: usize) -> Plan {
    Plan { answer: harmony("It is a song.", &VERSE.repeat(8)), draft_budget_tokens, ..Plan::default() }
}

/// The message and the usage of a whole answer, and the text of a streamed one.
async fn answers(world: &World, more: &Value) -> (Value, Value, String) {
    let mut body = json!({"messages": [{"role": "user", "content": "Sing."}], "logprobs": true, "top_logprobs": 2});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let whole = post(world.address, PATH, &body.to_string()).await.json();
    body["stream"] = json!(true);
    let chunks = post(world.address, PATH, &body.to_string()).await.chunks();
    let text = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    (whole["choices"][0].clone(), whole["usage"]["completion_tokens"].clone(), text)
}

#[actix_rt::test]
async fn what_repeats_is_the_same_in_fewer_steps_and_is_counted() {
    let (plain, fast) = (World::open(plan(0)).await, World::open(plan(16)).await);
    for more in [json!({"temperature": 0}), json!({"temperature": 1, "seed": 5}), json!({"temperature": 0, "max_tokens": 40})] {
        let (expected, got) = (answers(&plain, &more).await, answers(&fast, &more).await);
        assert_eq!(expected, got, "{more}");
        assert!(got.2.starts_with(VERSE) || VERSE.starts_with(&got.2), "{}", got.2);
    }
    // A penalty follows from every token before, so nothing is guessed.
    let drafts = || fast.service.snapshot().scheduler.drafts;
    let before = drafts();
    let penalty = json!({"presence_penalty": 0.5});
    assert_eq!(answers(&plain, &penalty).await, answers(&fast, &penalty).await);
    assert_eq!(drafts(), before);
    for world in [&plain, &fast] {
        world.assert_empty().await;
    }
    let steps = |world: &World| world.service.snapshot().scheduler.steps_total;
    assert!(steps(&fast) * 3 < steps(&plain) * 2, "{} steps with drafts, {} without", steps(&fast), steps(&plain));

    let stats = get(fast.address, "/stats").await.json();
    let count = |name: &str| stats["speculation"][name].as_u64().expect("a count");
    assert!(count("accepted_tokens") > 100 && count("draft_tokens") > count("accepted_tokens"), "{stats}");
    let rate = stats["speculation"]["acceptance_rate"].as_f64().expect("a share");
    assert!((rate - count("accepted_tokens") as f64 / count("draft_tokens") as f64).abs() < 1e-9);
    let text = get(fast.address, "/metrics").await.body;
    for (name, value) in [
        ("vllm:spec_decode_num_drafts_total", count("drafts")),
        ("vllm:spec_decode_num_draft_tokens_total", count("draft_tokens")),
        ("vllm:spec_decode_num_accepted_tokens_total", count("accepted_tokens")),
    ] {
        assert_eq!(total(&text, name), value as f64, "{name}");
    }
    let trace = get(fast.address, "/debug/timeline").await.json();
    let events = trace["traceEvents"].as_array().expect("events");
    for name in ["step", "building"] {
        for key in ["draft_tokens", "accepted_draft_tokens"] {
            let all = events.iter().filter(|event| event["name"] == name);
            let sum: u64 = all.filter_map(|event| event["args"][key].as_u64()).sum();
            assert_eq!(sum, count(&key.replace("accepted_draft", "accepted")), "{key} of each {name}");
        }
    }
    plain.close().await;
    fast.close().await;
}
