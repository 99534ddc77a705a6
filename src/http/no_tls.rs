//! Without the cargo feature `tls`, HTTP is never encrypted.

use std::convert::Infallible;
use std::io;
use std::path::Path;

use tokio::net::TcpStream;

use super::timed::Timed;
use crate::config::Config;
use crate::keys::KeysError;

/// There is none.
#[derive(Debug)]
pub struct Tls(Infallible);

impl Tls {
    /// The configuration can't ask for it.
    ///
    /// # Errors
    /// Never.
    pub fn load(_: &Config) -> Result<Option<Self>, KeysError> {
        Ok(None)
    }

    pub(super) fn handshake(&mut self) -> Handshake {
        match self.0 {}
    }
}

/// # Errors
/// Always.
#[allow(clippy::unused_async, reason = "as with the feature")]
pub(super) async fn dialled(_: TcpStream, _: &Path) -> io::Result<TcpStream> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) struct Handshake(Infallible);

impl Handshake {
    #[allow(clippy::unused_async, reason = "as with the feature")]
    pub(super) async fn accept(self, _: Timed) -> io::Result<Timed> {
        match self.0 {}
    }
}
