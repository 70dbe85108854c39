//! A real browser's tab that reads a stream, and is closed.
//!
//! Chromium is driven by its DevTools' plain HTTP calls: open a tab, read its title, close it. The
//! page comes from here, its stream from the server; the browser is told not to mind that these are
//! two origins.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::sleep;

use super::case::Halt;
use crate::client::{Client, ClientError, ClientOptions, Request};

const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
/// A browser on a busy machine takes its time to start.
const PATIENCE: Duration = Duration::from_secs(60);

const FLAGS: [&str; 15] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--mute-audio",
    // The page asks another origin than its own.
    "--disable-web-security",
    "--disable-features=LocalNetworkAccessChecks,PrivateNetworkAccessChecks",
    "--remote-debugging-address=127.0.0.1",
    "--remote-debugging-port=0",
];

/// A running Chromium; killed, and its folder removed, when it is dropped.
pub(super) struct Browser {
    process: Child,
    folder: PathBuf,
    tools: Client,
}

/// A tab that reads a stream.
pub(super) struct Tab {
    id: String,
}

/// The Chromium of this machine.
pub(super) fn find(given: Option<&Path>) -> Option<PathBuf> {
    if let Some(path) = given {
        return path.exists().then(|| path.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).flat_map(|folder| NAMES.map(|name| folder.join(name))).find(|path| path.is_file())
}

impl Browser {
    /// Starts it with an empty profile.
    pub(super) async fn start(program: &Path) -> Result<Self, Halt> {
        let wrong = |what: &str, error: &dyn std::fmt::Display| Halt::Fail(format!("{what} {}: {error}", program.display()));
        let folder = std::env::temp_dir().join(format!("antiphon-tab-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&folder).map_err(|error| wrong("no folder for", &error))?;
        let process = Command::new(program)
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", folder.display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| wrong("cannot start", &error))?;
        let mut browser = Self { process, folder, tools: Client::new("http://127.0.0.1:9", &ClientOptions::default())? };
        let started = Instant::now();
        loop {
            // It writes the port that it took, once it listens.
            let port = fs::read_to_string(browser.folder.join("DevToolsActivePort")).ok();
            if let Some(port) = port.as_deref().and_then(|text| text.lines().next()?.parse::<u16>().ok()) {
                browser.tools = Client::new(&format!("http://127.0.0.1:{port}"), &ClientOptions::default())?;
                return Ok(browser);
            }
            if let Ok(Some(status)) = browser.process.try_wait() {
                return Err(wrong("the browser ended at once", &status));
            }
            if started.elapsed() > PATIENCE {
                return Err(wrong("the browser did not open its port", &format!("within {} s", PATIENCE.as_secs())));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Opens a tab whose page posts `body` to `url` and reads the answer; back once it has read so
    /// many pieces.
    pub(super) async fn open(&self, url: &str, key: Option<&str>, body: &Value, pieces: usize) -> Result<Tab, Halt> {
        let page = serve_page(page(url, key, body)).map_err(|error| Halt::Fail(format!("no port for the page: {error}")))?;
        let id = self.new_tab(&format!("http://{page}/")).map_err(|error| Halt::Fail(format!("no new tab: {error}")))?;
        let started = Instant::now();
        loop {
            let title = self.title(&id).await?;
            match title.strip_prefix("read ").and_then(|count| count.parse::<usize>().ok()) {
                Some(count) if count >= pieces => return Ok(Tab { id }),
                _ if title.starts_with("wrong") || title.starts_with("over") => {
                    return Err(Halt::Fail(format!("the page in the tab says: {title}")));
                }
                _ => {}
            }
            if started.elapsed() > PATIENCE {
                return Err(Halt::Fail(format!("the tab read nothing within {} s; its title: {title}", PATIENCE.as_secs())));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The one call that must be a PUT; its id is in the answer.
    fn new_tab(&self, url: &str) -> std::io::Result<String> {
        let address = self.tools.url().to_string().replace("http://", "");
        let mut stream = TcpStream::connect(&address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "PUT /json/new?{url} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")?;
        let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
        // It keeps the connection open whatever it is told: the object's end is the answer's.
        loop {
            let read = stream.read(&mut piece)?;
            answer.extend_from_slice(&piece[..read]);
            let text = String::from_utf8_lossy(&answer);
            let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            if let Ok(tab) = serde_json::from_str::<Value>(body) {
                let id = tab["id"].as_str().map(str::to_owned);
                return id.ok_or_else(|| std::io::Error::other(format!("it answers {body}")));
            }
            if read == 0 {
                return Err(std::io::Error::other(format!("it answers {text}")));
            }
        }
    }

    /// Asks for a tab to be closed; the moment of asking. The browser closes it when it comes to
    /// it.
    pub(super) async fn close(&self, tab: &Tab) -> Result<Instant, Halt> {
        let asked = Instant::now();
        self.tools.call(&Request::get(&format!("/json/close/{}", tab.id))).await?.success()?;
        Ok(asked)
    }

    async fn title(&self, id: &str) -> Result<String, ClientError> {
        let tabs = self.tools.json(&Request::get("/json/list")).await?;
        let tab = tabs.as_array().and_then(|tabs| tabs.iter().find(|tab| tab["id"] == id));
        Ok(tab.and_then(|tab| tab["title"].as_str()).unwrap_or_default().to_owned())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself; a profile that is left behind is small.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A page that reads a stream and tells how far it is in its title.
fn page(url: &str, key: Option<&str>, body: &Value) -> String {
    let mut headers = json!({"content-type": "application/json"});
    if let Some(key) = key {
        headers["authorization"] = json!(format!("Bearer {key}"));
    }
    // `<` in a script could end it.
    let request = json!({"method": "POST", "headers": headers, "body": body.to_string()}).to_string().replace('<', "\\u003c");
    let url = json!(url).to_string().replace('<', "\\u003c");
    format!(
        "<!doctype html><title>waiting</title><script>(async () => {{ try {{\n\
         const answer = await fetch({url}, {request});\n\
         if (!answer.ok) {{ document.title = 'wrong: ' + answer.status + ' ' + await answer.text(); return; }}\n\
         const reader = answer.body.getReader();\n\
         for (let count = 1; ; count++) {{\n\
         const piece = await reader.read(); if (piece.done) {{ document.title = 'over after ' + count; return; }}\n\
         document.title = 'read ' + count; }}\n\
         }} catch (error) {{ document.title = 'wrong: ' + error; }} }})();</script>\n"
    )
}

/// Serves the page for as long as the process lives.
fn serve_page(page: String) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // A client that does not take it has no page.
            let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
            let _ = stream.read(&mut [0; 4096]);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                page.len()
            );
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(page.as_bytes()));
        }
    });
    Ok(address)
}
