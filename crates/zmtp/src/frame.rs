//! Frames: one flags byte, a length of one or eight bytes, the body.

use bytes::{BufMut, Bytes, BytesMut};

use super::version::Version;

pub(super) const MORE: u8 = 1;
pub(super) const LONG: u8 = 2;
pub(super) const COMMAND: u8 = 4;

/// Why bytes received after the handshake were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Reserved flags, a command with MORE set, or a command in ZMTP 2.0.
    #[error("a frame has flags {0:#04x}, which its version of ZMTP does not know")]
    Flags(u8),
    /// The message would be larger than allowed; its length so far or announced, and the limit.
    #[error("a message has at least {0} bytes; the limit is {1}")]
    MessageTooLarge(u64, usize),
    /// The message has more frames than allowed; the limit.
    #[error("a message has more than {0} frames")]
    TooManyParts(usize),
    /// Commands stand between the frames of one message more often than any peer needs; the limit.
    #[error("more than {0} commands interrupt a message")]
    Interrupted(usize),
}

/// What precedes a frame's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    flags: u8,
    /// Bytes of the header itself: 2 or 9.
    pub header_bytes: usize,
    /// How long the body is, in bytes; what the peer says, not compared with a limit.
    pub body_bytes: u64,
}

impl FrameHeader {
    /// Reads the header of ZMTP 3 at the front of `bytes`; `None` while it is incomplete.
    ///
    /// # Errors
    /// [`FrameError::Flags`].
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, FrameError> {
        Self::parse_with(bytes, MORE | LONG | COMMAND)
    }

    /// The same with the [`flags_known`] of some version.
    #[inline]
    pub(super) fn parse_with(bytes: &[u8], flags_known: u8) -> Result<Option<Self>, FrameError> {
        let [flags, rest @ ..] = bytes else {
            return Ok(None);
        };
        let flags = *flags;
        if flags & !flags_known != 0 || flags & (MORE | COMMAND) == MORE | COMMAND {
            return Err(FrameError::Flags(flags));
        }
        if flags & LONG == 0 {
            let header = |&len: &u8| Self {
                flags,
                header_bytes: 2,
                body_bytes: len.into(),
            };
            return Ok(rest.first().map(header));
        }
        Ok(rest.first_chunk::<8>().map(|len| Self {
            flags,
            header_bytes: 9,
            body_bytes: u64::from_be_bytes(*len),
        }))
    }

    /// Whether another frame of the same message follows.
    #[inline]
    pub fn more(self) -> bool {
        self.flags & MORE != 0
    }

    /// Whether it is a command, not part of a message.
    #[inline]
    pub fn command(self) -> bool {
        self.flags & COMMAND != 0
    }
}

/// The flags that frames may have in this version.
pub(super) fn flags_known(version: Version) -> u8 {
    if version.has_commands() {
        MORE | LONG | COMMAND
    } else {
        MORE | LONG
    }
}

fn put_frame(out: &mut BytesMut, flags: u8, body: &[u8]) {
    match u8::try_from(body.len()) {
        Ok(len) => out.put_slice(&[flags, len]),
        Err(_) => {
            out.put_u8(flags | LONG);
            out.put_u64(body.len() as u64);
        }
    }
    out.put_slice(body);
}

/// Appends one frame of a message.
pub fn encode_frame(out: &mut BytesMut, body: &[u8], more: bool) {
    put_frame(out, if more { MORE } else { 0 }, body);
}

/// What precedes a frame's body of at most 255 bytes.
pub fn short_header(len: u8, more: bool) -> [u8; 2] {
    [if more { MORE } else { 0 }, len]
}

/// Appends a command frame around an already encoded body.
pub(super) fn put_command(out: &mut BytesMut, body: &[u8]) {
    put_frame(out, COMMAND, body);
}

/// Encodes a whole message.
pub fn encode_message<F: AsRef<[u8]>>(frames: &[F]) -> Bytes {
    let size = frames.iter().map(|frame| frame.as_ref().len() + 9).sum();
    let mut out = BytesMut::with_capacity(size);
    for (i, frame) in frames.iter().enumerate() {
        encode_frame(&mut out, frame.as_ref(), i + 1 < frames.len());
    }
    out.freeze()
}

/// The bodies of a whole message's frames, sharing its memory. Bytes that the
/// [`Scanner`](super::Scanner) did not accept end the list early.
pub fn frames_of(message: &Bytes) -> Vec<Bytes> {
    frames(message)
        .map(|frame| message.slice_ref(frame))
        .collect()
}

/// The same, as slices.
pub fn frames(message: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = message;
    std::iter::from_fn(move || {
        let header = FrameHeader::parse(rest).ok()??;
        let body_bytes = usize::try_from(header.body_bytes).ok()?;
        let (frame, behind) = rest[header.header_bytes..].split_at_checked(body_bytes)?;
        rest = behind;
        Some(frame)
    })
}

/// Where the header of a whole message's last frame is; 0 if there is none.
pub fn last_frame_at(message: &[u8]) -> usize {
    let mut at = 0;
    while let Ok(Some(header)) = FrameHeader::parse(&message[at..]) {
        let len = usize::try_from(header.body_bytes).unwrap_or(usize::MAX);
        match at.saturating_add(header.header_bytes).saturating_add(len) {
            end if end < message.len() => at = end,
            _ => break,
        }
    }
    at
}

/// The frames of an incomplete message; the last one may be cut off.
pub fn begun_frames(mut begun: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let header = FrameHeader::parse(begun).ok()??;
        let rest = &begun[header.header_bytes..];
        let len = usize::try_from(header.body_bytes).unwrap_or(usize::MAX);
        let (frame, behind) = rest.split_at(len.min(rest.len()));
        begun = behind;
        Some(frame)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn headers() {
        assert_eq!(FrameHeader::parse(&[]), Ok(None));
        assert_eq!(FrameHeader::parse(&[1]), Ok(None));
        let short = FrameHeader::parse(&[1, 5]).unwrap().unwrap();
        assert!(short.more() && !short.command() && short.body_bytes == 5);
        assert_eq!(FrameHeader::parse(&[2, 0, 0, 0, 0, 0, 0, 1]), Ok(None));
        let long = FrameHeader::parse(&[2, 0, 0, 0, 0, 0, 0, 1, 0])
            .unwrap()
            .unwrap();
        assert_eq!((long.header_bytes, long.body_bytes), (9, 256));
        assert_eq!(FrameHeader::parse(&[8, 0]), Err(FrameError::Flags(8)));
        assert_eq!(FrameHeader::parse(&[5, 0]), Err(FrameError::Flags(5)));
    }

    proptest! {
        #[test]
        fn a_message_is_read_back(
            frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..600), 1..6)
        ) {
            let message = encode_message(&frames);
            prop_assert_eq!(begun_frames(&message).collect::<Vec<_>>(), frames.clone());
            let last = frames.last().cloned().unwrap_or_default();
            let found = &message[last_frame_at(&message)..];
            prop_assert_eq!(super::frames(found).collect::<Vec<_>>(), [&last[..]]);
            let cut = begun_frames(&message[..message.len() - 1]).collect::<Vec<_>>();
            let last = frames.len() - 1;
            prop_assert_eq!(&cut[..last.min(cut.len())], &frames[..last]);
            prop_assert_eq!(frames_of(&message), frames);
        }

        #[test]
        fn noise_is_harmless(noise in proptest::collection::vec(any::<u8>(), 0..64)) {
            assert!(begun_frames(&noise).count() <= noise.len());
            assert!(last_frame_at(&noise) <= noise.len());
            frames_of(&noise.into());
        }
    }
}
