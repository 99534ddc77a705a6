//! Publishing: a bounded buffer, and what the daemon has taken of it.
//!
//! A PING goes behind the events, and is answered when all before it is read. One is under way at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use event_manager_wire::model::Backoff;
use event_manager_zmtp::{LocalSocket, encode_frame};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::asking::{Asker, Patience, REDIAL};
use crate::Error;
use crate::ambient::chance;
use crate::connection::{Connection, Ended, Event};

/// A publisher lets others run after so many bytes, and no more than this is given to a connection at once.
const CHUNK_BYTES: usize = 64 << 10;

/// How long a publisher gives way to a connection that has enough to send, for each chunk that it is ahead.
const AHEAD_MAX: Duration = Duration::from_millis(1);

/// What became of an event that was to be taken.
#[derive(Clone, Copy)]
enum Offer {
    Taken,
    /// It is taken, and others should have their turn.
    TakenByTurns,
    /// It is taken, and the connection has more to send than it can at present.
    TakenAhead,
    Full,
    Closed,
}

/// What the daemon has taken since the last flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// So many events, which are all.
    pub events: u64,
}

/// The publisher of a hub.
pub(crate) struct Publishing {
    shared: Arc<Shared>,
    bytes_max: usize,
}

#[derive(Default)]
struct Shared {
    buffer: Mutex<Buffer>,
    /// For the task: there is something to publish.
    work: Notify,
    /// For publishers and flushes: something was taken, lost or sent.
    progress: Notify,
}

/// All counts are since the beginning.
#[derive(Default)]
struct Buffer {
    bytes: BytesMut,
    /// In `bytes`.
    events: u64,
    published: u64,
    /// Taken or lost.
    settled: u64,
    lost: u64,
    told_published: u64,
    told_lost: u64,
    /// Why there is no connection, or the last one ended.
    why: String,
    /// The task waits for work.
    is_idle: bool,
    /// There is a connection, which has enough to send.
    is_congested: bool,
    is_closed: bool,
}

impl Shared {
    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        self.close();
    }
}

impl Publishing {
    pub(crate) fn start(asker: Arc<Asker>, bytes_max: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let task = Task {
            shared: Arc::clone(&shared),
            asker,
        };
        tokio::spawn(task.run());
        Self { shared, bytes_max }
    }

    /// Ends the task, and the waits of others.
    pub(crate) fn close(&self) {
        self.shared.buffer().is_closed = true;
        self.shared.work.notify_one();
        self.shared.progress.notify_waiters();
    }

    /// Takes an event if there is room.
    fn offer(&self, frames: &[&[u8]], size: usize) -> Offer {
        let mut buffer = self.shared.buffer();
        let before = buffer.bytes.len();
        if buffer.is_closed || before + size > self.bytes_max {
            return match buffer.is_closed {
                true => Offer::Closed,
                false => Offer::Full,
            };
        }
        buffer.bytes.reserve(size);
        if let [first @ .., last] = frames {
            for frame in first {
                encode_frame(&mut buffer.bytes, frame, true);
            }
            encode_frame(&mut buffer.bytes, last, false);
        }
        buffer.events += 1;
        buffer.published += 1;
        let is_idle = std::mem::take(&mut buffer.is_idle);
        let is_next_chunk = before / CHUNK_BYTES != buffer.bytes.len() / CHUNK_BYTES;
        let is_congested = buffer.is_congested;
        drop(buffer);
        if is_idle {
            self.shared.work.notify_one();
        }
        match (is_next_chunk, is_congested) {
            (false, _) => Offer::Taken,
            (true, false) => Offer::TakenByTurns,
            (true, true) => Offer::TakenAhead,
        }
    }

    /// Takes an event. Waits for room if `max_pending_bytes` wait to be sent.
    #[inline]
    pub(crate) async fn publish(&self, frames: &[&[u8]]) -> Result<(), Error> {
        let size: usize = frames.iter().map(|frame| frame.len() + 9).sum();
        match self.offer(frames, size) {
            Offer::Taken => Ok(()),
            other => self.publish_slowly(frames, size, other).await,
        }
    }

    /// The same when it isn't just taken.
    async fn publish_slowly(
        &self,
        frames: &[&[u8]],
        size: usize,
        mut offer: Offer,
    ) -> Result<(), Error> {
        if size > self.bytes_max {
            let sentence = format!(
                "an event of {size} bytes is larger than max_pending_bytes ({})",
                self.bytes_max
            );
            return Err(Error::InvalidArgument(sentence));
        }
        let mut is_again = false;
        loop {
            let progress = self.shared.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            if is_again {
                offer = self.offer(frames, size);
            }
            match offer {
                Offer::Taken => return Ok(()),
                Offer::TakenByTurns => {
                    tokio::task::yield_now().await;
                    return Ok(());
                }
                Offer::TakenAhead => {
                    // What was just written is still in the processor's cache when it is sent.
                    let _ = timeout(AHEAD_MAX, progress).await;
                    return Ok(());
                }
                Offer::Closed => {
                    return Err(Error::Closed {
                        may_be_taken: false,
                    });
                }
                // There may be room since.
                Offer::Full if !is_again => is_again = true,
                Offer::Full => progress.await,
            }
        }
    }

