//! Servers that were made up, each bad in just one way: exactly the tests that are there for it
//! fail, and say why.

mod answers;
mod fault;
mod fields;
mod server;

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use super::bench::Target;
use super::case::{Level, Verdict};
use super::criteria::{Criteria, Range};
use super::effort::Effort;
use super::report::{Tested, VerifyReport};
use super::run::{RunProgress, cases, open, run};
use fault::Fault;
use server::MadeUpServer;

/// Criteria that a server of this machine meets however busy the machine is, and that
/// [`server::LATE`] does not.
fn criteria() -> Criteria {
    Criteria {
        stream_seconds: Range { least: 0.4, most: 1.7 },
        pace_ms: Some(10),
        ttft_p95_ms: 1_000.0,
        e2e_p95_ms: 1_400.0,
        cancel_max_ms: 1_000.0,
        concurrency: 3,
        ..Criteria::default()
    }
}

/// A second's worth of each test.
fn effort() -> Effort {
    Effort {
        requests: 20,
        continuous: 10,
        stable: Duration::from_millis(900),
        burst: 12,
        leaving: Duration::from_millis(300),
        cancelled: 2,
        tabs: 1,
        growth_warm_up: 2,
        growth: 20,
        leak_warm_up: 6,
        leak: Duration::from_millis(600),
        leak_sample: Duration::from_millis(20),
        freed_max: Duration::from_secs(4),
    }
}

/// Runs the tests, all of them or the one named, against a server that is bad in this way in the
/// test named, or in all.
fn judged(fault: Fault, in_case: Option<&str>) -> VerifyReport {
    let only: Vec<String> = in_case.map(str::to_owned).into_iter().collect();
    let skip = if only.is_empty() { ["MC-5", "MC-8", "ST01-5"].map(str::to_owned).to_vec() } else { Vec::new() };
    let cases = cases(Level::Full, &only, &skip).unwrap();
    let server = MadeUpServer::start(fault, cases.iter().map(|case| case.id).find(|id| Some(*id) == in_case));
    let target = Target {
        url: server.url.clone(),
        browser: Some(PathBuf::from("/no/browser")),
        stream_prompt: Some("Count from 1 to 90".to_owned()),
        ..Target::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut bench = open(target, Level::Full, criteria()).await.unwrap();
        bench.effort = effort();
        let enter = &mut |progress: RunProgress<'_>| {
            if let RunProgress::Started(case) = progress {
                server.enter(case.id);
            }
        };
        run(&bench, &cases, std::future::pending(), enter).await
    })
}

