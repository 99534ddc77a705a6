//! What a connection is for, which is told by where it came in.

use std::rc::Rc;

use super::streamers::Streamer;
use event_manager_zmtp::LocalSocket;

/// What a listener, or a dialled address, is for.
#[derive(Debug, Clone)]
pub(crate) enum Purpose {
    Publishers,
    /// A publisher that we connect to; its index among them.
    Dialled(usize),
    Subscribers,
    Requests,
    /// Requests to the embedded ServiceLocator.
    Locator,
    /// The workers of one service.
    Workers(Rc<Streamer>),
}

impl Purpose {
    pub(crate) fn local_socket(&self) -> LocalSocket {
        match self {
            Self::Publishers | Self::Dialled(_) => LocalSocket::Publishers,
            Self::Subscribers => LocalSocket::Subscribers,
            Self::Requests | Self::Locator => LocalSocket::Requests,
            Self::Workers(_) => LocalSocket::Workers,
        }
    }
}
