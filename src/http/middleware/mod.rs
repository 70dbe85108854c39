//! What every request passes before its route: `checks` (its id, the checks, the catch of a panic),
//! `key` (API keys), `cors` (pages from elsewhere), `unread_body`.

pub(in crate::http) mod checks;
pub(in crate::http) mod cors;
pub(in crate::http) mod key;
pub(in crate::http) mod unread_body;
