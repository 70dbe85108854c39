//! Which file each tensor lies in: one `model.safetensors`, or shards that an index names.

use super::error::CheckpointError;
use super::files::{CheckpointFiles, FileBytes, is_plain_name};
use super::header::read_header;
use safetensors::tensor::TensorInfo;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// Name of the file of a checkpoint that is not split.
pub(super) const SINGLE_FILE: &str = "model.safetensors";
/// Name of the file that says which tensor lies in which shard.
pub(super) const INDEX_FILE: &str = "model.safetensors.index.json";

/// A tensor as a shard has it.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    /// The shard's name.
    pub(super) file: String,
    /// Its type and shape.
    pub(super) tensor: TensorInfo,
    /// The shard.
    pub(super) bytes: FileBytes,
    /// Where the tensor lies in the shard.
    pub(super) range: Range<usize>,
}

/// All tensors of a checkpoint.
#[derive(Debug)]
pub(super) struct Shards {
    /// The tensors by name.
    pub(super) tensors: HashMap<String, Stored>,
    /// The shards.
    pub(super) files: Vec<(String, FileBytes)>,
    /// Which shard the index names for each tensor; empty for a single file.
    pub(super) index: BTreeMap<String, String>,
    /// An index lies beside the single file, which goes before it.
    beside_index: bool,
}

impl Shards {
    /// Opens the single file, or the index and all its shards, and reads their headers.
    pub(super) fn open(files: &CheckpointFiles) -> Result<Self, CheckpointError> {
        let mut shards = Self { tensors: HashMap::new(), files: Vec::new(), index: BTreeMap::new(), beside_index: false };
        // The single file goes first, as in transformers.
        if let Some(bytes) = files.bytes(SINGLE_FILE)? {
            shards.add(SINGLE_FILE, &bytes)?;
            // It only explains a tensor that is missing, so that one which cannot be opened does no
            // harm.
            shards.beside_index = matches!(files.bytes(INDEX_FILE), Ok(Some(_)));
            return Ok(shards);
        }
        let Some(text) = files.text(INDEX_FILE)? else {
            let expected = format!("it or {INDEX_FILE}");
            return Err(CheckpointError::FileMissing { file: SINGLE_FILE.to_owned(), expected });
        };
        shards.index = parse_index(&text)?;
        for (shard, bytes) in open_shards(files, &shards.index)? {
            shards.add(&shard, &bytes)?;
        }
        Ok(shards)
    }

    /// The file to name for a tensor that is not there.
    pub(super) fn home_of(&self, tensor: &str) -> &str {
        match self.index.get(tensor) {
            Some(shard) => shard,
            None if self.index.is_empty() => SINGLE_FILE,
            None => INDEX_FILE,
        }
    }

    /// What to say behind a tensor that the single file lacks, if an index lies beside it: one of
    /// the two is stray.
    pub(super) fn stray_index(&self) -> &'static str {
        if self.beside_index {
            " in it, which goes before the model.safetensors.index.json beside it: remove the one that is stray"
        } else {
            ""
        }
    }

    fn add(&mut self, file: &str, bytes: &FileBytes) -> Result<(), CheckpointError> {
        let header = read_header(file, bytes, bytes.file_bytes())?;
        self.files.push((file.to_owned(), bytes.clone()));
        for entry in header.entries {
            let (start, end) = entry.tensor.data_offsets;
            let range = header.data_start + start..header.data_start + end;
            if let Some(shard) = self.index.get(&entry.name).filter(|shard| *shard != file) {
                return Err(CheckpointError::Shard {
                    file: INDEX_FILE.to_owned(),
                    problem: format!("but it lies in `{file}`, expected it in one of them, as the index says"),
                    tensor: entry.name,
                    shard: shard.clone(),
                });
            }
            let stored = Stored { file: file.to_owned(), tensor: entry.tensor, bytes: bytes.clone(), range };
            if let Some(other) = self.tensors.insert(entry.name.clone(), stored) {
                return Err(CheckpointError::TensorTwice { file: file.to_owned(), tensor: entry.name, other: other.file });
            }
        }
        Ok(())
    }
}

/// Opens every shard that the index names, before any header is read: a missing shard explains what
/// its tensors do not.
fn open_shards(
    files: &CheckpointFiles,
    index: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, FileBytes>, CheckpointError> {
    let mut shards = BTreeMap::new();
    for (tensor, shard) in index {
        if shards.contains_key(shard) {
            continue;
        }
        let refused = |problem: &str| CheckpointError::Shard {
            file: INDEX_FILE.to_owned(),
            tensor: tensor.clone(),
            shard: shard.clone(),
            problem: problem.to_owned(),
        };
        if !is_plain_name(shard) {
            return Err(refused("expected the plain name of a file beside the index"));
        }
        let bytes = files.bytes(shard)?.ok_or_else(|| refused("the file is missing, expected it beside the index"))?;
        shards.insert(shard.clone(), bytes);
    }
    Ok(shards)
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

fn parse_index(text: &[u8]) -> Result<BTreeMap<String, String>, CheckpointError> {
    let index: ShardIndex = serde_json::from_slice(text)
        .map_err(|error| CheckpointError::Json { file: INDEX_FILE.to_owned(), message: error.to_string() })?;
    if index.weight_map.is_empty() {
        return Err(CheckpointError::Value {
            file: INDEX_FILE.to_owned(),
            key: "weight_map".to_owned(),
            found: "{}".to_owned(),
            expected: "the shard of each tensor".to_owned(),
        });
    }
    Ok(index.weight_map)
}
