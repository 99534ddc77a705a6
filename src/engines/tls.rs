//! TLS to servers of engines whose library leaves it to us.

use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Who is trusted: the system's authorities, and those of a text in PEM.
///
/// # Errors
/// There is nobody, or the text isn't PEM.
pub(super) fn trusting(pem: Option<&str>) -> io::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    // One that can't be read is one that can't be trusted; the handshake says so.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for found in CertificateDer::pem_slice_iter(pem.unwrap_or_default().as_bytes()) {
        let found = found.map_err(|error| io::Error::other(format!("caFile: {error}")))?;
        let added = roots.add(found);
        added.map_err(|error| io::Error::other(format!("caFile: {error}")))?;
    }
    if roots.is_empty() {
        let why = "nobody's certificate is trusted: install ca-certificates, or name caFile";
        return Err(io::Error::other(why));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions();
    let config = config.map_err(io::Error::other)?;
    let config = config.with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Shakes hands with the server of this name.
///
/// # Errors
/// It isn't who it should be, or doesn't speak TLS.
pub(super) async fn encrypted(
    stream: TcpStream,
    host: &str,
    trusting: &TlsConnector,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    trusting.connect(name, stream).await
}
