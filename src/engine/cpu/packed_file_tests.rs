use super::super::tests::{OPTIONS, batch_of};
use super::super::{CpuEngine, CpuOptions};
use super::*;
use crate::batch::Sampling;
use crate::engine::Engine as _;
use crate::engine::checkpoint::CheckpointFiles;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use tempfile::TempDir;

/// A folder with a small checkpoint.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/g2");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(golden.join(file), folder.path().join(file)).unwrap();
    }
    folder
}

fn load(folder: &TempDir, dense: Format, keep_packed: bool) -> CpuEngine {
    let files = CheckpointFiles::directory(folder.path()).unwrap();
    let options = CpuOptions { dense, keep_packed, threads: 2, ..OPTIONS };
    CpuEngine::load(Arc::new(Checkpoint::open(&files).unwrap()), &options, &mut |_| {})
}

/// The bits of every logit of a prompt, and whether weights are mapped.
fn answer(mut engine: CpuEngine) -> (Vec<u32>, bool) {
    let mut bits = Vec::new();
    let logits = &mut |_, logits: &[f32]| bits.extend(logits.iter().map(|logit| logit.to_bits()));
    engine.inspect(&batch_of(&[1, 2, 3], Sampling::default()), &mut |_, _| {}, logits);
    (bits, engine.weights.file.is_some())
}

fn names(folder: &TempDir) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_second_start_maps_what_the_first_one_packed() {
    let folder = folder();
    for dense in Format::DENSE {
        let _ = fs::remove_file(folder.path().join(FILE));
        let (expected, _) = answer(load(&folder, dense, false));
        assert!(!folder.path().join(FILE).exists(), "nothing was asked for");
        assert_eq!(answer(load(&folder, dense, true)), (expected.clone(), false));
        assert_eq!(names(&folder), [FILE, "config.json", "model.safetensors"]);
        assert_eq!(answer(load(&folder, dense, true)), (expected.clone(), true));
        assert_eq!(answer(load(&folder, dense, false)), (expected, false));
    }
    assert_eq!(names(&folder), [FILE, "config.json", "model.safetensors"], "nothing was moved aside");
}

/// Whatever lies under the name: the answers are right, what was there is moved aside, and the file
/// that is written instead serves the next start.
#[test]
fn a_file_that_is_damaged_or_of_something_else_is_moved_aside() {
    let folder = folder();
    let path = folder.path().join(FILE);
    let (expected, _) = answer(load(&folder, Format::Bf16, true));
    let bytes = fs::metadata(&path).unwrap().len();
    let flip = |at: u64| {
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    };
    let damages: [&dyn Fn(); 9] = [
        // The magic, the key, the length, the checksum, the first and a later weight, the sums.
        &|| flip(3),
        &|| flip(20),
        &|| flip(50),
        &|| flip(60),
        &|| flip(4096),
        &|| flip(bytes / 2),
        &|| flip(bytes - 1),
        &|| OpenOptions::new().write(true).open(&path).unwrap().set_len(bytes - 8).unwrap(),
        &|| fs::write(&path, b"").unwrap(),
    ];
    for (index, damage) in damages.into_iter().enumerate() {
        damage();
        let _ = fs::remove_file(folder.path().join(ASIDE));
        assert_eq!(answer(load(&folder, Format::Bf16, true)), (expected.clone(), false), "damage {index}");
        assert_eq!(names(&folder), [FILE, ASIDE, "config.json", "model.safetensors"], "damage {index}");
        assert_eq!(answer(load(&folder, Format::Bf16, true)), (expected.clone(), true), "damage {index}");
    }
    // In another form.
    fs::remove_file(folder.path().join(ASIDE)).unwrap();
    let (rounded, _) = answer(load(&folder, Format::Int8, false));
    assert_eq!(answer(load(&folder, Format::Int8, true)), (rounded, false));
    assert!(folder.path().join(ASIDE).exists());
    // A link leads elsewhere.
    fs::rename(&path, folder.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", &path).unwrap();
    assert_eq!(answer(load(&folder, Format::Bf16, true)), (expected, false));
}

/// One number of the checkpoint is another, and its time of modification what it was.
#[test]
fn a_checkpoint_that_changed_is_another_one() {
    let folder = folder();
    let (before, _) = answer(load(&folder, Format::Bf16, true));
    let shard = OpenOptions::new().read(true).write(true).open(folder.path().join("model.safetensors")).unwrap();
    let metadata = shard.metadata().unwrap();
    let mut all = vec![0; usize::try_from(metadata.len()).unwrap()];
    shard.read_exact_at(&mut all, 0).unwrap();
    let changed: Vec<u8> = all.iter().rev().take(2000).map(|byte| byte ^ 1).rev().collect();
    shard.write_all_at(&changed, metadata.len() - 2000).unwrap();
    shard.set_modified(metadata.modified().unwrap()).unwrap();
    let (expected, _) = answer(load(&folder, Format::Bf16, false));
    assert_ne!(before, expected);
    assert_eq!(answer(load(&folder, Format::Bf16, true)), (expected, false));
    assert!(folder.path().join(ASIDE).exists());
}

#[test]
fn a_file_that_is_cut_while_it_serves_fails_the_step() {
    let folder = folder();
    drop(load(&folder, Format::Bf16, true));
    let mut engine = load(&folder, Format::Bf16, true);
    let batch = batch_of(&[1, 2, 3], Sampling::default());
    engine.execute(&batch, &mut Vec::new()).unwrap();
    OpenOptions::new().write(true).open(folder.path().join(FILE)).unwrap().set_len(8192).unwrap();
    let message = engine.execute(&batch, &mut Vec::new()).unwrap_err().to_string();
    assert!(message.contains(FILE) && message.contains("has changed"), "{message}");
}

#[test]
fn a_folder_that_takes_no_file_does_no_harm() {
    let folder = folder();
    let (expected, _) = answer(load(&folder, Format::Bf16, false));
    // A folder of the name cannot be replaced by a file; it is moved aside itself.
    fs::create_dir(folder.path().join(FILE)).unwrap();
    fs::create_dir(folder.path().join(ASIDE)).unwrap();
    fs::write(folder.path().join(ASIDE).join("full"), b"").unwrap();
    assert_eq!(answer(load(&folder, Format::Bf16, true)), (expected, false));
    assert_eq!(names(&folder), [FILE, ASIDE, "config.json", "model.safetensors"], "no part of a file is left");
}

#[test]
fn a_checksum_sees_every_place() {
    let bytes: Vec<u8> = (0..300u16).map(|at| (at * 7) as u8).collect();
    let expected = checksum(&bytes);
    for at in 0..bytes.len() {
        let mut other = bytes.clone();
        other[at] ^= 1;
        assert_ne!(checksum(&other), expected, "byte {at}");
    }
    assert_ne!(checksum(&bytes[..299]), expected);
    assert_ne!(checksum(&[0; 64]), checksum(&[0; 128]));
}
