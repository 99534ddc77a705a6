//! Calls: a request to an address, its answer, a deadline.
//!
//! A MessageBus answer doesn't say which request it belongs to, so a connection has one call at a time,
//! and is closed when that ends without its answer, or when something comes that nobody asked for: no
//! answer can be taken for another's. Connections are kept for the next calls to their address.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout_at};

use super::connection::{Connection, Event, OpenError, Options, Refusals};
use super::keys::ClientKeys;
use crate::ambient::chance;
use event_manager_wire::model::{Backoff, Endpoint};
use event_manager_zmtp::Limits;
use event_manager_zmtp::LocalSocket;
use event_manager_zmtp::curve::PublicKey;

/// Connections to one address: as many calls to it are under way at once, others wait.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 64;
/// Connections in all.
const CONNECTIONS_MAX: usize = 512;
/// Calls that wait for a connection or an answer.
const CALLS_MAX: usize = 20_000;
/// Pairs of keys that are kept without a connection.
const KEYS_MAX: usize = 100;
/// A connection without a call is closed after this.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Bytes of an answer beside its data: token, data type, the frames' headers.
const BESIDE_DATA_BYTES: usize = 1 << 10;
/// Waits before an address is dialled again that accepts connections and closes them.
const DIAL_AGAIN: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Its deadline passed. The request may have been received.
    #[error("no answer in time")]
    Timeout,
    /// The connection ended before its answer. The request may have been received.
    #[error("the connection ended before an answer: {0}")]
    Ended(String),
    /// Nobody listens at the address. The request was not sent.
    #[error("nobody listens at {0}")]
    Unreachable(String),
    /// What listens there is no ZeroMQ socket that answers. The request was not sent.
    #[error("no service answers at {0}")]
    NoPeer(String),
    /// Too many calls are under way. The request was not sent.
    #[error("too many calls are under way")]
    Overloaded,
    /// We are stopping. The request was not sent.
    #[error("calls have ended")]
    Closed,
}

type Answer = Result<Vec<Bytes>, CallError>;

struct Call {
    frames: Vec<Bytes>,
    reply: oneshot::Sender<Answer>,
}

/// Makes calls; cheap to clone. Its connections end with the last clone.
#[derive(Clone)]
pub struct Caller {
    pool: Arc<Mutex<Pool>>,
    options: Arc<Options>,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Pool {
    targets: HashMap<Endpoint, Target>,
    connections: usize,
    /// Of connections to come, if they have any.
    keys: Option<ClientKeys>,
    /// For peers with other keys, by our own key and theirs.
    with_keys: HashMap<(PublicKey, PublicKey), Caller>,
    /// Calls that were not answered yet.
    calls: usize,
    last_call: u64,
    /// Told when the last connection to an address ends that was left.
    left: Arc<Notify>,
}

/// One address.
#[derive(Default)]
struct Target {
    /// Connections without a call, by what gives them one; the latest last.
    idle: Vec<oneshot::Sender<Call>>,
    /// Those with a call, too.
    connections: usize,
    /// Calls that wait for a connection, by their order.
    waiting: BTreeMap<u64, Call>,
    /// There are to be no more calls to it.
    is_left: bool,
}

/// What a connection does next.
enum Next {
    Call(Call),
    CallElsewhere(Call),
    /// It is kept, until it is given a call.
    Idle(oneshot::Receiver<Call>),
    End,
}

impl Caller {
    /// Calls within these limits of a message; `message_bytes_max` bounds the answer's data.
    pub fn new(mut limits: Limits) -> Self {
        limits.message_bytes_max = limits.message_bytes_max.saturating_add(BESIDE_DATA_BYTES);
        Self {
            pool: Arc::default(),
            options: Arc::new(Options::new(LocalSocket::Dealer, limits)),
        }
    }

    /// From now on it connects with CURVE, to peers of which all have one server key, or without keys.
    /// Connections that are there go on.
    pub fn use_keys(&self, keys: Option<ClientKeys>) {
        lock(&self.pool).keys = keys;
    }

    /// Sends a request and waits for its answer, both without an envelope. Dropping the future
    /// forgets the call. Needs a tokio runtime, as all here does.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call(&self, address: &Endpoint, frames: Vec<Bytes>, deadline: Instant) -> Answer {
        let address = address.local();
        let (reply, answer) = oneshot::channel();
        let _waiting = self.begin(&address, Call { frames, reply })?;
        match timeout_at(deadline.into(), answer).await {
            Ok(answer) => answer.unwrap_or(Err(CallError::Closed)),
            Err(_) => Err(CallError::Timeout),
        }
    }

