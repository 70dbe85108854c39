//! Memory under a long mixed load: does it grow?

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::sleep;

use super::super::asking::JAY;
use super::super::bench::Bench;
use super::super::case::{Checks, Halt};
use super::super::process::ServerProcess;
use super::super::slope::slope;
use super::checklist::other;
use super::latency;
use crate::client::{Api, Request};

/// Between two looks at the memory.
const SAMPLE: Duration = Duration::from_secs(1);
/// Clients; they pause between requests, so that the test measures memory and not the machine.
const CLIENTS: usize = 3;
const PAUSE: Duration = Duration::from_millis(20);
/// The first part of the time fills pools and caches; the line goes through the rest.
const WARM_UP_SHARE: f64 = 0.2;
/// Different questions of the mix, each asked once before the clock runs. What grew with every new question would be the cache of
/// built prompts on its way to its bound, which takes 64 MiB and some 80,000 questions: no leak, and no end within the test.
const QUESTIONS: usize = 256;
/// The cache of a server of our own: a third of the questions fit, so that it is full from the start and each one that is built
/// makes room for the next, as in a server that has run for days.
const PROMPT_CACHE: &str = "--prompt-cache-bytes=96KiB";

/// One request of the mix: streams, whole answers, refused ones, and clients that leave.
async fn one(bench: &Bench, turn: usize) -> Result<(), Halt> {
    match turn % 6 {
        0 | 1 => drop(latency::ask(bench, turn).await?),
        2 => drop(bench.hear(Api::GenerateStream, &bench.code(JAY, &json!({}))).await?),
        3 => ask(bench, turn / 6).await?,
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

/// One of the questions that differ.
async fn ask(bench: &Bench, number: usize) -> Result<(), Halt> {
    let question = format!("What is {}+2?", number % QUESTIONS);
    bench.whole(Api::Chat, &bench.chat(&question, &json!({"max_tokens": 48}))).await?;
    Ok(())
}

pub(super) async fn leak(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let Some((program, options)) = &bench.target.again else { return watch(bench, checks).await };
    let mut options: Vec<String> =
        options.iter().filter(|option| !option.starts_with("--prompt-cache-bytes")).cloned().collect();
    options.push(PROMPT_CACHE.to_owned());
    let second = ServerProcess::start(program, &options).map_err(|error| Halt::Fail(error.to_string()))?;
    checks.note(format!("in a server with {PROMPT_CACHE}, for memory that fills to its bound is full then"));
    watch(&other(bench, &second)?, checks).await
}

async fn watch(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let before = bench.idle().await?;
    for number in 0..QUESTIONS {
        ask(bench, number).await?;
    }
    let length = Duration::from_secs(bench.criteria.leak_seconds);
    let started = Instant::now();
    let client = async |first: usize| -> Result<usize, Halt> {
        let mut turn = first;
        while started.elapsed() < length {
            one(bench, turn).await?;
            turn += CLIENTS;
            sleep(PAUSE).await;
        }
        Ok((turn - first) / CLIENTS)
    };
    let look = async || -> Result<Vec<(f64, f64)>, Halt> {
        let mut samples = Vec::new();
        while started.elapsed() < length {
            samples.push((started.elapsed().as_secs_f64() / 60.0, bench.resident_bytes().await? as f64 / 1024.0));
            sleep(SAMPLE).await;
        }
        Ok(samples)
    };
    let (counts, samples) = tokio::join!(join_all((0..CLIENTS).map(client)), look());
    let (requests, samples) = (counts.into_iter().sum::<Result<usize, _>>()?, samples?);
    let warm = length.as_secs_f64() / 60.0 * WARM_UP_SHARE;
    let steady: Vec<(f64, f64)> = samples.iter().copied().filter(|sample| sample.0 >= warm).collect();
    let line = slope(&steady).ok_or_else(|| Halt::Fail(format!("{} samples are too few for a slope", steady.len())))?;
    let minutes = length.as_secs_f64() / 60.0;
    checks.figure("minutes", minutes, "");
    checks.figure("requests", requests as f64, "");
    checks.figure("memory after warming up", steady[0].1 / 1024.0, "MiB");
    checks.figure("memory at the end", steady[steady.len() - 1].1 / 1024.0, "MiB");
    checks.figure("slope", line.slope, "KiB/min");
    checks.figure("95 % interval from", line.lower(), "KiB/min");
    checks.at_most("95 % interval to", line.upper(), "KiB/min", bench.criteria.leak_max_kib_per_minute);
    checks.figure("slope by requests", line.slope * minutes / requests.max(1) as f64 * 1e3, "KiB/1,000 requests");
    checks.note(format!(
        "least squares through {} samples after {:.0} % to warm up; Newey-West errors, since neighbouring samples are alike",
        line.samples,
        WARM_UP_SHARE * 100.0
    ));
    let ended = Instant::now();
    bench.freed(ended, before).await?;
    Ok(())
}
