//! Another configuration while the daemon runs.

use std::rc::Rc;

use crate::ambient::now;
use crate::config::Config;
use crate::reactor::hub::{Hub, broker_config};
use crate::reactor::sockets::connections_max;
use crate::reactor::state::peer::Role;

impl Hub {
    /// Puts a configuration in force, all of it between two events. What was copied from the old one
    /// is copied anew; the rest is looked up where it is used.
    pub(crate) fn reload(&mut self, config: Config) {
        let config = Rc::new(config);
        self.config = Rc::clone(&config);
        self.site.settings.limits = config.limits;
        self.site.settings.publish_timeout = config.publish_timeout;
        self.peers.connections.set_max(connections_max(&config));
        self.reload_services();
        self.clients
            .set_access(config.security.access(&config.limits), now());
        self.judge_anew();
        self.reload_peers();
        self.durable.set_limits(&self.broker, &self.config);
        self.accounts.memory.begin_again();
        if config.memory_limit > 0 {
            self.make_room(config.memory_limit);
        }
    }

    fn reload_services(&mut self) {
        let services = self.broker.services();
        let before: Vec<_> = services
            .map(|(key, service)| (key, service.account.dropped))
            .collect();
        self.broker.reconfigure(broker_config(&self.config));
        for (key, dropped) in before {
            let (service, timetable) = self.broker.with_timetable(key);
            self.notes.dropped_since(service, &dropped);
            self.durable.queues.refill(service);
            self.time.alarm.plan(key, service, timetable);
        }
    }

    fn reload_peers(&mut self) {
        let (interval, now) = (self.config.heartbeat_interval, self.time.now);
        let worker_budget = self.config.budgets.worker_outbox_bytes;
        let mut with_room = vec![];
        for peer in self.peers.iter_mut() {
            if let Some(heartbeat) = &mut peer.heartbeat {
                heartbeat.set_interval(interval, now);
            }
            match peer.role {
                // It may have room for more answers, or none.
                Role::Requester { .. } => peer.wake.notify_one(),
                Role::Worker { service, .. } if peer.outbox.bytes() <= worker_budget / 2 => {
                    peer.set_open(&mut self.broker[service].workers, true);
                    with_room.push(service);
                }
                _ => {}
            }
        }
        for service in with_room {
            self.dispatch(service);
        }
    }
}
