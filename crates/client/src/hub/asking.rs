//! Requests to the daemon, many under way at a time, sent again on each new connection.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use event_manager_wire::api::{Addresses, Status};
use event_manager_wire::messagebus::{DataType, Layout, Message, Token, decode, encode};
use event_manager_wire::model::{Backoff, Endpoint};
use event_manager_zmtp::{LocalSocket, frames_of};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::sleep;

use super::destination::{Destination, ask_locator};
use crate::ambient::{chance, now};
use crate::connection::{
    Connection, Ended, Event, OpenError, Options, Refusals, TurnedAway, numbered, without_delimiter,
};
use crate::keys::ClientKeys;
use crate::{Error, LIMITS};

/// Waits between two attempts to connect: the first at most, and each.
pub(crate) const REDIAL: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(500)];
/// Waits after the NAKs `busy` and `stopping`.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];
/// Codes of a NAK after which the same request is sent again until its time is over.
const TRY_AGAIN: [&str; 2] = ["busy", "stopping"];

/// The keys of a hub.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keys {
    /// For the daemon.
    pub(crate) daemon: Option<ClientKeys>,
    /// For the ServiceLocator.
    pub(crate) locator: Option<ClientKeys>,
}

/// Whether there is a connection to the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It is dialled.
    Connecting {
        /// Why there was none yet, or why the last one ended.
        why: String,
    },
    /// There is one.
    Connected,
}

/// The state, and how many connections there were.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) state: State,
    /// Where the daemon was found at last.
    pub(crate) at: Option<Endpoint>,
    /// Our own address on the way to it, by TCP.
    pub(crate) own_host: Option<IpAddr>,
    pub(crate) generation: u64,
    /// What listens there is no daemon.
    pub(crate) is_no_daemon: bool,
    /// The daemon turns us away, again and again.
    pub(crate) turned_away: Option<(Endpoint, TurnedAway)>,
}

/// For how long somebody waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    within: Duration,
    /// `None` is for ever.
    deadline: Option<Instant>,
}

impl Patience {
    pub(crate) fn of(within: Duration) -> Self {
        let deadline = now().checked_add(within);
        Self { within, deadline }
    }

    /// What is left of it.
    pub(crate) fn left(&self) -> Duration {
        self.deadline.map_or(Duration::MAX, |deadline| {
            deadline.saturating_duration_since(now())
        })
    }

    /// The result in time.
    pub(crate) async fn wait<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        match self.deadline {
            Some(deadline) => tokio::time::timeout_at(deadline.into(), work).await.ok(),
            None => Some(work.await),
        }
    }
}

struct Pending {
    /// Encoded.
    message: Bytes,
    is_repeatable: bool,
    was_sent: Arc<AtomicBool>,
    answer: oneshot::Sender<Result<Message, Error>>,
    _room: OwnedSemaphorePermit,
}

enum Command {
    Ask(u64, Pending),
    Forget(u64),
}

/// Sends requests. Its task ends with it.
pub(crate) struct Asker {
    commands: mpsc::UnboundedSender<Command>,
    /// Bytes of requests that may wait for their answers.
    room: Arc<Semaphore>,
    room_max: usize,
    last: AtomicU64,
    line: watch::Receiver<Line>,
    /// The ServiceLocator that says where the daemon is.
    locator: Option<Endpoint>,
    heartbeat: Duration,
    keys: Keys,
}

/// Somebody waits for the answer of a request.
struct Waiting<'a> {
    asker: &'a Asker,
    number: u64,
    is_answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            let _ = self.asker.commands.send(Command::Forget(self.number));
        }
    }
}

impl Asker {
    /// Needs a runtime.
    pub(crate) fn start(
        destination: Destination,
        heartbeat: Duration,
        pending_bytes_max: usize,
        keys: Keys,
    ) -> Self {
        let (commands, asked) = mpsc::unbounded_channel();
        let first = Line {
            state: State::Connecting {
                why: "not connected yet".into(),
            },
            at: None,
            own_host: None,
            generation: 0,
            is_no_daemon: false,
            turned_away: None,
        };
        let (line_tx, line) = watch::channel(first);
        let locator = match &destination {
            Destination::At(_) => None,
            Destination::Located(locator, _) => Some(locator.clone()),
        };
        let task = Task {
            destination,
            heartbeat,
            keys: keys.clone(),
            refusals: Refusals::default(),
            asked,
            line: line_tx,
            pending: BTreeMap::new(),
        };
        tokio::spawn(task.run());
        Self {
            commands,
            room: Arc::new(Semaphore::new(pending_bytes_max)),
            room_max: pending_bytes_max,
            last: AtomicU64::new(0),
            line,
            locator,
            heartbeat,
            keys,
        }
    }

