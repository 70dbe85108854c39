//! A server that is asked to stop, or killed: what runs, what comes, what is left.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::server::{Server, command, ended, events, joined, read_on, read_until};

/// Greedy, and long enough to be under way when the signal comes.
const BODY: &str = r#"{"prompt":"1, 2, 3,","temperature":0,"max_tokens":400,"ignore_eos":true,"stream":true}"#;
const ENDLESS: &str = r#"{"prompt":"1, 2, 3,","temperature":0,"max_tokens":8000,"ignore_eos":true,"stream":true}"#;

/// Streams that were admitted, with what was read of them.
fn admitted(server: &Server, body: &str, count: usize) -> Vec<(TcpStream, String)> {
    let streams: Vec<TcpStream> = (0..count).map(|_| server.send("POST", "/v1/completions", body)).collect();
    let begun = |mut stream: TcpStream| {
        let text = read_until(&mut stream, "HTTP/1.1 200");
        (stream, text)
    };
    streams.into_iter().map(begun).collect()
}

/// Some of the streams wait for a place in the batch when the signal comes: they are finished too.
#[test]
fn what_was_admitted_is_finished_and_what_comes_is_refused() {
    // However slow the machine is, nothing is given up for its waiting.
    let patient = ["--waiting-max-seconds", "0", "--drain-timeout-seconds", "600"];
    let mut server = Server::with(&[&["--running-max-count", "16"][..], &patient].concat());
    let alone = joined(&server.ask("POST", "/v1/completions", BODY), "/choices/0/text");
    let streams = admitted(&server, BODY, 32);
    let stats = server.stats();
    assert!(stats["active_requests"] == 32 && stats["scheduler"]["waiting"].as_u64() > Some(0), "{stats}");
    server.signal("-TERM");
    // The signal arrives when it arrives; from then on nothing is taken.
    while server.answer("GET", "/health/ready", "").0 == 200 {}
    let (status, refusal) = server.answer("POST", "/v1/completions", BODY);
    assert!(status == 503 && refusal.contains("\"draining\""), "{status} {refusal}");
    assert_eq!(server.answer("GET", "/health/live", "").0, 200);
    for (mut stream, mut text) in streams {
        text += &read_on(&mut stream);
        assert_eq!(joined(&text, "/choices/0/text"), alone);
        assert!(joined(&text, "/choices/0/finish_reason") == "length" && text.contains("data: [DONE]"), "{text}");
    }
    assert_eq!(server.end().0, Some(0));
}

#[test]
fn what_takes_longer_than_the_drain_is_told_so() {
    let mut server = Server::with(&["--drain-timeout-seconds", "1"]);
    let streams = admitted(&server, ENDLESS, 4);
    server.signal("-TERM");
    // All at once: a reader that takes nothing may be cut off before its last event.
    let readers = streams.into_iter().map(|(mut stream, text)| std::thread::spawn(move || text + &read_on(&mut stream)));
    for reader in readers.collect::<Vec<_>>() {
        let text = reader.join().expect("the stream ends in order");
        let last: Value = events(&text).last().expect("an event");
        assert_eq!(last["error"]["code"], "server_shutdown", "{last}");
    }
    assert_eq!(server.end().0, Some(0));
}

