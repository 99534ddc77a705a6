//! What one peer has sent and is not yet used up.

use std::io;

use bytes::{Buf, BufMut, BytesMut};

use super::peer_error::PeerError;
use super::stream::Stream;
use event_manager_zmtp::Limits;
use event_manager_zmtp::curve::Opener;
use event_manager_zmtp::{Scanner, Version};

/// The memory that all connections read into.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;
/// A read has room for at least this much.
const READ_BYTES_MIN: usize = 64 << 10;
/// A read into a message's own memory has room for this much, though less may be missing of it.
const OWN_READ_BYTES_MIN: usize = 4 << 10;
/// A message of which more than this is there, or missing, is read into memory of its own.
const LARGE_BYTES: usize = 16 << 10;

/// Memory for reading, shared by all connections of a reactor: an idle peer holds none.
#[derive(Debug, Default)]
pub(crate) struct ReadChunk(BytesMut);

impl ReadChunk {
    /// Memory with room for a read behind `kept` bytes.
    fn with_room_behind(&mut self, kept: usize) -> &mut BytesMut {
        let needed = kept + READ_BYTES_MIN;
        if self.0.capacity() < needed && !self.0.try_reclaim(CHUNK_BYTES) {
            self.0 = BytesMut::with_capacity(CHUNK_BYTES.max(needed));
        }
        &mut self.0
    }
}

/// Bytes to scan.
pub(crate) struct Filled {
    pub(crate) data: BytesMut,
    /// The size of the memory that a reference to them keeps alive.
    pub(crate) backing_bytes: usize,
    /// The socket had as much as there was room for: reading again at once is worth it.
    pub(crate) more: bool,
    /// The memory is this connection's own, not the shared chunk.
    own: bool,
}

#[cfg(feature = "internals")]
impl Filled {
    /// Bytes in memory of the connection's own.
    pub(crate) fn own(data: BytesMut) -> Self {
        Self {
            backing_bytes: data.capacity(),
            data,
            more: false,
            own: true,
        }
    }
}

/// Boxes of a connection with CURVE, before they are opened.
#[derive(Debug)]
struct Sealed {
    opener: Opener,
    /// The beginning of a box that isn't whole.
    rest: BytesMut,
    /// How many bytes that box still needs, at least.
    missing: usize,
    /// Why nothing more is opened.
    refused: Option<PeerError>,
}

impl Sealed {
    /// Opens what is there from `plain_end` on, and keeps what is left of it. What stands in front of a
    /// box that is refused has its turn before the connection ends.
    fn open(&mut self, data: &mut BytesMut, plain_end: usize, body_bytes_max: usize) {
        match self.opener.open(data, plain_end, plain_end, body_bytes_max) {
            Ok(opened) => {
                self.missing = opened.missing;
                self.rest.extend_from_slice(&data[opened.sealed_from..]);
                data.truncate(opened.plain_end);
            }
            Err(refused) => {
                self.refused = Some(refused.error.into());
                data.truncate(refused.plain_end);
            }
        }
    }
}

/// The receiving end of a connection: the beginning of a message that isn't whole, and the scanner
/// that knows how far it came in it.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) scanner: Scanner,
    kept: BytesMut,
    /// How many bytes the message in progress still needs, at least.
    missing: usize,
    held: bool,
    sealed: Option<Box<Sealed>>,
    /// A read has no more than this.
    read_bytes_max: usize,
}

impl Inbox {
    /// Begins with what followed the handshake of a peer of this version, in boxes if there is an opener.
    pub(crate) fn new(
        limits: &Limits,
        version: Version,
        rest: BytesMut,
        opener: Option<Opener>,
    ) -> Self {
        let held = !rest.is_empty();
        let (kept, sealed) = match opener {
            None => (rest, None),
            Some(opener) => {
                let sealed = Sealed {
                    opener,
                    rest,
                    missing: 1,
                    refused: None,
                };
                (BytesMut::new(), Some(Box::new(sealed)))
            }
        };
        Self {
            scanner: Scanner::new(limits, version),
            held,
            kept,
            missing: 1,
            sealed,
            read_bytes_max: usize::MAX,
        }
    }