    /// How the hub's connections are kept.
    pub(crate) fn options(&self, role: LocalSocket) -> Options {
        options(role, self.heartbeat, self.keys.daemon.clone())
    }

    /// What a ServiceLocator answers; or why it doesn't.
    pub(crate) async fn ask_locator(
        &self,
        locator: &Endpoint,
        request: &Message,
    ) -> Result<String, String> {
        ask_locator(locator, request, self.keys.locator.as_ref()).await
    }

    pub(crate) fn line(&self) -> watch::Receiver<Line> {
        self.line.clone()
    }

    fn why(&self) -> String {
        match &self.line.borrow().state {
            State::Connecting { why } => why.clone(),
            State::Connected => "it is connected".into(),
        }
    }

    /// The answer that is an ACK. A repeatable request is sent again on each new connection, and after
    /// the NAKs `busy` and `stopping`.
    pub(crate) async fn ask(
        &self,
        what: &(dyn Fn() -> String + Sync),
        request: &[Bytes],
        patience: Patience,
        is_repeatable: bool,
    ) -> Result<Message, Error> {
        let mut pauses = Backoff::new(PAUSES[0], PAUSES[1]);
        loop {
            let answer = self
                .ask_once(what, request, patience, is_repeatable)
                .await?;
            if answer.token.is(Token::ACK) {
                return Ok(answer);
            }
            let error = nak(what(), &answer);
            match &error {
                Error::Nak { code, .. } if is_repeatable && TRY_AGAIN.contains(&code.as_str()) => {}
                _ => return Err(error),
            }
            if patience
                .wait(sleep(pauses.next_delay(chance())))
                .await
                .is_none()
            {
                return Err(error);
            }
        }
    }

    /// What a message takes of the room for those that wait.
    fn room_for(&self, message: &Bytes, what: &dyn Fn() -> String) -> Result<u32, Error> {
        let size = u32::try_from(message.len()).ok();
        let size = size.filter(|size| *size as usize <= self.room_max);
        size.ok_or_else(|| {
            Error::InvalidArgument(format!(
                "{} has {} bytes, more than max_pending_bytes ({})",
                what(),
                message.len(),
                self.room_max
            ))
        })
    }

    /// Whatever the answer is.
    pub(crate) async fn ask_once(
        &self,
        what: &(dyn Fn() -> String + Sync),
        request: &[Bytes],
        patience: Patience,
        is_repeatable: bool,
    ) -> Result<Message, Error> {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let message = numbered(number, request);
        let was_sent = Arc::new(AtomicBool::new(false));
        let no_answer = || Error::NoAnswer {
            what: what(),
            within: patience.within,
            why: self.why(),
            may_be_taken: was_sent.load(Ordering::Relaxed),
        };
        let size = self.room_for(&message, what)?;
        let room = Arc::clone(&self.room).acquire_many_owned(size);
        let room = match patience.wait(room).await {
            Some(Ok(room)) => room,
            Some(Err(_)) => {
                return Err(Error::Closed {
                    may_be_taken: false,
                });
            }
            None => return Err(no_answer()),
        };
        let (answer, answered) = oneshot::channel();
        let pending = Pending {
            message,
            is_repeatable,
            was_sent: Arc::clone(&was_sent),
            answer,
            _room: room,
        };
        if self.commands.send(Command::Ask(number, pending)).is_err() {
            return Err(Error::Closed {
                may_be_taken: false,
            });
        }
        let mut waiting = Waiting {
            asker: self,
            number,
            is_answered: false,
        };
        let Some(answer) = patience.wait(answered).await else {
            return Err(no_answer());
        };
        waiting.is_answered = true;
        match answer {
            Ok(Err(Error::NoAnswer { why, .. })) => Err(Error::NoAnswer {
                what: what(),
                within: patience.within,
                why,
                may_be_taken: true,
            }),
            Ok(answer) => answer,
            Err(_) => Err(Error::Closed {
                may_be_taken: was_sent.load(Ordering::Relaxed),
            }),
        }
    }

