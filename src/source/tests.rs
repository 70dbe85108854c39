//! Names, settings and directories; the downloads are tested against a hub in
//! `tests/suite/source.rs`.

use std::collections::HashMap;
use std::fs;

use proptest::prelude::*;

use super::*;

fn settings(variables: &[(&str, &str)]) -> Result<HubSettings, SourceError> {
    let variables: HashMap<String, String> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    HubSettings::from_variables(|name| variables.get(name).cloned())
}

fn offline() -> HubSettings {
    let cache = tempfile::tempdir().expect("a temporary folder").path().join("nothing");
    settings(&[("HF_HUB_OFFLINE", "1"), ("HF_HUB_CACHE", &cache.to_string_lossy())]).expect("sound settings")
}

#[test]
fn a_model_has_several_names() {
    assert_eq!(names("tiny", "tiny"), ["tiny", "tiny", "tiny"]);
    assert_eq!(names("20b", "openai/gpt-oss-20b"), ["20b", "openai/gpt-oss-20b", "gpt-oss-20b", "openai/gpt-oss-20b", "20b"]);
    let copy = names("/models/gpt-oss-120b", "gpt-oss-120b");
    assert!(
        ["/models/gpt-oss-120b", "openai/gpt-oss-120b", "120b"].iter().all(|name| copy.contains(&(*name).to_owned())),
        "{copy:?}"
    );
    assert!(!names("org/fine-tune", "org/fine-tune").contains(&"openai/fine-tune".to_owned()));
}

fn refused(model: &str) -> String {
    resolve(Some(model), &offline(), &mut |_| panic!("nothing is downloaded")).expect_err("no such model").to_string()
}

#[test]
fn the_embedded_model_is_whole_and_aligned() {
    let files = resolve(None, &offline(), &mut |_| ()).expect("it is embedded");
    assert_eq!((files.name.as_str(), files.model_id.as_str(), files.model_size.as_str()), ("tiny", "gpt-oss-tiny", "tiny"));
    assert_eq!(files, resolve(Some("tiny"), &offline(), &mut |_| ()).expect("it is embedded"));
    let ModelContent::Embedded(embedded) = files.content else { panic!("tiny is embedded") };
    for file in embedded {
        assert_eq!(file.bytes.as_ptr() as usize % 64, 0, "{} is not aligned", file.name);
        let on_disk = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny").join(file.name)).expect("readable");
        assert!(file.bytes == on_disk, "{} differs from models/tiny", file.name);
    }
    assert!(["config.json", "tokenizer.json", "model.safetensors"].iter().all(|name| embedded.iter().any(|f| f.name == *name)));
}

#[test]
fn a_directory_is_a_model_by_its_name() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/g1");
    let files = resolve(goldens.to_str(), &offline(), &mut |_| ()).expect("a model");
    assert_eq!((files.name.as_str(), files.model_size.as_str()), ("g1", "custom"));

    let folder = tempfile::tempdir().expect("a temporary folder");
    let snapshot = folder.path().join("models--openai--gpt-oss-120b/snapshots/0123abc");
    fs::create_dir_all(&snapshot).expect("made");
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::write(snapshot.join(file), "{}").expect("written");
    }
    let files = resolve(snapshot.to_str(), &offline(), &mut |_| ()).expect("a model");
    assert_eq!(files.name, "openai/gpt-oss-120b");
    assert_eq!((files.model_id.as_str(), files.model_size.as_str()), ("gpt-oss-120b", "120b"));
}

