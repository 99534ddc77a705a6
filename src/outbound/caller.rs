//! Calls: a request to an address, its answer, a deadline.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::ambient::now;
use crate::model::{Endpoint, socket_name};

/// Sockets to one address: as many calls to it are under way at once, others wait.
const SOCKETS_PER_ADDRESS_MAX: usize = 64;
/// Sockets in all; below libzmq's own limit of 1023.
const SOCKETS_MAX: usize = 512;
/// Calls that wait for a socket or an answer.
const CALLS_MAX: usize = 20_000;
/// A socket without a call is closed after this.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Calls that found no socket try again after this, if nothing happens before.
const STARVED_RETRY: Duration = Duration::from_millis(100);
/// How long it may take to find out that nobody listens.
const PROBE_MAX: Duration = Duration::from_secs(2);

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Its deadline passed. The request may have been received.
    #[error("no answer in time")]
    Timeout,
    /// Nobody listens at the address. The request was not sent.
    #[error("nobody listens at {0}")]
    Unreachable(String),
    /// Too many calls are under way. The request was not sent.
    #[error("too many calls are under way")]
    Overloaded,
    /// We are stopping.
    #[error("calls have ended")]
    Closed,
}

type Answer = Result<Vec<Bytes>, CallError>;

struct Call {
    address: String,
    frames: Vec<Bytes>,
    deadline: Instant,
    reply: oneshot::Sender<Answer>,
}

/// What callers hand to the thread.
#[derive(Default)]
struct Inbox {
    calls: Vec<Call>,
    /// Calls that the thread has not answered yet, and those above.
    open: usize,
    closed: bool,
}

struct Shared {
    inbox: Mutex<Inbox>,
    /// A byte in it wakes the thread.
    wake: UnixStream,
}

impl Shared {
    fn with_inbox<T>(&self, change: impl FnOnce(&mut Inbox) -> T) -> T {
        change(&mut self.inbox.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn wake(&self) {
        // Full means that it will wake anyway.
        let _ = (&self.wake).write(&[1]);
    }
}

/// Makes calls; cheap to clone.
#[derive(Clone)]
pub struct Caller(Arc<Shared>);

/// The thread behind the calls. Dropping it ends and joins it; calls under way get
/// [`CallError::Closed`].
pub struct CallerThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for CallerThread {
    fn drop(&mut self) {
        self.shared.with_inbox(|inbox| inbox.closed = true);
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Caller {
    /// Starts the thread. A frame of an answer may have so many bytes: with a larger one libzmq ends the
    /// connection, and the call has no answer.
    ///
    /// # Errors
    /// The system gives no thread or no descriptors.
    pub fn start(frame_bytes_max: usize) -> io::Result<(Self, CallerThread)> {
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            inbox: Mutex::default(),
            wake,
        });
        let engine = Engine::new(Arc::clone(&shared), woken, frame_bytes_max);
        let thread = std::thread::Builder::new()
            .name("caller".into())
            .spawn(move || engine.run())?;
        Ok((
            Self(Arc::clone(&shared)),
            CallerThread {
                shared,
                thread: Some(thread),
            },
        ))
    }

    /// Sends a request and waits for its answer, both without an envelope. Dropping the future
    /// forgets the call.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call(&self, address: &Endpoint, frames: Vec<Bytes>, deadline: Instant) -> Answer {
        let address = probe(address, deadline).await?;
        let (reply, answer) = oneshot::channel();
        let call = Call {
            address: address.to_string(),
            frames,
            deadline,
            reply,
        };
        self.0.with_inbox(|inbox| match inbox {
            Inbox { closed: true, .. } => Err(CallError::Closed),
            Inbox { open, .. } if *open >= CALLS_MAX => Err(CallError::Overloaded),
            Inbox { calls, open, .. } => {
                calls.push(call);
                *open += 1;
                Ok(())
            }
        })?;
        self.0.wake();
        answer.await.unwrap_or(Err(CallError::Closed))
    }
}

/// An address that is bound to all interfaces is dialled on this machine.
fn dialled(address: &Endpoint) -> Endpoint {
    match address {
        Endpoint::Tcp { host, port } if host == "*" || host == "0.0.0.0" => {
            Endpoint::tcp("127.0.0.1", *port)
        }
        other => other.clone(),
    }
}

/// libzmq goes on trying where nobody listens, so that is found out before: a refusal is quick, and
/// the request is certain not to have been sent. Where a connection was accepted is what libzmq dials:
/// it would look up the name again, in the one thread that has all connections.
async fn probe(address: &Endpoint, deadline: Instant) -> Result<Endpoint, CallError> {
    let unreachable =
        |error: &dyn std::fmt::Display| CallError::Unreachable(format!("{address} ({error})"));
    let connect = async {
        match dialled(address) {
            Endpoint::Tcp { host, port } => {
                let at = tokio::net::TcpStream::connect((host.as_str(), port)).await?;
                Ok(match at.peer_addr()? {
                    SocketAddr::V6(at) if at.scope_id() != 0 => Endpoint::tcp(host, port),
                    at => Endpoint::tcp(at.ip().to_string(), at.port()),
                })
            }
            Endpoint::Ipc(path) => {
                tokio::net::UnixStream::connect(socket_name(&path)).await?;
                Ok(Endpoint::Ipc(path))
            }
        }
    };
    let probe_end =
        tokio::time::Instant::from_std(deadline).min(tokio::time::Instant::now() + PROBE_MAX);
    match tokio::time::timeout_at(probe_end, connect).await {
        Ok(Ok(at)) => Ok(at),
        Ok(Err::<_, io::Error>(error)) => Err(unreachable(&error)),
        Err(_) => Err(unreachable(&"no answer to the connection")),
    }
}

/// One address's sockets without a call, and the calls that wait for one.
#[derive(Default)]
struct Target {
    idle: Vec<(zmq::Socket, Instant)>,
    busy: usize,
    waiting: VecDeque<u64>,
}

struct Busy {
    call: u64,
    socket: zmq::Socket,
}

/// The thread's state. A MessageBus answer doesn't say which request it belongs to, so a socket has
/// one call at a time, and is thrown away when that ends without its answer: a late one can't be
/// taken for another's.
struct Engine {
    shared: Arc<Shared>,
    woken: UnixStream,
    context: zmq::Context,
    frame_bytes_max: i64,
    calls: HashMap<u64, Call>,
    last_call: u64,
    deadlines: BTreeSet<(Instant, u64)>,
    targets: HashMap<String, Target>,
    busy: Vec<Busy>,
    sockets: usize,
    /// Addresses whose calls wait because all sockets, or descriptors, are taken by others.
    starved: BTreeSet<String>,
}

impl Engine {
    fn new(shared: Arc<Shared>, woken: UnixStream, frame_bytes_max: usize) -> Self {
        Self {
            shared,
            woken,
            context: zmq::Context::new(),
            frame_bytes_max: frame_bytes_max.try_into().unwrap_or(i64::MAX),
            calls: HashMap::new(),
            last_call: 0,
            deadlines: BTreeSet::new(),
            targets: HashMap::new(),
            busy: Vec::new(),
            sockets: 0,
            starved: BTreeSet::new(),
        }
    }

