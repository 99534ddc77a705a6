//! The keys of clients with CURVE, from files.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use event_manager_zmtp::curve::{
    Certificate, CertificateError, KEY_BYTES, KeyPair, PublicKey, parse_key,
};

use crate::ambient::random_bytes;

/// No certificate is nearly as large.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// The keys of a client with CURVE.
#[derive(Debug, Clone)]
pub struct ClientKeys {
    /// Its own, of which the server knows the public one.
    pub own: KeyPair,
    /// The server's.
    pub server: PublicKey,
}

/// Why keys can't be used. What was given for a key is not shown: it may be a secret one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeysError {
    /// A file can't be read.
    #[error("{path} can't be read: {why}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says of it.
        why: String,
    },
    /// A file is no certificate.
    #[error("{path}: {error}", path = path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with its content.
        error: CertificateError,
    },
    /// A client's file has no secret key.
    #[error("{path} has only the public key: name the file with the secret one, which pyzmq and czmq call NAME.key_secret", path = path.display())]
    NoSecret {
        /// The file.
        path: PathBuf,
    },
    /// What was given for a client's certificate is no file. It is not shown: it may be the key itself.
    #[error(
        "the client's key is to be the name of its certificate (NAME.key_secret), and what was given names no file"
    )]
    NoFile,
    /// What was given for the server's key is none.
    #[error(
        "the server key is neither a key (40 characters of Z85, 64 of hex or 44 of base64) nor the name of a file"
    )]
    NoServerKey,
    /// What was given for the server's key is a file with a secret one.
    #[error("{path} has a secret key, which nobody but its owner should have: name the file with the server's public key alone (server.key)", path = path.display())]
    Secret {
        /// The file.
        path: PathBuf,
    },
    /// What was given for the server's key is this client's own secret one.
    #[error(
        "what was given for the server's key is the client's own {0} key: the server's public one is wanted"
    )]
    Own(&'static str),
    /// One is given without the other.
    #[error(
        "{0} is given without {1}: a client needs its own keys and the public one of its server"
    )]
    Half(&'static str, &'static str),
    /// The system gives no random bytes.
    #[error("no key can be made: {0}")]
    NoRandomness(String),
}

impl ClientKeys {
    /// A client's certificate, the file with its secret key, as pyzmq and czmq write it; and the public
    /// key of its server: Z85, hex or base64, or the name of a certificate.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn load(certificate: impl AsRef<Path>, server_key: &str) -> Result<Self, KeysError> {
        let (own, server) = (load_pair(certificate.as_ref())?, load_public(server_key)?);
        // A key of one's own is never the server's, but for the daemon itself.
        match server.as_bytes() == own.secret() {
            true => Err(KeysError::Own("secret")),
            false => Ok(Self { own, server }),
        }
    }
}

/// A new pair of keys.
///
/// # Errors
/// [`KeysError::NoRandomness`].
pub fn new_pair() -> Result<KeyPair, KeysError> {
    let secret = random_bytes::<KEY_BYTES>();
    let secret = secret.map_err(|error| KeysError::NoRandomness(error.to_string()))?;
    Ok(KeyPair::from_secret(secret))
}

/// Both keys of a certificate.
///
/// # Errors
/// [`KeysError`].
pub fn load_pair(path: &Path) -> Result<KeyPair, KeysError> {
    match load(path) {
        Ok(Certificate {
            pair: Some(pair), ..
        }) => Ok(pair),
        Ok(_) => Err(KeysError::NoSecret {
            path: path.to_owned(),
        }),
        Err(KeysError::Unreadable { .. }) if may_be_a_key(path) => Err(KeysError::NoFile),
        Err(error) => Err(error),
    }
}

