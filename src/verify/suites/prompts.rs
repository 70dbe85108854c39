//! PR-PF01: the same input becomes the same prompt, and the cache of prompts knows it.

use serde_json::{Value, json};

use super::super::asking::{JAY, metadata, with};
use super::super::bench::Bench;
use super::super::case::{Checks, Halt};
use super::super::exposition::Exposition;
use crate::client::{Api, Request};

/// The plan's repeated requests: so many questions, each asked so often.
const QUESTIONS: [&str; 4] = [JAY, "What is 2+2?", "Hello, how are you?", "Count from 1 to 5"];
const TIMES: usize = 5;

async fn ask(bench: &Bench, question: &str, more: &Value) -> Result<Value, Halt> {
    let body = with(bench.chat(question, &json!({"max_tokens": 64, "seed": 42})), more);
    Ok(bench.whole(Api::Chat, &body).await?)
}

fn key(answer: &Value) -> Result<String, Halt> {
    let key = metadata(answer)["cache_key"].as_str().filter(|key| key.len() == 64);
    key.map(str::to_owned).ok_or_else(|| {
        Halt::Fail(format!("metadata.cache_key is {}, expected 64 hexadecimal digits", metadata(answer)["cache_key"]))
    })
}

pub(super) async fn deterministic(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let more = json!({"return_token_ids": true});
    let mut keys = Vec::new();
    for question in QUESTIONS {
        let first = ask(bench, question, &more).await?;
        keys.push(key(&first)?);
        for _ in 0..2 {
            let again = ask(bench, question, &more).await?;
            checks.same(&format!("the cache_key of {question:?}"), &key(&again)?, &key(&first)?);
            for what in ["/prompt_token_ids", "/choices/0/token_ids", "/choices/0/message/content"] {
                checks.that(first.pointer(what).is_some_and(|value| !value.is_null()), || format!("{what} is missing"));
                checks.that(again.pointer(what) == first.pointer(what), || format!("{what} of {question:?} changed"));
            }
        }
    }
    keys.sort();
    keys.dedup();
    checks.same("different keys of different questions", &keys.len(), &QUESTIONS.len());
    // What is drawn is drawn alike too.
    let drawn = json!({"temperature": 0.9, "seed": 7});
    let (a, b) = (ask(bench, QUESTIONS[2], &drawn).await?, ask(bench, QUESTIONS[2], &drawn).await?);
    checks.that(a["choices"][0]["message"] == b["choices"][0]["message"], || {
        "a drawn answer changed with its seed kept".to_owned()
    });
    checks.that(key(&a)? != key(&ask(bench, QUESTIONS[2], &json!({"temperature": 0.8, "seed": 7})).await?)?, || {
        "the temperature is not in the cache_key".to_owned()
    });
    Ok(())
}

pub(super) async fn version(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let known = |metadata: &Value| {
        let version = metadata["prompt_version"].as_str().unwrap_or_default();
        version.strip_prefix("SYS/v").is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let answer = ask(bench, JAY, &Value::Null).await?;
    checks.that(known(metadata(&answer)), || format!("the metadata is {}, expected a prompt_version", metadata(&answer)));
    let body = bench.chat(JAY, &json!({"max_tokens": 64, "stream": true}));
    for api in [Api::Chat, Api::Generate] {
        let last = bench.hear(api, &body).await?.metadata();
        let name = api.path();
        checks.that(known(&last), || format!("the last event of {name} has the metadata {last}, expected a prompt_version"));
        let same = last["prompt_version"] == metadata(&answer)["prompt_version"];
        checks.that(same, || format!("{name} has another prompt_version than an answer in one piece"));
    }
    for field in ["model_id", "model_size", "dtype", "gpu_mode", "cache_hit", "tokens_before", "tokens_after", "request_id"] {
        checks.that(!metadata(&answer)[field].is_null(), || format!("the metadata has no {field}"));
    }
    Ok(())
}

/// Asks every question so often, and counts what the metadata says.
async fn repeat(bench: &Bench) -> Result<(u64, u64), Halt> {
    let (mut hits, mut misses) = (0, 0);
    // A salt of its own makes the first of each a miss, whatever was asked before.
    let salt = uuid::Uuid::new_v4().as_u128() % 1_000_000_007;
    for _ in 0..TIMES {
        for question in QUESTIONS {
            let answer = ask(bench, question, &json!({"max_tokens": 4, "seed": salt as u64})).await?;
            match metadata(&answer)["cache_hit"].as_bool() {
                Some(true) => hits += 1,
                Some(false) => misses += 1,
                None => return Err(Halt::Fail("metadata.cache_hit is missing".to_owned())),
            }
        }
    }
    Ok((hits, misses))
}

pub(super) async fn hit_rate(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let (hits, misses) = repeat(bench).await?;
    let rate = hits as f64 / (hits + misses) as f64;
    checks.at_least("hit rate", rate, "", bench.criteria.hit_rate_min);
    checks.note(format!("{} questions, each asked {TIMES} times", QUESTIONS.len()));
    Ok(())
}

pub(super) async fn counts(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let read = async || -> Result<[u64; 3], Halt> {
        let stats = bench.ask("/stats").await?;
        let count = |name: &str| Bench::count(&stats, &format!("/prompt_metrics/{name}"));
        Ok([count("cache_hits")?, count("cache_misses")?, count("total_builds")?])
    };
    let before = read().await?;
    let (hits, misses) = repeat(bench).await?;
    let after = read().await?;
    let grown = [after[0] - before[0], after[1] - before[1], after[2] - before[2]];
    checks.same("hits, misses and builds of /stats", &grown, &[hits, misses, hits + misses]);
    checks.same("misses", &misses, &(QUESTIONS.len() as u64));
    let whole = bench.client.call(&Request::get("/metrics")).await?;
    if whole.status == 200 {
        let metrics = Exposition::read(&whole.text()).map_err(|error| Halt::Fail(format!("/metrics: {error}")))?;
        checks.same("prompt_cache_hits of /metrics", &metrics.value("prompt_cache_hits", &[]), &Some(after[0] as f64));
    }
    Ok(())
}
