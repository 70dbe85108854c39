//! The ways in which a client leaves.

use std::time::Duration;

use socket2::SockRef;

/// How a client leaves.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    /// Closes.
    Fin,
    /// Closes with unread data thrown away.
    Reset,
    /// Says that it will write no more, and stays.
    Half,
}

pub(crate) const WAYS: [Way; 3] = [Way::Fin, Way::Reset, Way::Half];

/// Makes a socket's end a reset once it is dropped.
pub(crate) fn reset_when_dropped<'s>(socket: impl Into<SockRef<'s>>) {
    socket.into().set_linger(Some(Duration::ZERO)).expect("Linux can");
}
