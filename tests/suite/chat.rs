//! `antiphon chat` as a person at a terminal meets it: a real one, with a line discipline and a
//! controlling process.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_antiphon");
/// A test that waits for longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A terminal in which the command runs.
struct Terminal {
    keys: File,
    screen: Arc<Mutex<String>>,
    child: Child,
}

impl Terminal {
    fn run(arguments: &[&str]) -> Self {
        let keys = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&keys).and_then(|()| unlockpt(&keys)).expect("it can be opened");
        let name = ptsname(&keys, Vec::new()).expect("it has a name");
        let side: OwnedFd = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).expect("it opens");
        let side = || side.try_clone().expect("a descriptor");
        // Ctrl-C reaches the command through the terminal that controls it.
        let mut command = Command::new("setsid");
        command.args(["--ctty", BINARY, "chat"]).args(arguments).stdin(side()).stdout(side()).stderr(side());
        command.env("TERM", "xterm").env_remove("ANTIPHON_API_KEY");
        let child = command.spawn().expect("util-linux is installed");
        let (screen, keys) = (Arc::<Mutex<String>>::default(), File::from(keys));
        let (shown, mut output) = (Arc::clone(&screen), keys.try_clone().expect("a descriptor"));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                shown.lock().expect("the reader lives").push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Self { keys, screen, child }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("the terminal is open");
    }

    /// Waits until `text` was shown, and forgets what was shown up to its end.
    fn wait_for(&self, text: &str) -> String {
        let began = Instant::now();
        loop {
            let mut screen = self.screen.lock().expect("the reader lives");
            if let Some(at) = screen.find(text) {
                return screen.drain(..at + text.len()).collect();
            }
            assert!(began.elapsed() < PATIENCE, "{text:?} is not shown, but {:?}", *screen);
            drop(screen);
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn ended(mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it is ours") {
                return status;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "it does not end; it shows {:?}",
                self.screen.lock().expect("the reader lives")
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server like OpenAI's that tells what it was sent. It never ends its answer to "forever"; then
/// it tells when the client left.
fn server() -> (String, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let (told, asked) = channel();
    thread::spawn(move || listener.incoming().flatten().for_each(|stream| _ = serve(stream, &told)));
    (url, asked)
}

fn serve(mut stream: TcpStream, told: &Sender<Value>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let start = head.len();
        reader.read_line(&mut head)?;
        if let Some(value) = head[start..].to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
    }
    let start = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type:";
    if head.starts_with("GET") {
        let list = json!({"data": [{"id": "parrot"}]}).to_string();
        return write!(stream, "{start} application/json\r\ncontent-length: {}\r\n\r\n{list}", list.len());
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body: Value = serde_json::from_slice(&body).expect("a request");
    let asked = body["messages"].as_array().and_then(|all| all.last()).expect("a message")["content"].clone();
    let _ = told.send(body);
    let piece = json!({"choices": [{"delta": {"content": "Well."}}]});
    write!(stream, "{start} text/event-stream\r\n\r\ndata: {piece}\n\n")?;
    if asked == "forever" {
        // Reads until the client closes.
        let _ = reader.read(&mut [0]);
        let _ = told.send(json!("left"));
        return Ok(());
    }
    write!(stream, "data: {{\"choices\":[{{\"delta\":{{}},\"finish_reason\":\"stop\"}}]}}\n\ndata: [DONE]\n\n")
}

fn next(asked: &Receiver<Value>) -> Value {
    asked.recv_timeout(PATIENCE).expect("the command asks")
}

#[test]
fn what_is_pasted_is_one_message_and_an_empty_line_does_nothing() {
    let (url, asked) = server();
    let mut terminal = Terminal::run(&["--url", &url]);
    terminal.wait_for("> ");
    terminal.press("\r\r");
    terminal.wait_for("> ");
    terminal.press("\x1b[200~def f():\n\n    return 1\n\nrm -r x\n/exit\n\x1b[201~\r");
    let body = next(&asked);
    assert_eq!(body["messages"], json!([{"role": "user", "content": "def f():\n\n    return 1\n\nrm -r x\n/exit"}]));
    terminal.wait_for("Well.");
    // The history has it whole.
    terminal.wait_for("> ");
    terminal.press("\x1b[A\r");
    assert_eq!(next(&asked)["messages"][2], body["messages"][0]);
    terminal.wait_for("Well.");
    terminal.wait_for("> ");
    terminal.press("\x04");
    assert!(terminal.ended().success());
}

#[test]
fn commands_change_the_talk_and_unknown_ones_are_not_sent() {
    let (url, asked) = server();
    let mut terminal = Terminal::run(&["--url", &url, "--model", "owl"]);
    terminal.wait_for("owl. ");
    for (typed, shown) in [
        ("/quit", "/quit is no command"),
        ("/etc/passwd", "/etc/passwd is no command"),
        ("/help", "/system TEXT"),
        ("/set temperature 9", "expected a number from 0 to 2"),
        ("/system Be kind.", "> "),
        ("/set temperature 0.5", "> "),
        ("/set", "0.5"),
    ] {
        terminal.press(&format!("{typed}\r"));
        terminal.wait_for(shown);
    }
    terminal.press("one\r");
    let first = next(&asked);
    let told = [json!({"role": "system", "content": "Be kind."}), json!({"role": "user", "content": "one"})];
    assert_eq!((&first["model"], &first["temperature"]), (&json!("owl"), &json!(0.5)));
    assert_eq!(first["messages"], json!(told));
    terminal.wait_for("Well.");
    terminal.press("/clear\r/system none\r/set temperature default\rtwo\r");
    let second = next(&asked);
    assert_eq!(second["messages"], json!([{"role": "user", "content": "two"}]));
    assert_eq!(second.get("temperature"), None);
    terminal.press("/exit\r");
    assert!(terminal.ended().success());
    assert!(asked.try_recv().is_err(), "a command was sent");
}

#[test]
fn ctrl_c_stops_the_answer_first_and_then_the_program() {
    let (url, asked) = server();
    let mut terminal = Terminal::run(&["--url", &url]);
    for _ in 0..2 {
        terminal.wait_for("> ");
        terminal.press("forever\r");
        next(&asked);
        terminal.wait_for("Well.");
        terminal.press("\x03");
        terminal.wait_for("Stopped.");
        assert_eq!(next(&asked), json!("left"));
    }
    terminal.wait_for("> ");
    terminal.press("and now?\r");
    // What had come stays in the talk.
    let said = next(&asked);
    assert_eq!(said["messages"][1], json!({"role": "assistant", "content": "Well."}));
    terminal.wait_for("Well.");
    terminal.wait_for("> ");
    terminal.press("\x03");
    assert!(terminal.ended().success());
}

#[test]
fn ctrl_c_leaves_the_server_that_was_started_for_the_talk() {
    let mut terminal = Terminal::run(&["--device", "cpu"]);
    terminal.wait_for("> ");
    terminal.press("Count from 1 to 60\r");
    terminal.wait_for("2, 3");
    terminal.press("\x03");
    terminal.wait_for("> ");
    terminal.press("Hello\r");
    terminal.wait_for("\n");
    terminal.wait_for("> ");
    terminal.press("/exit\r");
    assert!(terminal.ended().success());
}
