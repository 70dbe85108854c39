//! The plan's manual checklist, without the hands.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::sleep;

use super::super::asking::{JAY, JAY_CODE, with};
use super::super::bench::Bench;
use super::super::case::{Checks, Halt};
use super::super::process::ServerProcess;
use super::streams;
use crate::client::{Api, Request};

/// A server that drains may take as long as its running answers.
const STOP_MAX: Duration = Duration::from_secs(60);

pub(super) async fn starts(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    match &bench.target.process {
        Some(process) => {
            checks.figure("ready after", process.ready_after().as_secs_f64() * 1e3, "ms");
            checks.that(process.ended().is_none(), || "the server has ended".to_owned());
        }
        None => checks.note("it ran already"),
    }
    let models = bench.client.json(&Request::get("/v1/models")).await?;
    let names = models["data"].as_array().map_or(0, Vec::len);
    checks.that(names > 0, || "/v1/models names no model".to_owned());
    Ok(())
}

pub(super) async fn health(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let health = bench.ask("/health").await?;
    checks.same("status", &health["status"], &json!("healthy"));
    for path in ["/health/live", "/health/ready"] {
        let status = bench.client.call(&Request::get(path)).await?.status;
        checks.same(path, &status, &200);
    }
    Ok(())
}

pub(super) async fn simple(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let started = Instant::now();
    let answer = bench.whole(Api::Chat, &bench.chat(JAY, &json!({"max_tokens": 512}))).await?;
    checks.figure("E2E", started.elapsed().as_secs_f64() * 1e3, "ms");
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap_or_default();
    checks.that(text.contains(JAY_CODE), || format!("the answer is {text:?}, expected {JAY_CODE} in it"));
    checks.same("finish_reason", &answer["choices"][0]["finish_reason"], &json!("stop"));
    let (prompt, completion) = (&answer["usage"]["prompt_tokens"], &answer["usage"]["completion_tokens"]);
    let total = prompt.as_u64().zip(completion.as_u64()).map(|(a, b)| a + b);
    checks.that(total.is_some() && total == answer["usage"]["total_tokens"].as_u64(), || {
        format!("usage does not add up: {}", answer["usage"])
    });
    Ok(())
}

pub(super) async fn stream(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let body = bench.chat(JAY, &json!({"max_tokens": 512}));
    let whole = bench.whole(Api::Chat, &body).await?;
    let heard = bench.hear(Api::Chat, &with(body, &json!({"stream": true}))).await?;
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap_or_default();
    checks.same("the joined stream", &heard.text().as_str(), &text);
    checks.same("finish_reason", &heard.finish.as_deref(), &Some("stop"));
    checks.figure("TTFT", heard.ttft_ms().unwrap_or(f64::NAN), "ms");
    checks.figure("E2E", heard.seconds() * 1e3, "ms");
    Ok(())
}

pub(super) async fn tab(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    streams::close_tabs(bench, checks, 1).await
}

pub(super) async fn cancel(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    streams::cancel_by_id(bench, checks, 1).await
}

pub(super) async fn errors(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let wrong_model = with(bench.chat(JAY, &Value::Null), &json!({"model": "no-such-model"}));
    let hot = bench.chat(JAY, &json!({"temperature": 99}));
    for (what, path, body, expected) in [
        ("a body that is no JSON", "/v1/chat/completions", "{\"messages\":".to_owned(), 400),
        ("a model that is not there", "/v1/chat/completions", wrong_model.to_string(), 404),
        ("a temperature of 99", "/v1/chat/completions", hot.to_string(), 400),
        ("a path that is not there", "/no/such/path", "{}".to_owned(), 404),
    ] {
        let whole = bench.client.call(&Request::post(path, body.into())).await?;
        checks.same(&format!("the status for {what}"), &whole.status, &expected);
        let error = whole.json().unwrap_or_default();
        let message = error["error"]["message"].as_str().unwrap_or_default();
        checks.that(!message.is_empty() && error["error"]["type"].is_string(), || {
            format!("{what} is answered {}, expected an error with a message and a type", whole.text())
        });
    }
    Ok(())
}

pub(super) async fn stops(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let Some((program, options)) = &bench.target.again else {
        return Err(Halt::NotApplicable("the server is not ours to stop; --embedded starts one that is".to_owned()));
    };
    let second = ServerProcess::start(program, options).map_err(|error| Halt::Fail(error.to_string()))?;
    let other = other(bench, &second)?;
    let mut running = other.open(Api::Completions, &Request::post_json(Api::Completions.path(), &other.endless())).await?;
    running.chunks(3).await?;
    let asked = Instant::now();
    second.terminate().map_err(|error| Halt::Fail(error.to_string()))?;
    // New requests are refused while the running one goes on to its end.
    sleep(Duration::from_millis(100)).await;
    let refused = other.client.call(&Request::post_json(Api::Chat.path(), &other.chat(JAY, &Value::Null))).await;
    match refused {
        Ok(whole) => checks.same("the status of a request to a server that drains", &whole.status, &503),
        // The answer may have been over before.
        Err(error) => checks.note(format!("the server had stopped before it was asked: {error}")),
    }
    let heard = running.finish(None).await?;
    checks.same("how the running answer ended", &heard.finish.as_deref(), &Some("length"));
    checks.that(heard.error.is_none(), || format!("the running answer ended with {:?}", heard.error));
    while second.ended().is_none() && asked.elapsed() < STOP_MAX {
        sleep(Duration::from_millis(10)).await;
    }
    checks.figure("stopped after", asked.elapsed().as_secs_f64() * 1e3, "ms");
    checks.same("the exit code", &second.ended().and_then(|status| status.code()), &Some(0));
    Ok(())
}

/// The same tests' view of another server.
pub(super) fn other(bench: &Bench, process: &ServerProcess) -> Result<Bench, Halt> {
    let options = crate::client::ClientOptions { api_key: bench.target.api_key.clone(), ..Default::default() };
    Ok(Bench {
        client: crate::client::Client::new(&process.url(), &options)?,
        target: super::super::bench::Target::default(),
        model: bench.model.clone(),
        level: bench.level,
        criteria: bench.criteria.clone(),
        effort: bench.effort.clone(),
        context_tokens: bench.context_tokens,
    })
}
