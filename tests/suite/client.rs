//! The client against servers made for one purpose each, over real sockets.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use antiphon::client::{AnswerEvent, Api, Client, ClientError, ClientOptions, Request};
use serde_json::json;

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
/// A guard against hanging, not a measure of speed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Serves each connection with `serve`, which gets the number of the connection; a thread each.
fn server(serve: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        let serve = std::sync::Arc::new(serve);
        for (number, stream) in listener.incoming().map_while(Result::ok).enumerate() {
            let serve = std::sync::Arc::clone(&serve);
            thread::spawn(move || serve(number, stream));
        }
    });
    address
}

/// Reads a request; its head, and its body by its length. `None` if the client has gone.
fn read_request(stream: &TcpStream) -> Option<(String, String)> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let lower = head.to_lowercase();
    let length =
        lower.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |text| text.parse().expect("a length"));
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, String::from_utf8(body).expect("UTF-8")))
}

fn send(mut stream: &TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).expect("the client reads");
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

fn token(text: &str) -> String {
    chunk(&format!("data: {{\"id\":\"c\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"))
}

/// Answers once with these bytes and closes.
fn answer(text: impl Into<String>) -> SocketAddr {
    let text = text.into();
    server(move |_, stream| {
        if read_request(&stream).is_some() {
            send(&stream, &text);
        }
    })
}

fn client(address: SocketAddr) -> Client {
    Client::new(&format!("http://{address}/v1"), &ClientOptions::default()).expect("a client")
}

fn wait<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await.expect("it does not hang") })
}

/// Everything that a stream says, or why it could not be read.
fn read(address: SocketAddr, api: Api) -> Result<Vec<AnswerEvent>, ClientError> {
    wait(async {
        let (mut stream, mut events) = (client(address).stream(api, "{}".into()).await?, Vec::new());
        while let Some(arrival) = stream.next().await? {
            assert!(stream.timing().started <= stream.timing().head && stream.timing().head <= arrival.at);
            assert!(stream.first_byte().expect("a byte was read") <= arrival.at);
            events.push(arrival.event);
        }
        Ok(events)
    })
}

fn refused(address: SocketAddr, api: Api) -> (String, String) {
    let error = read(address, api).expect_err("it must fail");
    (error.kind(), error.to_string())
}

#[test]
fn events_are_read_as_they_come_and_the_connection_is_used_again() {
    let (seen, requests) = channel();
    let (go, going) = channel::<()>();
    let going = std::sync::Mutex::new(going);
    let address = server(move |connection, stream| {
        while let Some((head, body)) = read_request(&stream) {
            seen.send((connection, head, body)).expect("the test waits");
            send(&stream, HEAD);
            send(&stream, &token("a"));
            // The second piece is sent once the first was read.
            going.lock().unwrap().recv().expect("the test lets it go on");
            let (begun, rest) = "data: [DONE]\n\n".split_at(5);
            send(&stream, &format!("{}{}{}0\r\n\r\n", token("b"), chunk(begun), chunk(rest)));
        }
    });
    let options = ClientOptions { api_key: Some("hush".to_owned()), ..ClientOptions::default() };
    let client = Client::new(&format!("http://{address}"), &options).expect("a client");
    wait(async {
        for round in 0..3 {
            let request = Request::post_json(Api::Chat.path(), &json!({"stream": true})).header("x-session-id", "s");
            let mut stream = client.stream_of(Api::Chat, request).await.expect("a stream");
            assert_eq!(stream.timing().reused, round > 0);
            let mut next = async || stream.next().await.expect("well formed").map(|arrival| arrival.event);
            assert_eq!(next().await, Some(AnswerEvent::Started { id: "c".to_owned() }));
            assert_eq!(next().await, Some(AnswerEvent::Content { choice: 0, text: "a".to_owned() }));
            go.send(()).expect("the server waits");
            assert_eq!(next().await, Some(AnswerEvent::Content { choice: 0, text: "b".to_owned() }));
            assert_eq!(next().await, Some(AnswerEvent::Done));
            assert_eq!(next().await, None);
            assert_eq!((stream.sse_events(), stream.comments()), (3, 0));
        }
    });
    for _ in 0..3 {
        let (connection, head, body) = requests.recv().unwrap();
        assert_eq!((connection, body.as_str()), (0, "{\"stream\":true}"));
        let head = head.to_lowercase();
        for line in [
            "post /v1/chat/completions http/1.1\r\n".to_owned(),
            format!("host: {address}\r\n"),
            "authorization: bearer hush\r\n".to_owned(),
            "accept: text/event-stream\r\n".to_owned(),
            "content-type: application/json\r\n".to_owned(),
            "x-session-id: s\r\n".to_owned(),
        ] {
            assert!(head.contains(&line), "{line} is not in {head}");
        }
    }
}

/// The server says when a client of a silent stream has left.
fn silent() -> (SocketAddr, Receiver<()>) {
    let (left, seen) = channel();
    let address = server(move |_, mut stream| {
        read_request(&stream);
        send(&stream, HEAD);
        send(&stream, &token("a"));
        let mut rest = [0];
        if matches!(stream.read(&mut rest), Ok(0) | Err(_)) {
            left.send(()).expect("the test waits");
        }
    });
    (address, seen)
}

#[test]
fn a_stream_that_is_dropped_closes_its_connection_while_the_server_is_silent() {
    let (address, left) = silent();
    let client = client(address);
    wait(async {
        let mut stream = client.stream(Api::Chat, "{}".into()).await.expect("a stream");
        stream.next().await.expect("well formed");
        drop(stream);
        // The runtime goes no further: the close must have happened in the drop itself.
        left.recv_timeout(PATIENCE).expect("the server sees that the client left");
    });
}