#[test]
fn what_is_no_model_is_refused_with_its_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    assert_eq!(refused("gpt-5"), "no model `gpt-5`; expected tiny, 20b, 120b, a directory, or org/name on the hub");
    assert!(refused(&path("absent")).starts_with("no model `"));
    assert!(refused("../up").starts_with("no model `"));
    assert!(refused("openai/none").contains("HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set"), "{}", refused("openai/none"));

    fs::write(path("file"), "").expect("written");
    assert!(refused(&path("file")).contains("file is not a directory; expected the directory that holds config.json"));
    assert!(refused(&path("")).contains("has no config.json; expected config.json, tokenizer.json and"));
    fs::write(path("config.json"), "{}").expect("written");
    assert!(refused(&path("")).contains("has no tokenizer.json"));
    fs::write(path("tokenizer.json"), "{}").expect("written");
    assert!(refused(&path("")).contains("has no model.safetensors"));
    for (index, said) in [
        ("[", "EOF while parsing"),
        ("{}", "missing field `weight_map`"),
        (r#"{"weight_map":{}}"#, "it names no shard"),
        (r#"{"weight_map":{"a":"../../etc/passwd"}}"#, "`../../etc/passwd` is not the name of a shard"),
        (r#"{"weight_map":{"a":"/etc/a.safetensors"}}"#, "is not the name of a shard"),
        (r#"{"weight_map":{"a":"one.safetensors"}}"#, "has no one.safetensors"),
    ] {
        fs::write(path("model.safetensors.index.json"), index).expect("written");
        assert!(refused(&path("")).contains(said), "{index}: {}", refused(&path("")));
    }
}

#[test]
fn settings_follow_hugging_faces_own_tools() {
    let home = [("HOME", "/home/someone")];
    let default = settings(&home).expect("sound");
    assert_eq!(default.cache, Path::new("/home/someone/.cache/huggingface/hub"));
    assert_eq!((default.endpoint.as_str(), default.token, default.offline), ("https://huggingface.co", None, false));

    let set = |more: &[(&str, &str)]| settings(&[&home, more].concat()).expect("sound");
    assert_eq!(set(&[("HF_HOME", "/data")]).cache, Path::new("/data/hub"));
    assert_eq!(set(&[("HF_HOME", "~/data")]).cache, Path::new("/home/someone/data/hub"));
    assert_eq!(set(&[("HF_HOME", "/data"), ("HF_HUB_CACHE", "/other")]).cache, Path::new("/other"));
    assert_eq!(set(&[("HF_ENDPOINT", "http://localhost:9/")]).endpoint, "http://localhost:9");
    assert_eq!(set(&[("HF_TOKEN", " hf_x\n")]).token.as_deref(), Some("hf_x"));
    // Older names, which those of today go before.
    assert_eq!(set(&[("HUGGING_FACE_HUB_TOKEN", "hf_y")]).token.as_deref(), Some("hf_y"));
    assert_eq!(set(&[("HUGGING_FACE_HUB_TOKEN", "hf_y"), ("HF_TOKEN", "hf_x")]).token.as_deref(), Some("hf_x"));
    assert_eq!(set(&[("HUGGINGFACE_HUB_CACHE", "/old")]).cache, Path::new("/old"));
    assert_eq!(set(&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/new")]).cache, Path::new("/new"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("token");
    fs::write(&file, "hf_z\n").expect("written");
    assert_eq!(set(&[("HF_TOKEN_PATH", &file.to_string_lossy())]).token.as_deref(), Some("hf_z"));
    assert!(
        set(&[("TRANSFORMERS_OFFLINE", "1")]).offline && set(&[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")]).offline
    );
    assert!(set(&[("HF_HUB_OFFLINE", "ON")]).offline && !set(&[("HF_HUB_OFFLINE", "0")]).offline);
    assert!(!format!("{:?}", set(&[("HF_TOKEN", "hf_x")])).contains("hf_x"), "a token is never printed");

    for (variable, value) in [
        ("HF_ENDPOINT", "ftp://x"),
        ("HF_ENDPOINT", "https://"),
        ("HF_ENDPOINT", "https://a b"),
        ("HF_HUB_OFFLINE", "2"),
        ("TRANSFORMERS_OFFLINE", "x"),
    ] {
        let said = settings(&[(variable, value)]).expect_err("nonsense").to_string();
        assert!(said.starts_with(&format!("{variable}={value}; expected ")), "{said}");
    }
}

proptest! {
    /// Whatever `--model` says, the answer is a model or a sentence.
    #[test]
    fn any_name_is_answered(model in "\\PC{0,40}") {
        let _ = resolve(Some(&model), &offline(), &mut |_| ());
    }

    #[test]
    fn hub_names_never_leave_the_cache(model in "[a-z./~-]{0,12}") {
        if is_hub_name(&model) {
            prop_assert_eq!(model.matches('/').count(), 1);
            prop_assert!(!model.contains("..") && !model.starts_with(['/', '.']));
        }
    }
}
