//! A table of broken copies of the golden checkpoint g2: each must be refused with one sentence
//! that names what is wrong.

use super::*;
use crate::engine::checkpoint::shards::{INDEX_FILE, SINGLE_FILE};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

/// A copy of a golden checkpoint that a test may break.
struct Copy(TempDir);

impl Copy {
    fn of(name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(golden(name)).unwrap() {
            let entry = entry.unwrap();
            let file = entry.file_name();
            if file != "golden_logits.safetensors" && file != "golden.json" {
                fs::copy(entry.path(), directory.path().join(file)).unwrap();
            }
        }
        Self(directory)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn open(&self) -> Result<Checkpoint, CheckpointError> {
        Checkpoint::open(&CheckpointFiles::directory(self.0.path())?)
    }

    fn refusal(&self) -> String {
        let message = self.open().unwrap_err().to_string();
        assert!(!message.contains('\n') && message.len() < 400, "{message}");
        message
    }

    fn edit_json(&self, file: &str, edit: impl FnOnce(&mut Value)) {
        let mut value = serde_json::from_slice(&fs::read(self.path(file)).unwrap()).unwrap();
        edit(&mut value);
        fs::write(self.path(file), value.to_string()).unwrap();
    }

    /// Changes the header of a shard; the data stays as it is.
    fn edit_header(&self, file: &str, edit: impl FnOnce(&mut Value)) {
        let bytes = fs::read(self.path(file)).unwrap();
        let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
        let (header, data) = rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
        let mut value = serde_json::from_slice(header).unwrap();
        edit(&mut value);
        let header = value.to_string();
        let length = (header.len() as u64).to_le_bytes();
        fs::write(self.path(file), [&length, header.as_bytes(), data].concat()).unwrap();
    }
}

const BROKEN: &str = "model.layers.1.self_attn.k_proj.weight";

#[test]
fn the_goldens_and_the_embedded_model_open() {
    for name in ["g1", "g2"] {
        let checkpoint = Checkpoint::open(&CheckpointFiles::directory(&golden(name)).unwrap()).unwrap();
        assert!(checkpoint.warnings().is_empty());
        assert_eq!(checkpoint.eos_tokens().len(), 3);
        let config = checkpoint.config();
        assert_eq!(checkpoint.tensor(EMBEDDING).len(), 2 * config.vocab_size * config.hidden);
        assert_eq!(checkpoint.vector(FINAL_NORM).len(), config.hidden);
        checkpoint.check_unchanged().unwrap();
    }
}

#[test]
fn embedded_bytes_take_the_same_path() {
    let config: &[u8] = include_bytes!("../../../tests/goldens/g2/config.json");
    let weights: &[u8] = include_bytes!("../../../tests/goldens/g2/model.safetensors");
    let files = CheckpointFiles::embedded([("config.json", config), ("model.safetensors", weights)]);
    let embedded = Checkpoint::open(&files).unwrap();
    let mapped = Checkpoint::open(&CheckpointFiles::directory(&golden("g2")).unwrap()).unwrap();
    assert_eq!(embedded.config(), mapped.config());
    for expected in expected_tensors(mapped.config(), ExpertForm::Mxfp4) {
        assert_eq!(*embedded.tensor(&expected.name), *mapped.tensor(&expected.name), "{}", expected.name);
    }
    assert_eq!(embedded.eos_tokens(), [TokenId(419)], "no generation_config.json");
}

#[test]
fn headers_are_enough_for_an_outline_and_for_nothing_else() {
    let names = ["config.json", "generation_config.json", "model.safetensors.index.json"];
    let shards = ["model-00000-of-00001.safetensors", "model-00001-of-00001.safetensors"];
    let head = |name: &str, whole: bool| {
        let bytes = fs::read(golden("g1").join(name)).unwrap();
        let header = 8 + bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length) as usize);
        let kept = if whole { bytes.len() } else { header };
        FileHead { name: name.to_owned(), bytes: bytes[..kept].into(), file_bytes: bytes.len() }
    };
    let heads = || names.map(|name| head(name, true)).into_iter().chain(shards.map(|name| head(name, false))).collect();
    let outline = Outline::read(&CheckpointFiles::heads(heads())).unwrap();
    let whole = Checkpoint::open(&CheckpointFiles::directory(&golden("g1")).unwrap()).unwrap();
    assert_eq!((outline.config(), outline.tensors()), (whole.config(), whole.tensors()));
    assert_eq!((outline.tensor_bytes(), outline.eos_tokens()), (whole.tensor_bytes(), whole.eos_tokens()));

    let message = Checkpoint::open(&CheckpointFiles::heads(heads())).unwrap_err().to_string();
    assert!(message.contains("only its beginning is here, expected the whole file"), "{message}");
    // A header that says more than the file has is refused as it is on disk.
    let mut lying: Vec<FileHead> = heads();
    lying[3].file_bytes -= 1;
    let message = Outline::read(&CheckpointFiles::heads(lying)).unwrap_err().to_string();
    assert!(message.starts_with("model-00000-of-00001.safetensors: bad safetensors header: "), "{message}");
}