    fn run(mut self) {
        while let Some(new) = self.take_new() {
            for call in new {
                self.admit(call);
            }
            let readable = self.wait();
            self.take_answers(&readable);
            self.expire();
            self.start_starved();
        }
        for (_, call) in self.calls.drain() {
            let _ = call.reply.send(Err(CallError::Closed));
        }
    }

    /// `None` when it is time to end.
    fn take_new(&mut self) -> Option<Vec<Call>> {
        let mut bytes = [0; 256];
        while self.woken.read(&mut bytes).is_ok_and(|n| n == bytes.len()) {}
        let open = self.calls.len();
        self.shared.with_inbox(|inbox| {
            let calls = std::mem::take(&mut inbox.calls);
            inbox.open = open + calls.len();
            (!inbox.closed).then_some(calls)
        })
    }

    fn admit(&mut self, call: Call) {
        self.last_call += 1;
        let id = self.last_call;
        self.deadlines.insert((call.deadline, id));
        let address = call.address.clone();
        self.calls.insert(id, call);
        self.targets
            .entry(address.clone())
            .or_default()
            .waiting
            .push_back(id);
        self.start_waiting(&address);
    }

    /// Sends waiting calls as long as there are sockets for them.
    fn start_waiting(&mut self, address: &str) {
        while let Some(target) = self.targets.get_mut(address)
            && !target.waiting.is_empty()
        {
            let socket = match target.idle.pop() {
                Some((socket, _)) => socket,
                None if target.busy >= SOCKETS_PER_ADDRESS_MAX => return,
                None => {
                    let room = self.sockets < SOCKETS_MAX;
                    // Out of descriptors is the same: the calls wait until some are free, or too late.
                    let Some(socket) = room
                        .then(|| connect(&self.context, address, self.frame_bytes_max).ok())
                        .flatten()
                    else {
                        self.starved.insert(address.to_owned());
                        return;
                    };
                    self.sockets += 1;
                    socket
                }
            };
            let Some(id) = target.waiting.pop_front() else {
                return;
            };
            let sent = self
                .calls
                .get(&id)
                .filter(|call| !call.reply.is_closed())
                .map(|call| {
                    let frames = call.frames.iter().map(|frame| &frame[..]);
                    socket.send_multipart(std::iter::once(&b""[..]).chain(frames), zmq::DONTWAIT)
                });
            match sent {
                Some(Ok(())) => {
                    target.busy += 1;
                    self.busy.push(Busy { call: id, socket });
                }
                Some(Err(_)) => {
                    self.sockets -= 1;
                    self.finish(id, Err(CallError::Unreachable(address.to_owned())));
                }
                None => {
                    target.idle.push((socket, now()));
                    self.finish(id, Err(CallError::Closed));
                }
            }
        }
    }

