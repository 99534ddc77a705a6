//! A connection's bytes, over TCP or a Unix domain socket.

use std::io::{self, IoSlice};

use bytes::BufMut;
use tokio::net::{TcpStream, UnixStream};

/// One connected stream. All calls but the two waits return at once.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Takes a new TCP connection; events must not wait for Nagle's algorithm.
    pub(super) fn tcp(stream: TcpStream) -> Self {
        // It fails only if the connection is gone already, which the first read will tell.
        let _ = stream.set_nodelay(true);
        Self::Tcp(stream)
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
        }
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.writable().await,
            Self::Unix(stream) => stream.writable().await,
        }
    }

    /// 0 bytes are the end of the stream.
    pub(super) fn try_read(&self, buf: &mut impl BufMut) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read_buf(buf),
            Self::Unix(stream) => stream.try_read_buf(buf),
        }
    }

    pub(super) fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(slices),
            Self::Unix(stream) => stream.try_write_vectored(slices),
        }
    }
}
