//! The streaming suite's seven cases, in the service layer and over HTTP.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use unicode_segmentation::UnicodeSegmentation;

use super::super::asking::{Heard, JAY, JAY_CODE, TextChunk, with};
use super::super::bench::Bench;
use super::super::case::{Checks, Halt};
use super::super::process::ServerProcess;
use super::super::python::{check_python, code_of};
use super::checklist::other;
use super::service::{Served, serve};
use crate::actors::messages::{Coalescing, FinishKind};
use crate::client::{Api, ClientError, Request};

/// How the suite's server gathers text: about 17 chunks a second.
const GATHER: Coalescing = Coalescing { max_ms: 55, max_chars: 50 };
/// How text is gathered where the whole answer comes in a moment: by size, so that there are chunks
/// to count. The last letter is held until it is sure to be whole, so that a chunk of these has
/// five characters or more.
const GATHER_BY_SIZE: Coalescing = Coalescing { max_ms: 55, max_chars: 6 };

/// The suite's route, or a chat where a server does not have it.
async fn ask(bench: &Bench, checks: &mut Checks, question: &str, more: &Value) -> Result<(Api, Request), Halt> {
    let body = bench.code(question, more);
    let request = Request::post_json(Api::GenerateStream.path(), &body);
    match bench.open(Api::GenerateStream, &request).await {
        Err(ClientError::Refused { refusal, .. }) if [404, 405].contains(&refusal.status) => {
            checks.note("the server has no /generate/stream; its chats were streamed");
            let body = with(bench.chat(question, &json!({"max_tokens": 1024})), &with(more.clone(), &json!({"stream": true})));
            Ok((Api::Chat, Request::post_json(Api::Chat.path(), &body)))
        }
        Err(error) => Err(error.into()),
        Ok(_) => Ok((Api::GenerateStream, request)),
    }
}

async fn hear(bench: &Bench, checks: &mut Checks, question: &str, more: &Value) -> Result<Heard, Halt> {
    let (api, request) = ask(bench, checks, question, more).await?;
    Ok(bench.open(api, &request).await?.finish(None).await?)
}

/// The service layer, or a note that there is none.
async fn served(bench: &Bench, checks: &mut Checks, question: &str) -> Result<Option<Served>, Halt> {
    match serve(bench, question, GATHER, None).await {
        Ok(served) => Ok(Some(served)),
        Err(Halt::Skip(reason)) => {
            checks.note(reason);
            Ok(None)
        }
        Err(halt) => Err(halt),
    }
}

pub(super) async fn basic(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let heard = hear(bench, checks, JAY, &json!({})).await?;
    checks.that(!heard.content.is_empty(), || "no chunk came".to_owned());
    checks.that(heard.content.iter().all(|chunk| !chunk.text.is_empty()), || "an empty chunk came".to_owned());
    checks.that(heard.error.is_none(), || format!("an error came: {:?}", heard.error));
    checks.figure("chunks, API", heard.content.len() as f64, "");
    if let Some(served) = served(bench, checks, JAY).await? {
        checks.that(!served.content.is_empty(), || "no part came from the service".to_owned());
        checks.that(matches!(served.finish, FinishKind::Stop { .. }), || format!("the service ended with {:?}", served.finish));
        checks.figure("chunks, service", served.content.len() as f64, "");
    }
    Ok(())
}

fn check_code(checks: &mut Checks, layer: &str, text: &str) {
    checks.that(text.contains(JAY_CODE), || format!("{layer}: {text:?}, expected {JAY_CODE} in it"));
    let code = code_of(text);
    checks.that(code.contains(JAY_CODE), || format!("{layer}: the code is {code:?}, expected {JAY_CODE} in it"));
    if let Err(error) = check_python(&code) {
        checks.that(false, || format!("{layer}: {error}; it was {code:?}"));
    }
}

pub(super) async fn accuracy(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let heard = hear(bench, checks, JAY, &json!({})).await?;
    check_code(checks, "API layer", &heard.text());
    if let Some(served) = served(bench, checks, JAY).await? {
        check_code(checks, "service layer", &served.text());
        checks.same("the answers of both layers", &served.text(), &heard.text());
    }
    Ok(())
}

