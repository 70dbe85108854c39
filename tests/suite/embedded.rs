//! The binary as a user starts it: the embedded model behind real sockets.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fake_hub::{FakeHub, Faults, tiny};

const PROMPT: &str = r#"Write Python code that prints \"Jay\"."#;
/// A guard against hanging, not a measure of speed.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running `antiphon serve` on a free port; killed when it is dropped.
pub(super) struct Server {
    pub(super) process: Child,
    address: SocketAddr,
    /// What it logged before it was ready.
    pub(super) log: String,
    /// What it logs then.
    later: Option<JoinHandle<String>>,
}

impl Server {
    fn start() -> Self {
        Self::serving("tiny")
    }

    fn serving(model: &str) -> Self {
        Self::serving_with(model, &[])
    }

    fn serving_with(model: &str, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_antiphon"));
        command.args(["serve", "--model", model, "--kv-bytes", "64MiB"]).envs(variables.iter().copied());
        Self::of(&mut command)
    }

    /// Starts `antiphon serve ...` and waits until it is ready.
    pub(super) fn of(command: &mut Command) -> Self {
        let command = command.args(["--port", "0", "--log-format", "json"]).stderr(Stdio::piped());
        let mut process = command.spawn().expect("the binary starts");
        let mut lines = BufReader::new(process.stderr.take().expect("piped")).lines().map_while(Result::ok);
        let mut log = String::new();
        let address = lines.by_ref().find_map(|line| {
            log += &format!("{line}\n");
            let event: Value = serde_json::from_str(&line).ok()?;
            (event["message"] == "ready").then(|| event["address"].as_str().map(str::to_owned))?
        });
        // The log must be read on, or its lines would be dropped.
        let later = std::thread::spawn(move || lines.map(|line| line + "\n").collect());
        let address = address.unwrap_or_else(|| panic!("it says where it listens: {log}")).parse().expect("an address");
        Self { process, address, log, later: Some(later) }
    }

    /// Waits until it ends by itself: its exit code, and what it logged since it was ready.
    pub(super) fn end(&mut self) -> (Option<i32>, String) {
        let code = self.process.wait().expect("it ended").code();
        (code, self.later.take().expect("it ends once").join().expect("its log is text"))
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream
    }

    pub(super) fn send(&self, method: &str, path: &str, body: &str) -> TcpStream {
        let mut stream = self.connect();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("sent");
        stream
    }

    /// The body of an answer as it came, chunk sizes included.
    pub(super) fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let mut answer = String::new();
        self.send(method, path, body).read_to_string(&mut answer).expect("an answer in UTF-8");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer.split_once("\r\n\r\n").expect("a head and a body").1.to_owned()
    }

    pub(super) fn stats(&self) -> Value {
        serde_json::from_str(&self.ask("GET", "/stats", "")).expect("JSON")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Reads until `wanted` has come.
pub(super) fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let mut text = String::new();
    while !text.contains(wanted) {
        let mut part = [0; 512];
        let length = stream.read(&mut part).expect("a stream");
        assert!(length > 0, "the stream ended early: {text}");
        text += &String::from_utf8_lossy(&part[..length]);
    }
    text
}

/// What the events of a stream say under `pointer`, joined.
pub(super) fn joined(stream: &str, pointer: &str) -> String {
    let events = stream.lines().filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok());
    events.filter_map(|event| event.pointer(pointer)?.as_str().map(str::to_owned)).collect()
}

