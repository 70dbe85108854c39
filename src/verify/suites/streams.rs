//! PR-ST01: event streams, and what is left of them when a client leaves.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::sleep;

use super::super::asking::{JAY, JAY_CODE, Listening, with};
use super::super::bench::{Bench, ServerHoldings};
use super::super::browser::{self, Browser};
use super::super::case::{Checks, Halt};
use super::super::connections::{self, PeerConnection};
use super::super::slope::slope;
use super::super::spread::SortedValues;
use crate::client::{Api, Request};

/// Looks at the memory while streams are cancelled.
const LOOKS: usize = 20;
/// A browser that was asked to close a tab is waited for this long.
const BROWSER_MAX: Duration = Duration::from_secs(60);
/// Memory that so many streams may leave behind; one that is held would hold more than a tenth of
/// it.
const GROWTH_MAX_KIB: f64 = 1024.0;

pub(super) async fn order(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let heard = bench.hear(Api::Generate, &bench.chat(JAY, &json!({"stream": true, "max_tokens": 512}))).await?;
    let read = |event: &crate::client::SseEvent| serde_json::from_str::<Value>(&event.data).unwrap_or_default();
    let events: Vec<Value> = heard.events.iter().map(read).collect();
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap_or("?")).collect();
    let (first, last) = (kinds.first().copied(), kinds.last().copied());
    checks.same("the first event", &first, &Some("start"));
    checks.same("the last event", &last, &Some("done"));
    let between = kinds.get(1..kinds.len().saturating_sub(1)).unwrap_or_default();
    checks.that(!between.is_empty() && between.iter().all(|kind| *kind == "token"), || format!("between them: {between:?}"));
    for (event, kind) in heard.events.iter().zip(&kinds) {
        checks.same("an event's name beside its type", &event.name.as_deref(), &Some(*kind));
    }
    let id = &events.first().unwrap_or(&Value::Null)["request_id"];
    checks.that(id.is_string() && *id == events.last().unwrap_or(&Value::Null)["request_id"], || {
        "start and done do not tell the same request_id".to_owned()
    });
    checks.that(heard.text().contains(JAY_CODE), || format!("the tokens say {:?}", heard.text()));
    Ok(())
}

/// Frames as this server writes them: an event's name if it has one, a line of data, an empty line;
/// nothing else.
fn check_frames(raw: &[u8]) -> Result<usize, String> {
    let text = std::str::from_utf8(raw).map_err(|error| format!("byte {}: no UTF-8", error.valid_up_to()))?;
    if text.contains('\r') {
        return Err("a carriage return".to_owned());
    }
    let body = text.strip_suffix("\n\n").ok_or("the last frame does not end")?;
    let mut count = 0;
    for frame in body.split("\n\n") {
        if frame.starts_with(": ") && !frame.contains('\n') {
            continue;
        }
        let data = match frame.strip_prefix("event: ") {
            None => frame,
            Some(named) => named.split_once('\n').ok_or_else(|| format!("a name without data: {frame:?}"))?.1,
        };
        let data = data.strip_prefix("data: ").filter(|data| !data.contains('\n'));
        let data = data.ok_or_else(|| format!("no frame: {frame:?}"))?;
        if data != "[DONE]" && serde_json::from_str::<Value>(data).is_err() {
            return Err(format!("no JSON: {data:?}"));
        }
        count += 1;
    }
    Ok(count)
}

pub(super) async fn bytes(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let streamed = json!({"stream": true, "max_tokens": 512});
    let chat = bench.chat(JAY, &streamed);
    let completion = json!({"model": bench.model, "prompt": "1, 2, 3,", "max_tokens": 24, "stream": true});
    let dialect = |name: &str| Request::post_json(Api::Chat.path(), &chat).header("x-sse-dialect", name);
    for (what, api, request) in [
        ("/generate", Api::Generate, Request::post_json(Api::Generate.path(), &chat)),
        ("/v1/chat/completions", Api::Chat, dialect("openai")),
        ("/v1/chat/completions in both dialects", Api::Chat, dialect("both")),
        ("/v1/completions", Api::Completions, Request::post_json(Api::Completions.path(), &completion)),
        ("/generate/stream", Api::GenerateStream, Request::post_json(Api::GenerateStream.path(), &bench.code(JAY, &json!({})))),
    ] {
        let heard = bench.open(api, &request).await?.finish(None).await?;
        let media = heard.content_type.split(';').next().unwrap_or_default().trim();
        checks.same(&format!("the type of {what}"), &media, &"text/event-stream");
        match check_frames(&heard.raw) {
            Ok(count) => checks.same(&format!("frames of {what}"), &count, &heard.events.len()),
            Err(wrong) => checks.that(false, || format!("{what}: {wrong}")),
        }
        let ends = api == Api::Generate || heard.raw.ends_with(b"data: [DONE]\n\n");
        checks.that(ends, || format!("{what} does not end with data: [DONE]"));
    }
    Ok(())
}

