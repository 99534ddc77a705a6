//! Greetings: the version; in ZMTP 3 the mechanism, in 2.0 the socket type.

/// A greeting's length, in bytes.
pub const GREETING_BYTES: usize = 64;
/// The length of a greeting of ZMTP 2.0, in bytes. A frame with the identity follows.
pub const OLD_GREETING_BYTES: usize = 12;

const SIGNATURE_BYTES: usize = 10;
/// What both sides send before they know each other's version: signature and own version.
const OPENING_BYTES: usize = SIGNATURE_BYTES + 1;
const MECHANISM: std::ops::Range<usize> = 12..32;
const AS_SERVER: usize = 32;

/// What ends a greeting depends on the versions of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Generation {
    /// The peer speaks ZMTP 2.0, and so we do.
    Old,
    /// ZMTP 3.x.
    New,
}

impl Generation {
    /// Determines the version from the first bytes received; `None` while there are too few.
    ///
    /// # Errors
    /// As soon as the bytes can't become a greeting: a peer of another protocol may never send more.
    pub(super) fn of(received: &[u8]) -> Result<Option<Self>, GreetingError> {
        let Some(&first) = received.first() else {
            return Ok(None);
        };
        if first != 0xFF {
            // A ZMTP 1.0 peer opens with its identity: a length of at least 1, then flags of 0.
            let unversioned = first != 0 && received.get(1).is_none_or(|&flags| flags == 0);
            return match (unversioned, received.len()) {
                (true, 1) => Ok(None),
                (true, _) => Err(GreetingError::TooOld),
                (false, _) => Err(GreetingError::NotZmtp),
            };
        }
        if let Some(last) = received.get(SIGNATURE_BYTES - 1)
            && last & 1 == 0
        {
            return Err(GreetingError::TooOld);
        }
        match received.get(SIGNATURE_BYTES) {
            None => Ok(None),
            Some(0) => Err(GreetingError::TooOld),
            // 2 was a draft's; the RFC of ZMTP 3 has it treated alike.
            Some(1 | 2) => Ok(Some(Self::Old)),
            Some(_) => Ok(Some(Self::New)),
        }
    }
}

/// A peer's greeting of ZMTP 3.x.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// The minor version: 0 for ZMTP 3.0, 1 for 3.1, which has SUBSCRIBE commands and PING.
    pub minor: u8,
    /// The mechanism's name, such as `NULL`.
    pub mechanism: String,
    /// Whether the peer acts as the mechanism's server.
    pub as_server: bool,
}

/// Why a greeting was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GreetingError {
    /// Not ZMTP: HTTP, TLS, noise.
    #[error("it does not speak ZMTP (no greeting signature)")]
    NotZmtp,
    /// ZMTP 1.0.
    #[error("it speaks ZMTP 1.0; 2.0 or later is needed (libzmq 3.2, 2012)")]
    TooOld,
    /// The mechanism's name is not upper-case ASCII padded with NULs.
    #[error("its greeting names no mechanism")]
    NoMechanism,
}

impl Greeting {
    /// What we send: ZMTP 3.1.
    pub fn encode(mechanism: &str, as_server: bool) -> [u8; GREETING_BYTES] {
        let mut bytes = [0; GREETING_BYTES];
        bytes[0] = 0xFF;
        bytes[SIGNATURE_BYTES - 1] = 0x7F;
        bytes[10] = 3;
        bytes[11] = 1;
        bytes[MECHANISM][..mechanism.len()].copy_from_slice(mechanism.as_bytes());
        bytes[AS_SERVER] = as_server.into();
        bytes
    }

    /// What we send before we know the peer's version: as much as each version understands.
    pub(super) fn opening() -> [u8; OPENING_BYTES] {
        let mut bytes = [0; OPENING_BYTES];
        bytes.copy_from_slice(&Self::encode("", false)[..OPENING_BYTES]);
        bytes
    }

    /// The rest of our greeting, for a peer of ZMTP 3.x.
    pub(super) fn rest(mechanism: &str, as_server: bool) -> [u8; GREETING_BYTES - OPENING_BYTES] {
        let mut bytes = [0; GREETING_BYTES - OPENING_BYTES];
        bytes.copy_from_slice(&Self::encode(mechanism, as_server)[OPENING_BYTES..]);
        bytes
    }

    /// Reads a greeting of ZMTP 3.x from the front of `received`, which begins like one; `None` while
    /// it is incomplete.
    ///
    /// # Errors
    /// [`GreetingError::NoMechanism`].
    pub(super) fn parse(received: &[u8]) -> Result<Option<Self>, GreetingError> {
        if received.len() < GREETING_BYTES {
            return Ok(None);
        }
        let name = &received[MECHANISM];
        let len = name
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(name.len());
        let valid = |byte: &u8| {
            byte.is_ascii_uppercase() || byte.is_ascii_digit() || b"-_.+".contains(byte)
        };
        if len == 0 || !name[..len].iter().all(valid) {
            return Err(GreetingError::NoMechanism);
        }
        Ok(Some(Self {
            minor: received[11],
            mechanism: String::from_utf8_lossy(&name[..len]).into_owned(),
            as_server: received[AS_SERVER] & 1 == 1,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_greeting_is_read_in_pieces() {
        let bytes = Greeting::encode("NULL", false);
        assert_eq!(
            [&Greeting::opening()[..], &Greeting::rest("NULL", false)].concat(),
            bytes
        );
        for len in 0..GREETING_BYTES {
            let known = (len > SIGNATURE_BYTES).then_some(Generation::New);
            assert_eq!(Generation::of(&bytes[..len]), Ok(known));
            assert_eq!(Greeting::parse(&bytes[..len]), Ok(None));
        }
        let greeting = Greeting::parse(&bytes).unwrap().unwrap();
        assert_eq!(
            greeting,
            Greeting {
                minor: 1,
                mechanism: "NULL".into(),
                as_server: false
            }
        );
    }

    #[test]
    fn others_are_told_apart_early() {
        assert_eq!(
            Generation::of(b"GET / HTTP/1.1\r\n"),
            Err(GreetingError::NotZmtp)
        );
        assert_eq!(
            Generation::of(&[0x16, 0x03, 0x01, 0x02]),
            Err(GreetingError::NotZmtp)
        );
        assert_eq!(Generation::of(&[0x01, 0x00]), Err(GreetingError::TooOld));
        let signature = [0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x7F];
        assert_eq!(Generation::of(&signature), Ok(None));
        for (revision, expected) in [
            (0, Err(GreetingError::TooOld)),
            (1, Ok(Some(Generation::Old))),
            (2, Ok(Some(Generation::Old))),
            (3, Ok(Some(Generation::New))),
            (4, Ok(Some(Generation::New))),
        ] {
            let opening = [&signature[..], &[revision]].concat();
            assert_eq!(Generation::of(&opening), expected, "{revision}");
        }
        let mut nameless = Greeting::encode("NULL", false);
        nameless[12..16].fill(0);
        assert_eq!(Greeting::parse(&nameless), Err(GreetingError::NoMechanism));
    }
}
