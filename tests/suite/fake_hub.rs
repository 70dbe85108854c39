//! A Hugging Face hub on a local port: lists a repository, serves its files, and misbehaves when
//! told to.
//!
//! It answers as the real one does. The listing has commit, sizes and hashes; small files have
//! git's hash as ETag. Large files come by a redirect to a content server under another name, with
//! their SHA-256 in `x-linked-etag`, and ranges with 206 and `Content-Range`. A mirror in front of
//! it sends every request on.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use sha1::Sha1;
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
    /// The same for small files.
    pub(crate) corrupt_small: usize,
    /// Answer everything only with this token; the content server needs none.
    pub(crate) token: Option<&'static str>,
    /// Send the whole file whatever range is asked for.
    pub(crate) no_ranges: bool,
    /// Send the part before the one that is asked for, and say so.
    pub(crate) shifted: bool,
    /// Say of a part which one it is, and not of how many bytes.
    pub(crate) hidden_total: bool,
    /// List names alone, as some mirrors do.
    pub(crate) bare_list: bool,
}

struct State {
    files: BTreeMap<String, Vec<u8>>,
    faults: Faults,
    requests: Vec<String>,
    /// Tokens that arrived anywhere but at the hub.
    leaked: Vec<String>,
    /// Bytes of files that were sent.
    sent_bytes: usize,
}

/// The hub; it serves until the test's process ends.
pub(crate) struct FakeHub {
    pub(crate) endpoint: String,
    /// A server that sends every request on to the hub, by status 308.
    pub(crate) mirror: String,
    state: Arc<Mutex<State>>,
}

impl FakeHub {
    /// A hub with one repository, `org/model` whatever `org/model` is asked for.
    pub(crate) fn start(files: &[(&str, Vec<u8>)], faults: Faults) -> Self {
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())).collect();
        let state = Arc::new(Mutex::new(State { files, faults, requests: Vec::new(), leaked: Vec::new(), sent_bytes: 0 }));
        let hub = listen(&state, Role::Hub);
        let mirror = format!("http://127.0.0.1:{}", listen(&state, Role::Mirror { hub }));
        Self { endpoint: format!("http://127.0.0.1:{hub}"), mirror, state }
    }

    /// The tokens that another server than the hub has seen.
    pub(crate) fn leaked(&self) -> Vec<String> {
        self.state.lock().expect("not poisoned").leaked.clone()
    }

    /// Bytes of files that it and its content server have sent, or tried to.
    pub(crate) fn sent_bytes(&self) -> usize {
        self.state.lock().expect("not poisoned").sent_bytes
    }

    /// The paths that were asked for, each with its range if one byte more than metadata was
    /// wanted.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.lock().expect("not poisoned").requests.clone()
    }
}

/// What a server of this made-up hub is.
#[derive(Debug, Clone, Copy)]
enum Role {
    /// Lists, and holds the small files.
    Hub,
    /// Holds the large files; reached as `localhost`, which is another name than the hub's.
    Cdn,
    /// Sends on to the hub at this port.
    Mirror { hub: u16 },
}

/// Serves until the test's process ends; returns the port.
fn listen(state: &Arc<Mutex<State>>, role: Role) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("bound").port();
    let cdn = if matches!(role, Role::Hub) { listen(state, Role::Cdn) } else { 0 };
    let shared = Arc::clone(state);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let state = Arc::clone(&shared);
            // A client that goes away in the middle is none of the hub's concern.
            thread::spawn(move || drop(answer(stream, &state, role, cdn)));
        }
    });
    port
}