#[test]
fn truncated_shards_are_refused() {
    let copy = Copy::of("g2");
    let whole = fs::read(copy.path(SINGLE_FILE)).unwrap();
    for length in [0, 7, 8, 100, 5000, whole.len() / 2, whole.len() - 1] {
        fs::write(copy.path(SINGLE_FILE), &whole[..length]).unwrap();
        let message = copy.refusal();
        assert!(message.starts_with("model.safetensors: bad safetensors header: "), "{length}: {message}");
    }
}

#[test]
fn lying_headers_are_refused() {
    type Edit = fn(&mut Value);
    let table: [(Edit, &str); 10] = [
        (|header| header[BROKEN]["dtype"] = json!("I16"), "is I16 [48, 96], expected BF16, F16 or F32 [48, 96]"),
        (|header| header[BROKEN]["shape"] = json!([96, 48]), "is BF16 [96, 48], expected BF16, F16 or F32 [48, 96]"),
        (|header| header[BROKEN]["shape"] = json!([48, 96, 1]), "is BF16 [48, 96, 1], expected BF16, F16 or F32 [48, 96]"),
        (|header| header[BROKEN]["shape"] = json!([0, 96]), "BF16 [0, 96] needs 0"),
        (|header| header[BROKEN]["dtype"] = json!("F32"), "F32 [48, 96] needs 18432"),
        (|header| header[BROKEN]["dtype"] = json!("BF17"), "unknown variant `BF17`"),
        (|header| header[BROKEN]["shape"] = json!([48, -96]), "invalid value"),
        (|header| header[BROKEN]["data_offsets"] = json!([9216, 0]), "lies at 9216..0"),
        (|header| header[BROKEN]["data_offsets"] = json!([0, 9_999_999]), "lies at 0..9999999"),
        (|header| header[BROKEN]["data_offsets"] = json!([0, 9216]), "without gaps"),
    ];
    for (edit, expected) in table {
        let copy = Copy::of("g2");
        copy.edit_header(SINGLE_FILE, edit);
        let message = copy.refusal();
        assert!(message.starts_with("model.safetensors: "), "{message}");
        assert!(message.contains(expected), "{expected}: {message}");
        assert!(message.contains(BROKEN) || expected == "without gaps", "{message}");
    }
}

#[test]
fn codes_and_scales_must_agree() {
    let copy = Copy::of("g2");
    copy.edit_header(SINGLE_FILE, |header| {
        header["model.layers.0.mlp.experts.down_proj_scales"]["shape"] = json!([6, 48, 4]);
    });
    let message = copy.refusal();
    let expected = "tensor `model.layers.0.mlp.experts.down_proj_scales` is U8 [6, 48, 4], expected U8 [6, 96, 2]";
    assert!(message.contains(expected), "{message}");
}

