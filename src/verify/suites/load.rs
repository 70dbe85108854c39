//! Load: request after request, several clients, a burst, clients that leave.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::sleep;

use super::super::asking::JAY;
use super::super::bench::Bench;
use super::super::case::{Checks, Halt};
use super::super::spread::SortedValues;
use super::latency::{ask, is_answered};
use crate::client::{Api, ClientError, Request};

/// The last third of a run may be so much slower than its first: more is not noise.
const SLOWER_MAX: f64 = 3.0;

pub(super) async fn continuous(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let count = bench.effort.continuous;
    let mut answers: BTreeMap<usize, String> = BTreeMap::new();
    let mut failed = 0;
    for turn in 0..count {
        let heard = ask(bench, turn).await;
        failed += usize::from(!is_answered(&heard));
        if let Ok(heard) = heard {
            let question = turn % super::latency::QUESTIONS.len();
            let first = answers.entry(question).or_insert_with(|| heard.text());
            checks.that(*first == heard.text(), || format!("request {turn} was answered {:?}, before {first:?}", heard.text()));
        }
    }
    checks.figure("requests", count as f64, "");
    checks.same("failed", &failed, &0);
    bench.idle().await?;
    Ok(())
}

pub(super) async fn stable(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let length = bench.effort.stable;
    let started = Instant::now();
    let client = async |first: usize| {
        let mut seen = Vec::new();
        let mut turn = first;
        while started.elapsed() < length {
            let at = started.elapsed().as_secs_f64();
            let heard = ask(bench, turn).await;
            seen.push((at, is_answered(&heard), heard.map_or(f64::NAN, |heard| heard.seconds() * 1e3)));
            turn += 1;
        }
        seen
    };
    let seen: Vec<_> = join_all((0..bench.criteria.concurrency).map(client)).await.into_iter().flatten().collect();
    let failed = seen.iter().filter(|(_, answered, _)| !answered).count();
    let third = length.as_secs_f64() / 3.0;
    let median = |is_meant: &dyn Fn(f64, f64) -> bool| {
        SortedValues::of(seen.iter().filter(|(at, _, ms)| is_meant(*at, *ms)).map(|seen| seen.2)).quantile(0.5)
    };
    // A server that stalls lets nothing begin in the last third: what was under way then counts.
    let (first, last) = (median(&|at, _| at < third), median(&|at, ms| at + ms / 1e3 >= 2.0 * third));
    checks.figure("requests", seen.len() as f64, "");
    checks.figure("clients", bench.criteria.concurrency as f64, "");
    let rate = failed as f64 / seen.len().max(1) as f64;
    checks.that(rate < bench.criteria.error_rate_max, || format!("{failed} of {} requests failed", seen.len()));
    checks.figure("p50 E2E, first third", first, "ms");
    checks.figure("p50 E2E, last third", last, "ms");
    checks.that(last <= first * SLOWER_MAX, || format!("the server became slower: {first:.1} ms, then {last:.1} ms"));
    bench.idle().await?;
    Ok(())
}

pub(super) async fn burst(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let count = bench.effort.burst;
    let body = bench.chat(JAY, &json!({"max_tokens": 64}));
    let request = Request::post_json(Api::Chat.path(), &body);
    let answers: Vec<Result<_, ClientError>> = join_all((0..count).map(|_| bench.client.call(&request))).await;
    let (mut answered, mut refused) = (0, 0);
    for answer in answers {
        let whole = answer?;
        match whole.status {
            200 => answered += 1,
            429 | 503 => {
                refused += 1;
                checks.that(whole.header("retry-after").is_some(), || format!("a {} without Retry-After", whole.status));
            }
            status => checks.that(false, || format!("a request of the burst is answered {status}: {}", whole.text())),
        }
    }
    checks.figure("requests at once", count as f64, "");
    checks.figure("answered", f64::from(answered), "");
    checks.figure("refused", f64::from(refused), "");
    checks.that(answered > 0, || "no request of the burst was answered".to_owned());
    bench.idle().await?;
    let ready = bench.client.call(&Request::get("/health/ready")).await?.status;
    checks.same("/health/ready afterwards", &ready, &200);
    Ok(())
}

pub(super) async fn leaving(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let before = bench.idle().await?;
    let length = bench.effort.leaving;
    let alone = bench.hear(Api::Chat, &bench.chat(JAY, &json!({"stream": true, "max_tokens": 256}))).await?.text();
    let started = Instant::now();
    let stays = async |_: usize| {
        let mut wrong = Vec::new();
        let mut count = 0;
        while started.elapsed() < length {
            match bench.hear(Api::Chat, &bench.chat(JAY, &json!({"stream": true, "max_tokens": 256}))).await {
                Ok(heard) if heard.text() == alone => {}
                Ok(heard) => wrong.push(format!("{:?}", heard.text())),
                Err(error) => wrong.push(error.to_string()),
            }
            count += 1;
        }
        (count, wrong)
    };
    let leaves = async |number: usize| -> Result<usize, Halt> {
        let mut count = 0;
        while started.elapsed() < length {
            let request = Request::post_json(Api::Completions.path(), &bench.endless());
            let opening = bench.open(Api::Completions, &request);
            // Some leave before there is a head, the others in the middle of the text.
            match tokio::time::timeout(Duration::from_millis((count * 7 + number as u64 * 3) % 40), opening).await {
                Ok(stream) => stream?.chunks(1 + count as usize % 5).await?,
                Err(_left) => {}
            }
            count += 1;
            sleep(Duration::from_millis(5)).await;
        }
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    };
    let clients = bench.criteria.concurrency;
    let (stayed, left) = tokio::join!(join_all((0..2).map(stays)), join_all((0..clients).map(leaves)));
    let ended = Instant::now();
    for (_, wrong) in &stayed {
        checks.that(wrong.is_empty(), || format!("{} answers changed or failed, such as {}", wrong.len(), wrong[0]));
    }
    checks.figure("answers of those that stay", stayed.iter().map(|(count, _)| *count).sum::<usize>() as f64, "");
    checks.figure("clients that left", left.into_iter().sum::<Result<usize, _>>()? as f64, "");
    checks.at_most("until free", bench.freed(ended, before).await?, "ms", bench.criteria.cancel_max_ms);
    Ok(())
}
