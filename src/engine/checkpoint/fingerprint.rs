//! What tells one checkpoint from another, for what is kept of its computations.

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

impl Checkpoint {
    /// A number that stands for the model: its config, and names, types, shapes and all bytes of
    /// the tensors of a small checkpoint; of a large one samples of the bytes, and when its files
    /// were last written.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let is_small = self.tensor_bytes() <= WHOLE_BYTES_MAX;
        let mut seen = Vec::new();
        let mut see = |text: &str, number: u64| {
            seen.extend_from_slice(text.as_bytes());
            seen.extend_from_slice(&number.to_le_bytes());
        };
        // Rotary embeddings and norms take numbers from there.
        see("config", checksum(format!("{:?}", self.config()).as_bytes()));
        for entry in self.tensors() {
            see(entry.name, entry.bytes as u64);
            see(&entry.dtype, checksum(format!("{:?}", entry.shape).as_bytes()));
            let bytes = self.raw(entry.name);
            if is_small {
                see("", checksum(&bytes));
                continue;
            }
            let last = bytes.len().saturating_sub(PIECE_BYTES);
            for piece in 0..PIECES {
                let from = last * piece / (PIECES - 1);
                see("", checksum(&bytes[from..bytes.len().min(from + PIECE_BYTES)]));
            }
        }
        if !is_small {
            for (name, file) in &self.files {
                let modified = if let FileBytes::Mapped(file) = file { file.modified() } else { None };
                see(name, checksum(format!("{modified:?}").as_bytes()));
            }
        }
        checksum(&seen)
    }
}
