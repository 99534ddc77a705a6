//! Requests: from a message's frames to its answer, at once or later.

use std::cell::Cell;

use bytes::{Bytes, BytesMut};

use super::dead_letter_requests::Begun;
use super::leases::Answered;
use super::persistence::Keeping;
use crate::ambient::now;
use crate::reactor::hub::Hub;
use crate::reactor::io::peer_error::PeerError;
use crate::reactor::state::clients::ClientId;
use crate::reactor::state::effects::{Effect, Lists};
use crate::reactor::state::inside::Published;
use crate::reactor::state::peer::Role;
use crate::reactor::state::replies::{Asker, Full, ReturnAddress, Ticket};
use event_manager_core::broker::{EndError, EndedService, PeerId};
use event_manager_core::event_id::EventId;
use event_manager_core::locator;
use event_manager_core::requests::{
    self, Answer, Context, Emission, Happening, Host, LeaseOp, LeaseRequest, LettersRequest,
    SyncEvent, Timed,
};
use event_manager_core::security::{Deed, Identity};
use event_manager_wire::api::{InstancesPage, Status};
use event_manager_wire::messagebus::{
    DataType, FRAMES_MAX, Message, Nak, Token, decode, encode_each, split_envelope,
};
use event_manager_wire::model::{EXCERPT_BYTES_MAX, ServiceName, SubscriptionId, excerpt_of_bytes};
use event_manager_zmtp::{FrameError, begun_frames, encode_frame, frames_of};

/// Of a request that is too large, so many frames are looked at, which are more than those of any
/// request and its way through proxies.
const BEGUN_FRAMES_MAX: usize = 16;
/// And of each of them so many bytes; a routing id has at most 255.
const BEGUN_BYTES_MAX: usize = 1024;
/// An answer's buffer is kept for the next one up to this size.
const ANSWER_KEPT: usize = 16 << 10;

/// A request that is being answered.
struct Asking<'a> {
    hub: &'a mut Hub,
    /// Who asks.
    client: ClientId,
    /// None once somebody else has taken it, who answers later.
    back: Option<ReturnAddress>,
    ended: Vec<EndedService>,
    happened: Vec<Happening>,
}

impl Asking<'_> {
    /// Hands the request on to who answers it.
    fn hand_on(&mut self, to: impl FnOnce(&mut Hub, ReturnAddress)) -> Answer {
        if let Some(back) = self.back.take() {
            to(self.hub, back);
        }
        Answer::Later
    }
}

