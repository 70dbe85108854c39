//! Models from the hub: the whole path against a hub that also cuts off, corrupts and refuses.

use std::fs;
use std::path::Path;
use std::time::Duration;

use antiphon::source::{
    DownloadStage, Glance, HubSettings, ModelContent, ModelFiles, ModelHeads, SourceError, glance, resolve,
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::fake_hub::{COMMIT, FakeHub, Faults};

/// Bytes that no compression or alignment could make look right by chance.
fn noise(seed: u32, count: usize) -> Vec<u8> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(count)
    .collect()
}

/// What OpenAI's repositories hold: two shards, and folders that are not needed here.
fn repository() -> Vec<(&'static str, Vec<u8>)> {
    let index =
        r#"{"metadata":{},"weight_map":{"a":"model-00000-of-00001.safetensors","b":"model-00001-of-00001.safetensors"}}"#;
    vec![
        ("config.json", b"{}".to_vec()),
        ("generation_config.json", b"{ }".to_vec()),
        ("tokenizer.json", noise(1, 5_000)),
        ("tokenizer_config.json", b"{  }".to_vec()),
        ("model.safetensors.index.json", index.as_bytes().to_vec()),
        ("model-00000-of-00001.safetensors", noise(2, 300_000)),
        ("model-00001-of-00001.safetensors", noise(3, 200_000)),
        ("README.md", b"not needed".to_vec()),
        ("chat_template.jinja", b"not needed".to_vec()),
        ("original/model.safetensors", noise(4, 10)),
        ("metal/model.bin", noise(5, 10)),
    ]
}

struct World {
    hub: FakeHub,
    cache: TempDir,
}

impl World {
    fn new(files: &[(&str, Vec<u8>)], faults: Faults) -> Self {
        Self { hub: FakeHub::start(files, faults), cache: tempfile::tempdir().expect("a temporary folder") }
    }

    fn settings(&self) -> HubSettings {
        HubSettings {
            cache: self.cache.path().to_owned(),
            endpoint: self.hub.endpoint.clone(),
            token: None,
            offline: false,
            revision: "main".to_owned(),
            retry_pause: Duration::from_millis(1),
        }
    }

    fn find(&self) -> Result<ModelFiles, SourceError> {
        resolve(Some("20b"), &self.settings(), &mut |_| ())
    }

    fn repository(&self) -> std::path::PathBuf {
        self.cache.path().join("models--openai--gpt-oss-20b")
    }
}

fn directory(files: &ModelFiles) -> &Path {
    let ModelContent::Directory(path) = &files.content else { panic!("a hub's model lies in a directory") };
    path
}

/// Whether a file of the repository is one that serving needs.
fn needed(name: &str) -> bool {
    !name.contains('/') && (name.ends_with(".json") || name.ends_with(".safetensors"))
}

/// Every needed file is there with its bytes; nothing else is.
fn assert_whole(files: &ModelFiles) {
    let path = directory(files);
    for (name, bytes) in repository() {
        match fs::read(path.join(name)) {
            Ok(found) => assert!(needed(name) && found == bytes, "{name} has other bytes, or is not needed"),
            Err(_) => assert!(!needed(name), "{name} is missing"),
        }
    }
}

#[test]
fn a_model_is_downloaded_once_and_then_found() {
    let world = World::new(&repository(), Faults::default());
    let mut seen = Vec::new();
    let files = resolve(Some("20b"), &world.settings(), &mut |transfer| {
        assert!(transfer.model == "openai/gpt-oss-20b" && transfer.done_bytes <= transfer.total_bytes);
        seen.push((transfer.stage, transfer.done_bytes, transfer.total_bytes));
    })
    .expect("the hub has it");
    assert_eq!(
        (files.name.as_str(), files.model_id.as_str(), files.model_size.as_str()),
        ("openai/gpt-oss-20b", "gpt-oss-20b", "20b")
    );
    assert_whole(&files);
    assert!(directory(&files).ends_with(format!("snapshots/{COMMIT}")));
    assert_eq!(seen.last().map(|last| (last.0, last.1 == last.2)), Some((DownloadStage::Verify, true)), "the bar ends full");
    // The index came before the sum was known, and counts for nothing in it.
    let summed = |name: &str| needed(name) && !name.ends_with("index.json");
    let sum: usize = repository().iter().filter(|(name, _)| summed(name)).map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(seen.last().map(|last| last.2), Some(sum as u64));
    let requests = world.hub.requests();
    assert!(requests[0].starts_with("/api/models/openai/gpt-oss-20b/revision/main"));
    assert!(requests.iter().all(|path| !path.contains("README") && !path.contains("metal") && !path.contains("original")));
    assert!(requests.iter().filter(|path| path.contains("/resolve/")).all(|path| path.contains(COMMIT)), "one commit");

    assert_eq!(world.find().expect("it is there"), files);
    assert_eq!(world.hub.requests().len(), requests.len(), "a complete copy asks nobody");
    let offline = HubSettings { offline: true, endpoint: "http://127.0.0.1:1".to_owned(), ..world.settings() };
    assert_eq!(resolve(Some("openai/gpt-oss-20b"), &offline, &mut |_| ()).expect("it is there"), files);
}

