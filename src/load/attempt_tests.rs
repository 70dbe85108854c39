//! Records are right on answers whose every moment is known.

use super::super::made_up::{options, slow_quantile};
use super::super::options::Arrivals;
use super::super::report::{Gathered, LoadRun, Quantiles, TokenCount};
use super::*;
use crate::client::{ErrorStatus, ErrorText};

fn text() -> String {
    "word ".to_owned()
}

/// An answer that was made up: all times in microseconds, `sent` from the origin and the others
/// from the sending.
#[derive(Clone)]
struct Answer {
    sent: u64,
    first_byte: u64,
    pieces: Vec<u64>,
    done: u64,
    usage: Option<u64>,
}

impl Answer {
    /// The first two pieces are reasoning.
    fn seen(&self, origin: Instant, shared: &RunShared) -> AnswerSeen {
        let at = |us: u64| origin + Duration::from_micros(self.sent + us);
        let mut seen = AnswerSeen { first_byte: Some(at(self.first_byte)), ..AnswerSeen::default() };
        for (index, piece) in self.pieces.iter().enumerate() {
            let event = if index < 2 {
                AnswerEvent::Reasoning { choice: 0, text: text() }
            } else {
                AnswerEvent::Content { choice: 0, text: text() }
            };
            seen.take(at(*piece), event, shared);
        }
        seen.take(at(self.done), AnswerEvent::Finish { choice: 0, reason: "stop".to_owned() }, shared);
        if let Some(completion_tokens) = self.usage {
            seen.take(at(self.done + 50), AnswerEvent::Usage(Usage { completion_tokens, ..Usage::default() }), shared);
        }
        // Later than the end that counts.
        seen.take(at(self.done + 90), AnswerEvent::Done, shared);
        seen
    }

    fn record(&self, index: usize, origin: Instant, outcome: AttemptOutcome, shared: &RunShared) -> Record {
        let place = PlannedRequest { index, turn: 0, origin };
        let sent = origin + Duration::from_micros(self.sent);
        let seen = self.seen(origin, shared);
        let record = record(place, sent, &seen, outcome, None, None, shared);
        shared.ended(&record, &seen.gaps_us);
        record
    }
}

fn close(found: f64, expected: f64) -> bool {
    (found - expected).abs() < 1e-6
}

/// 24 answers, sent up to 3 ms late, of which no two are alike.
fn known_answers() -> Vec<Answer> {
    let of = |index: u64| {
        let first = 40_000 + index * 7_919 % 30_011;
        // Gaps below 2,048 us are whole buckets of the histogram.
        let pieces = (0..5 + index % 7).scan(first, |at, piece| {
            let now = *at;
            *at += 300 + (index * 131 + piece * 397) % 1_701;
            Some(now)
        });
        let pieces: Vec<u64> = pieces.collect();
        let done = pieces[pieces.len() - 1] + 800 + index;
        // A server that joins tokens has more of them than pieces.
        let usage = Some(pieces.len() as u64 * 2 + index % 3);
        Answer { sent: index * 137 % 3_001, first_byte: first - 1_000 - index, pieces, done, usage }
    };
    (0..24).map(of).collect()
}

/// Quantiles in milliseconds against all values in microseconds.
fn check(name: &str, found: Option<Quantiles>, expected: &[u64]) {
    let found = found.unwrap();
    let exact = |percent| slow_quantile(expected, percent) as f64 / 1e3;
    let figures = [(found.p50, 50), (found.p90, 90), (found.p95, 95), (found.p99, 99), (found.max, 100)];
    let figures = figures.map(|(is, percent)| (is, exact(percent)));
    assert!(figures.iter().all(|(is, exact)| close(*is, *exact)), "{name}: {figures:?}");
    let mean = expected.iter().sum::<u64>() as f64 / expected.len() as f64 / 1e3;
    assert!(found.count == expected.len() as u64 && close(found.mean, mean), "{name}: {found:?}, mean {mean}");
}

