//! Keys that change while the server runs: no request is lost, no old key opens, and a broken file
//! changes nothing.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::server::{PATIENCE, Server, command, read_until};

/// The status of `path` for a key.
fn status(server: &Server, path: &str, key: &str) -> u16 {
    let mut stream = TcpStream::connect(server.address()).expect("it listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Api-Key: {key}\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status: {answer}"))
}

/// Waits until a key is as welcome as `wanted`.
fn await_status(server: &Server, path: &str, key: &str, wanted: u16) {
    let began = Instant::now();
    while status(server, path, key) != wanted {
        assert!(began.elapsed() < PATIENCE, "{key} never gets {wanted} for {path}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Puts a file in place of another, as an operator should.
fn replace(path: &Path, content: &str) {
    let new = path.with_extension("new");
    fs::write(&new, content).expect("the folder is ours");
    fs::rename(new, path).expect("the folder is ours");
}

#[test]
fn keys_change_while_a_stream_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let (users, admins) = (folder.path().join("keys"), folder.path().join("admins"));
    fs::write(&users, "old\n").expect("the folder is ours");
    fs::write(&admins, "root\n").expect("the folder is ours");
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let mut server = Server::of(&mut command(&["--api-key-file", &text(&users), "--admin-key-file", &text(&admins)]));
    let (open, bundle) = ("/v1/models", "/admin/debug/bundle");
    assert_eq!((status(&server, open, "old"), status(&server, bundle, "old")), (200, 403));
    assert_eq!((status(&server, open, "new"), status(&server, bundle, "root")), (401, 200));

    let body = r#"{"prompt":"One, two,","max_tokens":400,"ignore_eos":true,"stream":true}"#;
    let mut stream = TcpStream::connect(server.address()).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Api-Key: old\r\n";
    write!(stream, "{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).expect("sent");
    read_until(&mut stream, "data:");

    // Both are good while clients move from one to the other; then the old one is taken out.
    replace(&users, "old\nnew\n");
    await_status(&server, open, "new", 200);
    assert_eq!(status(&server, open, "old"), 200);
    replace(&users, "new\n");
    await_status(&server, open, "old", 401);
    // Neither an empty file nor none unlocks the server, or locks clients out that have a key.
    replace(&users, "\n");
    server.signal("-HUP");
    fs::remove_file(&admins).expect("it is there");
    server.signal("-HUP");
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!((status(&server, open, "new"), status(&server, open, ""), status(&server, bundle, "root")), (200, 401, 200));
    replace(&admins, "toor\n");
    replace(&users, "new\n");
    await_status(&server, bundle, "toor", 200);
    assert_eq!(status(&server, bundle, "root"), 401);

    let rest = read_until(&mut stream, "data: [DONE]");
    assert!(!rest.contains("\"error\""), "what was let in goes on: {rest}");
    server.signal("-TERM");
    let (code, log) = server.end();
    assert_eq!(code, Some(0), "a hangup does not end it");
    assert!(log.contains("the keys were read again") && log.contains("the keys stay as they were"), "{log}");
    assert!(!log.contains("toor"), "no key is in the log");
}

#[test]
fn an_empty_variable_opens_no_server() {
    let output = command(&["--port", "0"]).env("ANTIPHON_API_KEY", "").output().expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("ANTIPHON_API_KEY is set and empty"), "{said}");
}
