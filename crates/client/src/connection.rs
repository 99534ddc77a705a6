//! One connection to a peer: the handshake, then messages and commands both ways.

mod opening;

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Interval, MissedTickBehavior, interval_at, timeout};

use crate::LIMITS;
use crate::ambient::now;
use crate::keys::ClientKeys;
use event_manager_wire::model::Endpoint;
use event_manager_zmtp::{
    Command, FrameError, Heartbeat, HubId, Limits, LocalSocket, MalformedCommand, Pulse, Scanner,
    Step, Subscription, Version, encode_frame, encode_ping, encode_pong, encode_subscribe, frames,
    frames_of,
};
pub(crate) use opening::Refusals;
use opening::{Halves, connect, meet};
pub use opening::{OpenError, TurnedAway};

/// How long a connection may take to be accepted. The system asks a machine that doesn't answer ever
/// less often, so it is better to begin anew.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// The least and the most room that is made for what is read at once, in bytes. It is twice as much after
/// a read that filled it, and half after one that took less than a quarter.
const READ_BYTES: std::ops::RangeInclusive<usize> = 8 << 10..=128 << 10;
/// The most for a message whose length is known.
const READ_BYTES_WANTED: usize = 1 << 20;
/// No PING is answered while so many bytes wait to be sent: they are a sign of life, too.
const PONGS_BYTES_MAX: usize = 64 << 10;
/// Looks at the clock in one interval of heartbeats.
const LOOKS: u32 = 4;

/// How a connection is opened and kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which socket of a client it belongs to.
    pub role: LocalSocket,
    /// What the peer may send. A message that is larger ends the connection before it is held.
    pub limits: Limits,
    /// A peer that is silent for so long gets a PING, if it knows that; after three such intervals
    /// without a byte the connection ends. Zero is never.
    pub heartbeat: Duration,
    /// The connection ends when the peer takes nothing of what is sent for so long.
    pub stall: Option<Duration>,
    /// The keys, if the connection has CURVE. Who is dialled admits only the peer with that server key.
    pub keys: Option<ClientKeys>,
    /// Which event manager we are, if we are one: what we emit goes to no other then.
    pub hub: Option<HubId>,
}

impl Options {
    /// Heartbeats every 10 s; no bound on how slowly the peer takes what is sent.
    pub fn new(role: LocalSocket, limits: Limits) -> Self {
        Self {
            role,
            limits,
            heartbeat: Duration::from_secs(10),
            stall: None,
            keys: None,
            hub: None,
        }
    }

    /// The same of an event manager.
    pub fn of_hub(self, hub: HubId) -> Self {
        Self {
            hub: Some(hub),
            ..self
        }
    }

    /// The same with these keys.
    pub fn with_keys(self, keys: Option<ClientKeys>) -> Self {
        Self { keys, ..self }
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The peer closed it.
    #[error("it was closed there")]
    Closed,
    /// The system says so.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The peer did not answer a PING.
    #[error("nothing was heard for {0:?}")]
    Silent(Duration),
    /// See [`Options::stall`].
    #[error("nothing was taken for {0:?}")]
    Stalled(Duration),
    /// The peer says that it gives up.
    #[error("it was refused: {0}")]
    Refused(String),
    /// The peer sent what can't be read, or more than the limits allow.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The same of a command.
    #[error(transparent)]
    Command(#[from] MalformedCommand),
}

/// What happened on a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A message, as it was encoded.
    Message(Bytes),
    /// For a PUB: whether the peer wants all events.
    Wanted(bool),
    /// The PING of this number is answered, so all that was sent before it was read.
    Pong(u64),
    /// All that was sent has been given to the system.
    Sent,
}

type Reads = Box<dyn AsyncRead + Send + Sync + Unpin>;
type Writes = Box<dyn AsyncWrite + Send + Sync + Unpin>;

/// A connection whose handshake is done. It has no task of its own: it is read, written and kept alive
/// while somebody waits in [`next`](Self::next).
pub struct Connection {
    reads: Reads,
    writes: Writes,
    own_host: Option<IpAddr>,
    role: LocalSocket,
    version: Version,
    scanner: Scanner,
    received: BytesMut,
    /// Room for the next read.
    read_bytes: usize,
    /// How many more bytes the message needs that has begun.
    wanted_bytes: usize,
    out: BytesMut,
    heartbeat: Heartbeat,
    silence_max: Duration,
    clock: Interval,
    stall: Option<Duration>,
    written_at: Instant,
    pings: u64,
    pongs: u64,
}

impl Connection {
    /// Connects and shakes hands, within 12 s.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(address: &Endpoint, options: &Options) -> Result<Self, OpenError> {
        let halves = match timeout(CONNECT_MAX, connect(address)).await {
            Ok(Ok(halves)) => halves,
            Ok(Err(error)) => return Err(OpenError::Unreachable(error.to_string())),
            Err(_) => {
                let why = "no answer to the connection".to_owned();
                return Err(OpenError::Unreachable(why));
            }
        };
        meet(halves, options, false).await
    }

