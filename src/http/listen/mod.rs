//! Where connections come in and requests are cut apart: `server` listens and stops, `accept` takes
//! connections and answers probes itself (`probe`), `workers` serve them, `connection` decides
//! which bytes reach actix.

pub(in crate::http) mod accept;
pub(in crate::http) mod connection;
pub(in crate::http) mod probe;
pub(in crate::http) mod server;
pub(in crate::http) mod workers;
