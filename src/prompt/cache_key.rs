//! The key under which a prompt is known to clients and, together with a salt, to the cache.
//!
//! SHA-256 of the conversation in normalised form, its parameters, the model and the prompt
//! version, as JSON the way Python writes it: the GPT-OSS HF server's keys, so that they can be
//! compared. Source: `WIRE.md`, section 4.

use sha2::{Digest as _, Sha256};

use super::builder::PromptVersion;
use super::conversation::{Conversation, Message};
use super::normalise::normalise;
use super::python_json::{float, list, optional, string};

/// The parameters that are part of the cache key, as the client gave them or as they were filled
/// in.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct KeyParameters {
    /// Temperature.
    pub temperature: Option<f64>,
    /// Nucleus.
    pub top_p: Option<f64>,
    /// Most tokens to generate.
    pub max_tokens: Option<u64>,
    /// Seed.
    pub seed: Option<i64>,
    /// Stop strings, in any order.
    pub stop_strings: Vec<String>,
    /// Not part of the key that a client sees: prompts of different salts are never found for each
    /// other.
    pub salt: Salt,
}

/// What keeps the built prompts of one client apart from another's: else a hit would tell one what
/// the other has sent.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Salt(Option<[u8; 32]>);

impl Salt {
    /// The salt of an owner, as bytes of a fixed length, and of the text that its request brought;
    /// no salt for neither.
    #[must_use]
    pub fn of(owner: Option<&[u8; 16]>, text: Option<&str>) -> Self {
        if owner.is_none() && text.is_none() {
            return Self(None);
        }
        let hash = Sha256::new().chain_update([u8::from(owner.is_some())]).chain_update(owner.unwrap_or(&[0; 16]));
        let hash = hash.chain_update([u8::from(text.is_some())]).chain_update(text.unwrap_or_default());
        Self(Some(hash.finalize().into()))
    }

    /// What stands for it where the keys and values of prompts are kept apart: the beginning of its
    /// hash; zeros for no salt.
    #[must_use]
    pub fn words(self) -> [u64; 2] {
        let hash = self.0.unwrap_or_default();
        let word = |from: usize| hash[from..from + 8].iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        [word(0), word(8)]
    }

    /// Where the cache keeps what has this key.
    pub(super) fn place(self, key: &str) -> String {
        match self.0 {
            None => key.to_owned(),
            Some(salt) => hexadecimal(&Sha256::new().chain_update(salt).chain_update(key).finalize()),
        }
    }
}

impl std::fmt::Debug for Salt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Salt(…)" } else { "Salt(none)" })
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The key, in hexadecimal digits.
pub(super) fn cache_key(
    conversation: &Conversation,
    parameters: &KeyParameters,
    model_id: &str,
    version: PromptVersion,
) -> String {
    hexadecimal(&Sha256::digest(key_text(conversation, parameters, model_id, version)))
}

/// What is hashed. Keys stand in alphabetical order.
fn key_text(conversation: &Conversation, parameters: &KeyParameters, model_id: &str, version: PromptVersion) -> String {
    let mut out = String::from("{\"messages\":");
    list(&mut out, &conversation.messages, |out, message| {
        let (role, content) = role_and_content(message);
        out.push_str("{\"content\":");
        string(out, &normalise(content));
        out.push_str(",\"role\":");
        string(out, role);
        out.push('}');
    });
    out.push_str(",\"model_id\":");
    string(&mut out, model_id);
    out.push_str(",\"params\":{\"max_tokens\":");
    optional(&mut out, parameters.max_tokens, |out, value| out.push_str(&value.to_string()));
    out.push_str(",\"seed\":");
    optional(&mut out, parameters.seed, |out, value| out.push_str(&value.to_string()));
    out.push_str(",\"stop_sequences\":");
    // The order of UTF-8's bytes is the order of code points, by which Python sorts.
    let mut stop_strings: Vec<&String> = parameters.stop_strings.iter().collect();
    stop_strings.sort_unstable();
    list(&mut out, stop_strings, |out, text| string(out, text));
    out.push_str(",\"temperature\":");
    optional(&mut out, parameters.temperature, float);
    out.push_str(",\"top_p\":");
    optional(&mut out, parameters.top_p, float);
    out.push_str("},\"prompt_version\":");
    string(&mut out, version.name());
    out.push('}');
    out
}

fn role_and_content(message: &Message) -> (&'static str, &str) {
    match message {
        Message::System { content } => ("system", content),
        Message::Developer { content } => ("developer", content),
        Message::User { content } => ("user", content),
        Message::Assistant { content, .. } => ("assistant", content.as_deref().unwrap_or_default()),
        Message::Tool { content, .. } => ("tool", content),
    }
}

#[cfg(test)]
#[path = "cache_key_tests.rs"]
mod tests;
