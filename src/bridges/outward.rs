//! One bridge out.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::board::Lane;
use super::hands::{Hands, Meanwhile, Stop};
use super::message::outgoing;
use super::worker::{NoWorker, Worker};
use crate::ambient::chance;
use crate::config::{Bridge, Config, Engine, Layout, SecurityConfig, spool_of};
use crate::engines::{self, Destination, Failure, Outcome, Outgoing, Outlet, Sent, User};
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
/// What is told of why an event is refused, in bytes.
const REASON_BYTES_MAX: usize = 200;

/// A bridge whose events go to an engine.
pub(super) struct Outward {
    way: Way,
    engine: Engine,
    security: SecurityConfig,
    limits: Limits,
    hub_id: HubId,
    /// How often the service has to hear that what is held is still being worked on.
    wip_every: Duration,
    lane: Lane,
}

/// What goes where.
pub(super) struct Way {
    name: String,
    /// The service whose events go out.
    service: ServiceName,
    to: To,
    layout: Layout,
    in_flight_max: u32,
    stall_timeout: Duration,
}

enum To {
    /// What a bridge says.
    Place(String),
    /// The queue of this service.
    QueueOf(ServiceName),
}

impl Way {
    /// The way of a bridge.
    pub(super) fn of_bridge(name: &str, bridge: &Bridge) -> Option<Self> {
        Some(Self {
            name: name.to_owned(),
            service: Bridge::service(name)?,
            to: To::Place(bridge.to().to_owned()),
            layout: bridge.layout(),
            in_flight_max: bridge.in_flight_max(),
            stall_timeout: bridge.stall_timeout(),
        })
    }

    /// The way of a service's events to its queue.
    pub(super) fn to_queue_of(service: &ServiceName) -> Option<Self> {
        let spool = spool_of(service)?;
        let like = Bridge::default();
        Some(Self {
            name: spool.to_string(),
            service: spool,
            to: To::QueueOf(service.clone()),
            layout: Layout::Plain,
            in_flight_max: like.in_flight_max(),
            stall_timeout: like.stall_timeout(),
        })
    }
}

/// What came of a batch.
struct Settled {
    failure: Option<Failure>,
    /// Something is known of some of it.
    is_progress: bool,
    /// Something was sent.
    is_sent: bool,
}

impl Outward {
    pub(super) fn new(
        config: &Config,
        way: Way,
        engine: &Engine,
        hub_id: HubId,
        lane: Lane,
    ) -> Self {
        let ack_timeout = config.policy_of(&way.service).backlog.ack_timeout;
        Self {
            way,
            engine: engine.clone(),
            security: config.security.clone(),
            limits: config.limits,
            hub_id,
            wip_every: ack_timeout / 3,
            lane,
        }
    }

    /// Until the daemon stops.
    pub(super) async fn run(self, inputs: mpsc::Sender<Input>, stopping: watch::Receiver<bool>) {
        let Way { name, service, .. } = &self.way;
        let mut stop = Stop::new(stopping);
        while !stop.has_come() {
            let credit = self.way.in_flight_max;
            let attached = Worker::attach(&inputs, service, name, credit, self.limits).await;
            match attached {
                Err(NoWorker::Ends) => return,
                Err(NoWorker::NotNow) => {}
                Ok(worker) => {
                    let hands = Hands::new(worker, self.wip_every, &mut stop);
                    if self.serve(hands).await.is_ok() {
                        return;
                    }
                }
            }
            sleep(REATTACH).await;
        }
    }

