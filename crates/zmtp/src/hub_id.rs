//! How an event manager of a mesh names itself.

use std::fmt;

/// The property of READY by which an event manager that dials another says that it is a hub of the mesh.
pub(super) const HUB: &str = "X-EM-Hub";

/// The id of an event manager, which it keeps over restarts: 16 hex digits where it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HubId(u64);

impl HubId {
    /// One of these 8 bytes, which are random.
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(u64::from_be_bytes(bytes))
    }

    /// Reads 16 hex digits, and nothing else.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let is_one = text.len() == 16 && text.iter().all(u8::is_ascii_hexdigit);
        let text = std::str::from_utf8(text).ok().filter(|_| is_one)?;
        u64::from_str_radix(text, 16).ok().map(Self)
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_hex_digits_are_read_and_nothing_else() {
        let id = HubId::from_bytes([0, 1, 2, 3, 4, 5, 6, 0xAB]);
        assert_eq!(id.to_string(), "00010203040506ab");
        assert_eq!(HubId::parse(b"00010203040506AB"), Some(id));
        for wrong in [
            &b""[..],
            b"00010203040506a",
            b"00010203040506abc",
            b"+0010203040506ab",
            b"0001020304 506ab",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert_eq!(HubId::parse(wrong), None, "{wrong:?}");
        }
    }
}