    /// The same to a peer with other keys, by connections of their own.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call_with(
        &self,
        keys: Option<&ClientKeys>,
        address: &Endpoint,
        frames: Vec<Bytes>,
        deadline: Instant,
    ) -> Answer {
        match keys {
            None => self.call(address, frames, deadline).await,
            Some(keys) => self.with_keys(keys).call(address, frames, deadline).await,
        }
    }

    fn with_keys(&self, keys: &ClientKeys) -> Self {
        let callers = &mut lock(&self.pool).with_keys;
        if callers.len() >= KEYS_MAX {
            callers.retain(|_, caller| lock(&caller.pool).connections > 0);
        }
        let which = (*keys.own.public(), keys.server);
        let caller = callers.entry(which).or_insert_with(|| Self {
            pool: Arc::new(Mutex::new(Pool {
                keys: Some(keys.clone()),
                ..Pool::default()
            })),
            options: Arc::clone(&self.options),
        });
        caller.clone()
    }

    /// From now on nobody is called at this address, and nobody connects to it. Waits until the calls
    /// that were sent to it have ended, and its connections.
    pub async fn leave(&self, address: &Endpoint) {
        let address = address.local();
        let left = {
            let mut pool = lock(&self.pool);
            let target = pool.targets.entry(address.clone()).or_default();
            target.is_left = true;
            target.idle.clear();
            target.waiting.clear();
            Arc::clone(&pool.left)
        };
        loop {
            let ended = left.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            let open = lock(&self.pool)
                .targets
                .get(&address)
                .map(|target| target.connections);
            if open.unwrap_or_default() == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Gives the call to a connection, or has it wait for one.
    fn begin<'a>(&'a self, address: &'a Endpoint, call: Call) -> Result<Waiting<'a>, CallError> {
        let (id, begins) = lock(&self.pool).begin(address, call)?;
        if let Some(call) = begins {
            let slot = Slot {
                pool: Arc::downgrade(&self.pool),
                address: address.clone(),
                is_taken: true,
            };
            tokio::spawn(serve(slot, Arc::clone(&self.options), call));
        }
        let caller = self;
        Ok(Waiting {
            caller,
            address,
            id,
        })
    }
}

fn lock(pool: &Mutex<Pool>) -> MutexGuard<'_, Pool> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A call that somebody waits for.
struct Waiting<'a> {
    caller: &'a Caller,
    address: &'a Endpoint,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut pool = lock(&self.caller.pool);
        pool.calls -= 1;
        if let Some(target) = pool.targets.get_mut(self.address) {
            target.waiting.remove(&self.id);
        }
        pool.tidy(self.address);
    }
}

impl Pool {
    /// The call's number; and the call itself, if there is to be a connection for it.
    fn begin(&mut self, address: &Endpoint, call: Call) -> Result<(u64, Option<Call>), CallError> {
        if self.calls >= CALLS_MAX {
            return Err(CallError::Overloaded);
        }
        let target = self.targets.entry(address.clone()).or_default();
        if target.is_left {
            return Err(CallError::Closed);
        }
        self.calls += 1;
        self.last_call += 1;
        let mut call = call;
        while let Some(idle) = target.idle.pop() {
            match idle.send(call) {
                Ok(()) => return Ok((self.last_call, None)),
                // That one has ended just now.
                Err(returned) => call = returned,
            }
        }
        if target.connections < CONNECTIONS_PER_ADDRESS_MAX {
            if self.connections < CONNECTIONS_MAX {
                target.connections += 1;
                self.connections += 1;
                return Ok((self.last_call, Some(call)));
            }
            // One without a call makes room, and finds this one.
            let mut targets = self.targets.values_mut();
            targets.find_map(|target| target.idle.pop());
        }
        if let Some(target) = self.targets.get_mut(address) {
            target.waiting.insert(self.last_call, call);
        }
        Ok((self.last_call, None))
    }

    /// What a connection to this address does next; maybe at another one. When all connections are
    /// taken, the call is next that waits for longest.
    fn next(&mut self, at: &mut Endpoint, is_connected: bool) -> Next {
        if self.connections >= CONNECTIONS_MAX
            && let Some(address) = self.waits_longest(at)
            && let Some(target) = self.targets.get_mut(&address)
            && let Some((_, call)) = target.waiting.pop_first()
        {
            target.connections += 1;
            self.connections += 1;
            self.end(&std::mem::replace(at, address));
            return Next::CallElsewhere(call);
        }
        let Some(target) = self.targets.get_mut(at) else {
            return Next::End;
        };
        if let Some((_, call)) = target.waiting.pop_first() {
            return Next::Call(call);
        }
        if !is_connected || target.is_left {
            return Next::End;
        }
        let (idle, given) = oneshot::channel();
        target.idle.retain(|idle| !idle.is_closed());
        target.idle.push(idle);
        Next::Idle(given)
    }

    /// Another address than this one, whose call waits for longer than those of all others.
    fn waits_longest(&self, at: &Endpoint) -> Option<Endpoint> {
        let waiting = self.targets.iter().filter_map(|(address, target)| {
            let has_room = address == at || target.connections < CONNECTIONS_PER_ADDRESS_MAX;
            let (first, _) = target.waiting.first_key_value()?;
            has_room.then_some((first, address))
        });
        let (_, longest) = waiting.min_by_key(|(first, _)| **first)?;
        (longest != at).then(|| longest.clone())
    }

    /// A connection has ended.
    fn end(&mut self, at: &Endpoint) {
        self.connections -= 1;
        if let Some(target) = self.targets.get_mut(at) {
            target.connections -= 1;
            if target.is_left && target.connections == 0 {
                self.left.notify_waiters();
            }
        }
        self.tidy(at);
    }

