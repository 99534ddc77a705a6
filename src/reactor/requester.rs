//! Requests: from a message's frames to its answer, at once or later.

use std::collections::HashMap;
use std::time::Instant;

use bytes::Bytes;

use super::effects::Effect;
use super::hub::Hub;
use super::intake::PeerError;
use super::letters::Begun;
use super::peer::Role;
use crate::ambient::now;
use crate::broker::PeerId;
use crate::locator;
use crate::messagebus::{
    DataType, FRAMES_MAX, Layout, Message, Token, decode, encode, split_envelope,
};
use crate::model::{EXCERPT_BYTES_MAX, excerpt_of_bytes};
use crate::requests::{self, Context, Happening, LettersRequest, Outcome, SyncEvent};
use crate::zmtp::{FrameError, begun_frames, encode_message, frames_of};

/// Of a request that is too large, so many frames are looked at, which are more than those of any
/// request and its way through proxies.
const BEGUN_FRAMES_MAX: usize = 16;
/// And of each of them so many bytes; a routing id has at most 255.
const BEGUN_BYTES_MAX: usize = 1024;

/// To whom an answer goes, and how it is written.
#[derive(Debug)]
pub(super) struct ReturnAddress {
    peer: PeerId,
    envelope: Vec<Bytes>,
    layout: Layout,
    /// When it was read, if it publishes.
    publishes: Option<(Publishing, Instant)>,
}

/// Requests that publish, whose answers are timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Publishing {
    Emit,
    Call,
}

impl Publishing {
    fn of(request: &Message) -> Option<Self> {
        let kinds = [(Token::EMIT, Self::Emit), (Token::PUBLISH, Self::Call)];
        let kind = kinds.iter().find(|(token, _)| request.token.is(*token));
        kind.map(|(_, kind)| *kind)
    }
}

/// Names a request whose answer comes later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

/// Requests that wait for others; bounded, further ones are refused.
#[derive(Debug)]
pub(super) struct PendingReplies {
    by_ticket: HashMap<Ticket, ReturnAddress>,
    max: usize,
    last: u64,
}

impl PendingReplies {
    pub(super) fn new(max: usize) -> Self {
        Self {
            by_ticket: HashMap::new(),
            max,
            last: 0,
        }
    }

    pub(super) fn ticket(&mut self) -> Ticket {
        self.last += 1;
        Ticket(self.last)
    }

    pub(super) fn len(&self) -> usize {
        self.by_ticket.len()
    }
}

impl Hub {
    /// A message on the request socket. What can be answered is.
    pub(super) fn take_request(&mut self, id: PeerId, message: &[u8]) -> Result<(), PeerError> {
        let frames = frames_of(&Bytes::copy_from_slice(message));
        let (envelope, frames) = split_envelope(&frames);
        if frames.is_empty() {
            // ZMQ_PROBE_ROUTER: its socket only says that it is there. It would take an answer for that
            // to its first request.
            self.notes.count_refused("probe");
            return Ok(());
        }
        let is_locator = match self.peers.get_mut(id).map(|peer| &peer.role) {
            Some(Role::Requester { locator }) => *locator,
            _ => return Ok(()),
        };
        let envelope = envelope.to_vec();
        match decode(frames) {
            Ok((request, layout)) => {
                let back = ReturnAddress {
                    peer: id,
                    envelope,
                    layout,
                    publishes: None,
                };
                if is_locator {
                    self.ask_locator(&request, &back)
                } else {
                    self.ask(&request, back)
                }
            }
            Err(malformed) => {
                self.count_discarded(id, malformed.code);
                let nak = Message::nak(malformed.code, &malformed.sentence);
                self.reply(
                    &ReturnAddress {
                        peer: id,
                        envelope,
                        layout: malformed.layout,
                        publishes: None,
                    },
                    &nak,
                );
            }
        }
        Ok(())
    }

