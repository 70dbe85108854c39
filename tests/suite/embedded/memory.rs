//! A server with little address space: bodies by the hundred, finished and not, beside clients that
//! are served.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use super::server::{PATIENCE, Server, command, joined, read_on};
use crate::ways::reset_when_dropped;

const LENGTH: usize = 7_900_000;
const CLIENTS: usize = 130;
/// Unfinished bodies of them all would take 1 GB, and what is made of them several times as much.
const ADDRESS_SPACE_KIB: usize = 2_000_000;

/// `antiphon serve` within so much address space.
fn limited(options: &[&str]) -> Command {
    let serve = command(options);
    let mut limited = Command::new("bash");
    let shell = format!(r#"ulimit -v {ADDRESS_SPACE_KIB}; exec "$0" "$@""#);
    limited.args(["-c", &shell]).arg(serve.get_program()).args(serve.get_args());
    limited
}

fn hear(server: &Server, number: usize) -> String {
    let asked = format!(r#""prompt":"Count from {number} to 90:","temperature":{},"seed":{number}"#, number % 2);
    let body = format!(r#"{{{asked},"max_tokens":60,"ignore_eos":true,"stream":true}}"#);
    let stream = read_on(&mut server.send("POST", "/v1/completions", &body));
    assert!(stream.contains("data: [DONE]"), "{stream}");
    joined(&stream, "/choices/0/text")
}

/// A sample of `/metrics`.
fn sample(server: &Server, name: &str, label: &str) -> u64 {
    let metrics = server.ask("GET", "/metrics", "");
    let line = metrics.lines().find(|line| line.starts_with(&format!("{name}{{")) && line.contains(label));
    let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    value.unwrap_or_else(|| panic!("no {name}")) as u64
}

fn resident_bytes(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.process.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("kilobytes") << 10
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Most of a body, in pieces; false if the server does not want it.
fn send_most(socket: &mut TcpStream, chunked: bool) -> bool {
    let piece = vec![b'x'; 100_000];
    let (before, after) = if chunked { ("186a0\r\n", "\r\n") } else { ("", "") };
    (0..LENGTH / piece.len()).all(|_| {
        let sent = socket.write_all(before.as_bytes()).and_then(|()| socket.write_all(&piece));
        sent.and_then(|()| socket.write_all(after.as_bytes())).is_ok()
    })
}

/// Right: a server that has no memory for a body says so, and lives; none of its other clients
/// hears of it.
#[test]
fn unfinished_bodies_are_refused_where_memory_ends_and_cost_nobody_else_anything() {
    let server = Server::of(&mut limited(&["--model", "tiny"]));
    let alone: Vec<String> = (0..4).map(|number| hear(&server, number)).collect();
    let before_bytes = resident_bytes(&server);
    let mut refused_count = 0;
    for chunked in [false, true] {
        let framing = if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {LENGTH}") };
        let mut crowd: Vec<TcpStream> = (0..CLIENTS)
            .map(|_| {
                let mut socket = TcpStream::connect(server.address()).expect("it listens");
                let head = format!("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n");
                socket.write_all(head.as_bytes()).expect("a head is taken");
                socket
            })
            .collect();
        std::thread::scope(|scope| {
            for part in crowd.chunks_mut(CLIENTS.div_ceil(8)) {
                scope.spawn(|| part.iter_mut().map(|socket| send_most(socket, chunked)).filter(|sent| *sent).count());
            }
            for (number, alone) in alone.iter().enumerate() {
                assert_eq!(hear(&server, number), *alone, "witness {number}");
            }
        });
        let rejected = sample(&server, "antiphon_requests_rejected_total", "kind=\"memory\"");
        assert!(rejected > refused_count + CLIENTS as u64 / 2, "{rejected} of {CLIENTS} were refused");
        refused_count = rejected;
        for (index, socket) in crowd.into_iter().enumerate() {
            if index % 2 == 0 {
                reset_when_dropped(&socket);
            }
        }
        until("what they held is given back", || sample(&server, "antiphon_memory_reserved_bytes", "") == 0);
    }
    for (number, alone) in alone.iter().enumerate() {
        assert_eq!(hear(&server, number), *alone, "witness {number}");
    }
    // What is left are buffers of connections and the allocator's own: a body of each client would be
    // ten times as much.
    until("what was freed goes back to the system", || resident_bytes(&server) < before_bytes + (100 << 20));
}

/// A chat of so many bytes in thousands of messages: what becomes of it are small blocks, which
/// come from heaps.
fn long_chat(bytes: usize) -> String {
    let message = |index: usize| {
        let (role, words) = (["user", "assistant"][index % 2], "one two three four ".repeat(index % 9));
        format!(r#"{{"role":"{role}","content":"{words}{index}"}},"#)
    };
    let mut messages = String::new();
    for index in 0.. {
        messages += &message(index);
        if messages.len() >= bytes {
            break;
        }
    }
    format!(r#"{{"messages":[{messages}{{"role":"user","content":"hi"}}],"max_tokens":1}}"#)
}

/// Right: what a flood of large bodies took is the system's again when it is over, whatever its
/// blocks were.
#[test]
fn what_large_bodies_took_goes_back_to_the_system() {
    let server = Server::with(&["--model", "tiny", "--memory-budget", "1GiB", "--prompt-cache-bytes", "0"]);
    hear(&server, 0);
    let before_bytes = resident_bytes(&server);
    let peak_bytes = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (server, peak_bytes) = (&server, &peak_bytes);
            scope.spawn(move || {
                for turn in 0..3 {
                    let answered = server.answer("POST", "/v1/chat/completions", &long_chat(400_000 * (1 + client + turn)));
                    assert_eq!(answered.0, 400, "{}", answered.1);
                    peak_bytes.fetch_max(resident_bytes(server), std::sync::atomic::Ordering::Relaxed);
                }
            });
        }
    });
    let peak_bytes = peak_bytes.into_inner();
    let allowed_bytes = before_bytes + (16 << 20);
    assert!(peak_bytes > allowed_bytes, "the flood took {} MiB only", (peak_bytes - before_bytes) >> 20);
    until("what was freed goes back to the system", || resident_bytes(&server) < allowed_bytes);
}

/// A refusal says what is the matter and when to come back, before the body is sent.
#[test]
fn a_refusal_comes_before_the_body() {
    let server = Server::of(&mut limited(&["--model", "tiny", "--memory-budget", "512MiB"]));
    let announce = || {
        let mut socket = TcpStream::connect(server.address()).expect("it listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: {LENGTH}\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).expect("a head is taken");
        let mut begin = [0; 12];
        socket.read_exact(&mut begin).expect("an answer");
        (socket, String::from_utf8_lossy(&begin).into_owned())
    };
    let (_held, first) = announce();
    assert_eq!(first, "HTTP/1.1 100");
    until("the first is paid for", || sample(&server, "antiphon_memory_reserved_bytes", "") > 0);
    let (mut socket, second) = announce();
    assert!(second == "HTTP/1.1 503" || second == "HTTP/1.1 100", "{second}");
    let mut rest = String::new();
    // What comes behind it may be the connection's reset.
    let _ = socket.read_to_string(&mut rest);
    assert!(rest.contains("\"memory_full\"") && rest.to_ascii_lowercase().contains("retry-after: "), "{rest}");
}
