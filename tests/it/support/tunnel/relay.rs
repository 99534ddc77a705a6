//! One connection through a tunnel: the handshakes of both sides, then frame by frame.
//!
//! All that the peers see of each other passes: versions, socket types, routing ids, commands, half
//! closed and reset connections. What can't be put in a box, such as a malformed frame, passes as it is.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use event_manager::ambient::random_bytes;
use event_manager_zmtp::curve::{
    CurveClient, CurveServer, Opener, SEALED_EXTRA_BYTES, Sealer, Session,
};
use event_manager_zmtp::{FrameHeader, GREETING_BYTES};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::{DAEMON, PEER};
use crate::support::keys::pair;
use crate::support::raw::COMMAND;
use crate::support::raw_curve::any_frame;

/// Which of the two connections has no CURVE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// A peer of the daemon has dialled.
    Accepted,
    /// The daemon has dialled.
    Dialled,
}

/// Where the mechanism is in a greeting, and whether its side is a server.
const MECHANISM: std::ops::Range<usize> = 12..32;
const AS_SERVER: usize = 32;
/// The flag of a frame whose length has eight bytes.
const LONG: u8 = 2;
/// Who sends so much shows which version it speaks.
const VERSION_BYTES: usize = 12;

/// Relays until both have closed.
pub async fn relay(accepted: End, dialled: End, plain: Side) {
    let (mut peer, mut daemon) = match plain {
        Side::Accepted => (accepted, dialled),
        Side::Dialled => (dialled, accepted),
    };
    let met = async {
        if !greet(&mut peer, &mut daemon, plain).await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match plain {
            Side::Accepted => meet_as_client(&mut peer, &mut daemon).await,
            Side::Dialled => meet_as_server(&mut peer, &mut daemon).await,
        }
    };
    let done = match met.await {
        Ok(session) => pass(&mut peer, &mut daemon, session).await,
        Err(error) => Err(error),
    };
    if done.is_err_and(|error| error.kind() != io::ErrorKind::UnexpectedEof) {
        for tcp in [peer.tcp, daemon.tcp].into_iter().flatten() {
            // It is reset.
            let _ = tcp.set_linger(Some(Duration::ZERO));
        }
    }
}

/// A connection.
pub struct End {
    reads: Reads,
    writes: Writes,
    /// To reset it.
    tcp: Option<socket2::Socket>,
}

type Writes = Box<dyn AsyncWrite + Send + Unpin>;

impl End {
    pub fn of_tcp(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("an option");
        let tcp = socket2::SockRef::from(&stream).try_clone();
        let (reads, writes) = stream.into_split();
        Self {
            tcp: Some(tcp.expect("a descriptor")),
            ..Self::of(reads, writes)
        }
    }

    pub fn of_unix(stream: UnixStream) -> Self {
        let (reads, writes) = stream.into_split();
        Self::of(reads, writes)
    }

    fn of(
        reads: impl AsyncRead + Send + Unpin + 'static,
        writes: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Self {
        Self {
            reads: Reads {
                stream: Box::new(reads),
                read: BytesMut::new(),
            },
            writes: Box::new(writes),
            tcp: None,
        }
    }
}

struct Reads {
    stream: Box<dyn AsyncRead + Send + Unpin>,
    read: BytesMut,
}

/// A frame of a handshake: whether it is a command, and its body.
type Frame = (bool, BytesMut);

impl Reads {
    /// Reads more; whether there was any.
    async fn more(&mut self) -> io::Result<bool> {
        self.read.reserve(64 << 10);
        Ok(self.stream.read_buf(&mut self.read).await? != 0)
    }