#[test]
fn a_missing_tensor_is_named_and_an_extra_one_is_a_warning() {
    let copy = Copy::of("g2");
    let rename = |from: &'static str, to: &'static str| {
        move |header: &mut Value| {
            let header = header.as_object_mut().unwrap();
            let tensor = header.remove(from).unwrap();
            header.insert(to.to_owned(), tensor);
        }
    };
    copy.edit_header(SINGLE_FILE, rename(BROKEN, "model.layers.1.self_attn.k.weight"));
    let expected = format!("model.safetensors: tensor `{BROKEN}` is missing, expected BF16, F16 or F32 [48, 96]");
    assert_eq!(copy.refusal(), expected);
    copy.edit_header(SINGLE_FILE, rename("model.layers.2.self_attn.sinks", "sinks"));
    assert_eq!(copy.refusal(), format!("{expected}; 1 more are missing"));

    let copy = Copy::of("g2");
    copy.edit_json("config.json", |config| config["attention_bias"] = json!(false));
    let checkpoint = copy.open().unwrap();
    assert_eq!(checkpoint.warnings().len(), 1);
    assert!(checkpoint.warnings()[0].contains("model.layers.0.self_attn.k_proj.bias"), "{:?}", checkpoint.warnings());
    assert!(checkpoint.warnings()[0].contains("and 11 more"), "{:?}", checkpoint.warnings());
}

#[test]
fn a_config_that_does_not_fit_the_tensors_is_refused() {
    for (key, value, expected) in [
        ("vocab_size", json!(421), "model.embed_tokens.weight` is BF16 [420, 96], expected BF16, F16 or F32 [421, 96]"),
        ("hidden_size", json!(64), "model.embed_tokens.weight` is BF16 [420, 96], expected BF16, F16 or F32 [420, 64]"),
        ("head_dim", json!(32), "q_proj.weight` is BF16 [96, 96], expected BF16, F16 or F32 [192, 96]"),
        ("num_key_value_heads", json!(6), "k_proj.weight` is BF16 [48, 96], expected BF16, F16 or F32 [96, 96]"),
        ("num_local_experts", json!(8), "mlp.router.weight` is BF16 [6, 96], expected BF16, F16 or F32 [8, 96]"),
        ("intermediate_size", json!(96), "gate_up_proj_bias` is BF16 [6, 128], expected BF16, F16 or F32 [6, 192]"),
    ] {
        let copy = Copy::of("g2");
        copy.edit_json("config.json", |config| config[key] = value);
        let message = copy.refusal();
        assert!(message.contains(expected), "{message}");
    }
    let copy = Copy::of("g2");
    copy.edit_json("config.json", |config| {
        config["num_hidden_layers"] = json!(4);
        config["layer_types"] = Value::Null;
    });
    let message = copy.refusal();
    assert!(message.contains("`model.layers.3.input_layernorm.weight` is missing"), "{message}");
    assert!(message.contains("18 more are missing"), "{message}");
}

#[test]
fn a_model_that_never_ends_is_refused() {
    let copy = Copy::of("g2");
    for file in ["config.json", "generation_config.json"] {
        copy.edit_json(file, |config| config["eos_token_id"] = Value::Null);
    }
    let expected = "config.json: `eos_token_id` is missing, expected a token id there or in generation_config.json";
    assert_eq!(copy.refusal(), expected);
    fs::remove_file(copy.path("generation_config.json")).unwrap();
    assert_eq!(copy.refusal(), expected);
}

#[test]
fn missing_files_are_named() {
    let copy = Copy::of("g2");
    fs::remove_file(copy.path(SINGLE_FILE)).unwrap();
    assert_eq!(copy.refusal(), "model.safetensors: the file is missing; expected it or model.safetensors.index.json");
    fs::remove_file(copy.path("config.json")).unwrap();
    assert_eq!(copy.refusal(), "config.json: the file is missing; expected the config of a GPT-OSS model");
    let nowhere = copy.path("nowhere");
    let message = CheckpointFiles::directory(&nowhere).unwrap_err().to_string();
    assert!(message.contains("nowhere: the file is missing; expected a directory"), "{message}");
    let file = copy.path("tokenizer.json");
    let message = CheckpointFiles::directory(&file).unwrap_err().to_string();
    assert!(message.contains("tokenizer.json: not a directory"), "{message}");
}

