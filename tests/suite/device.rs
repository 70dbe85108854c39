//! `antiphon serve` on a CUDA device, as a user starts it: the stand-in is the driver that the
//! binary finds.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use antiphon_cuda_shim::stand_in;
use serde_json::Value;
use tempfile::TempDir;

use super::embedded::{PATIENCE, Server, joined, read_until};

const ASK: &str =
    r#"{"messages":[{"role":"user","content":"Write Python code that prints \"Jay\"."}],"temperature":0,"stream":true}"#;

const LONG: &str = r#"{"prompt":"1, 2, 3,","temperature":0,"max_tokens":8000,"ignore_eos":true,"stream":true}"#;

/// `antiphon serve --model tiny` with `args`, on a machine whose driver is the stand-in with
/// `settings`.
fn serve(folder: &TempDir, settings: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_antiphon"));
    command.args(["serve", "--model", "tiny", "--running-max-count", "8", "--token-budget-tokens", "128"]).args(args);
    command.envs(stand_in(folder.path(), settings)).env("XDG_CACHE_HOME", folder.path());
    command
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn answer(server: &Server) -> String {
    joined(&server.ask("POST", "/v1/chat/completions", ASK), "/choices/0/delta/content")
}

fn gpu_mode(server: &Server) -> String {
    let stats = server.stats();
    stats["gpu_routing"]["mode"].as_str().expect("a text").to_owned()
}

/// The GPU stands in `/stats` and in `/metrics` with the memory that it gives and its share of the
/// last seconds.
fn shown(server: &Server, index: &str) {
    let stats = server.stats();
    let [gpu] = &stats["gpu_routing"]["gpus"].as_array().expect("a list")[..] else { panic!("{stats}") };
    assert_eq!(gpu["index"].to_string(), index);
    assert!(gpu["name"].as_str().expect("a text").contains("CPU shim"), "{gpu}");
    let held = gpu["mem_used_bytes"].as_u64().expect("a count");
    assert!((6 << 20..134_217_728).contains(&held), "{held} bytes for a model of 6.9 MB with its KV memory");
    let share = gpu["utilization"].as_f64().expect("a share");
    assert!(share > 0.0 && share <= 1.0, "{gpu}");
    let text = server.ask("GET", "/metrics", "");
    let series = |name: &str| {
        let mut lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
        let line = lines.next().expect("the family is there");
        assert!(line.contains(&format!("gpu=\"{index}\"")) && lines.next().is_none(), "{line}");
        line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number")
    };
    assert_eq!(series("gpu_mem_used_bytes"), held as f64);
    assert!(series("gpu_utilization") > 0.0);
}

#[test]
fn the_device_that_is_asked_for_answers() {
    // The bits of one device are those of all: A100, L4 and RTX 4090, H200, RTX 5090.
    let cases = [("cuda:0", "mma", "8.0"), ("cuda:3", "wgmma", "9.0"), ("auto", "mma", "8.9"), ("auto", "mma", "12.0")];
    for (device, products, capability) in cases {
        let folder = folder();
        let args = ["--device", device, "--cuda-prefill", products];
        let settings = format!("memory_bytes=134217728\ncapability={capability}");
        let server = Server::of(&mut serve(&folder, &settings, &args));
        assert!(server.log.contains("computing on the GPU") && server.log.contains("CPU shim"), "{}", server.log);
        assert_eq!(gpu_mode(&server), "single");
        let text = answer(&server);
        assert!(text.contains(r#"print("Jay")"#), "{device}: {text}");
        shown(&server, if device == "cuda:3" { "3" } else { "0" });
    }
}

#[test]
fn kv_memory_grows_with_the_utilization() {
    let blocks = |utilization: &str| {
        let folder = folder();
        let args = ["--device", "cuda", "--gpu-memory-utilization", utilization];
        let server = Server::of(&mut serve(&folder, "memory_bytes=50331648", &args));
        server.stats()["kv"]["total"].as_u64().expect("a count")
    };
    let (few, more) = (blocks("0.7"), blocks("0.8"));
    assert!(few < more, "{few} blocks of 70 %, {more} of 80 %");
}

/// Standard error of a start that fails.
fn refusal(mut command: Command) -> String {
    let Output { status, stderr, .. } = command.args(["--port", "0"]).output().expect("the binary starts");
    let text = String::from_utf8(stderr).expect("UTF-8");
    assert_eq!(status.code(), Some(1), "{text}");
    text
}

#[test]
fn what_cannot_serve_says_why_and_what_would_help() {
    let cases: [(&str, &str, &[&str]); 4] = [
        ("driver=12080", "cuda:0", &["the driver serves CUDA 12.8", "they need driver 580 (CUDA 13.0) or newer"]),
        ("capability=7.5", "cuda:0", &["this GPU has compute capability 7.5", "need 8.0 (Ampere) or newer"]),
        ("memory_bytes=4194304", "cuda:0", &["weights", "KV", "scratch", "--gpu-memory-utilization", "--token-budget-tokens"]),
        ("", "cuda:9", &["there is no CUDA device 9; the driver sees 8"]),
    ];
    for (settings, device, said) in cases {
        let folder = folder();
        let text = refusal(serve(&folder, settings, &["--device", device]));
        let starts = text.contains(&format!("--device {device}: ")) && text.contains("expected --device auto or cpu");
        assert!(starts && said.iter().all(|part| text.contains(part)), "{settings}: {text}");
    }
    for device in ["cuda:0", "auto"] {
        let folder = folder();
        let text = refusal(serve(&folder, "capability=8.6", &["--device", device, "--cuda-prefill", "wgmma"]));
        let said = "--cuda-prefill wgmma needs a GPU of compute capability 9.0 (Hopper), and CPU shim has 8.6; --cuda-prefill mma serves it";
        assert!(text.contains(said), "{device}: {text}");
    }
    if fs::exists("/dev/nvidiactl").unwrap_or(false) {
        antiphon_cuda_shim::skipped("this machine has a driver, so its want cannot be seen");
    } else {
        let folder = folder();
        let mut command = serve(&folder, "", &["--device", "cuda"]);
        command.env_remove("LD_LIBRARY_PATH");
        let text = refusal(command);
        assert!(text.contains("--device cuda:0: no CUDA driver (libcuda.so.1) on this machine"), "{text}");
    }
}

#[test]
fn auto_serves_on_the_cpu_and_says_why() {
    for (settings, said) in [("memory_bytes=4194304", "--gpu-memory-utilization"), ("driver=12080", "driver 580")] {
        let folder = folder();
        let server = Server::of(&mut serve(&folder, settings, &["--device", "auto"]));
        let log = &server.log;
        assert!(
            log.contains("the GPU does not serve this model") && log.contains(said) && log.contains("computing on the CPU"),
            "{log}"
        );
        assert_eq!(gpu_mode(&server), "none");
        assert!(answer(&server).contains(r#"print("Jay")"#));
    }
}

/// Begins an answer, and once it streams, makes the device's next launch fail.
fn fail_in_mid_answer(server: &Server, folder: &TempDir, fault: &str) -> String {
    let mut stream = server.send("POST", "/v1/chat/completions", ASK);
    let mut text = read_until(&mut stream, "\"content\":");
    fs::write(folder.path().join("fault"), fault).expect("written");
    stream.read_to_string(&mut text).expect("the stream ends in order");
    text
}

#[test]
fn a_step_that_is_refused_does_not_show_in_the_answer() {
    let folder = folder();
    let server = Server::of(&mut serve(&folder, "memory_bytes=134217728", &["--device", "cuda"]));
    let expected = answer(&server);
    let text = fail_in_mid_answer(&server, &folder, "refused");
    assert_eq!(joined(&text, "/choices/0/delta/content"), expected);
    assert_eq!(server.stats()["scheduler"]["engine_restarts_total"], 1, "{}", server.stats());
}

#[test]
fn a_lost_device_ends_the_process_with_a_clear_message() {
    let folder = folder();
    let mut server = Server::of(&mut serve(&folder, "memory_bytes=134217728", &["--device", "cuda"]));
    let text = fail_in_mid_answer(&server, &folder, "lost");
    assert!(text.contains("\"error\"") && text.contains("server_error") && text.contains("data: [DONE]"), "{text}");
    let (code, log) = server.end();
    assert_eq!(code, Some(70), "{log}");
    assert!(log.contains("the engine is given up"), "{log}");
    assert!(log.contains("antiphon: the engine died") && log.contains("must be started anew"), "{log}");
}

/// What a prober sees: the status of `/health/live`; nothing once the listener is closed.
fn live(server: &Server) -> Option<u16> {
    let mut stream = TcpStream::connect(server.address()).ok()?;
    stream.write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

/// A call to the driver that never returns: the watchdog sees it, the probe fails, every request is
/// told, and the process ends although the engine's thread never does.
#[test]
fn a_device_that_never_answers_ends_the_process_in_order() {
    let folder = folder();
    let args = ["--device", "cuda", "--watchdog-seconds", "1"];
    let mut server = Server::of(&mut serve(&folder, "memory_bytes=134217728", &args));
    assert_eq!(live(&server), Some(200));
    // Eight compute, two wait.
    let mut streams: Vec<TcpStream> = (0..10).map(|_| server.send("POST", "/v1/completions", LONG)).collect();
    let begun: Vec<String> = streams.iter_mut().map(|stream| read_until(stream, "HTTP/1.1 200")).collect();
    fs::write(folder.path().join("fault"), "hangs").expect("written");
    let readers = streams.into_iter().zip(begun).map(|(mut stream, mut text)| {
        thread::spawn(move || stream.read_to_string(&mut text).map(|_| text).expect("the stream ends in order"))
    });
    let readers: Vec<_> = readers.collect();
    let began = Instant::now();
    let seen = loop {
        match live(&server) {
            Some(200) => assert!(began.elapsed() < PATIENCE, "nobody notices"),
            seen => break seen,
        }
        thread::sleep(Duration::from_millis(5));
    };
    // Until the listener is closed it says 503; a prober that comes later finds no listener.
    assert!(matches!(seen, Some(503) | None), "{seen:?}");
    for reader in readers {
        let text = reader.join().expect("its stream ends in order");
        assert!(text.contains(r#""code":"engine_failed""#) && text.contains("data: [DONE]"), "{text}");
    }
    let (code, log) = server.end();
    assert!(code == Some(70) && log.contains("the engine has not answered for"), "{code:?} {log}");
}

/// Serves on a machine of two devices.
fn on_two(folder: &TempDir, args: &[&str]) -> Command {
    serve(folder, "memory_bytes=134217728\ndevices=2", args)
}

#[test]
fn two_devices_answer_together_and_outlive_a_step_that_one_refuses() {
    let folder = folder();
    let server = Server::of(&mut on_two(&folder, &["--tensor-parallel", "2"]));
    for rank in ["\"rank\":0", "\"rank\":1", "found NCCL", "weights"] {
        assert!(server.log.contains(rank), "{rank}: {}", server.log);
    }
    assert_eq!(gpu_mode(&server), "tensor_parallel");
    let stats = server.stats();
    let indices = stats["gpu_routing"]["gpus"].as_array().expect("a list").iter().map(|gpu| gpu["index"].to_string());
    assert_eq!(indices.collect::<Vec<_>>(), ["0", "1"]);
    let expected = answer(&server);
    assert!(expected.contains(r#"print("Jay")"#), "{expected}");
    let text = fail_in_mid_answer(&server, &folder, "refused");
    assert_eq!(joined(&text, "/choices/0/delta/content"), expected);
    assert_eq!(server.stats()["scheduler"]["engine_restarts_total"], 1, "{}", server.stats());
}

#[test]
fn devices_that_cannot_compute_together_say_why() {
    let cases: [(&[&str], &str); 4] = [
        (&["--tensor-parallel", "4"], "--tensor-parallel 4: 4 devices are needed, from 0 on, but the driver sees 2"),
        (&["--tensor-parallel", "2", "--device", "cuda:1"], "2 devices are needed, from 1 on, but the driver sees 2"),
        (&["--tensor-parallel", "2", "--device", "cpu"], "--tensor-parallel 2: several GPUs are needed, but --device is cpu"),
        (&["--tensor-parallel", "0"], "expected a whole number from 1 to 64"),
    ];
    for (args, said) in cases {
        let folder = folder();
        let Output { status, stderr, .. } = on_two(&folder, args).args(["--port", "0"]).output().expect("the binary starts");
        let text = String::from_utf8(stderr).expect("UTF-8");
        assert!(!status.success() && text.contains(said), "{args:?}: {text}");
    }
    let folder = folder();
    let text = refusal(serve(&folder, "", &["--tensor-parallel", "3"]));
    assert!(text.contains("--tensor-parallel 3: the model has 4 key and value heads, which 3 devices cannot share"), "{text}");
}

#[test]
fn a_machine_without_nccl_says_which_names_were_tried() {
    let folder = folder();
    let command = on_two(&folder, &["--tensor-parallel", "2"]);
    fs::remove_file(folder.path().join("libnccl.so.2")).expect("it was there");
    let text = refusal(command);
    for part in ["--tensor-parallel 2: NCCL is missing", "libnccl.so.2", "libnccl.so ", "libnccl2", "nvidia-nccl-cu13"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// The golden g5 with a tokenizer: g2's, as much of it as g5's vocabulary of 301 has rows for.
fn bf16_model(folder: &TempDir) -> String {
    const TOKENS: u64 = 301;
    let goldens = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let text = fs::read_to_string(goldens.join("g2/tokenizer.json")).expect("readable");
    let mut tokenizer: Value = serde_json::from_str(&text).expect("JSON");
    let control = tokenizer["added_tokens"].as_array_mut().expect("a list");
    let first = TOKENS - control.len() as u64;
    for (token, id) in control.iter_mut().zip(first..) {
        token["id"] = id.into();
    }
    let vocabulary = tokenizer["model"]["vocab"].as_object_mut().expect("an object");
    vocabulary.retain(|_, id| id.as_u64().is_some_and(|id| id < first));
    tokenizer["model"]["merges"] = Value::Array(Vec::new());
    let model = folder.path().join("g5");
    fs::create_dir(&model).expect("made");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(goldens.join("g5").join(file), model.join(file)).expect("copied");
    }
    fs::write(model.join("tokenizer.json"), tokenizer.to_string()).expect("written");
    model.to_str().expect("UTF-8").to_owned()
}

fn serve_bf16(folder: &TempDir, device: &str) -> Command {
    let model = bf16_model(folder);
    let mut command = Command::new(env!("CARGO_BIN_EXE_antiphon"));
    command.args(["serve", "--model", &model, "--device", device, "--kv-bytes", "16MiB"]);
    command.envs(stand_in(folder.path(), "")).env("XDG_CACHE_HOME", folder.path());
    command
}

const NOT_MXFP4: &str = "is bf16 and holds values that MXFP4 does not";

/// Experts that were trained in bf16 are known before the device is taken. A GPU that was found
/// leaves the model to the CPU, and the log says why. One that was asked for ends the start with
/// the reason and the way out.
#[test]
fn experts_that_no_gpu_serves_are_served_by_the_cpu_unless_a_gpu_was_asked_for() {
    let found = folder();
    let server = Server::of(&mut serve_bf16(&found, "auto"));
    for said in ["the GPU does not serve this model", NOT_MXFP4, "computing on the CPU"] {
        assert!(server.log.contains(said), "{said}: {}", server.log);
    }
    assert_eq!(server.log.matches(NOT_MXFP4).count(), 1, "once: {}", server.log);
    assert_eq!(gpu_mode(&server), "none");
    let asked = folder();
    let text = refusal(serve_bf16(&asked, "cuda:0"));
    for said in [NOT_MXFP4, "nothing is rounded in silence: --device cpu serves it as it is"] {
        assert!(text.contains(said), "{text}");
    }
}

#[test]
fn inspect_plans_for_the_gpu_that_is_found() {
    let inspect = |device: &str| {
        let folder = folder();
        let mut command = Command::new(env!("CARGO_BIN_EXE_antiphon"));
        command.args(["inspect", "--model", "tiny", "--device", device]);
        command.envs(stand_in(folder.path(), "memory_bytes=1073741824")).env("XDG_CACHE_HOME", folder.path());
        let Output { status, stdout, stderr } = command.output().expect("the binary starts");
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).expect("UTF-8")
    };
    let planned = |page: &str, place: &str| page.lines().any(|line| line.starts_with("planned for ") && line.contains(place));
    let page = inspect("auto");
    assert!(planned(&page, "cuda:0, nothing else on it: 922 of 1024 MiB may be used"), "{page}");
    assert!(planned(&inspect("cuda:3"), "cuda:3, nothing else on it"), "{page}");
    assert!(planned(&inspect("cpu"), "the CPU"), "{page}");
}