    /// The same over a stream that leads to the peer already, as one end of a socket pair does.
    ///
    /// # Errors
    /// [`OpenError::NoPeer`], [`OpenError::NotMet`], [`OpenError::TurnedAway`].
    pub async fn over(stream: UnixStream, options: &Options) -> Result<Self, OpenError> {
        meet(stream.into(), options, false).await
    }

    /// Whether a hub takes requests at this address from whoever has these keys.
    ///
    /// # Errors
    /// [`OpenError`]: why not.
    pub async fn probe(address: &Endpoint, keys: Option<ClientKeys>) -> Result<(), OpenError> {
        let options = Options::new(LocalSocket::Req, LIMITS).with_keys(keys);
        Self::open(&address.local(), &options).await.map(drop)
    }

    /// Shakes hands with a peer that has connected, within 10 s.
    ///
    /// # Errors
    /// [`OpenError::NoPeer`], [`OpenError::NotMet`].
    pub(crate) async fn accept(stream: TcpStream, options: &Options) -> Result<Self, OpenError> {
        let halves = Halves::of(stream).map_err(|error| OpenError::NotMet(error.to_string()))?;
        meet(halves, options, true).await
    }

    fn new(halves: Halves, version: Version, received: BytesMut, options: &Options) -> Self {
        let now = now();
        // A peer that knows no PING would not answer it.
        let heartbeat = match version.has_ping() {
            true => options.heartbeat,
            false => Duration::ZERO,
        };
        let shortest = [options.heartbeat, options.stall.unwrap_or_default()]
            .into_iter()
            .filter(|time| !time.is_zero())
            .min();
        let look = shortest.unwrap_or(Duration::from_secs(3600)) / LOOKS;
        let look = look.max(Duration::from_millis(1));
        let mut clock = interval_at((now + look).into(), look);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            reads: halves.reads,
            writes: halves.writes,
            own_host: halves.own_host,
            role: options.role,
            version,
            scanner: Scanner::new(&options.limits, version),
            received,
            read_bytes: *READ_BYTES.start(),
            wanted_bytes: 0,
            out: BytesMut::new(),
            heartbeat: Heartbeat::new(heartbeat, now),
            silence_max: heartbeat * Heartbeat::DEAD_AFTER,
            clock,
            stall: options.stall,
            written_at: now,
            pings: 0,
            pongs: 0,
        }
    }

    /// The version of ZMTP that both speak.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Our own address on the way to the peer, by TCP.
    pub(crate) fn own_host(&self) -> Option<IpAddr> {
        self.own_host
    }

    /// Sends a message, as soon as somebody waits in [`next`](Self::next).
    pub fn send<F: AsRef<[u8]>>(&mut self, frames: impl IntoIterator<Item = F>) {
        self.before_sending();
        let mut frames = frames.into_iter().peekable();
        while let Some(frame) = frames.next() {
            encode_frame(&mut self.out, frame.as_ref(), frames.peek().is_some());
        }
    }

    /// The same for messages that are encoded already.
    pub fn send_encoded(&mut self, messages: &[u8]) {
        self.before_sending();
        self.out.extend_from_slice(messages);
    }

    /// The same; takes them, and leaves nothing.
    pub(crate) fn take_encoded(&mut self, messages: &mut BytesMut) {
        self.before_sending();
        if self.out.is_empty() {
            std::mem::swap(&mut self.out, messages);
        } else {
            self.out.extend_from_slice(messages);
            messages.clear();
        }
    }

    /// Subscribes to events with this prefix.
    pub fn subscribe(&mut self, prefix: &[u8]) {
        self.before_sending();
        encode_subscribe(&mut self.out, prefix, self.version);
    }

    /// Sends a PING, which the peer has to know; its number, for [`Event::Pong`].
    pub fn ping(&mut self) -> u64 {
        self.before_sending();
        encode_ping(&mut self.out, 0);
        self.pings += 1;
        self.pings
    }

    /// How many bytes were not given to the system yet.
    pub fn unsent(&self) -> usize {
        self.out.len()
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// What the system reports.
    pub async fn shut_down(&mut self) -> Result<(), Ended> {
        Ok(self.writes.shutdown().await?)
    }

    /// Sends a request, and waits for its answer, both without the delimiter that they have on the wire.
    /// What else comes meanwhile is ignored.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn ask(&mut self, request: &[Bytes]) -> Result<Vec<Bytes>, Ended> {
        self.send(std::iter::once(&Bytes::new()).chain(request));
        loop {
            match self.next().await? {
                // A ROUTER may say hello with an empty message.
                Event::Message(message) if frames(&message).all(<[u8]>::is_empty) => {}
                Event::Message(message) => return Ok(without_delimiter(frames_of(&message))),
                _ => {}
            }
        }
    }

    /// Whether a connection that was kept for the next request may have that: it has not ended, and
    /// nothing came that nobody asked for. It doesn't wait for anything.
    pub async fn may_be_used(&mut self) -> bool {
        let is_quiet = tokio::select! {
            biased;
            event = self.next() => matches!(event, Ok(Event::Pong(_) | Event::Sent)),
            () = std::future::ready(()) => true,
        };
        is_quiet && self.received.is_empty()
    }

    /// Waits for what comes next, and meanwhile sends what is to be sent. May be dropped at any time
    /// without a loss.
    ///
    /// # Errors
    /// [`Ended`]; the connection is of no use then.
    pub async fn next(&mut self) -> Result<Event, Ended> {
        loop {
            if let Some(event) = self.take_received()? {
                return Ok(event);
            }
            let more = self.wanted_bytes.min(READ_BYTES_WANTED);
            self.received.reserve(more.max(self.read_bytes));
            tokio::select! {
                biased;
                // First, because there may always be something to read.
                written = self.writes.write_buf(&mut self.out), if !self.out.is_empty() => {
                    if written? == 0 {
                        return Err(Ended::Closed);
                    }
                    self.written_at = now();
                    if self.out.is_empty() {
                        return Ok(Event::Sent);
                    }
                }
                read = self.reads.read_buf(&mut self.received) => {
                    match read? {
                        0 => return Err(Ended::Closed),
                        _ if self.received.len() == self.received.capacity() => {
                            self.read_bytes = (self.read_bytes * 2).min(*READ_BYTES.end());
                        }
                        bytes if bytes < self.read_bytes / 4 => {
                            self.read_bytes = (self.read_bytes / 2).max(*READ_BYTES.start());
                        }
                        _ => {}
                    }
                    self.heartbeat.heard(now());
                }
                _ = self.clock.tick() => self.look(now())?,
            }
        }
    }

    fn before_sending(&mut self) {
        if self.out.is_empty() {
            self.written_at = now();
        }
    }

    fn look(&mut self, now: Instant) -> Result<(), Ended> {
        if let Some(stall) = self.stall
            && !self.out.is_empty()
            && now.saturating_duration_since(self.written_at) >= stall
        {
            return Err(Ended::Stalled(stall));
        }
        match self.heartbeat.poll(now, Duration::ZERO) {
            Pulse::Quiet => {}
            Pulse::Ping => {
                self.ping();
            }
            Pulse::Dead | Pulse::Expired => return Err(Ended::Silent(self.silence_max)),
        }
        Ok(())
    }

    /// The next event of what was received already: it waits for nothing.
    pub(crate) fn take_received(&mut self) -> Result<Option<Event>, Ended> {
        loop {
            match self.scanner.next(&mut self.received)? {
                Step::NeedMore(bytes) => {
                    self.wanted_bytes = bytes;
                    self.received.advance(self.scanner.consumed());
                    self.scanner.rebase();
                    return Ok(None);
                }
                Step::Command(body) => {
                    let event = match Command::parse(&self.received[body])? {
                        Command::Ping { context, .. } if self.out.len() < PONGS_BYTES_MAX => {
                            encode_pong(&mut self.out, context);
                            None
                        }
                        Command::Pong if self.pongs < self.pings => {
                            self.pongs += 1;
                            Some(Event::Pong(self.pongs))
                        }
                        Command::Subscription(subscription) => wanted(subscription),
                        Command::Error(reason) => {
                            let reason = String::from_utf8_lossy(reason).into_owned();
                            return Err(Ended::Refused(reason));
                        }
                        _ => None,
                    };
                    if event.is_some() {
                        return Ok(event);
                    }
                }
                // Subscriptions of ZMTP 3.0 and 2.0.
                Step::Message(span) if self.role == LocalSocket::Pub => {
                    let subscription = Subscription::from_message(&self.received[span.first]);
                    if let Some(event) = subscription.and_then(wanted) {
                        return Ok(Some(event));
                    }
                }
                Step::Message(span) => {
                    let mut message = self.received.split_to(self.scanner.consumed());
                    self.scanner.rebase();
                    message.truncate(span.bytes.end);
                    message.advance(span.bytes.start);
                    return Ok(Some(Event::Message(message.freeze())));
                }
            }
        }
    }
}

/// A request as it is encoded behind its number, by which its answer is known.
pub(super) fn numbered(number: u64, request: &[Bytes]) -> Bytes {
    let bytes: usize = request.iter().map(|frame| frame.len() + 9).sum();
    let mut message = BytesMut::with_capacity(bytes + 16);
    encode_frame(&mut message, &number.to_be_bytes(), true);
    encode_frame(&mut message, b"", true);
    for (i, frame) in request.iter().enumerate() {
        encode_frame(&mut message, frame, i + 1 < request.len());
    }
    message.freeze()
}

/// A message without the empty frame that stands before it on its way to and from a REQ.
pub(super) fn without_delimiter(mut frames: Vec<Bytes>) -> Vec<Bytes> {
    if frames.first().is_some_and(Bytes::is_empty) {
        frames.remove(0);
    }
    frames
}

fn wanted(subscription: Subscription<'_>) -> Option<Event> {
    match subscription {
        Subscription::Subscribe(b"") => Some(Event::Wanted(true)),
        Subscription::Cancel(b"") => Some(Event::Wanted(false)),
        _ => None,
    }
}