/// Every figure of the report is what integers of microseconds say.
#[test]
fn every_figure_of_a_responder_whose_every_latency_is_known_is_right_to_the_microsecond() {
    let started = Instant::now();
    let (shared, answers) = (RunShared::new(started), known_answers());
    let records = answers.iter().enumerate().map(|(index, answer)| {
        let origin = started + Duration::from_millis(10 * index as u64);
        answer.record(index, origin, AttemptOutcome::Completed, &shared)
    });
    let records: Vec<Record> = records.collect();
    for (index, record) in records.iter().enumerate() {
        assert!(close(record.begun_s, index as f64 / 100.0), "{record:?}");
    }
    let sums = shared.sums();
    let (itl, ttft, url) = (&sums.itl, &sums.ttft, String::new());
    let gathered = Gathered { url, partial: None, wall_s: 0.5, records: &records, itl, ttft, samples: Vec::new() };
    let run = LoadRun::of(gathered, &options(Arrivals::Constant { rate: 100.0 }));
    let of = |figure: fn(&Answer) -> u64| answers.iter().map(figure).collect::<Vec<u64>>();
    let latencies = run.latencies;
    check("first byte", latencies.first_byte, &of(|answer| answer.sent + answer.first_byte));
    check("first reasoning", latencies.first_reasoning, &of(|answer| answer.sent + answer.pieces[0]));
    check("first content", latencies.first_content, &of(|answer| answer.sent + answer.pieces[2]));
    check("TTFT", latencies.ttft, &of(|answer| answer.sent + answer.pieces[0]));
    check("E2E", latencies.e2e, &of(|answer| answer.sent + answer.done));
    check("late", latencies.late, &of(|answer| answer.sent));
    let gaps = answers.iter().flat_map(|answer| answer.pieces.windows(2).map(|pair| pair[1] - pair[0]));
    check("ITL", latencies.itl, &gaps.collect::<Vec<u64>>());
    let tpot = answers.iter().map(|answer| {
        let span = answer.pieces[answer.pieces.len() - 1] - answer.pieces[0];
        span as f64 / 1e3 / (answer.usage.unwrap() - 1) as f64
    });
    let (tpot, found) = (Quantiles::of(tpot.collect()).unwrap(), latencies.tpot.unwrap());
    assert!(close(found.p50, tpot.p50) && close(found.max, tpot.max) && close(found.mean, tpot.mean), "{found:?}");
    let tokens: u64 = answers.iter().filter_map(|answer| answer.usage).sum();
    assert_eq!((run.output_tokens, run.token_count), (tokens, TokenCount::Server));
    assert!(close(run.output_tokens_per_s, tokens as f64 / 0.5) && close(run.requests_per_s, 48.0), "{run:?}");
}

/// Three pieces 10 ms apart, sent 30 ms late.
fn late() -> Answer {
    Answer { sent: 30_000, first_byte: 4_000, pieces: vec![5_000, 15_000, 25_000], done: 26_000, usage: None }
}

#[test]
fn a_request_that_is_sent_late_counts_from_when_it_was_meant_to_be_sent() {
    let shared = RunShared::new(Instant::now());
    let record = late().record(0, shared.started, AttemptOutcome::Completed, &shared);
    let found = [record.first_byte_ms, record.ttft_ms, record.first_reasoning_ms, record.first_content_ms, record.e2e_ms];
    for (found, expected) in found.into_iter().zip([34.0, 35.0, 35.0, 55.0, 56.0]) {
        assert!(close(found.unwrap(), expected), "{record:?}");
    }
    assert!(close(record.late_ms, 30.0), "{record:?}");
    assert_eq!(shared.sums().ttft.max() / 100, 350, "the bar's and the report's TTFT count from there too");
}

#[test]
fn the_time_of_a_token_is_of_those_after_the_first() {
    let shared = RunShared::new(Instant::now());
    let of = |usage, outcome| Answer { usage, ..late() }.record(0, shared.started, outcome, &shared).tpot_ms;
    // Without the server's count the three pieces are three tokens: 20 ms over two of them.
    assert!(close(of(None, AttemptOutcome::Completed).unwrap(), 10.0));
    assert!(close(of(Some(5), AttemptOutcome::Completed).unwrap(), 5.0));
    assert!(close(of(Some(2), AttemptOutcome::Completed).unwrap(), 20.0));
    // One token has none after it; an answer that was not read to its end has no mean.
    assert_eq!((of(Some(1), AttemptOutcome::Completed), of(None, AttemptOutcome::Left)), (None, None));
}

#[test]
fn an_answer_that_was_not_read_to_its_end_has_a_beginning_and_no_end() {
    let shared = RunShared::new(Instant::now());
    for outcome in [AttemptOutcome::Left, AttemptOutcome::Cancelled, AttemptOutcome::Refused, AttemptOutcome::Failed] {
        let record = late().record(0, shared.started, outcome, &shared);
        assert!(record.ttft_ms.is_some() && record.e2e_ms.is_none(), "{record:?}");
    }
    assert_eq!(shared.pieces.load(Ordering::Relaxed), 12, "each piece counts when it comes");
}

