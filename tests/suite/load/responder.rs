//! A server like OpenAI's, with the latencies and faults that a test wants.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// How it answers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Manner {
    /// Before the first piece.
    pub(crate) first: Duration,
    /// Between pieces.
    pub(crate) gap: Duration,
    /// Others wait until an answer is complete.
    pub(crate) one_at_a_time: bool,
    /// Each of so many requests is refused with 429, if not zero.
    pub(crate) refuse_every: usize,
    /// After so many answers it closes every connection unanswered, if not zero.
    pub(crate) dies_after: usize,
    /// An answer pauses after its first piece until so many have come as far, if not zero.
    pub(crate) together: usize,
    /// The model that it names; empty for `parrot`.
    pub(crate) model: &'static str,
}

#[derive(Default)]
struct Shared {
    manner: Manner,
    asked: AtomicUsize,
    cancelled: Mutex<Vec<String>>,
    bodies: Mutex<Vec<Value>>,
    turn: Mutex<()>,
    begun: Mutex<usize>,
    all_begun: Condvar,
}

impl Shared {
    /// Waits until so many answers have begun.
    fn meet(&self) {
        let mut begun = self.begun.lock().expect("no thread panics with it");
        *begun += 1;
        self.all_begun.notify_all();
        let wanted = self.manner.together;
        drop(self.all_begun.wait_while(begun, |begun| *begun < wanted).expect("no thread panics with it"));
    }
}

/// The server; it lives as long as the process.
pub(crate) struct Responder {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Responder {
    pub(crate) fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared { manner, ..Shared::default() });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&serving);
                // A client may leave at any moment, which ends its connection alone.
                thread::spawn(move || while serve(&shared, &stream).is_some() {});
            }
        });
        Self { address, shared }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many answers were cancelled before their end.
    pub(crate) fn cancelled(&self) -> usize {
        self.shared.cancelled.lock().expect("no thread panics with it").len()
    }

    /// What was posted, in its order.
    pub(crate) fn bodies(&self) -> Vec<Value> {
        self.shared.bodies.lock().expect("no thread panics with it").clone()
    }
}

/// Serves a request; `None` once the connection is over.
fn serve(shared: &Shared, stream: &TcpStream) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        (reader.read_line(&mut head).ok()? > 0).then_some(())?;
    }
    let lower = head.to_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")).and_then(|text| text.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    let path = head.split(' ').nth(1)?;
    match path {
        "/v1/models" => {
            let model = if shared.manner.model.is_empty() { "parrot" } else { shared.manner.model };
            whole(stream, 200, &json!({"data": [{"id": model}]}).to_string())
        }
        "/metrics" => whole(stream, 200, "vllm:num_requests_running 3\n"),
        "/tokenize" => whole(stream, 404, "{}"),
        _ if path.starts_with("/cancel/") => {
            shared.cancelled.lock().expect("no thread panics with it").push(path["/cancel/".len()..].to_owned());
            whole(stream, 200, r#"{"status":"cancelled"}"#)
        }
        _ => {
            let body: Value = serde_json::from_slice(&body).ok()?;
            shared.bodies.lock().expect("no thread panics with it").push(body.clone());
            let number = shared.asked.fetch_add(1, Ordering::SeqCst) + 1;
            let manner = shared.manner;
            if manner.dies_after > 0 && number > manner.dies_after {
                return None;
            }
            if manner.refuse_every > 0 && number.is_multiple_of(manner.refuse_every) {
                return whole(stream, 429, r#"{"error":{"message":"too much to do"}}"#);
            }
            let _turn = manner.one_at_a_time.then(|| shared.turn.lock().expect("no thread panics with it"));
            answer(shared, stream, path, &body, number)
        }
    }
}

fn whole(mut stream: &TcpStream, status: u16, body: &str) -> Option<()> {
    write!(stream, "HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n{body}", body.len()).ok()
}

fn event(mut stream: &TcpStream, name: Option<&str>, data: &str) -> Option<()> {
    let name = name.map_or_else(String::new, |name| format!("event: {name}\n"));
    let event = format!("{name}data: {data}\n\n");
    write!(stream, "{:x}\r\n{event}\r\n", event.len()).ok()
}

/// Streams an answer in the form of its route: two pieces of reasoning where there is any, then
/// content.
fn answer(shared: &Shared, mut stream: &TcpStream, path: &str, body: &Value, number: usize) -> Option<()> {
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").ok()?;
    let limit = if path == "/v1/responses" { "max_output_tokens" } else { "max_tokens" };
    let (id, count) = (format!("r-{number}"), body[limit].as_u64()?);
    let send = |data: Value| {
        let kind = data["type"].as_str().map(str::to_owned);
        event(stream, kind.as_deref(), &data.to_string())
    };
    let delta = |delta: Value| json!({"id": id, "choices": [{"index": 0, "delta": delta}]});
    match path {
        "/v1/chat/completions" => send(delta(json!({"role": "assistant", "content": ""})))?,
        "/v1/responses" => send(json!({"type": "response.created", "response": {"id": id}}))?,
        "/generate" => send(json!({"type": "start", "request_id": id}))?,
        _ => {}
    }
    thread::sleep(shared.manner.first);
    let mut cancelled = false;
    for piece in 0..count {
        if piece > 0 {
            thread::sleep(shared.manner.gap);
        }
        if piece == 1 {
            shared.meet();
        }
        cancelled = shared.cancelled.lock().expect("no thread panics with it").contains(&id);
        if cancelled {
            break;
        }
        send(match path {
            "/v1/chat/completions" if piece < 2 => delta(json!({"reasoning": "hm "})),
            "/v1/chat/completions" => delta(json!({"content": "word "})),
            "/v1/completions" => json!({"id": id, "choices": [{"index": 0, "text": "word "}]}),
            "/v1/responses" => json!({"type": "response.output_text.delta", "delta": "word "}),
            "/generate" => json!({"type": "token", "content": "word "}),
            _ => json!({"text": "word "}),
        })?;
    }
    let usage = json!({"prompt_tokens": 7, "completion_tokens": count});
    match path {
        "/v1/chat/completions" | "/v1/completions" => {
            let reason = if cancelled { "cancelled" } else { "length" };
            send(
                json!({"id": id, "choices": [{"index": 0, "delta": {}, "text": "", "finish_reason": reason}], "usage": usage}),
            )?;
        }
        "/v1/responses" => {
            send(json!({"type": "response.completed", "response": {"id": id, "usage": {"output_tokens": count}}}))?;
        }
        "/generate" => send(json!({"type": "done", "request_id": id, "usage": usage}))?,
        _ => {}
    }
    if !["/v1/responses", "/generate"].contains(&path) {
        event(stream, None, "[DONE]")?;
    }
    write!(stream, "0\r\n\r\n").ok()
}