/// A way to be bad, in which test (in all if none is named), which tests then fail, and what each
/// of them says.
struct BadServer(Fault, Option<&'static str>, &'static [&'static str], &'static str);

const EVERYWHERE: [BadServer; 48] = [
    BadServer(Fault::Unhealthy, None, &["MC-2"], "status: String(\"starting\")"),
    BadServer(Fault::NotReady, None, &["MC-2", "LOAD-3", "STR-7"], "/health/ready"),
    BadServer(Fault::InnerTag, None, &["OBS01-1"], "/health says dtype"),
    BadServer(Fault::NoQps, None, &["OBS01-1"], "no stats.qps"),
    BadServer(Fault::NoModelMetrics, None, &["OBS01-2"], "model_metrics has no made-up"),
    BadServer(Fault::ModelTotalTwice, None, &["OBS01-2"], "total: Some"),
    BadServer(Fault::HitsHalved, None, &["PF01-4"], "hits, misses and builds of /stats"),
    BadServer(Fault::CancelledUncounted, None, &["ST01-7"], "cancelled streams that /stats counts"),
    BadServer(Fault::RequestsUncounted, None, &["OBS01-4", "STR-7"], "that /stats counts|requests_total of /stats grew by"),
    BadServer(Fault::SuccessUncounted, None, &["OBS01-4"], "requests_success of /stats grew by"),
    BadServer(Fault::WrongLabel, None, &["OBS01-3"], "stream_active has the dtype Some(\"bf16\")"),
    BadServer(Fault::HelpTwice, None, &["PF01-4", "OBS01-3", "OBS01-4"], "/metrics: line"),
    BadServer(Fault::MetricsHitsMore, None, &["PF01-4"], "prompt_cache_hits of /metrics"),
    BadServer(Fault::MetricsRequestsUncounted, None, &["OBS01-4"], "requests_total[] grew by"),
    BadServer(Fault::DecodeTokensUncounted, None, &["OBS01-4"], "llm_decode_tokens_total grew by 0"),
    BadServer(Fault::ActiveStuck, None, &["OBS01-4"], "requests_active of an idle server"),
    BadServer(Fault::UsageWrong, None, &["MC-3"], "usage does not add up"),
    BadServer(Fault::FinishIsLength, None, &["MC-3"], "finish_reason"),
    BadServer(Fault::StatusOfNoJson, None, &["MC-7"], "the status for a body that is no JSON"),
    BadServer(Fault::RefusesWithoutMessage, None, &["MC-7", "CL-7", "STR-6"], "message"),
    BadServer(Fault::NoVersion, None, &["PF01-2"], "expected a prompt_version"),
    BadServer(Fault::OtherVersionInStream, None, &["PF01-2"], "another prompt_version"),
    BadServer(Fault::NoTokensBefore, None, &["PF01-2"], "no tokens_before"),
    BadServer(Fault::NeverHits, None, &["PF01-3", "PF01-4"], "hit rate: 0|misses: 20, expected 4"),
    BadServer(
        Fault::LosesPiece,
        None,
        &["MC-4", "ST01-7", "CL-3"],
        "the joined stream|the next answer is|tokens listed in the stream",
    ),
    BadServer(Fault::NoStart, None, &["ST01-1"], "the first event"),
    BadServer(Fault::OtherIdAtEnd, None, &["ST01-1"], "the same request_id"),
    BadServer(Fault::NoEventNames, None, &["ST01-1"], "an event's name beside its type"),
    BadServer(Fault::LosesDone, None, &["PF01-2", "ST01-1", "ST01-2"], "done, cancelled or error"),
    BadServer(Fault::NoSpaceAfterData, None, &["ST01-2"], "/v1/completions: no frame"),
    BadServer(Fault::OtherMediaType, None, &["ST01-2"], "the type of /generate/stream"),
    BadServer(Fault::EndsCancelledAsDone, None, &["MC-6", "ST01-4"], "the stream's last event"),
    BadServer(Fault::CancelsTwice, None, &["MC-6", "ST01-4"], "the answer to a second /cancel"),
    BadServer(Fault::GathersMuch, None, &["STR-3"], "at least 50 expected"),
    BadServer(Fault::GathersNothing, None, &["STR-3", "STR-5"], "at most 100 expected|gathering made"),
    BadServer(Fault::ExtraField, None, &["STR-4"], "an event is"),
    BadServer(Fault::OffsetsInBytes, None, &["CL-1"], "has the offset"),
    BadServer(Fault::ListsBehindStop, None, &["CL-2"], "its listed tokens"),
    BadServer(Fault::StopsNoStream, None, &["CL-2"], "the streamed text before the stop string"),
    BadServer(Fault::OtherLogprobsInStream, None, &["CL-3"], "is streamed, and"),
    BadServer(Fault::CallsAnyway, None, &["CL-4"], "[2, 2], expected [0, 0]"),
    BadServer(Fault::CallsTwice, None, &["CL-5"], "[2, 2], expected [1, 1]"),
    BadServer(Fault::IgnoresConstraints, None, &["CL-6"], "guided_choice asks for"),
    BadServer(Fault::LongIsNoContext, None, &["CL-7"], "which names no context length"),
    BadServer(Fault::OutlivesReset, None, &["CL-8"], "until free"),
    BadServer(Fault::TakesUpgrade, None, &["CL-9"], "says connection: upgrade"),
    BadServer(Fault::ChunksForOld, None, &["CL-10"], "has transfer-encoding: chunked"),
    BadServer(Fault::ServesPoems, None, &["STR-6"], "an unknown model_type is answered 200"),
];

const fn one(fault: Fault, case: &'static [&'static str; 1], says: &'static str) -> BadServer {
    BadServer(fault, Some(case[0]), case, says)
}