    /// Waits until the daemon has taken what was published.
    pub(crate) async fn flush(&self, within: Duration) -> Result<Taken, Error> {
        let target = self.shared.buffer().published;
        let settled = async {
            loop {
                let progress = self.shared.progress.notified();
                tokio::pin!(progress);
                progress.as_mut().enable();
                let is_over = {
                    let buffer = self.shared.buffer();
                    buffer.settled >= target || buffer.is_closed
                };
                if is_over {
                    return;
                }
                progress.await;
            }
        };
        let is_over = Patience::of(within).wait(settled).await.is_none();
        let mut buffer = self.shared.buffer();
        let unsettled = target.saturating_sub(buffer.settled);
        let lost = buffer.lost - buffer.told_lost + unsettled;
        let of = buffer.published - buffer.told_published;
        buffer.told_lost = buffer.lost;
        // What isn't settled is told of again by the next flush.
        buffer.told_published = buffer.published - unsettled;
        if lost == 0 {
            return Ok(Taken { events: of });
        }
        let why = match is_over {
            true if buffer.why.is_empty() => {
                format!("{unsettled} are not confirmed after {within:?}, and are still sent")
            }
            true => format!(
                "{unsettled} are not confirmed after {within:?}, and are still sent ({})",
                buffer.why
            ),
            false => buffer.why.clone(),
        };
        Err(Error::MayBeLost { lost, of, why })
    }
}

struct Task {
    shared: Arc<Shared>,
    asker: Arc<Asker>,
}

/// What was sent by one connection.
#[derive(Default)]
struct Sent {
    events: u64,
    taken: u64,
    /// The PING that is under way, and behind how many events it stands.
    asked: Option<(u64, u64)>,
}

impl Task {
    async fn run(self) {
        let mut backoff = Backoff::new(REDIAL[0], REDIAL[1]);
        let mut delay = Duration::ZERO;
        let mut spare = BytesMut::new();
        while self.wait_for_work().await {
            let opened = async {
                sleep(delay).await;
                self.connect().await
            };
            let opened = tokio::select! {
                opened = opened => opened,
                () = self.closed() => return,
            };
            let mut connection = match opened {
                Ok(connection) => connection,
                Err(why) => {
                    self.shared.buffer().why = why;
                    delay = backoff.next_delay(chance());
                    continue;
                }
            };
            let mut sent = Sent::default();
            let Err(ended) = self.serve(&mut connection, &mut sent, &mut spare).await else {
                return;
            };
            if sent.taken > 0 {
                backoff.reset();
            }
            let lost = sent.events - sent.taken;
            let mut buffer = self.shared.buffer();
            buffer.lost += lost;
            buffer.settled += lost;
            buffer.is_congested = false;
            buffer.why = format!("the connection ended: {ended}");
            drop(buffer);
            self.shared.progress.notify_waiters();
            delay = backoff.next_delay(chance());
        }
    }

    /// Whether there is any; not if the hub is closed.
    async fn wait_for_work(&self) -> bool {
        loop {
            {
                let mut buffer = self.shared.buffer();
                if buffer.is_closed {
                    return false;
                }
                if buffer.events > 0 {
                    return true;
                }
                buffer.is_idle = true;
            }
            self.shared.work.notified().await;
        }
    }

    async fn closed(&self) {
        loop {
            let progress = self.shared.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            if self.shared.buffer().is_closed {
                return;
            }
            progress.await;
        }
    }

    /// A connection by which the daemon wants events. Where that is, is asked for each: it may be
    /// another one after a restart.
    async fn connect(&self) -> Result<Connection, String> {
        let addresses = self
            .asker
            .addresses()
            .await
            .map_err(|error| error.to_string())?;
        let address = addresses
            .publishers
            .first()
            .ok_or("the daemon takes no publishers")?;
        let address: event_manager_wire::model::Endpoint =
            address.parse().map_err(|error| format!("{error}"))?;
        let address = address.local();
        let options = self.asker.options(LocalSocket::Pub);
        let opened = Connection::open(&address, &options).await;
        let mut connection = opened.map_err(|error| format!("{address}: {error}"))?;
        loop {
            match connection.next().await {
                Ok(Event::Wanted(true)) => return Ok(connection),
                Ok(_) => {}
                Err(ended) => return Err(format!("{address}: {ended}")),
            }
        }
    }

    /// Until the connection ends, or the hub is closed.
    async fn serve(
        &self,
        connection: &mut Connection,
        sent: &mut Sent,
        spare: &mut BytesMut,
    ) -> Result<(), Ended> {
        let can_ask = connection.version().has_ping();
        let mut is_congested = false;
        loop {
            if connection.unsent() < CHUNK_BYTES {
                let events = {
                    let mut buffer = self.shared.buffer();
                    if buffer.is_closed {
                        return Ok(());
                    }
                    std::mem::swap(&mut buffer.bytes, spare);
                    buffer.is_idle = buffer.events == 0;
                    let events = std::mem::take(&mut buffer.events);
                    if !can_ask {
                        // Of one that is so old, nothing more can be known.
                        buffer.settled += events;
                        sent.taken += events;
                    }
                    events
                };
                if events > 0 {
                    connection.take_encoded(spare);
                    sent.events += events;
                    self.shared.progress.notify_waiters();
                }
                if can_ask && sent.asked.is_none() && sent.taken < sent.events {
                    sent.asked = Some((connection.ping(), sent.events));
                }
            }
            let has_room = connection.unsent() < CHUNK_BYTES;
            if has_room == is_congested {
                is_congested = !has_room;
                self.shared.buffer().is_congested = is_congested;
                if has_room {
                    self.shared.progress.notify_waiters();
                }
            }
            tokio::select! {
                biased;
                event = connection.next() => if let Event::Pong(ping) = event?
                    && let Some((_, events)) = sent.asked.take_if(|(asked, _)| *asked == ping)
                {
                    self.shared.buffer().settled += events - sent.taken;
                    sent.taken = events;
                    self.shared.progress.notify_waiters();
                },
                () = self.shared.work.notified(), if has_room => {}
            }
        }
    }
}
