//! Clients that leave in every phase of a request, by a thousand, beside clients that stay: what
//! the process holds afterwards is what it held before, and those that stayed were told what they
//! are told alone.

use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::server::{Footprint, PATIENCE, Server, joined, read_on, read_until};
use crate::ways::{WAYS, Way, reset_when_dropped};

/// Where a request is when its client leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Admitted; every place in the batch is taken.
    Queued,
    /// In a long prompt, slice by slice.
    Prefill,
    /// After some events.
    Decode,
    /// Text is gathered for an event that is not due.
    BetweenEvents,
    /// The last token was told, the end of the stream perhaps not.
    LastToken,
    /// No stream: nothing was sent yet.
    Whole,
}

const PHASES: [Phase; 6] = [Phase::Queued, Phase::Prefill, Phase::Decode, Phase::BetweenEvents, Phase::LastToken, Phase::Whole];

const CLIENTS: u64 = 8;
/// Times at least that each client asks and leaves in each phase: 6 phases, 8 clients, 21 times are
/// 1,008 clients that left.
const TURNS: u64 = 21;
const WITNESSES: u64 = 4;
/// Places in the batch: for the witnesses and the clients.
const RUNNING: u64 = WITNESSES + CLIENTS;

fn completion(prompt: &str, more: &Value) -> String {
    let mut body = json!({"prompt": prompt, "temperature": 0, "ignore_eos": true, "stream": true});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body.to_string()
}

/// What a client asks in this phase.
fn question(phase: Phase, client: u64, turn: u64) -> String {
    match phase {
        // No two prompts alike.
        Phase::Prefill => completion(&format!("{client} {turn} {}", "word ".repeat(3_000)), &json!({"max_tokens": 50})),
        Phase::BetweenEvents => {
            let gather = json!({"coalesce_max_ms": 1_000, "coalesce_max_chars": 0});
            completion("1, 2, 3,", &json!({"max_tokens": 4_000, "stream_options": gather}))
        }
        Phase::LastToken => completion("1, 2, 3,", &json!({"max_tokens": 3})),
        Phase::Whole => completion("1, 2, 3,", &json!({"max_tokens": 4_000, "stream": false})),
        Phase::Queued | Phase::Decode => completion("1, 2, 3,", &json!({"max_tokens": 4_000})),
    }
}

/// Asks, is in the phase, leaves.
fn visit(server: &Server, phase: Phase, client: u64, turn: u64) {
    let mut socket = server.send("POST", "/v1/completions", &question(phase, client, turn));
    // A fixed spread of moments: what varies between runs is the server's own timing.
    let moment = Duration::from_millis((client * TURNS + turn) * 7_919 % 25);
    match phase {
        Phase::Queued | Phase::Prefill => {
            // The head comes when the request is admitted.
            drop(read_until(&mut socket, "HTTP/1.1 200"));
            thread::sleep(moment);
        }
        Phase::Decode => (0..=turn % 8).for_each(|_| drop(read_until(&mut socket, "\"text\""))),
        Phase::BetweenEvents => {
            drop(read_until(&mut socket, "\"text\""));
            thread::sleep(moment);
        }
        Phase::LastToken => drop(read_until(&mut socket, "\"finish_reason\":\"length\"")),
        // Nothing tells that it decodes, and a step with drafts takes longer, in a debug build most of
        // all: its draws are not optimised.
        Phase::Whole => thread::sleep(4 * moment),
    }
    match WAYS[usize::try_from((client + turn) % 3).expect("small")] {
        Way::Fin => {}
        Way::Reset => reset_when_dropped(&socket),
        Way::Half => {
            // The server may have hung up before.
            let _ = socket.shutdown(Shutdown::Write);
            let mut more = 0;
            while let Ok(length @ 1..) = socket.read(&mut [0; 4096]) {
                more += length;
                assert!(more < 200_000, "the server goes on although its client is done: {phase:?}");
            }
        }
    }
}

/// What the witnesses ask: two of them drawn with a seed.
fn witness(number: u64) -> String {
    completion(&format!("Count from {number} to 90:"), &json!({"max_tokens": 60, "temperature": number % 2, "seed": number}))
}

fn hear(server: &Server, body: &str) -> String {
    let stream = read_on(&mut server.send("POST", "/v1/completions", body));
    assert!(stream.contains("data: [DONE]"), "{stream}");
    joined(&stream, "/choices/0/text")
}

/// The most that was seen in each state of the scheduler.
#[derive(Debug, Default)]
struct Seen {
    waiting: u64,
    prefill: u64,
    decode: u64,
}

impl Seen {
    fn note(&mut self, scheduler: &Value) {
        for (most, name) in [(&mut self.waiting, "waiting"), (&mut self.prefill, "prefill"), (&mut self.decode, "decode")] {
            *most = (*most).max(scheduler[name].as_u64().expect("a count"));
        }
    }

    /// Whether more were in the phase than the witnesses alone could be.
    fn shows(&self, phase: Phase) -> bool {
        let most = match phase {
            Phase::Queued => self.waiting,
            Phase::Prefill => self.prefill,
            // Three tokens are generated between two looks.
            Phase::LastToken => return true,
            Phase::Decode | Phase::BetweenEvents | Phase::Whole => self.decode,
        };
        most > WITNESSES
    }
}

