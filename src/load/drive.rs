//! A run: sends what the schedule says, and gathers what comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;

use super::attempt::{PlannedRequest, Whim, attempt};
use super::body::{PromptMessage, body};
use super::measure::RunShared;
use super::options::{Arrivals, LoadOptions};
use super::prompts::Prompts;
use super::record::{AttemptOutcome, Record};
use super::report::{Gathered, LoadRun, Quantiles, RunSample};
use super::schedule::times;
use super::scrape::scrape;
use crate::client::Client;

const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// The last sample stands for at least as many seconds.
const LAST_SAMPLE_S: f64 = 0.2;
const BAR_EVERY: Duration = Duration::from_millis(250);
/// Clients that leave or cancel do so within this time, until answers have shown how long they
/// take.
const WHIM_MAX: Duration = Duration::from_secs(1);

struct DriveContext {
    client: Client,
    options: LoadOptions,
    prompts: Prompts,
    shared: RunShared,
    stop: AtomicBool,
    next: AtomicUsize,
}

/// Drives one load against one server; its figures, and every request.
///
/// Ctrl-C, or failures in a row, end it early: the run is then marked as partial.
pub async fn drive(client: &Client, options: &LoadOptions, prompts: &Prompts) -> (LoadRun, Vec<Record>) {
    warm_up(client, options, prompts).await;
    let world = Arc::new(DriveContext {
        client: client.clone(),
        options: options.clone(),
        prompts: prompts.clone(),
        shared: RunShared::new(Instant::now()),
        stop: AtomicBool::new(false),
        next: AtomicUsize::new(0),
    });
    let (samples, shown) = (tokio::spawn(sample(Arc::clone(&world))), tokio::spawn(show(Arc::clone(&world))));
    let sending = async {
        match options.arrivals {
            Arrivals::Closed { concurrency } => closed(&world, concurrency).await,
            _ => open(&world).await,
        }
    };
    let partial = tokio::select! {
        () = sending => None,
        _ = tokio::signal::ctrl_c() => {
            // They are neither completed nor failed, and stand in no figure but the rate of pieces.
            Some(format!("interrupted with {} requests under way", world.shared.in_flight.load(Ordering::Relaxed)))
        }
    };
    let wall_s = world.shared.started.elapsed().as_secs_f64();
    let hopeless = world.shared.is_hopeless(options.failures_max);
    world.stop.store(true, Ordering::Relaxed);
    // Its last sample is taken before it ends.
    let samples = samples.await.unwrap_or_default();
    let _ = shown.await;
    let sums = world.shared.sums();
    let partial = partial.or_else(|| {
        let last = sums.last_failure.as_deref().unwrap_or("no reason given");
        hopeless.then(|| format!("{} requests failed in a row, the last with: {last}", options.failures_max))
    });
    let mut records = sums.records.clone();
    records.sort_by_key(|record| (record.index, record.turn));
    let url = client.url().to_string();
    let gathered = Gathered { url, partial, wall_s, records: &records, itl: &sums.itl, ttft: &sums.ttft, samples };
    (LoadRun::of(gathered, options), records)
}

/// Requests that are not counted: they load what a server loads late.
async fn warm_up(client: &Client, options: &LoadOptions, prompts: &Prompts) {
    let shared = RunShared::new(Instant::now());
    for index in 0..options.warmup {
        let history = opening(prompts, usize::MAX - index, 0);
        let place = PlannedRequest { index, turn: 0, origin: Instant::now() };
        let asked = body(options, &history, index, 0);
        Box::pin(attempt(client, options, asked, place, Whim::Stay, &shared)).await;
    }
}

fn opening(prompts: &Prompts, index: usize, turn: usize) -> Vec<PromptMessage> {
    let prefix = prompts.prefix().map(|text| PromptMessage { role: "system", text: text.to_owned() });
    let user = PromptMessage { role: "user", text: prompts.text(index, turn) };
    prefix.into_iter().chain([user]).collect()
}

