//! Memory under a long mixed load: does it grow?

use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::sleep;

use super::super::asking::JAY;
use super::super::bench::Bench;
use super::super::case::{Checks, Halt};
use super::super::process::{ProcessError, ServerProcess};
use super::super::slope::slope;
use super::checklist::other;
use super::latency;
use crate::client::{Api, Request};

/// Clients; they pause between requests, so that the test measures memory and not the machine.
const CLIENTS: usize = 3;
const PAUSE: Duration = Duration::from_millis(20);
/// Different questions of the mix. Were each a new one, the cache of built prompts would grow by
/// each until it reached its bound, which takes 64 MiB and some 60,000 questions: no leak, and no
/// end within the test.
const QUESTIONS: usize = 256;
/// The cache of a server of our own: a third of the questions fit, so that it is full once the
/// server is warm. Then each prompt that is built takes the place of another, as in a server that
/// has run for days.
const PROMPT_CACHE: &str = "--prompt-cache-bytes=96KiB";

/// One request of the mix: streams, whole answers, refused ones, and clients that leave.
async fn one(bench: &Bench, turn: usize) -> Result<(), Halt> {
    match turn % 6 {
        0 | 1 => drop(latency::ask(bench, turn).await?),
        2 => drop(bench.hear(Api::GenerateStream, &bench.code(JAY, &json!({}))).await?),
        3 => {
            let question = format!("What is {}+2?", turn / 6 % QUESTIONS);
            drop(bench.whole(Api::Chat, &bench.chat(&question, &json!({"max_tokens": 48}))).await?);
        }
        4 => {
            let mut stream =
                bench.open(Api::Completions, &Request::post_json(Api::Completions.path(), &bench.endless())).await?;
            stream.chunks(1 + turn % 7).await?;
        }
        _ => {
            let refused = Request::post_json(Api::Chat.path(), &bench.chat(JAY, &json!({"temperature": 99})));
            drop(bench.client.call(&refused).await?);
        }
    }
    Ok(())
}

pub(super) async fn leak(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let Some((program, options)) = &bench.target.again else { return watch(bench, checks).await };
    let mut options: Vec<String> =
        options.iter().filter(|option| !option.starts_with("--prompt-cache-bytes")).cloned().collect();
    options.push(PROMPT_CACHE.to_owned());
    let second = on_small_pages(program, &options).map_err(|error| Halt::Fail(error.to_string()))?;
    checks.note(format!("in a server on small pages with {PROMPT_CACHE}, for memory that fills to its bound is full then"));
    watch(&other(bench, &second)?, checks).await
}

/// Starts a server that gets no huge pages. Where the system makes one of small pages of KV memory
/// that are in use, those between them begin to count: a step of up to 2 MiB within a bounded pool,
/// which looks like growth.
fn on_small_pages(program: &Path, options: &[String]) -> Result<ServerProcess, ProcessError> {
    // A process hands the setting on to those that it starts. Where the kernel has none, the server
    // is started all the same.
    #[cfg(target_os = "linux")]
    let before = rustix::thread::transparent_huge_pages_are_disabled().unwrap_or(false);
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let started = ServerProcess::start(program, options);
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(before);
    started
}

async fn watch(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let before = bench.idle().await?;
    let length = bench.effort.leak;
    let (answered, over) = (Cell::new(0), Cell::new(false));
    let client = async |first: usize| -> Result<(), Halt> {
        let mut turn = first;
        while !over.get() {
            one(bench, turn).await?;
            answered.set(answered.get() + 1);
            turn += CLIENTS;
            sleep(PAUSE).await;
        }
        Ok(())
    };
    let look = async || {
        let started = Instant::now();
        // A slow server is as warm as it gets in the time for which it is watched.
        while answered.get() < bench.effort.leak_warm_up && started.elapsed() < length {
            sleep(bench.effort.leak_sample).await;
        }
        let warm_up = answered.get();
        let samples = samples(bench, length).await;
        over.set(true);
        samples.map(|samples| (samples, warm_up, answered.get() - warm_up))
    };
    let (clients, looked) = tokio::join!(join_all((0..CLIENTS).map(client)), look());
    clients.into_iter().collect::<Result<(), _>>()?;
    let (samples, warm_up, requests) = looked?;
    let line = slope(&samples).ok_or_else(|| Halt::Fail(format!("{} samples are too few for a slope", samples.len())))?;
    let minutes = length.as_secs_f64() / 60.0;
    checks.figure("minutes", minutes, "");
    checks.figure("requests", requests as f64, "");
    checks.figure("memory after warming up", samples[0].1 / 1024.0, "MiB");
    checks.figure("memory at the end", samples[samples.len() - 1].1 / 1024.0, "MiB");
    checks.figure("slope", line.slope, "KiB/min");
    checks.figure("95 % interval from", line.lower(), "KiB/min");
    checks.at_most("95 % interval to", line.upper(), "KiB/min", bench.criteria.leak_max_kib_per_minute);
    checks.figure("slope by requests", line.slope * minutes / requests.max(1) as f64 * 1e3, "KiB/1,000 requests");
    checks.note(format!(
        "least squares through {} samples after {warm_up} requests to warm up; Newey-West errors, since neighbouring samples are \
         alike",
        line.samples
    ));
    let ended = Instant::now();
    bench.freed(ended, before).await?;
    Ok(())
}

/// Minutes and KiB of resident memory, a sample a second.
async fn samples(bench: &Bench, length: Duration) -> Result<Vec<(f64, f64)>, Halt> {
    let started = Instant::now();
    let mut samples = Vec::new();
    while started.elapsed() < length {
        samples.push((started.elapsed().as_secs_f64() / 60.0, bench.resident_bytes().await? as f64 / 1024.0));
        sleep(bench.effort.leak_sample).await;
    }
    Ok(samples)
}
