//! JSON bytes to a tree of values that holds no key twice.
//!
//! `serde_json::Value` keeps the last of two equal keys without a word: two readers of one body
//! could then see two different requests. Here the second one is refused. Depth ends at 128
//! (serde_json's own limit), the count of values at [`VALUES_MAX`]: a value takes up to 80 bytes of
//! memory, however short its text is.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::http::wire::error::WireError;

/// Most values of a body: enough for three prompts of 131,072 token ids, 40 MB at most.
pub(crate) const VALUES_MAX: usize = 1 << 19;

/// Reads a body.
///
/// # Errors
/// [`WireError::Syntax`], with the path of the field where it stops being JSON;
/// [`WireError::Twice`]; [`WireError::TooManyValues`].
pub(crate) fn parse(body: &[u8]) -> Result<Value, WireError> {
    let mut place = JsonPosition::default();
    let body = with_whole_surrogates(body);
    let mut deserializer = serde_json::Deserializer::from_slice(&body);
    let value = Seed(&mut place).deserialize(&mut deserializer);
    match value.and_then(|value| deserializer.end().map(|()| value)) {
        Ok(value) => Ok(value),
        Err(error) => Err(place.fault.take().unwrap_or_else(|| WireError::Syntax {
            param: (!place.path.is_empty()).then_some(place.path),
            message: error.to_string(),
        })),
    }
}

/// `body` with each half of a surrogate pair, which is no character, replaced by U+FFFD. JavaScript
/// and Python write such halves where a text was cut inside a character, and serde_json refuses
/// them.
fn with_whole_surrogates(body: &[u8]) -> Cow<'_, [u8]> {
    let mut mended = Cow::Borrowed(body);
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'\\', &body[at..]) {
        at += found;
        match (escaped_unit(&body[at..]), body.get(at + 6..).and_then(escaped_unit)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => at += 12,
            (Some(0xd800..=0xdfff), _) => {
                mended.to_mut()[at..at + 6].copy_from_slice(b"\\ufffd");
                at += 6;
            }
            // Any other escape: what follows the backslash, a second one perhaps, begins none.
            _ => at = (at + 2).min(body.len()),
        }
    }
    mended
}

/// The UTF-16 unit that `text` begins with as `\uXXXX`.
fn escaped_unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.get(..4).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// The path of `key` inside the object at `path`.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Where the reader is; after an error, where it was.
#[derive(Default)]
struct JsonPosition {
    path: String,
    values_count: usize,
    fault: Option<WireError>,
}

impl JsonPosition {
    fn enter_key(&mut self, key: &str) -> usize {
        let outside = self.path.len();
        if outside > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        outside
    }

    fn enter_index(&mut self, index: usize) -> usize {
        let outside = self.path.len();
        self.path.push_str(&format!("[{index}]"));
        outside
    }

    /// Only called after success: an error leaves the path where it happened.
    fn leave(&mut self, outside: usize) {
        self.path.truncate(outside);
    }

    fn refuse<E: de::Error>(&mut self, fault: WireError) -> E {
        let error = E::custom(&fault);
        self.fault = Some(fault);
        error
    }
}

struct Seed<'a>(&'a mut JsonPosition);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.0.values_count += 1;
        if self.0.values_count > VALUES_MAX {
            return Err(self.0.refuse(WireError::TooManyValues { values_max: VALUES_MAX }));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Value, E> {
        Number::from_f64(number).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let outside = self.0.enter_index(list.len());
            let Some(item) = items.next_element_seed(Seed(&mut *self.0))? else {
                self.0.leave(outside);
                return Ok(Value::Array(list));
            };
            list.push(item);
            self.0.leave(outside);
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let outside = self.0.enter_key(&key);
            if map.contains_key(&key) {
                let param = self.0.path.clone();
                return Err(self.0.refuse(WireError::Twice { param }));
            }
            let value = entries.next_value_seed(Seed(&mut *self.0))?;
            map.insert(key, value);
            self.0.leave(outside);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
