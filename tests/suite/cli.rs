//! The binary as its user meets it: what it prints, how it fails, and with which code it exits.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use antiphon::engine::checkpoint::{Checkpoint, CheckpointFiles};
use antiphon::engine::cuda::{CudaOptions, CudaPlan, DeviceMemory, MatrixInstruction};
use antiphon::profile::Profile;
use antiphon::source::{HubSettings, resolve};
use tempfile::TempDir;

use crate::fake_hub::{COMMIT, FakeHub, Faults, tiny};

const BINARY: &str = env!("CARGO_BIN_EXE_antiphon");
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The command, with no variable that this machine may have set for it.
pub(crate) fn antiphon(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    let ours = |name: &std::ffi::OsString| {
        let name = name.to_string_lossy();
        name.starts_with("ANTIPHON_") || name.starts_with("HF_")
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| ours(name)) {
        command.env_remove(name);
    }
    command.current_dir(ROOT).args(arguments).stdin(Stdio::null());
    command
}

pub(crate) fn ended(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the binary starts");
    let text = |bytes| String::from_utf8(bytes).expect("it prints UTF-8");
    (status.code().expect("it exits by itself"), text(stdout), text(stderr))
}

/// Runs a command that must fail: nothing on standard output, one line on standard error.
pub(crate) fn refused(command: &mut Command, code: i32) -> String {
    let (found, output, error) = ended(command);
    assert_eq!((found, output.as_str()), (code, ""), "{error}");
    let line = error.strip_suffix('\n').expect("a line").strip_prefix("antiphon: ").expect("it says who speaks");
    assert!(!line.contains('\n') && !line.contains("panicked") && !line.contains("stack backtrace"), "{error}");
    line.to_owned()
}

#[test]
fn help_and_version_are_answers() {
    let (code, version, error) = ended(&mut antiphon(&["--version"]));
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(version.starts_with(&format!("antiphon {}", env!("CARGO_PKG_VERSION"))), "{version}");
    for command in ["serve", "inspect", "simulate", "chat", "batch", "load", "verify", "synth", "health"] {
        let (code, help, error) = ended(&mut antiphon(&[command, "--help"]));
        assert_eq!((code, error.as_str()), (0, ""));
        assert!(help.contains(&format!("Usage: antiphon {command}")), "{help}");
        assert!(ended(&mut antiphon(&["--help"])).1.contains(&format!("  {command}")), "{command} is not listed");
    }
}

#[test]
fn a_wrong_command_line_is_one_line_and_code_2() {
    for (arguments, said) in [
        (&[][..], "requires a subcommand"),
        (&["sing"], "unrecognized subcommand 'sing'; antiphon --help lists what there is"),
        (
            &["serve", "--prot", "1"],
            "unexpected argument '--prot' found; a similar argument exists: '--port'; antiphon serve --help lists what there is",
        ),
        (&["verify"], "required arguments were not provided: <LEVEL>; antiphon verify --help lists what there is"),
        (&["serve", "--port"], "a value is required"),
        (&["serve", "--port", "1", "--port", "2"], "cannot be used multiple times"),
        (&["serve", "--port", "70000"], "port is `70000`; expected a whole number from 0 to 65535; given by flag --port"),
        (&["serve", "--profile", "fast"], "no profile `fast`; expected latency_first, balanced"),
        (
            &["serve", "--cors-origin", "example.org"],
            "cors_origin is `example.org`; expected origins such as https://example.org",
        ),
        (&["serve", "--log-level", "a=b=c"], "log_level is `a=b=c`; expected a level such as info"),
        (&["serve", "--log-level", "loud"], "log_level is `loud`; expected a level such as info"),
        (&["simulate", "--worlds", "many"], "invalid value 'many'"),
        (&["synth", "--shape", "7b", "."], "invalid value '7b' for '--shape <SHAPE>'; [possible values: 20b, 120b, small]"),
    ] {
        let line = refused(&mut antiphon(arguments), 2);
        assert!(line.contains(said), "{arguments:?}: {line}");
    }
}