#[test]
fn a_cancelled_answer_is_timed_from_its_cancelling() {
    let shared = RunShared::new(Instant::now());
    let mut seen = late().seen(shared.started, &shared);
    seen.cancelled_at = Some(shared.started + Duration::from_micros(50_000));
    let place = PlannedRequest { index: 3, turn: 2, origin: shared.started };
    let record = record(place, shared.started, &seen, AttemptOutcome::Cancelled, None, None, &shared);
    assert!(close(record.cancel_ms.unwrap(), 6.0), "{record:?}");
    assert_eq!((record.index, record.turn, record.output_tokens, record.counted_by_server), (3, 2, 3, false));
}

#[test]
fn the_server_s_count_of_tokens_stands_in_the_record() {
    let shared = RunShared::new(Instant::now());
    let mut seen = AnswerSeen::default();
    let usage = Usage { prompt_tokens: 7, completion_tokens: 9, cached_tokens: Some(4), ..Usage::default() };
    seen.take(shared.started, AnswerEvent::Started { id: "r-1".to_owned() }, &shared);
    let arguments = AnswerEvent::ToolCall { choice: 0, index: 0, id: None, name: None, arguments: "{}".to_owned() };
    seen.take(shared.started, arguments, &shared);
    seen.take(shared.started, AnswerEvent::Usage(usage), &shared);
    let place = PlannedRequest { index: 0, turn: 0, origin: shared.started };
    let record = record(place, shared.started, &seen, AttemptOutcome::Completed, None, None, &shared);
    assert_eq!((record.prompt_tokens, record.cached_tokens, record.output_tokens), (Some(7), Some(4), 9));
    assert!(record.counted_by_server && record.ttft_ms == Some(0.0) && record.first_content_ms.is_none(), "{record:?}");
    assert_eq!((seen.id.as_deref(), seen.pieces), (Some("r-1"), 1), "a piece of a tool call is a piece");
}

#[test]
fn each_way_to_end_has_its_name() {
    let most = Duration::from_millis(1500);
    let name = |ended, seen: &mut AnswerSeen| {
        let (outcome, error, message) = ending(ended, seen, most);
        (outcome, error.unwrap_or_default(), message.unwrap_or_default())
    };
    let plain = |outcome| (outcome, String::new(), String::new());
    let refused = |status| {
        let refusal = ErrorStatus { status, message: "no".to_owned(), kind: None, code: None, retry_after: None };
        ClientError::Refused { url: "http://a".to_owned(), path: "/v1".to_owned(), refusal: Box::new(refusal) }
    };
    let cancelled = || AnswerSeen { cancelled_at: Some(Instant::now()), ..AnswerSeen::default() };
    assert_eq!(name(Some(Ok(true)), &mut AnswerSeen::default()), plain(AttemptOutcome::Completed));
    assert_eq!(name(Some(Ok(false)), &mut AnswerSeen::default()), plain(AttemptOutcome::Left));
    let (outcome, error, message) = name(None, &mut AnswerSeen::default());
    assert_eq!((outcome, error.as_str(), message.as_str()), (AttemptOutcome::Failed, "timeout", "no answer within 1.5 s"));
    let (outcome, error, _) = name(Some(Err(refused(429))), &mut AnswerSeen::default());
    assert_eq!((outcome, error.as_str()), (AttemptOutcome::Refused, "http_429"));
    let (outcome, error, _) = name(Some(Err(refused(503))), &mut AnswerSeen::default());
    assert_eq!((outcome, error.as_str()), (AttemptOutcome::Failed, "http_503"));

    let mut failing = AnswerSeen::default();
    let shared = RunShared::new(Instant::now());
    let told = ErrorText { message: "lost".to_owned(), ..ErrorText::default() };
    failing.take(shared.started, AnswerEvent::Error(told), &shared);
    let (outcome, error, message) = name(Some(Ok(true)), &mut failing);
    assert_eq!((outcome, error.as_str(), message.as_str()), (AttemptOutcome::Failed, "error_event", "lost"));

    // A cancelled answer says so, or its stream breaks off; one that was over before is complete.
    let mut told = AnswerSeen { finish: Some("cancelled".to_owned()), ..cancelled() };
    assert_eq!(name(Some(Ok(true)), &mut told), plain(AttemptOutcome::Cancelled));
    assert_eq!(name(Some(Err(refused(499))), &mut cancelled()), plain(AttemptOutcome::Cancelled));
    let mut over = AnswerSeen { finish: Some("stop".to_owned()), ..cancelled() };
    assert_eq!(name(Some(Ok(true)), &mut over), plain(AttemptOutcome::Completed));
    let mut unasked = AnswerSeen { finish: Some("cancelled".to_owned()), ..AnswerSeen::default() };
    assert_eq!(name(Some(Ok(true)), &mut unasked), plain(AttemptOutcome::Completed));
}
