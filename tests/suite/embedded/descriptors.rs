//! A server that may have few files open: it says so at its start, outlives a rush, and ends where
//! it cannot serve.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use super::server::{Server, command, ended};

/// `antiphon serve` after this piece of shell.
fn after(shell: &str) -> Command {
    let serve = command(&["--model", "tiny", "--http-workers", "1"]);
    let mut limited = Command::new("bash");
    limited.args(["-c", &format!(r#"{shell}; exec "$0" "$@""#)]).arg(serve.get_program()).args(serve.get_args());
    limited
}

#[test]
fn a_limit_that_holds_no_connection_is_refused() {
    let mut process =
        after("ulimit -n 76").args(["--port", "0", "--log-level", "off"]).stderr(Stdio::piped()).spawn().expect("bash starts");
    assert_eq!(ended(&mut process).code(), Some(1));
    let mut error = String::new();
    process.stderr.take().expect("piped").read_to_string(&mut error).expect("UTF-8");
    let said = "antiphon: this process may have 76 files open, and a server needs 76 besides its connections; expected a hard limit \
                of 4172 for all connections that may be open (LimitNOFILE= of a unit, ulimit -Hn)\n";
    assert_eq!(error, said);
}

#[test]
fn the_soft_limit_is_raised_to_the_hard_one() {
    let server = Server::of(&mut after("ulimit -Sn 64; ulimit -Hn 4500"));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.process.id())).expect("it runs");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    assert_eq!(line.split_whitespace().skip(3).collect::<Vec<_>>(), ["4500", "4500", "files"]);
    assert!(!server.log.contains("files open"), "{}", server.log);
}

/// No more connections are let in than there are descriptors for, so that what comes beside them is
/// answered, be it with a refusal; a probe that waits to be accepted has the server restarted.
#[test]
fn a_rush_beyond_the_limit_is_outlived() {
    let mut server = Server::of(&mut after("ulimit -n 100"));
    let warning = "this process may have 100 files open, which is 24 connections, and so many are let in of the 4096 of \
                   --connections-max-count";
    assert!(server.log.contains(warning), "{}", server.log);
    let crowd: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(server.address()).expect("the backlog has room")).collect();
    // One that is refused without a word may be closed before it has asked.
    let first_line = |path: &str| {
        let mut socket = TcpStream::connect(server.address()).expect("the backlog has room");
        let _ = write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        BufReader::new(socket).lines().next().and_then(Result::ok).unwrap_or_default()
    };
    for _ in 0..5 {
        // The crowd stays until it is answered: one that is refused has been accepted too.
        let answer = first_line("/health/live");
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 503") || answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(server.footprint().descriptors < 100, "none is left");
    }
    drop(crowd);
    while !first_line("/version").starts_with("HTTP/1.1 200") {
        std::thread::yield_now();
    }
    server.ask("GET", "/health/ready", "");
    server.signal("-TERM");
    assert_eq!(server.end().0, Some(0));
}

/// Descriptors that the process was started with leave the HTTP server too few, from case to case
/// at another place of its start. It either serves or ends with a sentence; it is never ready
/// behind a port that nothing accepts at.
#[test]
fn an_http_server_that_does_not_start_ends_the_process() {
    let tried: Vec<_> = (15..=32_u32)
        .map(|free| {
            let inherited = 100 - 3 - free;
            let shell =
                format!("ulimit -n 100; for ((i = 10; i < 10 + {inherited}; i++)); do eval \"exec $i</dev/null\"; done");
            std::thread::spawn(move || {
                let mut serve = after(&shell);
                serve.args(["--port", "0", "--log-level", "info"]).stderr(Stdio::piped());
                let mut process = serve.spawn().expect("bash starts");
                let mut last = String::new();
                for line in BufReader::new(process.stderr.take().expect("piped")).lines() {
                    last = line.expect("UTF-8");
                    if let Some((_, address)) = last.split_once("ready address=") {
                        let reached = TcpStream::connect(address.trim());
                        process.kill().expect("it runs");
                        reached.unwrap_or_else(|error| panic!("{free} descriptors: ready, and {error}"));
                        break;
                    }
                }
                (ended(&mut process).code(), last)
            })
        })
        .collect();
    let outcomes: Vec<_> = tried.into_iter().map(|tried| tried.join().expect("an outcome")).collect();
    let refused = |(code, last): &&(Option<i32>, String)| *code == Some(1) && last.starts_with("antiphon: ");
    let by_http =
        |outcome: &&(Option<i32>, String)| refused(outcome) && outcome.1.contains("the threads that serve connections");
    assert!(outcomes.iter().any(|outcome| by_http(&outcome)), "{outcomes:#?}");
    assert!(outcomes.iter().any(|outcome| outcome.0.is_none()), "none served: {outcomes:#?}");
    for outcome in &outcomes {
        assert!(refused(&outcome) || outcome.0.is_none(), "{outcome:?}");
    }
}