#[test]
fn settings_come_from_flag_environment_file_and_profile() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("settings.toml");
    fs::write(&path, "port = 1\nhost = \"0.0.0.0\"\n[batch]\nprefill_window_ms = 1\n").unwrap();
    let path = path.to_str().unwrap();
    let command = || {
        let mut command = antiphon(&["serve", "--print-config", "--profile", "throughput", "--running-max-count", "7"]);
        command.env("ANTIPHON_CONFIG", path).env("ANTIPHON_PORT", "2").env("ANTIPHON_API_KEY", "hush-hush");
        command
    };
    let (code, shown, error) = ended(&mut command());
    assert_eq!((code, error.as_str()), (0, ""));
    let line = |name: &str| shown.lines().find(|line| line.starts_with(&format!("{name} = "))).expect("a setting").to_owned();
    let assert_line = |name: &str, value: &str, from: &str| {
        let line = line(name);
        let (found, origin) = line.split_once(" # ").expect("it says where from");
        assert_eq!((found.trim(), origin), (format!("{name} = {value}").as_str(), from));
    };
    assert_line("running_max_count", "7", "flag --running-max-count");
    assert_line("port", "2", "environment ANTIPHON_PORT");
    assert_line("host", "\"0.0.0.0\"", &format!("{path}, line 2"));
    assert_line("prefill_window_ms", "1", &format!("{path}, line 4"));
    assert_line("token_budget_tokens", "4096", "profile throughput");
    assert_line("drain_timeout_seconds", "30", "default");
    assert!(shown.contains("\n# ANTIPHON_API_KEY is set\n") && !shown.contains("hush"), "{shown}");
    assert_eq!(ended(command().args(["--port", "3"])).1.lines().filter(|line| line.starts_with("port = 3 ")).count(), 1);

    fs::write(path, "port = 1\n\nprot = 2\n").unwrap();
    let line = refused(&mut command(), 1);
    assert!(line.starts_with(&format!("{path}, line 3: unknown setting `prot`; expected ")), "{line}");
}

/// What an operator names by mistake is refused with a sentence, and soon: no device fills the
/// memory, no pipe waits for ever.
#[test]
fn a_file_that_is_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe.toml");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let directory = folder.path().join("directory.toml");
    fs::create_dir(&directory).unwrap();
    let zero = folder.path().join("zero.toml");
    std::os::unix::fs::symlink("/dev/zero", &zero).unwrap();
    for (path, problem) in [
        (&directory, "it is a directory"),
        (&zero, "it is larger than "),
        (&pipe, "it is a pipe or a device, and did not end within 5 s"),
    ] {
        let path = path.to_str().unwrap();
        let commands = [
            (&["serve", "--config", path][..], 1),
            (&["serve", "--profile", path], 2),
            (&["serve", "--api-key-file", path], 2),
            (&["serve", "--admin-key-file", path], 2),
            (&["chat", "--config", path], 1),
            (&["load", "--compare", path, path], 1),
        ];
        // All at once: each waits for the pipe.
        let refused = commands.map(|(arguments, code)| {
            let mut command = antiphon(arguments);
            (arguments.join(" "), thread::spawn(move || refused(&mut command, code)))
        });
        for (arguments, refused) in refused {
            let line = refused.join().unwrap_or_else(|_| panic!("{arguments} was not refused in order"));
            assert!(line.contains(path) && line.contains(problem), "{arguments}: {line}");
        }
    }
}

#[test]
fn inspect_shows_a_model_without_computing() {
    let (code, page, error) = ended(&mut antiphon(&["inspect", "--tensors", "--device", "cpu", "--kv-bytes", "16MiB"]));
    assert_eq!((code, error.as_str()), (0, ""));
    for part in [
        "gpt-oss-tiny, size tiny, in this binary",
        "4: 2 full, 2 sliding over 64 tokens",
        "8 heads of 64, 4 for keys and values",
        "1024 rows",
        "<|return|> (1007)",
        "model.layers.0.mlp.experts.gate_up_proj_blocks",
        "weights 7 MiB packed and 1 MiB mapped, KV ",
        "threads, computes with",
    ] {
        assert!(page.contains(part), "{part} is not in\n{page}");
    }
    let (code, page, _) = ended(antiphon(&["inspect"]).env("ANTIPHON_MODEL", "tests/goldens/g1"));
    assert_eq!(code, 0);
    assert!(page.contains("g1, size custom, ") && page.contains("2 sliding over 16 tokens"), "{page}");
}

/// The value of a line of the page that `inspect` prints.
fn value<'a>(page: &'a str, name: &str) -> &'a str {
    let line = page.lines().find_map(|line| line.strip_prefix(&format!("{name:18} ")));
    line.unwrap_or_else(|| panic!("no line says `{name}`:\n{page}"))
}

