//! Texts that only this server can read again.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

/// The key that texts are sealed with, by AES-256 in Galois/counter mode.
pub struct Seal {
    key: LessSafeKey,
    random: SystemRandom,
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal(…)")
    }
}

impl Seal {
    /// With this key.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, &key).expect("32 bytes are a key");
        Self { key: LessSafeKey::new(key), random: SystemRandom::new() }
    }

    /// With a key that is gone with the process.
    pub(super) fn drawn() -> Self {
        Self::new(Self::draw_key())
    }

    pub(super) fn draw_key() -> [u8; 32] {
        let mut key = [0; 32];
        SystemRandom::new().fill(&mut key).expect("the system has random numbers");
        key
    }

    /// `text` sealed for `owner`: letters, digits, `-` and `_`.
    #[must_use]
    pub fn seal(&self, owner: &[u8], text: &str) -> String {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).expect("the system has random numbers");
        let mut sealed = text.as_bytes().to_vec();
        let (aad, unique) = (Aad::from(owner), Nonce::assume_unique_for_key(nonce));
        self.key.seal_in_place_append_tag(unique, aad, &mut sealed).expect("a text is shorter than 64 GiB");
        URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat())
    }

    /// The text that was sealed for `owner`; `None` for what was not, by this key.
    #[must_use]
    pub fn open(&self, owner: &[u8], sealed: &str) -> Option<String> {
        let bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let mut text = sealed.to_vec();
        let opened = self.key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(owner), &mut text).ok()?;
        String::from_utf8(opened.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_owner_opens_what_was_sealed() {
        let seal = Seal::drawn();
        for text in ["", "She says hello.", "안녕 👋🏽"] {
            let sealed = seal.seal(b"one", text);
            assert_eq!(seal.open(b"one", &sealed).as_deref(), Some(text));
            assert_eq!(seal.open(b"two", &sealed), None);
            assert_eq!(Seal::drawn().open(b"one", &sealed), None);
            assert!(text.is_empty() || !sealed.contains(text));
            assert_ne!(seal.seal(b"one", text), sealed, "no two are alike");
            let mut damaged = sealed.clone().into_bytes();
            let place = damaged.len() / 2;
            damaged[place] = if damaged[place] == b'A' { b'B' } else { b'A' };
            assert_eq!(seal.open(b"one", &String::from_utf8(damaged).unwrap()), None);
        }
        for other in ["", "gAAAA", "not base64!", &"A".repeat(64)] {
            assert_eq!(seal.open(b"one", other), None);
        }
    }
}
