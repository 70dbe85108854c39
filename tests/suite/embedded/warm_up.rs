//! Weights that compute no numbers, or other tokens than the model's goldens, are never served.

use std::fs;
use std::path::Path;
use std::process::Command;

use antiphon_cuda_shim::stand_in;
use serde_json::Value;
use tempfile::TempDir;

use super::server::Server;

/// A copy of the embedded model's files.
fn copy() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny");
    for file in ["config.json", "generation_config.json", "golden.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(model.join(file), folder.path().join(file)).expect("copied");
    }
    folder
}

/// Overwrites every value of a tensor.
fn overwrite(folder: &TempDir, tensor: &str, value: f32) {
    let path = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&path).expect("read");
    let header_bytes = u64::from_le_bytes(*bytes.first_chunk().expect("a length")) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + header_bytes]).expect("a header");
    let offset = |index: usize| header[tensor]["data_offsets"][index].as_u64().expect("an offset") as usize + 8 + header_bytes;
    let four = value.to_le_bytes();
    let value = match header[tensor]["dtype"].as_str().expect("a type") {
        "BF16" => &four[2..],
        "F32" => &four[..],
        other => panic!("{tensor} is {other}"),
    };
    bytes[offset(0)..offset(1)].chunks_exact_mut(value.len()).for_each(|to| to.copy_from_slice(value));
    fs::write(&path, bytes).expect("written");
}

/// `antiphon serve` of the model in `folder`, on the CPU or on the stand-in for a GPU.
fn serve(folder: &TempDir, driver: &TempDir, device: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_antiphon"));
    command.args(["serve", "--port", "0", "--running-max-count", "8", "--token-budget-tokens", "128", "--kv-bytes", "16MiB"]);
    command.args(["--device", device, "--model"]).arg(folder.path());
    command.envs(stand_in(driver.path(), "memory_bytes=134217728")).env("XDG_CACHE_HOME", driver.path());
    command
}

/// The weights are random, so no golden is theirs.
#[test]
fn a_model_that_synth_wrote_is_served() {
    let (folder, driver) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let synth = Command::new(env!("CARGO_BIN_EXE_antiphon")).args(["synth", "--shape", "small"]).arg(folder.path()).status();
    assert!(synth.expect("the binary starts").success());
    let mut server = Server::of(&mut serve(&folder, &driver, "cpu"));
    assert_eq!(server.answer("POST", "/v1/completions", r#"{"prompt":"1, 2","max_tokens":3}"#).0, 200);
    server.signal("-TERM");
    assert_eq!(server.end().0, Some(0));
}

#[test]
fn weights_that_compute_no_numbers_are_never_ready() {
    let cases = [
        ("model.norm.weight", f32::NAN, "cpu"),
        ("model.layers.0.self_attn.o_proj.weight", f32::NAN, "cpu"),
        ("model.layers.1.mlp.experts.down_proj_bias", f32::NAN, "cpu"),
        ("model.layers.0.input_layernorm.weight", f32::INFINITY, "cpu"),
        ("model.norm.weight", f32::NAN, "cuda:0"),
    ];
    for (tensor, value, device) in cases {
        let (folder, driver) = (copy(), tempfile::tempdir().expect("a folder"));
        overwrite(&folder, tensor, value);
        let output = serve(&folder, &driver, device).output().expect("the binary starts");
        let text = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(1), "{tensor} {value}: {text}");
        let said = "antiphon: cannot load the engine: the model's logits are not finite: its weights hold NaN or infinities, or are damaged";
        assert_eq!(text.lines().last(), Some(said), "{tensor} {value} {device}");
        assert!(!text.contains("ready"), "{text}");
    }
}

#[test]
fn weights_that_draw_other_tokens_than_their_golden_are_never_ready() {
    let folder = copy();
    let driver = || tempfile::tempdir().expect("a folder");
    overwrite(&folder, "model.layers.0.self_attn.o_proj.weight", 0.0);
    overwrite(&folder, "model.layers.1.self_attn.o_proj.weight", 0.0);
    for device in ["cpu", "cuda:0"] {
        let driver = driver();
        let output = serve(&folder, &driver, device).output().expect("the binary starts");
        let text = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(
            text.contains("tokens of its golden the model draws token ") && text.contains("its weights are damaged"),
            "{text}"
        );
    }
    // Without a golden nothing says which token it should be.
    fs::remove_file(folder.path().join("golden.json")).expect("it was there");
    Server::of(&mut serve(&folder, &driver(), "cpu"));
}

#[test]
fn the_embedded_model_is_compared_with_its_golden_on_each_device() {
    for device in ["cpu", "cuda:0"] {
        let (folder, driver) = (copy(), tempfile::tempdir().expect("a folder"));
        let server = Server::of(&mut serve(&folder, &driver, device));
        assert!(server.log.contains("the engine continues the model's golden as it should"), "{device}: {}", server.log);
    }
    assert!(Server::start().log.contains("the engine continues the model's golden as it should"));
}
