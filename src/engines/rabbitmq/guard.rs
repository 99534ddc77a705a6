//! What a server sends, before the library reads it.
//!
//! The library reads lists and tables within each other by recursion, as deep as they come: a message with
//! a thousand of them in a header, from anybody who may publish there, would overflow its thread's stack,
//! and that ends the process. So what is too deep is made a value of bytes, which has the same length.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How deep lists and tables may be.
const DEPTH_MAX: usize = 16;
/// The longest frame that is looked at, in bytes; servers want 128 KiB at most, unless configured.
const FRAME_BYTES_MAX: usize = 1 << 20;
/// Before a frame's content: its kind, its channel, and its length. One byte is behind it.
const FRAME_HEAD_BYTES: usize = 7;
/// What is read at once, in bytes.
const CHUNK_BYTES: usize = 64 << 10;

const METHOD: u8 = 1;
const CONTENT_HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;

/// A connection to a server.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// A connection of which the library reads only what is harmless.
pub(super) struct Guarded {
    wire: Box<dyn Wire>,
    chunk: Box<[u8]>,
    frames: Frames,
}

impl Guarded {
    pub(super) fn new(wire: Box<dyn Wire>) -> Self {
        Self {
            wire,
            chunk: vec![0; CHUNK_BYTES].into(),
            frames: Frames::default(),
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.frames.give(into) {
                return Poll::Ready(Ok(()));
            }
            let mut chunk = ReadBuf::new(&mut this.chunk);
            ready!(Pin::new(&mut this.wire).poll_read(context, &mut chunk))?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.frames.take(chunk.filled())?;
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(context)
    }
}

/// What has come, cut into frames.
#[derive(Default)]
struct Frames {
    come: BytesMut,
    /// How many of these bytes may be read.
    ready: usize,
    /// How many bytes that are still to come may be read as they are.
    passes: usize,
}

impl Frames {
    /// Gives what may be read; whether that is anything.
    fn give(&mut self, into: &mut ReadBuf<'_>) -> bool {
        let count = self.ready.min(into.remaining());
        into.put_slice(&self.come[..count]);
        self.come.advance(count);
        self.ready -= count;
        count > 0
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.come.extend_from_slice(bytes);
        while self.step()? {}
        Ok(())
    }

    /// Looks at what comes next; whether there was enough of it.
    fn step(&mut self) -> io::Result<bool> {
        let unseen = &mut self.come[self.ready..];
        if self.passes > 0 {
            let count = self.passes.min(unseen.len());
            self.ready += count;
            self.passes -= count;
            return Ok(count > 0);
        }
        let Some((head, rest)) = unseen.split_first_chunk_mut::<FRAME_HEAD_BYTES>() else {
            return Ok(false);
        };
        let [kind, channel @ .., _, _, _, _] = *head;
        let size = number(&head[3..]).unwrap_or_default();
        match kind {
            CONTENT_HEADER => {}
            METHOD if channel == [0, 0] => {}
            METHOD | BODY | HEARTBEAT => {
                self.passes = FRAME_HEAD_BYTES + size + 1;
                return Ok(true);
            }
            // It speaks something else, as the library will say.
            _ => {
                self.passes = usize::MAX;
                return Ok(true);
            }
        }
        if size > FRAME_BYTES_MAX {
            let why = format!("a frame of {size} bytes came; {FRAME_BYTES_MAX} are the most");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        if rest.len() <= size {
            return Ok(false);
        }
        let content = &mut rest[..size];
        let table = match kind {
            CONTENT_HEADER => headers_at(content),
            // connection.start, with what the server says of itself.
            _ => content.starts_with(&[0, 10, 0, 10]).then_some(6),
        };
        if let Some(table) = table {
            make_shallow(content, table);
        }
        self.ready += FRAME_HEAD_BYTES + size + 1;
        Ok(true)
    }
}

/// Where a content header has the message's headers, if it has any.
fn headers_at(content: &[u8]) -> Option<usize> {
    let [high, _] = *content.get(12..)?.first_chunk()?;
    let mut at = 14;
    // The properties before them: content-type and content-encoding.
    for flag in [0x80, 0x40] {
        if high & flag != 0 {
            at += 1 + usize::from(*content.get(at)?);
        }
    }
    (high & 0x20 != 0).then_some(at)
}

/// Makes all that is too deep in a table bytes. Where that makes no sense, the library ends the same way.
fn make_shallow(content: &mut [u8], table: usize) -> Option<()> {
    let mut at = table + 4;
    // Where each list or table ends that something is in, and whether names stand before its values.
    let mut within = vec![(at + number(content.get(table..)?)?, true)];
    while let Some((end, has_names)) = within.last().copied() {
        if at >= end {
            within.pop();
            continue;
        }
        if has_names {
            at += 1 + usize::from(*content.get(at)?);
        }
        let kind = *content.get(at)?;
        at += 1;
        at += match kind {
            b'V' => 0,
            b't' | b'b' | b'B' => 1,
            b's' | b'U' | b'u' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            b'L' | b'l' | b'd' | b'T' => 8,
            b'A' | b'F' if within.len() < DEPTH_MAX => {
                within.push((at + 4 + number(content.get(at..)?)?, kind == b'F'));
                4
            }
            b'A' | b'F' | b'S' | b'x' => {
                if matches!(kind, b'A' | b'F') {
                    content[at - 1] = b'x';
                }
                4 + number(content.get(at..)?)?
            }
            _ => return None,
        };
    }
    Some(())
}

/// The number in the first four bytes.
fn number(bytes: &[u8]) -> Option<usize> {
    let bytes = bytes.first_chunk()?;
    usize::try_from(u32::from_be_bytes(*bytes)).ok()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn prefixed(kind: u8, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap();
        [&[kind], &length.to_be_bytes()[..], content].concat()
    }

    /// So many lists within each other.
    fn nested(depth: usize) -> Vec<u8> {
        (0..depth).fold(b"V".to_vec(), |inner, _| prefixed(b'A', &inner))
    }

    /// A frame of headers, with `x` before and `last` behind a value.
    fn header_frame(value: &[u8]) -> Vec<u8> {
        let table = [
            b"\x01x",
            &prefixed(b'S', b"text")[..],
            b"\x01a",
            value,
            b"\x04lastt\x01",
        ];
        let table = prefixed(0, &table.concat());
        let content = [
            &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xA0, 0, 4][..],
            b"text",
            &table[1..],
        ];
        let mut frame = prefixed(0, &content.concat());
        frame.splice(..1, [CONTENT_HEADER, 0, 1]);
        frame.push(0xCE);
        frame
    }

