//! Strangers that need no key: what they cost the server in memory and time, and the streams beside
//! them.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rlimit::Resource;
use socket2::SockRef;

use super::server::{PATIENCE, Server, joined, read_on, read_until};

const CONNECTIONS: usize = 1_000;
const GROWTH_MAX_BYTES: u64 = 64 << 20;

fn witness(number: u64) -> String {
    let (temperature, seed) = (number % 2, number);
    format!(
        r#"{{"prompt":"Count from {number} to 90:","max_tokens":60,"temperature":{temperature},"seed":{seed},"ignore_eos":true,"stream":true}}"#
    )
}

fn hear(server: &Server, number: u64) -> String {
    let stream = read_on(&mut server.send("POST", "/v1/completions", &witness(number)));
    assert!(stream.contains("data: [DONE]"), "{stream}");
    joined(&stream, "/choices/0/text")
}

/// Runs `attack` while four witnesses are told again and again what they are told alone.
fn beside_witnesses<T>(server: &Server, attack: impl FnOnce() -> T) -> T {
    /// Ends the witnesses, also where an attack fails.
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let alone: Vec<String> = (0..4).map(|number| hear(server, number)).collect();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = Over(&over);
        for (number, alone) in (0..).zip(&alone) {
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(hear(server, number), *alone, "witness {number}");
                }
            });
        }
        attack()
    })
}

/// A connection that never reads, with as much of `requests` sent as the kernels take.
fn flood(server: &Server, requests: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(server.address()).expect("it listens");
    SockRef::from(&socket).set_recv_buffer_size(4096).expect("Linux can");
    socket.set_nonblocking(true).expect("Linux can");
    let mut left = requests;
    while !left.is_empty() {
        match socket.write(left) {
            Ok(length) => left = &left[length..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    socket
}

#[test]
fn a_thousand_connections_that_pipeline_and_never_read_take_little_memory() {
    // Descriptors for both ends; the server inherits the limit.
    let (_, hard) = Resource::NOFILE.get().expect("Linux can");
    Resource::NOFILE.set(hard.min(8_192), hard).expect("below the hard limit");
    let server = Server::start();
    // The largest file of the page, and answers of which many find room in the kernel.
    let requests = ["/page/newsreader.woff2", "/version", "/v1/models", "/health"]
        .map(|path| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").repeat(6_000));
    beside_witnesses(&server, || {
        for requests in [&requests[..1], &requests] {
            let before = server.resident_bytes();
            let (mut most, mut most_open) = (before, 0);
            let mut sockets = Vec::new();
            let began = Instant::now();
            // Until all stand still.
            while sockets.len() < CONNECTIONS || began.elapsed() < Duration::from_secs(8) {
                if sockets.len() < CONNECTIONS {
                    sockets.push(flood(&server, requests[sockets.len() % requests.len()].as_bytes()));
                } else {
                    thread::sleep(Duration::from_millis(50));
                }
                most = most.max(server.resident_bytes());
                most_open = most_open.max(server.footprint().descriptors);
            }
            // Where the kernel takes many small answers the connection ends behind one of them, and is not
            // counted on.
            assert!(requests.len() > 1 || most_open > CONNECTIONS, "all were open at a time: {most_open}");
            assert!(most - before <= GROWTH_MAX_BYTES, "{} KiB more than {} KiB", (most - before) >> 10, before >> 10);
        }
    });
    let began = Instant::now();
    while server.footprint().descriptors > 100 {
        assert!(began.elapsed() < PATIENCE, "connections stay: {:?}", server.footprint());
        thread::sleep(Duration::from_millis(20));
    }
}

/// The share of a core that serving took in the last two seconds.
fn share(server: &Server) -> f64 {
    let (began, before) = (Instant::now(), server.serving_ticks());
    thread::sleep(Duration::from_secs(2));
    (server.serving_ticks() - before) as f64 / 100.0 / began.elapsed().as_secs_f64()
}

/// A reader that stopped, and requests behind one that is being answered.
#[test]
fn a_connection_that_waits_takes_no_time() {
    let server = Server::with(&["--kv-bytes", "256MiB"]);
    let behind = "GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(10_000);
    let page = "GET /page/newsreader.woff2 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for requests in [page.to_owned(), page.repeat(6_000), format!("{page}{behind}")] {
        let sockets: Vec<TcpStream> = (0..8).map(|_| flood(&server, requests.as_bytes())).collect();
        // Within the second in which what is behind is kept, and past it.
        for _ in 0..2 {
            let share = share(&server);
            // Polling takes two thirds of an idle core, and 0.08 of one for which twenty others wait.
            assert!(share < 0.03, "{} bytes of requests that wait take {share} of a core", requests.len());
        }
        drop(sockets);
    }
    // An answer that is being made: its tokens take time, what waits behind it does not.
    for stream in [false, true] {
        let body = format!(r#"{{"prompt":"go on","max_tokens":8000,"ignore_eos":true,"temperature":0,"stream":{stream}}}"#);
        let head = format!("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
        let shares = ["", &behind].map(|behind| {
            let socket = flood(&server, format!("{head}{body}{behind}").as_bytes());
            let share = share(&server);
            drop(socket);
            share
        });
        // On an idle machine polling takes two thirds.
        assert!(shares[1] - shares[0] < 0.25, "what waits behind an answer takes time: {shares:?}");
    }
}

/// A flood is one line in ten seconds, and each connection of it is counted.
#[test]
fn connections_that_are_turned_away_do_not_flood_the_log() {
    let mut server = Server::with(&["--connections-max-count", "3"]);
    let mut open: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(server.address()).expect("it listens")).collect();
    // An answer on each shows that it has its place.
    for socket in &mut open {
        socket.write_all(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
        read_until(socket, "version");
    }
    for _ in 0..200 {
        let answer = read_on(&mut TcpStream::connect(server.address()).expect("it listens"));
        assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
    }
    drop(open);
    let began = Instant::now();
    let metrics = loop {
        let (status, body) = server.answer("GET", "/metrics", "");
        if status == 200 {
            break body;
        }
        assert!(began.elapsed() < PATIENCE, "the places are free again");
        thread::sleep(Duration::from_millis(20));
    };
    let line = metrics.lines().find(|line| line.starts_with("antiphon_connections_refused_total{") && line.contains("\"all\""));
    let count: f64 = line.and_then(|line| line.rsplit_once(' ')).expect("it is counted").1.parse().expect("a number");
    assert!(count >= 200.0, "{count}");
    server.signal("-TERM");
    let (_, log) = server.end();
    let lines = log.lines().filter(|line| line.contains("too many connections")).count();
    assert!((1..10).contains(&lines), "{lines} lines: {log}");
}
