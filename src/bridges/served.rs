//! A service whose queue is another broker's: what is taken there goes to its workers here, and what becomes
//! of it is told.
//!
//! An event is *in hands* from when it was taken until the broker has heard that it may forget it, or give it
//! to others. Meanwhile the broker is told again and again that it is worked on: how long a worker may take,
//! and how often an event is tried, is for the service here. If nothing tells the broker so any more, because
//! this daemon is gone, it gives the event to another.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use super::arriving::{Arrived, taken};
use super::board::Lane;
use super::hands::Stop;
use super::in_hands::InHands;
use crate::ambient::{chance, now};
use crate::config::{Bridge, Config, Engine, Layout, SecurityConfig, ServedBy};
use crate::engines::{self, Failure, Incoming, Queue, QueueOf, User};
use crate::reactor::{Handed, HandedEvent, Input, Returning, Serving, Settlement};
use event_manager_wire::api::BridgeState;
use event_manager_wire::model::{Backoff, ServiceName};
use event_manager_zmtp::{HubId, Limits};

/// Between two attempts to reach the engine, or the service.
const RETRY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(10)];
/// What the engine is told of at once, at most.
const BATCH_EVENTS: usize = 512;
/// Of an event that is larger than any may be, its dead letter has the beginning.
const BEGINNING_PART: usize = 4;

/// A service whose queue is an engine's.
pub(super) struct Served {
    service: ServiceName,
    engine: Engine,
    security: SecurityConfig,
    limits: Limits,
    hub_id: HubId,
    ack_timeout: Duration,
    in_flight_max: u32,
    /// How long workers may take when the daemon stops.
    drain: Duration,
    inputs: mpsc::Sender<Input>,
    lane: Lane,
}

/// What is open while the daemon runs.
struct Work {
    settlements: mpsc::UnboundedReceiver<Settlement>,
    /// How many events the service wants since the first.
    wanted: watch::Receiver<u64>,
    hands: InHands,
    /// When the engine has to hear that what is in hands is worked on.
    extend: Interval,
    stop: Stop,
}

/// Why nothing more comes.
enum End {
    /// The daemon stops.
    Stopped,
    Failed(BridgeState, String),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Lost(why) => Self::Failed(BridgeState::Connecting, why),
            Failure::Refused(why) => Self::Failed(BridgeState::Failing, why),
        }
    }
}

/// What comes next.
enum Next {
    Taken(Result<Vec<Incoming>, Failure>),
    Settled,
    Extend,
    /// More is wanted, or less.
    Wanted,
    Stop,
    /// The reactor is gone.
    Alone,
}