#[test]
fn a_download_that_is_cut_off_goes_on_where_it_stopped() {
    let world = World::new(&repository(), Faults { cut: 12, ..Faults::default() });
    assert_whole(&world.find().expect("each attempt brings half of the rest"));
    let resumed = |path: &&String| path.contains(".safetensors") && !path.ends_with(" 0-") && path.contains(' ');
    assert!(world.hub.requests().iter().filter(resumed).count() >= 3, "{:?}", world.hub.requests());
}

#[test]
fn what_another_start_left_is_used() {
    let world = World::new(&repository(), Faults::default());
    let whole = world.find().expect("the hub has it");
    let shard = directory(&whole).join("model-00001-of-00001.safetensors");
    let blob = fs::canonicalize(&shard).expect("a link");
    fs::remove_file(&shard).expect("removed");

    // A part: the rest is asked for.
    let bytes = fs::read(&blob).expect("readable");
    fs::remove_file(&blob).expect("removed");
    fs::write(blob.with_extension("incomplete"), &bytes[..1234]).expect("written");
    assert_whole(&world.find().expect("the hub has the rest"));
    assert!(world.hub.requests().iter().any(|path| path.ends_with("model-00001-of-00001.safetensors 1234-")));

    // A part as long as the file (stopped between the last byte and the renaming), and one that is
    // longer.
    for part in [bytes.clone(), [bytes.as_slice(), b"more"].concat()] {
        fs::remove_file(&shard).expect("removed");
        fs::remove_file(&blob).expect("removed");
        fs::write(blob.with_extension("incomplete"), part).expect("written");
        assert_whole(&world.find().expect("it is fetched anew"));
    }
}

#[test]
fn wrong_bytes_are_thrown_away() {
    let world = World::new(&repository(), Faults { corrupt: 2, ..Faults::default() });
    assert_whole(&world.find().expect("the third attempt is right"));

    let world = World::new(&repository(), Faults { corrupt: usize::MAX, ..Faults::default() });
    let said = world.find().expect_err("no attempt is right").to_string();
    assert!(said.contains("has not the SHA-256"), "{said}");
    let kept: Vec<_> = fs::read_dir(world.repository().join("blobs")).expect("a folder").flatten().collect();
    assert!(kept.iter().all(|blob| blob.file_name().len() < 64 || blob.path().extension().is_some()), "{kept:?}");
    assert!(!world.repository().join("refs/main").exists(), "an incomplete copy is not called main");
}

#[test]
fn wrong_bytes_of_a_small_file_are_thrown_away_too() {
    let world = World::new(&repository(), Faults { corrupt_small: 2, ..Faults::default() });
    assert_whole(&world.find().expect("the third attempt is right"));
    let world = World::new(&repository(), Faults { corrupt_small: usize::MAX, ..Faults::default() });
    let said = world.find().expect_err("no attempt is right").to_string();
    assert!(said.contains("has not git's hash"), "{said}");
}

/// Files with weights whose headers say that they are empty of tensors.
fn headed() -> Vec<(&'static str, Vec<u8>)> {
    let header = |seed: u32, bytes: usize| [&(2_u64 + 6).to_le_bytes()[..], b"{}      ", &noise(seed, bytes)].concat();
    let mut files = repository();
    for (name, bytes) in &mut files {
        if name.ends_with(".safetensors") {
            *bytes = header(7, bytes.len());
        }
    }
    files
}