/// `antiphon health`, which stands in images for curl: with its exit code, what it prints and where.
fn health(server: &Server) -> (Option<i32>, String, String) {
    let url = format!("http://127.0.0.1:{}", server.port());
    let mut asked = std::process::Command::new(env!("CARGO_BIN_EXE_antiphon"));
    let output = asked.args(["health", "--url", &url]).output().expect("the binary starts");
    let text = |bytes| String::from_utf8(bytes).expect("it prints UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_health_command_says_what_the_probe_says() {
    let mut server = Server::with(&["--drain-timeout-seconds", "600"]);
    assert_eq!(health(&server), (Some(0), "ready\n".to_owned(), String::new()));
    let streams = admitted(&server, ENDLESS, 1);
    server.signal("-TERM");
    while server.answer("GET", "/health/ready", "").0 == 200 {}
    let (code, output, error) = health(&server);
    assert!(code == Some(1) && output.is_empty() && error.contains("503") && error.contains("draining"), "{error}");
    drop(streams);
    assert_eq!(server.end().0, Some(0));
    let (code, output, error) = health(&server);
    assert!(code == Some(1) && output.is_empty() && error.starts_with("antiphon: ") && error.lines().count() == 1, "{error}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut server = Server::start();
    let streams = admitted(&server, ENDLESS, 2);
    server.signal("-TERM");
    while server.answer("GET", "/health/ready", "").0 == 200 {}
    server.signal("-TERM");
    assert_eq!(server.end().0, Some(143));
    drop(streams);
}

/// A hub that takes the connection and says nothing: the download never ends, the server does.
#[test]
fn a_signal_ends_it_while_its_model_is_fetched() {
    for (signal, code) in [("-TERM", 143), ("-INT", 130)] {
        let hub = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let cache = tempfile::tempdir().expect("a folder");
        let mut serve = command(&["--model", "org/model", "--port", "0"]);
        serve.env("HF_HOME", cache.path()).env("HF_ENDPOINT", format!("http://{}", hub.local_addr().expect("bound")));
        let mut process = serve.stderr(Stdio::null()).spawn().expect("the binary starts");
        let asked = hub.accept().expect("it asks for the model");
        let id = process.id().to_string();
        assert!(std::process::Command::new("kill").args([signal, &id]).status().expect("kill runs").success());
        assert_eq!(ended(&mut process).code(), Some(code), "{signal}");
        drop(asked);
    }
}

/// Nothing is left of a server that was killed with streams under way: the next one takes its port
/// at once.
#[test]
fn a_server_that_was_killed_is_started_anew_on_its_port() {
    let mut first = Server::start();
    let port = first.port().to_string();
    let streams = admitted(&first, ENDLESS, 4);
    first.signal("-KILL");
    assert_eq!(first.end().0, None);
    let second = Server::with(&["--port", &port]);
    assert_eq!(second.port(), first.port());
    assert!(second.ask("POST", "/v1/completions", BODY).contains("data: [DONE]"));
    drop(streams);
}

/// A client that asks and does not read: its answer of some megabytes is larger than what the
/// system holds for it.
#[test]
fn a_reader_that_does_not_read_does_not_lengthen_the_drain() {
    let mut server = Server::with(&["--drain-timeout-seconds", "1"]);
    let body = format!(r#"{{"prompt":"{}"}}"#, "ü".repeat(1_000_000));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    // The smallest window that there is: the server's end holds the rest.
    socket.set_recv_buffer_size(1).expect("it can be set");
    socket.connect(&server.address().into()).expect("it listens");
    let mut deaf = TcpStream::from(socket);
    let head = "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    write!(deaf, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).expect("sent");
    assert!(read_until(&mut deaf, "HTTP/1.1").starts_with("HTTP/1.1 200"), "the answer is on its way");
    server.signal("-TERM");
    let began = Instant::now();
    assert_eq!(server.end().0, Some(0));
    let took = began.elapsed();
    // The drain's second and one for last bytes more. It was five, whatever the drain's time.
    assert!(took < Duration::from_secs(4), "a drain of one second took {took:?}");
    drop(deaf);
}

/// SIGQUIT is the system's: a server that hangs can be ended so, and leaves a core if it may.
#[test]
fn a_quit_ends_it_at_once_and_a_hangup_does_not() {
    let mut server = Server::start();
    let streams = admitted(&server, ENDLESS, 2);
    server.signal("-HUP");
    server.signal("-HUP");
    assert_eq!(server.answer("GET", "/health/ready", "").0, 200);
    // Nothing of the test shall lie around.
    let limit = format!("--pid={}", server.process.id());
    assert!(std::process::Command::new("prlimit").args([&limit, "--core=0"]).status().expect("prlimit runs").success());
    server.signal("-QUIT");
    assert_eq!(ended(&mut server.process).signal(), Some(3));
    drop(streams);
}