/// The name of g1's second shard.
const SHARD: &str = "model-00001-of-00001.safetensors";

#[test]
fn an_index_is_believed_only_as_far_as_the_files_go() {
    let point = |to: &'static str| move |index: &mut Value| index["weight_map"][BROKEN] = json!(to);
    for (to, expected) in [
        ("model-00002-of-00003.safetensors", "the file is missing, expected it beside the index"),
        ("../../../../etc/passwd", "expected the plain name of a file beside the index"),
        ("/etc/passwd", "expected the plain name of a file beside the index"),
        ("..", "expected the plain name of a file beside the index"),
        ("", "expected the plain name of a file beside the index"),
        ("c:\\weights", "expected the plain name of a file beside the index"),
        (SHARD, "but it lies in `model-00000-of-00001.safetensors`"),
    ] {
        let copy = Copy::of("g1");
        copy.edit_json(INDEX_FILE, point(to));
        let message = copy.refusal();
        assert!(message.starts_with(&format!("{INDEX_FILE}: tensor `")) && message.contains(expected), "{message}");
        assert!(message.contains(&format!("`{to}`")), "{message}");
    }
    let copy = Copy::of("g1");
    fs::remove_file(copy.path(SHARD)).unwrap();
    assert!(copy.refusal().contains(&format!("`{SHARD}`; the file is missing")), "{}", copy.refusal());
}

#[test]
fn indexes_that_are_none_are_refused() {
    for text in ["", "[]", "{}", "{\"weight_map\": []}", "{\"weight_map\": {\"a\": 1}}", "{\"weight_map\": {}}"] {
        let copy = Copy::of("g1");
        fs::write(copy.path(INDEX_FILE), text).unwrap();
        assert!(copy.refusal().starts_with(&format!("{INDEX_FILE}: ")), "{}", copy.refusal());
    }
}

#[test]
fn a_tensor_that_the_index_forgets_or_two_shards_hold_is_refused_or_found() {
    // Forgotten, but in a shard that is opened for others: found, as in transformers.
    let copy = Copy::of("g1");
    copy.edit_json(INDEX_FILE, |index| {
        index["weight_map"].as_object_mut().unwrap().remove(BROKEN);
    });
    copy.open().unwrap();

    let copy = Copy::of("g1");
    fs::copy(copy.path(SHARD), copy.path("again.safetensors")).unwrap();
    copy.edit_json(INDEX_FILE, |index| index["weight_map"] = json!({"a": SHARD, "b": "again.safetensors"}));
    let message = copy.refusal();
    assert!(message.contains("also lies in again.safetensors"), "{message}");
}

#[test]
fn a_file_that_was_cut_is_noticed() {
    let copy = Copy::of("g2");
    let checkpoint = copy.open().unwrap();
    let file = fs::OpenOptions::new().write(true).open(copy.path(SINGLE_FILE)).unwrap();
    file.set_len(4096).unwrap();
    let message = checkpoint.check_unchanged().unwrap_err().to_string();
    assert!(message.starts_with("model.safetensors: ") && message.contains("has changed"), "{message}");
}

