//! Opens a model's files: the checkpoint and its tokenizer, checked against each other.

use crate::engine::checkpoint::{Checkpoint, CheckpointError, CheckpointFiles, LinkPolicy};
use crate::engine::warm_up::{GOLDEN_FILE, Golden};
use crate::prompt::tokenizer::{Tokenizer, TokenizerError};
use crate::source::{ModelContent, ModelFiles};

const TOKENIZER_FILE: &str = "tokenizer.json";

/// A model that can be served: weights mapped, nothing read but headers and text.
#[derive(Debug)]
pub struct Model {
    /// Config and tensors.
    pub checkpoint: Checkpoint,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// What it must compute, if its files say so.
    pub goldens: Vec<Golden>,
}

/// Why a model's files cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// Config or weights.
    #[error("{place}: {error}")]
    Checkpoint {
        /// The model.
        place: String,
        /// What is wrong.
        error: Box<CheckpointError>,
    },
    /// The tokenizer.
    #[error("{place}: {error}")]
    Tokenizer {
        /// The model.
        place: String,
        /// What is wrong.
        error: TokenizerError,
    },
    /// No tokenizer.
    #[error("{place}: tokenizer.json is missing; expected the tokenizer that the model was trained with")]
    NoTokenizer {
        /// The model.
        place: String,
    },
}

impl Model {
    /// Opens the files.
    ///
    /// # Errors
    /// [`ModelError`] names the file and what was expected of it.
    pub fn open(files: &ModelFiles, links: LinkPolicy) -> Result<Self, ModelError> {
        let place = || match &files.content {
            ModelContent::Embedded(_) => format!("the embedded model {}", files.name),
            ModelContent::Directory(path) => path.display().to_string(),
        };
        let wrong = |error| ModelError::Checkpoint { place: place(), error: Box::new(error) };
        let source = match &files.content {
            ModelContent::Embedded(files) => CheckpointFiles::embedded(files.iter().map(|file| (file.name, file.bytes))),
            ModelContent::Directory(path) => CheckpointFiles::directory_with(path, links).map_err(wrong)?,
        };
        let checkpoint = Checkpoint::open(&source).map_err(wrong)?;
        let json = source.text(TOKENIZER_FILE).map_err(wrong)?;
        let json = json.ok_or_else(|| ModelError::NoTokenizer { place: place() })?;
        let tokenizer = Tokenizer::from_json(TOKENIZER_FILE, &json, checkpoint.config().vocab_size)
            .and_then(|tokenizer| tokenizer.check_ends(TOKENIZER_FILE, &checkpoint.eos_tokens()).map(|()| tokenizer));
        let tokenizer = tokenizer.map_err(|error| ModelError::Tokenizer { place: place(), error })?;
        let goldens = source.text(GOLDEN_FILE).map_err(wrong)?.map_or_else(Vec::new, |json| Golden::parse(&json));
        Ok(Self { checkpoint, tokenizer, goldens })
    }
}
