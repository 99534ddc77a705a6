//! HTTPS, with certificates that change while the daemon runs.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

use super::timed::Timed;
use crate::ambient::now;
use crate::config::Config;
use crate::keys::{FileVersion, KeysError, SecretFile};

/// Between two looks at the files.
const LOOKS: Duration = Duration::from_millis(500);

/// How connections are met that are encrypted.
pub struct Tls {
    certificate: SecretFile,
    key: SecretFile,
    read: [Option<FileVersion>; 2],
    looked: Instant,
    acceptor: TlsAcceptor,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tls({:?})", self.certificate.path())
    }
}

impl Tls {
    /// Reads the files, if there are to be any.
    ///
    /// # Errors
    /// One can't be read, they don't belong together, or others may read the key.
    pub fn load(config: &Config) -> Result<Option<Self>, KeysError> {
        let paths = (&config.http_tls_certificate, &config.http_tls_key);
        let (Some(certificate), Some(key)) = paths else {
            return Ok(None);
        };
        let certificate = SecretFile::for_all("httpTlsCertificate", certificate.clone());
        let key = SecretFile::new("httpTlsKey", key.clone(), &config.security);
        Ok(Some(Self {
            read: [certificate.version(), key.version()],
            acceptor: read(&certificate, &key)?,
            looked: now(),
            certificate,
            key,
        }))
    }

    /// Uses what the files have now. If that is no good, what they had stays in use.
    pub(super) fn look(&mut self) {
        let now = now();
        if now.duration_since(self.looked) < LOOKS {
            return;
        }
        self.looked = now;
        let versions = [self.certificate.version(), self.key.version()];
        if versions == self.read {
            return;
        }
        self.read = versions;
        match read(&self.certificate, &self.key) {
            Ok(acceptor) => self.acceptor = acceptor,
            Err(error) => {
                tracing::warn!(target: "em.http", "the certificate before stays in use: {error}");
            }
        }
    }

    /// What shakes hands with a connection.
    pub(super) fn handshake(&self) -> Handshake {
        Handshake(self.acceptor.clone())
    }
}

/// Of one connection.
pub(super) struct Handshake(TlsAcceptor);

impl Handshake {
    /// # Errors
    /// The peer doesn't speak TLS, or not ours.
    pub(super) async fn accept(self, stream: Timed) -> io::Result<TlsStream<Timed>> {
        self.0.accept(stream).await
    }
}

fn read(certificate: &SecretFile, key: &SecretFile) -> Result<TlsAcceptor, KeysError> {
    let (_, text) = certificate.read()?;
    let chain = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| certificate.unfit(error))?;
    if chain.is_empty() {
        return Err(certificate.unfit("it has no certificate in PEM"));
    }
    let (_, text) = key.read()?;
    let private = PrivateKeyDer::from_pem_slice(text.as_bytes());
    let private = private.map_err(|error| key.unfit(error))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| key.unfit(error))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| key.unfit(error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