fn answer(stream: TcpStream, state: &Mutex<State>, role: Role, cdn: u16) -> std::io::Result<()> {
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
    let token = headers.get("authorization");
    let faults = {
        let mut state = state.lock().expect("not poisoned");
        if !matches!(role, Role::Hub) {
            state.leaked.extend(token.cloned());
        }
        state.requests.push(if range == "0-0" { path.clone() } else { format!("{path} {range}") });
        state.faults
    };
    if let Some(status) = faults.status {
        return plain(stream, status, "no");
    }
    if let Role::Mirror { hub } = role {
        return redirect(stream, 308, &format!("http://127.0.0.1:{hub}{path}"), "");
    }
    let is_hub = matches!(role, Role::Hub);
    if is_hub && faults.token.is_some_and(|wanted| token != Some(&format!("Bearer {wanted}"))) {
        return plain(stream, 401, "no");
    }
    if path.starts_with("/api/models/") {
        return plain(stream, 200, &listing(&state.lock().expect("not poisoned").files, faults.bare_list));
    }
    let name = path.split('?').next().and_then(|path| path.rsplit('/').next()).unwrap_or_default().to_owned();
    let Some(bytes) = state.lock().expect("not poisoned").files.get(&name).cloned() else {
        return plain(stream, 404, "no");
    };
    if path.contains("/resolve/") && name.ends_with(".safetensors") {
        let linked = format!("x-linked-etag: \"{}\"\r\nx-linked-size: {}\r\n", hex(&Sha256::digest(&bytes)), bytes.len());
        return redirect(stream, 302, &format!("http://localhost:{cdn}/cdn/{name}?signature=secret"), &linked);
    }
    file(stream, state, &name, bytes, &range)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn listing(files: &BTreeMap<String, Vec<u8>>, bare: bool) -> String {
    let sibling = |(name, bytes): (&String, &Vec<u8>)| {
        let sha256 = hex(&Sha256::digest(bytes));
        match (bare, name.ends_with(".safetensors")) {
            (true, _) => serde_json::json!({"rfilename": name}),
            (false, true) => {
                let lfs = serde_json::json!({"sha256": sha256, "size": bytes.len(), "pointerSize": 134});
                serde_json::json!({"rfilename": name, "size": bytes.len(), "blobId": git_hash(bytes), "lfs": lfs})
            }
            (false, false) => serde_json::json!({"rfilename": name, "size": bytes.len(), "blobId": git_hash(bytes)}),
        }
    };
    let siblings: Vec<_> = files.iter().map(sibling).collect();
    serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string()
}

fn plain(mut stream: TcpStream, status: u16, body: &str) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

/// Git's hash of a file's content.
fn git_hash(bytes: &[u8]) -> String {
    hex(&Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
}

fn redirect(mut stream: TcpStream, status: u16, to: &str, headers: &str) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status} X\r\nlocation: {to}\r\nx-repo-commit: {COMMIT}\r\n{headers}content-length: 0\r\n\
         connection: close\r\n\r\n"
    )
}

fn file(mut stream: TcpStream, state: &Mutex<State>, name: &str, mut bytes: Vec<u8>, range: &str) -> std::io::Result<()> {
    let (from, to) = range.split_once('-').unwrap_or(("0", ""));
    let (from, total) = (from.parse().unwrap_or(0), bytes.len());
    let to = to.parse().map_or(total, |last: usize| last + 1);
    if from >= total {
        return plain(stream, 416, "no");
    }
    let etag = git_hash(&bytes);
    let (cut, corrupt, no_ranges, shifted, hidden_total) = {
        let mut state = state.lock().expect("not poisoned");
        let whole = to - from > 1;
        let cut = whole && state.faults.cut > 0;
        let is_large = name.ends_with(".safetensors");
        let corrupt = whole && is_large && state.faults.corrupt > 0;
        let corrupt_small = whole && !is_large && state.faults.corrupt_small > 0;
        state.faults.cut -= usize::from(cut);
        state.faults.corrupt -= usize::from(corrupt);
        state.faults.corrupt_small -= usize::from(corrupt_small);
        let corrupt = corrupt || corrupt_small;
        (cut, corrupt, state.faults.no_ranges, state.faults.shifted, state.faults.hidden_total)
    };
    let from = if shifted { from.saturating_sub(1) } else { from };
    let (from, to) = if no_ranges { (0, total) } else { (from, to) };
    if corrupt {
        bytes[from] ^= 1;
    }
    let said = if hidden_total { "*".to_owned() } else { total.to_string() };
    let range = format!("content-range: bytes {from}-{}/{said}\r\n", to - 1);
    let (status, range) = if no_ranges { ("200 OK", String::new()) } else { ("206 Partial Content", range) };
    write!(
        stream,
        "HTTP/1.1 {status}\r\netag: \"{etag}\"\r\nx-repo-commit: {COMMIT}\r\n{range}content-length: {}\r\n\
         connection: close\r\n\r\n",
        to - from
    )?;
    // A server that takes no ranges is counted by what was taken of it.
    if !no_ranges {
        state.lock().expect("not poisoned").sent_bytes += to - from;
    }
    let end = if cut { from + (to - from) / 2 } else { to };
    stream.write_all(&bytes[from..end])
}
