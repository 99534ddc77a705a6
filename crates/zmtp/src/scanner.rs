//! Finds the boundaries of messages and commands in a connection's bytes, in place.

use std::ops::Range;

use super::frame::{FrameError, FrameHeader, flags_known};
use super::version::Version;
use crate::Limits;

/// The most commands between the frames of one message. For each one the received part of the message
/// is moved, so they are bounded; libzmq sends at most one per heartbeat interval.
const INTERRUPTIONS_MAX: usize = 64;
/// The longest prefix that is compared to find messages alike.
const HEAD_BYTES_MAX: usize = 32;

/// Where a complete message is in the buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageSpan {
    /// All its frames with their headers: exactly what receivers are sent.
    pub bytes: Range<usize>,
    /// The body of its first frame.
    pub first: Range<usize>,
    /// Where the body of its last frame begins.
    pub last_body: usize,
    /// How many frames it has.
    pub parts: usize,
}

/// What the scanner found next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A complete message.
    Message(MessageSpan),
    /// A command's body.
    Command(Range<usize>),
    /// Nothing complete: everything from [`Scanner::consumed`] on has to be kept. At least this many
    /// more bytes are needed; never more than the limits allow.
    NeedMore(usize),
}

/// Scans one connection's buffer, frame by frame, and remembers its position in an incomplete
/// message, so that no byte is looked at twice.
///
/// Positions are relative to the buffer's first byte. After removing consumed bytes from the front,
/// call [`rebase`](Self::rebase).
#[derive(Debug)]
pub struct Scanner {
    bytes_max: usize,
    parts_max: usize,
    /// Where the message in progress begins; everything before it is consumed.
    start: usize,
    /// Where the next frame's header begins.
    at: usize,
    parts: usize,
    /// Commands within the message in progress.
    interruptions: usize,
    first: Range<usize>,
    /// The flags of frames in the peer's version.
    flags_known: u8,
}

impl Scanner {
    /// A scanner at the front of an empty buffer, for a peer of this version.
    pub fn new(limits: &Limits, version: Version) -> Self {
        Self {
            flags_known: flags_known(version),
            bytes_max: limits.message_bytes_max,
            parts_max: limits.message_parts_max,
            start: 0,
            at: 0,
            parts: 0,
            interruptions: 0,
            first: 0..0,
        }
    }

    /// Changes the limits, for the message in progress too.
    #[inline]
    pub fn set_limits(&mut self, limits: &Limits) {
        self.bytes_max = limits.message_bytes_max;
        self.parts_max = limits.message_parts_max;
    }

    /// The bytes at the front of the buffer that nothing refers to any more.
    pub fn consumed(&self) -> usize {
        self.start
    }

    /// The consumed bytes were taken from the front of the buffer.
    pub fn rebase(&mut self) {
        let gone = std::mem::take(&mut self.start);
        self.at -= gone;
        if self.parts > 0 {
            self.first = self.first.start - gone..self.first.end - gone;
        }
    }

