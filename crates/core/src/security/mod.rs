//! Who may connect: networks, keys.

mod keyring;
mod networks;

pub use keyring::{Keyring, Refusal, SameKey};
pub use networks::{Network, NetworkError, is_local};
