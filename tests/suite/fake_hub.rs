//! A Hugging Face hub on a local port: lists a repository, serves its files, and misbehaves when told to.
//!
//! It answers as the real one does: the listing with commit and sizes, small files with git's hash as ETag, large files by a
//! redirect to another path with `x-linked-etag` holding their SHA-256, and ranges with 206 and `Content-Range`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use sha2::{Digest, Sha256};

pub(crate) const COMMIT: &str = "6cee5e81ee83917806bbde320786a8fb61efebee";

/// The embedded model's files, as a hub would list them.
pub(crate) fn tiny() -> Vec<(&'static str, Vec<u8>)> {
    let names = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"];
    let read = |name| std::fs::read(format!("{}/models/tiny/{name}", env!("CARGO_MANIFEST_DIR"))).expect("it is here");
    names.map(|name| (name, read(name))).to_vec()
}

/// What the hub does wrong.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// Answer everything with this status.
    pub(crate) status: Option<u16>,
    /// Cut off this many downloads in their middle.
    pub(crate) cut: usize,
    /// Flip a byte in this many downloads of large files.
    pub(crate) corrupt: usize,
    /// Answer everything only with this token.
    pub(crate) token: Option<&'static str>,
}

struct State {
    files: BTreeMap<String, Vec<u8>>,
    faults: Faults,
    requests: Vec<String>,
}

/// The hub; it serves until the test's process ends.
pub(crate) struct FakeHub {
    pub(crate) endpoint: String,
    state: Arc<Mutex<State>>,
}

impl FakeHub {
    /// A hub with one repository, `org/model` whatever `org/model` is asked for.
    pub(crate) fn start(files: &[(&str, Vec<u8>)], faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())).collect();
        let state = Arc::new(Mutex::new(State { files, faults, requests: Vec::new() }));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                // A client that goes away in the middle is none of the hub's concern.
                thread::spawn(move || drop(answer(stream, &state)));
            }
        });
        Self { endpoint, state }
    }

    /// The paths that were asked for, each with its range if one byte more than metadata was wanted.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.lock().expect("not poisoned").requests.clone()
    }
}

fn answer(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        match line.split_once(':') {
            Some((name, value)) => headers.insert(name.to_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    let range = headers.get("range").and_then(|range| range.strip_prefix("bytes=")).unwrap_or("0-").to_owned();
    let faults = {
        let mut state = state.lock().expect("not poisoned");
        state.requests.push(if range == "0-0" { path.clone() } else { format!("{path} {range}") });
        state.faults
    };
    if let Some(status) = faults.status {
        return plain(stream, status, "no");
    }
    if faults.token.is_some_and(|token| headers.get("authorization") != Some(&format!("Bearer {token}"))) {
        return plain(stream, 401, "no");
    }
    if path.starts_with("/api/models/") {
        return plain(stream, 200, &listing(&state.lock().expect("not poisoned").files));
    }
    let name = path.rsplit('/').next().unwrap_or_default().to_owned();
    let Some(bytes) = state.lock().expect("not poisoned").files.get(&name).cloned() else {
        return plain(stream, 404, "no");
    };
    if path.contains("/resolve/") && name.ends_with(".safetensors") {
        let sha = hex(&Sha256::digest(&bytes));
        return redirect(stream, &format!("/cdn/{name}"), &sha, bytes.len());
    }
    file(stream, state, &name, bytes, &range)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn listing(files: &BTreeMap<String, Vec<u8>>) -> String {
    let siblings: Vec<_> =
        files.iter().map(|(name, bytes)| serde_json::json!({"rfilename": name, "size": bytes.len()})).collect();
    serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string()
}

fn plain(mut stream: TcpStream, status: u16, body: &str) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

fn redirect(mut stream: TcpStream, to: &str, sha: &str, size: usize) -> std::io::Result<()> {
    // The real hub redirects to another host; hf-hub follows redirects without a host itself, with the same outcome.
    let host = stream.local_addr()?;
    write!(
        stream,
        "HTTP/1.1 302 Found\r\nlocation: http://{host}{to}\r\nx-repo-commit: {COMMIT}\r\nx-linked-etag: \"{sha}\"\r\n\
         x-linked-size: {size}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )
}

fn file(mut stream: TcpStream, state: &Mutex<State>, name: &str, mut bytes: Vec<u8>, range: &str) -> std::io::Result<()> {
    let (from, to) = range.split_once('-').unwrap_or(("0", ""));
    let (from, total) = (from.parse().unwrap_or(0), bytes.len());
    let to = to.parse().map_or(total, |last: usize| last + 1);
    if from >= total {
        return plain(stream, 416, "no");
    }
    // Git's hash of a small file: 40 hex digits; only their number matters here.
    let etag = &hex(&Sha256::digest(&bytes))[..40];
    let (cut, corrupt) = {
        let mut state = state.lock().expect("not poisoned");
        let whole = to - from > 1;
        let cut = whole && state.faults.cut > 0;
        let corrupt = whole && name.ends_with(".safetensors") && state.faults.corrupt > 0;
        state.faults.cut -= usize::from(cut);
        state.faults.corrupt -= usize::from(corrupt);
        (cut, corrupt)
    };
    if corrupt {
        bytes[from] ^= 1;
    }
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\netag: \"{etag}\"\r\nx-repo-commit: {COMMIT}\r\ncontent-range: bytes {from}-{}/{total}\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        to - 1,
        to - from
    )?;
    let end = if cut { from + (to - from) / 2 } else { to };
    stream.write_all(&bytes[from..end])
}