#[test]
fn a_model_of_the_hub_is_inspected_by_its_headers() {
    let (hub, cache) = (FakeHub::start(&tiny(), Faults { cut: 1, ..Faults::default() }), tempfile::tempdir().unwrap());
    let inspect = |endpoint: &str| {
        let mut command = antiphon(&["inspect", "--model", "20b", "--device", "cpu", "--kv-bytes", "16MiB"]);
        command.env("HF_HOME", cache.path()).env("HF_ENDPOINT", endpoint);
        command
    };
    let (code, page, error) = ended(&mut inspect(&hub.endpoint));
    assert_eq!(code, 0, "{error}");
    assert_eq!(value(&page, "model"), format!("gpt-oss-20b, size 20b, on the hub at {COMMIT}"));
    assert!(value(&page, "download").starts_with("7 MiB, 1 of the files weights; "), "{page}");
    assert_eq!(value(&page, "tokenizer"), "not downloaded; ends: 1007, 1004, 1017");
    let weights = tiny().into_iter().find(|(name, _)| *name == "model.safetensors").unwrap().1.len();
    let sent = hub.sent_bytes();
    assert!(sent * 100 < weights, "{sent} bytes were sent of {weights}");
    assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0, "nothing is stored");

    // From the cache it says the same, and the hub is not asked.
    let settings = |name: &str| match name {
        "HF_HOME" => Some(cache.path().to_str().unwrap().to_owned()),
        "HF_ENDPOINT" => Some(hub.endpoint.clone()),
        _ => None,
    };
    let settings = HubSettings::from_variables(settings).unwrap();
    resolve(Some("20b"), &settings, &mut |_| ()).unwrap();
    let (code, again, error) = ended(&mut inspect("http://127.0.0.1:1"));
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(value(&again, "model").ends_with(COMMIT), "{again}");
    for name in ["parameters", "layers", "experts", "context", "tensors", "planned for", "memory", "KV holds"] {
        assert_eq!(value(&page, name), value(&again, name));
    }
    let line = refused(inspect("gopher://x").env("HF_HUB_OFFLINE", "1"), 1);
    assert_eq!(line, "HF_ENDPOINT=gopher://x; expected an address like https://huggingface.co");
}

#[test]
fn inspect_plans_for_the_device_that_is_asked_for() {
    let inspect = |options: &[&str]| {
        let mut command = antiphon(&[&["inspect", "--model", "tests/goldens/g1"], options].concat());
        // No GPU of this machine.
        command.env("CUDA_VISIBLE_DEVICES", "");
        command
    };
    let page = |options: &[&str]| {
        let (code, page, error) = ended(&mut inspect(options));
        assert_eq!((code, error.as_str()), (0, ""), "{options:?}");
        page
    };
    let directory = Path::new(ROOT).join("tests/goldens/g1");
    let checkpoint = Checkpoint::open(&CheckpointFiles::directory(&directory).unwrap()).unwrap();
    let plan = |ranks, kv_bytes| {
        let memory = DeviceMemory { free_bytes: 1 << 31, total_bytes: 1 << 31, utilization: 0.5 };
        let profile = Profile::load("latency_first").unwrap();
        let (running, tokens) = (profile.batch.running_max_count.count(), profile.batch.token_budget_tokens.count());
        let options =
            CudaOptions::within(checkpoint.config(), memory, kv_bytes, running, tokens, ranks, MatrixInstruction::Mma).unwrap();
        (CudaPlan::of(checkpoint.config(), &options).to_string(), options.global_blocks * options.block_tokens)
    };
    let gpu = ["--device-memory", "2GiB", "--gpu-memory-utilization", "0.5"];
    for device in ["auto", "cuda:3"] {
        let page = page(&[&gpu[..], &["--device", device]].concat());
        let (memory, tokens) = plan(1, None);
        assert_eq!(value(&page, "planned for"), "a GPU of that memory: 1024 of 2048 MiB may be used");
        assert_eq!(value(&page, "memory"), memory);
        assert!(value(&page, "KV holds").starts_with(&format!("{tokens} tokens in ")), "{page}");
    }
    let two = page(&[&gpu[..], &["--tensor-parallel", "2", "--kv-bytes", "4MiB"]].concat());
    assert_eq!(value(&two, "memory"), plan(2, Some(4 << 20)).0);
    // What does not fit is said; the CPU would take it.
    let small = page(&["--device-memory", "1MiB"]);
    assert!(value(&small, "not served").contains("bytes of the device (weights "), "{small}");
    assert!(small.contains("planned for        the CPU\n") && value(&small, "memory at least").contains("packed"), "{small}");
    let small = page(&["--device-memory", "1MiB", "--device", "cuda:0"]);
    assert!(value(&small, "not served").contains("help, or --device cpu") && !small.contains("the CPU\n"), "{small}");
    assert_eq!(value(&page(&["--device", "cpu", "--device-memory", "2GiB"]), "planned for"), "the CPU");
    assert_eq!(value(&page(&[]), "planned for"), "the CPU");

    let line = refused(&mut inspect(&["--device", "cuda:0"]), 1);
    assert!(
        line.starts_with("cuda:0: ") && line.ends_with("; --device-memory SIZE plans for a GPU that is not here"),
        "{line}"
    );
    let line = refused(&mut inspect(&["--device-memory", "much"]), 2);
    assert_eq!(line, "--device-memory is `much`; expected a size above 0, such as 80GiB");
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let (hub, cache) = (FakeHub::start(&tiny(), Faults { cut: 2, ..Faults::default() }), tempfile::tempdir().unwrap());
    let mut command = antiphon(&["inspect", "--model", "20b"]);
    command.env("HF_HOME", cache.path()).env("HF_ENDPOINT", &hub.endpoint).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stderr.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("gpt-oss-20b"));
}