    /// The daemon's state.
    pub(crate) async fn status(&self, patience: Patience) -> Result<Status, Error> {
        let request = encode(
            &Message::new(Token::STATUS, DataType::Empty, ""),
            Layout::NATIVE,
        );
        let answer = self
            .ask(&|| "STATUS".into(), &request, patience, true)
            .await?;
        serde_json::from_slice(&answer.data).map_err(|error| Error::Decode {
            what: "the answer to STATUS".into(),
            why: error.to_string(),
        })
    }

    /// Where the daemon says that it listens, as it is reached from here.
    pub(crate) async fn addresses(&self) -> Result<Addresses, Error> {
        let mut addresses = self.status(Patience::of(Duration::MAX)).await?.addresses;
        let all = [&mut addresses.publishers, &mut addresses.subscribers];
        for address in all.into_iter().flatten().chain(&mut addresses.locator) {
            if let Ok(told) = address.parse() {
                *address = self.as_reached(told).to_string();
            }
        }
        Ok(addresses)
    }

    /// An address as the daemon tells it: one that calls itself `localhost` is on the daemon's machine.
    pub(crate) fn as_reached(&self, told: Endpoint) -> Endpoint {
        match (&self.line.borrow().at, told) {
            (Some(Endpoint::Tcp { host, .. }), Endpoint::Tcp { host: told, port })
                if is_loopback(&told) && !is_loopback(host) =>
            {
                Endpoint::tcp(host.clone(), port)
            }
            (_, told) => told.local(),
        }
    }

    /// The ServiceLocator by which the hub connects, or the daemon's own.
    pub(crate) async fn locator(&self) -> Result<Endpoint, String> {
        if let Some(locator) = &self.locator {
            return Ok(locator.clone());
        }
        let addresses = self.addresses().await.map_err(|error| error.to_string())?;
        let own = addresses.locator.ok_or(
            "the daemon has no ServiceLocator of its own; name one by `HubBuilder::locator`",
        )?;
        own.parse().map_err(|error| format!("{error}"))
    }
}

fn options(role: LocalSocket, heartbeat: Duration, keys: Option<ClientKeys>) -> Options {
    Options {
        heartbeat,
        keys,
        ..Options::new(role, LIMITS)
    }
}

fn is_loopback(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback() || address.is_unspecified(),
        Err(_) => ["localhost", "*"].contains(&host),
    }
}

/// The error that a NAK is.
pub(crate) fn nak(what: String, answer: &Message) -> Error {
    let text = String::from_utf8_lossy(&answer.data);
    let (code, sentence) = text.split_once(": ").unwrap_or(("refused", &text));
    let (code, sentence) = (code.to_owned(), sentence.to_owned());
    match code.as_str() {
        // All that is asked for has a meaning in the daemon of this version.
        "unknown-field" | "unknown-token" => Error::TooOld { what, sentence },
        _ => Error::Nak {
            what,
            code,
            sentence,
        },
    }
}

/// Why there is no connection.
enum Unopened {
    /// Nobody says where the daemon is.
    NotFound(String),
    /// It is not to be had there.
    At(Endpoint, OpenError),
}

struct Task {
    destination: Destination,
    heartbeat: Duration,
    keys: Keys,
    refusals: Refusals,
    asked: mpsc::UnboundedReceiver<Command>,
    line: watch::Sender<Line>,
    pending: BTreeMap<u64, Pending>,
}

impl Task {
    /// Until nobody can ask any more.
    async fn run(mut self) {
        let mut backoff = Backoff::new(REDIAL[0], REDIAL[1]);
        let mut delay = Duration::ZERO;
        loop {
            let Some(opened) = self.dial(delay).await else {
                return;
            };
            let (mut connection, at) = match opened {
                Ok(opened) => opened,
                Err(unopened) => {
                    self.tell_unopened(unopened);
                    delay = backoff.next_delay(chance());
                    continue;
                }
            };
            for pending in self.pending.values() {
                pending.was_sent.store(true, Ordering::Relaxed);
                connection.send_encoded(&pending.message);
            }
            self.tell_connected(at, connection.own_host());
            let Some(ended) = self.serve(&mut connection, &mut backoff).await else {
                return;
            };
            let why = format!("the connection to {} ended: {ended}", self.destination);
            self.fail_unrepeatable(&why);
            self.line
                .send_modify(|line| line.state = State::Connecting { why });
            delay = backoff.next_delay(chance());
        }
    }

