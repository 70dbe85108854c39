//! Where a model's tensors lie, and that they are what its config says.
//!
//! Owns: the mapped shards. Promises: every tensor that the model needs is there once, in the type
//! and shape that the config asks for, and lies within its file; embedded and on-disk checkpoints
//! take the same path; nothing is copied here. Absent on purpose: arithmetic, the tokenizer,
//! downloads.

mod error;
mod files;
mod fingerprint;
mod header;
mod layout;
mod shards;
mod synth;

pub use error::CheckpointError;
pub use files::{CheckpointFiles, FileBytes, FileHead, LinkPolicy};
pub use fingerprint::Fingerprint;
pub use layout::ExpertForm;
pub(crate) use layout::{EMBEDDING, FINAL_NORM, OUTPUT, in_layer};
pub use synth::{SHARD_BYTES_MAX, Synth, SynthError};

use super::config::{CONFIG_FILE, GENERATION_FILE, ModelConfig, SamplingDefaults};
use crate::batch::TokenId;
use files::only_a_head;
use half::slice::HalfFloatSliceExt as _;
use half::{bf16, f16};
use layout::{Expected, TensorForm, expected_tensors};
use safetensors::tensor::{Dtype, TensorInfo};
use shards::{Shards, Stored};
use std::collections::HashMap;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

/// What a checkpoint is, as its config and its shards' headers say: enough to plan an engine's
/// memory.
#[derive(Debug)]
pub struct Outline {
    config: ModelConfig,
    sampling: SamplingDefaults,
    form: ExpertForm,
    tensors: HashMap<String, Stored>,
    warnings: Vec<String>,
}

/// A checked checkpoint: its outline and its tensors' bytes.
#[derive(Debug)]
pub struct Checkpoint {
    outline: Outline,
    files: Vec<(String, FileBytes)>,
    directory: Option<PathBuf>,
}

impl Deref for Checkpoint {
    type Target = Outline;

    fn deref(&self) -> &Outline {
        &self.outline
    }
}

/// How much of a checkpoint has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadProgress {
    /// Bytes that have been read.
    pub done_bytes: u64,
    /// Bytes that there are to read.
    pub total_bytes: u64,
}

/// What a shard's header says of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry<'a> {
    /// Its name.
    pub name: &'a str,
    /// The shard.
    pub file: &'a str,
    /// Its type, as the header names it.
    pub dtype: String,
    /// Its shape.
    pub shape: &'a [usize],
    /// Its size.
    pub bytes: usize,
}

/// The bytes of one tensor, where they lie; cheap to clone.
#[derive(Debug, Clone)]
pub struct TensorBytes {
    bytes: FileBytes,
    range: Range<usize>,
}

impl Deref for TensorBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.range.clone()]
    }
}

impl TensorBytes {
    /// Lets the system take back the memory of a tensor that was copied; a read still finds it on
    /// disk.
    pub(crate) fn release(&self) {
        if let FileBytes::Mapped(file) = &self.bytes {
            file.release(self.range.clone());
        }
    }
}

impl Outline {
    /// Reads config.json, generation_config.json and the shards' headers, and checks all of them
    /// against each other.
    ///
    /// # Errors
    /// [`CheckpointError`] for whatever keeps the checkpoint from being served.
    pub fn read(files: &CheckpointFiles) -> Result<Self, CheckpointError> {
        Self::with_files(files).map(|(outline, _)| outline)
    }

    fn with_files(files: &CheckpointFiles) -> Result<(Self, Vec<(String, FileBytes)>), CheckpointError> {
        let text = files.text(CONFIG_FILE)?.ok_or_else(|| CheckpointError::FileMissing {
            file: CONFIG_FILE.to_owned(),
            expected: "the config of a GPT-OSS model".to_owned(),
        })?;
        let config = ModelConfig::parse(&text)?;
        let sampling = match files.text(GENERATION_FILE)? {
            Some(text) => SamplingDefaults::parse(&text, config.vocab_size)?,
            None => SamplingDefaults::default(),
        };
        if config.eos_tokens.is_empty() && sampling.eos_tokens.is_empty() {
            return Err(CheckpointError::KeyMissing {
                file: CONFIG_FILE.to_owned(),
                key: "eos_token_id".to_owned(),
                expected: format!("a token id there or in {GENERATION_FILE}"),
            });
        }
        let shards = Shards::open(files)?;
        let form = expert_form(&shards);
        let expected = expected_tensors(&config, form);
        check_tensors(&shards, &expected)?;
        let mut warnings = extra_tensors(&shards, &expected);
        warnings.extend(rounded_tensors(&shards, &expected));
        Ok((Self { config, sampling, form, tensors: shards.tensors, warnings }, shards.files))
    }