#[test]
fn a_request_that_is_dropped_before_its_answer_closes_its_connection() {
    let (left, seen) = channel();
    let address = server(move |_, mut stream| {
        read_request(&stream);
        left.send(stream.read(&mut [0]).unwrap_or(0)).expect("the test waits");
    });
    wait(async {
        let asked = client(address);
        let answer = tokio::time::timeout(Duration::from_millis(50), asked.stream(Api::Chat, "{}".into())).await;
        assert!(answer.is_err(), "nothing was answered");
        assert_eq!(seen.recv_timeout(PATIENCE), Ok(0));
    });
}

#[test]
fn a_connection_that_the_server_closed_between_requests_is_not_used_again() {
    let (go, going) = channel::<()>();
    let going = std::sync::Mutex::new(going);
    let (closed, seen) = channel();
    let address = server(move |_, stream| {
        read_request(&stream);
        send(&stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
        going.lock().unwrap().recv().ok();
        drop(stream);
        closed.send(()).expect("the test waits");
    });
    let client = client(address);
    wait(async {
        for request in [Request::get("/stats"), Request::post_json("/cancel/x", &json!({}))].iter().cycle().take(20) {
            // The close is seen before the connection is used, though the runtime had no turn since.
            let whole = client.call(request).await.expect("an answer");
            assert_eq!((whole.status, whole.json().unwrap(), whole.timing.reused), (200, json!({}), false));
            go.send(()).expect("the server waits");
            seen.recv_timeout(PATIENCE).expect("the server closes");
        }
    });
}

#[test]
fn a_request_that_meets_the_close_of_a_used_connection_is_sent_once_more() {
    let (seen, requests) = channel();
    let address = server(move |connection, stream| {
        for number in 0..2 {
            let Some((_, body)) = read_request(&stream) else { return };
            seen.send((connection, body)).expect("the test waits");
            // The first connection closes with its second request read and not answered; the second one does so
            // with its first.
            if connection + number == 1 {
                return;
            }
            send(&stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
        }
    });
    let client = client(address);
    wait(async {
        let post = |text: &str| Request::post_json("/cancel/x", &json!(text));
        client.call(&post("a")).await.expect("an answer");
        let Err(error) = client.call(&post("b")).await else { panic!("the new connection is not answered either") };
        assert_eq!(error.kind(), "broken");
    });
    let of = |connection, body: &str| (connection, body.to_owned());
    assert_eq!(requests.try_iter().collect::<Vec<_>>(), [of(0, "\"a\""), of(0, "\"b\""), of(1, "\"b\"")]);
}

#[test]
fn what_a_server_refuses_is_said_in_its_words() {
    let body = r#"{"error":{"message":"no model `x`","type":"not_found_error","param":"model","code":"model_not_found"}}"#;
    let length = body.len();
    let address = answer(format!("HTTP/1.1 404 Not Found\r\nRetry-After: 7\r\nContent-Length: {length}\r\n\r\n{body}"));
    let error = read(address, Api::Chat).expect_err("it must fail");
    assert_eq!(error.kind(), "http_404");
    assert_eq!(error.to_string(), format!("http://{address}/v1/chat/completions answers 404: no model `x`"));
    let ClientError::Refused { refusal, .. } = error else { panic!("{error:?}") };
    assert_eq!((refusal.code.as_deref(), refusal.retry_after.as_deref()), (Some("model_not_found"), Some("7")));
}

#[test]
fn what_is_no_event_stream_is_shown() {
    let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>";
    let (kind, error) = refused(answer(page), Api::Chat);
    assert_eq!(kind, "not_a_stream");
    assert!(error.contains("answers with text/html where an event stream was asked for; it begins `<html>`"), "{error}");
    let (kind, error) = refused(answer("SSH-2.0-OpenSSH_9.2\r\n"), Api::Chat);
    assert_eq!(kind, "broken");
    assert!(error.contains("broke off before it answered: "), "{error}");
}

#[test]
fn a_server_that_dies_in_the_middle_is_told_from_one_that_ends_early_or_is_malformed() {
    let (kind, error) = refused(answer(format!("{HEAD}{}", token("a"))), Api::Chat);
    assert_eq!(kind, "broken");
    assert!(error.contains("broke off in the middle of its answer: "), "{error}");
    let (kind, error) = refused(answer(format!("{HEAD}{}0\r\n\r\n", token("a"))), Api::Chat);
    assert_eq!(kind, "ended_early");
    assert!(error.ends_with("ended its stream before data: [DONE]"), "{error}");
    let (kind, error) = refused(
        answer(format!("{HEAD}{}0\r\n\r\n", chunk("data: {\"text\":\"a\"}\n\n{\"text\":\"b\"}\n\n"))),
        Api::GenerateStream,
    );
    assert_eq!(kind, "malformed_sse");
    assert!(error.contains("line 3 is `{\"text\":\"b\"}`; expected data:"), "{error}");
    let (kind, error) = refused(answer(format!("{HEAD}{}0\r\n\r\n", chunk("data: {}\n\n"))), Api::Chat);
    assert_eq!(kind, "unexpected_event");
    assert!(error.contains("neither `choices` nor `error`; it was `{}`"), "{error}");
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (kind, error) = refused(address, Api::Chat);
    assert_eq!(kind, "connect");
    assert!(error.starts_with(&format!("http://{address} is not reachable: ")) && error.contains("antiphon serve"), "{error}");
    let error = Client::new("127.0.0.1:8000", &ClientOptions::default()).err().expect("no address").to_string();
    assert_eq!(
        error,
        "`127.0.0.1:8000` is no address of a server; expected http://HOST:PORT or https://HOST, with a path if it needs one"
    );
}
