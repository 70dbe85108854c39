//! A server that was made up: it answers what the suites ask at once, and is good in every way but
//! one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::answers::{self, UnderstoodRequest};
use super::fault::Fault;

pub(super) const MODEL: &str = "made-up";
/// Longer than any criterion of the tests allows.
pub(super) const LATE: Duration = Duration::from_millis(1_800);
const BLOCKS: u64 = 4;
const CONTEXT_TOKENS: u64 = 512;

/// What the server has done and holds.
#[derive(Default)]
pub(super) struct MadeUpState {
    case: &'static str,
    case_began: Option<Instant>,
    faults: u64,
    pub(super) total: u64,
    pub(super) success: u64,
    pub(super) cancelled: u64,
    pub(super) rejected: u64,
    pub(super) active: u64,
    pub(super) streams: u64,
    pub(super) blocks: u64,
    pub(super) hits: u64,
    pub(super) misses: u64,
    pub(super) tokens: u64,
    grown_kib: u64,
    looks: u64,
    keys: BTreeSet<String>,
    /// The running streams, and whether each is cancelled.
    live: BTreeMap<String, bool>,
}

pub(super) struct MadeUpServer {
    pub(super) url: String,
    fault: Fault,
    /// The test in which it is bad; in all of them if there is none.
    only_in: Option<&'static str>,
    state: Mutex<MadeUpState>,
    descriptors: AtomicU64,
}

/// How a stream ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Complete,
    Cancelled,
    Left,
}

impl MadeUpServer {
    /// Serves for as long as the process lives.
    pub(super) fn start(fault: Fault, only_in: Option<&'static str>) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it has an address"));
        let server = Arc::new(Self { url, fault, only_in, state: Mutex::default(), descriptors: AtomicU64::new(0) });
        let serving = Arc::clone(&server);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let server = Arc::clone(&serving);
                thread::spawn(move || {
                    server.descriptors.fetch_add(1, Ordering::SeqCst);
                    while server.serve(&stream).is_some() {}
                    if !server.bad(Fault::KeepsDescriptors) {
                        server.descriptors.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        server
    }

    /// A test begins.
    pub(super) fn enter(&self, case: &'static str) {
        let mut state = self.state();
        (state.case, state.case_began) = (case, Some(Instant::now()));
    }

    pub(super) fn state(&self) -> MutexGuard<'_, MadeUpState> {
        self.state.lock().expect("no thread panics with it")
    }

    pub(super) fn bad(&self, fault: Fault) -> bool {
        self.fault == fault && self.only_in.is_none_or(|case| case == self.state().case)
    }

    /// Whether this is one of every so many times.
    pub(super) fn bad_every(&self, fault: Fault, every: u64) -> bool {
        self.bad(fault) && {
            let mut state = self.state();
            state.faults += 1;
            state.faults.is_multiple_of(every)
        }
    }

    /// Serves a request; `None` once the connection is over.
    fn serve(&self, stream: &TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            (reader.read_line(&mut head).ok()? > 0).then_some(())?;
        }
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body).ok()?;
        let path = head.split(' ').nth(1)?.to_owned();
        if head.to_lowercase().contains("\r\nupgrade:") && self.bad(Fault::TakesUpgrade) {
            text(stream, 200, "Connection: upgrade\r\n", "{}")?;
            return None;
        }
        let framed = !head.contains(" HTTP/1.0\r\n") || self.bad(Fault::ChunksForOld);
        match path.as_str() {
            "/v1/models" | "/models" => whole(stream, 200, &json!({"data": [{"id": MODEL}]})),
            "/health/live" => whole(stream, 200, &json!({})),
            "/health/ready" => whole(stream, if self.bad(Fault::NotReady) { 503 } else { 200 }, &json!({})),
            "/health" => whole(stream, 200, &answers::health(self)),
            "/stats" => whole(stream, 200, &answers::stats(self, CONTEXT_TOKENS)),
            "/memory_stats" => whole(stream, 200, &self.memory()),
            "/metrics" => text(stream, 200, "", &answers::metrics(self)),
            "/v1/chat/completions" | "/v1/completions" | "/generate" | "/generate/stream" => {
                self.asked(Wire { stream, framed }, path, &body).filter(|()| framed)
            }
            _ => match path.strip_prefix("/cancel/") {
                Some(id) => {
                    let running = self.state().live.get_mut(id).map(|cancelled| *cancelled = true).is_some();
                    let status = if running || self.bad(Fault::CancelsTwice) { "cancelled" } else { "not_found" };
                    whole(stream, 200, &json!({"status": status}))
                }
                None => self.refuse(stream, 404, "no such path"),
            },
        }
    }