    fn tell_unopened(&mut self, unopened: Unopened) {
        let (why, is_no_daemon, turned_away) = match unopened {
            Unopened::NotFound(why) => (why, false, None),
            Unopened::At(address, error) => {
                let turned_away = self.refusals.note(&error);
                (
                    format!("{address}: {error}"),
                    matches!(error, OpenError::NoPeer(_)),
                    turned_away.map(|why| (address, why)),
                )
            }
        };
        self.line.send_modify(|line| {
            line.state = State::Connecting { why };
            line.is_no_daemon = is_no_daemon;
            line.turned_away = turned_away;
        });
    }

    fn tell_connected(&self, at: Endpoint, own_host: Option<IpAddr>) {
        self.line.send_modify(|line| {
            *line = Line {
                state: State::Connected,
                at: Some(at),
                own_host,
                generation: line.generation + 1,
                is_no_daemon: false,
                turned_away: None,
            };
        });
    }

    async fn dial(&mut self, delay: Duration) -> Option<Result<(Connection, Endpoint), Unopened>> {
        let (destination, keys) = (self.destination.clone(), self.keys.clone());
        let options = options(LocalSocket::Dealer, self.heartbeat, keys.daemon);
        let dialling = async {
            sleep(delay).await;
            let found = destination.find(keys.locator.as_ref()).await;
            let address = found.map_err(Unopened::NotFound)?;
            match Connection::open(&address, &options).await {
                Ok(connection) => Ok((connection, address)),
                Err(error) => Err(Unopened::At(address, error)),
            }
        };
        tokio::pin!(dialling);
        loop {
            tokio::select! {
                opened = &mut dialling => return Some(opened),
                command = self.asked.recv() => match command? {
                    Command::Ask(number, pending) => drop(self.pending.insert(number, pending)),
                    Command::Forget(number) => drop(self.pending.remove(&number)),
                },
            }
        }
    }

    /// Until the connection ends; `None` if nobody can ask any more.
    async fn serve(&mut self, connection: &mut Connection, backoff: &mut Backoff) -> Option<Ended> {
        loop {
            tokio::select! {
                biased;
                command = self.asked.recv() => match command? {
                    Command::Ask(number, pending) => {
                        pending.was_sent.store(true, Ordering::Relaxed);
                        connection.send_encoded(&pending.message);
                        self.pending.insert(number, pending);
                    }
                    Command::Forget(number) => drop(self.pending.remove(&number)),
                },
                event = connection.next() => match event {
                    Ok(Event::Message(message)) => {
                        backoff.reset();
                        self.take(frames_of(&message));
                    }
                    Ok(_) => {}
                    Err(ended) => return Some(ended),
                },
            }
        }
    }

    fn take(&mut self, mut frames: Vec<Bytes>) {
        let number = frames
            .first()
            .and_then(|first| Some(u64::from_be_bytes(first[..].try_into().ok()?)));
        // One that was given up has no number any more.
        if let Some(pending) = number.and_then(|number| self.pending.remove(&number)) {
            frames.remove(0);
            let answer = decode(&without_delimiter(frames)).map(|(answer, _)| answer);
            let answer = answer.map_err(|error| Error::Decode {
                what: "the daemon's answer".into(),
                why: error.to_string(),
            });
            let _ = pending.answer.send(answer);
        }
    }

    /// Their answers went with the connection.
    fn fail_unrepeatable(&mut self, why: &str) {
        let (kept, failed): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|(_, pending)| pending.is_repeatable);
        self.pending = kept;
        for pending in failed.into_values() {
            let _ = pending.answer.send(Err(Error::NoAnswer {
                what: String::new(),
                within: Duration::ZERO,
                why: why.to_owned(),
                may_be_taken: true,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_daemon_elsewhere_calls_local_is_there() {
        for host in [
            "localhost",
            "127.0.0.1",
            "127.1.2.3",
            "::1",
            "*",
            "0.0.0.0",
            "::",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "10.0.0.1",
            "example.org",
            "localhost.example.org",
            "fe80::1",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
