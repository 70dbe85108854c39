//! Every field with every kind of wrong value, on every route that generates, streamed and not:
//! never a 5xx, never a stream of an invalid request, always the field's name.

use std::collections::BTreeSet;

use serde_json::Value;

use super::client::post;
use super::world::{Plan, World};

/// What a field may be given; `NaN` and `1e999` are not JSON, which is an error of the field too.
const VALUES: &[&str] = &[
    "null",
    "\"\"",
    "\"x\"",
    "\"NaN\"",
    "-1",
    "0",
    "1",
    "2",
    "0.5",
    "21",
    "129",
    "2147483648",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "1e308",
    "1e999",
    "NaN",
    "true",
    "false",
    "[]",
    "{}",
    "[[]]",
    "[null]",
    "[\"\"]",
    "[-1]",
    "[{}]",
    "{\"a\":[]}",
];

const SHARED: &str = "model temperature top_p top_k min_p seed stop stop_token_ids max_tokens max_completion_tokens n \
    repetition_penalty presence_penalty frequency_penalty logit_bias ignore_eos min_tokens user metadata cache_salt \
    prompt_cache_key priority \
    return_token_ids return_tokens_as_token_ids bad_words repetition_detection include_stop_str_in_output stop_in_reasoning profile \
    stream_options logprobs unheard_of";
const CHATS: &str = "top_logprobs tools tool_choice parallel_tool_calls response_format reasoning_effort modalities functions function_call \
     continue_final_message add_generation_prompt";

const RESPONSES: &str = "model temperature top_p seed stop max_output_tokens n user metadata cache_salt stream_options \
    instructions parallel_tool_calls truncation store service_tier safety_identifier prompt_cache_key top_logprobs \
    max_tool_calls background conversation prompt unheard_of";

const MESSAGES: &str = "model temperature top_p top_k seed max_tokens stop_sequences n metadata cache_salt stream_options system \
    tool_choice thinking output_config output_format context_management container mcp_servers service_tier stop \
    reasoning_effort parallel_tool_calls cache_control tools unheard_of";

/// One request of the table, as it was answered.
#[derive(Debug)]
struct Row {
    field: &'static str,
    value: &'static str,
    stream: bool,
    status: u16,
    error: Option<Value>,
    events: bool,
}

async fn table(world: &World, path: &str, prompt: &str, fields: &'static str) -> Vec<Row> {
    let mut rows = Vec::new();
    for field in fields.split_whitespace() {
        for value in VALUES {
            for stream in [false, true] {
                let prompt = if prompt.starts_with(&format!("\"{field}\"")) { "\"seed\":1" } else { prompt };
                // Short answers, unless their length is what is asked about.
                let short = if field.contains("max_") { "" } else { ",\"max_tokens\":2" };
                let body = format!("{{{prompt}{short},\"stream\":{stream},\"{field}\":{value}}}");
                let reply = post(world.address, path, &body).await;
                let events = reply.header("content-type") == Some("text/event-stream");
                // Anthropic's form holds the same object, its keys in another order.
                let error = (reply.status != 200).then(|| match path {
                    "/v1/messages" => reply.json()["error"].clone(),
                    _ => reply.error(),
                });
                rows.push(Row { field, value, stream, status: reply.status, error, events });
            }
        }
    }
    rows
}

fn check(rows: &[Row]) {
    let mut taken = BTreeSet::new();
    for row in rows {
        match row.status {
            200 => {
                assert_eq!(row.events, row.stream, "{row:?}");
                taken.insert((row.field, row.value));
            }
            400 | 404 => {
                let param = row.error.as_ref().and_then(|error| error["param"].as_str()).unwrap_or_default();
                assert!(param.starts_with(row.field), "{row:?}");
                assert_eq!(
                    row.status == 404,
                    ["model", "conversation"].contains(&row.field) && row.value.starts_with('"'),
                    "{row:?}"
                );
            }
            _ => panic!("{row:?}"),
        }
        assert_eq!(row.events, row.status == 200 && row.stream, "an error is no stream: {row:?}");
    }
    // The table would also pass if everything were refused.
    for expected in
        [("temperature", "null"), ("temperature", "0.5"), ("top_k", "-1"), ("seed", "9223372036854775807"), ("stop", "[]")]
    {
        assert!(taken.contains(&expected) || !rows.iter().any(|row| row.field == expected.0), "{expected:?}");
    }
    assert!(VALUES.iter().all(|value| ["1e999", "NaN"].contains(value) || taken.contains(&("unheard_of", value))), "{taken:?}");
}