/// A copy of the tiny model with one file made wrong.
fn broken(file: &str, content: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, bytes) in tiny() {
        fs::write(folder.path().join(name), if name == file { content } else { &bytes }).expect("written");
    }
    folder
}

#[test]
fn a_model_that_cannot_be_is_refused_by_file() {
    let cases: [(&str, &[u8], &str); 6] = [
        ("config.json", b"{", "config.json"),
        ("config.json", b"{\"model_type\": \"llama\"}", "config.json"),
        ("tokenizer.json", b"{}", "tokenizer.json"),
        ("tokenizer.json", b"\xff", "tokenizer.json"),
        ("model.safetensors", b"", "model.safetensors"),
        ("model.safetensors", b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", "model.safetensors"),
    ];
    for (file, content, named) in cases {
        let folder = broken(file, content);
        let line = refused(antiphon(&["inspect", "--model"]).arg(folder.path()), 1);
        let place = format!("{}: ", folder.path().display());
        assert!(line.starts_with(&place) && line.contains(named), "{file} as {content:?}: {line}");
    }
    let line = refused(&mut antiphon(&["inspect", "--model", "models"]), 1);
    assert!(line.contains("models has no config.json; expected config.json, tokenizer.json and"), "{line}");
    let line = refused(&mut antiphon(&["inspect", "--model", "gpt-7"]), 1);
    assert_eq!(line, "no model `gpt-7`; expected tiny, 20b, 120b, a directory, or org/name on the hub");
}

#[test]
fn simulate_lives_through_worlds() {
    let (code, page, error) = ended(&mut antiphon(&["simulate", "--worlds", "3", "--turns", "10", "--seed", "5"]));
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(page.starts_with("3 worlds are sound: "), "{page}");
}

#[test]
fn synth_writes_a_model_and_no_other_over_it() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("small");
    let place = place.to_str().unwrap();
    let (code, page, error) = ended(&mut antiphon(&["synth", "--shape", "small", place]));
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(page.contains("in the shape of small"), "{page}");
    let (code, page, error) = ended(&mut antiphon(&["inspect", "--model", place]));
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(page.contains("8192 tokens, 21 of them control tokens"), "{page}");
    let line = refused(&mut antiphon(&["synth", "--shape", "20b", place]), 1);
    assert!(line.contains("config.json is that of another model; expected an empty directory"), "{line}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = antiphon(&["inspect", "--tensors"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut error = String::new();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert_eq!((child.wait().unwrap().code(), error.as_str()), (Some(0), ""));
}

/// A server that answers like OpenAI's, once for the list of models and then with `events`; returns
/// what it was sent.
fn fake_openai(events: &'static str) -> (String, thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("http://{}/v1/", listener.local_addr().expect("bound"));
    let served = thread::spawn(move || {
        let mut sent = String::new();
        for (kind, answer) in [("application/json", r#"{"data":[{"id":"parrot"}]}"#), ("text/event-stream", events)] {
            let (mut stream, _) = listener.accept().expect("the client speaks");
            let mut reader = BufReader::new(stream.try_clone().expect("the client speaks"));
            let mut length = 0;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).expect("the client speaks");
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().expect("the client speaks");
                }
                sent.push_str(&line);
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("the client speaks");
            sent.push_str(&String::from_utf8(body).expect("the client speaks"));
            let (head, length) = ("HTTP/1.1 200 OK\r\nconnection: close", answer.len());
            write!(stream, "{head}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{answer}")
                .expect("the client speaks");
        }
        sent
    });
    (url, served)
}

