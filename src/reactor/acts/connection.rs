//! The task of one connection: handshake, then read and write until it ends.

use std::cell::RefCell;
use std::io;
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::UnixStream;
use tokio::sync::Notify;

use super::admission::Met;
use super::meeting::{Way, meet};
use crate::reactor::hub::{Hub, SharedHub};
use crate::reactor::io::inbox::{CHUNK_BYTES, Filled, Inbox, ReadChunk};
use crate::reactor::io::listener::Door;
use crate::reactor::io::peer_error::PeerError;
use crate::reactor::io::stream::Stream;
use crate::reactor::state::connections::{Begun, Open};
use crate::reactor::state::effects::Attachment;
use crate::reactor::state::memory::HALF_RECEIVED_MIN;
use crate::reactor::state::peer::{Role, Source, ip_of};
use crate::reactor::state::purpose::Purpose;
use event_manager_core::broker::PeerId;
use event_manager_core::security::Origin;

/// Reads that a publisher's connection may do before others have their turn.
const READS_PER_TURN: usize = 4;
/// Bytes given to peers after which they are flushed, though more could be read.
const FLUSH_BYTES: usize = 256 << 10;
/// How long a peer that was told why its connection ends has to read it.
const PARTING_MAX: Duration = Duration::from_secs(1);
/// What it sends meanwhile is read in pieces of so many bytes, and dropped.
const PARTING_READ_BYTES: usize = 64 << 10;

/// The way from a listener to the hub.
pub(crate) struct HubDoor {
    hub: Weak<RefCell<Hub>>,
    purpose: Purpose,
}

impl HubDoor {
    /// What comes in there is for this.
    pub(crate) fn of(hub: Weak<RefCell<Hub>>, purpose: Purpose) -> Rc<dyn Door> {
        Rc::new(Self { hub, purpose })
    }
}

impl Door for HubDoor {
    fn accepted(&self, stream: Stream, address: Rc<str>) {
        let Some(hub) = self.hub.upgrade() else {
            return;
        };
        let mut state = hub.borrow_mut();
        if !state.peers.connections.has_room() {
            let limit = state.peers.connections.max();
            return state.notes.refuse(
                "too-many-connections",
                &address,
                &format!("there are {limit} connections already"),
            );
        }
        drop(state);
        let counted = Counted::new(&hub);
        let origin = Origin::from(ip_of(&address));
        let begun = hub.borrow().peers.connections.begin(origin);
        let purpose = self.purpose.clone();
        tokio::task::spawn_local(serve(counted, begun, stream, address, purpose));
    }

    fn out_of_descriptors(&self, error: &io::Error) {
        if let Some(hub) = self.hub.upgrade() {
            hub.borrow_mut()
                .notes
                .refuse("out-of-descriptors", "?", error);
        }
    }
}

/// Serves an accepted connection to its end.
fn serve(
    counted: Counted,
    begun: Begun,
    stream: Stream,
    address: Rc<str>,
    purpose: Purpose,
) -> impl Future<Output = ()> {
    let hub = Rc::clone(&counted.hub);
    // In memory of its own: what it needs is more than all that a connection needs from then on.
    let meeting = Box::pin(meet_accepted(hub, begun, stream, address, purpose.clone()));
    async move {
        let met = meeting.await;
        // What went wrong is noted.
        let Ok(mut connection) =
            met.and_then(|met| Connection::admitted(&counted.hub, &purpose, met))
        else {
            return;
        };
        connection.attend().await;
    }
}

/// Does the handshake of an accepted connection, which may have to make room.
async fn meet_accepted(
    hub: SharedHub,
    mut begun: Begun,
    stream: Stream,
    address: Rc<str>,
    purpose: Purpose,
) -> Result<(Met, Inbox), String> {
    let yielding = Rc::clone(&begun.yielding);
    let meeting = meet(
        &hub,
        stream,
        Rc::clone(&address),
        &purpose,
        Way::Accepted,
        Some(&mut begun),
    );
    tokio::select! {
        // First, so that nobody is met who has to go.
        biased;
        why = yielding.wanted() => {
            let why = format!("no handshake so far, and {why}");
            hub.borrow_mut().notes.refuse("too-many-unfinished", &address, &why);
            Err(why)
        }
        met = meeting => met,
    }
}

/// Serves a part of this process. If there is nothing to attach it to, its stream ends.
pub(crate) fn attach(hub: &SharedHub, attachment: Attachment) {
    let state = hub.borrow();
    let service = state.broker.find(&attachment.service);
    let streamer = service.and_then(|service| state.streamers.of(service));
    let purpose = streamer.map(|streamer| Purpose::Workers(Rc::clone(streamer)));
    drop(state);
    let Some((purpose, stream)) = purpose.zip(UnixStream::from_std(attachment.stream).ok()) else {
        return;
    };
    let (counted, name) = (Counted::new(hub), attachment.name);
    tokio::task::spawn_local(async move {
        let (stream, name) = (Stream::Unix(stream), name.into());
        // What went wrong is noted, and the other end learns that it is closed.
        let _ = run(&counted.hub, stream, name, &purpose, Way::Attached).await;
    });
}