    /// The received part of the message in progress.
    pub fn begun<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        buf.get(self.start..).unwrap_or_default()
    }

    /// Looks for the next whole message or command.
    ///
    /// `buf` is mutable because libzmq sends its PING also between the frames of one message: such a
    /// command is moved in front of the message, which so stays in one piece.
    ///
    /// # Errors
    /// [`FrameError`] ends the connection.
    #[inline]
    pub fn next(&mut self, buf: &mut [u8]) -> Result<Step, FrameError> {
        loop {
            let Some(header) =
                FrameHeader::parse_with(buf.get(self.at..).unwrap_or_default(), self.flags_known)?
            else {
                return Ok(Step::NeedMore(1));
            };
            let body = self.at + header.header_bytes;
            let size = ((body - self.start) as u64).saturating_add(header.body_bytes);
            if size > self.bytes_max as u64 {
                return Err(FrameError::MessageTooLarge(size, self.bytes_max));
            }
            let end = self.start + size as usize;
            if end > buf.len() {
                return Ok(Step::NeedMore(end - buf.len()));
            }
            if header.command() {
                self.interruptions += usize::from(self.parts > 0);
                if self.interruptions > INTERRUPTIONS_MAX {
                    return Err(FrameError::Interrupted(INTERRUPTIONS_MAX));
                }
                return Ok(Step::Command(self.take_command(
                    buf,
                    header.header_bytes,
                    end,
                )));
            }
            if self.parts == 0 {
                self.first = body..end;
            }
            self.parts += 1;
            self.at = end;
            if !header.more() {
                return Ok(Step::Message(self.take_message(body)));
            }
            if self.parts >= self.parts_max {
                return Err(FrameError::TooManyParts(self.parts_max));
            }
        }
    }

    /// Skips the messages that follow `last`, which was just found, and are like it: the same length,
    /// and the same bytes up to the body of the last of several frames. Returns how many.
    ///
    /// Publishers send many such events in a row: comparing a few machine words tells everything about
    /// the next event that [`next`](Self::next) would find out frame by frame.
    #[inline]
    pub fn skip_alike(&mut self, buf: &[u8], last: &MessageSpan) -> usize {
        let (head_bytes, bytes) = (last.last_body - last.bytes.start, last.bytes.len());
        if last.parts < 2 || head_bytes > HEAD_BYTES_MAX || self.start != last.bytes.end {
            return 0;
        }
        let Some(head) = buf[last.bytes.start..].first_chunk() else {
            return 0;
        };
        let (low, high) = words(head);
        let (low_mask, high_mask) = (mask(head_bytes), mask(head_bytes.saturating_sub(16)));
        let mut found = 0;
        while let Some(next) = buf[self.start..].first_chunk()
            && self.start + bytes <= buf.len()
        {
            let (next_low, next_high) = words(next);
            if (low ^ next_low) & low_mask | (high ^ next_high) & high_mask != 0 {
                break;
            }
            self.start += bytes;
            found += 1;
        }
        self.at = self.start;
        found
    }

    fn take_message(&mut self, last_body: usize) -> MessageSpan {
        let bytes = self.start..self.at;
        self.start = self.at;
        self.interruptions = 0;
        MessageSpan {
            bytes,
            first: self.first.clone(),
            last_body,
            parts: std::mem::take(&mut self.parts),
        }
    }

    /// The body of the command that ends at `end`, moved in front of the message in progress.
    fn take_command(&mut self, buf: &mut [u8], header_bytes: usize, end: usize) -> Range<usize> {
        let command = self.start;
        let command_bytes = end - self.at;
        if self.parts > 0 {
            buf[command..end].rotate_right(command_bytes);
            self.first = self.first.start + command_bytes..self.first.end + command_bytes;
        }
        self.start += command_bytes;
        self.at = end;
        command + header_bytes..command + command_bytes
    }
}

fn words(head: &[u8; HEAD_BYTES_MAX]) -> (u128, u128) {
    let all = u128::from_le_bytes;
    match head.split_first_chunk() {
        Some((low, high)) => (all(*low), high.first_chunk().copied().map_or(0, all)),
        None => (0, 0),
    }
}

