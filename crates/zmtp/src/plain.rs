//! PLAIN (rfc.zeromq.org/spec/24) on the side that is connected to: a name and a password, in the clear.

use std::fmt;

use bytes::BytesMut;

use super::command::encode_command;
use super::curve::sha256;
use super::mechanism::MechanismError;

/// What a peer says of itself with PLAIN. Of its password only the digest is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct PlainCredentials {
    /// Its name, at most 255 bytes.
    pub name: String,
    /// The SHA-256 digest of its password.
    pub digest: [u8; 32],
}

impl fmt::Debug for PlainCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlainCredentials({:?}, …)", self.name)
    }
}

/// The server's half of a handshake. It tells the peer nothing about its password: who is refused is
/// closed, as with the other mechanisms.
#[derive(Debug, Default)]
pub struct PlainServer {
    /// Once HELLO has come.
    credentials: Option<PlainCredentials>,
}

const MALFORMED: MechanismError = MechanismError::Malformed("its PLAIN handshake is cut off");

impl PlainServer {
    /// Takes HELLO, and appends WELCOME.
    pub(super) fn hello(&mut self, rest: &[u8], out: &mut BytesMut) -> Result<(), MechanismError> {
        let (name, rest) = split_short(rest).ok_or(MALFORMED)?;
        let (password, rest) = split_short(rest).ok_or(MALFORMED)?;
        let name = std::str::from_utf8(name);
        let name = name.map_err(|_| MechanismError::Malformed("its name is not UTF-8"))?;
        if !rest.is_empty() || self.credentials.is_some() {
            return Err(MechanismError::Malformed(
                "its PLAIN handshake is not valid",
            ));
        }
        self.credentials = Some(PlainCredentials {
            name: name.to_owned(),
            digest: sha256(password),
        });
        encode_command(out, "WELCOME", &[]);
        Ok(())
    }

    /// At INITIATE: who it says that it is.
    pub(super) fn initiated(&mut self) -> Result<PlainCredentials, MechanismError> {
        self.credentials
            .take()
            .ok_or(MechanismError::Malformed("INITIATE before HELLO"))
    }
}

/// Splits off what is preceded by its length.
fn split_short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_and_a_password_are_read_once() {
        let (mut server, mut out) = (PlainServer::default(), BytesMut::new());
        assert!(server.initiated().is_err(), "INITIATE first");
        server.hello(b"\x05admin\x06secret", &mut out).unwrap();
        assert_eq!(out[..], b"\x04\x08\x07WELCOME"[..]);
        assert!(
            server.hello(b"\x05admin\x06secret", &mut out).is_err(),
            "two HELLOs"
        );
        let credentials = server.initiated().unwrap();
        assert_eq!(credentials.name, "admin");
        // printf secret | sha256sum
        assert_eq!(credentials.digest[..4], [0x2b, 0xb8, 0x0d, 0x53]);
        assert!(!format!("{credentials:?}").contains("43"));
        assert!(server.initiated().is_err(), "two INITIATEs");
    }

    #[test]
    fn what_is_no_hello_is_refused() {
        for wrong in [
            &b""[..],
            b"\x05adm",
            b"\x01a",
            b"\x01a\x02b",
            b"\x01a\x01b!",
            b"\x01\xff\x01b",
        ] {
            let refused = PlainServer::default().hello(wrong, &mut BytesMut::new());
            assert!(refused.is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(bytes: Vec<u8>) {
            let _ = PlainServer::default().hello(&bytes, &mut BytesMut::new());
        }
    }
}
