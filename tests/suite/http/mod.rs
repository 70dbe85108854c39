//! The HTTP border over real sockets, with real actors and the fake engine behind it.

mod access;
mod calls;
mod client;
mod connections;
mod conversations;
mod dialects;
mod draining;
mod kept;
mod keys;
mod leaving;
mod lists;
mod loaded;
mod memory;
mod messages;
mod observe;
mod page;
mod parameters;
mod prefix;
mod probes;
mod rendered;
mod requests;
pub(crate) mod responses;
mod sockets;
mod speculation;
mod timeline;
mod turns;
mod world;
