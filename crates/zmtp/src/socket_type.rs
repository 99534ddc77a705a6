//! Socket types, and which of them may talk to which of ours.

use std::fmt;

/// What a peer says it is: by name in the `Socket-Type` property of its READY, by number in ZMTP 2.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SocketType {
    /// Publishes, receives nothing.
    Pub,
    /// Publishes and receives subscriptions.
    Xpub,
    /// Subscribes.
    Sub,
    /// Subscribes by messages, as proxies do.
    Xsub,
    /// Sends a request and waits for the reply.
    Req,
    /// Sends requests and replies freely.
    Dealer,
    /// Replies to one request at a time.
    Rep,
    /// Addresses each peer.
    Router,
}

impl SocketType {
    const NAMES: [(Self, &'static str); 8] = [
        (Self::Pub, "PUB"),
        (Self::Xpub, "XPUB"),
        (Self::Sub, "SUB"),
        (Self::Xsub, "XSUB"),
        (Self::Req, "REQ"),
        (Self::Dealer, "DEALER"),
        (Self::Rep, "REP"),
        (Self::Router, "ROUTER"),
    ];

    /// The numbers of ZMTP 2.0. Its RFC has an XPUB say that it is a PUB, an XSUB that it is a SUB;
    /// libzmq has numbers of its own for them.
    const NUMBERS: [(Self, u8); 8] = [
        (Self::Pub, 1),
        (Self::Sub, 2),
        (Self::Req, 3),
        (Self::Rep, 4),
        (Self::Dealer, 5),
        (Self::Router, 6),
        (Self::Xpub, 9),
        (Self::Xsub, 10),
    ];

    /// The type of this number in ZMTP 2.0; `None` for types that have no place here.
    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::NUMBERS
            .iter()
            .find(|(_, known)| *known == number)
            .map(|(kind, _)| *kind)
    }

    /// Its number in ZMTP 2.0.
    pub(super) fn number(self) -> u8 {
        let known = match self {
            Self::Xpub => Self::Pub,
            Self::Xsub => Self::Sub,
            other => other,
        };
        Self::NUMBERS
            .iter()
            .find(|(kind, _)| *kind == known)
            .map_or(0, |(_, number)| *number)
    }

    /// The type of this name; `None` for types that have no place here (PUSH, PAIR, …).
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::NAMES
            .iter()
            .find(|(_, known)| known.as_bytes() == name)
            .map(|(kind, _)| *kind)
    }

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(kind, _)| *kind == self)
            .map_or("?", |(_, name)| name)
    }
}

impl fmt::Display for SocketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The sockets that we have: the daemon's by what connects to them, then a client's by their types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LocalSocket {
    /// Publishers' side of the forwarder: an XSUB. Also used for dialled publishers.
    Publishers,
    /// Subscribers' side of the forwarder: an XPUB.
    Subscribers,
    /// A service's ROUTER, for its workers.
    Workers,
    /// A ROUTER that answers requests.
    Requests,
    /// A client's DEALER, which asks.
    Dealer,
    /// A client's REQ, which asks and waits.
    Req,
    /// A client's PUB.
    Pub,
    /// A client's SUB.
    Sub,
}

impl LocalSocket {
    /// What we say we are.
    pub fn socket_type(self) -> SocketType {
        match self {
            Self::Publishers => SocketType::Xsub,
            Self::Subscribers => SocketType::Xpub,
            Self::Workers | Self::Requests => SocketType::Router,
            Self::Dealer => SocketType::Dealer,
            Self::Req => SocketType::Req,
            Self::Pub => SocketType::Pub,
            Self::Sub => SocketType::Sub,
        }
    }

    /// The peers that it may talk to, as in the RFC's table of valid combinations. A REP may not connect
    /// to our ROUTERs: two peers that both wait to be asked would wait for ever.
    pub fn accepts(self) -> &'static [SocketType] {
        match self {
            Self::Publishers => &[SocketType::Pub, SocketType::Xpub],
            Self::Subscribers => &[SocketType::Sub, SocketType::Xsub],
            Self::Workers | Self::Requests => {
                &[SocketType::Dealer, SocketType::Req, SocketType::Router]
            }
            Self::Dealer => &[SocketType::Rep, SocketType::Dealer, SocketType::Router],
            Self::Req => &[SocketType::Rep, SocketType::Router],
            Self::Pub => &[SocketType::Sub, SocketType::Xsub],
            Self::Sub => &[SocketType::Pub, SocketType::Xpub],
        }
    }
}

impl fmt::Display for LocalSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publishers => "publishers",
            Self::Subscribers => "subscribers",
            Self::Workers => "workers",
            Self::Requests => "requests",
            Self::Dealer | Self::Req | Self::Pub | Self::Sub => self.socket_type().name(),
        })
    }
}