    /// Nobody else would start these: what their addresses wait for, other addresses give back. Sockets
    /// without a call make room.
    fn start_starved(&mut self) {
        for address in std::mem::take(&mut self.starved) {
            let mut targets = self.targets.values_mut();
            if targets.any(|target| target.idle.pop().is_some()) {
                self.sockets -= 1;
            }
            self.start_waiting(&address);
        }
    }

    /// Waits for an answer, a new call or a deadline; which busy sockets have something.
    fn wait(&mut self) -> Vec<usize> {
        let ends = self.deadlines.first().map(|(deadline, _)| *deadline);
        let most = if self.starved.is_empty() {
            IDLE_MAX
        } else {
            STARVED_RETRY
        };
        let wait = ends
            .map_or(most, |end| end.saturating_duration_since(now()))
            .min(most);
        let mut items = vec![zmq::PollItem::from_fd(self.woken.as_raw_fd(), zmq::POLLIN)];
        items.extend(
            self.busy
                .iter()
                .map(|busy| busy.socket.as_poll_item(zmq::POLLIN)),
        );
        // Rounded up, lest it spins in the last millisecond. An interrupted wait is only short.
        let _ = zmq::poll(&mut items, wait.as_millis() as i64 + 1);
        let readable = items
            .iter()
            .skip(1)
            .enumerate()
            .filter(|(_, item)| item.is_readable());
        readable.map(|(i, _)| i).collect()
    }

    fn take_answers(&mut self, readable: &[usize]) {
        // From the back, so that the places of the others stay.
        for &place in readable.iter().rev() {
            let Ok(mut frames) = self.busy[place].socket.recv_multipart(zmq::DONTWAIT) else {
                continue;
            };
            if frames.first().is_some_and(Vec::is_empty) {
                frames.remove(0);
            }
            let Busy { call, socket } = self.busy.swap_remove(place);
            let Some(address) = self.calls.get(&call).map(|call| call.address.clone()) else {
                continue;
            };
            if let Some(target) = self.targets.get_mut(&address) {
                target.busy -= 1;
                target.idle.push((socket, now()));
            }
            self.finish(call, Ok(frames.into_iter().map(Bytes::from).collect()));
            self.start_waiting(&address);
        }
    }

    fn expire(&mut self) {
        let now = now();
        let mut freed = BTreeSet::new();
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            let Some(call) = self.calls.get(&id) else {
                break;
            };
            let address = call.address.clone();
            if let Some(target) = self.targets.get_mut(&address) {
                if let Some(place) = self.busy.iter().position(|busy| busy.call == id) {
                    self.busy.swap_remove(place);
                    self.sockets -= 1;
                    target.busy -= 1;
                } else {
                    target.waiting.retain(|waiting| *waiting != id);
                }
            }
            self.finish(id, Err(CallError::Timeout));
            freed.insert(address);
        }
        // Those that wait have the same deadline as often as not: they are started after all that is
        // over is gone.
        for address in freed {
            self.start_waiting(&address);
        }
        self.close_idle(now);
    }

    fn close_idle(&mut self, now: Instant) {
        let sockets = &mut self.sockets;
        self.targets.retain(|_, target| {
            let before = target.idle.len();
            target
                .idle
                .retain(|(_, since)| now.saturating_duration_since(*since) < IDLE_MAX);
            *sockets -= before - target.idle.len();
            target.busy > 0 || !target.idle.is_empty() || !target.waiting.is_empty()
        });
    }

    fn finish(&mut self, id: u64, answer: Answer) {
        if let Some(call) = self.calls.remove(&id) {
            self.deadlines.remove(&(call.deadline, id));
            // Its caller may have stopped waiting.
            let _ = call.reply.send(answer);
        }
    }
}

/// A DEALER that writes the delimiter itself can be asked without waiting, which REQ can't.
fn connect(
    context: &zmq::Context,
    address: &str,
    frame_bytes_max: i64,
) -> zmq::Result<zmq::Socket> {
    let socket = context.socket(zmq::DEALER)?;
    socket.set_linger(0)?;
    socket.set_maxmsgsize(frame_bytes_max)?;
    // Not at once: while the daemon stops, a kept connection to its own locator would come back to the
    // socket that the service manager holds, and have it started again.
    socket.set_reconnect_ivl(500)?;
    socket.set_ipv6(address.contains('['))?;
    socket.connect(address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests;
