//! A checkpoint of any shape with random weights, to measure with.
//!
//! Promises: the same shape gives the same bytes; a shard is there whole or not at all, so that
//! what was cut off goes on with the next shard; the index comes last. Absent on purpose: meaning.
//! Such a model says nothing.

use super::error::CheckpointError;
use super::files::CheckpointFiles;
use super::header::read_header;
use super::layout::{EMBEDDING, Expected, ExpertForm, TensorForm, expected_tensors};
use super::shards::INDEX_FILE;
use super::{Dtype, LoadProgress};
use crate::engine::config::ModelConfig;
use antiphon_kernels::weights::MXFP4_BLOCK;
use half::bf16;
use rand::rngs::SmallRng;
use rand::{RngCore as _, SeedableRng as _};
use safetensors::SafeTensorError;
use safetensors::tensor::{View, serialize_to_file};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

/// Most bytes of a shard, as Hugging Face cuts them.
pub const SHARD_BYTES_MAX: u64 = 5_000_000_000;

/// Which tensors of a model go into which file.
#[derive(Debug)]
pub struct Synth {
    shards: Vec<(String, Vec<Expected>)>,
}

/// Why there is no such checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SynthError {
    /// What is there cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The disk is too small.
    #[error("the disk has {free_bytes} bytes free, expected {needed_bytes} for the shards that are not there yet")]
    DiskTooSmall {
        /// What is missing.
        needed_bytes: u64,
        /// What there is.
        free_bytes: u64,
    },
    /// A file cannot be written.
    #[error("{file}: {source}")]
    Io {
        /// The file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Expected {
    fn dtype(&self) -> Dtype {
        if self.kind == TensorForm::Bytes { Dtype::U8 } else { Dtype::BF16 }
    }

    fn bytes(&self) -> u64 {
        (self.shape.iter().product::<usize>() * self.dtype().bitsize() / 8) as u64
    }
}

fn bytes_of(tensors: &[Expected]) -> u64 {
    tensors.iter().map(Expected::bytes).sum()
}

impl Synth {
    /// Cuts the tensors of a model into shards of at most `shard_bytes_max`, or of one tensor.
    ///
    /// # Errors
    /// [`CheckpointError`] if `config` is not that of a GPT-OSS model.
    pub fn new(config: &[u8], shard_bytes_max: u64) -> Result<Self, CheckpointError> {
        let mut shards: Vec<Vec<Expected>> = vec![Vec::new()];
        for tensor in expected_tensors(&ModelConfig::parse(config)?, ExpertForm::Mxfp4) {
            if shards.last().is_some_and(|last| !last.is_empty() && bytes_of(last) + tensor.bytes() > shard_bytes_max) {
                shards.push(Vec::new());
            }
            shards.last_mut().expect("there is one from the beginning").push(tensor);
        }
        let count = shards.len();
        let name = |index: usize| format!("model-{:05}-of-{count:05}.safetensors", index + 1);
        Ok(Self { shards: shards.into_iter().enumerate().map(|(index, tensors)| (name(index), tensors)).collect() })
    }

    /// Bytes of all tensors.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(|(_, tensors)| bytes_of(tensors)).sum()
    }

    /// Writes the shards that `directory` lacks, and the index. `progress` is told of every tensor.
    ///
    /// # Errors
    /// [`SynthError`]; shards that are whole stay, and the next call goes on behind them.
    pub fn write(&self, directory: &Path, progress: &mut dyn FnMut(LoadProgress)) -> Result<(), SynthError> {
        let mut missing = Vec::new();
        for (file, tensors) in &self.shards {
            // What was cut off is of no use, and its room is needed.
            let _ = fs::remove_file(directory.join(partial(file)));
            if !is_whole(directory, file, tensors)? {
                missing.push((file, tensors));
            }
        }
        let needed_bytes = missing.iter().map(|(_, tensors)| bytes_of(tensors)).sum();
        let failed = |file: &str, source| SynthError::Io { file: directory.join(file).display().to_string(), source };
        let disk = rustix::fs::statvfs(directory).map_err(|error| failed("", error.into()))?;
        let free_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
        if needed_bytes > free_bytes {
            return Err(SynthError::DiskTooSmall { needed_bytes, free_bytes });
        }
        let done = LoadProgress { done_bytes: self.bytes() - needed_bytes, total_bytes: self.bytes() };
        let done = RefCell::new((done, progress));
        for (file, tensors) in missing {
            let part = directory.join(partial(file));
            let views = tensors.iter().map(|tensor| (tensor.name.as_str(), Random { tensor, done: &done }));
            serialize_to_file(views, None, &part).map_err(|error| match error {
                SafeTensorError::IoError(source) => failed(file, source),
                other => failed(file, io::Error::other(other.to_string())),
            })?;
            fs::rename(&part, directory.join(file)).map_err(|source| failed(file, source))?;
        }
        let homes = self.shards.iter().flat_map(|(file, tensors)| tensors.iter().map(move |tensor| (&tensor.name, file)));
        let weight_map: BTreeMap<_, _> = homes.collect();
        let index = serde_json::json!({ "metadata": { "total_size": self.bytes() }, "weight_map": weight_map });
        fs::write(directory.join(INDEX_FILE), format!("{index:#}\n")).map_err(|source| failed(INDEX_FILE, source))
    }
}

/// What a shard is called while it is written.
fn partial(file: &str) -> String {
    format!("{file}.partial")
}

