//! Loads whose figures are known without a simulation.

use super::*;
use crate::batch::StepWork;
use crate::cost::{CostModel, Figure, StepCosts};
use crate::load::{Arrivals, GoodputTargets};
use crate::profile::Profile;

const ONE: TokenRange = TokenRange { from: 1, to: 1 };

/// A server whose windows are closed, so that nothing but steps takes time.
pub(super) fn options(step: [f64; 5], keys: &[(&str, i64)]) -> FleetOptions {
    let mut cost = CostModel::load("h200-20b").expect("it is built in");
    (cost.roof, cost.step) = (None, StepCosts::from_terms(step));
    cost.engine.steps_max = Figure(1.0);
    let mut profile = Profile::load("balanced").expect("it is built in");
    for (key, value) in [("prefill_window_ms", 0), ("decode_window_ms", 0)].iter().chain(keys) {
        profile = profile.overlaid("batch", key, toml::Value::Integer(*value)).expect("within bounds");
    }
    FleetOptions {
        cost,
        profile,
        prefix_cache: true,
        kv_bytes: Some(1 << 28),
        replicas: 1,
        routing: Routing::RoundRobin,
        targets: GoodputTargets::default(),
    }
}

pub(super) fn made_up(arrivals: Arrivals, conversations: usize, prompt: TokenRange, output: TokenRange) -> MadeUpLoad {
    MadeUpLoad { arrivals, conversations, prompt, output, prefix_tokens: 0, turns: 1, think_micros: 0, seed: 1 }
}

fn request(at_micros: u64, prompt_tokens: u32, output_tokens: u32, session: Option<u64>) -> TraceRequest {
    TraceRequest { at_micros, prompt_tokens, output_tokens, session }
}

/// 600 tokens in slices of 256 are three steps, then two more for the second and third token.
#[test]
fn a_request_alone_takes_what_the_cost_model_says_to_the_microsecond() {
    let mut options = options([100.0, 2.0, 30.0, 0.5, 0.01], &[("prefill_slice_tokens", 256)]);
    (options.cost.request.fixed_us, options.cost.request.prompt_token_us) = (Figure(40.0), Figure(0.25));
    for steps_max in [1.0, 2.0] {
        options.cost.engine.steps_max = Figure(steps_max);
        let report = run(&OfferedLoad::Trace(vec![request(0, 600, 3, None)]), &options);
        let pairs = |from: u64, to: u64| (from + 1..=to).sum::<u64>();
        let prefill = |from: u64, to: u64| StepWork {
            prefill_tokens: to - from,
            decode_sequences: 0,
            context_tokens: to,
            prefill_pairs: pairs(from, to),
        };
        let decode = |end: u64| StepWork { decode_sequences: 1, context_tokens: end, ..StepWork::default() };
        let time = |works: &[StepWork]| works.iter().map(|work| options.cost.step_micros(work)).sum::<u64>();
        let first = 190 + time(&[prefill(0, 256), prefill(256, 512), prefill(512, 600)]);
        let rest = time(&[decode(601), decode(602)]);
        let (ttft, e2e) = (report.ttft.expect("one"), report.e2e.expect("one"));
        assert_eq!((ttft.count, ttft.max * 1e3, e2e.max * 1e3), (1, first as f64, (first + rest) as f64));
        assert_eq!((report.steps, report.itl.expect("two").count, report.output_tokens), (5, 2, 3));
        assert_eq!(report.tpot.expect("one").max, rest as f64 / 2e3);
    }
}

/// One sequence at a time, each of one step of 10 ms: a queue of fixed service time. At a load of
/// 0.5 the mean wait is that time times `0.5 / (2 * (1 - 0.5))`, at 0.8 twice that time.
/// Source: Pollaczek and Khinchine.
#[test]
fn a_queue_of_fixed_service_time_waits_as_long_as_it_must() {
    let mut options = options([10_000.0, 0.0, 0.0, 0.0, 0.0], &[("running_max_count", 1)]);
    options.profile = options.profile.overlaid("queue", "waiting_max_count", toml::Value::Integer(1 << 20)).expect("valid");
    for (rate, wait_ms) in [(50.0, 5.0), (80.0, 20.0)] {
        let demand = OfferedLoad::MadeUp(made_up(Arrivals::Poisson { rate }, 3_000, ONE, ONE));
        let report = run(&demand, &options);
        let mean = report.ttft.expect("all").mean - 10.0;
        assert!((mean / wait_ms - 1.0).abs() < 0.25, "at {rate}/s: {mean} ms, {wait_ms} expected");
        assert!((report.busy_share - rate / 100.0).abs() < 0.04, "{}", report.busy_share);
        assert_eq!(report.counts.completed, 3_000);
    }
}