fn away(glance: Result<Glance, SourceError>) -> ModelHeads {
    match glance {
        Ok(Glance::Away(heads)) => heads,
        other => panic!("the hub alone has it: {other:?}"),
    }
}

#[test]
fn a_glance_reads_headers_and_stores_nothing() {
    for faults in [
        Faults::default(),
        Faults { bare_list: true, ..Faults::default() },
        Faults { no_ranges: true, ..Faults::default() },
        Faults { cut: 3, token: Some("hf_secret"), ..Faults::default() },
    ] {
        let world = World::new(&headed(), faults);
        let settings = HubSettings { token: faults.token.map(str::to_owned), ..world.settings() };
        let heads = away(glance(Some("20b"), &settings));
        assert_eq!(
            (heads.name.as_str(), heads.model_size.as_str(), heads.commit.as_str()),
            ("openai/gpt-oss-20b", "20b", COMMIT)
        );
        let names: Vec<&str> = heads.files.iter().map(|file| file.name.as_str()).collect();
        let index = "model.safetensors.index.json";
        let shards = ["model-00000-of-00001.safetensors", "model-00001-of-00001.safetensors"];
        assert_eq!(names, ["config.json", "generation_config.json", index, shards[0], shards[1]]);
        for head in &heads.files {
            let (_, bytes) = headed().into_iter().find(|(name, _)| *name == head.name).expect("of the repository");
            let kept = if head.name.ends_with(".safetensors") { 16 } else { bytes.len() };
            assert_eq!((head.file_bytes, &head.bytes[..]), (bytes.len() as u64, &bytes[..kept]), "{}", head.name);
        }
        let download = headed().into_iter().filter(|(name, _)| needed(name) && *name != "tokenizer_config.json");
        assert_eq!(heads.download_bytes, download.map(|(_, bytes)| bytes.len() as u64).sum::<u64>());
        // The tokens of an unlucky attempt count twice.
        assert!(world.hub.sent_bytes() < 2 * 500, "{} bytes were sent", world.hub.sent_bytes());
        assert!(world.hub.requests().iter().all(|path| !path.contains("/tokenizer") || path.ends_with("tokenizer.json")));
        assert_eq!(world.hub.leaked(), Vec::<String>::new());
        assert_eq!(fs::read_dir(world.cache.path()).expect("a folder").count(), 0, "nothing is stored");
    }
}

