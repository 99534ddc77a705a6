//! One bridge out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};

use super::board::Lane;
use super::message::outgoing;
use super::worker::{Delivered, NoWorker, Worker};
use crate::ambient::{chance, now};
use crate::config::{Bridge, Config, Engine, SecurityConfig};
use crate::engines::{self, Outcome, Outgoing, Outlet, Sent};
use crate::reactor::Input;
use event_manager_client::Ended;
use event_manager_wire::api::BridgeState;
use event_manager_wire::model::{Backoff, ServiceName};
use event_manager_zmtp::{HubId, Limits};

/// Between two attempts to reach the engine.
const REDIAL: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(10)];
/// Between two attempts to be a worker of the service.
const REATTACH: Duration = Duration::from_millis(100);
/// What is sent at once, at most.
const BATCH_EVENTS: usize = 512;
const BATCH_BYTES: usize = 4 << 20;
/// How long what is under way may take when the daemon stops.
const STOP_MAX: Duration = Duration::from_secs(2);
/// What is told of why an event is refused, in bytes.
const REASON_BYTES_MAX: usize = 200;

/// A bridge whose events go to an engine.
pub(super) struct Outward {
    name: String,
    bridge: Bridge,
    engine: Engine,
    security: SecurityConfig,
    service: Option<ServiceName>,
    limits: Limits,
    hub_id: HubId,
    /// How often the service has to hear that what is held is still being worked on.
    wip_every: Duration,
    lane: Lane,
}

/// Why a worker's connection is given up.
enum End {
    /// The daemon stops.
    Stopped,
    /// It has ended, and another is made.
    Lost,
}

impl Outward {
    pub(super) fn new(
        config: &Config,
        (name, bridge, engine): (&str, &Bridge, &Engine),
        hub_id: HubId,
        lane: Lane,
    ) -> Self {
        let service = Bridge::service(name);
        let ack_timeout = service
            .as_ref()
            .map(|service| config.policy_of(service).backlog.ack_timeout);
        Self {
            name: name.to_owned(),
            bridge: bridge.clone(),
            engine: engine.clone(),
            security: config.security.clone(),
            service,
            limits: config.limits,
            hub_id,
            wip_every: ack_timeout.unwrap_or(Duration::from_secs(30)) / 3,
            lane,
        }
    }

    /// Until the daemon stops.
    pub(super) async fn run(self, inputs: mpsc::Sender<Input>, stopping: watch::Receiver<bool>) {
        let Some(service) = self.service.clone() else {
            return;
        };
        let mut stop = Stop {
            signal: stopping,
            until: None,
        };
        while !stop.has_come() {
            let credit = self.bridge.in_flight_max();
            let attached = Worker::attach(&inputs, &service, &self.name, credit, self.limits).await;
            let end = match attached {
                Ok(mut worker) => self.serve(&mut worker, &mut stop).await,
                Err(NoWorker::Ends) => return,
                Err(NoWorker::NotNow) => Ok(End::Lost),
            };
            match end {
                Ok(End::Stopped) => return,
                Ok(End::Lost) | Err(_) => sleep(REATTACH).await,
            }
        }
    }

    /// Sends what the worker gets. While the engine is away it holds what it has, and takes no more than its
    /// credit.
    async fn serve(&self, worker: &mut Worker, stop: &mut Stop) -> Result<End, Ended> {
        let mut held = VecDeque::new();
        let mut outlet = None;
        let mut backoff = Backoff::new(REDIAL[0], REDIAL[1]);
        // After a failure one event is sent alone: what is behind it isn't sent again and again.
        let mut batch_max = BATCH_EVENTS;
        loop {
            let connected = match outlet.take() {
                Some(connected) => Ok(connected),
                None => {
                    let connecting = engines::outlet(&self.engine, &self.security, &self.name);
                    let connecting = self.while_held(worker, &mut held, stop, connecting);
                    match connecting.await? {
                        None => return Ok(End::Stopped),
                        Some(connected) => connected,
                    }
                }
            };
            let failed = match connected {
                Err(why) => Some((BridgeState::Connecting, why)),
                Ok(connected) => {
                    self.lane.is_connected();
                    let exchanged = self.exchange(worker, &mut held, stop, (connected, batch_max));
                    match exchanged.await? {
                        None => return Ok(End::Stopped),
                        Some(Exchanged::Went(connected)) => {
                            self.lane.works();
                            backoff.reset();
                            batch_max = BATCH_EVENTS;
                            outlet = Some(connected);
                            None
                        }
                        Some(Exchanged::Lost(why)) => Some((BridgeState::Connecting, why)),
                        Some(Exchanged::Failed(why)) => {
                            batch_max = 1;
                            Some((BridgeState::Failing, why))
                        }
                    }
                }
            };
            if let Some((state, why)) = failed {
                self.lane.fails(state, &why);
                let pause = sleep(backoff.next_delay(chance()));
                let paused = self.while_held(worker, &mut held, stop, pause);
                if paused.await?.is_none() {
                    return Ok(End::Stopped);
                }
            }
        }
    }

