//! A worker's connection to its service's port.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use event_manager_wire::messagebus::event_attempt;
use event_manager_wire::model::{Backoff, Endpoint};
use event_manager_zmtp::{FrameHeader, frames};
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::shared::Shared;
use crate::ambient::{chance, now};
use crate::connection::{self, Connection, Ended, Options};
use crate::hub::asking::REDIAL;
use crate::{Error, Event};

/// Bytes that are given to a connection at once.
const CHUNK_BYTES: usize = 64 << 10;

/// What the daemon answered to SUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Terms {
    /// The service's port.
    pub(super) address: Endpoint,
    pub(super) ack_timeout: Duration,
    pub(super) ttl: Duration,
}

pub(super) struct Link {
    pub(super) shared: Arc<Shared>,
    pub(super) terms: watch::Receiver<Terms>,
    /// For the lease: a connection has ended.
    pub(super) lost: Arc<Notify>,
    /// Of its connections.
    pub(super) options: Options,
    pub(super) credit: u32,
    pub(super) handling_max: Duration,
    /// What the worker says at first.
    pub(super) ready: String,
}

/// Why a connection is given up.
enum End {
    /// All is answered, and nothing more is wanted.
    Left,
    /// The service has another port.
    Moved,
    /// The daemon doesn't understand us.
    Refused(Error),
}

/// What was said on a connection, beside READY.
#[derive(Default)]
struct Said {
    bye: bool,
    /// The PING behind the last answer, when nothing more is wanted.
    last: Option<u64>,
    /// Room for what is said next.
    words: BytesMut,
}

impl Link {
    /// Until the worker has left and all is answered.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(REDIAL[0], REDIAL[1]);
        let mut delay = Duration::ZERO;
        loop {
            if self.shared.has_left() && self.shared.held() == 0 {
                break;
            }
            let address = self.terms.borrow_and_update().address.clone();
            let opened = async {
                sleep(delay).await;
                Connection::open(&address, &self.options).await
            };
            let opened = tokio::select! {
                opened = opened => opened,
                changed = self.terms.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    delay = Duration::ZERO;
                    continue;
                }
                () = self.shared.work.notified(), if !self.shared.has_left() => {
                    // Something is to be said: as soon as there is a connection.
                    continue;
                }
            };
            let Ok(mut connection) = opened else {
                delay = backoff.next_delay(chance());
                continue;
            };
            let ended = self.serve(&mut connection, &mut backoff).await;
            self.shared.disconnect();
            match ended {
                Ok(End::Left) => break,
                Ok(End::Moved) => delay = Duration::ZERO,
                Ok(End::Refused(error)) => {
                    self.shared.end(Some(error));
                    return;
                }
                Err(_) => {
                    self.lost.notify_one();
                    delay = backoff.next_delay(chance());
                }
            }
        }
        self.shared.done.notify_one();
    }

    /// Gives the connection what is to be said, if there is room.
    fn say(&self, connection: &mut Connection, said: &mut Said) {
        if connection.unsent() >= CHUNK_BYTES {
            return;
        }
        if !said.bye && self.shared.has_left() {
            said.bye = true;
            connection.send(["BYE"]);
        }
        let is_all_answered = self.shared.take_words(&mut said.words);
        if !said.words.is_empty() {
            connection.take_encoded(&mut said.words);
            said.last = None;
        }
        if said.bye && is_all_answered && said.last.is_none() {
            said.last = Some(connection.ping());
        }
    }

    async fn serve(
        &mut self,
        connection: &mut Connection,
        backoff: &mut Backoff,
    ) -> Result<End, Ended> {
        let (address, ack_timeout) = {
            let terms = self.terms.borrow();
            (terms.address.clone(), terms.ack_timeout)
        };
        let wip_every = ack_timeout / 3;
        let look = (ack_timeout / 12).clamp(Duration::from_millis(5), Duration::from_secs(1));
        let mut clock = interval(look);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut said = Said::default();
        if !self.shared.has_left() {
            connection.send([&self.ready]);
        }
        let mut came = vec![];
        loop {
            self.say(connection, &mut said);
            let has_room = connection.unsent() < CHUNK_BYTES;
            tokio::select! {
                biased;
                _ = clock.tick() => self.shared.tick(now(), wip_every, self.handling_max),
                changed = self.terms.changed() => if changed.is_err() || self.terms.borrow().address != address {
                    return Ok(End::Moved);
                },
                event = connection.next() => {
                    let mut event = Some(event?);
                    // What came with it, too, before anything is waited for again.
                    while let Some(next) = event {
                        match next {
                            connection::Event::Message(message) => {
                                if let Some(refused) = take(message, &mut came) {
                                    return Ok(End::Refused(refused));
                                }
                            }
                            connection::Event::Pong(ping) if said.last == Some(ping) => {
                                return Ok(End::Left);
                            }
                            _ => {}
                        }
                        event = connection.take_received()?;
                    }
                    if !came.is_empty() {
                        backoff.reset();
                    }
                    self.shared.arrive(&mut came, self.credit);
                },
                () = self.shared.work.notified(), if has_room => {}
            }
        }
    }
}

/// Reads a delivery, unless the message is the daemon's complaint.
fn take(mut message: Bytes, came: &mut Vec<(u64, Event)>) -> Option<Error> {
    let header = FrameHeader::parse(&message).ok()??;
    let first = frames(&message).next()?;
    if let Some(sentence) = first.strip_prefix(b"ERROR ") {
        return Some(Error::Nak {
            what: "a word of this worker".into(),
            code: "error".into(),
            sentence: String::from_utf8_lossy(sentence).into_owned(),
        });
    }
    let (id, attempt) = event_attempt(first)?;
    message.advance(header.header_bytes + first.len());
    came.push((id, Event::new(message, attempt)));
    None
}