#[test]
fn chat_prints_the_answer_and_nothing_that_steers_the_terminal() {
    let events = concat!(
        ": keep-alive\n\n",
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"reasoning\":\"hm\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"Good \\u001b[31mday\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
        "data: [DONE]\n\n",
    );
    for (flags, answer) in [(&[][..], "Good [31mday\n"), (&["--reasoning"], "hm\n\nGood [31mday\n")] {
        let (url, server) = fake_openai(events);
        let mut command = antiphon(&["chat", "--url", &url, "--system", "Be kind.", "Hello"]);
        let (code, output, error) = ended(command.args(flags).env("ANTIPHON_API_KEY", "hush"));
        assert_eq!((code, output.as_str(), error.as_str()), (0, answer, ""));
        let sent = server.join().unwrap();
        assert!(
            sent.contains("POST /v1/chat/completions ") && sent.to_lowercase().contains("authorization: bearer hush"),
            "{sent}"
        );
        let messages = r#""messages":[{"role":"system","content":"Be kind."},{"role":"user","content":"Hello"}]"#;
        assert!(sent.contains(messages) && sent.contains(r#""model":"parrot""#), "{sent}");
    }
}

#[test]
fn chat_asks_for_the_model_that_is_named_and_refuses_what_it_would_ignore() {
    let line = refused(&mut antiphon(&["chat", "--url", "http://127.0.0.1:1", "--model", "owl", "Hello"]), 1);
    assert!(line.contains("not reachable"), "{line}");
    let line = refused(&mut antiphon(&["chat", "--url", "http://127.0.0.1:1", "--threads", "2", "Hello"]), 2);
    assert!(line.contains("--threads") && line.contains("--url"), "{line}");
}

#[test]
fn a_report_that_cannot_be_written_is_said_before_the_work() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("missing").join("report");
    let path = path.to_str().unwrap();
    let load = ["load", "--url", "http://127.0.0.1:1"];
    let verify = ["verify", "quick", "--url", "http://127.0.0.1:1"];
    for (command, options) in [(&load[..], ["--html", "--json", "--csv"]), (&verify, ["--report", "--json", "--junit"])] {
        for option in options {
            // A server that is asked would be the first complaint.
            let line = refused(antiphon(command).args([option, path]), 1);
            assert!(line.starts_with(&format!("{option} {path}: ")) && line.contains("expected a file"), "{line}");
        }
    }
    let kept = folder.path().join("kept");
    fs::write(&kept, "earlier").unwrap();
    let new = folder.path().join("new");
    let reports = ["--json", kept.to_str().unwrap(), "--html", new.to_str().unwrap()];
    let line = refused(antiphon(&["load", "--url", "http://127.0.0.1:1"]).args(reports), 1);
    assert!(line.contains("not reachable"), "{line}");
    assert_eq!(fs::read_to_string(&kept).unwrap(), "earlier");
    assert!(!new.exists());
}

#[test]
fn the_profile_says_what_it_is_for() {
    let (code, page, error) = ended(&mut antiphon(&["serve", "--profile", "balanced", "--print-config"]));
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(page.starts_with("# profile balanced: Windows a little wider"), "{page}");
    toml::from_str::<toml::Table>(&page).expect("it is still a settings' file");
}

#[test]
fn chat_says_what_went_wrong() {
    let (url, _) = fake_openai("data: {\"error\":{\"message\":\"the engine failed\"}}\n\ndata: [DONE]\n\n");
    assert_eq!(refused(&mut antiphon(&["chat", "--url", &url, "Hello"]), 1), "the engine failed");
    let (url, _) = fake_openai("data: {\"choices\":[]}\n\n");
    assert!(refused(&mut antiphon(&["chat", "--url", &url, "Hello"]), 1).ends_with("ended its stream before data: [DONE]"));
    let line = refused(&mut antiphon(&["chat", "--url", "http://127.0.0.1:1", "Hello"]), 1);
    assert!(
        line.starts_with("http://127.0.0.1:1 is not reachable: ") && line.contains("`antiphon serve` starts one"),
        "{line}"
    );
    let line = refused(&mut antiphon(&["chat", "--url", "nonsense", "Hello"]), 1);
    assert!(line.contains("nonsense"), "{line}");
}