/// A mask for the first so many bytes of a machine word.
fn mask(bytes: usize) -> u128 {
    match bytes {
        0..16 => (1 << (8 * bytes)) - 1,
        _ => u128::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::put_command;
    use crate::{encode_frame, frames_of};
    use bytes::{Buf, Bytes, BytesMut};
    use proptest::prelude::*;

    #[derive(Debug, Clone, PartialEq)]
    enum Sent {
        Message(Vec<Vec<u8>>),
        Command(Vec<u8>),
    }

    fn sent() -> impl Strategy<Value = Vec<Sent>> {
        let body = || proptest::collection::vec(any::<u8>(), 0..300);
        let message = proptest::collection::vec(body(), 1..5).prop_map(Sent::Message);
        proptest::collection::vec(prop_oneof![message, body().prop_map(Sent::Command)], 0..8)
    }

    fn encoded(sent: &[Sent], inner: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        for item in sent {
            match item {
                Sent::Command(body) => put_command(&mut out, body),
                Sent::Message(frames) => {
                    for (i, frame) in frames.iter().enumerate() {
                        if i > 0 && !inner.is_empty() {
                            put_command(&mut out, inner);
                        }
                        encode_frame(&mut out, frame, i + 1 < frames.len());
                    }
                }
            }
        }
        out
    }

    /// Feeds `bytes` in pieces of at most `piece` bytes, as a connection does.
    fn scan(mut bytes: BytesMut, piece: usize) -> Vec<Sent> {
        let mut scanner = Scanner::new(&Limits::default(), Version::V3_1);
        let (mut buf, mut found) = (BytesMut::new(), vec![]);
        while !bytes.is_empty() {
            buf.extend_from_slice(&bytes.split_to(piece.min(bytes.len())));
            loop {
                match scanner.next(&mut buf).unwrap() {
                    Step::NeedMore(_) => break,
                    Step::Command(body) => found.push(Sent::Command(buf[body].to_vec())),
                    Step::Message(span) => {
                        let frames = frames_of(&Bytes::copy_from_slice(&buf[span.bytes.clone()]));
                        assert_eq!(frames[0], &buf[span.first]);
                        assert_eq!(frames.len(), span.parts);
                        found.push(Sent::Message(frames.iter().map(|f| f.to_vec()).collect()));
                    }
                }
            }
            buf.advance(scanner.consumed());
            scanner.rebase();
        }
        assert!(buf.is_empty());
        found
    }

    proptest! {
        #[test]
        fn what_was_sent_is_found(sent in sent(), piece in 1usize..700) {
            prop_assert_eq!(scan(encoded(&sent, b""), piece), sent);
        }

        #[test]
        fn commands_between_frames_leave_messages_whole(sent in sent(), piece in 1usize..700) {
            let found = scan(encoded(&sent, b"\x04PING\x00\x00"), piece);
            let messages = |items: &[Sent]| -> Vec<Sent> {
                items.iter().filter(|item| matches!(item, Sent::Message(_))).cloned().collect()
            };
            prop_assert_eq!(messages(&found), messages(&sent));
            let parts = |item: &Sent| match item { Sent::Message(f) => f.len() - 1, Sent::Command(_) => 1 };
            let commands = found.iter().filter(|item| matches!(item, Sent::Command(_))).count();
            prop_assert_eq!(commands, sent.iter().map(parts).sum::<usize>());
        }

        #[test]
        fn alike_is_what_next_would_find(
            heads in proptest::collection::vec((0usize..3, 0usize..40, 30usize..33), 1..60),
            cut in 0usize..50,
        ) {
            let mut bytes = BytesMut::new();
            for (parts, subject, size) in heads {
                for _ in 0..parts {
                    encode_frame(&mut bytes, &b"s".repeat(subject / 10 * 10), true);
                }
                let filler = bytes.len() as u8;
                encode_frame(&mut bytes, &vec![filler; size / 31 * 31], false);
            }
            bytes.truncate(bytes.len().saturating_sub(cut));
            let (mut one, mut all) = (Scanner::new(&Limits::default(), Version::V3_1), Scanner::new(&Limits::default(), Version::V3_1));
            while let Step::Message(span) = one.next(&mut bytes).unwrap() {
                let Step::Message(again) = all.next(&mut bytes).unwrap() else { panic!("fewer") };
                prop_assert_eq!(&again, &span);
                for _ in 0..all.skip_alike(&bytes, &span) {
                    let Step::Message(next) = one.next(&mut bytes).unwrap() else { panic!("more") };
                    prop_assert_eq!(&bytes[next.first], &bytes[span.first.clone()]);
                    prop_assert_eq!((next.bytes.len(), next.parts), (span.bytes.len(), span.parts));
                }
                prop_assert_eq!(all.consumed(), one.consumed());
            }
            prop_assert_eq!(all.next(&mut bytes), one.next(&mut bytes));
        }

        #[test]
        fn noise_never_panics(mut noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut scanner = Scanner::new(&Limits::default(), Version::V3_1);
            while let Ok(Step::Message(_) | Step::Command(_)) = scanner.next(&mut noise) {}
        }
    }

    #[test]
    fn commands_within_a_message_are_bounded() {
        let mut scanner = Scanner::new(&Limits::default(), Version::V3_1);
        let ping = b"\x04\x07\x04PING\x00\x00";
        let interrupted = |pings: usize| [&[1, 0][..], &ping.repeat(pings), &[0, 0]].concat();
        let mut buf = interrupted(INTERRUPTIONS_MAX).repeat(2);
        let mut messages = 0;
        while let Ok(step @ (Step::Message(_) | Step::Command(_))) = scanner.next(&mut buf) {
            messages += usize::from(matches!(step, Step::Message(_)));
        }
        assert_eq!((messages, scanner.consumed()), (2, buf.len()));
        let mut buf = interrupted(INTERRUPTIONS_MAX + 1);
        let mut scanner = Scanner::new(&Limits::default(), Version::V3_1);
        let error = std::iter::repeat_with(|| scanner.next(&mut buf)).find_map(Result::err);
        assert_eq!(error, Some(FrameError::Interrupted(INTERRUPTIONS_MAX)));
    }

    #[test]
    fn limits_hold_before_anything_is_awaited() {
        let limits = Limits {
            message_bytes_max: 100,
            message_parts_max: 3,
            ..Limits::default()
        };
        let mut huge = [2, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF];
        let error = Scanner::new(&limits, Version::V3_1).next(&mut huge);
        assert_eq!(error, Err(FrameError::MessageTooLarge(u64::MAX, 100)));
        let mut parts = [1, 0, 1, 0, 1, 0, 0, 0];
        assert_eq!(
            Scanner::new(&limits, Version::V3_1).next(&mut parts),
            Err(FrameError::TooManyParts(3))
        );
        let mut sum = [[1, 60].to_vec(), vec![0; 60], vec![0, 60]].concat();
        let error = Scanner::new(&limits, Version::V3_1).next(&mut sum);
        assert_eq!(error, Err(FrameError::MessageTooLarge(124, 100)));
    }
}
