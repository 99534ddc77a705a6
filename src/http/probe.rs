//! A daemon on this machine is asked over HTTP whether it is ready.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::time::timeout;

use super::tls;
use super::tokens::a_token;
use crate::config::Config;
use event_manager_wire::api::Readiness;
use event_manager_wire::model::Endpoint;

/// An answer is a few hundred bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// The answer to `/readyz` of the daemon of this configuration. Not to be called within a runtime.
///
/// # Errors
/// It has no HTTP, or none that answers in time, or doesn't let us know.
pub fn readiness(config: &Config, wait: Duration) -> io::Result<Readiness> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async { timeout(wait, ask(config)).await })??;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body);
    serde_json::from_str(body.unwrap_or_default()).map_err(io::Error::other)
}

async fn ask(config: &Config) -> io::Result<String> {
    let endpoint = config.http_address.as_ref().map(Endpoint::local);
    let Some(Endpoint::Tcp { host, port }) = endpoint else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    let host = host.trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, port)).await?;
    let mut request = "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n".to_owned();
    if let Some(token) = a_token(config) {
        request.push_str(&format!("Authorization: Bearer {token}\r\n"));
    }
    request.push_str("\r\n");
    match &config.http_tls_certificate {
        None => exchange(stream, &request).await,
        Some(certificate) => exchange(tls::dialled(stream, certificate).await?, &request).await,
    }
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
) -> io::Result<String> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = vec![];
    let read = stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await;
    // TLS may end without a word, when all is there.
    read.map(drop).or_else(|error| match answer.is_empty() {
        true => Err(error),
        false => Ok(()),
    })?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
