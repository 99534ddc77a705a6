//! Certificates, as pyzmq and czmq write them.

use super::boxes::{KEY_BYTES, KeyPair, PublicKey};
use crate::z85;

/// The keys in a certificate's file.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The public key.
    pub public: PublicKey,
    /// Both keys, if the file has the secret one.
    pub pair: Option<KeyPair>,
}

/// Why a text is no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// There is no line with this key.
    #[error("it has no line {0} = \"...\", so it is no certificate")]
    Missing(&'static str),
    /// Both keys are wanted, and there is one.
    #[error("it has only the public key: the file with the secret one is wanted, NAME.key_secret")]
    OnlyPublic,
    /// A key is not one. The text is not shown, because it may be nearly a secret.
    #[error("line {line}: {name} is not 40 characters of Z85, 64 of hex or 44 of base64")]
    Key {
        /// The line, from 1.
        line: usize,
        /// `public-key` or `secret-key`.
        name: &'static str,
    },
    /// The public key is not that of the secret one.
    #[error("its public-key does not belong to its secret-key")]
    Mismatch,
}

/// A key in one of the forms in which people write them: Z85 (libzmq), hex, base64.
pub fn parse_key(text: &str) -> Option<[u8; KEY_BYTES]> {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
    let bytes = match text.len() {
        40 => z85::decode(text)?,
        64 => {
            let digits = text.as_bytes().as_chunks::<2>().0.iter();
            let byte = |pair: &[u8; 2]| {
                let digit = |digit: u8| char::from(digit).to_digit(16);
                Some((digit(pair[0])? * 16 + digit(pair[1])?) as u8)
            };
            digits.map(byte).collect::<Option<_>>()?
        }
        43 => STANDARD_NO_PAD.decode(text).ok()?,
        44 => STANDARD.decode(text).ok()?,
        _ => return None,
    };
    bytes.try_into().ok()
}

/// What stands in front of a public certificate, for people.
const PUBLIC_HEAD: &str = "\
#   ZeroMQ CURVE Public Certificate, by event-manager
#   Exchange securely, or compare the key after exchange.

";
/// The same of a secret one.
const SECRET_HEAD: &str = "\
#   ZeroMQ CURVE **Secret** Certificate, by event-manager
#   DO NOT PROVIDE THIS FILE TO OTHER USERS nor change its permissions.

";

impl Certificate {
    /// The text of a file with the public key only, as pyzmq and czmq read it.
    pub fn public_text(public: &PublicKey) -> String {
        format!("{PUBLIC_HEAD}metadata\ncurve\n    public-key = \"{public}\"\n")
    }

    /// The text of a file with both keys. It is the secret.
    pub fn secret_text(pair: &KeyPair) -> String {
        let (public, secret) = (pair.public(), z85::encode(pair.secret()));
        format!(
            "{SECRET_HEAD}metadata\ncurve\n    public-key = \"{public}\"\n    secret-key = \"{secret}\"\n"
        )
    }

    /// Reads a file's text: lines `public-key = "..."` and `secret-key = "..."` in any place, with quotes
    /// of either kind. Other lines are passed over.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn parse(text: &str) -> Result<Self, CertificateError> {
        let public = find(text, "public-key")?.map(PublicKey::from_bytes);
        let pair = find(text, "secret-key")?.map(KeyPair::from_secret);
        match (public, pair) {
            (Some(public), Some(pair)) if *pair.public() != public => {
                Err(CertificateError::Mismatch)
            }
            (None, None) => Err(CertificateError::Missing("public-key")),
            (Some(public), pair) => Ok(Self { public, pair }),
            (None, Some(pair)) => Ok(Self {
                public: *pair.public(),
                pair: Some(pair),
            }),
        }
    }

    /// Both keys.
    ///
    /// # Errors
    /// [`CertificateError::OnlyPublic`].
    pub fn into_pair(self) -> Result<KeyPair, CertificateError> {
        self.pair.ok_or(CertificateError::OnlyPublic)
    }
}

