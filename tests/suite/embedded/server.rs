//! A running `antiphon serve` on a free port, and what can be seen of it from outside.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// A guard against hanging, not a measure of speed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The process; killed when it is dropped.
pub(crate) struct Server {
    pub(crate) process: Child,
    address: SocketAddr,
    /// What it logged before it was ready.
    pub(crate) log: String,
    /// What it logs then.
    later: Option<JoinHandle<String>>,
}

/// What a process holds of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Footprint {
    pub(super) descriptors: usize,
    pub(super) threads: usize,
}

impl Server {
    /// The embedded model.
    pub(super) fn start() -> Self {
        Self::serving("tiny")
    }

    pub(super) fn serving(model: &str) -> Self {
        Self::with(&["--model", model])
    }

    /// With these options, and little KV memory unless they say otherwise.
    pub(super) fn with(options: &[&str]) -> Self {
        Self::of(&mut command(options))
    }

    /// Starts `antiphon serve ...`, on a free port unless it names one, and waits until it is
    /// ready.
    pub(crate) fn of(command: &mut Command) -> Self {
        if !command.get_args().any(|argument| argument == "--port") {
            command.args(["--port", "0"]);
        }
        let command = command.args(["--log-format", "json"]).stderr(Stdio::piped());
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
    pub(crate) fn end(&mut self) -> (Option<i32>, String) {
        let code = ended(&mut self.process).code();
        (code, self.later.take().expect("it ends once").join().expect("its log is text"))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn send(&self, method: &str, path: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("sent");
        stream
    }

    /// The status and the body of an answer as it came, chunk sizes included.
    pub(crate) fn answer(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut answer = String::new();
        self.send(method, path, body).read_to_string(&mut answer).expect("an answer in UTF-8");
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("no status: {answer}")), answer.split_once("\r\n\r\n").expect("a head").1.to_owned())
    }

    /// The answer to a request without a body, with more headers, each with its line's end.
    pub(super) fn answer_with(&self, method: &str, path: &str, headers: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer in UTF-8");
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("no status: {answer}")), answer)
    }

    /// The body of an answer that is a success.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let (status, body) = self.answer(method, path, body);
        assert_eq!(status, 200, "{body}");
        body
    }

    pub(crate) fn stats(&self) -> Value {
        serde_json::from_str(&self.ask("GET", "/stats", "")).expect("JSON")
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().expect("kill runs").success());
    }

    /// Memory that it holds, in bytes.
    pub(super) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel tells it");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }

    /// Processor time that the threads have used which serve connections, in hundredths of a
    /// second.
    pub(super) fn serving_ticks(&self) -> u64 {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.process.id())).expect("it runs");
        let stats = threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("stat")).ok());
        let ticks = stats.filter_map(|stat| {
            // Name in brackets, then 11 fields, then the time of the thread and of the system for it.
            let (name, fields) = stat.rsplit_once(") ")?;
            let used = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
            name.contains("(actix").then(|| used.sum::<u64>())
        });
        ticks.sum()
    }

    /// What the kernel says that it holds.
    pub(super) fn footprint(&self) -> Footprint {
        let count = |what: &str| std::fs::read_dir(format!("/proc/{}/{what}", self.process.id())).expect("it runs").count();
        Footprint { descriptors: count("fd"), threads: count("task") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `antiphon serve` with these options, and little KV memory unless they say otherwise.
pub(crate) fn command(options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_antiphon"));
    command.arg("serve").args(options);
    if !options.contains(&"--kv-bytes") {
        command.args(["--kv-bytes", "64MiB"]);
    }
    command
}

/// How a process ended; fails the test if it does not.
pub(super) fn ended(process: &mut Child) -> ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(status) = process.try_wait().expect("it is our child") {
            return status;
        }
        assert!(started.elapsed() < PATIENCE, "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Reads until `wanted` has come.
pub(crate) fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let mut text = String::new();
    while !text.contains(wanted) {
        let mut part = [0; 512];
        let length = stream.read(&mut part).expect("a stream");
        assert!(length > 0, "the stream ended early: {text}");
        text += &String::from_utf8_lossy(&part[..length]);
    }
    text
}

/// Reads to the end.
pub(super) fn read_on(stream: &mut TcpStream) -> String {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the stream ends in order");
    String::from_utf8_lossy(&rest).into_owned()
}

/// The events of a stream that are JSON.
pub(crate) fn events(stream: &str) -> impl Iterator<Item = Value> {
    stream.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
}

/// What the events of a stream say under `pointer`, joined.
pub(crate) fn joined(stream: &str, pointer: &str) -> String {
    events(stream).filter_map(|event| event.pointer(pointer)?.as_str().map(str::to_owned)).collect()
}