    /// From now on each read has no more than this, but for a large message's own.
    pub(crate) fn read_at_most(&mut self, bytes_max: usize) {
        self.read_bytes_max = bytes_max;
    }

    /// Whether a read is all of a turn.
    pub(crate) fn reads_little(&self) -> bool {
        self.read_bytes_max < usize::MAX
    }

    /// What is there before anything is read: it followed the handshake, or was held back.
    ///
    /// # Errors
    /// The connection must end.
    pub(crate) fn take_kept(&mut self, body_bytes_max: usize) -> Result<Option<Filled>, PeerError> {
        if !std::mem::take(&mut self.held)
            && let Some(refused) = self.sealed.as_mut().and_then(|all| all.refused.take())
        {
            return Err(refused);
        }
        let mut data = std::mem::take(&mut self.kept);
        if let Some(sealed) = self.sealed.as_mut().filter(|all| all.refused.is_none()) {
            let plain_end = data.len();
            data.unsplit(std::mem::take(&mut sealed.rest));
            sealed.open(&mut data, plain_end, body_bytes_max);
        }
        let backing_bytes = data.capacity();
        Ok((!data.is_empty()).then_some(Filled {
            data,
            backing_bytes,
            more: true,
            own: true,
        }))
    }

    /// Whether there is something to take before anything is read: whole messages may be among what is
    /// kept, or the connection must end.
    pub(crate) fn is_held(&self) -> bool {
        self.held
            || self
                .sealed
                .as_ref()
                .is_some_and(|all| all.refused.is_some())
    }

    /// What there is to take before anything is read, in bytes.
    pub(crate) fn held_bytes(&self) -> u64 {
        match self.is_held() {
            true => self.kept_bytes() as u64,
            false => 0,
        }
    }

    /// What is kept, in bytes: of a message that isn't whole, or of more that had no turn yet.
    #[inline]
    pub(crate) fn kept_bytes(&self) -> usize {
        self.kept.len() + self.sealed.as_ref().map_or(0, |sealed| sealed.rest.len())
    }

    /// Keeps what the scanner did not come to, for another turn.
    pub(crate) fn hold(&mut self, filled: Filled) {
        self.keep(filled, 1);
        self.held = true;
    }

    /// Reads once. `None` is the end of the stream.
    ///
    /// # Errors
    /// Those of the system, `WouldBlock` among them.
    #[inline]
    pub(crate) fn fill(
        &mut self,
        stream: &Stream,
        chunk: &mut ReadChunk,
        body_bytes_max: usize,
    ) -> io::Result<Option<Filled>> {
        match self.sealed.take() {
            None => self.fill_plain(stream, chunk),
            Some(mut sealed) => {
                let filled = self.fill_sealed(&mut sealed, stream, chunk, body_bytes_max);
                self.sealed = Some(sealed);
                filled
            }
        }
    }

    fn fill_plain(&mut self, stream: &Stream, chunk: &mut ReadChunk) -> io::Result<Option<Filled>> {
        if self.kept.len() >= LARGE_BYTES || self.missing >= LARGE_BYTES {
            return self.fill_own(stream);
        }
        let chunk = chunk.with_room_behind(self.kept.len());
        chunk.put_slice(&self.kept);
        let room = (chunk.capacity() - chunk.len()).min(self.read_bytes_max);
        let read = stream.try_read(&mut (&mut *chunk).limit(self.read_bytes_max));
        let n = read.inspect_err(|_| chunk.clear())?;
        self.kept = BytesMut::new();
        let (data, backing_bytes) = (chunk.split(), CHUNK_BYTES);
        Ok((n > 0).then_some(Filled {
            data,
            backing_bytes,
            more: n == room,
            own: false,
        }))
    }