/// The suite's numbers of one answer.
fn check_flow(bench: &Bench, checks: &mut Checks, layer: &str, content: &[TextChunk], seconds: f64) {
    let criteria = &bench.criteria;
    let count = content.len() as f64;
    let chars: Vec<usize> = content.iter().map(|chunk| chunk.text.chars().count()).collect();
    let large = chars.iter().filter(|chars| **chars >= criteria.large_chunk_chars).count() as f64;
    let average = chars.iter().sum::<usize>() as f64 / count.max(1.0);
    checks.at_least(&format!("{layer}: chunks"), count, "", criteria.chunks.least);
    checks
        .that(count <= criteria.chunks.most, || format!("{layer}: {count} chunks, at most {} expected", criteria.chunks.most));
    checks.at_least(&format!("{layer}: time"), seconds, "s", criteria.stream_seconds.least);
    let most = criteria.stream_seconds.most;
    checks.that(seconds <= most, || format!("{layer}: {seconds:.2} s, at most {most} expected"));
    checks.at_least(&format!("{layer}: rate"), count / seconds.max(1e-9), "chunks/s", criteria.chunks_per_second_min);
    checks.at_least(&format!("{layer}: characters a chunk"), average, "", criteria.chunk_chars.least);
    checks.that(average <= criteria.chunk_chars.most, || {
        format!("{layer}: {average:.1} characters a chunk, at most {} expected", criteria.chunk_chars.most)
    });
    let share = large / count.max(1.0);
    checks.at_least(&format!("{layer}: buffer efficiency"), share, "", criteria.buffer_efficiency_min);
}

pub(super) async fn performance(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let question = bench.target.stream_prompt.as_deref().unwrap_or(JAY);
    let (api, request) = ask(bench, checks, question, &json!({})).await?;
    let unpaced = bench.open(api, &request).await?.finish(None).await?;
    let fast = unpaced.seconds() < bench.criteria.stream_seconds.least;
    let (pace, more, gather) = match bench.criteria.pace_ms {
        Some(ms) if fast => {
            let (ms_max, chars_max) = (GATHER_BY_SIZE.max_ms, GATHER_BY_SIZE.max_chars);
            checks.note(format!(
                "paced: unpaced the server sends the answer in {:.3} s and {} chunks; the request asked for chunks of {ms_max} ms or \
                 {chars_max} characters, and the reader took one every {ms} ms (--pace)",
                unpaced.seconds(),
                unpaced.content.len()
            ));
            let more = json!({"stream_options": {"coalesce_max_ms": ms_max, "coalesce_max_chars": chars_max}});
            (Some(Duration::from_millis(ms)), more, GATHER_BY_SIZE)
        }
        _ => {
            checks.note("not paced");
            (None, json!({}), GATHER)
        }
    };
    checks.note(format!("asked: {question}"));
    let (api, request) = ask(bench, checks, question, &more).await?;
    let heard = bench.open(api, &request).await?.finish(pace).await?;
    check_flow(bench, checks, "API", &heard.content, heard.seconds());
    checks.figure("API: TTFT", heard.ttft_ms().unwrap_or(f64::NAN), "ms");
    match serve(bench, question, gather, pace).await {
        Ok(served) => {
            check_flow(bench, checks, "service", &served.content, served.seconds());
            checks.figure("API time over service time", heard.seconds() / served.seconds().max(1e-9), "");
            checks.same("the answers of both layers", &served.text(), &heard.text());
        }
        Err(Halt::Skip(reason)) => checks.note(reason),
        Err(halt) => return Err(halt),
    }
    Ok(())
}

pub(super) async fn endpoint(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let models = bench.client.call(&Request::get("/models")).await?;
    checks.same("the status of /models", &models.status, &200);
    let health = bench.ask("/health").await?;
    checks.that(health.is_object(), || "/health is no object".to_owned());
    let body = json!({"user_id": "verify", "model_type": "code_generation", "prompt": JAY, "user_select_options": {},
                      "temperature": 0.3, "top_p": 0.95, "max_tokens": 1024});
    let heard = bench.hear(Api::GenerateStream, &body).await?;
    checks.that(heard.content_type.starts_with("text/event-stream"), || format!("the type is {}", heard.content_type));
    let (last, rest) = heard.events.split_last().ok_or_else(|| Halt::Fail("no event came".to_owned()))?;
    checks.same("the last event", &last.data.as_str(), &"[DONE]");
    for event in rest {
        let read: Value = serde_json::from_str(&event.data).unwrap_or_default();
        let only = read.as_object().is_some_and(|fields| fields.len() == 1);
        checks.that(only && read["text"].is_string(), || format!("an event is {}, expected {{\"text\": …}}", event.data));
    }
    for kind in ["autocomplete", "prompt", "comment", "error_fix", "code_generation"] {
        let body = bench.code("print", &json!({"model_type": kind, "max_tokens": 8}));
        checks.that(bench.hear(Api::GenerateStream, &body).await.is_ok(), || format!("model_type {kind} is not served"));
    }
    Ok(())
}

