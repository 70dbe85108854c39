//! What a stranger sends, and 10 KB where a word is expected: every answer is short, every line of
//! the log too, and none is an ERROR.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::server::{PATIENCE, Server, command};

/// What is echoed is 120 characters at most, twice in an error (message and field); escaped within
/// JSON one takes up to 7 bytes.
const ANSWER_MAX_BYTES: usize = 2_400;
/// A line has its frame, the request and the field; escaped twice.
const LINE_MAX_BYTES: usize = 2_400;

/// 10 KB that a client could send in place of a word.
fn long_words() -> [String; 4] {
    ["x".repeat(10_000), "\u{1}\"\\".repeat(3_400), "ü😀".repeat(1_700), "a.b[0]/".repeat(1_450)]
}

/// Sends bytes as they are; what comes back until the server closes.
fn sent(server: &Server, bytes: &[u8], half_close: bool) -> Vec<u8> {
    let mut socket = TcpStream::connect(server.address()).expect("it listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    // The server may have closed in the middle.
    let _ = socket.write_all(bytes);
    if half_close {
        let _ = socket.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    answer
}

/// The log up to the end of the server, each line's length and level checked.
fn assert_quiet(mut server: Server) {
    server.signal("-TERM");
    let (code, log) = server.end();
    assert_eq!(code, Some(0));
    assert!(log.contains("this server does not know"), "the log has no debug lines: {log}");
    for line in log.lines() {
        assert!(line.len() <= LINE_MAX_BYTES, "{} bytes: {line}", line.len());
        let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_ne!(event["level"], "ERROR", "{line}");
    }
}

/// A server that logs all it has to say of requests.
fn talkative() -> Server {
    Server::of(&mut command(&["--model", "tiny", "--log-level", "debug,mio=off,hyper=off"]))
}

/// Bodies with `word` in each place where a route reads something, one place a body.
fn bodies(word: &str) -> Vec<(&'static str, Value)> {
    let chat = |key: &str, value: Value| {
        let mut body = json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 1});
        body[key] = value;
        ("/v1/chat/completions", body)
    };
    let message = |message: Value| chat("messages", json!([message]));
    let tool = |tool: Value| chat("tools", json!([tool]));
    let call = |call: Value| message(json!({"role": "assistant", "tool_calls": [call]}));
    let mut all = vec![
        chat(word, json!(1)),
        message(json!({"role": word, "content": "x"})),
        message(json!({"role": "user", "content": {word: 1}})),
        message(json!({"role": "user", "content": [{"type": word, "text": "x"}]})),
        message(json!({"role": "user", "content": [{"type": "text", "text": {word: word}}]})),
        message(json!({"role": "user", "name": {word: 1}, "content": "x"})),
        message(json!({"role": "tool", "tool_call_id": word, "content": "x"})),
        message(json!(word)),
        call(json!({"id": "a", "type": word, "function": {"name": "f", "arguments": ""}})),
        call(json!({"id": "a", "type": "function", "function": {"name": word, "arguments": ""}})),
        call(json!({"id": {word: 1}, "function": {"name": "f", "arguments": ""}})),
        tool(json!({"type": word, "function": {"name": "f"}})),
        tool(json!({"type": "function", "function": {"name": word}})),
        tool(json!({"type": "function", "function": {"name": "f", "description": {word: 1}}})),
        tool(json!(word)),
        chat("tool_choice", json!(word)),
        chat("tool_choice", json!({"type": word})),
        chat("tool_choice", json!({"type": "function", "function": {"name": word}})),
        chat("response_format", json!({"type": word})),
        chat("response_format", json!(word)),
        chat("modalities", json!([word])),
        chat("stream_options", json!({word: 1})),
        chat("logit_bias", json!({word: 1})),
        chat("logit_bias", json!({"1": word})),
        chat("stop", json!([word, 1])),
        chat("stop", json!({word: 1})),
    ];
    all.extend(plain_fields(word));
    all.extend(other_routes(word));
    all
}