    /// The shape of the model.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What generation_config.json says of sampling.
    #[must_use]
    pub fn sampling_defaults(&self) -> &SamplingDefaults {
        &self.sampling
    }

    /// Tokens that end a sequence: those of generation_config.json, then those that only
    /// config.json has.
    #[must_use]
    pub fn eos_tokens(&self) -> Vec<TokenId> {
        let mut tokens = self.sampling.eos_tokens.clone();
        tokens.extend(self.config.eos_tokens.iter().filter(|token| !self.sampling.eos_tokens.contains(token)));
        tokens
    }

    /// What is odd but does no harm, one sentence each, for the operator.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Bytes of all tensors that the model needs, as they lie in the files.
    #[must_use]
    pub fn tensor_bytes(&self) -> u64 {
        let bytes = |expected: Expected| self.tensors.get(&expected.name).map_or(0, |stored| stored.range.len() as u64);
        expected_tensors(&self.config, self.form).into_iter().map(bytes).sum()
    }

    /// Every tensor that the shards hold, by name.
    #[must_use]
    pub fn tensors(&self) -> Vec<TensorEntry<'_>> {
        let mut found: Vec<(&String, &Stored)> = self.tensors.iter().collect();
        found.sort_unstable_by_key(|(name, _)| *name);
        let entries = found.into_iter().map(|(name, stored)| TensorEntry {
            name,
            file: &stored.file,
            dtype: stored.tensor.dtype.to_string(),
            shape: &stored.tensor.shape,
            bytes: stored.range.len(),
        });
        entries.collect()
    }

    /// How the experts' matrices are stored.
    #[must_use]
    pub fn expert_form(&self) -> ExpertForm {
        self.form
    }

    /// Whether a tensor's bytes are taken where they lie in the file; others are converted, which
    /// takes memory.
    pub(crate) fn is_in_place(&self, name: &str) -> bool {
        matches!(self.stored(name).tensor.dtype, Dtype::BF16 | Dtype::U8)
    }

    fn stored(&self, name: &str) -> &Stored {
        let stored = self.tensors.get(name);
        stored.unwrap_or_else(|| panic!("`{name}` is not a tensor of this model: the layout and its reader disagree"))
    }
}

impl Checkpoint {
    /// Reads the outline and maps the shards. Touches headers only, so it takes milliseconds
    /// whatever the size of the model.
    ///
    /// # Errors
    /// [`CheckpointError`] for whatever keeps the checkpoint from being served.
    pub fn open(files: &CheckpointFiles) -> Result<Self, CheckpointError> {
        let directory = files.root().map(Path::to_owned);
        let (outline, files) = Outline::with_files(files)?;
        match files.iter().find(|(_, bytes)| matches!(bytes, FileBytes::Head(_))) {
            Some((file, _)) => Err(only_a_head(file)),
            None => Ok(Self { outline, files, directory }),
        }
    }

    /// The folder that its files were found in; `None` if it is in the binary.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// A matrix in bf16, or the bytes of MXFP4: what [`Self::open`] has checked, where it lies. F16
    /// and F32 are rounded to bf16, the nearest value, ties to even; the file's pages are given
    /// back.
    ///
    /// # Panics
    /// If the model has no tensor of this name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> TensorBytes {
        let raw = self.raw(name);
        if self.is_in_place(name) {
            return raw;
        }
        let values = to_f32(self.stored(name).tensor.dtype, &raw);
        let rounded: Vec<u8> = values.into_iter().flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect();
        raw.release();
        TensorBytes { range: 0..rounded.len(), bytes: FileBytes::Converted(rounded.into()) }
    }

    /// The bytes of a tensor as the file has them.
    fn raw(&self, name: &str) -> TensorBytes {
        let stored = self.stored(name);
        TensorBytes { bytes: stored.bytes.clone(), range: stored.range.clone() }
    }

    /// A vector, converted to f32.
    ///
    /// # Panics
    /// If the model has no tensor of this name.
    #[must_use]
    pub fn vector(&self, name: &str) -> Vec<f32> {
        let stored = self.stored(name);
        to_f32(stored.tensor.dtype, &stored.bytes[stored.range.clone()])
    }

    /// Checks that no shard was written to since it was opened.
    ///
    /// # Errors
    /// [`CheckpointError::Unmappable`] names the shard that has changed.
    pub fn check_unchanged(&self) -> Result<(), CheckpointError> {
        for (file, bytes) in &self.files {
            if let FileBytes::Mapped(mapped) = bytes {
                let checked = mapped.check_unchanged();
                checked.map_err(|source| CheckpointError::Unmappable { file: file.clone(), source })?;
            }
        }
        Ok(())
    }
}