#[cfg(unix)]
#[test]
fn what_is_not_a_regular_file_within_the_checkpoint_is_refused() {
    use std::os::unix::fs::symlink;
    let outside = tempfile::tempdir().unwrap();
    fs::copy(golden("g2").join(SINGLE_FILE), outside.path().join("weights")).unwrap();

    let copy = Copy::of("g2");
    let replace = |with: &dyn Fn(&Path)| {
        let path = copy.path(SINGLE_FILE);
        fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).unwrap();
        with(&path);
        copy.refusal()
    };
    let message = replace(&|path| symlink(outside.path().join("weights"), path).unwrap());
    assert!(message.starts_with("model.safetensors: a link that leads out of the checkpoint"), "{message}");
    let message = replace(&|path| symlink("/dev/zero", path).unwrap());
    assert!(message.contains("leads out"), "{message}");
    let message = replace(&|path| symlink("nowhere", path).unwrap());
    assert!(message.starts_with("model.safetensors: cannot be read"), "{message}");
    let message = replace(&|path| symlink(SINGLE_FILE, path).unwrap());
    assert!(message.starts_with("model.safetensors: cannot be read"), "{message}");
    let message = replace(&|path| fs::create_dir(path).unwrap());
    assert!(message.contains("not a regular file"), "{message}");
    let message = replace(&|path| {
        assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    });
    assert!(message.contains("not a regular file"), "{message}");
}

#[test]
fn a_stray_file_beside_an_index_is_named() {
    let copy = Copy::of("g2");
    fs::write(copy.path(INDEX_FILE), r#"{"weight_map":{"lm_head.weight":"model-00001-of-00001.safetensors"}}"#).unwrap();
    copy.open().expect("the single file has everything, so the index is not read");
    copy.edit_header(SINGLE_FILE, |header| {
        let header = header.as_object_mut().unwrap();
        let tensor = header.remove("lm_head.weight").unwrap();
        header.insert("other".to_owned(), tensor);
    });
    let message = copy.refusal();
    assert!(
        message.contains("goes before the model.safetensors.index.json beside it: remove the one that is stray"),
        "{message}"
    );
}

#[cfg(unix)]
#[test]
fn the_links_of_the_hub_cache_are_followed() {
    use std::os::unix::fs::symlink;
    let cache = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (cache.path().join("blobs"), cache.path().join("snapshots/abc"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    for (number, file) in ["config.json", "generation_config.json", SINGLE_FILE].iter().enumerate() {
        fs::copy(golden("g2").join(file), blobs.join(number.to_string())).unwrap();
        symlink(format!("../../blobs/{number}"), snapshot.join(file)).unwrap();
    }
    Checkpoint::open(&CheckpointFiles::directory(&snapshot).unwrap()).unwrap();

    // The blobs may lie on another disk; a link beside them may not lead there.
    let disk = tempfile::tempdir().unwrap();
    fs::rename(&blobs, disk.path().join("blobs")).unwrap();
    symlink(disk.path().join("blobs"), &blobs).unwrap();
    Checkpoint::open(&CheckpointFiles::directory(&snapshot).unwrap()).unwrap();
    fs::write(disk.path().join("secret"), "{}").unwrap();
    fs::remove_file(snapshot.join("config.json")).unwrap();
    symlink(disk.path().join("secret"), snapshot.join("config.json")).unwrap();
    let message = Checkpoint::open(&CheckpointFiles::directory(&snapshot).unwrap()).unwrap_err().to_string();
    assert!(message.starts_with("config.json: a link that leads out of the checkpoint"), "{message}");
}

#[cfg(unix)]
#[test]
fn an_operators_own_links_are_followed_if_told_to() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "generation_config.json", SINGLE_FILE] {
        symlink(golden("g2").join(file), folder.path().join(file)).unwrap();
    }
    let message = Checkpoint::open(&CheckpointFiles::directory(folder.path()).unwrap()).unwrap_err().to_string();
    assert!(message.contains("--model-links anywhere"), "{message}");
    Checkpoint::open(&CheckpointFiles::directory_with(folder.path(), LinkPolicy::Anywhere).unwrap()).unwrap();
    fs::remove_file(folder.path().join(SINGLE_FILE)).unwrap();
    symlink("/dev/zero", folder.path().join(SINGLE_FILE)).unwrap();
    let files = CheckpointFiles::directory_with(folder.path(), LinkPolicy::Anywhere).unwrap();
    let message = Checkpoint::open(&files).unwrap_err().to_string();
    assert!(message.contains("not a regular file"), "{message}");
}