impl Served {
    pub(super) fn new(
        config: &Config,
        (service, by, engine): (&ServiceName, ServedBy<'_>, &Engine),
        hub_id: HubId,
        inputs: mpsc::Sender<Input>,
        lane: Lane,
    ) -> Self {
        Self {
            service: service.clone(),
            engine: engine.clone(),
            security: config.security.clone(),
            limits: config.limits,
            hub_id,
            ack_timeout: config.policy_of(service).backlog.ack_timeout,
            in_flight_max: by.in_flight_max,
            drain: config.drain_timeout / 2,
            inputs,
            lane,
        }
    }

    /// Until the daemon stops.
    pub(super) async fn run(self, stopping: watch::Receiver<bool>) {
        let mut stop = Stop::lasting(stopping, self.drain);
        let mut backoff = Backoff::new(RETRY[0], RETRY[1]);
        let begun = loop {
            match self.begin().await {
                Some(Ok(begun)) => break begun,
                Some(Err(why)) => self.lane.fails(BridgeState::Failing, &why),
                None => return,
            }
            tokio::select! {
                () = sleep(backoff.next_delay(chance())) => {}
                _ = stop.comes() => return,
            }
        };
        let (settlements, wanted) = begun;
        let mut extend = interval(self.ack_timeout / 3);
        extend.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut work = Work {
            settlements,
            wanted,
            hands: InHands::default(),
            extend,
            stop,
        };
        backoff.reset();
        loop {
            match self.serve(&mut work, &mut backoff).await {
                End::Stopped => return,
                End::Failed(state, why) => self.lane.fails(state, &why),
            }
            let orphans = work.hands.disconnect();
            self.let_go(&mut work, orphans).await;
            if !self.wait(&mut work, backoff.next_delay(chance())).await {
                return;
            }
        }
    }

    /// Tells the reactor who takes events for the service; `None` if it is gone.
    async fn begin(
        &self,
    ) -> Option<Result<(mpsc::UnboundedReceiver<Settlement>, watch::Receiver<u64>), String>> {
        // No more than is in hands, at most `maxInFlight`, can be settled.
        let (settled, settlements) = mpsc::unbounded_channel();
        let (want, wanted) = watch::channel(0);
        let (answered, answer) = oneshot::channel();
        let serving = Serving {
            service: self.service.clone(),
            settlements: settled,
            wanted: want,
            answered,
        };
        self.inputs.send(Input::Serve(serving)).await.ok()?;
        let answer = answer.await.ok()?;
        Some(answer.map(|()| (settlements, wanted)))
    }

    /// Waits before the engine is reached again, and hears meanwhile what became of events; whether to go on.
    async fn wait(&self, work: &mut Work, pause: Duration) -> bool {
        let pause = sleep(pause);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => return true,
                // The engine gives again what is in hands.
                _ = work.stop.comes() => return false,
                settlement = work.settlements.recv() => match settlement {
                    Some(settlement) => work.hands.settle(settlement, now() + self.ack_timeout),
                    None => return false,
                }
            }
        }
    }

    /// Takes events from one connection, as long as it goes well.
    async fn serve(&self, work: &mut Work, backoff: &mut Backoff) -> End {
        let connected = tokio::select! {
            connected = self.connect() => connected,
            _ = work.stop.comes() => return End::Stopped,
        };
        let mut queue = match connected {
            Ok(queue) => queue,
            Err(why) => return End::Failed(BridgeState::Connecting, why),
        };
        match self.serve_from(&mut *queue, work, backoff).await {
            Ok(end) => end,
            Err(failure) => failure.into(),
        }
    }

    async fn connect(&self) -> Result<Box<dyn Queue>, String> {
        let user = User {
            engine: &self.engine,
            security: &self.security,
            bridge: self.service.as_str(),
            hub_id: self.hub_id,
            limits: self.limits,
            layout: Layout::Plain,
        };
        let queue = QueueOf {
            service: self.service.as_str(),
            ack_timeout: self.ack_timeout,
            in_flight_max: self.in_flight_max,
        };
        engines::queue(user, queue).await
    }

    async fn serve_from(
        &self,
        queue: &mut dyn Queue,
        work: &mut Work,
        backoff: &mut Backoff,
    ) -> Result<End, Failure> {
        work.hands.reconnect(queue);
        queue.extend(&work.hands.receipts()).await?;
        self.tell(queue, &mut work.hands).await?;
        self.lane.works();
        backoff.reset();
        loop {
            let room = work.hands.room(*work.wanted.borrow(), self.in_flight_max);
            let next = tokio::select! {
                _ = work.stop.comes() => Next::Stop,
                settlement = work.settlements.recv() => match settlement {
                    Some(settlement) => {
                        work.hands.settle(settlement, now() + self.ack_timeout);
                        Next::Settled
                    }
                    None => Next::Alone,
                },
                _ = work.extend.tick() => Next::Extend,
                changed = work.wanted.changed() => match changed {
                    Ok(()) => Next::Wanted,
                    Err(_) => Next::Alone,
                },
                taken = queue.take(room) => Next::Taken(taken),
            };
            match next {
                Next::Taken(taken) => self.hand_over(taken?, queue, work).await,
                Next::Settled => {
                    self.hear_all(work);
                    self.tell(queue, &mut work.hands).await?;
                }
                Next::Extend => {
                    queue.extend(&work.hands.receipts()).await?;
                    self.tell(queue, &mut work.hands).await?;
                }
                Next::Wanted => {}
                Next::Stop => {
                    self.end(queue, work).await?;
                    return Ok(End::Stopped);
                }
                Next::Alone => return Ok(End::Stopped),
            }
        }
    }

    /// Hears all that is known by now of what became of events, as far as it is told at once.
    fn hear_all(&self, work: &mut Work) {
        for _ in 0..BATCH_EVENTS {
            match work.settlements.try_recv() {
                Ok(settlement) => work.hands.settle(settlement, now() + self.ack_timeout),
                Err(_) => return,
            }
        }
    }

    /// Gives events to the service.
    async fn hand_over(&self, taken: Vec<Incoming>, queue: &dyn Queue, work: &mut Work) {
        let mut events = Vec::with_capacity(taken.len());
        for incoming in taken {
            let read = self::taken(&incoming, &Bridge::default());
            let id = match &read {
                Arrived::Event { id, .. } => String::from_utf8_lossy(id).into_owned(),
                _ => incoming.position.clone().unwrap_or_default(),
            };
            // What this daemon has already it goes on with.
            let Some(number) = work.hands.take(&incoming, &id, queue) else {
                continue;
            };
            events.push(self.event(number, id, incoming, read));
        }
        self.show(&work.hands);
        if !events.is_empty() {
            let service = self.service.clone();
            // A reactor that is gone has closed the settlements, too.
            let _ = self
                .inputs
                .send(Input::Hand(Handed { service, events }))
                .await;
        }
    }

    /// An event as the service gets it; what is none is its dead letter.
    fn event(&self, number: u64, id: String, incoming: Incoming, read: Arrived) -> HandedEvent {
        let Incoming {
            subject,
            headers,
            mut body,
            given_before,
            ..
        } = incoming;
        let (frames, flaw) = match read {
            Arrived::Event { frames, .. } => (frames, None),
            Arrived::Nonsense(why) => {
                let about = serde_json::to_vec(&headers).unwrap_or_default();
                if body.len() + about.len() > self.limits.message_bytes_max / 2 {
                    body.truncate(self.limits.message_bytes_max / BEGINNING_PART);
                }
                let subject = subject.replace('\0', " ");
                (vec![subject.into(), Bytes::from(about), body], Some(why))
            }
            // Only bridges leave out what goes round.
            Arrived::GoesRound => (vec![], Some("it has no frames".to_owned())),
        };
        HandedEvent {
            number,
            id,
            frames,
            attempts: given_before,
            flaw,
        }
    }

    /// Tells the engine what became of events.
    async fn tell(&self, queue: &mut dyn Queue, hands: &mut InHands) -> Result<(), Failure> {
        while let Some(batch) = hands.to_acknowledge(BATCH_EVENTS) {
            queue.acknowledge(&batch.receipts).await?;
            hands.told(&batch);
        }
        while let Some(batch) = hands.to_give_back(BATCH_EVENTS, now()) {
            queue.give_back(&batch.receipts).await?;
            hands.told(&batch);
        }
        self.show(hands);
        Ok(())
    }

    fn show(&self, hands: &InHands) {
        self.lane.change(|shown| {
            let books = hands.books;
            (shown.taken, shown.in_flight) = (books.taken, hands.len() as u64);
            (shown.events, shown.bytes) = (books.done, books.bytes);
            (shown.refused, shown.returned) = (books.dead, books.returned);
        });
    }

    /// The engine gives these to others by itself: those that no worker has are given up here.
    async fn let_go(&self, work: &mut Work, orphans: Vec<u64>) {
        if orphans.is_empty() {
            return;
        }
        for number in self.returned(Some(orphans)).await.unwrap_or_default() {
            work.hands.let_go(number);
        }
        self.show(&work.hands);
    }

    /// Has the service give back what waits: these, or all.
    async fn returned(&self, only: Option<Vec<u64>>) -> Option<Vec<u64>> {
        let (answered, answer) = oneshot::channel();
        let returning = Returning {
            service: self.service.clone(),
            only,
            answered,
        };
        self.inputs.send(Input::Return(returning)).await.ok()?;
        answer.await.ok()
    }

    /// The daemon stops: what waits goes back at once, what workers have when their time is over.
    async fn end(&self, queue: &mut dyn Queue, work: &mut Work) -> Result<(), Failure> {
        let came = queue.want_nothing().await;
        if !came.is_empty() {
            queue.give_back(&came).await?;
        }
        for number in self.returned(None).await.unwrap_or_default() {
            work.hands.settle(Settlement::Returned(number), now());
        }
        self.hear_all(work);
        self.tell(queue, &mut work.hands).await?;
        while !work.hands.is_empty() {
            tokio::select! {
                settlement = work.settlements.recv() => match settlement {
                    Some(settlement) => work.hands.settle(settlement, now()),
                    None => break,
                },
                _ = work.extend.tick() => queue.extend(&work.hands.receipts()).await?,
                is_over = work.stop.comes() => if is_over {
                    break;
                },
            }
            self.tell(queue, &mut work.hands).await?;
        }
        work.hands.give_all_back();
        self.tell(queue, &mut work.hands).await
    }
}
