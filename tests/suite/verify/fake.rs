//! Small servers with a fault each.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// What a server does with a request for a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Answers with JSON.
    NoStream,
    /// Sends what is no event stream under the name of one.
    Malformed,
    /// Sends the beginning, then is gone for good.
    Dies,
}

/// Serves one model until it dies, or the tests end.
pub(super) fn start(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it has an address");
    let dead = Arc::new(AtomicBool::new(false));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let its_dead = Arc::clone(&dead);
            // One after another: a fake that dies must not have taken the next connection.
            thread::spawn(move || serve(stream, fault, &its_dead)).join().expect("a fake does not panic");
            if dead.load(Ordering::SeqCst) {
                return;
            }
        }
    });
    address
}

fn serve(mut stream: TcpStream, fault: Fault, dead: &AtomicBool) {
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout can be set");
    let request = read(&mut stream);
    let streams = request.contains("\"stream\":true");
    let answer = if request.starts_with("GET /v1/models") {
        json("200 OK", r#"{"data":[{"id":"fake"}]}"#)
    } else if request.starts_with("POST /v1/chat/completions") && !streams {
        json(
            "200 OK",
            r#"{"choices":[{"message":{"content":"print(\"Jay\")"},"finish_reason":"stop"}],
                           "usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#,
        )
    } else if request.starts_with("POST") && streams {
        let chunk = r#"data: {"id":"1","choices":[{"index":0,"delta":{"content":"pri"}}]}"#;
        match fault {
            Fault::NoStream => json("200 OK", r#"{"choices":[]}"#),
            Fault::Malformed => events(&format!("{chunk}\n\nthis is no field\n\n")),
            Fault::Dies => {
                dead.store(true, Ordering::SeqCst);
                // More is announced than will come.
                format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9999\r\n\r\n{chunk}\n\n")
            }
        }
    } else {
        json("404 Not Found", r#"{"error":{"message":"no such path","type":"not_found_error"}}"#)
    };
    // The caller may have left.
    let _ = stream.write_all(answer.as_bytes());
}

/// A request, head and body.
fn read(stream: &mut TcpStream) -> String {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return text;
            }
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return text,
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
        }
    }
}

fn json(status: &str, body: &str) -> String {
    answer(status, "application/json", body)
}

fn events(body: &str) -> String {
    answer("200 OK", "text/event-stream", body)
}

fn answer(status: &str, content_type: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}