/// All clients of a phase, with the witnesses beside them.
fn storm(server: &Server, phase: Phase, alone: &[String]) {
    let over = AtomicBool::new(false);
    let (seen, started) = (Mutex::new(Seen::default()), Instant::now());
    // On a busy machine the looks are few: the clients go on until one of these has met enough of them
    // in the phase.
    let is_shown = || seen.lock().expect("whole").shows(phase) || started.elapsed() > PATIENCE;
    // They fill the batch while others wait; their end is the phase's.
    let full: Vec<TcpStream> = (0..if phase == Phase::Queued { CLIENTS } else { 0 })
        .map(|_| server.send("POST", "/v1/completions", &completion("1, 2, 3,", &json!({"max_tokens": 8_000}))))
        .collect();
    thread::scope(|scope| {
        let witnesses: Vec<_> = (0_u64..)
            .zip(alone)
            .map(|(number, alone)| {
                let over = &over;
                scope.spawn(move || {
                    let mut count = 0;
                    while count == 0 || !over.load(Ordering::Relaxed) {
                        assert_eq!(
                            hear(server, &witness(number)),
                            *alone,
                            "witness {number} beside clients that left: {phase:?}"
                        );
                        count += 1;
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                seen.lock().expect("whole").note(&server.stats()["scheduler"]);
            }
        });
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let is_shown = &is_shown;
                scope.spawn(move || {
                    let turns = (0..).take_while(|turn| *turn < TURNS || !is_shown());
                    turns.for_each(|turn| visit(server, phase, client, turn));
                })
            })
            .collect();
        let left = clients.into_iter().all(|client| client.join().is_ok());
        drop(full);
        over.store(true, Ordering::Relaxed);
        assert!(left && witnesses.into_iter().all(|witness| witness.join().is_ok()), "{phase:?}");
    });
    let seen = seen.into_inner().expect("whole");
    assert!(seen.shows(phase), "{phase:?} was not reached: {seen:?}");
}

/// The gauges of `/metrics` that are not zero, of those that must be while nothing runs.
fn gauges(server: &Server) -> Vec<String> {
    let names = [
        "requests_active",
        "stream_active",
        "kv_bytes_in_use",
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
    ];
    let metrics = server.ask("GET", "/metrics", "");
    for name in names {
        assert!(metrics.lines().any(|line| line.starts_with(&format!("{name}{{"))), "there is no {name}");
    }
    let is_gauge = |line: &&str| names.iter().any(|name| line.starts_with(&format!("{name}{{")));
    metrics.lines().filter(is_gauge).filter(|line| !line.ends_with(" 0")).map(str::to_owned).collect()
}

/// Waits until the process holds what it held before; fails the test with what it still holds.
fn assert_nothing_is_held(server: &Server, before: Footprint, phase: Phase) {
    let started = Instant::now();
    loop {
        let (stats, now) = (server.stats(), server.footprint());
        let kv = ["total", "free", "cached", "in_use"].map(|name| stats["kv"][name].as_u64().expect("a count"));
        let sequences = ["waiting", "prefill", "decode"].map(|name| stats["scheduler"][name].as_u64().expect("a count"));
        let requests = ["active_requests", "stream_active"].map(|name| stats[name].as_u64().expect("a count"));
        let empty = kv[1] + kv[2] == kv[0] && kv[3] == 0 && sequences == [0; 3] && requests == [0; 2];
        // Two descriptors: the connection that asks, and one that was just closed. A thread of the start
        // ends when it likes.
        let same = now.descriptors <= before.descriptors + 2 && now.threads <= before.threads;
        if empty && same && gauges(server).is_empty() {
            assert_eq!(stats["requests_failed"], 0, "{phase:?}: {stats}");
            return;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "after {phase:?} it still holds {now:?}, before {before:?}; {:?} are not zero; {stats}",
            gauges(server)
        );
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_thousand_clients_that_leave_in_any_phase_leave_nothing() {
    let running = RUNNING.to_string();
    let server = Server::with(&[
        "--kv-bytes",
        "256MiB",
        "--running-max-count",
        &running,
        // A prompt of 3,000 tokens takes a hundred steps.
        "--prefill-slice-tokens",
        "32",
        "--token-budget-tokens",
        "128",
        // However slow the machine is, no witness is given up for its waiting.
        "--waiting-max-seconds",
        "0",
    ]);
    let alone: Vec<String> = (0..WITNESSES).map(|number| hear(&server, &witness(number))).collect();
    assert_eq!(server.stats()["requests_total"], WITNESSES);
    let before = server.footprint();
    for phase in PHASES {
        storm(&server, phase, &alone);
        assert_nothing_is_held(&server, before, phase);
    }
    let stats = server.stats();
    assert!(stats["requests_cancelled"].as_u64() > Some(500), "most clients left before their answer was over: {stats}");
    assert!(server.ask("GET", "/health/ready", "").contains("ready"), "it serves on");
}

/// Probes of a server's health are answered while prompts that take seconds are computed.
#[test]
fn health_is_told_in_the_middle_of_long_prompts() {
    let server = Server::with(&["--kv-bytes", "256MiB", "--prefill-slice-tokens", "16", "--token-budget-tokens", "64"]);
    let prompt = "word ".repeat(7_000);
    let long: Vec<TcpStream> = (0..8)
        .map(|client| {
            server.send("POST", "/v1/completions", &completion(&format!("{client} {prompt}"), &json!({"max_tokens": 1})))
        })
        .collect();
    while server.stats()["scheduler"]["prefill"] == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    for path in ["/health/live", "/health/ready", "/health"].iter().cycle().take(60) {
        assert_eq!(server.answer("GET", path, "").0, 200, "{path}");
    }
    assert!(server.stats()["scheduler"]["prefill"].as_u64() > Some(0), "the prompts are too short for this machine");
    drop(long);
}
