//! HTTPS, with certificates that change while the daemon runs.

use std::io;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

use super::renewed::Renewed;
use super::timed::Timed;
use crate::config::Config;
use crate::keys::{ConfiguredFile, KeysError};

/// How connections are met that are encrypted.
#[derive(Debug)]
pub struct Tls(Renewed<TlsAcceptor, 2>);

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
        let certificate = ConfiguredFile::public("httpTlsCertificate", certificate.clone());
        let key = ConfiguredFile::secret("httpTlsKey", key.clone(), &config.security);
        Ok(Some(Self(Renewed::load([certificate, key], read)?)))
    }

    /// What shakes hands with a connection, by what the files have now. If that is no good, what they had
    /// stays in use.
    pub(super) fn handshake(&mut self) -> Handshake {
        if let Err(error) = self.0.look() {
            tracing::warn!(target: "em.http", "the certificate before stays in use: {error}");
        }
        Handshake(self.0.made().clone())
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

fn read([certificate, key]: &[ConfiguredFile; 2]) -> Result<TlsAcceptor, KeysError> {
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