async fn world() -> World {
    World::open(Plan { answer: "ok".to_owned(), ..Plan::default() }).await
}

#[actix_rt::test]
async fn chats() {
    let world = world().await;
    let prompt = r#""messages":[{"role":"user","content":"hi"}]"#;
    for fields in [SHARED, CHATS] {
        let rows = table(&world, "/v1/chat/completions", prompt, fields).await;
        if fields == SHARED {
            check(&rows);
        } else {
            assert!(rows.iter().all(|row| row.status == 200 || row.error.as_ref().unwrap()["param"].is_string()), "{rows:?}");
            assert!(rows.iter().all(|row| row.status < 500 && row.events == (row.status == 200 && row.stream)), "{rows:?}");
        }
    }
    world.assert_empty().await;
    world.close().await;
}

#[actix_rt::test]
async fn completions() {
    let world = world().await;
    check(&table(&world, "/v1/completions", r#""prompt":"hi""#, SHARED).await);
    let rows = table(
        &world,
        "/v1/completions",
        r#""prompt":"hi""#,
        "prompt echo suffix best_of prompt_logprobs allowed_token_ids truncate_prompt_tokens truncation_side",
    )
    .await;
    for row in &rows {
        let param = row.error.as_ref().and_then(|error| error["param"].as_str()).unwrap_or_default();
        assert!(row.status == 200 || (row.status == 400 && param.starts_with(row.field)), "{row:?}");
    }
    world.assert_empty().await;
    world.close().await;
}

#[actix_rt::test]
async fn responses() {
    let world = world().await;
    check(&table(&world, "/v1/responses", r#""input":"hi""#, RESPONSES).await);
    let rows = table(&world, "/v1/responses", r#""input":"hi""#, "input tools tool_choice text reasoning include").await;
    for row in &rows {
        let param = row.error.as_ref().and_then(|error| error["param"].as_str()).unwrap_or_default();
        assert!(row.status == 200 || (row.status == 400 && param.starts_with(row.field)), "{row:?}");
        assert_eq!(row.events, row.status == 200 && row.stream, "{row:?}");
    }
    world.assert_empty().await;
    world.close().await;
}

#[actix_rt::test]
async fn messages() {
    let world = world().await;
    check(&table(&world, "/v1/messages", r#""messages":[{"role":"user","content":"hi"}]"#, MESSAGES).await);
    world.assert_empty().await;
    world.close().await;
}

#[actix_rt::test]
async fn the_predecessors_routes() {
    let world = world().await;
    for (path, prompt, fields) in [
        ("/generate", r#""prompt":"hi""#, "prompt messages temperature max_tokens n tools stop"),
        (
            "/generate/stream",
            r#""prompt":"hi""#,
            "prompt user_id model_type user_select_options temperature top_p max_tokens n",
        ),
        ("/tokenize", r#""prompt":"hi""#, "prompt messages add_special_tokens return_token_strs model"),
        ("/detokenize", r#""tokens":[1]"#, "tokens model"),
    ] {
        for row in table(&world, path, prompt, fields).await {
            let blamed = row.error.as_ref().is_none_or(|error| error["param"].is_string());
            assert!([200, 400, 404].contains(&row.status) && blamed, "{path} {row:?}");
            assert!(row.status == 200 || !row.events, "{path} {row:?}");
        }
    }
    world.assert_empty().await;
    world.close().await;
}

#[actix_rt::test]
async fn messages_are_blamed_by_their_place() {
    let world = world().await;
    for value in VALUES.iter().filter(|value| !["1e999", "NaN"].contains(value)) {
        for (template, param) in [
            ("\"messages\":V", "messages"),
            ("\"messages\":[V]", "messages[0]"),
            ("\"messages\":[{\"role\":V,\"content\":\"x\"}]", "messages[0].role"),
            ("\"messages\":[{\"role\":\"user\",\"content\":V}]", "messages[0].content"),
            ("\"messages\":[{\"role\":\"user\",\"content\":[V]}]", "messages[0].content[0]"),
            ("\"messages\":[{\"role\":\"assistant\",\"tool_calls\":V}]", "messages[0].tool_calls"),
        ] {
            let body = format!("{{{},\"max_tokens\":2}}", template.replace('V', value));
            let reply = post(world.address, "/v1/chat/completions", &body).await;
            if reply.status != 200 {
                let error = reply.error();
                assert_eq!(reply.status, 400, "{body}");
                assert!(error["param"].as_str().unwrap().starts_with(param), "{body}: {error}");
            }
        }
    }
    world.assert_empty().await;
    world.close().await;
}
