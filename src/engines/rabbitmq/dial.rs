//! How the library gets its connections, and on what it runs.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use async_compat::Compat;
use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_core::Stream;
use lapin::tcp::AsyncTcpStream;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::guard::{Guarded, Wire};
use crate::engines::tls::encrypted;

/// The runtime that we are in, whose connections are guarded.
pub(super) type Own = RuntimeParts<Tokio, Dialled>;

pub(super) fn own_runtime() -> Runtime<Own> {
    let tokio = Tokio::current();
    Runtime::new(RuntimeParts::new(tokio.clone(), Dialled(tokio)))
}

/// Connects to the first of these that answers; with TLS, if that is wanted of this host.
pub(super) async fn dial(
    found: &[SocketAddr],
    tls: Option<(&str, &TlsConnector)>,
) -> lapin::Result<AsyncTcpStream<Compat<Guarded>>> {
    let stream = TcpStream::connect(found).await?;
    stream.set_nodelay(true)?;
    let wire: Box<dyn Wire> = match tls {
        None => Box::new(stream),
        Some((host, trusting)) => Box::new(encrypted(stream, host, trusting).await?),
    };
    Ok(AsyncTcpStream::Plain(Compat::new(Guarded::new(wire))))
}

/// A reactor whose connections come from [`dial`].
#[derive(Debug, Clone)]
pub(super) struct Dialled(Tokio);

#[allow(refining_impl_trait, reason = "nobody else uses it")]
impl Reactor for Dialled {
    type TcpStream = Compat<Guarded>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + Send + 'static>(&self, _: H) -> io::Result<Compat<Guarded>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        _: SocketAddr,
    ) -> impl Future<Output = io::Result<Compat<Guarded>>> + Send + 'static {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}