    /// A request has more frames or bytes than the limits allow: nothing more is read from its
    /// connection, but it is answered, as far as what came tells to whom.
    pub(super) fn refuse_request(&mut self, id: PeerId, begun: &[u8], error: &FrameError) {
        let limit = match error {
            FrameError::MessageTooLarge(..) => "limits.maxMessageBytes",
            FrameError::TooManyParts(_) => "limits.maxMessageParts",
            FrameError::Flags(_) | FrameError::Interrupted(_) => return,
        };
        let Some(Role::Requester { .. }) = self.peers.get_mut(id).map(|peer| &peer.role) else {
            return;
        };
        // Of its data only the beginning is looked at.
        let begun = begun_frames(begun).take(BEGUN_FRAMES_MAX);
        let mut begun: Vec<Bytes> = begun
            .map(|frame| Bytes::copy_from_slice(&frame[..frame.len().min(BEGUN_BYTES_MAX)]))
            .collect();
        // Behind its envelope a request has no more frames than these.
        let delimited = begun
            .iter()
            .position(Bytes::is_empty)
            .map_or(0, |at| at + 1);
        begun.truncate(delimited + FRAMES_MAX);
        let (envelope, message) = split_envelope(&begun);
        if envelope.iter().any(|frame| frame.len() == BEGUN_BYTES_MAX) {
            return;
        }
        let layout = match decode(message) {
            Ok((_, layout)) => layout,
            Err(malformed) => malformed.layout,
        };
        let back = ReturnAddress {
            peer: id,
            envelope: envelope.to_vec(),
            layout,
            publishes: None,
        };
        let nak = Message::nak("too-large", format!("{error} ({limit})"));
        self.reply(&back, &nak);
        self.flush_peer(id);
        if let Some(peer) = self.peers.get_mut(id) {
            peer.is_parting = true;
        }
    }

    fn ask(&mut self, request: &Message, mut back: ReturnAddress) {
        // A lease counts from when its request was read.
        self.clock.now = now();
        back.publishes = Publishing::of(request).map(|kind| (kind, self.clock.now));
        let adds = [Token::SUBSCRIBE, Token::PUBLISH, Token::EMIT];
        if self.phase.is_draining() && adds.iter().any(|token| request.token.is(*token)) {
            return self.reply(
                &back,
                &Message::nak("stopping", "the event manager is stopping"),
            );
        }
        if request.token.is(Token::END) {
            if !self.has_room_for_promise() {
                let max = self.pending_replies.max;
                let sentence =
                    format!("{max} requests wait for their answers already (maxPendingCalls)");
                return self.reply(&back, &Message::nak("busy", sentence));
            }
            // What came for the service until now ends with it.
            self.flush_store();
        }
        let (mut ended, mut happened) = (Vec::new(), Vec::new());
        let outcome = requests::handle(
            request,
            &mut Context {
                broker: &mut self.broker,
                streamers: &mut self.streamers,
                ended: &mut ended,
                happened: &mut happened,
                now: self.clock.now,
                settings: &self.site.settings,
            },
        );
        let mut ending = None;
        match outcome {
            Outcome::End(service) => ending = Some((service, back)),
            Outcome::Reply(answer) => {
                self.log_request(request, &answer, back.peer);
                self.reply(&back, &answer);
            }
            Outcome::Status => {
                // It has nothing that JSON can't say.
                let status = serde_json::to_string(&self.status()).unwrap_or_default();
                self.reply(&back, &Message::ack(DataType::String, status));
            }
            Outcome::Events(request) => {
                let events = self.latest_events(request);
                self.reply(&back, &events);
            }
            Outcome::Call(event) => self.call(event, back),
            Outcome::Emit(emission) => self.emit(&emission, back),
            Outcome::Letters(request) => self.ask_letters(request, back),
        }
        for happening in &happened {
            self.note_happening(happening);
        }
        for service in &ended {
            self.close_service(service);
        }
        for happening in &happened {
            if let Happening::Subscribed { service, .. } = happening {
                self.open_queue(service);
            }
        }
        self.keep_changes();
        if let Some((service, back)) = ending {
            self.promise_end(service, back);
        }
    }

