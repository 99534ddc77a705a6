//! The first 64 bytes: who speaks which version, and which mechanism.

/// A greeting's length, in bytes.
pub const GREETING_BYTES: usize = 64;

const SIGNATURE_BYTES: usize = 10;
const MECHANISM: std::ops::Range<usize> = 12..32;
const AS_SERVER: usize = 32;

/// What a peer's greeting said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// The minor version: 0 for ZMTP 3.0, 1 for 3.1, which has SUBSCRIBE commands and PING.
    pub minor: u8,
    /// The mechanism's name, such as `NULL`.
    pub mechanism: String,
    /// Whether the peer takes the server's part of the mechanism.
    pub as_server: bool,
}

/// Why a greeting was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GreetingError {
    /// No ZMTP at all: HTTP, TLS, noise.
    #[error("it does not speak ZMTP (no greeting signature)")]
    NotZmtp,
    /// ZMTP 1.0 or 2.0; holds which.
    #[error("it speaks ZMTP {0}; 3.0 or later is needed (libzmq 4.0, October 2013)")]
    TooOld(&'static str),
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

    /// Reads a greeting from the front of `received`; `None` while it is incomplete.
    ///
    /// # Errors
    /// As soon as the bytes that are there can't become a greeting of ZMTP 3.x: a peer of another
    /// kind may never send 64 bytes.
    pub fn parse(received: &[u8]) -> Result<Option<Self>, GreetingError> {
        let Some(&first) = received.first() else {
            return Ok(None);
        };
        if first != 0xFF {
            // A ZMTP 1.0 peer opens with its identity: a length of at least 1, then flags of 0.
            let unversioned = first != 0 && received.get(1).is_none_or(|&flags| flags == 0);
            return match (unversioned, received.len()) {
                (true, 1) => Ok(None),
                (true, _) => Err(GreetingError::TooOld("1.0")),
                (false, _) => Err(GreetingError::NotZmtp),
            };
        }
        if let Some(last) = received.get(SIGNATURE_BYTES - 1)
            && last & 1 == 0
        {
            return Err(GreetingError::TooOld("1.0"));
        }
        match received.get(SIGNATURE_BYTES) {
            Some(0) => return Err(GreetingError::TooOld("1.0")),
            Some(1 | 2) => return Err(GreetingError::TooOld("2.0")),
            _ => {}
        }
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
        for len in 0..GREETING_BYTES {
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
            Greeting::parse(b"GET / HTTP/1.1\r\n"),
            Err(GreetingError::NotZmtp)
        );
        assert_eq!(
            Greeting::parse(&[0x16, 0x03, 0x01, 0x02]),
            Err(GreetingError::NotZmtp)
        );
        assert_eq!(
            Greeting::parse(&[0x01, 0x00]),
            Err(GreetingError::TooOld("1.0"))
        );
        let mut old = vec![0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x7F];
        assert_eq!(Greeting::parse(&old), Ok(None));
        old.push(1);
        assert_eq!(Greeting::parse(&old), Err(GreetingError::TooOld("2.0")));
        let mut nameless = Greeting::encode("NULL", false);
        nameless[12..16].fill(0);
        assert_eq!(Greeting::parse(&nameless), Err(GreetingError::NoMechanism));
    }
}
