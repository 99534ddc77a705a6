//! HTTPS, with certificates that change while the daemon runs.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme,
};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client};

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

/// Shakes hands with the server that has the certificate in this file, whatever it is for: the daemon itself
/// is asked, by an address of this machine.
///
/// # Errors
/// The file can't be read, or that isn't who answers.
pub(super) async fn dialled(
    stream: TcpStream,
    certificate: &Path,
) -> io::Result<client::TlsStream<TcpStream>> {
    let text = std::fs::read(certificate)?;
    let own = CertificateDer::from_pem_slice(&text).map_err(io::Error::other)?;
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Only(own, provider)))
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

/// Trusts this certificate alone.
#[derive(Debug)]
struct Only(CertificateDer<'static>, Arc<CryptoProvider>);

impl ServerCertVerifier for Only {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match *end_entity == self.0 {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.1.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.1.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.1.signature_verification_algorithms.supported_schemes()
    }
}