    fn memory(&self) -> Value {
        let swings = self.bad(Fault::Swings);
        let mut state = self.state();
        state.looks += 1;
        let swing = if swings && (state.looks / 4).is_multiple_of(2) { 300 } else { 0 };
        json!({"rss_bytes": (100_000 + state.grown_kib + swing) * 1024, "open_fds": self.descriptors.load(Ordering::SeqCst)})
    }

    fn refuse(&self, stream: &TcpStream, status: u16, message: &str) -> Option<()> {
        if status == 400 {
            self.state().rejected += 1;
        }
        let message = if self.bad(Fault::RefusesWithoutMessage) { "" } else { message };
        whole(stream, status, &json!({"error": {"message": message, "type": "invalid_request_error"}}))
    }

    fn asked(&self, wire: Wire<'_>, path: String, body: &[u8]) -> Option<()> {
        let stream = wire.stream;
        let Ok(body) = serde_json::from_slice::<Value>(body) else {
            let status = if self.bad(Fault::StatusOfNoJson) { 500 } else { 400 };
            return self.refuse(stream, status, "no JSON");
        };
        if self.bad(Fault::GrowsByRequest) {
            self.state().grown_kib += 8;
        }
        let (asked, refusal) = UnderstoodRequest::read(self, path, &body);
        if let Some((status, message)) = refusal {
            return self.refuse(stream, status, message);
        }
        if self.bad(Fault::RefusesAll) || self.bad_every(Fault::RefusesHalf, 2) {
            return text(stream, 429, "Retry-After: 1\r\n", "{}");
        }
        if self.bad_every(Fault::RefusesWithoutRetry, 2) {
            return text(stream, 429, "", "{}");
        }
        if self.bad_every(Fault::Status500, 10) {
            return whole(stream, 500, &json!({"error": {"message": "lost", "type": "server_error"}}));
        }
        let (id, cache_hit) = self.begin(&asked);
        let metadata = answers::metadata(self, &asked, &id, cache_hit);
        if asked.streams {
            return self.stream(wire, &asked, &id, &metadata);
        }
        if asked.endless && self.compute(stream, &asked).is_none() {
            self.end(&asked, &id, Ending::Left);
            return None;
        }
        let answer = answers::whole(self, &asked, &metadata);
        self.end(&asked, &id, Ending::Complete);
        whole(stream, 200, &answer)
    }