/// What several tests would find is shown to each by itself: the server is bad while that one runs.
const IN_ONE: [BadServer; 50] = [
    one(Fault::SlowFirstTwice, &["PERF-1"], "p95 TTFT"),
    one(Fault::SlowEnd, &["PERF-1"], "p95 E2E"),
    one(Fault::ErrorEvent, &["PERF-1"], "2 of 20 requests failed"),
    one(Fault::BreaksOff, &["PERF-1"], "2 of 20 requests failed"),
    one(Fault::Status500, &["PERF-1"], "2 of 20 requests failed"),
    one(Fault::NoFinish, &["PERF-1"], "no request was answered"),
    one(Fault::ErrorEvent, &["LOAD-1"], "failed: 1, expected 0"),
    one(Fault::BreaksOff, &["LOAD-1"], "failed: 1, expected 0"),
    one(Fault::AnswerChanges, &["LOAD-1"], "was answered \"Another.\""),
    one(Fault::ErrorEvent, &["LOAD-2"], "requests failed"),
    one(Fault::SlowsDown, &["LOAD-2"], "the server became slower"),
    one(Fault::Stalls, &["LOAD-2"], "the server became slower"),
    one(Fault::Status500, &["LOAD-3"], "is answered 500"),
    one(Fault::RefusesWithoutRetry, &["LOAD-3"], "a 429 without Retry-After"),
    one(Fault::RefusesAll, &["LOAD-3"], "no request of the burst was answered"),
    one(Fault::AnswerChanges, &["LOAD-4"], "answers changed or failed"),
    one(Fault::BreaksOff, &["LOAD-4"], "answers changed or failed"),
    one(Fault::GrowsByRequest, &["LOAD-5"], "95 % interval to"),
    one(Fault::Swings, &["LOAD-5"], "95 % interval to"),
    one(Fault::GrowsByStream, &["ST01-6"], "growth:"),
    one(Fault::FreesLate, &["MC-6"], "max until free"),
    one(Fault::FreesLate, &["ST01-3"], "max until free"),
    one(Fault::FreesLate, &["ST01-4"], "max until free"),
    one(Fault::FreesLate, &["ST01-7"], "until free"),
    one(Fault::FreesLate, &["LOAD-4"], "until free"),
    one(Fault::FreesLate, &["STR-7"], "until free"),
    one(Fault::KeepsBlocks, &["ST01-3"], "it still holds"),
    one(Fault::KeepsDescriptors, &["ST01-3"], "it still holds"),
    one(Fault::KeepsDescriptors, &["ST01-7"], "it still holds"),
    one(Fault::PausesLong, &["ST01-4"], "ms after /cancel"),
    one(Fault::IgnoresCancel, &["ST01-4"], "the stream's last event"),
    one(Fault::TokenIdsChange, &["PF01-1"], "/choices/0/token_ids of"),
    one(Fault::ContentChanges, &["PF01-1"], "/choices/0/message/content of"),
    one(Fault::KeyChanges, &["PF01-1"], "the cache_key of"),
    one(Fault::KeysAlike, &["PF01-1"], "different keys of different questions"),
    one(Fault::KeyWithoutTemperature, &["PF01-1"], "the temperature is not in the cache_key"),
    one(Fault::DrawnChanges, &["PF01-1"], "a drawn answer changed"),
    one(Fault::OtherCode, &["MC-3"], "expected print(\"Jay\") in it"),
    one(Fault::OtherCode, &["ST01-1"], "the tokens say"),
    one(Fault::OtherCode, &["STR-7"], "expected print(\"Jay\") in it"),
    one(Fault::NoPython, &["STR-2"], "no valid Python"),
    one(Fault::EmptyAnswer, &["STR-1"], "no chunk came"),
    one(Fault::PausesLong, &["STR-3"], "s, at most 1.7 expected"),
    one(Fault::NoComments, &["STR-4"], "model_type comment is not served"),
    one(Fault::GatheringChanges, &["STR-5"], "gathering changed the text"),
    one(Fault::CutsLetters, &["STR-5"], "letters of the chunks"),
    one(Fault::ControlToken, &["STR-5"], "a control token was sent"),
    // What is allowed passes: one request in twenty is beyond the 95 %, and a refusal that says
    // when to come again is no failure.
    BadServer(Fault::SlowFirstOnce, Some("PERF-1"), &[], ""),
    BadServer(Fault::RefusesHalf, Some("LOAD-3"), &[], ""),
    BadServer(Fault::Good, None, &[], ""),
];

/// What is wrong with the verdicts on a row's server.
fn check(row: &BadServer) -> Result<(), String> {
    let BadServer(fault, in_case, fails, says) = row;
    let report = judged(*fault, *in_case);
    let wrong: Vec<&Tested> = report.tests.iter().filter(|tested| tested.outcome.verdict != Verdict::Pass).collect();
    let ids: Vec<&str> = wrong.iter().map(|tested| tested.id).collect();
    let texts: Vec<&str> = wrong.iter().map(|tested| tested.outcome.message.as_str()).collect();
    let said = texts.iter().all(|text| says.split('|').any(|part| text.contains(part)));
    let failed = wrong.iter().all(|tested| tested.outcome.verdict == Verdict::Fail);
    if ids == *fails && said && failed && !report.tests.is_empty() && report.cut_short.is_none() {
        return Ok(());
    }
    Err(format!("{fault:?} in {in_case:?}: expected {fails:?} to fail with {says:?}; {ids:?} did, with {texts:?}"))
}

/// Most of the time is waiting, so several rows are tried at once.
fn check_all(rows: &[BadServer]) {
    let (next, wrong) = (Mutex::new(rows.iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some(row) = { next.lock().unwrap().next() } {
                    if let Err(message) = check(row) {
                        wrong.lock().unwrap().push(message);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

#[test]
fn a_server_that_is_bad_in_one_way_fails_exactly_the_tests_that_are_there_for_it() {
    check_all(&EVERYWHERE);
}

#[test]
fn a_server_that_is_bad_while_one_test_runs_fails_that_test() {
    check_all(&IN_ONE);
}
