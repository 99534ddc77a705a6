//! One bridge out.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::board::Lane;
use super::hands::{Hands, Meanwhile, Stop};
use super::message::outgoing;
use super::worker::{NoWorker, Worker};
use crate::ambient::chance;
use crate::config::{Bridge, Config, Engine, SecurityConfig};
use crate::engines::{self, Failure, Outcome, Outgoing, Outlet, Sent, User};
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

/// What came of a batch.
struct Settled {
    failure: Option<Failure>,
    /// Something is known of some of it.
    is_progress: bool,
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
        let mut stop = Stop::new(stopping);
        while !stop.has_come() {
            let credit = self.bridge.in_flight_max();
            let attached = Worker::attach(&inputs, &service, &self.name, credit, self.limits).await;
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
                    self.lane.is_connected();
                    match self
                        .exchange(&mut hands, &mut *connected, batch_max)
                        .await?
                    {
                        Meanwhile::Stopped => return Ok(()),
                        Meanwhile::Done(settled) => {
                            if settled.is_progress {
                                backoff.reset();
                            }
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
            bridge: &self.name,
            hub_id: self.hub_id,
            limits: self.limits,
            layout: self.bridge.layout(),
        };
        engines::outlet(user, self.bridge.to()).await
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
                }));
            }
            Meanwhile::Done(None) => {}
        }
        let batch = self.batch(hands, batch_max);
        self.lane
            .change(|shown| shown.in_flight = batch.len() as u64);
        let sending = outlet.send(&batch, self.bridge.stall_timeout());
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
        }
    }
}
