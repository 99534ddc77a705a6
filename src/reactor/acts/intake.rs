//! From a connection's bytes to runs of events: the hot path's first half.
//!
//! What arrives is scanned in place. Consecutive events whose receivers are the same become one run,
//! which [`deliver`](super::deliver) hands out as one slice; so what is done for each event is to
//! see that it begins like the last one, and to note where it ends. Only one that doesn't has its
//! frame headers read and, unless its subject is the last one again, its subject looked up. All
//! counting is done by run.

use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use super::loops::Rings;
use crate::reactor::hub::Hub;
use crate::reactor::io::inbox::{Filled, Inbox};
use crate::reactor::io::peer_error::PeerError;
use crate::reactor::state::clients::Unusual;
use crate::reactor::state::observing::is_observed;
use crate::reactor::state::peer::Source;
use crate::reactor::state::runs::{Run, Runs};
use event_manager_core::broker::{KnownSubject, PeerId, Route, Via};
use event_manager_wire::model::subject_of;
use event_manager_zmtp::{Command, Step, encode_pong};

/// In which PINGs name times to live.
const TTL_UNIT: Duration = Duration::from_millis(100);

impl Hub {
    /// Takes what a publisher sent: routes the whole events in it and keeps the rest.
    ///
    /// # Errors
    /// [`PeerError`] ends the connection; the events before the fault are delivered.
    pub(crate) fn take_events(
        &mut self,
        id: PeerId,
        inbox: &mut Inbox,
        mut filled: Filled,
    ) -> Result<(), PeerError> {
        let mut runs = std::mem::take(&mut self.scratch.runs);
        let result = self.find_runs(id, inbox, &mut filled.data, &mut runs);
        self.count_alike(&mut runs);
        if runs.is_empty() {
            self.scratch.runs = runs;
            inbox.keep(filled, result?);
            return Ok(());
        }
        let backing_bytes = filled.backing_bytes;
        let data = filled.data.freeze();
        let mut forbidden = None;
        for (route, part, ends) in runs.iter() {
            if route.is_empty() && self.clients.is_forbidden(route) {
                forbidden.get_or_insert((part, 0)).1 += ends.len() as u64;
                continue;
            }
            self.accounts.published.events += ends.len() as u64;
            self.accounts.published.bytes += part.len() as u64;
            if is_observed(route) {
                self.observe(id, &data[part.clone()], ends);
            }
            if route.is_empty() {
                self.accounts.published.unmatched += ends.len() as u64;
                continue;
            }
            let run = Run {
                bytes: data.slice(part),
                ends,
                backing_bytes,
            };
            if !self.deliver(route, &run) && !is_observed(route) {
                self.accounts.published.unmatched += ends.len() as u64;
            }
        }
        runs.clear();
        self.scratch.runs = runs;
        if let Some((part, events)) = forbidden {
            self.deny_events(id, &data[part], events);
        }
        inbox.keep_copy(&data, result?);
        Ok(())
    }

    /// Scans until nothing whole is left; the number of bytes that the next message needs.
    fn find_runs(
        &mut self,
        id: PeerId,
        inbox: &mut Inbox,
        data: &mut [u8],
        runs: &mut Runs,
    ) -> Result<usize, PeerError> {
        // A subject longer than any pattern is cut: it can still match prefixes and globs only.
        let subject_bytes_max = self.config.limits.subject_bytes_max + 1;
        let mut last: Option<(Range<usize>, Rc<Route>)> = None;
        let mut unusual = self.unusual_publisher(id);
        loop {
            let span = match inbox.scanner.next(data)? {
                Step::NeedMore(missing) => return Ok(missing),
                Step::Command(body) => {
                    // Publishers are told what we want, and have nothing to say but this.
                    self.take_command(id, Command::parse(&data[body])?)?;
                    // It may have said that it is an event manager.
                    (unusual, last) = (self.unusual_publisher(id), None);
                    continue;
                }
                Step::Message(span) => span,
            };
            let first = &data[span.first.clone()];
            let first = &first[..first.len().min(subject_bytes_max)];
            let known = last
                .take()
                .filter(|(key, _)| self.broker.routes.is_key_of(&data[key.clone()], first));
            let (key, route) = known.unwrap_or_else(|| {
                // Before the next look-up, which may reuse the index.
                self.count_alike(runs);
                let key = self.broker.routes.key_of(first);
                let begin = span.first.start;
                let known = unusual.and_then(|unusual| self.look_up_unusual(unusual, key));
                let KnownSubject { route, subject } = match known {
                    Some(Ok(known)) => known,
                    Some(Err(nowhere)) => return (begin..begin + key.len(), nowhere),
                    None => self.broker.routes.look_up(key),
                };
                runs.begin_alike(subject);
                (begin..begin + key.len(), route)
            });
            runs.push(span.bytes.clone(), &route);
            let alike = inbox.scanner.skip_alike(data, &span);
            runs.push_alike(alike, span.bytes.len());
            runs.count_alike(1 + alike as u64);
            last = Some((key, route));
        }
    }

    /// Where an event goes whose publisher may not publish everything, or is an event manager; `None` is
    /// where all go, an error a route to nowhere.
    fn look_up_unusual(
        &mut self,
        unusual: Unusual,
        key: &[u8],
    ) -> Option<Result<KnownSubject, Rc<Route>>> {
        match unusual {
            Unusual::Limited(client) => {
                let forbidden = self.clients.forbidden(client, subject_of(key));
                forbidden.map(Err)
            }
            Unusual::EventManager => Some(Ok(self.broker.routes.look_up_by(Via::Hub, key))),
        }
    }

    fn count_alike(&mut self, runs: &mut Runs) {
        if let Some((subject, events)) = runs.take_alike() {
            self.broker.routes.subjects.add(subject, events);
        }
    }

    /// Commands that every kind of peer may send.
    pub(crate) fn take_command(
        &mut self,
        id: PeerId,
        command: Command<'_>,
    ) -> Result<(), PeerError> {
        match command {
            Command::Ping {
                ttl_deciseconds,
                context,
            } => {
                let peer = &mut self.peers[id];
                if let Some(heartbeat) = &mut peer.heartbeat {
                    heartbeat.set_ttl(TTL_UNIT * ttl_deciseconds.into());
                }
                // It doesn't read, so it would not see the answer; asking on must not fill our memory.
                if peer.outbox.is_blocked() {
                    return Ok(());
                }
                let mut pong = bytes::BytesMut::new();
                encode_pong(&mut pong, context);
                self.peers.command(id, &pong);
                Ok(())
            }
            Command::Error(reason) => Err(PeerError::Gave(String::from_utf8_lossy(reason).into())),
            // It would be the second thing that a hub says.
            Command::Trace(_) if self.peers[id].source == Source::Unknown => {
                Err(self.hear_no_hub(id))
            }
            Command::Trace(trace) => {
                Rings::of(self).hear_trace(id, trace);
                Ok(())
            }
            Command::Hub(data) => self.hear_hub(id, data),
            Command::Pong | Command::Unknown | Command::Subscription(_) => Ok(()),
        }
    }
}
