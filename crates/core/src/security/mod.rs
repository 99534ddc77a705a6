//! Who may connect: networks, certificates, keys.

mod certificate;
mod keyring;
mod networks;

pub use certificate::{Certificate, CertificateError, parse_key};
pub use keyring::{Keyring, Refusal, SameKey};
pub use networks::{Network, NetworkError, is_local};
