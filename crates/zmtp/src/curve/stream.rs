//! What follows the handshake: each frame in a box.

use std::iter;

use bytes::{BufMut, BytesMut};

use super::CurveError;
use super::boxes::{Batch, BoxKey, Content, CountedKey, MAC_BYTES};
use crate::frame::{COMMAND, FrameError, FrameHeader, LONG, MORE};

/// `MESSAGE` with its length, and the counter.
const MESSAGE_BYTES: usize = 8 + 8;
/// Bytes that a box adds to the body of a frame. The header may grow by seven more.
pub const SEALED_EXTRA_BYTES: usize = MESSAGE_BYTES + MAC_BYTES + 1;

const FROM_CLIENT: &[u8; 16] = b"CurveZMQMESSAGEC";
const FROM_SERVER: &[u8; 16] = b"CurveZMQMESSAGES";
/// Of the flags within a box.
const INNER_MORE: u8 = 1;
const INNER_COMMAND: u8 = 2;

/// Both directions of a connection after its handshake.
#[derive(Debug)]
pub struct Session {
    /// Of what the peer sends.
    pub opener: Opener,
    /// Of what we send.
    pub sealer: Sealer,
}

impl Session {
    /// The counters are those of the last command of each side.
    fn new(key: &BoxKey, from: [&[u8; 16]; 2], theirs: u64, ours: u64) -> Self {
        Self {
            opener: Opener {
                key: CountedKey::new(key, from[0]),
                last: theirs,
            },
            sealer: Sealer {
                key: CountedKey::new(key, from[1]),
                last: ours,
            },
        }
    }

    pub(super) fn of_server(key: BoxKey, theirs: u64, ours: u64) -> Self {
        Self::new(&key, [FROM_CLIENT, FROM_SERVER], theirs, ours)
    }

    pub(super) fn of_client(key: BoxKey, theirs: u64, ours: u64) -> Self {
        Self::new(&key, [FROM_SERVER, FROM_CLIENT], theirs, ours)
    }
}

/// Opens what the peer sends.
#[derive(Debug)]
pub struct Opener {
    key: CountedKey,
    /// The counter of the last box. Those to come are above it.
    last: u64,
}

/// How far [`Opener::open`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Where the opened frames end.
    pub plain_end: usize,
    /// Where the box begins that isn't there as a whole.
    pub sealed_from: usize,
    /// Bytes that it still needs, at least.
    pub missing: usize,
}

/// Why what a peer sent after its handshake was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Its box.
    #[error(transparent)]
    Curve(#[from] CurveError),
    /// The frame around it.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// A frame is refused, and those in front of it are opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Where the opened frames end.
    pub plain_end: usize,
    /// Why the connection must end.
    pub error: OpenError,
}

impl Opener {
    /// Opens the boxes that are in `bytes` from `sealed_from` on, in place: their frames, as they would
    /// be without encryption, are written from `plain_end` on, which is not behind it.
    ///
    /// # Errors
    /// The connection must end. A frame of more than `body_bytes_max` bytes is refused before it is
    /// there. Its header is written as it would be without encryption, so that who scans what is opened
    /// meets a frame that is too large, as in a connection without CURVE.
    pub fn open(
        &mut self,
        bytes: &mut [u8],
        mut plain_end: usize,
        mut sealed_from: usize,
        body_bytes_max: usize,
    ) -> Result<Opened, Refused> {
        let mut batch = self.key.batch();
        loop {
            let refused = |plain_end, error| Refused { plain_end, error };
            let there = &bytes[sealed_from..];
            let header = FrameHeader::parse(there);
            let header = header.map_err(|error| refused(plain_end, error.into()))?;
            let Some(header) = header else {
                let missing = if there.is_empty() { 1 } else { 2 };
                return Ok(Opened {
                    plain_end,
                    sealed_from,
                    missing,
                });
            };
            if header.more() {
                return Err(refused(plain_end, CurveError::Plaintext.into()));
            }
            let body_bytes = usize::try_from(header.body_bytes).unwrap_or(usize::MAX);
            let content_bytes = body_bytes.saturating_sub(SEALED_EXTRA_BYTES);
            if content_bytes > body_bytes_max {
                let plain_end = put_header(bytes, plain_end, 0, content_bytes);
                let error = FrameError::MessageTooLarge(content_bytes as u64, body_bytes_max);
                return Err(refused(plain_end, error.into()));
            }
            let frame_bytes = header.header_bytes + body_bytes;
            if there.len() < frame_bytes {
                return Ok(Opened {
                    plain_end,
                    sealed_from,
                    missing: frame_bytes - there.len(),
                });
            }
            let body = sealed_from + header.header_bytes..sealed_from + frame_bytes;
            let (there, later) = bytes.split_at_mut(body.end);
            let flags = open_one(&mut batch, &mut self.last, &mut there[body.start..], later);
            let flags = flags.map_err(|error| refused(plain_end, error.into()))?;
            let content = body.start + SEALED_EXTRA_BYTES..body.end;
            let start = put_header(bytes, plain_end, flags, content.len());
            plain_end = start + content.len();
            bytes.copy_within(content, start);
            sealed_from += frame_bytes;
        }
    }
}