impl Host for Asking<'_> {
    fn context(&mut self) -> Context<'_> {
        Context {
            broker: &mut self.hub.broker,
            streamers: &mut self.hub.streamers,
            ended: &mut self.ended,
            happened: &mut self.happened,
            now: self.hub.time.now,
            settings: &self.hub.site.settings,
        }
    }

    fn judge(&mut self, deed: Deed<'_>) -> Result<(), Nak> {
        let judged = self.hub.clients.judge(self.client, deed);
        judged.map_err(|denied| {
            self.hub.note_denied(self.client, denied.what, 1, &denied);
            denied.into()
        })
    }

    fn event_id(&self, said: Bytes) -> EventId {
        self.hub.event_id(self.client, said)
    }

    fn claim(&mut self, subscription: &SubscriptionId) {
        let owner = &self.hub.clients.get(self.client).identity;
        self.hub.broker.own(subscription, owner);
    }

    fn is_stopping(&self) -> bool {
        self.hub.phase.is_draining()
    }

    fn is_full(&self) -> Option<Nak> {
        let client = &self.hub.clients.get(self.client).identity;
        self.hub.why_no_more_wait(client)
    }

    fn status(&mut self) -> Answer {
        let state = self.hub.status(Lists::Short);
        if !state.is_whole() {
            return self.hand_on(|hub, back| hub.promise_state(state, back));
        }
        // It has nothing that JSON can't say.
        let state = serde_json::to_string(&state).unwrap_or_default();
        Answer::ack(DataType::String, state)
    }

    fn events(&mut self, after: Option<u64>, max: usize) -> String {
        self.hub.notes.page(after, max)
    }

    fn instances(&mut self, history: usize) -> String {
        let page = &self.hub.site.instances;
        let left_out = page.history.len().saturating_sub(history);
        let page = InstancesPage {
            instances: page.instances.clone(),
            history: page.history[left_out..].to_vec(),
        };
        // It has nothing that JSON can't say.
        serde_json::to_string(&page).unwrap_or_default()
    }

    fn lease(&mut self, request: LeaseRequest) -> Result<Answer, Nak> {
        if let Some(kept) = self.hub.site.leases_kept.clone() {
            return Ok(self.hand_on(|hub, back| hub.ask_for_lease(request, &kept, back)));
        }
        let is_acquired = matches!(request.op, LeaseOp::Acquire { .. });
        // What can't be answered must not be done.
        if let (true, Some(full)) = (is_acquired, self.is_full()) {
            return Err(full);
        }
        let client = self.hub.clients.get(self.client).identity.clone();
        match self.hub.lease(request, client)? {
            Answered::Now(answer) => Ok(Answer::Now(answer)),
            Answered::WhenWritten(name, answer) => {
                Keeping::of(self.hub).keep();
                Ok(self.hand_on(|hub, back| hub.promise_lease(name, answer, back)))
            }
        }
    }

    fn call(&mut self, event: SyncEvent) -> Answer {
        self.hand_on(|hub, back| hub.call(event, back))
    }

    fn emit(&mut self, emission: &Emission) -> Answer {
        self.hand_on(|hub, back| hub.emit_for(emission, back))
    }

    fn letters(&mut self, request: LettersRequest) -> Answer {
        self.hand_on(|hub, back| hub.ask_letters(request, back))
    }

    fn promise(&mut self, subscription: &SubscriptionId, answer: Message) -> Answer {
        Keeping::of(self.hub).keep();
        let subscription = subscription.clone();
        self.hand_on(|hub, back| hub.promise_subscription(subscription, answer, back))
    }

    fn end(&mut self, service: &ServiceName) -> Result<Answer, EndError> {
        // What came for the service until now ends with it.
        self.hub.flush_store();
        self.hub.carry_out();
        let ended = self.hub.broker.end_service(service).map_err(|error| {
            let needed_for = self.hub.config.needed_for(service);
            match needed_for.filter(|_| error == EndError::Declared) {
                Some(key) => EndError::NeededFor(key),
                None => error,
            }
        })?;
        self.hub.close_service(&ended);
        Keeping::of(self.hub).keep();
        Ok(self.hand_on(|hub, back| hub.promise_end(ended.name, back)))
    }
}