async fn endless(bench: &Bench) -> Result<Listening, Halt> {
    Ok(bench.open(Api::Completions, &Request::post_json(Api::Completions.path(), &bench.endless())).await?)
}

pub(super) async fn closed(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let before = bench.idle().await?;
    let mut freed = Vec::new();
    for turn in 0..bench.effort.cancelled {
        let mut stream = endless(bench).await?;
        // At the first piece, after some, after many.
        stream.chunks([1, 8, 40][turn % 3]).await?;
        let left = Instant::now();
        drop(stream);
        freed.push(bench.freed(left, before).await?);
    }
    report_freed(bench, checks, freed);
    Ok(())
}

fn report_freed(bench: &Bench, checks: &mut Checks, freed: Vec<f64>) {
    let freed = SortedValues::of(freed);
    checks.figure("cancelled", freed.count() as f64, "streams");
    checks.figure("p50 until free", freed.quantile(0.5), "ms");
    checks.at_most("max until free", freed.max(), "ms", bench.criteria.cancel_max_ms);
}

pub(super) async fn cancelled(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    cancel_by_id(bench, checks, bench.effort.cancelled).await
}

/// Cancels streams by their id, and looks at how they end and what is left.
pub(super) async fn cancel_by_id(bench: &Bench, checks: &mut Checks, count: usize) -> Result<(), Halt> {
    let before = bench.idle().await?;
    let mut freed = Vec::new();
    for _ in 0..count {
        let body =
            bench.chat("Count from 1 to 90", &json!({"stream": true, "ignore_eos": true, "max_tokens": bench.long_tokens()}));
        let mut stream = bench.open(Api::Generate, &Request::post_json(Api::Generate.path(), &body)).await?;
        stream.chunks(5).await?;
        let id = stream.heard.request_id.clone().ok_or_else(|| Halt::Fail("the answer has no X-Request-ID".to_owned()))?;
        let asked = Instant::now();
        let answer = bench.client.json(&Request::post(&format!("/cancel/{id}"), "{}".into())).await?;
        checks.same("the answer to /cancel", &answer["status"], &json!("cancelled"));
        let heard = stream.finish(None).await?;
        let ended = (heard.ended - asked).as_secs_f64() * 1e3;
        checks.that(ended <= bench.criteria.cancel_max_ms, || format!("the stream ended {ended:.0} ms after /cancel"));
        freed.push(bench.freed(asked, before).await?);
        let last: Value = heard.events.last().and_then(|event| serde_json::from_str(&event.data).ok()).unwrap_or_default();
        checks.same("the stream's last event", &last["type"], &json!("cancelled"));
        let again = bench.client.json(&Request::post(&format!("/cancel/{id}"), "{}".into())).await?;
        checks.same("the answer to a second /cancel", &again["status"], &json!("not_found"));
    }
    report_freed(bench, checks, freed);
    Ok(())
}

pub(super) async fn tabs(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    close_tabs(bench, checks, bench.effort.tabs).await
}

/// Closes tabs of a real browser while they read.
pub(super) async fn close_tabs(bench: &Bench, checks: &mut Checks, count: usize) -> Result<(), Halt> {
    let Some(program) = browser::find(bench.target.browser.as_deref()) else {
        return Err(Halt::Skip(
            "no Chromium on this machine; expected one in PATH (apt install chromium), or --browser FILE".to_owned(),
        ));
    };
    let before = bench.idle().await?;
    let browser = Browser::start(&program).await?;
    let (mut freed, mut closed) = (Vec::new(), Vec::new());
    for _ in 0..count {
        // Long enough that the answer is not over when the tab is seen to read; an answer of
        // several choices keeps the model busy for as long as they all take.
        let body = with(bench.endless(), &json!({"max_tokens": bench.context_tokens * 7 / 8, "n": 2}));
        let url = format!("{}{}", bench.client.url(), Api::Completions.path());
        let tab = browser.open(&url, bench.target.api_key.as_deref(), &body, 3).await?;
        let during = bench.held().await?;
        checks.that(during.streams == 1 && during.blocks > 0, || format!("while the tab reads the server holds {during:?}"));
        let its = connections::of_others(bench.client.url().port());
        let asked = browser.close(&tab).await?;
        let left = hung_up(&its, asked).await?;
        closed.push((left - asked).as_secs_f64() * 1e3);
        // A browser whose connection is slow to come about opens a second one, and keeps it for
        // later: the server holds that too.
        let kept = its.iter().filter(|connection| connection.is_open()).count() as u64;
        let besides = ServerHoldings { fds: before.fds.map(|fds| fds + kept), ..before };
        freed.push(bench.freed(left, besides).await?);
    }
    checks.note(format!("in {}; counted from when its connection closed, which is the browser's to do", program.display()));
    checks.figure("max until the browser closed the connection", SortedValues::of(closed).max(), "ms");
    report_freed(bench, checks, freed);
    Ok(())
}