/// Opens the body of one frame; its flags, as a frame has them. Its content begins at
/// [`SEALED_EXTRA_BYTES`].
fn open_one(
    batch: &mut Batch<'_>,
    last: &mut u64,
    body: &mut [u8],
    later: &[u8],
) -> Result<u8, CurveError> {
    let Some((head, sealed)) = body.split_first_chunk_mut::<MESSAGE_BYTES>() else {
        return Err(CurveError::Plaintext);
    };
    let Some((b"\x07MESSAGE", counter)) = head.split_first_chunk::<8>() else {
        return Err(CurveError::Plaintext);
    };
    let counter = u64::from_be_bytes(counter.try_into().unwrap_or_default());
    if counter <= *last {
        return Err(CurveError::Replayed);
    }
    let later = bodies(later).map_while(|body| {
        Some(Content {
            counter: u64::from_be_bytes(*body.get(8..)?.first_chunk()?),
            bytes: body.len().checked_sub(MESSAGE_BYTES + MAC_BYTES)?,
        })
    });
    let opened = batch.open(counter, sealed, later);
    let opened = opened.ok_or(CurveError::Forged)?;
    // Only what is genuine counts.
    *last = counter;
    match opened.first() {
        Some(0) => Ok(0),
        Some(&INNER_MORE) => Ok(MORE),
        Some(&INNER_COMMAND) => Ok(COMMAND),
        Some(_) => Err(CurveError::Malformed("a box has unknown flags")),
        None => Err(CurveError::Malformed("a box has no flags")),
    }
}

/// The bodies of the frames at the beginning of these bytes that are there as a whole.
fn bodies(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    iter::from_fn(move || {
        let header = FrameHeader::parse(bytes).ok()??;
        let (body, rest) = bytes[header.header_bytes..]
            .split_at_checked(usize::try_from(header.body_bytes).ok()?)?;
        bytes = rest;
        Some(body)
    })
}

/// Writes the header of a frame, which is no longer than that of its box; where it ends.
fn put_header(bytes: &mut [u8], at: usize, flags: u8, body_bytes: usize) -> usize {
    match u8::try_from(body_bytes) {
        Ok(len) => {
            bytes[at..at + 2].copy_from_slice(&[flags, len]);
            at + 2
        }
        Err(_) => {
            bytes[at] = flags | LONG;
            bytes[at + 1..at + 9].copy_from_slice(&(body_bytes as u64).to_be_bytes());
            at + 9
        }
    }
}

/// Seals what we send.
#[derive(Debug)]
pub struct Sealer {
    key: CountedKey,
    /// The counter of the last box.
    pub(super) last: u64,
}

impl Sealer {
    /// Seals whole frames, until `out` has at least `out_bytes` or nothing is left; how many bytes of
    /// `frames` that were. Bytes that are no frames end it early.
    ///
    /// # Errors
    /// [`CurveError::Exhausted`]: the connection must end.
    pub fn seal(
        &mut self,
        frames: &[u8],
        out: &mut BytesMut,
        out_bytes: usize,
    ) -> Result<usize, CurveError> {
        let mut batch = self.key.batch();
        let mut at = 0;
        while out.len() < out_bytes
            && let Ok(Some(header)) = FrameHeader::parse(&frames[at..])
        {
            let start = at + header.header_bytes;
            let Some(body) = frames[start..].get(..header.body_bytes as usize) else {
                break;
            };
            let flags = match (header.command(), header.more()) {
                (true, _) => INNER_COMMAND,
                (false, true) => INNER_MORE,
                (false, false) => 0,
            };
            at = start + body.len();
            seal_one(
                &mut batch,
                &mut self.last,
                (flags, body),
                &frames[at..],
                out,
            )?;
        }
        Ok(at)
    }

    /// A frame with a box of these bytes and the next counter, whatever they mean.
    #[cfg(test)]
    pub(super) fn box_of(&self, content: &[u8]) -> Vec<u8> {
        let counter = self.last + 1;
        let mut sealed = [&[0; MAC_BYTES], content].concat();
        self.key.batch().seal(counter, &mut sealed, iter::empty());
        let body = [b"\x07MESSAGE", &counter.to_be_bytes()[..], &sealed].concat();
        [&[0, body.len() as u8][..], &body].concat()
    }
}

/// Appends the box of a frame with these flags and this body.
fn seal_one(
    batch: &mut Batch<'_>,
    last: &mut u64,
    (flags, body): (u8, &[u8]),
    later: &[u8],
    out: &mut BytesMut,
) -> Result<(), CurveError> {
    let counter = last.checked_add(1).ok_or(CurveError::Exhausted)?;
    let len = SEALED_EXTRA_BYTES + body.len();
    out.reserve(9 + len);
    match u8::try_from(len) {
        Ok(len) => out.put_slice(&[0, len]),
        Err(_) => {
            out.put_u8(LONG);
            out.put_u64(len as u64);
        }
    }
    out.put_slice(b"\x07MESSAGE");
    out.put_u64(counter);
    let sealed_from = out.len();
    out.put_bytes(0, MAC_BYTES);
    out.put_u8(flags);
    out.put_slice(body);
    let counters = counter.saturating_add(1)..;
    let later = counters.zip(bodies(later)).map(|(counter, body)| Content {
        counter,
        bytes: 1 + body.len(),
    });
    batch.seal(counter, &mut out[sealed_from..], later);
    *last = counter;
    Ok(())
}