/// Floats of a stored type as f32, exactly.
fn to_f32(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    let pairs = || bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    match dtype {
        Dtype::BF16 => pairs().map(bf16::from_bits).collect::<Vec<_>>().to_f32_vec(),
        Dtype::F16 => pairs().map(f16::from_bits).collect::<Vec<_>>().to_f32_vec(),
        Dtype::F32 => bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect(),
        other => panic!("{other} is no float that the layout accepts"),
    }
}

/// Each expected tensor must be there, in its type and shape.
fn check_tensors(shards: &Shards, expected: &[Expected]) -> Result<(), CheckpointError> {
    let missing: Vec<&Expected> = expected.iter().filter(|tensor| !shards.tensors.contains_key(&tensor.name)).collect();
    if let Some(first) = missing.first() {
        return Err(CheckpointError::TensorMissing {
            file: shards.home_of(&first.name).to_owned(),
            tensor: first.name.clone(),
            expected: format!("{} {:?}{}", first.kind.name(), first.shape, shards.stray_index()),
            missing: missing.len(),
        });
    }
    for tensor in expected {
        let stored = &shards.tensors[&tensor.name];
        let TensorInfo { dtype, shape, .. } = &stored.tensor;
        if *shape != tensor.shape || !tensor.kind.accepts(*dtype) {
            return Err(CheckpointError::Tensor {
                file: stored.file.clone(),
                tensor: tensor.name.clone(),
                found: format!("{dtype} {shape:?}"),
                expected: format!("{} {:?}", tensor.kind.name(), tensor.shape),
            });
        }
    }
    Ok(())
}

/// A checkpoint without quantised experts has the matrix of layer 0 under the name without
/// `_blocks`.
fn expert_form(shards: &Shards) -> ExpertForm {
    let has = |rest: &str| shards.tensors.contains_key(&in_layer(0, &format!("mlp.experts.gate_up_proj{rest}")));
    if has("") && !has("_blocks") { ExpertForm::Dense } else { ExpertForm::Mxfp4 }
}

/// A sentence about the matrices that are rounded to bf16, if there are any.
fn rounded_tensors(shards: &Shards, expected: &[Expected]) -> Option<String> {
    let is_rounded = |tensor: &&Expected| {
        tensor.kind == TensorForm::Matrix && matches!(shards.tensors[&tensor.name].tensor.dtype, Dtype::F16 | Dtype::F32)
    };
    let count = expected.iter().filter(is_rounded).count();
    let first = expected.iter().find(is_rounded)?;
    let dtype = shards.tensors[&first.name].tensor.dtype;
    Some(format!("{count} matrices are not BF16 and are rounded to it, the first `{}`, which is {dtype}", first.name))
}

/// A sentence about the tensors that no model of this shape uses, if there are any.
fn extra_tensors(shards: &Shards, expected: &[Expected]) -> Vec<String> {
    let needed: std::collections::HashSet<&str> = expected.iter().map(|tensor| tensor.name.as_str()).collect();
    let extra = shards.tensors.iter().filter(|(name, _)| !needed.contains(name.as_str()));
    let Some((name, stored)) = extra.clone().min_by_key(|(name, _)| name.as_str()) else { return Vec::new() };
    let more = match extra.count() {
        1 => String::new(),
        count => format!(", and {} more", count - 1),
    };
    vec![format!("{}: tensor `{name}` is not one of a GPT-OSS model of this shape and is not used{more}", stored.file)]
}

#[cfg(test)]
mod tests;