    fn tidy(&mut self, address: &Endpoint) {
        let is_over = |target: &Target| {
            target.connections == 0 && target.waiting.is_empty() && !target.is_left
        };
        if self.targets.get(address).is_some_and(is_over) {
            self.targets.remove(address);
        }
    }
}

/// What entitles to a connection; given back however its task ends.
struct Slot {
    pool: Weak<Mutex<Pool>>,
    address: Endpoint,
    is_taken: bool,
}

impl Slot {
    fn next(&mut self, is_connected: bool) -> Next {
        let Some(pool) = self.pool.upgrade() else {
            return Next::End;
        };
        let mut pool = lock(&pool);
        let next = pool.next(&mut self.address, is_connected);
        if matches!(next, Next::End) {
            // At once: who comes next must not wait for one that looks no more.
            self.is_taken = false;
            pool.end(&self.address);
        }
        next
    }

    fn keys(&self) -> Option<ClientKeys> {
        let pool = self.pool.upgrade()?;
        lock(&pool).keys.clone()
    }

    fn is_left(&self) -> bool {
        let pool = self.pool.upgrade();
        pool.is_none_or(|pool| {
            let pool = lock(&pool);
            let target = pool.targets.get(&self.address);
            target.is_some_and(|target| target.is_left)
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.is_taken
            && let Some(pool) = self.pool.upgrade()
        {
            lock(&pool).end(&self.address);
        }
    }
}

/// One call after the other, as long as there are calls or a connection is kept.
async fn serve(mut slot: Slot, options: Arc<Options>, first: Call) {
    let mut connection = None;
    let mut next = Next::Call(first);
    loop {
        let call = match next {
            Next::Call(call) => Some(call),
            Next::CallElsewhere(call) => {
                connection = None;
                Some(call)
            }
            Next::Idle(given) => rest(&mut connection, given).await,
            Next::End => return,
        };
        let Some(Call { frames, mut reply }) = call else {
            next = slot.next(false);
            continue;
        };
        let answer = tokio::select! {
            biased;
            // Nobody waits any more. What is under way goes with the connection.
            () = reply.closed() => None,
            answer = exchange(&slot, &options, &mut connection, &frames) => Some(answer),
        };
        // Before the answer, so that its receiver's next call finds this connection.
        next = slot.next(connection.is_some());
        if let Some(answer) = answer {
            let _ = reply.send(answer);
        }
    }
}

/// Keeps a connection until there is a call for it. It is closed after a while, or when anything comes
/// from it.
async fn rest(
    connection: &mut Option<Connection>,
    mut given: oneshot::Receiver<Call>,
) -> Option<Call> {
    let over = async {
        let Some(connection) = connection.as_mut() else {
            return;
        };
        while let Ok(Event::Pong(_) | Event::Sent) = connection.next().await {}
    };
    tokio::select! {
        biased;
        given = &mut given => if let Ok(call) = given {
            return Some(call);
        },
        () = over => {}
        () = sleep(IDLE_MAX) => {}
    }
    *connection = None;
    given.close();
    given.try_recv().ok()
}

/// Sends a request and waits for its answer, by the connection that is kept or by a new one. When it
/// returns without a connection, that has ended.
async fn exchange(
    slot: &Slot,
    options: &Options,
    connection: &mut Option<Connection>,
    frames: &[Bytes],
) -> Answer {
    let mut kept = connection.take();
    if let Some(connection) = &mut kept
        && !connection.may_be_used().await
    {
        kept = None;
    }
    let mut at = match kept {
        Some(kept) => kept,
        None => dial(slot, options).await?,
    };
    let answer = at.ask(frames).await;
    let answer = answer.map_err(|ended| CallError::Ended(ended.to_string()))?;
    *connection = Some(at);
    Ok(answer)
}

/// Connects. What accepts a connection and closes it is tried again, because nothing was sent yet and
/// it may be about to start, until nobody waits any more.
async fn dial(slot: &Slot, options: &Options) -> Result<Connection, CallError> {
    let address = &slot.address;
    let mut backoff = Backoff::new(DIAL_AGAIN[0], DIAL_AGAIN[1]);
    let mut refusals = Refusals::default();
    let mut options = options.clone();
    while !slot.is_left() {
        options.keys = slot.keys();
        match Connection::open(address, &options).await {
            Ok(connection) => return Ok(connection),
            Err(OpenError::Unreachable(why)) => {
                return Err(CallError::Unreachable(format!("{address} ({why})")));
            }
            Err(OpenError::NoPeer(why)) => {
                return Err(CallError::NoPeer(format!("{address} ({why})")));
            }
            Err(error @ OpenError::TurnedAway(_)) => match refusals.note(&error) {
                Some(why) => return Err(CallError::NoPeer(format!("{address} ({why})"))),
                None => sleep(backoff.next_delay(chance())).await,
            },
            Err(OpenError::NotMet(_)) => sleep(backoff.next_delay(chance())).await,
        }
    }
    Err(CallError::Closed)
}

#[cfg(test)]
mod tests;
