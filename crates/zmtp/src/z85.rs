//! Z85 (rfc.zeromq.org/spec/32): four bytes as five characters, in which libzmq's users write keys.

const ALPHABET: &[u8; 85] =
    b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";

/// These bytes, four at a time; bytes beyond a multiple of four are left out.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() / 4 * 5);
    for chunk in bytes.as_chunks::<4>().0 {
        let number = u32::from_be_bytes(*chunk);
        for power in (0..5).rev() {
            let digit = number / 85u32.pow(power) % 85;
            text.push(char::from(ALPHABET[digit as usize]));
        }
    }
    text
}

/// The bytes of a text; `None` if it isn't Z85: of another length than a multiple of five, with a
/// character that isn't of its alphabet, or with five of them that are more than four bytes hold.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let (chunks, []) = text.as_bytes().as_chunks::<5>() else {
        return None;
    };
    let mut bytes = Vec::with_capacity(chunks.len() * 4);
    for chunk in chunks {
        let mut number = 0u32;
        for byte in chunk {
            let digit = ALPHABET.iter().position(|known| known == byte)?;
            number = number.checked_mul(85)?.checked_add(digit as u32)?;
        }
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_the_rfc_holds() {
        let bytes = [0x86, 0x4F, 0xD2, 0x6F, 0xB5, 0x59, 0xF7, 0x5B];
        assert_eq!(encode(&bytes), "HelloWorld");
        assert_eq!(decode("HelloWorld"), Some(bytes.to_vec()));
    }

    #[test]
    fn what_is_no_z85_is_refused() {
        for text in [
            "Hello\"orld",
            "HelloWorl",
            "#####",
            "%nSc1",
            "Hell\u{f6}",
            "     ",
        ] {
            assert_eq!(decode(text), None, "{text}");
        }
        assert_eq!(decode("%nSc0"), Some(vec![0xFF; 4]), "the largest");
        assert_eq!(decode(""), Some(vec![]));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let whole = bytes.len() / 4 * 4;
            prop_assert_eq!(decode(&encode(&bytes)), Some(bytes[..whole].to_vec()));
        }

        #[test]
        fn noise_never_panics(text in ".{0,60}") {
            let _ = decode(&text);
        }
    }
}