    fn read(bytes: &[u8], at_once: usize) -> io::Result<Vec<u8>> {
        let mut frames = Frames::default();
        let mut given = Vec::new();
        let mut buffer = [0; 50];
        for part in bytes.chunks(at_once) {
            frames.take(part)?;
            let mut into = ReadBuf::new(&mut buffer);
            while frames.give(&mut into) {
                given.extend_from_slice(into.filled());
                into.clear();
            }
        }
        Ok(given)
    }

    #[test]
    fn what_is_too_deep_becomes_bytes_of_the_same_length() {
        for at_once in [1, 7, 100_000] {
            let harmless = header_frame(&nested(DEPTH_MAX - 1));
            assert_eq!(read(&harmless, at_once).unwrap(), harmless);
            let deep = header_frame(&nested(20_000));
            let given = read(&deep, at_once).unwrap();
            assert_eq!(given.len(), deep.len());
            let changed: Vec<_> = (0..deep.len())
                .filter(|at| given[*at] != deep[*at])
                .collect();
            let begin = deep.windows(2).position(|two| two == [1, b'a']).unwrap() + 2;
            assert_eq!(changed, [begin + 5 * (DEPTH_MAX - 1)]);
            assert_eq!((deep[changed[0]], given[changed[0]]), (b'A', b'x'));
        }
    }

    #[test]
    fn a_header_that_is_endless_ends_the_connection() {
        let frame = [CONTENT_HEADER, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF];
        let error = read(&frame, 7).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    proptest! {
        #[test]
        fn all_else_passes_as_it_is(
            kinds in vec((prop_oneof![Just(METHOD), Just(BODY), Just(HEARTBEAT)], vec(any::<u8>(), 0..60)), 0..8),
            at_once in 1usize..40,
        ) {
            let mut sent = vec![];
            for (kind, content) in kinds {
                let mut frame = prefixed(0, &content);
                frame.splice(..1, [kind, 0, 1]);
                frame.push(0xCE);
                sent.extend(frame);
            }
            prop_assert_eq!(read(&sent, at_once).unwrap(), sent);
        }

        #[test]
        fn nonsense_harms_nobody(mut content in vec(any::<u8>(), 0..80), table in 0usize..90) {
            let length = content.len();
            headers_at(&content);
            make_shallow(&mut content, table);
            prop_assert_eq!(content.len(), length);
        }

        #[test]
        fn another_protocol_passes(sent in vec(any::<u8>(), 0..80), at_once in 1usize..40) {
            prop_assume!(sent.first().is_none_or(|first| *first > HEARTBEAT));
            let given = read(&sent, at_once).unwrap();
            // What it is shows with its seventh byte.
            prop_assert!(given == sent || sent.len() < FRAME_HEAD_BYTES);
        }
    }
}
