//! A publisher's connection, which knows what the daemon has taken.
//!
//! A PING goes behind the events, and is answered when all before it is read. One is under way at a
//! time: the next goes out with the answer, if there are events behind it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::ambient::now;
use crate::model::{Endpoint, Limits, socket_name};
use crate::zmtp::{
    Command, Handshake, LocalSocket, Mechanism, Scanner, Step, Subscription, Version, encode_ping,
    encode_pong,
};

/// How long the daemon may take nothing of what is sent.
const STALL_MAX: Duration = Duration::from_secs(10);
/// No less is waited for anything, because a socket takes no time of nothing.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// One connection. A thread reads what the daemon says, also while there is nothing to send.
#[derive(Debug)]
pub(super) struct Link {
    shared: Arc<Shared>,
    socket: Socket,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    socket: Socket,
    /// Whether the daemon knows PING; since ZMTP 3.1 it does.
    can_ask: bool,
    /// It wants all events.
    is_wanted: bool,
    sent: u64,
    /// Behind how many events the PING stands that is under way.
    asked: Option<u64>,
    taken: u64,
    ended: Option<Ended>,
}

#[derive(Debug, Clone)]
enum Ended {
    /// The daemon closed it.
    Closed,
    Broken(String),
}

impl Link {
    /// Connects and shakes hands.
    ///
    /// # Errors
    /// Those of the system; what makes no sense is among them.
    pub(super) fn open(address: &Endpoint, deadline: Instant) -> io::Result<Self> {
        let socket = connect(address, deadline)?;
        let (version, rest) = shake_hands(&socket, deadline)?;
        socket.set_read_timeout(None)?;
        socket.set_write_timeout(Some(STALL_MAX))?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                socket: socket.try_clone()?,
                can_ask: version.has_ping(),
                is_wanted: false,
                sent: 0,
                asked: None,
                taken: 0,
                ended: None,
            }),
            changed: Condvar::new(),
        });
        let (hears, reads) = (Arc::clone(&shared), socket.try_clone()?);
        let reader = std::thread::Builder::new()
            .name("publisher".into())
            .spawn(move || {
                let ended = match hears.listen(reads, version, rest) {
                    Ok(()) => Ended::Closed,
                    Err(error) => Ended::Broken(error.to_string()),
                };
                hears.state().ended = Some(ended);
                hears.changed.notify_all();
            })?;
        Ok(Self {
            shared,
            socket,
            reader: Some(reader),
        })
    }

    /// Sends so many events.
    ///
    /// # Errors
    /// Why the connection is of no use any more.
    pub(super) fn write(&self, bytes: &[u8], events: u64) -> Result<(), String> {
        let mut state = self.shared.state();
        state.write(bytes).map_err(|error| words(&error))?;
        state.sent += events;
        if state.can_ask && state.asked.is_none() {
            state.ask().map_err(|error| words(&error))?;
        }
        Ok(())
    }

    /// Whether the daemon wants all events; waits for it to say so.
    pub(super) fn is_wanted(&self, deadline: Instant) -> bool {
        let mut state = self.shared.state();
        while !state.is_wanted && state.ended.is_none() {
            let left = deadline.saturating_duration_since(now());
            if left.is_zero() {
                return false;
            }
            state = self.shared.wait(state, left);
        }
        state.is_wanted && state.ended.is_none()
    }

    /// Waits until the daemon has taken all that was sent, as long as it takes anything.
    ///
    /// # Errors
    /// Why it has not.
    pub(super) fn wait_until_taken(&self) -> Result<(), String> {
        let mut state = self.shared.state();
        if !state.can_ask {
            // Who has read all is told that this is all, and closes the connection.
            state
                .socket
                .shutdown(Shutdown::Write)
                .map_err(|error| words(&error))?;
        }
        let mut deadline = now() + STALL_MAX;
        while state.taken < state.sent {
            let taken = state.taken;
            match (&state.ended, state.can_ask) {
                (Some(Ended::Closed), false) => {
                    state.taken = state.sent;
                    return Ok(());
                }
                (Some(ended), _) => return Err(ended.words()),
                (None, _) => {}
            }
            let left = deadline.saturating_duration_since(now());
            if left.is_zero() {
                return Err(nothing_taken());
            }
            state = self.shared.wait(state, left);
            if state.taken > taken {
                deadline = now() + STALL_MAX;
            }
        }
        Ok(())
    }

    /// How many of the events sent the daemon may not have taken.
    pub(super) fn untaken(&self) -> u64 {
        let state = self.shared.state();
        state.sent - state.taken
    }

    /// Why it ended, if it has.
    pub(super) fn ended(&self) -> Option<String> {
        self.shared.state().ended.as_ref().map(Ended::words)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Ended {
    fn words(&self) -> String {
        match self {
            Self::Closed => "it was closed there".into(),
            Self::Broken(why) => why.clone(),
        }
    }
}

impl State {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        (&self.socket).write_all(bytes)
    }

    fn ask(&mut self) -> io::Result<()> {
        let mut ping = BytesMut::new();
        encode_ping(&mut ping, 0);
        self.asked = Some(self.sent);
        self.write(&ping)
    }

    fn hear(&mut self, command: Command<'_>) -> io::Result<()> {
        match command {
            Command::Ping { context, .. } => {
                let mut pong = BytesMut::new();
                encode_pong(&mut pong, context);
                self.write(&pong)
            }
            Command::Pong => {
                self.taken = self.asked.take().unwrap_or(self.taken);
                if self.taken < self.sent {
                    return self.ask();
                }
                Ok(())
            }
            Command::Subscription(Subscription::Subscribe(b"")) => {
                self.is_wanted = true;
                Ok(())
            }
            Command::Subscription(Subscription::Cancel(b"")) => {
                self.is_wanted = false;
                Ok(())
            }
            Command::Error(reason) => {
                let reason = String::from_utf8_lossy(reason);
                Err(io::Error::other(format!("it was refused: {reason}")))
            }
            Command::Subscription(_) | Command::Trace(_) | Command::Unknown => Ok(()),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, timeout: Duration) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, timeout);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Reads until the daemon closes the connection.
    fn listen(&self, mut socket: Socket, version: Version, mut buffer: BytesMut) -> io::Result<()> {
        let mut scanner = Scanner::new(&Limits::default(), version);
        let mut chunk = [0; 1024];
        loop {
            self.hear_all(&mut scanner, &mut buffer)?;
            match socket.read(&mut chunk)? {
                0 => return Ok(()),
                n => buffer.extend_from_slice(&chunk[..n]),
            }
        }
    }

    fn hear_all(&self, scanner: &mut Scanner, buffer: &mut BytesMut) -> io::Result<()> {
        loop {
            let command = match scanner.next(buffer).map_err(io::Error::other)? {
                Step::NeedMore(_) => break,
                Step::Command(body) => Command::parse(&buffer[body]).map_err(io::Error::other)?,
                Step::Message(span) => Subscription::from_message(&buffer[span.first])
                    .map_or(Command::Unknown, Command::Subscription),
            };
            self.state().hear(command)?;
            self.changed.notify_all();
        }
        buffer.advance(scanner.consumed());
        scanner.rebase();
        Ok(())
    }
}

fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => nothing_taken(),
        _ => error.to_string(),
    }
}

fn nothing_taken() -> String {
    format!("nothing was taken for {STALL_MAX:?}")
}

fn left(deadline: Instant) -> Duration {
    let left = deadline.saturating_duration_since(now());
    left.max(TIMEOUT_MIN)
}

fn connect(address: &Endpoint, deadline: Instant) -> io::Result<Socket> {
    let addresses: Vec<SockAddr> = match address {
        Endpoint::Tcp { host, port } => {
            let found = (host.as_str(), *port).to_socket_addrs()?;
            found.map(SockAddr::from).collect()
        }
        Endpoint::Ipc(path) => vec![SockAddr::unix(socket_name(path))?],
    };
    let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
    for address in addresses {
        let domain = Domain::from(i32::from(address.family()));
        let socket = Socket::new(domain, Type::STREAM, None)?;
        result = socket
            .connect_timeout(&address, left(deadline))
            .map(|()| socket);
        if result.is_ok() {
            break;
        }
    }
    let socket = result?;
    // A Unix domain socket has no such delay.
    let _ = socket.set_tcp_nodelay(true);
    Ok(socket)
}

/// The version of ZMTP that both speak, and what followed the handshake.
fn shake_hands(mut socket: &Socket, deadline: Instant) -> io::Result<(Version, BytesMut)> {
    let mut out = BytesMut::new();
    let limits = Limits::default();
    // Such a socket has the daemon for its subscriber.
    let local = LocalSocket::Subscribers;
    let mut handshake =
        Handshake::start(local, Mechanism::Null, limits.handshake_bytes_max, &mut out);
    let mut chunk = [0; 512];
    loop {
        socket.set_write_timeout(Some(left(deadline)))?;
        socket.write_all(&out)?;
        out.clear();
        socket.set_read_timeout(Some(left(deadline)))?;
        let n = socket.read(&mut chunk)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let met = handshake.receive(&chunk[..n], &mut out);
        if let Some(peer) = met.map_err(io::Error::other)? {
            socket.write_all(&out)?;
            return Ok((peer.version, handshake.into_rest()));
        }
    }
}