    /// Reads once, and opens the boxes that are whole.
    fn fill_sealed(
        &mut self,
        sealed: &mut Sealed,
        stream: &Stream,
        chunk: &mut ReadChunk,
        body_bytes_max: usize,
    ) -> io::Result<Option<Filled>> {
        let waiting = self.kept.len() + sealed.rest.len();
        let is_large = waiting >= LARGE_BYTES || sealed.missing >= LARGE_BYTES;
        if is_large && sealed.missing > 1 {
            return self.fill_large_box(sealed, stream, body_bytes_max);
        }
        let plain_end = self.kept.len();
        let chunk = chunk.with_room_behind(waiting);
        chunk.put_slice(&self.kept);
        chunk.put_slice(&sealed.rest);
        let room = (chunk.capacity() - chunk.len()).min(self.read_bytes_max);
        let read = stream.try_read(&mut (&mut *chunk).limit(self.read_bytes_max));
        let n = read.inspect_err(|_| chunk.clear())?;
        (self.kept, sealed.rest) = (BytesMut::new(), BytesMut::new());
        let mut data = chunk.split();
        sealed.open(&mut data, plain_end, body_bytes_max);
        Ok((n > 0).then_some(Filled {
            data,
            backing_bytes: CHUNK_BYTES,
            more: n == room,
            own: false,
        }))
    }

    /// Reads into the memory of a large box, which grows as it arrives, until it is whole.
    fn fill_large_box(
        &mut self,
        sealed: &mut Sealed,
        stream: &Stream,
        body_bytes_max: usize,
    ) -> io::Result<Option<Filled>> {
        let wanted = sealed
            .missing
            .min(sealed.rest.len().max(READ_BYTES_MIN) * 4);
        sealed.rest.reserve(wanted);
        let n = stream.try_read(&mut (&mut sealed.rest).limit(wanted))?;
        sealed.missing -= n.min(sealed.missing);
        let mut data = std::mem::take(&mut self.kept);
        if sealed.missing == 0 {
            let mut opened = std::mem::take(&mut sealed.rest);
            sealed.open(&mut opened, 0, body_bytes_max);
            match data.is_empty() {
                true => data = opened,
                false => data.extend_from_slice(&opened),
            }
        }
        let backing_bytes = data.capacity();
        Ok((n > 0).then_some(Filled {
            data,
            backing_bytes,
            more: n == wanted,
            own: true,
        }))
    }

    /// A large message: its own memory grows as it arrives, not as it was announced.
    fn fill_own(&mut self, stream: &Stream) -> io::Result<Option<Filled>> {
        // No less than a bit, or a message of many small frames would be read byte by byte.
        let wanted = self.missing.max(OWN_READ_BYTES_MIN);
        let wanted = wanted.min(self.kept.len().max(READ_BYTES_MIN) * 4);
        self.kept.reserve(wanted);
        let n = stream.try_read(&mut (&mut self.kept).limit(wanted))?;
        let data = std::mem::take(&mut self.kept);
        let backing_bytes = data.capacity();
        Ok((n > 0).then_some(Filled {
            data,
            backing_bytes,
            more: n == wanted,
            own: true,
        }))
    }

    /// Nothing in `filled` is referred to: keeps what the scanner did not use up, and the number of
    /// bytes that it asked for.
    pub(crate) fn keep(&mut self, mut filled: Filled, missing: usize) {
        let consumed = self.scanner.consumed();
        // What is left of a large message's memory is copied out of it, so that an idle peer holds none.
        if !filled.own || consumed > filled.data.len() / 2 {
            return self.keep_copy(&filled.data, missing);
        }
        self.missing = missing;
        filled.data.advance(consumed);
        self.scanner.rebase();
        self.kept = filled.data;
    }

    /// The same for data that others refer to by now.
    pub(crate) fn keep_copy(&mut self, data: &[u8], missing: usize) {
        self.missing = missing;
        self.kept
            .extend_from_slice(&data[self.scanner.consumed()..]);
        self.scanner.rebase();
    }
}