/// Chats with `word` as the value of a field, and as an object's only key.
fn plain_fields(word: &str) -> Vec<(&'static str, Value)> {
    let chat = |key: &str, value: Value| {
        let mut body = json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 1});
        body[key] = value;
        ("/v1/chat/completions", body)
    };
    let named = [
        "model",
        "temperature",
        "top_p",
        "top_k",
        "seed",
        "n",
        "max_tokens",
        "max_completion_tokens",
        "stream",
        "profile",
        "reasoning_effort",
        "reasoning",
        "cache_salt",
        "user",
        "metadata",
        "logprobs",
        "top_logprobs",
        "min_tokens",
        "presence_penalty",
        "repetition_penalty",
        "stop_token_ids",
        "tools",
        "functions",
        "function_call",
        "ignore_eos",
        "guided_json",
        "echo",
        "chat_template_kwargs",
        "parallel_tool_calls",
        "include_reasoning",
        "return_token_ids",
    ];
    named.into_iter().flat_map(|name| [chat(name, json!(word)), chat(name, json!({word: word}))]).collect()
}

/// The routes that are no chat.
fn other_routes(word: &str) -> Vec<(&'static str, Value)> {
    let mut all = Vec::new();
    for path in ["/v1/completions", "/generate", "/generate/stream", "/tokenize"] {
        for name in
            ["prompt", "model", "max_tokens", "temperature", "stream", "profile", "user_id", "model_type", "stop", "messages"]
        {
            let other = if name == "prompt" { "model" } else { "prompt" };
            all.push((path, json!({other: "x", "max_tokens": 1, name: {word: word}})));
            if name != "prompt" && name != "user_id" {
                all.push((path, json!({"prompt": "x", "max_tokens": 1, name: word})));
            }
        }
        all.push((path, json!({"prompt": [word], "max_tokens": [word]})));
        all.push((path, json!({"prompt": "x", "max_tokens": 1, "options": {word: {word: word}}})));
    }
    all.extend([
        ("/detokenize", json!({"tokens": [word]})),
        ("/detokenize", json!({"tokens": {word: word}})),
        ("/detokenize", json!(word)),
    ]);
    all
}

#[test]
fn an_echo_in_an_answer_or_the_log_is_short() {
    let server = talkative();
    let mut refused = 0;
    for word in long_words() {
        let texts = bodies(&word).into_iter().map(|(path, body)| (path, body.to_string()));
        let key = json!(word).to_string();
        let broken = [
            format!("{{{key}: 1, {key}: 2}}"),
            format!("{{{key}: nonsense}}"),
            format!("{{\"a\": {{{key}: [{{{key}: tru"),
            format!("{{\"max_tokens\": {}}}", "9".repeat(10_000)),
            format!("{{\"temperature\": 1e{}}}", "9".repeat(10_000)),
            word.clone(),
        ];
        let broken = broken.into_iter().map(|text| ("/v1/chat/completions", text));
        for (path, body) in texts.chain(broken) {
            let (status, answer) = server.answer("POST", path, &body);
            let shown: String = body.chars().take(200).collect();
            if status >= 400 {
                refused += 1;
                assert!(answer.len() <= ANSWER_MAX_BYTES, "{path} {shown}: {} bytes: {answer}", answer.len());
                assert!(status < 500, "{path} {shown}: {answer}");
            }
        }
    }
    assert!(refused > 400, "only {refused} bodies were refused");
    let many: serde_json::Map<String, Value> = (0..500).map(|index| (format!("unknown{index}"), json!(1))).collect();
    assert_eq!(server.answer("POST", "/tokenize", &json!({"prompt": "x", "more": many}).to_string()).0, 200);
    let mut many = many;
    many.insert("prompt".to_owned(), json!("x"));
    assert_eq!(server.answer("POST", "/tokenize", &Value::Object(many).to_string()).0, 200);
    assert_quiet(server);
}

