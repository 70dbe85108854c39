//! What a server's log holds of visits that are no work: little, at the level that is set by
//! default.

use std::io::{Read, Write};

use super::server::{Server, command};

/// What the server logs between being ready and its end, after probes, a scrape, garbage, a probe
/// that fails and one request.
fn logged(level: &str) -> String {
    let mut server = Server::of(&mut command(&["--model", "tiny", "--log-level", level]));
    for path in ["/health", "/health/live", "/health/ready", "/metrics"] {
        server.ask("GET", path, "");
    }
    for garbage in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"nonsense\r\n\r\n"] {
        let mut socket = std::net::TcpStream::connect(server.address()).expect("it listens");
        socket.write_all(garbage).expect("sent");
        // The server may close before it has read everything.
        let _ = socket.read_to_end(&mut Vec::new());
    }
    assert_eq!(server.answer("POST", "/health/live", "").0, 405);
    server.ask("GET", "/version", "");
    server.signal("-TERM");
    server.end().1
}

#[test]
fn probes_scrapes_and_garbage_are_at_debug() {
    let loud = logged("debug");
    let count = |log: &str, text: &str| log.lines().filter(|line| line.contains(text)).count();
    for (text, lines) in [("GET \\\"/health", 3), ("GET \\\"/metrics", 1), ("what is no request", 2)] {
        assert_eq!(count(&loud, text), lines, "{text}: {loud}");
    }
    let quiet = logged("info");
    for text in ["GET \\\"/health", "GET \\\"/metrics", "what is no request"] {
        assert_eq!(count(&quiet, text), 0, "{text}: {quiet}");
    }
    for text in ["POST \\\"/health/live", "GET \\\"/version"] {
        assert_eq!(count(&quiet, text), 1, "{text}: {quiet}");
    }
}