#[test]
fn the_same_seed_gives_the_same_figures_and_another_one_others() {
    let mut options = options([500.0, 5.0, 100.0, 0.05, 0.0], &[]);
    (options.replicas, options.routing) = (3, Routing::LeastLoaded);
    options.targets.ttft_ms = Some(3.0);
    let range = TokenRange { from: 10, to: 900 };
    let demand = |seed| {
        let arrivals = Arrivals::Poisson { rate: 60.0 };
        let load = made_up(arrivals, 100, range, TokenRange { from: 1, to: 60 });
        OfferedLoad::MadeUp(MadeUpLoad { turns: 2, prefix_tokens: 100, think_micros: 5_000, seed, ..load })
    };
    let report = run(&demand(7), &options);
    assert_eq!(report, run(&demand(7), &options));
    assert_ne!(report, run(&demand(8), &options));
    assert_eq!((report.counts.arrived, report.counts.completed), (200, 200));
    let share = report.good_share.expect("there is a target");
    assert!(share > 0.05 && share < 1.0, "the target tells requests apart: {share}");
}

#[test]
fn users_of_a_closed_loop_are_never_more_than_they_are() {
    let options = options([1_000.0, 1.0, 10.0, 0.0, 0.0], &[]);
    let load = made_up(Arrivals::Closed { concurrency: 4 }, 50, TokenRange { from: 20, to: 40 }, TokenRange { from: 5, to: 9 });
    let report = run(&OfferedLoad::MadeUp(load), &options);
    assert_eq!((report.counts.arrived, report.counts.completed), (50, 50));
    assert!(report.decoding_per_step <= 4.0 && report.decoding_per_step > 2.5, "{}", report.decoding_per_step);
    assert!(report.busy_share > 0.99, "a user that has its answer asks again at once: {}", report.busy_share);
}

/// The second request of a session begins as the first did, answer included, and only the rest is
/// computed; without the cache, and in another session, all of it is.
#[test]
fn a_session_finds_its_history_computed() {
    let session = |other| OfferedLoad::Trace(vec![request(0, 1_600, 32, Some(5)), request(9_000_000, 1_680, 1, Some(other))]);
    let options = options([100.0, 10.0, 10.0, 0.0, 0.0], &[]);
    let found = |demand: &OfferedLoad, prefix_cache: bool| {
        let report = run(demand, &FleetOptions { prefix_cache, ..options.clone() });
        (report.prefix_cache.map(|found| found.hit_tokens), report.ttft.expect("two").p50)
    };
    // 1,631 tokens are computed by the first; whole blocks of 16 of them are found.
    let (hit_tokens, ttft_ms) = found(&session(5), true);
    assert_eq!(hit_tokens, Some(1_616));
    assert!(ttft_ms < 1.0, "{ttft_ms}");
    for (demand, prefix_cache, expected) in [(session(6), true, Some(0)), (session(5), false, None)] {
        let (hit_tokens, ttft_ms) = found(&demand, prefix_cache);
        assert_eq!(hit_tokens, expected);
        assert!(ttft_ms > 16.0, "{ttft_ms}");
    }
}

/// Turns go to any replica in turn, or to the one that has the history.
#[test]
fn a_router_that_knows_caches_finds_more_computed() {
    let load = made_up(Arrivals::Poisson { rate: 5.0 }, 40, TokenRange { from: 200, to: 300 }, TokenRange { from: 20, to: 30 });
    let demand = OfferedLoad::MadeUp(MadeUpLoad { turns: 5, think_micros: 100_000, ..load });
    let report = |routing| {
        let options = FleetOptions { replicas: 4, routing, ..options([500.0, 5.0, 50.0, 0.0, 0.0], &[]) };
        run(&demand, &options)
    };
    let rate = |routing| report(routing).prefix_cache.expect("it is on").hit_rate;
    let [round_robin, least_loaded, cache_aware] = Routing::ALL.map(rate);
    assert!(cache_aware > 0.6, "{cache_aware}");
    assert!(cache_aware > 2.0 * round_robin && cache_aware > 1.1 * least_loaded, "{round_robin} {least_loaded} {cache_aware}");
    for routing in Routing::ALL {
        let counts = report(routing).counts;
        assert_eq!((counts.arrived, counts.completed), (200, 200), "{routing:?}");
    }
}

