//! A connection's bytes, over TCP or a Unix domain socket.

use std::fmt::Debug;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

/// Silence after which TCP asks.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
/// Between two such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Questions without an answer after which the connection is ended.
const KEEPALIVE_PROBES: u32 = 3;

/// What says whether anything may be written still.
pub(crate) trait Gate: Debug {
    fn is_open(&self) -> bool;
}

/// One connected stream. All calls but the two waits return at once.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// To which nothing is written when the gate is closed.
    GatedTcp(TcpStream, Arc<dyn Gate>),
    /// The same.
    GatedUnix(UnixStream, Arc<dyn Gate>),
}

impl Stream {
    /// Takes a new TCP connection. Events must not wait for Nagle's algorithm; and a peer of ZMTP
    /// 3.0, which knows no PING, is asked by TCP whether it is still there.
    pub(crate) fn tcp(stream: TcpStream) -> Self {
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_AFTER)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES);
        // They fail only if the connection is gone already, which the first read will tell.
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
        Self::Tcp(stream)
    }

    /// The same stream, as long as the gate is open.
    pub(crate) fn gated(self, gate: Arc<dyn Gate>) -> Self {
        match self {
            Self::Tcp(stream) => Self::GatedTcp(stream, gate),
            Self::Unix(stream) => Self::GatedUnix(stream, gate),
            gated => gated,
        }
    }

    /// The number of the user that the peer runs as, if it is of this machine and says so.
    pub(crate) fn user(&self) -> Option<u32> {
        match self {
            Self::Tcp(_) | Self::GatedTcp(..) => None,
            Self::Unix(stream) | Self::GatedUnix(stream, _) => Some(stream.peer_cred().ok()?.uid()),
        }
    }

    /// Only one task waits for a stream: it says by its own slots of the stream whom to wake, so that an
    /// idle one keeps no more.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        poll_fn(|context| match self {
            Self::Tcp(stream) | Self::GatedTcp(stream, _) => stream.poll_read_ready(context),
            Self::Unix(stream) | Self::GatedUnix(stream, _) => stream.poll_read_ready(context),
        })
        .await
    }

    /// Waits until the peer has sent its last, or is gone. What it had sent can still be read.
    pub(crate) async fn hung_up(&self) -> io::Result<()> {
        // With this interest come the end, and urgent bytes, for which no stream is registered. Few wait
        // for it, so it has memory of its own.
        let ended = async {
            match self {
                Self::Tcp(stream) | Self::GatedTcp(stream, _) => {
                    stream.ready(Interest::PRIORITY).await
                }
                Self::Unix(stream) | Self::GatedUnix(stream, _) => {
                    stream.ready(Interest::PRIORITY).await
                }
            }
        };
        Box::pin(ended).await?;
        Ok(())
    }

    /// How many bytes there are to read.
    pub(crate) fn unread(&self) -> io::Result<u64> {
        Ok(match self {
            Self::Tcp(stream) | Self::GatedTcp(stream, _) => rustix::io::ioctl_fionread(stream),
            Self::Unix(stream) | Self::GatedUnix(stream, _) => rustix::io::ioctl_fionread(stream),
        }?)
    }

    /// As [`readable`](Self::readable).
    pub(crate) async fn writable(&self) -> io::Result<()> {
        poll_fn(|context| match self {
            Self::Tcp(stream) | Self::GatedTcp(stream, _) => stream.poll_write_ready(context),
            Self::Unix(stream) | Self::GatedUnix(stream, _) => stream.poll_write_ready(context),
        })
        .await
    }

    /// 0 bytes are the end of the stream.
    ///
    /// A read that left room has drained the socket. The runtime is told, so that the next wait does
    /// not begin with another read, which would find nothing.
    pub(crate) fn try_read(&self, buf: &mut impl BufMut) -> io::Result<usize> {
        let room = buf.chunk_mut().len();
        let n = match self {
            Self::Tcp(stream) | Self::GatedTcp(stream, _) => stream.try_read_buf(buf),
            Self::Unix(stream) | Self::GatedUnix(stream, _) => stream.try_read_buf(buf),
        }?;
        if n > 0 && n < room {
            let drained = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _ = match self {
                Self::Tcp(stream) | Self::GatedTcp(stream, _) => {
                    stream.try_io(Interest::READABLE, drained)
                }
                Self::Unix(stream) | Self::GatedUnix(stream, _) => {
                    stream.try_io(Interest::READABLE, drained)
                }
            };
        }
        Ok(n)
    }

    /// Says that nothing more will be written.
    pub(crate) fn end_writing(&self) {
        // It fails only if the connection is gone already, which the next read will tell.
        let _ = match self {
            Self::Tcp(stream) | Self::GatedTcp(stream, _) => {
                SockRef::from(stream).shutdown(Shutdown::Write)
            }
            Self::Unix(stream) | Self::GatedUnix(stream, _) => {
                SockRef::from(stream).shutdown(Shutdown::Write)
            }
        };
    }

    /// Waits for bytes; 0 are the end of the stream.
    pub(crate) async fn read_some(&self, input: &mut BytesMut) -> io::Result<usize> {
        loop {
            self.readable().await?;
            match self.try_read(input) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// Writes all, however long that takes.
    pub(crate) async fn write_all(&self, out: &mut BytesMut) -> io::Result<()> {
        while !out.is_empty() {
            match self.try_write(&[IoSlice::new(out)]) {
                Ok(n) => drop(out.split_to(n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(crate) fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(slices),
            Self::Unix(stream) => stream.try_write_vectored(slices),
            Self::GatedTcp(stream, gate) => {
                check(&**gate)?;
                stream.try_write_vectored(slices)
            }
            Self::GatedUnix(stream, gate) => {
                check(&**gate)?;
                stream.try_write_vectored(slices)
            }
        }
    }
}

/// Whether it is open.
fn check(gate: &dyn Gate) -> io::Result<()> {
    match gate.is_open() {
        true => Ok(()),
        false => Err(io::Error::other("nothing may be written any more")),
    }
}
