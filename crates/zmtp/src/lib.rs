//! ZMTP 3.x (rfc.zeromq.org/spec/37) and 2.0 (spec/15) as bytes in, bytes out.
//!
//! A connection is a [`Handshake`] until the peer is known, then a [`Scanner`] that finds the
//! boundaries of messages and commands in place. Nothing here reads a socket or a clock, and nothing
//! is allocated for a length before that length was compared with the [`Limits`].

#![warn(missing_docs)]

mod command;
pub mod curve;
mod frame;
mod greeting;
mod handshake;
mod heartbeat;
mod hub_id;
mod limits;
mod mechanism;
mod plain;
mod scanner;
mod socket_type;
mod version;
pub mod z85;

pub use command::{
    Command, MalformedCommand, Subscription, decode_hub, encode_cancel, encode_hub, encode_ping,
    encode_pong, encode_subscribe, encode_trace,
};
pub use frame::{
    FrameError, FrameHeader, begun_frames, encode_frame, encode_message, frames, frames_of,
    last_frame_at, short_header,
};
pub use greeting::{GREETING_BYTES, Greeting, GreetingError, OLD_GREETING_BYTES};
pub use handshake::{Handshake, HandshakeError, Peer, Progress, Stage};
pub use heartbeat::{Heartbeat, Pulse};
pub use hub_id::HubId;
pub use limits::Limits;
pub use mechanism::{Mechanism, MechanismError, PeerKeys};
pub use plain::{PlainCredentials, PlainServer};
pub use scanner::{MessageSpan, Scanner, Step};
pub use socket_type::{LocalSocket, SocketType};
pub use version::Version;
