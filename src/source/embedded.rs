//! The small model in the binary, so that the server answers without any download.

use super::{EmbeddedFile, ModelContent, ModelFiles};

/// Bytes that begin at a multiple of 64, as a mapped file's would at least.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

macro_rules! embedded {
    ($($name:literal),* $(,)?) => {
        &[$(EmbeddedFile {
            name: $name,
            bytes: {
                static FILE: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!("../../models/tiny/", $name)));
                &FILE.0
            },
        }),*]
    };
}

static TINY: &[EmbeddedFile] = embedded![
    "config.json",
    "generation_config.json",
    "golden.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// The embedded model's files.
pub(super) fn model_files() -> ModelFiles {
    ModelFiles {
        name: "tiny".to_owned(),
        model_id: "gpt-oss-tiny".to_owned(),
        model_size: "tiny".to_owned(),
        content: ModelContent::Embedded(TINY),
    }
}