    /// Reads until so many bytes are there.
    async fn at_least(&mut self, bytes: usize) -> io::Result<()> {
        while self.read.len() < bytes {
            if !self.more().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Takes a frame that is there as a whole.
    fn take_frame(&mut self) -> io::Result<Option<Frame>> {
        let Some(header) = FrameHeader::parse(&self.read).map_err(invalid)? else {
            return Ok(None);
        };
        let end = header
            .header_bytes
            .saturating_add(header.body_bytes as usize);
        if self.read.len() < end {
            return Ok(None);
        }
        self.read.advance(header.header_bytes);
        let body = self.read.split_to(header.body_bytes as usize);
        Ok(Some((header.command(), body)))
    }

    /// Reads a frame. May be dropped without a loss.
    async fn frame(&mut self) -> io::Result<Frame> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(frame);
            }
            if !self.more().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Passes on the greetings, but for what they say of the mechanism; whether the peer's is NULL.
async fn greet(peer: &mut End, daemon: &mut End, plain: Side) -> io::Result<bool> {
    let mechanism = |name: &[u8]| {
        let mut field = [0; MECHANISM.end - MECHANISM.start];
        field[..name.len()].copy_from_slice(name);
        field
    };
    let (null, curve) = (mechanism(b"NULL"), mechanism(b"CURVE"));
    let mut is_null = false;
    let there = pass_greeting(&mut peer.reads, &mut daemon.writes, |greeting| {
        is_null = greeting[MECHANISM] == null;
        if is_null {
            greeting[MECHANISM].copy_from_slice(&curve);
            greeting[AS_SERVER] = u8::from(plain == Side::Dialled);
        }
    });
    let back = pass_greeting(&mut daemon.reads, &mut peer.writes, |greeting| {
        greeting[MECHANISM].copy_from_slice(&null);
        greeting[AS_SERVER] = 0;
    });
    tokio::try_join!(there, back)?;
    Ok(is_null)
}

async fn pass_greeting(
    from: &mut Reads,
    to: &mut Writes,
    change: impl FnOnce(&mut [u8]),
) -> io::Result<()> {
    let mut passed = 0;
    while passed < VERSION_BYTES {
        from.at_least(passed + 1).await?;
        let there = from.read.len().min(VERSION_BYTES);
        to.write_all(&from.read[passed..there]).await?;
        passed = there;
    }
    from.at_least(GREETING_BYTES).await?;
    let mut greeting = from.read.split_to(GREETING_BYTES);
    change(&mut greeting);
    to.write_all(&greeting[passed..]).await
}

/// The metadata of a READY, if it is one.
fn ready((is_command, body): &Frame) -> Option<&[u8]> {
    body.strip_prefix(b"\x05READY").filter(|_| *is_command)
}

/// A READY of NULL.
fn ready_with(metadata: &[u8]) -> Vec<u8> {
    any_frame(COMMAND, &[b"\x05READY", metadata].concat())
}

/// Passes on what is no part of the handshake: the other side knows what to make of it. Then it is over.
async fn hand_over((is_command, body): Frame, to: &mut End) -> io::Error {
    let frame = any_frame(if is_command { COMMAND } else { 0 }, &body);
    let written = to.writes.write_all(&frame).await;
    written.err().unwrap_or(io::ErrorKind::UnexpectedEof.into())
}

/// To a daemon that was dialled.
async fn meet_as_client(peer: &mut End, daemon: &mut End) -> io::Result<Session> {
    let server = *pair(DAEMON).public();
    let mut curve = CurveClient::new(pair(PEER), server, &random_bytes()).map_err(invalid)?;
    let hello = any_frame(COMMAND, &curve.hello());
    daemon.writes.write_all(&hello).await?;
    let welcome = daemon.reads.frame().await?;
    if !welcome.1.starts_with(b"\x07WELCOME") {
        return Err(hand_over(welcome, peer).await);
    }
    let its = tokio::select! {
        frame = peer.reads.frame() => frame?,
        early = daemon.reads.frame() => return Err(hand_over(early?, peer).await),
    };
    let Some(metadata) = ready(&its) else {
        return Err(hand_over(its, daemon).await);
    };
    let initiate = curve.welcome(&welcome.1, metadata).map_err(invalid)?;
    let initiate = any_frame(COMMAND, &initiate);
    daemon.writes.write_all(&initiate).await?;
    let answer = daemon.reads.frame().await?;
    if ready(&answer).is_none() {
        return Err(hand_over(answer, peer).await);
    }
    let (metadata, session) = curve.ready(&answer.1).map_err(invalid)?;
    peer.writes.write_all(&ready_with(&metadata)).await?;
    Ok(session)
}

/// To a daemon that has dialled.
async fn meet_as_server(peer: &mut End, daemon: &mut End) -> io::Result<Session> {
    // A service is called with the key that it registered with, a daemon with its own.
    let keys = [PEER, DAEMON].map(pair);
    let mut curve = CurveServer::new(keys.into(), &random_bytes());
    let (_, hello) = daemon.reads.frame().await?;
    let welcome = curve.hello(&hello).map_err(invalid)?;
    let welcome = any_frame(COMMAND, &welcome);
    daemon.writes.write_all(&welcome).await?;
    let (_, initiate) = daemon.reads.frame().await?;
    let initiated = curve.initiate(&initiate).map_err(invalid)?;
    let ready_of_daemon = ready_with(&initiated.metadata);
    peer.writes.write_all(&ready_of_daemon).await?;
    let its = peer.reads.frame().await?;
    let Some(metadata) = ready(&its) else {
        return Err(hand_over(its, daemon).await);
    };
    let (body, session) = initiated.agreed.ready(metadata);
    daemon.writes.write_all(&any_frame(COMMAND, &body)).await?;
    Ok(session)
}

/// Passes on frames both ways until both have closed. An error is that of a connection that was reset.
async fn pass(peer: &mut End, daemon: &mut End, session: Session) -> io::Result<()> {
    let there = seal(&mut peer.reads, &mut daemon.writes, session.sealer);
    let back = open(&mut daemon.reads, &mut peer.writes, session.opener);
    tokio::try_join!(there, back).map(drop)
}

/// From the peer to the daemon. How long a frame is passes before its end is there.
async fn seal(from: &mut Reads, to: &mut Writes, mut sealer: Sealer) -> io::Result<()> {
    let mut out = BytesMut::new();
    let mut is_begun = false;
    loop {
        let whole = whole_frames(&from.read);
        let mut sealed = BytesMut::new();
        let taken = sealer.seal(&from.read[..whole], &mut sealed, usize::MAX);
        from.read.advance(taken.map_err(invalid)?);
        // The header of the first one may have been sent.
        if is_begun && whole != 0 {
            let header = FrameHeader::parse(&sealed).map_err(invalid)?;
            sealed.advance(header.map_or(0, |header| header.header_bytes));
            is_begun = false;
        }
        out.unsplit(sealed);
        let rest = FrameHeader::parse(&from.read);
        if let Ok(Some(header)) = rest
            && !is_begun
        {
            out.extend_from_slice(&box_header(header.body_bytes));
            is_begun = true;
        }
        if to.write_all(&out).await.is_err() {
            // What the daemon said last is under way, so the other direction goes on.
            return Ok(());
        }
        out.clear();
        if rest.is_err() {
            return copy(from, to).await;
        }
        if !from.more().await? {
            let _ = to.shutdown().await;
            return Ok(());
        }
    }
}

/// Where the last frame ends that is there as a whole.
fn whole_frames(bytes: &[u8]) -> usize {
    let mut end = 0;
    while let Ok(Some(header)) = FrameHeader::parse(&bytes[end..])
        && let Some(next) = (end + header.header_bytes).checked_add(header.body_bytes as usize)
        && next <= bytes.len()
    {
        end = next;
    }
    end
}

/// The header of a box for so many bytes.
fn box_header(body_bytes: u64) -> Vec<u8> {
    let len = body_bytes.saturating_add(SEALED_EXTRA_BYTES as u64);
    match u8::try_from(len) {
        Ok(len) => vec![0, len],
        Err(_) => [&[LONG], &len.to_be_bytes()[..]].concat(),
    }
}

/// From the daemon to the peer.
async fn open(from: &mut Reads, to: &mut Writes, mut opener: Opener) -> io::Result<()> {
    loop {
        let opened = opener.open(&mut from.read, 0, 0, usize::MAX);
        let opened = opened.map_err(|refused| invalid(refused.error))?;
        to.write_all(&from.read[..opened.plain_end]).await?;
        from.read.advance(opened.sealed_from);
        if !from.more().await? {
            let _ = to.shutdown().await;
            return Ok(());
        }
    }
}

/// What is no frame passes as it is.
async fn copy(from: &mut Reads, to: &mut Writes) -> io::Result<()> {
    loop {
        if to.write_all(&from.read).await.is_err() {
            return Ok(());
        }
        from.read.clear();
        if !from.more().await? {
            let _ = to.shutdown().await;
            return Ok(());
        }
    }
}