#[test]
fn what_cannot_be_served_and_what_is_too_much_is_counted() {
    let mut options = options([50_000.0, 0.0, 0.0, 0.0, 0.0], &[("running_max_count", 1)]);
    options.profile = options.profile.overlaid("queue", "waiting_max_count", toml::Value::Integer(2)).expect("valid");
    let mut requests: Vec<TraceRequest> = (0..6).map(|at| request(at, 10, 1, None)).collect();
    requests.push(request(10, 131_072, 1, None));
    let report = run(&OfferedLoad::Trace(requests), &options);
    let counts = report.counts;
    // One runs and two wait.
    assert_eq!((counts.arrived, counts.completed, counts.refused, counts.impossible), (7, 3, 3, 1), "{counts:?}");
    let table = report.table();
    assert!(
        table.starts_with("simulated, not measured: cost model h200-20b (estimate), profile balanced, 1 server"),
        "{table}"
    );
    assert!(table.contains("7 arrived, 3 completed, 3 refused (429), 1 that can never be served, 0 timed out"), "{table}");
}

#[test]
fn little_memory_makes_sequences_give_way() {
    let kv_bytes = Some(24_576 * 3_000);
    let options = FleetOptions { kv_bytes, ..options([500.0, 5.0, 50.0, 0.0, 0.0], &[("growth_reserve_percent", 0)]) };
    let load =
        made_up(Arrivals::Closed { concurrency: 24 }, 100, TokenRange { from: 60, to: 90 }, TokenRange { from: 150, to: 250 });
    let report = run(&OfferedLoad::MadeUp(load), &options);
    assert_eq!(report.counts.completed, 100);
    assert!(report.preemptions > 0 && report.kv.max_share > 0.9, "{} {:?}", report.preemptions, report.kv);
    assert!(report.kv.mean_share < report.kv.max_share && report.kv.mean_share > 0.3, "{:?}", report.kv);
}

/// A prompt of 16,384 tokens comes while four answers run on a CPU with gpt-oss-20b, or eight on an
/// H200; the gaps of those answers, and how long the prompt takes.
#[test]
fn a_long_prompt_leaves_the_gaps_of_answers_below_twice_what_they_are() {
    let latency_first = Profile::load("latency_first").expect("it is built in");
    let unbounded = latency_first.overlaid("batch", "itl_target_ms", toml::Value::Integer(0)).expect("within bounds");
    let slow = options([110_000.0, 10_000.0, 45_000.0, 2.0, 0.05], &[]);
    let quick = FleetOptions { cost: CostModel::load("h200-20b").expect("it is built in"), ..slow.clone() };
    let figures = |options: &FleetOptions, profile: &Profile, streams: usize, long: bool| {
        let mut requests: Vec<TraceRequest> = (0..streams).map(|_| request(0, 100, 900, None)).collect();
        requests.extend(long.then(|| request(1_000_000, 16_384, 1, None)));
        let options =
            FleetOptions { kv_bytes: Some(1 << 30), prefix_cache: false, profile: profile.clone(), ..options.clone() };
        let report = run(&OfferedLoad::Trace(requests), &options);
        assert_eq!(report.counts.completed, (streams + usize::from(long)) as u64);
        (report.itl.expect("answers").p99, report.ttft.expect("all").max)
    };
    let (alone, _) = figures(&slow, &latency_first, 4, false);
    let (disturbed, long_before) = figures(&slow, &unbounded, 4, true);
    let (steady, long_after) = figures(&slow, &latency_first, 4, true);
    assert!(disturbed > 5.0 * alone, "without a target gaps grow from {alone} to {disturbed} ms");
    assert!(steady < 2.0 * alone, "{alone}, {steady} ms");
    assert!(long_after < 2.5 * long_before, "the prompt takes {long_before}, then {long_after} ms");
    let (alone, _) = figures(&quick, &latency_first, 8, false);
    let (_, long_before) = figures(&quick, &unbounded, 8, true);
    let (steady, long_after) = figures(&quick, &latency_first, 8, true);
    assert!(steady < 2.0 * alone, "{alone}, {steady} ms");
    assert!(long_after < 1.1 * long_before, "where steps are quick the prompt loses nothing: {long_before}, {long_after} ms");
}
