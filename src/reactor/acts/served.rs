//! Services whose queue is another broker's: what was taken there goes to workers, and what became of it is
//! told.

use crate::ambient::now;
use crate::reactor::hub::Hub;
use crate::reactor::state::served::{Handed, HandedEvent, Returning, Serving, Settlement, WayDown};
use event_manager_core::broker::{DeadLetter, GivenBack, ServiceKey};
use event_manager_core::event_id::{Emitter, EventId};
use event_manager_core::queues::EmissionId;
use event_manager_core::requests::{Emission, Level};
use event_manager_core::seq::Seq;
use event_manager_wire::api::{Bridge, BridgeState};
use event_manager_wire::messagebus::Message;
use event_manager_wire::model::ServiceName;
use event_manager_zmtp::encode_message;

impl Hub {
    /// A part of this process takes events for a service from now on.
    pub(crate) fn serve_from_engine(&mut self, serving: Serving) {
        let Serving {
            service,
            settlements,
            wanted,
            answered,
        } = serving;
        let found = self.broker.find(&service);
        let key = found.filter(|key| self.broker[*key].taken.is_some());
        let answer = match key {
            Some(key) => {
                self.served.begin(key, settlements, wanted);
                self.dispatch(key);
                Ok(())
            }
            None if found.is_some() => Err(format!(
                "the service {service} has a queue on disk, of a time when its delivery was \"queue\": set that again until its workers have done what is in it, take the service out of the configuration, and end it with `event-manager services --end {service}`"
            )),
            None => Err(format!("there is no service {service}; the log says why")),
        };
        // Who asked may have stopped.
        let _ = answered.send(answer);
    }

    /// Takes events for a service.
    pub(crate) fn take_handed(&mut self, handed: Handed) {
        let Some(key) = self.broker.find(&handed.service) else {
            return;
        };
        let mut bytes = 0;
        for event in handed.events {
            bytes += self.take_one(key, event);
        }
        self.dispatch(key);
        self.taken(bytes);
    }

    /// Takes one event; how many bytes it has.
    fn take_one(&mut self, key: ServiceKey, event: HandedEvent) -> usize {
        let HandedEvent {
            number,
            id,
            frames,
            attempts,
            flaw,
        } = event;
        let emission = Emission {
            id: EventId::of(Emitter::Inside(""), bytes::Bytes::new()),
            level: Level::Memory,
            frames,
            ttl: None,
            deliver_at_ms: None,
        };
        let flaw = flaw.or_else(|| {
            let refused = Message::from(emission.check(&self.site.settings.limits).err()?);
            Some(String::from_utf8_lossy(&refused.data).into_owned())
        });
        let body = encode_message(&emission.frames);
        let bytes = body.len();
        let service = &mut self.broker[key];
        let mut item = self.durable.items.item(service.order_by, body);
        item.seq = Some(Seq(number));
        item.attempt = attempts;
        let aftermath = service.take_in(item, &id, flaw, now());
        if !aftermath.dead.is_empty() {
            self.finish(key, aftermath);
        }
        bytes
    }

    /// What waits for a service goes back to the broker.
    pub(crate) fn return_to_engine(&mut self, returning: Returning) {
        let Returning {
            service,
            only,
            answered,
        } = returning;
        let Some(key) = self.broker.find(&service) else {
            return;
        };
        let service = &mut self.broker[key];
        let returned = match only {
            None => service.give_back(GivenBack::Waiting, now()),
            Some(only) => {
                let only: Vec<_> = only.into_iter().map(Seq).collect();
                service.give_back_these(&only)
            }
        };
        if let Some(taken) = &mut service.taken {
            returned.iter().for_each(|number| taken.forget(*number));
        }
        self.dispatch(key);
        // Who asked may have stopped.
        let _ = answered.send(returned.into_iter().map(|number| number.0).collect());
    }

    /// Something of a service has changed whose queue is another broker's: what no worker can take here
    /// goes back, and how much more is wanted is told.
    pub(crate) fn tell_engine(&mut self, key: ServiceKey) {
        let service = &mut self.broker[key];
        // How often events were tried is in no log of ours.
        service.queue.forget_tries();
        for number in service.give_back(GivenBack::Surplus, self.time.now) {
            self.served.tell(service, key, number, Settlement::Returned);
        }
        let wanted = match self.phase.is_draining() {
            true => 0,
            false => service.wanted_in_all(),
        };
        self.served.want(key, wanted);
    }

