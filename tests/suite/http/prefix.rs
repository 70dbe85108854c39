//! What a client is told of the prefix cache, and an operator.

use serde_json::{Value, json};

use super::access::ring;
use super::client::{get, post, post_with};
use super::observe::total;
use super::world::{Plan, World};

/// A conversation of about a hundred tokens that ends with this question.
fn chat(question: &str, salt: Option<&str>) -> Value {
    let story = "The lighthouse stood on a rock that no boat could reach in winter. ".repeat(6);
    let mut body = json!({"model": "tiny", "messages": [{"role": "user", "content": format!("{story}{question}")}]});
    if let Some(salt) = salt {
        body["cache_salt"] = json!(salt);
    }
    body
}

async fn asked(world: &World, path: &str, body: &Value) -> Value {
    let reply = post(world.address, path, &body.to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json()
}

/// Tokens that were found computed, or why none were.
fn details(usage: &Value) -> (u64, Option<&str>) {
    let details = &usage["prompt_tokens_details"];
    (details["cached_tokens"].as_u64().expect("a count"), details["cache_miss"].as_str())
}

#[actix_rt::test]
async fn answers_say_what_of_their_prompt_was_computed_before() {
    const PATH: &str = "/v1/chat/completions";
    let world = World::open(Plan::default()).await;
    let first = asked(&world, PATH, &chat("Who lived there?", None)).await;
    assert_eq!(details(&first["usage"]), (0, Some("not_cached")));
    let second = asked(&world, PATH, &chat("Who lived there?", None)).await;
    let tokens = second["usage"]["prompt_tokens"].as_u64().expect("a count");
    assert_eq!(details(&second["usage"]), ((tokens - 1) / 16 * 16, None));
    assert_eq!(first["choices"][0]["message"], second["choices"][0]["message"]);

    // A stream says the same, another question finds what is before it, and another salt nothing.
    let mut stream = chat("What of the rock?", None);
    stream["stream"] = json!(true);
    stream["stream_options"] = json!({"include_usage": true});
    let chunks = post(world.address, PATH, &stream.to_string()).await.chunks();
    let usage = chunks.iter().map(|chunk| &chunk["usage"]).rfind(|usage| usage.is_object()).expect("the usage");
    let (found, miss) = details(usage);
    assert!(found >= 64 && found < tokens && miss.is_none(), "{usage}");
    let other = asked(&world, PATH, &chat("Who lived there?", Some("theirs"))).await;
    assert_eq!(details(&other["usage"]), (0, Some("not_cached")));

    // Text completions: too short, all of its log-probabilities asked for, and two prompts at once.
    let short = asked(&world, "/v1/completions", &json!({"prompt": "One", "max_tokens": 1})).await;
    assert_eq!(details(&short["usage"]), (0, Some("short")));
    let story = chat("", None)["messages"][0]["content"].clone();
    let echo = json!({"prompt": story, "max_tokens": 1, "echo": true, "logprobs": 1});
    assert_eq!(details(&asked(&world, "/v1/completions", &echo).await["usage"]), (0, Some("prompt_logprobs")));
    let both = json!({"prompt": [story, story], "max_tokens": 1, "n": 2});
    let both = asked(&world, "/v1/completions", &both).await;
    let tokens = both["usage"]["prompt_tokens"].as_u64().expect("a count");
    assert_eq!(details(&both["usage"]), ((tokens / 2 - 1) / 16 * 16 * 2, None), "of each prompt once");

    world.assert_empty().await;
    let stats = get(world.address, "/stats").await.json();
    let count = |name: &str| stats["prefix_cache"][name].as_u64().expect("a count");
    assert!(stats["kv"]["cached"].as_u64() > Some(0) && count("hits") >= 4, "{stats}");
    let text = get(world.address, "/metrics").await.body;
    for (name, value) in [
        ("vllm:prefix_cache_queries_total", count("queried_tokens")),
        ("vllm:prefix_cache_hits_total", count("hit_tokens")),
        ("llm_prefix_cache_hit_total", count("hits") + count("resumed")),
    ] {
        assert_eq!(total(&text, name), value as f64, "{name}");
    }
    world.close().await;
}

/// The same prompt under another key: nothing is found, and no counter tells that it was there.
#[actix_rt::test]
async fn one_keys_prompts_are_not_found_by_another() {
    let mut plan = Plan::default();
    plan.http.keys = ring(&["one", "two"], &[]);
    let world = World::open(plan).await;
    let ask = async |key: &str| {
        let body = chat("Who lived there?", None).to_string();
        let reply = post_with(world.address, "/v1/chat/completions", &format!("Authorization: Bearer {key}\r\n"), &body).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        let cached = reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a count");
        (cached > 0, world.service.snapshot().scheduler.prefix_cache.hits_total)
    };
    assert_eq!(ask("one").await, (false, 0));
    assert_eq!(ask("two").await, (false, 0));
    assert_eq!(ask("one").await, (true, 1));
    assert_eq!(ask("two").await, (true, 2));
    world.close().await;
}

/// A chat of twenty turns: each computes what the turn before has not, to the block. The engine's
/// prefill tokens are counted, not what the answers say.
#[actix_rt::test]
async fn the_nth_turn_of_a_chat_computes_only_what_is_new() {
    let answer = "<|channel|>final<|message|>It stood there in the rain, as it had in the winter before.".to_owned();
    let world = World::open(Plan { answer, ..Plan::default() }).await;
    let mut messages = vec![json!({"role": "system", "content": "Tell a story of a lighthouse, and no other."})];
    let (mut known, mut computed, mut last) = (0, 0, 0);
    for turn in 0..20 {
        messages.push(json!({"role": "user", "content": format!("What happened on day {turn} of that winter?")}));
        let before = world.service.snapshot().scheduler.prefill_tokens_total;
        let reply = asked(&world, "/v1/chat/completions", &json!({"model": "tiny", "messages": messages})).await;
        let prefilled = world.service.snapshot().scheduler.prefill_tokens_total - before;
        let usage = &reply["usage"];
        let count = |key: &str| usage[key].as_u64().expect("a count");
        // The whole blocks of all that the turn before has computed: its prompt and its answer, but
        // for the token that ended it.
        let found = known / 16 * 16;
        assert_eq!(details(usage).0, found, "turn {turn}: {usage}");
        assert_eq!(prefilled, count("prompt_tokens") - found, "turn {turn}: {usage}");
        known = count("prompt_tokens") + count("completion_tokens") - 1;
        (computed, last) = (computed + prefilled, count("prompt_tokens"));
        messages.push(reply["choices"][0]["message"].clone());
    }
    // Twenty turns cost the last one's prompt, and at most a block of it again for each.
    assert!(computed >= last / 2 && computed < last + 20 * 16, "{computed} tokens for a prompt of {last}");
    world.assert_empty().await;
    world.close().await;
}