/// A public key: Z85, hex or base64, or the name of a certificate.
///
/// # Errors
/// [`KeysError`].
pub fn load_public(key_or_path: &str) -> Result<PublicKey, KeysError> {
    let text = key_or_path.trim();
    if let Some(key) = parse_key(text) {
        return Ok(PublicKey::from_bytes(key));
    }
    match load(Path::new(text)) {
        Ok(Certificate { pair: Some(_), .. }) => Err(KeysError::Secret { path: text.into() }),
        Ok(certificate) => Ok(certificate.public),
        Err(KeysError::Unreadable { .. }) if may_be_a_key(Path::new(text)) => {
            Err(KeysError::NoServerKey)
        }
        Err(error) => Err(error),
    }
}

/// Whether a path may be a key itself, with a slip, which must not be shown.
fn may_be_a_key(path: &Path) -> bool {
    !path.to_string_lossy().contains(".key") && !path.exists()
}

fn load(path: &Path) -> Result<Certificate, KeysError> {
    let text = read(path).map_err(|error| KeysError::Unreadable {
        path: path.to_owned(),
        why: error.to_string(),
    })?;
    Certificate::parse(&text).map_err(|error| KeysError::Certificate {
        path: path.to_owned(),
        error,
    })
}

/// It may be a pipe: of a program that has the secret.
fn read(path: &Path) -> io::Result<String> {
    let mut bytes = vec![];
    let file = File::open(path)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let why = format!("it has more than {FILE_BYTES_MAX} bytes, so it is no certificate");
        return Err(io::Error::other(why));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is no text, so it is no certificate"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Files(PathBuf);

    impl Files {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("em-keys-{}", crate::ambient::unique()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, bytes).unwrap();
            path
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_server_s_key_may_be_written_or_named() {
        let files = Files::new();
        let (own, server) = (new_pair().unwrap(), new_pair().unwrap());
        let secret = files.write("a.key_secret", Certificate::secret_text(&own));
        let public = files.write("server.key", Certificate::public_text(server.public()));
        let hex: String = server
            .public()
            .as_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let written = server.public().to_string();
        for given in [
            written.as_str(),
            &hex,
            &format!(" {written}\n"),
            public.to_str().unwrap(),
        ] {
            let keys = ClientKeys::load(&secret, given).unwrap();
            assert_eq!(
                (keys.own.public(), keys.server),
                (own.public(), *server.public())
            );
        }
    }

    #[test]
    fn what_is_no_key_is_named_and_not_shown() {
        let files = Files::new();
        let own = new_pair().unwrap();
        let text = Certificate::secret_text(&own);
        let good = files.write("a.key_secret", &text);
        let public = files.write("a.key", Certificate::public_text(own.public()));
        let cut = files.write("cut.key_secret", &text[..text.len() - 4]);
        let noise = files.write("noise.key", [0xFF; 100]);
        let large = files.write("large.key", vec![b'a'; 70_000]);
        let missing = files.0.join("missing.key");
        for (path, why) in [
            (&public, "has only the public key"),
            (&cut, "line 7: secret-key is not 40 characters"),
            (&noise, "it is no text"),
            (&large, "more than 65536 bytes"),
            (&missing, "No such file"),
            (&files.0, "can't be read: Is a directory"),
        ] {
            let error = load_pair(path).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
            assert!(error.contains(path.to_str().unwrap()), "{error}");
            assert!(
                !error.contains(&text[text.len() - 30..text.len() - 5]),
                "{error}"
            );
        }
        // Perhaps a secret with a slip.
        let secret = event_manager_zmtp::z85::encode(own.secret());
        for given in [&secret[1..], &format!("{secret}x"), ""] {
            let error = ClientKeys::load(&good, given).unwrap_err();
            assert_eq!(error, KeysError::NoServerKey, "{given}");
        }
        let error = load_pair(Path::new(&secret)).unwrap_err();
        assert_eq!(error, KeysError::NoFile);
        let error = ClientKeys::load(&good, "no/server.key").unwrap_err();
        assert!(error.to_string().starts_with("no/server.key can't be read"));
    }
}