/// A connection counts from here to its end, however that comes. A panic is a fault of ours: it is
/// counted, and costs no more than its connection.
pub(crate) struct Counted {
    hub: SharedHub,
    _open: Open,
}

impl Counted {
    pub(crate) fn new(hub: &SharedHub) -> Self {
        let open = hub.borrow().peers.connections.add();
        Self {
            hub: Rc::clone(hub),
            _open: open,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(mut state) = self.hub.try_borrow_mut()
        {
            state.notes.count_refused("internal-error");
        }
    }
}

/// Serves a connection to its end.
///
/// # Errors
/// Why its handshake came to none, or that there is nobody any more to serve it.
pub(crate) async fn run(
    hub: &SharedHub,
    stream: Stream,
    address: Rc<str>,
    purpose: &Purpose,
    way: Way,
) -> Result<(), String> {
    let met = Box::pin(meet(hub, stream, address, purpose, way, None)).await?;
    let mut connection = Connection::admitted(hub, purpose, met)?;
    connection.attend().await;
    Ok(())
}

/// A connection whose handshake is done. Its peer is in the hub's table as long as this lives.
struct Connection<'a> {
    hub: &'a SharedHub,
    id: PeerId,
    stream: Rc<Stream>,
    wake: Rc<Notify>,
    inbox: Inbox,
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        if let Ok(mut state) = self.hub.try_borrow_mut() {
            state.remove(self.id);
        }
    }
}

/// What the connection's task waits for.
struct Wants {
    read: bool,
    write: bool,
    /// To hear that it hung up, though it isn't read.
    end: bool,
}

impl Hub {
    /// Whether a client asks and doesn't read its answers, or a publisher has to wait: for subscribers,
    /// or because the disk is behind with what publishers sent. It isn't heard until that is over.
    pub(crate) fn is_overfull(&mut self, id: PeerId) -> bool {
        let budget = self.config.budgets.request_outbox_bytes;
        match self
            .peers
            .get_mut(id)
            .map(|peer| (&peer.role, peer.outbox.bytes(), peer.source))
        {
            Some((Role::Requester { .. }, waiting, _)) => waiting > budget || self.is_paused(id),
            // A hub is to say that it is one, whoever is waited for.
            Some((Role::Publisher, _, Source::Unknown)) => false,
            Some((Role::Publisher, ..)) => {
                self.saved.subscribers.is_awaited()
                    || self.durable.queues.hold_publisher()
                    || self.is_paused(id)
            }
            _ => false,
        }
    }

    /// `None` when the peer was removed.
    fn wants(&mut self, id: PeerId) -> Option<Wants> {
        if self.is_overfull(id) && !self.peers.get_mut(id)?.outbox.is_blocked() {
            self.flush_peer(id);
        }
        let read = !self.is_overfull(id);
        let peer = self.peers.get(id).filter(|peer| !peer.is_parting)?;
        let write = peer.outbox.is_blocked();
        // Whose outbox is blocked is told by the next write.
        let end = !read && !write && !peer.is_leaving;
        Some(Wants { read, write, end })
    }
}

impl<'a> Connection<'a> {
    /// Its peer comes into the hub's table.
    ///
    /// # Errors
    /// There is nobody any more to serve it.
    fn admitted(
        hub: &'a SharedHub,
        purpose: &Purpose,
        (met, mut inbox): (Met, Inbox),
    ) -> Result<Self, String> {
        let (stream, wake) = (Rc::clone(&met.stream), Rc::clone(&met.wake));
        let mut state = hub.borrow_mut();
        let Some(id) = state.admit(purpose, met) else {
            return Err("its service is gone".to_owned());
        };
        // How many want its events isn't known yet.
        inbox.read_at_most(FIRST_BYTES);
        Ok(Self {
            hub,
            id,
            stream,
            wake,
            inbox,
        })
    }

    /// Serves it to its end. Each connection that is idle keeps the state of this, so what is rare and
    /// large is in memory of its own.
    async fn attend(&mut self) {
        self.exchange().await;
        if self.is_parting() {
            let parting = tokio::time::timeout(PARTING_MAX, self.part());
            let _ = Box::pin(parting).await;
        }
    }