    /// Sends a batch of what is held, once there is something.
    async fn exchange<O: Outlet>(
        &self,
        worker: &mut Worker,
        held: &mut VecDeque<Delivered>,
        stop: &mut Stop,
        (mut outlet, batch_max): (O, usize),
    ) -> Result<Option<Exchanged<O>>, Ended> {
        while held.is_empty() {
            tokio::select! {
                biased;
                delivered = worker.next() => held.extend(delivered?),
                _ = stop.comes() => return Ok(None),
                why = outlet.lost() => return Ok(Some(Exchanged::Lost(why))),
            }
        }
        let batch = self.batch(held, batch_max);
        self.lane
            .change(|shown| shown.in_flight = batch.len() as u64);
        let stall = self.bridge.stall_timeout();
        let sending = outlet.send(&batch, stall);
        let sent = self.while_held(worker, held, stop, sending).await?;
        let Some(sent) = sent else {
            return Ok(None);
        };
        let is_lost = sent.is_lost;
        let failed = self.settle(worker, held, &batch, sent);
        Ok(Some(match failed {
            None => Exchanged::Went(outlet),
            Some(why) if is_lost => Exchanged::Lost(why),
            Some(why) => Exchanged::Failed(why),
        }))
    }

    /// The first of what is held, in its order.
    fn batch(&self, held: &VecDeque<Delivered>, events_max: usize) -> Vec<Outgoing> {
        let mut bytes = 0;
        let to_send = held.iter().take(events_max).take_while(|delivered| {
            let had = bytes;
            bytes += delivered.event.len();
            had == 0 || bytes <= BATCH_BYTES
        });
        let (to, origin) = (self.bridge.to(), self.hub_id);
        to_send
            .map(|one| outgoing(&one.event, &one.id, to, origin))
            .collect()
    }

    /// Answers for what was sent; why the rest of it failed, if so.
    fn settle(
        &self,
        worker: &mut Worker,
        held: &mut VecDeque<Delivered>,
        batch: &[Outgoing],
        sent: Sent,
    ) -> Option<String> {
        let (mut events, mut bytes, mut known, mut refused) = (0, 0, 0, 0);
        let sent_again: Vec<_> = held
            .drain(..sent.outcomes.len().min(held.len()))
            .zip(sent.outcomes.iter().zip(batch))
            .filter_map(|(done, (outcome, event))| {
                match outcome {
                    Outcome::Stored | Outcome::Known => {
                        worker.ack(done.delivery);
                        events += 1;
                        bytes += event.body.len() as u64;
                        known += u64::from(*outcome == Outcome::Known);
                    }
                    Outcome::Refused(why) => {
                        let why: String = why.chars().take(REASON_BYTES_MAX).collect();
                        worker.term(done.delivery, &why);
                        refused += 1;
                    }
                    Outcome::Unknown => return Some(done),
                }
                None
            })
            .collect();
        sent_again
            .into_iter()
            .rev()
            .for_each(|one| held.push_front(one));
        self.lane.change(|shown| {
            shown.events += events;
            shown.bytes += bytes;
            shown.known += known;
            shown.refused += refused;
            shown.in_flight = 0;
        });
        sent.failed
    }

    /// Waits for something else, and meanwhile takes what comes and says that what is held is worked on.
    /// `None` if the daemon stops before that is done.
    async fn while_held<T>(
        &self,
        worker: &mut Worker,
        held: &mut VecDeque<Delivered>,
        stop: &mut Stop,
        other: impl Future<Output = T>,
    ) -> Result<Option<T>, Ended> {
        let mut clock = interval(self.wip_every);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(other);
        loop {
            tokio::select! {
                biased;
                done = &mut other => return Ok(Some(done)),
                delivered = worker.next() => held.extend(delivered?),
                _ = clock.tick() => if let Some(last) = held.back() {
                    worker.wip(last.delivery);
                },
                is_over = stop.comes() => {
                    if is_over || held.is_empty() {
                        return Ok(None);
                    }
                    worker.bye();
                }
            }
        }
    }
}

/// The daemon's stop, which leaves a moment for what is under way.
struct Stop {
    signal: watch::Receiver<bool>,
    /// It has come; then until when.
    until: Option<Instant>,
}

impl Stop {
    fn has_come(&self) -> bool {
        *self.signal.borrow()
    }

    /// Waits until it comes, and then, until the moment is over; whether it is.
    async fn comes(&mut self) -> bool {
        match self.until {
            Some(until) => {
                sleep_until(until.into()).await;
                true
            }
            None => {
                // Who could stop us is gone: that is a stop, too.
                let _ = self.signal.wait_for(|stops| *stops).await;
                self.until = Some(now() + STOP_MAX);
                false
            }
        }
    }
}

/// What came of a batch.
enum Exchanged<O> {
    /// All of it is known; more can be sent.
    Went(O),
    /// The connection was lost.
    Lost(String),
    /// It is given up.
    Failed(String),
}
