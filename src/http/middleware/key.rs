//! API keys: compared in constant time, never shown, exchanged while the server runs.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use actix_web::http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::actors::messages::KeyId;

/// The header that carries a key and nothing else.
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// A key that opens the server. Only its hash is kept, so that neither its bytes nor its length can
/// leak by time or by a log.
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

/// The keys of a server at one moment.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// Open what clients use. None: everything but an admin's is open to every client.
    pub users: Vec<ApiKey>,
    /// Open everything.
    pub admins: Vec<ApiKey>,
}

/// A server's keys, shared by all that check them; they can be exchanged while it serves.
#[derive(Debug, Clone, Default)]
pub struct KeyRing(Arc<RwLock<Arc<Keys>>>);

impl KeyRing {
    /// A ring of these keys.
    #[must_use]
    pub fn new(keys: Keys) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(keys))))
    }

    /// The keys now.
    #[must_use]
    pub fn now(&self) -> Arc<Keys> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Requests that come from now on are checked against `keys`; those that were let in go on.
    pub fn exchange(&self, keys: Keys) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }
}

/// What a request may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::http) struct Access {
    /// The key that it brought; the default for none.
    pub(in crate::http) key: KeyId,
    /// May see and end what others asked for.
    pub(in crate::http) is_admin: bool,
}

impl Access {
    /// Whether a request of `owner` is shown by name.
    pub(in crate::http) fn sees(self, owner: KeyId) -> bool {
        self.is_admin || owner == self.key
    }
}

/// Which key opens the routes that tell of the server as a whole: `/metrics`, `/stats`,
/// `/memory_stats`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MetricsAccess {
    /// Any key.
    #[default]
    Key,
    /// An admin's.
    Admin,
    /// They need none.
    Open,
}

impl Keys {
    /// What a request with these headers may do; `None` if it is to be refused.
    pub(in crate::http) fn admit(&self, headers: &HeaderMap) -> Option<Access> {
        let found = given(headers).find_map(|token| self.find(token));
        let open = Access { key: KeyId::default(), is_admin: self.admins.is_empty() };
        found.or_else(|| self.users.is_empty().then_some(open))
    }

    /// Takes the same time wherever a wrong key differs.
    fn find(&self, token: &[u8]) -> Option<Access> {
        let given = hash(token);
        // Every key is compared, so that the time does not tell which one came close.
        let among = |keys: &[ApiKey]| -> bool {
            keys.iter().fold(subtle::Choice::from(0), |found, key| found | key.0.ct_eq(&given)).into()
        };
        let (is_user, is_admin) = (among(&self.users), among(&self.admins));
        (is_user || is_admin).then(|| Access { key: KeyId(Some(id(&given))), is_admin })
    }
}

/// Whether a request brings anything for a key.
pub(in crate::http) fn is_given(headers: &HeaderMap) -> bool {
    headers.contains_key(AUTHORIZATION) || headers.contains_key(X_API_KEY)
}

/// The keys that a request brings: `Authorization: Bearer KEY`, then `X-Api-Key: KEY`. A header
/// that stands twice is none.
fn given(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let single = |name: HeaderName| {
        let mut values = headers.get_all(name);
        values.next().filter(|_| values.next().is_none()).map(HeaderValue::as_bytes)
    };
    let plain = single(X_API_KEY).map(<[u8]>::trim_ascii);
    single(AUTHORIZATION).and_then(bearer).into_iter().chain(plain)
}

/// What names a key without revealing it: hashed once more, since the hash itself opens.
fn id(hash: &[u8; 32]) -> [u8; 16] {
    let digest = Sha256::new().chain_update(b"antiphon key id").chain_update(hash).finalize();
    std::array::from_fn(|place| digest[place])
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

    fn keys(users: &[&str], admins: &[&str]) -> Keys {
        let keys = |texts: &[&str]| texts.iter().map(|text| ApiKey::new(text).unwrap()).collect();
        Keys { users: keys(users), admins: keys(admins) }
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().unwrap());
        let mut headers = HeaderMap::new();
        lines.iter().map(line).for_each(|(name, value)| headers.append(name, value));
        headers
    }

    #[test]
    fn only_the_key_itself_opens() {
        let keys = keys(&["first", "Secret-1"], &["root"]);
        let opens = |lines: &[(&'static str, &str)]| keys.admit(&headers(lines)).map(|access| access.is_admin);
        for value in ["Bearer Secret-1", "bearer Secret-1", "Bearer first"] {
            assert_eq!(opens(&[("authorization", value)]), Some(false), "{value:?}");
        }
        assert_eq!(opens(&[("x-api-key", " Secret-1 ")]), Some(false));
        assert_eq!(opens(&[("x-api-key", "root")]), Some(true));
        // A gateway's own Authorization beside the key.
        assert_eq!(opens(&[("authorization", "Bearer other"), ("x-api-key", "first")]), Some(false));
        for wrong in ["Bearer secret-1", "Bearer Secret-", "Bearer Secret-11", "Bearer ", "Basic Secret-1", "Secret-1", ""] {
            assert_eq!(opens(&[("authorization", wrong)]), None, "{wrong:?} opened");
        }
        for wrong in ["secret-1", "Bearer Secret-1", "", "Secret-1, first"] {
            assert_eq!(opens(&[("x-api-key", wrong)]), None, "{wrong:?} opened");
        }
        assert_eq!(opens(&[("x-api-key", "first"), ("x-api-key", "first")]), None, "which of two is meant is not guessed");
        assert_eq!(opens(&[]), None);
    }

    #[test]
    fn keys_have_ids_of_their_own_and_can_be_exchanged() {
        let ring = KeyRing::new(keys(&["a", "b"], &[]));
        let id = |key: &str| ring.now().admit(&headers(&[("x-api-key", key)])).map(|access| access.key);
        let (a, b) = (id("a").unwrap(), id("b").unwrap());
        assert!(a != b && a != KeyId::default() && a == id("a").unwrap());
        assert_eq!(format!("{a:?}"), "KeyId(…)");
        ring.exchange(keys(&["b", "c"], &[]));
        assert_eq!((id("a"), id("b")), (None, Some(b)));
        // A server that asks for no key: all are one, and see everything unless there is an admin.
        let open = Access { key: KeyId::default(), is_admin: true };
        assert_eq!(keys(&[], &[]).admit(&headers(&[("x-api-key", "any")])), Some(open));
        assert_eq!(keys(&[], &["root"]).admit(&headers(&[])), Some(Access { is_admin: false, ..open }));
    }

    #[test]
    fn keys_are_not_shown_and_nonsense_is_refused() {
        assert_eq!(format!("{:?}", ApiKey::new("hidden").unwrap()), "ApiKey(…)");
        assert_eq!(ApiKey::new("").unwrap_err(), KeyError::Empty);
        assert_eq!(ApiKey::new("a b").unwrap_err(), KeyError::Unprintable { place: 2 });
    }
}