/// The key of the first line with this name.
fn find(text: &str, name: &'static str) -> Result<Option<[u8; KEY_BYTES]>, CertificateError> {
    for (i, line) in text.lines().enumerate() {
        // The first `=`: a key may have one.
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        if key.trim() == name {
            let value = value.trim();
            let unquoted = ['"', '\''].iter().find_map(|quote| {
                let inner = value.strip_prefix(*quote)?;
                inner.strip_suffix(*quote)
            });
            let read = parse_key(unquoted.unwrap_or(value));
            let error = CertificateError::Key { line: i + 1, name };
            return read.map(Some).ok_or(error);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// By `zmq.auth.create_certificates` of pyzmq 27.
    const PYZMQ_SECRET: &str = "#   ****  Generated on 2026-11-28 17:00:10.100000 by pyzmq  ****\n\
        #   ZeroMQ CURVE **Secret** Certificate\n\
        #   DO NOT PROVIDE THIS FILE TO OTHER USERS nor change its permissions.\n\n\
        metadata\n\
        curve\n    \
            public-key = \"Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID\"\n    \
            secret-key = \"D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs\"\n";

    #[test]
    fn certificates_of_pyzmq_are_read() {
        let certificate = Certificate::parse(PYZMQ_SECRET).unwrap();
        assert_eq!(
            certificate.public.to_string(),
            "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"
        );
        let public: String = PYZMQ_SECRET
            .lines()
            .filter(|line| !line.contains("secret-key"))
            .map(|line| format!("{line}\n"))
            .collect();
        let certificate = Certificate::parse(&public).unwrap();
        assert!(certificate.pair.is_none());
        assert_eq!(
            certificate.into_pair().unwrap_err(),
            CertificateError::OnlyPublic
        );
    }

    /// As czmq 4.2's `zcert_save` writes it.
    const CZMQ_SECRET: &str = "#   ****  Generated on 2026-11-28 17:00:10 by CZMQ  ****\n\
        #   ZeroMQ CURVE **Secret** Certificate\n\
        #   DO NOT PROVIDE THIS FILE TO OTHER USERS nor change its permissions.\n\n\
        metadata\n    name = \"public-key = 1\"\n    email = \"a@b\"\n\
        curve\n    \
            public-key = \"Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID\"\n    \
            secret-key = \"D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs\"\n";

    #[test]
    fn certificates_of_czmq_are_read() {
        let certificate = Certificate::parse(CZMQ_SECRET).unwrap();
        let pyzmq = Certificate::parse(PYZMQ_SECRET).unwrap();
        assert_eq!(certificate.public, pyzmq.public);
        assert!(certificate.pair.is_some());
    }

    #[test]
    fn what_is_written_is_read() {
        let pair = KeyPair::from_secret([7; KEY_BYTES]);
        let read = Certificate::parse(&Certificate::public_text(pair.public())).unwrap();
        assert_eq!(read.public, *pair.public());
        assert!(read.pair.is_none());
        let read = Certificate::parse(&Certificate::secret_text(&pair)).unwrap();
        assert_eq!(read.into_pair().unwrap().secret(), pair.secret());
    }

    #[test]
    fn keys_in_other_forms_are_read() {
        let key: [u8; 32] = std::array::from_fn(|i| i as u8 * 7);
        let hex: String = key.iter().map(|byte| format!("{byte:02X}")).collect();
        for text in [
            z85::encode(&key),
            hex.to_lowercase(),
            hex,
            "AAcOFRwjKjE4P0ZNVFtiaXB3foWMk5qhqK+2vcTL0tk=".into(),
            "AAcOFRwjKjE4P0ZNVFtiaXB3foWMk5qhqK+2vcTL0tk".into(),
        ] {
            assert_eq!(parse_key(&text), Some(key), "{text}");
            for quoted in [format!("'{text}'"), format!("\"{text}\""), text] {
                let certificate = Certificate::parse(&format!("public-key={quoted}"));
                assert_eq!(certificate.unwrap().public.as_bytes(), &key);
            }
        }
    }

    #[test]
    fn what_is_no_certificate_is_named_without_its_keys() {
        let mixed = PYZMQ_SECRET.replace("Yne@", "Ynf@");
        let short = PYZMQ_SECRET.replace("D:)Q", "D:)");
        for (text, expected) in [
            (
                "",
                "it has no line public-key = \"...\", so it is no certificate",
            ),
            (&*mixed, "its public-key does not belong to its secret-key"),
            (
                &*short,
                "line 8: secret-key is not 40 characters of Z85, 64 of hex or 44 of base64",
            ),
        ] {
            assert_eq!(Certificate::parse(text).unwrap_err().to_string(), expected);
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(text in "(public-key|secret-key|=|\"|'| |[a-z0-9]|\n|.){0,80}") {
            let _ = Certificate::parse(&text);
            let _ = parse_key(&text);
        }
    }
}