    async fn exchange(&mut self) {
        loop {
            let Some(wants) = self.hub.borrow_mut().wants(self.id) else {
                return;
            };
            if wants.read && self.inbox.is_held() {
                if !take_kept(self.hub, self.id, &mut self.inbox) {
                    return;
                }
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                result = self.stream.readable(), if wants.read => {
                    let turn = result.map_or(Turn::Ended, |()| {
                        read(self.hub, self.id, &self.stream, &mut self.inbox)
                    });
                    match turn {
                        Turn::Ended => return,
                        // The next wait is one for the peer: others have their turn meanwhile, and what was
                        // routed is flushed. To yield would ask the system once more whether there is anything.
                        Turn::Drained => {}
                        Turn::More => tokio::task::yield_now().await,
                    }
                }
                result = self.stream.writable(), if wants.write => {
                    if result.is_err() {
                        return;
                    }
                    self.hub.borrow_mut().flush_peer(self.id);
                }
                _ = self.stream.hung_up(), if wants.end => {
                    let unread = self.stream.unread().unwrap_or_default() + self.inbox.held_bytes();
                    if !self.hub.borrow_mut().hung_up(self.id, unread) {
                        return;
                    }
                }
                () = self.wake.notified() => {}
            }
        }
    }

    /// Whether its peer was told why it ends.
    fn is_parting(&self) -> bool {
        let mut state = self.hub.borrow_mut();
        let peer = state.peers.get_mut(self.id);
        peer.is_some_and(|peer| peer.is_parting)
    }

    /// Lets a peer read why its connection ends: to close while it still sends would have its system throw
    /// away what it has not read.
    async fn part(&self) {
        let Self {
            hub, id, stream, ..
        } = self;
        let mut dropped = BytesMut::with_capacity(PARTING_READ_BYTES);
        let mut has_said = false;
        loop {
            let says_more = match hub.borrow_mut().peers.get_mut(*id) {
                Some(peer) if peer.is_parting => peer.outbox.is_blocked(),
                _ => return,
            };
            if !says_more && !std::mem::replace(&mut has_said, true) {
                stream.end_writing();
            }
            tokio::select! {
                result = stream.readable() => {
                    dropped.clear();
                    match result.and_then(|()| stream.try_read(&mut dropped)) {
                        Ok(0) => return,
                        Ok(_) => tokio::task::yield_now().await,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(_) => return,
                    }
                }
                result = stream.writable(), if says_more => {
                    if result.is_err() {
                        return;
                    }
                    hub.borrow_mut().flush_peer(*id);
                }
            }
        }
    }
}

/// How much of a connection is read and taken in one turn. Events are cheap; what others say costs up to
/// 10 µs a message. When a thousand of them say much at once, as after a cut, nobody waits for long.
fn turn_bytes_max(role: &Role) -> usize {
    match role {
        Role::Publisher => usize::MAX,
        Role::Subscriber { .. } => 4 << 10,
        Role::Worker { .. } => 16 << 10,
        Role::Requester { .. } => 32 << 10,
    }
}

/// What is read of a connection first: no more than what any role or client may have in a turn.
const FIRST_BYTES: usize = 4 << 10;

/// What a connection's events may cost in one turn, by `Accounts::dealt`: a few milliseconds, and some more if
/// the queues of services are full.
const DEALT_PER_TURN: u64 = 128 << 10;
/// Less is never read at once, however many get it.
const SHARED_BYTES_MIN: usize = 512;

/// How much of a connection may be read at once, in bytes, if as much goes to as many as what was read last.
/// Small events that dozens of services want would keep all others waiting, a MiB of them for seconds.
fn shared_bytes_max(read_bytes: usize, dealt: u64) -> usize {
    const WHOLE_TURN_BYTES: u64 = (READS_PER_TURN * CHUNK_BYTES) as u64;
    let affordable = DEALT_PER_TURN.saturating_mul(read_bytes as u64);
    if dealt.saturating_mul(WHOLE_TURN_BYTES) <= affordable {
        return usize::MAX;
    }
    let bytes = usize::try_from(affordable / dealt).unwrap_or(usize::MAX);
    bytes.max(SHARED_BYTES_MIN)
}

/// What an event is taken to have, before any came.
const EVENT_BYTES: u64 = 16;

/// How a connection's turn to be read ended.
enum Turn {
    /// So did the connection.
    Ended,
    /// All that was there has been read.
    Drained,
    /// There may be more, which has to wait until others have had their turn.
    More,
}

