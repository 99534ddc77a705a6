//! A connection with CURVE: what is read and written, in boxes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use event_manager_zmtp::curve::{OpenError, Opener, Refused, Sealer};

/// Room for a read.
const READ_BYTES: usize = 64 << 10;
/// How much is sealed for one write; a single frame may be more, because it is one box. Nothing is answered
/// while that is made, which takes about 10 ms for a frame of 64 MiB (optimised, with AVX-512); and a PONG
/// that waits behind it needn't be sent sooner, because the frame's own bytes are a sign of life.
const SEALED_BYTES: usize = 64 << 10;

/// Opens what is read. It gives whole frames, in pieces of any length.
pub(crate) struct OpeningReader<R> {
    inner: R,
    opener: Opener,
    body_bytes_max: usize,
    /// Boxes, the last of which isn't whole.
    sealed: BytesMut,
    plain: BytesMut,
    /// Why nothing more is opened.
    refused: Option<OpenError>,
}

impl<R> OpeningReader<R> {
    /// Begins with what followed the handshake.
    pub(crate) fn new(inner: R, opener: Opener, sealed: BytesMut, body_bytes_max: usize) -> Self {
        Self {
            inner,
            opener,
            body_bytes_max,
            sealed,
            plain: BytesMut::new(),
            refused: None,
        }
    }

    /// Opens the boxes that are whole. What stands in front of one that is refused is given first.
    fn open(&mut self) -> io::Result<()> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        if let Some(error) = self.refused.take() {
            return Err(invalid(error));
        }
        let opened = self
            .opener
            .open(&mut self.sealed, 0, 0, self.body_bytes_max);
        let opened = match opened {
            Ok(opened) => opened,
            Err(Refused {
                plain_end: 0,
                error,
            }) => return Err(invalid(error)),
            Err(Refused { plain_end, error }) => {
                self.plain = self.sealed.split_to(plain_end);
                self.refused = Some(error);
                return Ok(());
            }
        };
        self.plain = self.sealed.split_to(opened.sealed_from);
        self.plain.truncate(opened.plain_end);
        // A large box grows as it arrives, not as it was announced.
        let wanted = opened
            .missing
            .clamp(READ_BYTES, (self.sealed.len() * 4).max(READ_BYTES));
        self.sealed.reserve(wanted);
        Ok(())
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for OpeningReader<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.plain.is_empty() {
            this.open()?;
        }
        while this.plain.is_empty() {
            let read = std::pin::pin!(tokio::io::AsyncReadExt::read_buf(
                &mut this.inner,
                &mut this.sealed
            ));
            if ready!(read.poll(context))? == 0 {
                return Poll::Ready(Ok(()));
            }
            this.open()?;
        }
        let n = this.plain.len().min(out.remaining());
        out.put_slice(&this.plain[..n]);
        this.plain.advance(n);
        Poll::Ready(Ok(()))
    }
}

/// Seals what is written. It takes whole frames only, and says that it took them when the boxes are
/// written: a write that waits must be tried again with the same bytes in front.
pub(crate) struct SealingWriter<W> {
    inner: W,
    sealer: Sealer,
    sealed: BytesMut,
    /// The bytes of frames that are in `sealed`.
    taken: usize,
}

impl<W> SealingWriter<W> {
    pub(crate) fn new(inner: W, sealer: Sealer) -> Self {
        Self {
            inner,
            sealer,
            sealed: BytesMut::new(),
            taken: 0,
        }
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for SealingWriter<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        frames: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.taken == 0 {
            this.taken = this
                .sealer
                .seal(frames, &mut this.sealed, SEALED_BYTES)
                .map_err(io::Error::other)?;
        }
        while !this.sealed.is_empty() {
            let n = ready!(Pin::new(&mut this.inner).poll_write(context, &this.sealed))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            this.sealed.advance(n);
        }
        Poll::Ready(Ok(std::mem::take(&mut this.taken)))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
