//! One bridge in.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;

use super::arriving::{Arrived, arrived};
use super::board::Lane;
use super::hands::Stop;
use super::undecoded::{kept, look_again};
use crate::ambient::chance;
use crate::config::{Bridge, Config, Engine, SecurityConfig};
use crate::engines::{self, Failure, Incoming, Origin, Receipt, Source, User};
use crate::reactor::{Batch, Input, Published, Publishing};
use event_manager_wire::api::BridgeState;
use event_manager_wire::model::{Backoff, ServiceName};
use event_manager_zmtp::{HubId, Limits};

/// Between two attempts to reach the engine, or to publish what it gave.
const RETRY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(10)];
/// What is published at once, at most.
const BATCH_EVENTS: usize = 512;

/// A bridge whose events come from an engine.
pub(super) struct Inward {
    entrance: Entrance,
    engine: Engine,
    security: SecurityConfig,
    service: Option<ServiceName>,
    lane: Lane,
}

/// Where what has come becomes an event.
pub(super) struct Entrance {
    name: String,
    bridge: Bridge,
    inputs: mpsc::Sender<Input>,
    limits: Limits,
    hub_id: HubId,
}

/// Who isn't there any more.
#[derive(Debug)]
pub(super) enum Gone {
    Daemon,
    Worker,
}

/// Why nothing more comes.
enum End {
    /// The daemon stops.
    Stopped,
    /// It comes again from another source.
    Failed(BridgeState, String),
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        Self::Stopped
    }
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Lost(why) => Self::Failed(BridgeState::Connecting, why),
            Failure::Refused(why) => Self::Failed(BridgeState::Failing, why),
        }
    }
}

impl Entrance {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    pub(super) fn arrived(&self, incoming: &Incoming) -> Arrived {
        arrived(incoming, &self.bridge, self.hub_id)
    }

    /// Publishes events, and waits for what becomes of each.
    pub(super) async fn publish(&self, events: Vec<Publishing>) -> Result<Vec<Published>, Gone> {
        let (answered, answers) = oneshot::channel();
        let batch = Batch {
            publisher: self.name.clone(),
            events,
            answered,
        };
        let sent = self.inputs.send(Input::Publish(batch)).await;
        sent.map_err(|_| Gone::Daemon)?;
        answers.await.map_err(|_| Gone::Daemon)
    }
}

impl Inward {
    pub(super) fn new(
        config: &Config,
        (name, bridge, engine): (&str, &Bridge, &Engine),
        hub_id: HubId,
        inputs: mpsc::Sender<Input>,
        lane: Lane,
    ) -> Self {
        Self {
            entrance: Entrance {
                name: name.to_owned(),
                bridge: bridge.clone(),
                inputs,
                limits: config.limits,
                hub_id,
            },
            engine: engine.clone(),
            security: config.security.clone(),
            service: Bridge::service(name),
            lane,
        }
    }

    /// Until the daemon stops.
    pub(super) async fn run(self, stopping: watch::Receiver<bool>) {
        let Some(service) = &self.service else {
            return;
        };
        let inputs = self.entrance.inputs.clone();
        let looking = look_again(&self.entrance, service, &inputs, stopping.clone());
        tokio::join!(self.take_until_stop(service, Stop::new(stopping)), looking);
    }

    async fn take_until_stop(&self, service: &ServiceName, mut stop: Stop) {
        let mut backoff = Backoff::new(RETRY[0], RETRY[1]);
        while !stop.has_come() {
            match self.take_all(service, &mut stop, &mut backoff).await {
                End::Stopped => return,
                End::Failed(state, why) => self.lane.fails(state, &why),
            }
            tokio::select! {
                () = sleep(backoff.next_delay(chance())) => {}
                _ = stop.comes() => return,
            }
        }
    }

    /// Takes events from one source, as long as it goes well.
    async fn take_all(&self, service: &ServiceName, stop: &mut Stop, backoff: &mut Backoff) -> End {
        let connected = tokio::select! {
            connected = self.connect() => connected,
            _ = stop.comes() => return End::Stopped,
        };
        let mut source = match connected {
            Ok(source) => source,
            Err(why) => return End::Failed(BridgeState::Connecting, why),
        };
        self.lane.is_connected();
        let end = self.take_from(&mut *source, service, stop, backoff).await;
        source.give_back().await;
        end
    }

