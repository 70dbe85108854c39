//! Why a checkpoint cannot be served. Every message names the file, what was found there, and what
//! was expected.

use antiphon_kernels::mmap::MapError;
use std::io;

/// A checkpoint that cannot be served; the operator must act.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The operating system would not hand out the file.
    #[error("{file}: cannot be read: {source}")]
    Unreadable {
        /// Name of the file in the checkpoint.
        file: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file cannot be mapped into memory, or has changed since it was.
    #[error("{file}: {source}")]
    Unmappable {
        /// Name of the file in the checkpoint.
        file: String,
        /// Why.
        source: MapError,
    },
    /// A file that must be there is not.
    #[error("{file}: the file is missing; expected {expected}")]
    FileMissing {
        /// Name of the file in the checkpoint.
        file: String,
        /// What should be there.
        expected: String,
    },
    /// A file that is there but cannot be one of a checkpoint: a directory, a pipe, too large,
    /// outside.
    #[error("{file}: {problem}")]
    FileRefused {
        /// Name of the file in the checkpoint.
        file: String,
        /// What is wrong with it, and what was expected.
        problem: String,
    },
    /// A JSON file that cannot be parsed.
    #[error("{file}: not valid JSON: {message}")]
    Json {
        /// Name of the file in the checkpoint.
        file: String,
        /// What the parser said, with line and column.
        message: String,
    },
    /// A key whose value cannot be.
    #[error("{file}: `{key}` is {found}, expected {expected}")]
    Value {
        /// Name of the file in the checkpoint.
        file: String,
        /// The key, with the keys above it.
        key: String,
        /// The value as the file has it, shortened.
        found: String,
        /// What would be accepted.
        expected: String,
    },
    /// A key that must be there is not.
    #[error("{file}: `{key}` is missing, expected {expected}")]
    KeyMissing {
        /// Name of the file in the checkpoint.
        file: String,
        /// The key, with the keys above it.
        key: String,
        /// What would be accepted.
        expected: String,
    },
    /// A safetensors header that cannot be trusted.
    #[error("{file}: bad safetensors header: {problem}")]
    Header {
        /// Name of the shard.
        file: String,
        /// What is wrong, with the tensor's name where there is one, and what was expected.
        problem: String,
    },
    /// The index names a shard that cannot be one.
    #[error("{file}: tensor `{tensor}` is said to lie in `{shard}`; {problem}")]
    Shard {
        /// Name of the index.
        file: String,
        /// A tensor for which the shard is named.
        tensor: String,
        /// The shard as the index has it.
        shard: String,
        /// What is wrong with it, and what was expected.
        problem: String,
    },
    /// A tensor that the model needs is in no shard.
    #[error("{file}: tensor `{tensor}` is missing, expected {expected}{more}", more = more_missing(*.missing))]
    TensorMissing {
        /// The file that should hold or list it.
        file: String,
        /// The first missing tensor.
        tensor: String,
        /// Type and shape that the config asks for.
        expected: String,
        /// How many tensors are missing in all.
        missing: usize,
    },
    /// A tensor of another type or shape than the config asks for.
    #[error("{file}: tensor `{tensor}` is {found}, expected {expected}")]
    Tensor {
        /// The shard.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its type and shape.
        found: String,
        /// Type and shape that the config asks for.
        expected: String,
    },
    /// A tensor that two shards hold.
    #[error("{file}: tensor `{tensor}` also lies in {other}, expected it in one of them")]
    TensorTwice {
        /// The second shard.
        file: String,
        /// The tensor.
        tensor: String,
        /// The first shard.
        other: String,
    },
    /// The memory that the model needs is more than there is.
    #[error("the model needs {needed_bytes} bytes of memory ({parts}), but only {available_bytes} are available")]
    MemoryTooSmall {
        /// Sum of all parts.
        needed_bytes: u64,
        /// What each part needs.
        parts: String,
        /// What the caller said that there is.
        available_bytes: u64,
    },
}

/// The end of the message about a missing tensor that is not alone.
fn more_missing(missing: usize) -> String {
    match missing {
        0 | 1 => String::new(),
        _ => format!("; {} more are missing", missing - 1),
    }
}