#[test]
fn jay_is_printed_on_every_route() {
    let server = Server::start();
    let chat = format!(r#"{{"messages":[{{"role":"user","content":"{PROMPT}"}}],"temperature":0,"stream":STREAM}}"#);
    let whole: Value =
        serde_json::from_str(&server.ask("POST", "/v1/chat/completions", &chat.replace("STREAM", "false"))).expect("JSON");
    let whole = whole["choices"][0]["message"]["content"].as_str().expect("content").to_owned();
    assert!(whole.contains(r#"print("Jay")"#), "{whole}");
    let stream = server.ask("POST", "/v1/chat/completions", &chat.replace("STREAM", "true"));
    assert_eq!(joined(&stream, "/choices/0/delta/content"), whole, "the joined stream is the whole answer");
    let body = format!(r#"{{"user_id":"u","model_type":"code_generation","prompt":"{PROMPT}","temperature":0}}"#);
    let stream = server.ask("POST", "/generate/stream", &body);
    assert!(joined(&stream, "/text").contains(r#"print("Jay")"#) && stream.contains("data: [DONE]"), "{stream}");
    let stream = server.ask("POST", "/generate", &format!(r#"{{"prompt":"{PROMPT}","temperature":0,"stream":true}}"#));
    assert!(joined(&stream, "/content").contains(r#"print("Jay")"#), "{stream}");
}

/// What `serve --model 20b` does on a machine that never saw the model: it is fetched, past a download that breaks off, and answers.
#[test]
fn a_model_of_the_hub_is_fetched_and_served() {
    let (hub, cache) =
        (FakeHub::start(&tiny(), Faults { cut: 1, ..Faults::default() }), tempfile::tempdir().expect("a folder"));
    let (elsewhere, place) = (cache.path().join("elsewhere"), cache.path().join("hub"));
    let variables =
        [("HF_HOME", elsewhere.as_path()), ("HF_HUB_CACHE", place.as_path()), ("HF_ENDPOINT", Path::new(&hub.endpoint))];
    let variables = variables.map(|(name, value)| (name, value.to_str().expect("UTF-8")));
    let server = Server::serving_with("20b", &variables);
    let models: Value = serde_json::from_str(&server.ask("GET", "/v1/models", "")).expect("JSON");
    assert_eq!(models["data"][0]["id"], "gpt-oss-20b");
    let body = format!(r#"{{"messages":[{{"role":"user","content":"{PROMPT}"}}],"temperature":0}}"#);
    let answer = server.ask("POST", "/v1/chat/completions", &body);
    assert!(answer.contains(r#"print(\"Jay\")"#), "{answer}");
    assert!(place.join("models--openai--gpt-oss-20b/refs/main").exists() && !elsewhere.exists());
}

/// A thousand clients that leave at random moments of a real model's work: nothing is held afterwards.
#[test]
fn a_thousand_clients_leave_nothing_behind() {
    let server = Server::start();
    let body =
        r#"{"messages":[{"role":"user","content":"Count from 1 to 90"}],"temperature":0,"stream":true,"max_tokens":200}"#;
    std::thread::scope(|scope| {
        for client in 0..20_u64 {
            let server = &server;
            scope.spawn(move || {
                for turn in 0..50_u64 {
                    let mut stream = server.send("POST", "/v1/chat/completions", body);
                    // Some leave before they read anything, some within the head, some after many events.
                    let bytes = (client * 50 + turn).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 51;
                    if bytes % 4 != 0 {
                        let mut read = vec![0; usize::try_from(bytes).expect("13 bits")];
                        // An answer shorter than that is as good.
                        let _ = stream.read_exact(&mut read);
                    }
                }
            });
        }
    });
    let started = Instant::now();
    loop {
        let stats = server.stats();
        let kv = &stats["kv"];
        let freed = kv["free"].as_u64().expect("free") + kv["cached"].as_u64().expect("cached");
        if freed == kv["total"].as_u64().expect("total") && stats["active_requests"] == 0 && stats["stream_active"] == 0 {
            assert!(stats["requests_total"].as_u64() > Some(500), "most requests were taken: {stats}");
            break;
        }
        assert!(started.elapsed() < PATIENCE, "something is still held: {stats}");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(server.ask("GET", "/health/ready", "").contains("ready"), "it serves on");
}

/// Weights that are cut while they are served end the process in order: the running stream is told, the exit code says it.
#[test]
fn a_checkpoint_that_is_cut_ends_every_stream_with_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny");
    for file in ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(model.join(file), folder.path().join(file)).expect("copied");
    }
    let mut server = Server::serving(folder.path().to_str().expect("UTF-8"));
    let body = r#"{"prompt":"Count from 1 to 90","temperature":0,"max_tokens":4000,"ignore_eos":true,"stream":true}"#;
    // Many, so that a process that left at once could not have told them all.
    let mut streams: Vec<TcpStream> = (0..8).map(|_| server.send("POST", "/v1/completions", body)).collect();
    let begun: Vec<String> = streams.iter_mut().map(|stream| read_until(stream, "data: ")).collect();
    let weights = OpenOptions::new().write(true).open(folder.path().join("model.safetensors")).expect("opened");
    weights.set_len(4096).expect("cut");
    for (stream, mut text) in streams.iter_mut().zip(begun) {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("the stream ends in order");
        text += &String::from_utf8_lossy(&rest);
        let error = text.lines().filter_map(|line| line.strip_prefix("data: ")).find(|event| event.contains("\"error\""));
        let error: Value = serde_json::from_str(error.unwrap_or_else(|| panic!("no error: {text}"))).expect("JSON");
        assert_eq!(error["error"]["type"], "server_error", "{error}");
        assert!(text.contains("data: [DONE]"), "{text}");
    }
    assert_eq!(server.process.wait().expect("it ended").code(), Some(1));
}