pub(super) async fn buffering(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let question = bench.target.stream_prompt.as_deref().unwrap_or(JAY);
    let mut texts = Vec::new();
    for (ms, chars) in [(0, 0), (55, 0), (55, 5), (200, 40)] {
        let more = json!({"stream_options": {"coalesce_max_ms": ms, "coalesce_max_chars": chars}});
        let heard = hear(bench, checks, question, &more).await?;
        checks.figure(&format!("chunks at {ms} ms or {chars} characters"), heard.content.len() as f64, "");
        texts.push(heard);
    }
    let whole = texts[0].text();
    for heard in &texts[1..] {
        checks.that(heard.text() == whole, || "gathering changed the text".to_owned());
    }
    let (every, gathered) = (texts[0].content.len(), texts[3].content.len());
    checks.that(gathered < every, || format!("gathering made {gathered} chunks of {every}"));
    let large = texts[3].content.iter().filter(|chunk| chunk.text.chars().count() >= bench.criteria.large_chunk_chars).count();
    checks.at_least(
        "large chunks when gathered",
        large as f64 / gathered.max(1) as f64,
        "",
        bench.criteria.buffer_efficiency_min,
    );
    // Letters of several characters stay whole.
    let korean = hear(bench, checks, "안녕하세요", &json!({"stream_options": {"coalesce_max_ms": 20}})).await?;
    let (whole, pieces) = (korean.text(), &korean.content);
    let apart: usize = pieces.iter().map(|chunk| chunk.text.graphemes(true).count()).sum();
    checks.same("letters of the chunks, and of the whole", &apart, &whole.graphemes(true).count());
    checks.that(!whole.contains('\u{FFFD}'), || format!("half a letter was sent: {whole:?}"));
    let control = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"];
    checks.that(!control.iter().any(|token| whole.contains(token)), || "a control token was sent".to_owned());
    Ok(())
}

pub(super) async fn errors(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    // Before the stream: a plain status, no stream.
    for (what, more) in [
        ("no prompt", json!({"prompt": null})),
        ("an unknown model_type", json!({"model_type": "poem"})),
        ("a temperature of 99", json!({"temperature": 99})),
        ("a model that is not there", json!({"model": "no-such-model"})),
    ] {
        let whole = bench.client.call(&Request::post_json(Api::GenerateStream.path(), &bench.code(JAY, &more))).await?;
        checks.that([400, 404].contains(&whole.status), || format!("{what} is answered {}, expected 400 or 404", whole.status));
        checks.that(!whole.refusal().message.is_empty(), || format!("{what} is refused without a message"));
    }
    // In the stream: the server is told to stop, and gives its running answers no time.
    let Some((program, options)) = &bench.target.again else {
        checks.note("the server is not ours to stop in mid-stream: only refusals were tested");
        return Ok(());
    };
    let mut options = options.clone();
    options.extend(["--drain-timeout-seconds".to_owned(), "0".to_owned()]);
    let second = ServerProcess::start(program, &options).map_err(|error| Halt::Fail(error.to_string()))?;
    let other = other(bench, &second)?;
    let body = with(other.endless(), &json!({"max_tokens": other.context_tokens * 7 / 8}));
    let mut stream = other.open(Api::Completions, &Request::post_json(Api::Completions.path(), &body)).await?;
    stream.chunks(3).await?;
    let asked = Instant::now();
    second.terminate().map_err(|error| Halt::Fail(error.to_string()))?;
    let heard = stream.finish(None).await?;
    checks.figure("from SIGTERM to the error event", (heard.ended - asked).as_secs_f64() * 1e3, "ms");
    checks.that(heard.error.as_ref().is_some_and(|error| !error.message.is_empty()), || {
        format!("the stream of a server that stops ends with {:?} and no error", heard.finish)
    });
    checks.that(heard.raw.ends_with(b"data: [DONE]\n\n"), || "the stream does not end with data: [DONE]".to_owned());
    Ok(())
}

pub(super) async fn end_to_end(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let before = bench.idle().await?;
    let stats = bench.ask("/stats").await?;
    let ready = bench.client.call(&Request::get("/health/ready")).await?.status;
    checks.same("/health/ready", &ready, &200);
    let heard = hear(bench, checks, JAY, &json!({})).await?;
    check_code(checks, "API layer", &heard.text());
    let ended = Instant::now();
    checks.at_most("until free", bench.freed(ended, before).await?, "ms", bench.criteria.cancel_max_ms);
    let after = bench.ask("/stats").await?;
    let grown = |name: &str| -> Result<u64, Halt> {
        let pointer = format!("/{name}");
        Ok(Bench::count(&after, &pointer)? - Bench::count(&stats, &pointer)?)
    };
    // `hear` opens the stream once to see whether the route is there, and leaves it.
    checks.same("requests that /stats counts", &grown("requests_total")?, &2);
    checks.same("failed requests that /stats counts", &grown("requests_failed")?, &0);
    checks.figure("E2E", heard.seconds() * 1e3, "ms");
    Ok(())
}