    /// An event that was taken is a dead letter, or could not be kept as one.
    pub(crate) fn taken_letter(&mut self, service: &ServiceName, number: Seq, is_kept: bool) {
        let Some(key) = self.broker.find(service) else {
            return;
        };
        let became = match is_kept {
            true => Settlement::Dead,
            false => Settlement::Later,
        };
        self.served.tell(&mut self.broker[key], key, number, became);
    }

    /// Whether the answer to an emission is to wait until the engine of this service has its event, which is
    /// on disk here.
    pub(super) fn waits_for_engine(
        &mut self,
        number: EmissionId,
        service: &ServiceName,
        seq: Option<Seq>,
    ) -> bool {
        let emissions = &mut self.requests.emissions;
        let found = self.broker.find(service);
        let spool = found.filter(|key| self.broker.service_behind(*key).is_some());
        let Some(spool) = spool.filter(|_| emissions.waits_for_engines(number)) else {
            return false;
        };
        match seq {
            Some(seq) => self.served.at_engines.wait(spool, seq, number, now()),
            // It was on its way before, and may be there.
            None => emissions.engine_has(number, Err(None)),
        }
        seq.is_some()
    }

    /// These have gone out of a service: publishers may wait to hear that its engine has them.
    pub(crate) fn confirm_by_engine(&mut self, spool: ServiceKey) {
        let mut settled = std::mem::take(&mut self.scratch.words.settled);
        for seq in &settled {
            if let Some(number) = self.served.at_engines.heard_of(spool, *seq) {
                self.engine_said(spool, number, AtEngine::Has);
            }
        }
        std::mem::swap(&mut self.scratch.words.settled, &mut settled);
    }

    /// These will never go out of a service, for its engine doesn't take them: nor do publishers wait.
    pub(super) fn refused_by_engine(&mut self, spool: ServiceKey, dead: &[DeadLetter]) {
        for letter in dead {
            let seq = letter.item.seq;
            let number = seq.and_then(|seq| self.served.at_engines.heard_of(spool, seq));
            if let Some(number) = number {
                self.engine_said(spool, number, AtEngine::Never(&letter.detail));
            }
        }
    }

    /// How bridges are.
    pub(crate) fn hear_bridges(&mut self, bridges: Vec<Bridge>) {
        let (broker, at_engines) = (&self.broker, &mut self.served.at_engines);
        let down = bridges.iter().filter_map(|bridge| {
            let spool = broker.find(&ServiceName::new(&bridge.name).ok()?)?;
            broker.service_behind(spool)?;
            Some(WayDown {
                spool,
                is_refused: bridge.state == BridgeState::Failing,
                why: bridge.problem.as_deref()?,
            })
        });
        at_engines.are_down(down, self.time.now);
        self.site.bridges = bridges;
        self.give_up_on_engines();
    }

    /// Publishers that have waited for engines for long hear how far their events are.
    pub(crate) fn give_up_on_engines(&mut self) {
        if self.served.at_engines.is_empty() {
            return;
        }
        for (spool, number, why) in self.served.at_engines.overdue(self.time.now) {
            self.engine_said(spool, number, AtEngine::NotYet(&why));
        }
    }

    fn engine_said(&mut self, spool: ServiceKey, number: EmissionId, said: AtEngine<'_>) {
        let behind = self.broker.service_behind(spool);
        let behind = behind.map(|service| service.name().clone());
        let found = self.broker.service(spool);
        let (Some(behind), Some(found)) = (behind, found) else {
            return;
        };
        let name = found.name().clone();
        let limits = self.id_limits();
        let emissions = &mut self.requests.emissions;
        let confirmed = match said {
            AtEngine::Has => {
                emissions.engine_has(number, Ok(()));
                emissions.confirm(number, &name, Ok(true), limits)
            }
            AtEngine::NotYet(why) => {
                emissions.engine_has(number, Err(Some(format!("{behind}: {why}"))));
                emissions.confirm(number, &name, Ok(true), limits)
            }
            AtEngine::Never(why) => {
                let why = format!(
                    "{behind}: its engine never takes this event: {why}; it is a dead letter of {name} (event-manager dlq list {name})"
                );
                emissions.refused_by_engine(number, why, limits)
            }
        };
        if let Some(confirmed) = confirmed {
            self.answer_confirmed(confirmed);
        }
    }
}

/// What is known of an event on its way to an engine.
#[derive(Clone, Copy)]
enum AtEngine<'a> {
    Has,
    /// It waits here, and why.
    NotYet(&'a str),
    /// It is a dead letter here, and why.
    Never(&'a str),
}