    fn log_request(&mut self, request: &Message, answer: &Message, id: PeerId) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        let address = peer.address.clone();
        let answer_text = excerpt_of_bytes(&answer.data, EXCERPT_BYTES_MAX).replace('\0', " ");
        if answer.token.is(Token::NAK) {
            if let Some(suppressed) = self.notes.admit("nak", self.clock.now) {
                tracing::info!(target: "em.request", peer = %address, token = %request.token, suppressed, "request refused: {answer_text}");
            }
        } else if !request.token.is(Token::KEEP_ALIVE) {
            tracing::debug!(target: "em.request", peer = %address, token = %request.token, "request done: {answer_text}");
        }
    }

    fn call(&mut self, event: SyncEvent, back: ReturnAddress) {
        let busy = |limit: usize| {
            let sentence =
                format!("{limit} sync events wait for their answers already (maxPendingCalls)");
            Message::nak("busy", sentence)
        };
        if self.pending_replies.len() >= self.pending_replies.max {
            return self.reply(&back, &busy(self.pending_replies.max));
        }
        let ticket = self.pending_replies.ticket();
        match self.effects.try_send(Effect::Call { ticket, event }) {
            Ok(()) => {
                self.pending_replies.by_ticket.insert(ticket, back);
            }
            Err(_) => self.reply(&back, &busy(self.pending_replies.max)),
        }
    }

    fn ask_letters(&mut self, request: LettersRequest, back: ReturnAddress) {
        let max = self.pending_replies.max;
        if self.pending_replies.len() >= max {
            let sentence = format!("{max} requests wait for their answers already");
            return self.reply(&back, &Message::nak("busy", sentence));
        }
        match self.begin_letters(request) {
            Ok(Begun::Waiting(ticket)) => {
                self.pending_replies.by_ticket.insert(ticket, back);
            }
            Ok(Begun::Answered(answer)) | Err(answer) => self.reply(&back, &answer),
        }
    }

    /// The answer to a request that waited. Its client may be gone; then nobody wants it.
    pub(super) fn complete(&mut self, ticket: Ticket, answer: &Message) {
        if let Some(back) = self.pending_replies.by_ticket.remove(&ticket) {
            self.reply(&back, answer);
        }
    }

    /// The end has come before their answers: requests that still wait are told so.
    pub(super) fn refuse_pending(&mut self) {
        let nak = Message::nak(
            "stopping",
            "the event manager stopped before all services had answered",
        );
        for (_, back) in std::mem::take(&mut self.pending_replies.by_ticket) {
            self.reply(&back, &nak);
        }
        self.flush();
    }

    fn ask_locator(&mut self, request: &Message, back: &ReturnAddress) {
        let Some(directory) = &mut self.site.directory else {
            return;
        };
        let answer = locator::answer(request, &self.config.locator.tokens, directory, now());
        self.reply(back, &answer);
    }

    /// Whether there is a place among the requests whose answers come later.
    pub(super) fn has_room_for_promise(&self) -> bool {
        self.pending_replies.len() < self.pending_replies.max
    }

    /// A place among the requests whose answers come later, or the refusal if there is none.
    pub(super) fn promise(&mut self, back: ReturnAddress) -> Option<Ticket> {
        if !self.has_room_for_promise() {
            let max = self.pending_replies.max;
            let sentence =
                format!("{max} requests wait for their answers already (maxPendingCalls)");
            self.reply(&back, &Message::nak("busy", sentence));
            return None;
        }
        self.pending_replies.last += 1;
        let ticket = Ticket(self.pending_replies.last);
        self.pending_replies.by_ticket.insert(ticket, back);
        Some(ticket)
    }

    pub(super) fn reply(&mut self, back: &ReturnAddress, answer: &Message) {
        if let Some((kind, read_at)) = back.publishes {
            let times = match kind {
                Publishing::Emit => &mut self.books.publish_times.emits,
                Publishing::Call => &mut self.books.publish_times.calls,
            };
            let is_nak = usize::from(answer.token.is(Token::NAK));
            times[is_nak].add(now().saturating_duration_since(read_at));
        }
        let mut frames = back.envelope.clone();
        frames.extend(encode(answer, back.layout));
        self.peers.send(back.peer, &encode_message(&frames));
    }
}
