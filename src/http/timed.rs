//! A connection whose peer has to take what it asked for.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// A stream on which writing fails when the peer's buffers are full and it doesn't take all in time,
/// however slowly it reads.
pub(super) struct Timed {
    stream: TcpStream,
    /// Runs while something waits to be written.
    limit: Option<Pin<Box<Sleep>>>,
    write_time: Duration,
}

impl Timed {
    pub(super) fn new(stream: TcpStream, write_time: Duration) -> Self {
        Self {
            stream,
            limit: None,
            write_time,
        }
    }

    /// The stream takes no more for now: fails if that has been so for too long.
    fn wait<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        let write_time = self.write_time;
        let limit = self
            .limit
            .get_or_insert_with(|| Box::pin(sleep(write_time)));
        ready!(limit.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Timed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Timed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(context, bytes) {
            Poll::Pending => self.wait(context),
            // What is taken in drops does not begin the time anew.
            result => result,
        }
    }

    /// Called when all is written.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.limit = None;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::runtime::Builder;

    use super::*;

    const SHORT: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(20);

    /// Writes so many bytes within a time to a peer that reads so many at once, with a pause after
    /// each.
    fn written_to(
        bytes: usize,
        within: Duration,
        at_once: usize,
        pause: Duration,
    ) -> io::Result<()> {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let peer = TcpStream::connect(listener.local_addr().unwrap());
            let mut peer = peer.await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let reading = tokio::spawn(async move {
                let mut buffer = vec![0; at_once];
                while peer.read(&mut buffer).await.is_ok_and(|n| n > 0) {
                    sleep(pause).await;
                }
            });
            let mut timed = Timed::new(stream, within);
            let written = timed.write_all(&vec![0; bytes]).await;
            reading.abort();
            written
        })
    }

    #[test]
    fn a_peer_that_takes_all_has_all_the_time_it_needs() {
        written_to(16 << 20, LONG, 1 << 20, Duration::ZERO).unwrap();
    }

    #[test]
    fn a_peer_that_reads_in_drops_is_given_up() {
        let failed = written_to(64 << 20, SHORT, 1000, Duration::from_millis(5)).unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::TimedOut);
    }
}
