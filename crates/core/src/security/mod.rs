//! Who may connect: networks, keys, and how often; and what each client may do.

mod access;
mod bucket;
mod handshakes;
mod judge;
mod keyring;
mod networks;
mod rights;
mod unfinished;

pub use access::{Access, Grant, Identity, Quotas};
pub use bucket::Bucket;
pub use handshakes::{HandshakeLimits, Handshakes, Origin, TooMany, UnderWay};
pub use judge::{Deed, Denial, Denied, Verdicts};
pub use keyring::{Keyring, Presented, Refusal, SameKey, Shown};
pub use networks::{Network, NetworkError, is_local};
pub use rights::{
    InvalidNamePattern, NamePattern, RequestKinds, Rights, ServiceNames, Subjects, request_name,
    request_named, request_names,
};
pub use unfinished::{Crowded, Place, Unfinished, UnfinishedLimits};