impl Hub {
    /// A message on the request socket. What can be answered is.
    pub(crate) fn take_request(&mut self, id: PeerId, message: &[u8]) -> Result<(), PeerError> {
        let frames = frames_of(&Bytes::copy_from_slice(message));
        let (envelope, frames) = split_envelope(&frames);
        if frames.is_empty() {
            // ZMQ_PROBE_ROUTER: its socket only says that it is there. It would take an answer for that
            // to its first request.
            self.notes.count_refused("probe");
            return Ok(());
        }
        let Role::Requester { locator } = self.peers[id].role else {
            return Ok(());
        };
        let (decoded, layout) = match decode(frames) {
            Ok((request, layout)) => (Ok(request), layout),
            Err(malformed) => (Err((malformed.code, malformed.sentence)), malformed.layout),
        };
        let back = ReturnAddress {
            peer: id,
            client: self.identity_of(id),
            envelope: envelope.to_vec(),
            layout,
            timed: None,
        };
        match (decoded, &mut self.site.directory) {
            (Ok(request), Some(directory)) if locator => {
                let tokens = &self.config.locator.tokens;
                let peer = &self.peers[id];
                let client = peer.client;
                directory.is_asked_by(locator::Asker {
                    identity: self.clients.get(client).identity.clone(),
                    shown: peer.presented().into(),
                });
                let denied = Cell::new(None);
                let judge = |deed: Deed<'_>| {
                    let judged = self.clients.judge(client, deed);
                    judged.map_err(|found| {
                        denied.set(Some(found.clone()));
                        found.into()
                    })
                };
                let answer = locator::answer(&request, tokens, directory, &judge, now());
                if let Some(denied) = denied.take() {
                    self.note_denied(client, denied.what, 1, &denied);
                }
                self.requests.others += 1;
                self.reply(&back, &answer);
            }
            (Ok(request), _) => self.ask(&request, back),
            (Err((code, sentence)), _) => {
                self.notes.discarded(&self.peers[id].address, code);
                self.reply(&back, &Message::nak(code, &sentence));
            }
        }
        Ok(())
    }

    fn identity_of(&self, id: PeerId) -> Identity {
        self.clients.get(self.peers[id].client).identity.clone()
    }

    /// A request has more frames or bytes than the limits allow: nothing more is read from its
    /// connection, but it is answered, as far as what came tells to whom.
    pub(crate) fn refuse_request(&mut self, id: PeerId, begun: &[u8], error: &FrameError) {
        let limit = match error {
            FrameError::MessageTooLarge(..) => "limits.maxMessageBytes",
            FrameError::TooManyParts(_) => "limits.maxMessageParts",
            FrameError::Flags(_) | FrameError::Interrupted(_) => return,
        };
        if !matches!(self.peers[id].role, Role::Requester { .. }) {
            return;
        }
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
            client: self.identity_of(id),
            envelope: envelope.to_vec(),
            layout,
            timed: None,
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
        self.set_now(now());
        let row = match requests::find(request.token) {
            Ok(row) => row,
            Err(nak) => return self.answer(request, &nak.into(), &back, false),
        };
        back.timed = row.timed.map(|timed| (timed, self.time.now));
        self.requests.others += u64::from(row.timed.is_none());
        let client = self.peers[back.peer].client;
        let mut asking = Asking {
            hub: self,
            client,
            back: Some(back),
            ended: vec![],
            happened: vec![],
        };
        let answer = row.answer(request, &mut asking);
        let Asking {
            back,
            ended,
            happened,
            ..
        } = asking;
        if let (Answer::Now(answer), Some(back)) = (answer, back) {
            self.answer(request, &answer, &back, row.is_routine);
        }
        for happening in &happened {
            self.notes.happening(happening);
        }
        for service in &ended {
            self.close_service(service);
        }
        for happening in &happened {
            if let Happening::Subscribed { service, .. } = happening {
                self.open_queue(service);
            }
        }
        Keeping::of(self).keep();
    }

    fn answer(
        &mut self,
        request: &Message,
        answer: &Message,
        back: &ReturnAddress,
        is_routine: bool,
    ) {
        self.log_request(request, answer, back.peer, is_routine);
        self.reply(back, answer);
    }

    fn log_request(&mut self, request: &Message, answer: &Message, id: PeerId, is_routine: bool) {
        if is_routine && !answer.token.is(Token::NAK) {
            return;
        }
        // What it asked for may have ended its connection.
        let Some(peer) = self.peers.get(id) else {
            return;
        };
        let address = &peer.address;
        let answer_text = excerpt_of_bytes(&answer.data, EXCERPT_BYTES_MAX).replace('\0', " ");
        if answer.token.is(Token::NAK) {
            if let Some(suppressed) = self.notes.admit("nak") {
                tracing::info!(target: "em.request", peer = %address, token = %request.token, suppressed, "request refused: {answer_text}");
            }
        } else {
            tracing::debug!(target: "em.request", peer = %address, token = %request.token, "request done: {answer_text}");
        }
    }

    fn call(&mut self, event: SyncEvent, back: ReturnAddress) {
        let ticket = self.requests.replies.ticket();
        let keys = event.services.iter().map(|service| self.keys_for(service));
        let keys = keys.collect();
        let effect = Effect::Call {
            ticket,
            event: Box::new(event),
            keys,
        };
        self.hand_out(effect, ticket, back);
    }

    /// The lists are too long for one turn: who wants them all gets them when they were told in parts.
    fn promise_state(&mut self, begun: Status, back: ReturnAddress) {
        if let Some(nak) = self.why_no_more_wait(&back.client) {
            return self.reply(&back, &nak.into());
        }
        let ticket = self.requests.replies.ticket();
        let begun = Box::new(begun);
        self.hand_out(Effect::State { ticket, begun }, ticket, back);
    }

    /// Has somebody else see to the answer of a request.
    fn hand_out(&mut self, effect: Effect, ticket: Ticket, back: ReturnAddress) {
        match self.requests.effects.try_send(effect) {
            Ok(()) => {
                self.requests.replies.insert(ticket, back);
            }
            Err(_) => self.reply(
                &back,
                &requests::too_many_wait(self.requests.replies.max()).into(),
            ),
        }
    }

    fn ask_letters(&mut self, request: LettersRequest, back: ReturnAddress) {
        match self.begin_letters(request) {
            Ok(Begun::Waiting(ticket)) => {
                self.requests.replies.insert(ticket, back);
            }
            Ok(Begun::Answered(answer)) => self.reply(&back, &answer),
            Err(nak) => self.reply(&back, &nak.into()),
        }
    }

    /// The answer to a request that waited. Its client may be gone; then nobody wants it.
    pub(crate) fn complete(&mut self, ticket: Ticket, answer: &Message) {
        if let Some(Asker::Client(back)) = self.requests.replies.remove(ticket) {
            self.reply(&back, answer);
        }
    }

    /// The end has come before their answers: requests that still wait are told so.
    pub(crate) fn refuse_pending(&mut self) {
        let nak = Message::nak(
            "stopping",
            "the event manager stopped before all services had answered",
        );
        for asker in self.requests.replies.take_all() {
            match asker {
                Asker::Client(back) => self.reply(&back, &nak),
                Asker::Inside(slot) => slot.give(Published::NotNow("the daemon stops".into())),
            }
        }
        self.flush();
    }

    /// A slot among the requests whose answers come later, or the refusal if there is none.
    pub(crate) fn promise(&mut self, asker: impl Into<Asker>) -> Option<Ticket> {
        let asker = asker.into();
        // What this process asks itself is bounded by who asks.
        if let Asker::Client(back) = &asker
            && let Some(nak) = self.why_no_more_wait(&back.client)
        {
            self.reply(back, &nak.into());
            return None;
        }
        let ticket = self.requests.replies.ticket();
        self.requests.replies.insert(ticket, asker);
        Some(ticket)
    }

    /// The refusal of another request of this client that waits for its answer, if too many do.
    fn why_no_more_wait(&self, client: &Identity) -> Option<Nak> {
        let have_names = self.site.keyring.knows_names();
        let full = self.requests.replies.is_full(client, have_names)?;
        Some(match full {
            Full::InAll(max) => requests::too_many_wait(max),
            Full::OfClient(theirs) => requests::too_many_of_client_wait(theirs),
        })
    }

    pub(crate) fn reply(&mut self, back: &ReturnAddress, answer: &Message) {
        if let Some((timed, read_at)) = back.timed {
            let times = match timed {
                Timed::Emit => &mut self.accounts.publish_times.emits,
                Timed::Call => &mut self.accounts.publish_times.calls,
            };
            let is_nak = usize::from(answer.token.is(Token::NAK));
            times[is_nak].add(now().saturating_duration_since(read_at));
        }
        let written = &mut self.scratch.answer;
        written.clear();
        for frame in &back.envelope {
            encode_frame(written, frame, true);
        }
        encode_each(answer, back.layout, |frame, more| {
            encode_frame(written, frame, more);
        });
        self.peers.answer(back.peer, written);
        // One long answer should not hold its memory for ever.
        if written.capacity() > ANSWER_KEPT {
            *written = BytesMut::new();
        }
    }
}