/// Reads what is there, up to a turn's worth.
fn read(hub: &SharedHub, id: PeerId, stream: &Stream, inbox: &mut Inbox) -> Turn {
    for _ in 0..READS_PER_TURN {
        let filled = {
            let mut state = hub.borrow_mut();
            let mut chunk: ReadChunk = std::mem::take(&mut state.scratch.chunk);
            let body_bytes_max = state.config.limits.message_bytes_max;
            let filled = inbox.fill(stream, &mut chunk, body_bytes_max);
            state.scratch.chunk = chunk;
            filled
        };
        match filled {
            Ok(Some(filled)) => {
                let more = filled.more;
                if !take(hub, id, inbox, filled) {
                    return Turn::Ended;
                }
                if inbox.is_held() {
                    return Turn::More;
                }
                if !more {
                    return Turn::Drained;
                }
                if inbox.reads_little() {
                    return Turn::More;
                }
            }
            Ok(None) => return Turn::Ended,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Turn::Drained,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Turn::Ended,
        }
    }
    Turn::More
}

/// Takes what is there before anything is read, or says why the connection ends; whether it goes on.
fn take_kept(hub: &SharedHub, id: PeerId, inbox: &mut Inbox) -> bool {
    let body_bytes_max = hub.borrow().config.limits.message_bytes_max;
    match inbox.take_kept(body_bytes_max) {
        Ok(Some(filled)) => take(hub, id, inbox, filled),
        Ok(None) => true,
        Err(error) => {
            let mut state = hub.borrow_mut();
            let address = state.peers.get(id).map(|peer| Rc::clone(&peer.address));
            let address = address.as_deref().unwrap_or("?");
            state.notes.refuse(error.reason(), address, &error);
            false
        }
    }
}

/// Takes what was read; whether the connection goes on.
fn take(hub: &SharedHub, id: PeerId, inbox: &mut Inbox, filled: Filled) -> bool {
    let mut state = hub.borrow_mut();
    let (now, before) = (state.time.now, state.accounts.published);
    let (read_bytes, dealt_before) = (filled.data.len(), state.accounts.dealt);
    inbox.scanner.set_limits(&state.config.limits);
    let Some(peer) = state.peers.get_mut(id) else {
        return false;
    };
    peer.may_be_busy = false;
    if let Some(heartbeat) = &mut peer.heartbeat {
        heartbeat.heard(now);
    }
    let was_counted = peer.half_received > 0;
    let (address, client) = (Rc::clone(&peer.address), peer.client);
    let turn_bytes_max = turn_bytes_max(&peer.role);
    let is_event_manager = peer.source == Source::EventManager;
    let result = match peer.role {
        Role::Publisher => state.take_events(id, inbox, filled),
        Role::Subscriber { .. } => state.take_messages(id, inbox, filled, Hub::take_subscription),
        Role::Worker { service, .. } => state.take_words(id, service, inbox, filled),
        Role::Requester { .. } => state.take_messages(id, inbox, filled, Hub::take_request),
    };
    state.spend(client, &before);
    let of_shared = shared_bytes_max(read_bytes, state.accounts.dealt - dealt_before);
    let turn_bytes_max = turn_bytes_max.min(of_shared);
    if inbox.reads_little() || of_shared < usize::MAX || state.clients.has_rate(client) {
        let (published, clients) = (&state.accounts.published, &state.clients);
        let events = published.events - before.events;
        let bytes = (published.bytes - before.bytes).checked_div(events);
        let of_client = clients.read_bytes_max(client, bytes.unwrap_or(EVENT_BYTES));
        inbox.read_at_most(of_client.map_or(turn_bytes_max, |max| max.min(turn_bytes_max)));
    }
    if is_event_manager {
        state.count_linked(id, &before);
    }
    if state.peers.pending_bytes() >= FLUSH_BYTES {
        state.flush();
    }
    if was_counted || inbox.kept_bytes() >= HALF_RECEIVED_MIN {
        state.count_half_received(id, inbox.kept_bytes());
    }
    result
        .map_err(|error: PeerError| state.notes.refuse(error.reason(), &address, &error))
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::state::peer::Peer;

    fn bytes_of<A, B, C, D, E, F>(_: impl Fn(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn what_many_get_is_read_in_pieces() {
        let all = READS_PER_TURN * CHUNK_BYTES;
        let per_byte = |dealt: u64| shared_bytes_max(all, dealt);
        assert_eq!(shared_bytes_max(10, 0), usize::MAX);
        assert_eq!(per_byte(DEALT_PER_TURN), usize::MAX);
        assert!(per_byte(DEALT_PER_TURN + 1) < all);
        assert_eq!(per_byte(DEALT_PER_TURN * 16), all / 16);
        // The same by a read of another size.
        assert_eq!(shared_bytes_max(all / 8, DEALT_PER_TURN * 2), all / 16);
        assert_eq!(per_byte(u64::MAX), SHARED_BYTES_MIN);
    }

    #[test]
    fn an_idle_connection_keeps_little() {
        assert!(bytes_of(serve) <= 448, "the task: {}", bytes_of(serve));
        assert!(size_of::<Peer>() <= 448, "the peer: {}", size_of::<Peer>());
    }
}
