//! Peers of ZMTP 2.0, as libzmq 3.2 and JeroMQ 0.3 speak it: they say their version and socket type
//! when they have seen our signature, and take our 11th byte for our version, the 12th for our type.

use std::net::TcpListener;

use event_manager_wire::model::Endpoint;

use super::PATIENCE;
use super::raw::{RawPeer, frame};

/// What such a peer sends first: it has no identity.
pub const SIGNATURE: [u8; 10] = [0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x7F];
/// The revision that means ZMTP 2.0.
pub const REVISION: u8 = 1;

/// A socket type's number in ZMTP 2.0.
pub fn number(socket_type: &str) -> u8 {
    const NAMES: [&str; 11] = [
        "PAIR", "PUB", "SUB", "REQ", "REP", "DEALER", "ROUTER", "PULL", "PUSH", "XPUB", "XSUB",
    ];
    let at = NAMES.iter().position(|name| *name == socket_type);
    at.expect("a socket type") as u8
}

/// A greeting of ZMTP 2.0, with the identity behind it.
pub fn greeting(socket_type: &str, identity: &str) -> Vec<u8> {
    let rest = [REVISION, number(socket_type)];
    [&SIGNATURE[..], &rest, &frame(0, identity.as_bytes())].concat()
}

impl RawPeer {
    /// A peer of ZMTP 2.0 whose handshake is done.
    pub fn met_old(address: &str, socket_type: &str) -> Self {
        Self::connect(address).meet_old(socket_type, "", 0)
    }

    /// Shakes hands step by step, and expects a peer of this number; 0 is any.
    pub fn meet_old(mut self, socket_type: &str, identity: &str, theirs: u8) -> Self {
        self.send(&SIGNATURE);
        let signature = self.read_exactly(10);
        assert_eq!((signature[0], signature[9] & 1), (0xFF, 1));
        self.send(&[REVISION, number(socket_type)]);
        let [revision, kind] = self.read_exactly(2)[..] else {
            unreachable!("two bytes were read")
        };
        assert!(revision >= REVISION, "revision {revision}");
        // The RFC knows no others, though libzmq sends 9 and 10.
        assert!((1..=8).contains(&kind), "socket type {kind}");
        assert!(theirs == 0 || kind == theirs, "socket type {kind}");
        self.send(&frame(0, identity.as_bytes()));
        assert_eq!(self.read_exactly(2), [0, 0], "an empty identity");
        self
    }
}

/// A publisher of any kind that binds.
pub struct Listening(TcpListener);

impl Listening {
    pub fn bind() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").expect("a port"))
    }

    pub fn endpoint(&self) -> Endpoint {
        let port = self.0.local_addr().expect("it is bound").port();
        Endpoint::tcp("127.0.0.1", port)
    }

    /// The next who dials.
    pub fn accept(&self) -> RawPeer {
        let (stream, _) = self.0.accept().expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("an option");
        RawPeer(stream)
    }
}
