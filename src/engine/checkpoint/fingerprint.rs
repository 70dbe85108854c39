//! What tells one checkpoint from every other, for what is kept of its computations.

use sha2::{Digest as _, Sha256};

use super::{Checkpoint, FileBytes};
use crate::engine::checksum::checksum;

/// Checkpoints up to here are read whole: in 20 ms. Of larger ones it would take a second for
/// every few gigabytes at each start.
const WHOLE_BYTES_MAX: u64 = 64 << 20;
/// Of each tensor of a larger checkpoint so many pieces are read, evenly spread, the last one at
/// its end.
const PIECES: usize = 16;
/// So many bytes each.
const PIECE_BYTES: usize = 256;

/// A number that stands for a checkpoint, and for what is made of it. Shown in hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Its bytes.
    #[must_use]
    pub fn bytes(self) -> [u8; 32] {
        self.0
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Checkpoint {
    /// The checkpoint's fingerprint: of the config, and of names, types, shapes and all bytes of
    /// the tensors of a small checkpoint; of a large one of samples of the bytes, and of each
    /// file's length and last change. `form` says what is made of the checkpoint.
    ///
    /// A file that is replaced, written to or copied has another time of change, which no program
    /// can set back.
    #[must_use]
    pub fn fingerprint(&self, form: &str) -> Fingerprint {
        let is_small = self.tensor_bytes() <= WHOLE_BYTES_MAX;
        // Rotary embeddings and norms take numbers from the config.
        let mut digest = Sha256::new_with_prefix(format!("form {form}\nconfig {:?}\n", self.config()));
        for entry in self.tensors() {
            digest.update(format!("tensor {} {} {:?} {} {}\n", entry.name, entry.dtype, entry.shape, entry.file, entry.bytes));
            let bytes = self.raw(entry.name);
            if is_small {
                digest.update(checksum(&bytes).to_le_bytes());
                continue;
            }
            let last = bytes.len().saturating_sub(PIECE_BYTES);
            for from in (0..PIECES).map(|piece| last * piece / (PIECES - 1)) {
                digest.update(&bytes[from..bytes.len().min(from + PIECE_BYTES)]);
            }
        }
        for (name, file) in self.files.iter().filter(|_| !is_small) {
            let changed = if let FileBytes::Mapped(mapped) = file { mapped.changed() } else { None };
            digest.update(format!("file {name} {} {changed:?}\n", file.len()));
        }
        Fingerprint(digest.finalize().into())
    }
}