impl DriveContext {
    /// The next conversation, unless the load is over.
    fn take(&self) -> Option<usize> {
        let late = self.options.duration.is_some_and(|most| self.shared.started.elapsed() >= most);
        if late || self.is_over() {
            return None;
        }
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        self.options.requests_max.is_none_or(|most| index < most).then_some(index)
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.shared.is_hopeless(self.options.failures_max)
    }

    fn whim(&self, index: usize, turn: usize) -> Whim {
        let key = (index as u64).wrapping_mul(0xD134_2543_DE82_EF95) ^ turn as u64;
        let mut random = SmallRng::seed_from_u64(self.options.seed ^ key);
        let (draw, part) = (random.random::<f64>(), random.random::<f64>());
        if draw >= self.options.disconnect_rate + self.options.abort_rate {
            return Whim::Stay;
        }
        // Up to a quarter longer than answers take, so that every phase of one is met, and its end
        // too.
        let after = self.answers_take().mul_f64(1.25 * part);
        if draw < self.options.disconnect_rate { Whim::Leave(after) } else { Whim::Cancel(after) }
    }

    /// How long answers take, as far as is known.
    fn answers_take(&self) -> Duration {
        let sums = self.shared.sums();
        let recent = sums.records.iter().rev().take(64).filter_map(|record| record.e2e_ms);
        let (count, total) = recent.fold((0_u32, 0.0), |(count, total), e2e| (count + 1, total + e2e));
        if count == 0 { WHIM_MAX } else { Duration::from_secs_f64(total / f64::from(count) / 1e3) }
    }

    /// All requests of a conversation, one after the other; the first counts from `origin`. Whether
    /// the last one failed.
    async fn converse(&self, index: usize, origin: Instant) -> bool {
        let mut history = opening(&self.prompts, index, 0);
        for turn in 0..self.options.turns {
            let origin = if turn == 0 { origin } else { Instant::now() };
            let place = PlannedRequest { index, turn, origin };
            self.shared.in_flight.fetch_add(1, Ordering::Relaxed);
            let asked = body(&self.options, &history, index, turn);
            let whim = self.whim(index, turn);
            let (record, text) = Box::pin(attempt(&self.client, &self.options, asked, place, whim, &self.shared)).await;
            self.shared.in_flight.fetch_sub(1, Ordering::Relaxed);
            if record.outcome != AttemptOutcome::Completed || self.is_over() {
                return record.outcome == AttemptOutcome::Failed;
            }
            history.push(PromptMessage { role: "assistant", text });
            history.push(PromptMessage { role: "user", text: self.prompts.text(index, turn + 1) });
        }
        false
    }
}

