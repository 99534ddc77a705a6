//! CURVE (rfc.zeromq.org/spec/26), as libzmq speaks it.
//!
//! Each side has a long-term pair of keys, and makes another for each connection, so that what was
//! recorded stays unreadable when a long-term key is stolen. A client knows its server's long-term key;
//! the server learns the client's in the handshake, and decides then whether it may go on.
//!
//! ```text
//! client                                    server
//! HELLO    C', a box for S               ▶
//!                                        ◀  WELCOME   S' and a cookie
//! INITIATE the cookie, C, its vouch      ▶
//!                                        ◀  READY
//! ```
//!
//! After that each frame travels in a box of its own ([`Opener`], [`Sealer`]). Where libzmq and the RFC
//! differ, this does as libzmq: the boxes are in message frames, not in commands.

#[cfg(test)]
#[path = "tests/batch.rs"]
mod batch_tests;
mod boxes;
mod certificate;
mod client;
mod salsa20;
mod server;
mod stream;

pub(crate) use boxes::sha256;
pub use boxes::{KEY_BYTES, KeyPair, PublicKey};
pub use certificate::{Certificate, CertificateError, parse_key};
pub use client::{CLIENT_RANDOM_BYTES, CurveClient};
pub use server::{Agreed, CurveServer, Initiated, SERVER_RANDOM_BYTES};
pub use stream::{OpenError, Opened, Opener, Refused, SEALED_EXTRA_BYTES, Sealer, Session};

/// Why a peer's CURVE was refused. The texts continue "peer … refused:".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CurveError {
    /// A command is malformed, or comes at the wrong time.
    #[error("its CURVE handshake is not valid: {0}")]
    Malformed(&'static str),
    /// No server key of ours opens its HELLO.
    #[error("it was given another server key than ours")]
    WrongServerKey,
    /// A box could not be opened: it was changed, or belongs to another connection.
    #[error("it sent a box that was not sealed for this connection")]
    Forged,
    /// The counter of a box is not above that of the box before.
    #[error("it sent a box again, or an older one (libzmq before 4.1 counts wrongly)")]
    Replayed,
    /// The client doesn't prove that it owns the key that it names, or for us.
    #[error("it does not own the key that it names")]
    Vouch,
    /// A key is a point of low order.
    #[error("its key is none: a point of low order")]
    LowOrder,
    /// Something that isn't in a box after the handshake.
    #[error("it sent something unencrypted after its handshake")]
    Plaintext,
    /// All counters of this direction are used up.
    #[error("the connection's counters are used up")]
    Exhausted,
}

impl CurveError {
    /// A short word for counters.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed(_) => "curve-malformed",
            Self::WrongServerKey => "curve-server-key",
            Self::Forged => "curve-forged",
            Self::Replayed => "curve-replayed",
            Self::Vouch => "curve-vouch",
            Self::LowOrder => "curve-low-order",
            Self::Plaintext => "curve-plaintext",
            Self::Exhausted => "curve-exhausted",
        }
    }
}

const HELLO_NONCE: &[u8; 16] = b"CurveZMQHELLO---";
const INITIATE_NONCE: &[u8; 16] = b"CurveZMQINITIATE";
const READY_NONCE: &[u8; 16] = b"CurveZMQREADY---";
const WELCOME_NONCE: &[u8; 8] = b"WELCOME-";
const COOKIE_NONCE: &[u8; 8] = b"COOKIE--";
const VOUCH_NONCE: &[u8; 8] = b"VOUCH---";

/// Bytes of a HELLO's body.
const HELLO_BYTES: usize = 200;
/// Bytes of a WELCOME's body.
const WELCOME_BYTES: usize = 168;
/// Bytes of a cookie.
const COOKIE_BYTES: usize = 96;
/// Bytes of a vouch: a nonce, and a box of two keys.
const VOUCH_BYTES: usize = 96;
/// Bytes of an INITIATE's body without metadata.
const INITIATE_BYTES_MIN: usize = 9 + COOKIE_BYTES + 8 + 16 + KEY_BYTES + VOUCH_BYTES;

/// Cuts a command's body into fields of fixed lengths.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], CurveError> {
        let (taken, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(CurveError::Malformed("a command is too short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn take_counter(&mut self) -> Result<u64, CurveError> {
        self.take::<8>().map(|bytes| u64::from_be_bytes(*bytes))
    }
}

#[cfg(test)]
mod tests;