    /// Sends what the worker gets, until the daemon stops. While the engine is away it holds what it has, and
    /// takes no more than its credit.
    async fn serve(&self, mut hands: Hands<'_>) -> Result<(), Ended> {
        let mut outlet = None;
        let mut backoff = Backoff::new(REDIAL[0], REDIAL[1]);
        // After a failure one event is sent alone: what is behind it isn't sent again and again.
        let mut batch_max = BATCH_EVENTS;
        // An engine that was lost when it was sent something, and took none of it, is not said to be back before
        // it does: it would go up and down with each attempt.
        let mut is_doubtful = false;
        loop {
            let connected = match outlet.take() {
                Some(connected) => Ok(connected),
                None => match hands.meanwhile(self.connect()).await? {
                    Meanwhile::Stopped => return Ok(()),
                    Meanwhile::Done(connected) => connected,
                },
            };
            let failure = match connected {
                Err(why) => Failure::Lost(why),
                Ok(mut connected) => {
                    if !is_doubtful {
                        self.lane.is_connected();
                    }
                    match self
                        .exchange(&mut hands, &mut *connected, batch_max)
                        .await?
                    {
                        Meanwhile::Stopped => return Ok(()),
                        Meanwhile::Done(settled) => {
                            if settled.is_progress {
                                backoff.reset();
                            }
                            is_doubtful = settled.is_sent && !settled.is_progress;
                            match settled.failure {
                                Some(failure) => failure,
                                None => {
                                    self.lane.works();
                                    batch_max = BATCH_EVENTS;
                                    outlet = Some(connected);
                                    continue;
                                }
                            }
                        }
                    }
                }
            };
            match &failure {
                Failure::Lost(why) => self.lane.fails(BridgeState::Connecting, why),
                Failure::Refused(why) => {
                    batch_max = 1;
                    self.lane.fails(BridgeState::Failing, why);
                }
            }
            let pause = sleep(backoff.next_delay(chance()));
            if let Meanwhile::Stopped = hands.meanwhile(pause).await? {
                return Ok(());
            }
        }
    }

    async fn connect(&self) -> Result<Box<dyn Outlet>, String> {
        let user = User {
            engine: &self.engine,
            security: &self.security,
            bridge: &self.way.name,
            hub_id: self.hub_id,
            limits: self.limits,
            layout: self.way.layout,
        };
        let to = match &self.way.to {
            To::Place(place) => Destination::Place(place),
            To::QueueOf(service) => Destination::QueueOf(service.as_str()),
        };
        engines::outlet(user, to).await
    }

    /// Sends a batch of what is held, once there is something; what failed, if anything did.
    async fn exchange(
        &self,
        hands: &mut Hands<'_>,
        outlet: &mut dyn Outlet,
        batch_max: usize,
    ) -> Result<Meanwhile<Settled>, Ended> {
        match hands.fill_or(outlet.lost()).await? {
            Meanwhile::Stopped => return Ok(Meanwhile::Stopped),
            Meanwhile::Done(Some(why)) => {
                return Ok(Meanwhile::Done(Settled {
                    failure: Some(Failure::Lost(why)),
                    is_progress: false,
                    is_sent: false,
                }));
            }
            Meanwhile::Done(None) => {}
        }
        let batch = self.batch(hands, batch_max);
        self.lane
            .change(|shown| shown.in_flight = batch.len() as u64);
        let sending = outlet.send(&batch, self.way.stall_timeout);
        Ok(match hands.meanwhile(sending).await? {
            Meanwhile::Stopped => Meanwhile::Stopped,
            Meanwhile::Done(sent) => Meanwhile::Done(self.settle(hands, &batch, sent)),
        })
    }

    /// The first of what is held, in its order.
    fn batch(&self, hands: &Hands<'_>, events_max: usize) -> Vec<Outgoing> {
        let mut bytes = 0;
        let to_send = hands.held().take(events_max).take_while(|delivered| {
            let had = bytes;
            bytes += delivered.event.len();
            had == 0 || bytes <= BATCH_BYTES
        });
        to_send
            .map(|one| outgoing(&one.event, &one.id, self.hub_id))
            .collect()
    }

    /// Answers for what was sent; what of it failed, if so.
    fn settle(&self, hands: &mut Hands<'_>, batch: &[Outgoing], sent: Sent) -> Settled {
        let (mut events, mut bytes, mut known, mut refused) = (0, 0, 0, 0);
        let mut outcomes = sent.outcomes.iter().zip(batch);
        hands.answer(sent.outcomes.len(), |worker, done| {
            let Some((outcome, event)) = outcomes.next() else {
                return false;
            };
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
                Outcome::Unknown => return false,
            }
            true
        });
        self.lane.change(|shown| {
            shown.events += events;
            shown.bytes += bytes;
            shown.known += known;
            shown.refused += refused;
            shown.in_flight = 0;
        });
        Settled {
            failure: sent.failure,
            is_progress: events + refused > 0,
            is_sent: true,
        }
    }
}
