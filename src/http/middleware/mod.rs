//! What every request passes before its route: `checks` (its id, the checks, the catch of a panic),
//! `client_ids` (what its client calls it), `key` (API keys), `cors` (pages from elsewhere),
//! `spans`, `unread` (what of a target
//! cannot be read), `unread_body`.

pub(in crate::http) mod checks;
pub(in crate::http) mod client_ids;
pub(in crate::http) mod cors;
pub(in crate::http) mod key;
pub(in crate::http) mod spans;
pub(in crate::http) mod unread;
pub(in crate::http) mod unread_body;
