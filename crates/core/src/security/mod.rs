//! Who may connect: networks, keys, and how often.

mod handshakes;
mod keyring;
mod networks;

pub use handshakes::{HandshakeLimits, Handshakes, Origin, TooMany, UnderWay};
pub use keyring::{Keyring, Refusal, SameKey};
pub use networks::{Network, NetworkError, is_local};