/// Whether `file` is there with exactly these tensors.
fn is_whole(directory: &Path, file: &str, tensors: &[Expected]) -> Result<bool, CheckpointError> {
    let Some(bytes) = CheckpointFiles::directory(directory)?.bytes(file)? else { return Ok(false) };
    let entries = read_header(file, &bytes, bytes.file_bytes())?.entries;
    let has = |tensor: &Expected| {
        entries.iter().any(|entry| {
            let stored = &entry.tensor;
            entry.name == tensor.name && stored.dtype == tensor.dtype() && stored.shape == tensor.shape
        })
    };
    if entries.len() == tensors.len() && tensors.iter().all(has) {
        return Ok(true);
    }
    let problem = "it holds other tensors, expected a directory without a checkpoint of another shape".to_owned();
    Err(CheckpointError::FileRefused { file: file.to_owned(), problem })
}

/// A tensor that is made when it is written.
struct Random<'a, 'b> {
    tensor: &'a Expected,
    done: &'a RefCell<(LoadProgress, &'b mut dyn FnMut(LoadProgress))>,
}

impl View for Random<'_, '_> {
    fn dtype(&self) -> Dtype {
        self.tensor.dtype()
    }

    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let values = values(self.tensor);
        let (done, progress) = &mut *self.done.borrow_mut();
        done.done_bytes += values.len() as u64;
        progress(*done);
        values.into()
    }

    fn data_len(&self) -> usize {
        usize::try_from(self.tensor.bytes()).expect("a tensor fits the memory")
    }
}

/// Random values of a size that keeps activations near one: a row of a matrix has length one.
fn values(tensor: &Expected) -> Vec<u8> {
    // The root mean square of E2M1's sixteen values.
    const CODES_RMS: f64 = 2.93;
    let seed = tensor.name.bytes().fold(0_u64, |seed, byte| seed.wrapping_mul(0x100_0000_01b3) ^ u64::from(byte));
    let mut rng = SmallRng::seed_from_u64(seed);
    let last = *tensor.shape.last().expect("no tensor is a scalar") as f64;
    let mut bytes = vec![0; usize::try_from(tensor.bytes()).expect("a tensor fits the memory")];
    rng.fill_bytes(&mut bytes);
    if tensor.name.ends_with("_scales") {
        let usual = 127 - (CODES_RMS * (last * MXFP4_BLOCK as f64).sqrt()).log2().round() as u8;
        bytes.iter_mut().for_each(|scale| *scale = usual - 1 + *scale % 3);
    }
    if tensor.kind == TensorForm::Bytes {
        return bytes;
    }
    let (middle, reach) = match tensor.name.as_str() {
        name if name.ends_with("norm.weight") => (1.0, 0.1),
        name if name.ends_with("bias") => (0.0, 0.1),
        EMBEDDING => (0.0, 1.7),
        _ if tensor.shape.len() == 1 => (0.0, 1.0),
        _ => (0.0, (3.0 / last).sqrt() as f32),
    };
    for value in bytes.as_chunks_mut::<2>().0 {
        let random = f32::from(i16::from_le_bytes(*value)) / 32768.0;
        *value = bf16::from_f32(middle + reach * random).to_le_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::Checkpoint;
    use super::*;

    #[test]
    fn a_cut_checkpoint_is_completed_with_the_same_bytes() {
        let config = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/g2/config.json")).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        fs::write(directory.join("config.json"), &config).unwrap();
        let synth = Synth::new(&config, 100_000).unwrap();
        assert!(synth.shards.len() > 2, "{:?}", synth.shards);
        let mut told = Vec::new();
        synth.write(directory, &mut |progress| told.push(progress.done_bytes)).unwrap();
        assert!(told.is_sorted() && told.last() == Some(&synth.bytes()), "{told:?}");
        let checkpoint = Checkpoint::open(&CheckpointFiles::directory(directory).unwrap()).unwrap();
        assert_eq!(checkpoint.tensor_bytes(), synth.bytes());
        let norm = checkpoint.vector(super::super::FINAL_NORM);
        assert!(norm.iter().all(|value| (0.89..=1.11).contains(value)), "{norm:?}");

        // The second shard was cut off: it is made anew, and no other.
        let name = directory.join(&synth.shards[1].0);
        let (whole, first) = (fs::read(&name).unwrap(), fs::metadata(directory.join(&synth.shards[0].0)).unwrap());
        fs::remove_file(&name).unwrap();
        fs::write(directory.join(partial(&synth.shards[1].0)), &whole[..1000]).unwrap();
        let mut told = Vec::new();
        synth.write(directory, &mut |progress| told.push(progress.done_bytes)).unwrap();
        assert_eq!(told.len(), synth.shards[1].1.len());
        assert!(fs::read(&name).unwrap() == whole, "the same bytes");
        let again = fs::metadata(directory.join(&synth.shards[0].0)).unwrap();
        assert_eq!(again.modified().unwrap(), first.modified().unwrap());
        assert!(!directory.join(partial(&synth.shards[1].0)).exists());
    }

    #[test]
    fn another_model_and_a_small_disk_are_refused() {
        let config = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/g2/config.json")).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let of = |vocab: u64, hidden: u64| {
            let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
            (config["vocab_size"], config["hidden_size"]) = (vocab.into(), hidden.into());
            Synth::new(config.to_string().as_bytes(), u64::MAX).unwrap()
        };
        of(440, 96).write(directory.path(), &mut |_| {}).unwrap();
        let refusal = of(450, 96).write(directory.path(), &mut |_| {}).unwrap_err().to_string();
        assert!(refusal.contains("expected a directory without a checkpoint of another shape"), "{refusal}");

        let empty = tempfile::tempdir().unwrap();
        // 70 TB.
        let refusal = of(1 << 24, 1 << 20).write(empty.path(), &mut |_| {}).unwrap_err().to_string();
        assert!(refusal.contains("bytes free, expected "), "{refusal}");
        assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
    }
}
