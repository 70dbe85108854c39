//! API keys: compared in constant time, never shown.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// A key that opens the server. Only its hash is kept, so that neither its bytes nor its length can leak by time or by a log.
#[derive(Clone)]
pub struct ApiKey([u8; 32]);

/// A text that cannot be a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No characters.
    #[error("an API key must not be empty")]
    Empty,
    /// A header cannot carry it.
    #[error("an API key must be of printable ASCII without spaces; character {place} is not")]
    Unprintable {
        /// Counted from one.
        place: usize,
    },
}

impl ApiKey {
    /// The key with this text.
    ///
    /// # Errors
    /// [`KeyError`] for what no client could send as a Bearer token.
    pub fn new(text: &str) -> Result<Self, KeyError> {
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        match text.chars().position(|c| !c.is_ascii_graphic()) {
            Some(before) => Err(KeyError::Unprintable { place: before + 1 }),
            None => Ok(Self(hash(text.as_bytes()))),
        }
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// Whether `authorization`, a header's value, brings one of `keys`. Takes the same time wherever a wrong key differs.
pub(super) fn opens(keys: &[ApiKey], authorization: Option<&[u8]>) -> bool {
    let Some(token) = authorization.and_then(bearer) else { return false };
    let given = hash(token);
    // Every key is compared, so that the time does not tell which one came close.
    keys.iter().fold(subtle::Choice::from(0), |found, key| found | key.0.ct_eq(&given)).into()
}

/// The token of `Bearer <token>`; the scheme's case does not matter.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_itself_opens() {
        let keys = [ApiKey::new("first").unwrap(), ApiKey::new("Secret-1").unwrap()];
        let opens = |value: &str| opens(&keys, Some(value.as_bytes()));
        assert!(opens("Bearer Secret-1") && opens("bearer Secret-1") && opens("Bearer first"));
        for wrong in ["Bearer secret-1", "Bearer Secret-", "Bearer Secret-11", "Bearer ", "Basic Secret-1", "Secret-1", ""] {
            assert!(!opens(wrong), "{wrong:?} opened");
        }
        assert!(!super::opens(&keys, None));
    }

    #[test]
    fn keys_are_not_shown_and_nonsense_is_refused() {
        assert_eq!(format!("{:?}", ApiKey::new("hidden").unwrap()), "ApiKey(…)");
        assert_eq!(ApiKey::new("").unwrap_err(), KeyError::Empty);
        assert_eq!(ApiKey::new("a b").unwrap_err(), KeyError::Unprintable { place: 2 });
    }
}