/// So many users, each with one conversation after the other.
async fn closed(world: &Arc<DriveContext>, concurrency: usize) {
    let mut users = JoinSet::new();
    for _ in 0..concurrency {
        let world = Arc::clone(world);
        users.spawn(async move {
            while let Some(index) = world.take() {
                if world.converse(index, Instant::now()).await {
                    // A server that refuses everything at once must not keep this machine busy.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        });
    }
    while users.join_next().await.is_some() {}
}

/// Conversations at their times, however many are under way.
async fn open(world: &Arc<DriveContext>) {
    let mut talks = JoinSet::new();
    let mut due = due(&world.options, world.shared.started);
    while let Some((index, origin)) = due.recv().await {
        if world.is_over() {
            break;
        }
        let world = Arc::clone(world);
        talks.spawn(async move { world.converse(index, origin).await });
        while talks.try_join_next().is_some() {}
    }
    while talks.join_next().await.is_some() {}
}

/// Each conversation at the moment that is meant for it. tokio's timers round up to a whole
/// millisecond, which would be counted as the server's: p50 1.2 ms, and 0.2 ms with a thread that
/// sleeps. It ends after the last, or with the first that is not waited for.
fn due(options: &LoadOptions, started: Instant) -> UnboundedReceiver<(usize, Instant)> {
    let (sender, due) = unbounded_channel();
    let (arrivals, seed) = (options.arrivals, options.seed);
    let (duration, requests_max) = (options.duration, options.requests_max.unwrap_or(usize::MAX));
    thread::spawn(move || {
        for (index, at) in times(arrivals, seed).take(requests_max).enumerate() {
            if duration.is_some_and(|most| at >= most.as_secs_f64()) {
                break;
            }
            let origin = started + Duration::from_secs_f64(at);
            thread::sleep(origin.saturating_duration_since(Instant::now()));
            if sender.send((index, origin)).is_err() {
                break;
            }
        }
    });
    due
}

/// Looks at the run, and at the server's own figures, every second, and once more at its end.
async fn sample(world: Arc<DriveContext>) -> Vec<RunSample> {
    let mut samples: Vec<RunSample> = Vec::new();
    let (mut has_metrics, mut then, mut before) = (true, world.shared.started, 0);
    loop {
        let is_over = world.stop.load(Ordering::Relaxed);
        let asks = has_metrics && !is_over;
        let scraped = if asks { tokio::time::timeout(SAMPLE_EVERY, scrape(&world.client)).await.ok() } else { None };
        // A server that has none is not asked again; one that is too slow to answer is.
        has_metrics &= scraped.is_none_or(|scraped| scraped.is_some());
        let scraped = scraped.flatten().unwrap_or_default();
        let (now, pieces) = (Instant::now(), world.shared.pieces.load(Ordering::Relaxed));
        let span_s = (now - then).as_secs_f64();
        // A rate of a few milliseconds would be noise.
        if !is_over || span_s >= LAST_SAMPLE_S || samples.len() < 2 {
            samples.push(RunSample {
                at_s: (now - world.shared.started).as_secs_f64(),
                pieces_per_s: if samples.is_empty() { 0.0 } else { (pieces - before) as f64 / span_s.max(1e-9) },
                in_flight: world.shared.in_flight.load(Ordering::Relaxed),
                running: scraped.running,
                waiting: scraped.waiting,
                kv: scraped.kv,
            });
            // Before the first there is no time to speak of: what came in it counts into the next.
            if samples.len() > 1 {
                (then, before) = (now, pieces);
            }
        }
        if is_over {
            return samples;
        }
        let next = now + SAMPLE_EVERY;
        while Instant::now() < next && !world.stop.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The bar, with what is known so far.
async fn show(world: Arc<DriveContext>) {
    let draw = if world.options.progress { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let talks = world.options.requests_max.map(|count| (count * world.options.turns) as u64);
    let bar = ProgressBar::with_draw_target(talks, draw);
    let form =
        if talks.is_some() { "{bar:20} {pos}/{len} {elapsed} {wide_msg}" } else { "{spinner} {pos} {elapsed} {wide_msg}" };
    bar.set_style(ProgressStyle::with_template(form).expect("a template that indicatif knows"));
    let (mut then, mut before) = (Instant::now(), 0);
    while !world.stop.load(Ordering::Relaxed) {
        tokio::time::sleep(BAR_EVERY).await;
        let (now, pieces) = (Instant::now(), world.shared.pieces.load(Ordering::Relaxed));
        let rate = (pieces - before) as f64 / (now - then).as_secs_f64();
        (then, before) = (now, pieces);
        let ttft = Quantiles::of_histogram(&world.shared.sums().ttft);
        let (in_flight, failed) = (world.shared.in_flight.load(Ordering::Relaxed), world.shared.failed.load(Ordering::Relaxed));
        let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
        bar.set_position(world.shared.ended.load(Ordering::Relaxed) as u64);
        bar.set_message(format!(
            "{in_flight} under way, TTFT {}, ~{rate:.0} tokens/s{failed}",
            ttft.map_or_else(|| "-".to_owned(), |ttft| format!("p50 {:.0} p95 {:.0} ms", ttft.p50, ttft.p95))
        ));
    }
    bar.finish_and_clear();
}