#[test]
fn a_glance_takes_what_is_here_and_refuses_what_is_no_checkpoint() {
    let world = World::new(&headed(), Faults::default());
    let found = world.find().expect("the hub has it");
    let offline = HubSettings { offline: true, ..world.settings() };
    assert!(matches!(glance(Some("20b"), &offline), Ok(Glance::Here(files)) if files == found));
    assert!(matches!(glance(None, &offline), Ok(Glance::Here(files)) if files.name == "tiny"));
    let said = glance(Some("org/other"), &offline).expect_err("it is not here").to_string();
    assert!(said.contains("config.json is missing"), "{said}");

    for absent in ["config.json", "tokenizer.json", "model-00001-of-00001.safetensors"] {
        let files: Vec<_> = headed().into_iter().filter(|(name, _)| *name != absent).collect();
        let world = World::new(&files, Faults::default());
        let said = glance(Some("20b"), &world.settings()).expect_err("not a checkpoint").to_string();
        assert!(said.contains(&format!("has no {absent}; expected a checkpoint")), "{said}");
    }
    // The first eight bytes of noise are a length that no file has.
    let world = World::new(&repository(), Faults::default());
    let said = glance(Some("20b"), &world.settings()).expect_err("no safetensors file").to_string();
    assert!(said.contains("it or its header has ") && said.contains("expected at most 299992"), "{said}");
    for (status, said) in [(401, "HF_TOKEN"), (404, "the name of a model that is there")] {
        let world = World::new(&headed(), Faults { status: Some(status), ..Faults::default() });
        let error = glance(Some("20b"), &world.settings()).expect_err("refused").to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn refusals_say_what_to_do() {
    for (status, advice) in [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "the name of a model that is there"), (429, "later")] {
        let world = World::new(&repository(), Faults { status: Some(status), ..Faults::default() });
        let said = world.find().expect_err("refused").to_string();
        let begin = format!("{} refuses openai/gpt-oss-20b with status {status}; ", world.hub.endpoint);
        assert!(said.starts_with(&begin) && said.contains(advice), "{said}");
    }
    let world = World::new(&repository(), Faults { status: Some(500), ..Faults::default() });
    let said = world.find().expect_err("refused").to_string();
    assert!(said.contains("status code 500") && !said.contains('\n'), "{said}");

    let nobody = HubSettings { endpoint: "http://127.0.0.1:1".to_owned(), ..world.settings() };
    let said = resolve(Some("20b"), &nobody, &mut |_| ()).expect_err("nobody listens").to_string();
    assert!(said.contains("downloading the list of files of openai/gpt-oss-20b from http://127.0.0.1:1 failed"), "{said}");
}

#[test]
fn a_token_opens_what_needs_one() {
    let world = World::new(&repository(), Faults { token: Some("hf_secret"), ..Faults::default() });
    assert!(world.find().is_err());
    let with_token = HubSettings { token: Some("hf_secret".to_owned()), ..world.settings() };
    assert_whole(&resolve(Some("20b"), &with_token, &mut |_| ()).expect("the token is right"));
}

#[test]
fn the_token_never_leaves_the_hub() {
    for bare_list in [false, true] {
        let faults = Faults { token: Some("hf_secret"), cut: 4, bare_list, ..Faults::default() };
        let world = World::new(&repository(), faults);
        let with_token = HubSettings { token: Some("hf_secret".to_owned()), ..world.settings() };
        assert_whole(&resolve(Some("20b"), &with_token, &mut |_| ()).expect("the token is right"));
        assert!(world.hub.requests().iter().any(|path| path.starts_with("/cdn/")), "large files come from elsewhere");
        assert_eq!(world.hub.leaked(), Vec::<String>::new());
    }
    // A mirror is the hub that was named; where it sends requests on is another.
    let world = World::new(&repository(), Faults { token: Some("hf_secret"), ..Faults::default() });
    let through = HubSettings { endpoint: world.hub.mirror.clone(), token: Some("hf_secret".to_owned()), ..world.settings() };
    let said = resolve(Some("20b"), &through, &mut |_| ()).expect_err("the token stays at the mirror").to_string();
    assert!(said.contains("status 401"), "{said}");
}

#[test]
fn mirrors_that_are_not_quite_a_hub_serve_too() {
    for faults in [
        Faults { no_ranges: true, ..Faults::default() },
        Faults { no_ranges: true, cut: 3, ..Faults::default() },
        Faults { bare_list: true, ..Faults::default() },
        Faults { bare_list: true, no_ranges: true, cut: 2, ..Faults::default() },
    ] {
        let world = World::new(&repository(), faults);
        assert_whole(&world.find().unwrap_or_else(|error| panic!("{faults:?}: {error}")));
        let world = World::new(&repository(), faults);
        let through = HubSettings { endpoint: world.hub.mirror.clone(), ..world.settings() };
        assert_whole(&resolve(Some("20b"), &through, &mut |_| ()).unwrap_or_else(|error| panic!("{faults:?}: {error}")));
    }
}

/// One byte is asked for to learn a file's length, and its own length is not the file's.
#[test]
fn a_hub_that_never_says_how_long_a_file_is_is_refused() {
    let world = World::new(&repository(), Faults { bare_list: true, hidden_total: true, ..Faults::default() });
    let said = world.find().expect_err("no length is known").to_string();
    assert!(said.contains("no ETag or no length"), "{said}");
    assert!(!world.repository().join("refs/main").exists(), "an incomplete copy is not called main");
}

#[test]
fn a_part_that_was_not_asked_for_is_not_taken() {
    let world = World::new(&repository(), Faults { cut: usize::MAX, shifted: true, ..Faults::default() });
    let said = world.find().expect_err("the rest never comes").to_string();
    assert!(said.contains("it sent another part than the one from byte "), "{said}");
    assert!(!world.repository().join("refs/main").exists(), "an incomplete copy is not called main");
}

#[test]
fn a_revision_is_what_was_asked_for() {
    let world = World::new(&repository(), Faults::default());
    let at = |revision: &str| HubSettings { revision: revision.to_owned(), ..world.settings() };
    for revision in ["v1.0", "refs/pr/7", COMMIT] {
        assert_whole(&resolve(Some("20b"), &at(revision), &mut |_| ()).expect("the hub has it"));
        let offline = HubSettings { offline: true, ..at(revision) };
        assert_whole(&resolve(Some("20b"), &offline, &mut |_| ()).expect("the cache has it"));
    }
    assert!(world.hub.requests().iter().any(|path| path.contains("/revision/refs%2Fpr%2F7?")));
    assert!(!world.repository().join("refs/main").exists(), "main was not asked for");
    let said =
        resolve(Some("20b"), &HubSettings { offline: true, ..at("main") }, &mut |_| ()).expect_err("unknown").to_string();
    assert!(said.contains("(refs/main is missing)"), "{said}");
    for odd in ["../../etc", "", ".hidden", "a b"] {
        let said = resolve(Some("20b"), &at(odd), &mut |_| ()).expect_err("no revision").to_string();
        assert!(said.contains("expected a branch, a tag or a commit"), "{said}");
    }
    let said = resolve(Some("tiny"), &at("v1.0"), &mut |_| ()).expect_err("tiny has none").to_string();
    assert!(said.starts_with("revision `v1.0`; expected none beside a model that is no repository"), "{said}");
}

#[test]
fn a_file_that_another_process_downloads_is_left_to_it() {
    let world = World::new(&repository(), Faults::default());
    let hash: String = Sha256::digest(noise(2, 300_000)).iter().map(|byte| format!("{byte:02x}")).collect();
    let locks = world.cache.path().join(".locks/models--openai--gpt-oss-20b");
    fs::create_dir_all(&locks).expect("made");
    let lock = fs::File::create(locks.join(format!("{hash}.lock"))).expect("made");
    lock.lock().expect("free");
    let said = world.find().expect_err("locked").to_string();
    assert!(said.contains("another process is downloading it"), "{said}");
    drop(lock);
    assert_whole(&world.find().expect("free again"));
}

#[test]
fn a_repository_that_is_no_checkpoint_is_refused_by_the_file_it_lacks() {
    for absent in ["config.json", "tokenizer.json", "model-00001-of-00001.safetensors"] {
        let files: Vec<_> = repository().into_iter().filter(|(name, _)| *name != absent).collect();
        let world = World::new(&files, Faults::default());
        let said = world.find().expect_err("not a checkpoint").to_string();
        assert!(said.contains(&format!("has no {absent}; expected a checkpoint")), "{said}");
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let world = World::new(&repository(), Faults::default());
    let settings = HubSettings { cache: world.cache.path().join("file"), ..world.settings() };
    fs::write(&settings.cache, "").expect("written");
    let said = resolve(Some("20b"), &settings, &mut |_| ()).expect_err("not a folder").to_string();
    assert!(said.contains("file/models--openai--gpt-oss-20b: Not a directory"), "{said}");
}

/// The shard's part is a device that is always full, so the system itself refuses the bytes.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_said_with_what_is_needed() {
    let world = World::new(&repository(), Faults::default());
    let (name, bytes) = ("model-00000-of-00001.safetensors", noise(2, 300_000));
    let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let blobs = world.repository().join("blobs");
    fs::create_dir_all(&blobs).expect("made");
    let part = blobs.join(format!("{hash}.incomplete"));
    std::os::unix::fs::symlink("/dev/full", &part).expect("linked");
    let said = world.find().expect_err("no room").to_string();
    // The index came before the sum was known.
    let summed = |name: &str| needed(name) && !name.ends_with("index.json");
    let total: usize = repository().iter().filter(|(name, _)| summed(name)).map(|(_, bytes)| bytes.len()).sum();
    let place = world.cache.path().display();
    assert!(
        said.starts_with(&format!("no space left in {place} while downloading {name}; expected {total} bytes for ")),
        "{said}"
    );
    assert!(!world.repository().join("refs/main").exists(), "an incomplete copy is not called main");
    // Once there is room again, what came before is used and the rest is fetched.
    fs::remove_file(part).expect("removed");
    assert_whole(&world.find().expect("there is room"));
}