/// Heads with `word` in each place.
fn heads(word: &str) -> Vec<String> {
    let get = |head: &str| format!("{head}\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let post = |header: &str| {
        let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
        format!("{head}{header}: {word}\r\nContent-Length: 29\r\n\r\n{{\"prompt\":\"x\",\"max_tokens\":1}}")
    };
    let mut all = vec![
        get(&format!("GET /{word} HTTP/1.1")),
        get(&format!("{word} / HTTP/1.1")),
        get(&format!("{word} /{word} HTTP/1.1")),
        get(&format!("{word} /v1/{word} HTTP/1.1")),
        get(&format!("{word} /v1/models/{word} HTTP/1.1")),
        get(&format!("GET /cancel/{word} HTTP/1.1")),
        get(&format!("POST /cancel/{word} HTTP/1.1")),
        get(&format!("GET /v1/models/{word} HTTP/1.1")),
        get(&format!("GET /page/{word} HTTP/1.1")),
        get(&format!("GET /metrics?names={word} HTTP/1.1")),
        get(&format!("GET http://{word}/ HTTP/1.1")),
        get(&format!("GET /health HTTP/{word}")),
        format!("GET / HTTP/1.1\r\nHost: {word}\r\nConnection: close\r\n\r\n"),
    ];
    let headers = [
        "Content-Type",
        "Content-Encoding",
        "Authorization",
        "X-Api-Key",
        "X-Session-ID",
        "X-SSE-Dialect",
        "X-Request-ID",
        "Expect",
        "Accept",
        "Origin",
        "Cookie",
        "Upgrade",
        "Transfer-Encoding",
        "User-Agent",
        word,
    ];
    all.extend(headers.iter().map(|header| post(header)));
    all
}

#[test]
fn what_is_no_request_is_answered_shortly_and_is_no_error_of_the_server() {
    let server = talkative();
    assert_eq!(server.answer("POST", "/tokenize", r#"{"prompt":"x","unknown":1}"#).0, 200);
    let plain = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    let with = |rest: &str| [plain, rest.as_bytes()].concat();
    let mut pieces: Vec<Vec<u8>> = vec![
        b"nonsense\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"\0".repeat(200_000),
        [b"GET / HTTP/1.1\r\n".to_vec(), b"a: b\r\n".repeat(200), b"\r\n".to_vec()].concat(),
        [b"GET / HTTP/1.1\r\na: ".to_vec(), b"b".repeat(200_000), b"\r\n\r\n".to_vec()].concat(),
        b"GET http://[::1/ HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_vec(),
        b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost:1\r\n\r\nGET / HTTP/1.1\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n\x81\x82abcdef".to_vec(),
        b"POST /cancel/%ff%00%0a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_vec(),
        b"GET /v1/models/%ff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_vec(),
        with("Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
        with("Transfer-Encoding: chunked\r\n\r\n5\r\nab"),
        with("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /"),
        with("Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        with("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"),
        with("Content-Length: 10\r\n\r\n{"),
        with("Content-Length: abc\r\n\r\n{}"),
        with("Content-Length: -1\r\n\r\n{}"),
        with("Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),
        with("Content-Length: 2\r\nExpect: 100-continue\r\n\r\n{}"),
        [plain.to_vec(), b"Content-Length: 4\r\n\r\n\xff\xfe\0\x01".to_vec()].concat(),
    ];
    for word in long_words() {
        pieces.extend(heads(&word).into_iter().map(String::into_bytes));
    }
    let whole = with("Content-Type: application/json\r\nContent-Length: 29\r\n\r\n{\"prompt\":\"x\",\"max_tokens\":1}");
    let mut random = SmallRng::seed_from_u64(11);
    for _ in 0..300 {
        let mut bytes = whole.clone();
        for _ in 0..random.random_range(1..6) {
            let at = random.random_range(0..bytes.len());
            match random.random_range(0..3) {
                0 => bytes[at] = random.random(),
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, b"\r\n\0 :;,\"{"[random.random_range(0..9)]),
            }
        }
        pieces.push(bytes);
    }
    for piece in pieces {
        // Some wait for more; that nothing more comes is said by closing.
        let answer = sent(&server, &piece, true);
        let shown = String::from_utf8_lossy(&piece[..piece.len().min(200)]).into_owned();
        assert!(!answer.starts_with(b"HTTP/1.1 5"), "{shown:?}: {}", String::from_utf8_lossy(&answer));
        let is_page = answer.windows(14).any(|window| window == b"<!doctype html");
        assert!(is_page || answer.len() <= ANSWER_MAX_BYTES, "{shown:?}: {}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(server.answer("GET", "/health/ready", "").0, 200);
    assert_quiet(server);
}
