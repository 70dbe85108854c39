//! The routes, and the JSON of the wire.

pub mod observe;
