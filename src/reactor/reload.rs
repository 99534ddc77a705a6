//! Another configuration while the daemon runs.

use std::rc::Rc;

use super::connections_max;
use super::durable::Surroundings;
use super::hub::{Hub, broker_config};
use super::peer::Role;
use crate::config::Config;
use crate::queues::Shell;

impl Hub {
    /// Puts a configuration in force, all of it between two events. What was copied from the old one
    /// is copied anew; the rest is looked up where it is used.
    pub(super) fn reload(&mut self, config: Config) {
        let config = Rc::new(config);
        self.config = Rc::clone(&config);
        self.site.settings.limits = config.limits;
        self.site.settings.publish_timeout = config.publish_timeout;
        self.connections.set_max(connections_max(&config));
        self.reload_services();
        self.reload_peers();
        self.reload_queues();
        self.memory.begin_again();
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
            self.log_dropped_since(key, &dropped);
            self.refill(key);
            self.plan_timeout(key);
        }
    }

    fn reload_peers(&mut self) {
        let (interval, now) = (self.config.heartbeat_interval, self.clock.now);
        let worker_budget = self.config.budgets.worker_outbox_bytes;
        let mut open = vec![];
        for peer in self.peers.iter_mut() {
            if let Some(heartbeat) = &mut peer.heartbeat {
                heartbeat.set_interval(interval, now);
            }
            match peer.role {
                // It may have room for more answers, or none.
                Role::Requester { .. } => peer.wake.notify_one(),
                Role::Worker { service, key, .. } if peer.outbox.bytes() <= worker_budget / 2 => {
                    open.push((service, key, peer.id));
                }
                _ => {}
            }
        }
        for (service, worker, id) in open {
            if let Some(found) = self.broker.service_mut(service) {
                found.workers.set_open(worker, true);
                self.set_proxied_open(service, id, true);
                self.dispatch(service);
            }
        }
    }

    /// Queues on disk that are open, those of dead letters too.
    fn reload_queues(&mut self) {
        let shell = Surroundings::of(&self.config, &self.hasher);
        let broker = &self.broker;
        self.durable.queues.limit(|queue| {
            let is_service = broker.find(queue).is_some();
            let service = queue.of_dead_letters().filter(|_| !is_service);
            shell.limits_of(service.as_ref().unwrap_or(queue))
        });
    }
}