/// The last moment at which all `connections` were seen open: the first that closes is the tab's. A
/// browser on a busy machine takes its time to close it, and a server cannot free what is still
/// being read.
async fn hung_up(connections: &[PeerConnection], asked: Instant) -> Result<Instant, Halt> {
    let mut open = asked;
    while asked.elapsed() < BROWSER_MAX {
        let looked = Instant::now();
        if connections.is_empty() || connections.iter().any(|connection| !connection.is_open()) {
            return Ok(open);
        }
        open = looked;
        sleep(Duration::from_millis(1)).await;
    }
    Err(Halt::Fail(format!("the browser did not close the tab's connection within {} s", BROWSER_MAX.as_secs())))
}

pub(super) async fn memory(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let before = bench.idle().await?;
    let (warm_up, cancelled) = (bench.effort.growth_warm_up, bench.effort.growth);
    let every = (cancelled / LOOKS).max(1);
    let mut samples = Vec::new();
    for turn in 0..warm_up + cancelled {
        if turn >= warm_up && (turn - warm_up).is_multiple_of(every) {
            samples.push(((turn - warm_up) as f64, bench.resident_bytes().await? as f64 / 1024.0));
        }
        let mut stream = endless(bench).await?;
        stream.chunks(turn % 20 + 1).await?;
        let left = Instant::now();
        drop(stream);
        bench.freed(left, before).await?;
    }
    samples.push((cancelled as f64, bench.resident_bytes().await? as f64 / 1024.0));
    let grown = samples.last().map_or(0.0, |last| last.1) - samples[0].1;
    let line = slope(&samples).ok_or_else(|| Halt::Fail("too few samples for a slope".to_owned()))?;
    checks.figure("slope", line.slope, "KiB a stream");
    checks.figure("95 % interval, half", line.half_width, "KiB a stream");
    checks.at_most("growth", grown, "KiB", GROWTH_MAX_KIB);
    checks.note(format!("{cancelled} streams after {warm_up} to warm up"));
    Ok(())
}

pub(super) async fn half_way(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let before = bench.idle().await?;
    let count = |stats: &Value| Bench::count(stats, "/stream_cancelled_total");
    let cancelled = count(&bench.ask("/stats").await?)?;
    let mut stream = endless(bench).await?;
    let half = usize::try_from(bench.long_tokens() / 2).unwrap_or(usize::MAX);
    // A piece is a token or a few: half of the time is as good as half of the pieces.
    let deadline = Instant::now() + Duration::from_secs(60);
    while stream.heard.content.len() < half && Instant::now() < deadline {
        if !stream.more(None).await? {
            return Err(Halt::Fail(format!(
                "the answer of {} tokens was over before its middle was seen",
                bench.long_tokens()
            )));
        }
    }
    checks.figure("pieces before", stream.heard.content.len() as f64, "");
    let during = bench.held().await?;
    checks
        .that(during.blocks > 0 && during.streams == 1, || format!("in the middle of the answer the server holds {during:?}"));
    checks.figure("KV blocks held", during.blocks as f64, "");
    let left = Instant::now();
    drop(stream);
    checks.at_most("until free", bench.freed(left, before).await?, "ms", bench.criteria.cancel_max_ms);
    let now = count(&bench.ask("/stats").await?)?;
    checks.same("cancelled streams that /stats counts", &(now - cancelled), &1);
    // The server serves on.
    let answer = bench.hear(Api::Chat, &bench.chat(JAY, &json!({"stream": true, "max_tokens": 512}))).await?;
    checks.that(answer.text().contains(JAY_CODE), || format!("the next answer is {:?}", answer.text()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_frames;

    #[test]
    fn frames_are_checked_to_the_byte() {
        for good in ["data: {\"a\":1}\n\ndata: [DONE]\n\n", "event: start\ndata: {}\n\n", ": keep-alive\n\ndata: {}\n\n"] {
            assert!(check_frames(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in [
            "data: {}\n",
            "data: {}",
            "data:{}\n\n",
            "data: {}\r\n\r\n",
            "data: {\n\n",
            "event: a\n\n",
            "data: {}\n\n\ndata: {}\n\n",
            "data: {}\ndata: {}\n\n",
            "id: 1\ndata: {}\n\n",
            "",
        ] {
            assert!(check_frames(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(check_frames(b"data: \"\xff\"\n\n").is_err());
    }
}