    /// Takes the time of an answer that is not streamed; `None` if the client left.
    fn compute(&self, stream: &TcpStream, asked: &UnderstoodRequest) -> Option<()> {
        if self.bad(Fault::OutlivesReset) {
            thread::sleep(LATE);
            return Some(());
        }
        stream.set_read_timeout(Some(Duration::from_millis(2))).ok()?;
        for _ in &asked.pieces {
            match stream.peek(&mut [0]) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                _ => return None,
            }
        }
        stream.set_read_timeout(None).ok()
    }

    /// A request is taken: its id, and whether its prompt was known.
    fn begin(&self, asked: &UnderstoodRequest) -> (String, bool) {
        let forgets = self.bad(Fault::NeverHits);
        let mut state = self.state();
        state.total += 1;
        state.active += 1;
        state.streams += u64::from(asked.streams);
        state.blocks += BLOCKS;
        let cache_hit = !state.keys.insert(asked.key.clone()) && !forgets;
        state.hits += u64::from(cache_hit);
        state.misses += u64::from(!cache_hit);
        let id = format!("r-{}", state.total);
        state.live.insert(id.clone(), false);
        (id, cache_hit)
    }

    /// A request is over: it is counted, and what it holds is free.
    fn end(&self, asked: &UnderstoodRequest, id: &str, ending: Ending) {
        let grows = ending == Ending::Left && self.bad(Fault::GrowsByStream);
        let late = self.bad(Fault::FreesLate).then_some(LATE);
        let held = late.or_else(|| self.bad(Fault::KeepsBlocks).then_some(LATE * 4));
        let mut state = self.state();
        state.live.remove(id);
        match ending {
            Ending::Complete => {
                state.success += 1;
                state.tokens += asked.pieces.len() as u64;
            }
            Ending::Cancelled | Ending::Left => state.cancelled += 1,
        }
        state.grown_kib += if grows { 100 } else { 0 };
        state.active -= 1;
        state.streams -= u64::from(asked.streams);
        if let Some(held) = held.filter(|_| asked.streams) {
            drop(state);
            thread::sleep(held);
            state = self.state();
        }
        state.blocks -= BLOCKS;
    }

    /// Streams an answer. What it holds is free before its last frames, so that a client that has
    /// them finds nothing held.
    fn stream(&self, wire: Wire<'_>, asked: &UnderstoodRequest, id: &str, metadata: &Value) -> Option<()> {
        let ended = self.pieces(wire, asked, id);
        let holds = self.bad(Fault::FreesLate) || self.bad(Fault::KeepsBlocks);
        let (ending, close) = match ended {
            None => {
                self.end(asked, id, Ending::Left);
                return None;
            }
            Some(true) if self.bad(Fault::EndsCancelledAsDone) => (Ending::Cancelled, asked.end(self, id, "stop", metadata)),
            Some(true) => (Ending::Cancelled, asked.cancelled(id)),
            Some(false) => {
                let reason = if asked.endless { "length" } else { "stop" };
                (Ending::Complete, asked.end(self, id, reason, metadata))
            }
        };
        if !holds {
            self.end(asked, id, ending);
        }
        let sent = close.iter().try_for_each(|frame| wire.chunk(frame)).and_then(|()| wire.end());
        if holds {
            self.end(asked, id, ending);
        }
        sent
    }

    /// Sends the pieces; whether it was cancelled, or `None` if the client left.
    fn pieces(&self, wire: Wire<'_>, asked: &UnderstoodRequest, id: &str) -> Option<bool> {
        let media = if asked.path == "/generate/stream" && self.bad(Fault::OtherMediaType) {
            "text/event-streams"
        } else {
            "text/event-stream"
        };
        let framing = if wire.framed { "Transfer-Encoding: chunked\r\n" } else { "" };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {media}\r\nX-Request-ID: {id}\r\n{framing}\r\n");
        write_all(wire.stream, head.as_bytes())?;
        if let Some(frame) = asked.start(self, id) {
            wire.chunk(&frame)?;
        }
        let (case, began) = {
            let state = self.state();
            (state.case, state.case_began)
        };
        if case == "LOAD-2" {
            // A busy machine's delays are small beside these.
            let since = began.map_or(Duration::ZERO, |began| began.elapsed());
            let slow = since > Duration::from_millis(450) && self.bad(Fault::SlowsDown);
            let stalls = since > Duration::from_millis(250) && self.bad(Fault::Stalls);
            thread::sleep(if stalls { LATE } else { Duration::from_millis(if slow { 250 } else { 20 }) });
        }
        if self.bad_every(Fault::SlowFirstTwice, 10) || self.bad_every(Fault::SlowFirstOnce, 20) {
            thread::sleep(LATE);
        }
        for (index, piece) in asked.pieces.iter().enumerate() {
            if asked.endless && index > 0 {
                thread::sleep(Duration::from_millis(2));
            }
            let cancelled = self.state().live.get(id).copied().unwrap_or_default();
            if cancelled && !self.bad(Fault::IgnoresCancel) {
                if self.bad(Fault::PausesLong) {
                    thread::sleep(LATE);
                }
                return Some(true);
            }
            wire.chunk(&asked.piece(self, id, piece))?;
        }
        if self.bad_every(Fault::BreaksOff, 10) {
            return None;
        }
        if self.bad_every(Fault::ErrorEvent, 10) {
            wire.chunk(&asked.error())?;
        }
        if self.bad_every(Fault::SlowEnd, 10) || self.bad(Fault::PausesLong) {
            thread::sleep(LATE);
        }
        Some(false)
    }
}

fn write_all(mut stream: &TcpStream, bytes: &[u8]) -> Option<()> {
    stream.write_all(bytes).ok()
}

/// A connection, and whether its client knows chunks.
#[derive(Clone, Copy)]
struct Wire<'s> {
    stream: &'s TcpStream,
    framed: bool,
}

impl Wire<'_> {
    fn chunk(self, frame: &str) -> Option<()> {
        let framed = format!("{:x}\r\n{frame}\r\n", frame.len());
        write_all(self.stream, if self.framed { &framed } else { frame }.as_bytes())
    }

    fn end(self) -> Option<()> {
        if self.framed { write_all(self.stream, b"0\r\n\r\n") } else { Some(()) }
    }
}

fn whole(stream: &TcpStream, status: u16, body: &Value) -> Option<()> {
    text(stream, status, "Content-Type: application/json\r\n", &body.to_string())
}

fn text(stream: &TcpStream, status: u16, headers: &str, body: &str) -> Option<()> {
    write_all(stream, format!("HTTP/1.1 {status} x\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes())
}
