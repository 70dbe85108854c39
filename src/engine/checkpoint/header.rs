//! The header of a safetensors file: which tensors lie where.
//!
//! The types and the rules about offsets are the `safetensors` crate's. What it leaves open is
//! checked here: a name that stands twice (its map keeps the last), and messages that name the
//! tensor. Format: 8 bytes header length, little-endian; that many bytes of JSON; the tensors'
//! bytes without gaps.

use super::error::CheckpointError;
use safetensors::SafeTensorError;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserializer as _;
use serde::de::{Error as _, MapAccess, Visitor};
use std::collections::{HashMap, HashSet};
use std::fmt;

/// Bytes before the JSON.
const LENGTH_BYTES: usize = 8;
/// Longest header that is believed; the safetensors crate's own bound.
const HEADER_BYTES_MAX: usize = 100_000_000;
/// Key of the free-text entry.
const METADATA_KEY: &str = "__metadata__";

/// One tensor of a file.
#[derive(Debug, Clone)]
pub(super) struct HeaderEntry {
    /// Its name.
    pub(super) name: String,
    /// Its type, shape, and place after `data_start`.
    pub(super) tensor: TensorInfo,
}

/// A header that has been checked against the file that it heads.
#[derive(Debug)]
pub(super) struct FileHeader {
    /// Where the tensors' bytes begin in the file.
    pub(super) data_start: usize,
    /// The tensors in the order of the JSON; their offsets lie within the file.
    pub(super) entries: Vec<HeaderEntry>,
}

/// Reads and checks the header of `file`, which begins with `bytes` and has `file_bytes` of them.
///
/// # Errors
/// [`CheckpointError::Header`] if any offset, shape or length does not agree with the rest of the
/// file.
pub(super) fn read_header(file: &str, bytes: &[u8], file_bytes: usize) -> Result<FileHeader, CheckpointError> {
    read(bytes, file_bytes).map_err(|problem| CheckpointError::Header { file: file.to_owned(), problem })
}

fn read(bytes: &[u8], file_bytes: usize) -> Result<FileHeader, String> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(format!("the file has {file_bytes} bytes, expected at least {LENGTH_BYTES} for the header's length"));
    };
    let length = u64::from_le_bytes(*length);
    let json = usize::try_from(length).ok().filter(|length| *length <= HEADER_BYTES_MAX);
    let Some(json) = json.and_then(|length| rest.get(..length)) else {
        let most = rest.len().min(HEADER_BYTES_MAX);
        return Err(format!("it is said to be {length} bytes long, expected at most {most} (file of {file_bytes} bytes)"));
    };
    if json.first() != Some(&b'{') {
        return Err("it does not begin with `{`, expected a JSON object".to_owned());
    }
    let entries = parse_entries(json)?;
    let data_start = LENGTH_BYTES + json.len();
    check_offsets(&entries, file_bytes.saturating_sub(data_start))?;
    Ok(FileHeader { data_start, entries })
}

/// The tensors of the JSON object, in its order, each name once.
fn parse_entries(json: &[u8]) -> Result<Vec<HeaderEntry>, String> {
    let text = std::str::from_utf8(json).map_err(|error| format!("it is not UTF-8: {error}"))?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let entries = deserializer.deserialize_map(EntriesVisitor).map_err(|error| error.to_string())?;
    // Spaces may fill the header up to a multiple of eight; anything else behind the object is
    // refused.
    deserializer.end().map_err(|error| error.to_string())?;
    Ok(entries)
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Vec<HeaderEntry>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("`{name}` stands twice, expected each name once")));
            }
            if name == METADATA_KEY {
                // Some writers leave `null` where there is nothing to say; it loads as an absent
                // entry does.
                map.next_value::<Option<HashMap<String, String>>>()
                    .map_err(|error| A::Error::custom(format!("`{name}` is not a map of strings: {error}")))?;
                continue;
            }
            let tensor =
                map.next_value::<TensorInfo>().map_err(|error| A::Error::custom(format!("tensor `{name}`: {error}")))?;
            entries.push(HeaderEntry { name, tensor });
        }
        Ok(entries)
    }
}

/// Offsets must follow each other without gap or overlap, fit types and shapes, and end where the
/// file ends.
fn check_offsets(entries: &[HeaderEntry], data_bytes: usize) -> Result<(), String> {
    for HeaderEntry { name, tensor } in entries {
        let (start, end) = tensor.data_offsets;
        if end > data_bytes || start > end {
            return Err(format!("tensor `{name}` lies at {start}..{end}, expected a range within 0..{data_bytes}"));
        }
        let elements = tensor.shape.iter().try_fold(1_usize, |product, size| product.checked_mul(*size));
        let bits = elements.and_then(|elements| elements.checked_mul(tensor.dtype.bitsize()));
        if bits != (end - start).checked_mul(8) {
            let (dtype, shape) = (tensor.dtype, &tensor.shape);
            let needed = bits.map_or_else(|| "more than any file".to_owned(), |bits| bits.div_ceil(8).to_string());
            return Err(format!("tensor `{name}` has {} bytes, but {dtype} {shape:?} needs {needed}", end - start));
        }
    }
    let mut sorted: Vec<(String, TensorInfo)> =
        entries.iter().map(|entry| (entry.name.clone(), entry.tensor.clone())).collect();
    sorted.sort_by_key(|(_, tensor)| tensor.data_offsets);
    let metadata = Metadata::new(None, sorted).map_err(|error| match error {
        SafeTensorError::InvalidOffset(name) => {
            format!("tensor `{name}` overlaps the one before it or leaves a hole, expected tensors without gaps")
        }
        other => other.to_string(),
    })?;
    if metadata.data_len() != data_bytes {
        return Err(format!("its tensors end after {} bytes, but {data_bytes} follow it", metadata.data_len()));
    }
    Ok(())
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