    async fn take_from(
        &self,
        source: &mut dyn Source,
        service: &ServiceName,
        stop: &mut Stop,
        backoff: &mut Backoff,
    ) -> End {
        let room = BATCH_EVENTS.min(self.entrance.bridge.in_flight_max() as usize);
        loop {
            let taken = tokio::select! {
                taken = source.take(room) => taken,
                _ = stop.comes() => return End::Stopped,
            };
            let taken = match taken {
                Ok(taken) => taken,
                Err(failure) => return failure.into(),
            };
            // What is under way when the daemon stops has a moment.
            let bringing = self.bring(service, source, &taken);
            tokio::pin!(bringing);
            let brought = loop {
                tokio::select! {
                    brought = &mut bringing => break brought,
                    is_over = stop.comes() => if is_over {
                        return End::Stopped;
                    },
                }
            };
            match brought {
                Ok(()) => backoff.reset(),
                Err(end) => return end,
            }
        }
    }

    async fn connect(&self) -> Result<Box<dyn Source>, String> {
        let Entrance { name, bridge, .. } = &self.entrance;
        let user = User {
            engine: &self.engine,
            security: &self.security,
            bridge: name,
            hub_id: self.entrance.hub_id,
            limits: self.entrance.limits,
            layout: bridge.layout(),
        };
        // Of a group each event comes to one daemon: where that publishes to the same place, what is its
        // own would be lost to the others. So without a word each daemon has all.
        let alone = format!("event-manager-{}", self.entrance.hub_id);
        let origin = Origin {
            from: bridge.from(),
            group: bridge.group().unwrap_or(&alone),
            in_flight_max: bridge.in_flight_max(),
            claim_after: bridge.claim_after(),
            deletes: bridge.deletes(),
        };
        engines::source(user, origin).await
    }

    /// Publishes what was taken, and tells the engine what is kept here.
    async fn bring(
        &self,
        service: &ServiceName,
        source: &mut dyn Source,
        taken: &[Incoming],
    ) -> Result<(), End> {
        self.lane
            .change(|shown| shown.in_flight = taken.len() as u64);
        let (mut done, mut left_out) = (Vec::with_capacity(taken.len()), 0);
        let mut events = Vec::with_capacity(taken.len());
        for incoming in taken {
            match self.entrance.arrived(incoming) {
                Arrived::Event { id, frames } => events.push((incoming, self.event(id, frames))),
                Arrived::Nonsense(_) => events.push((incoming, self.letter(service, incoming))),
                Arrived::GoesRound => {
                    done.push(incoming.receipt);
                    left_out += 1;
                }
            }
        }
        let problem = self.publish(service, events, &mut done).await?;
        self.lane.change(|shown| {
            shown.left_out += left_out;
            shown.in_flight = 0;
        });
        if !done.is_empty() {
            source.settle(&done).await?;
        }
        match problem {
            None => {
                self.lane.works();
                Ok(())
            }
            Some(why) => Err(End::Failed(BridgeState::Failing, why)),
        }
    }

    fn event(&self, id: Bytes, frames: Vec<Bytes>) -> Publishing {
        Publishing {
            id,
            frames,
            only: None,
        }
    }

    fn letter(&self, service: &ServiceName, incoming: &Incoming) -> Publishing {
        kept(incoming, &self.entrance.limits, service.clone())
    }

    /// Publishes; those that the engine may forget are added to `done`. Why the others can't be published
    /// now, if so.
    async fn publish(
        &self,
        service: &ServiceName,
        events: Vec<(&Incoming, Publishing)>,
        done: &mut Vec<Receipt>,
    ) -> Result<Option<String>, Gone> {
        let (came, events): (Vec<_>, Vec<_>) = events.into_iter().unzip();
        let is_letter: Vec<_> = events.iter().map(|event| event.only.is_some()).collect();
        let published = match events.is_empty() {
            true => vec![],
            false => self.entrance.publish(events).await?,
        };
        let (mut letters, mut problem) = (vec![], None);
        let (mut brought, mut bytes, mut known, mut refused) = (0, 0, 0, 0);
        for ((incoming, published), is_letter) in came.into_iter().zip(published).zip(is_letter) {
            match published {
                Published::Done | Published::Known if is_letter => refused += 1,
                Published::Done | Published::Known => {
                    brought += 1;
                    bytes += incoming.body.len() as u64;
                    known += u64::from(published == Published::Known);
                }
                // Not even a letter can be made of it.
                Published::Refused(why) if is_letter => {
                    problem.get_or_insert(why);
                    continue;
                }
                Published::Refused(_) => {
                    letters.push((incoming, self.letter(service, incoming)));
                    continue;
                }
                Published::NotNow(why) => {
                    problem.get_or_insert(why);
                    continue;
                }
            }
            done.push(incoming.receipt);
        }
        self.lane.change(|shown| {
            shown.events += brought;
            shown.bytes += bytes;
            shown.known += known;
            shown.refused += refused;
        });
        if !letters.is_empty() {
            let said = Box::pin(self.publish(service, letters, done)).await?;
            problem = problem.or(said);
        }
        Ok(problem)
    }
}
