//! Another configuration while the broker is at work.

use super::{Broker, BrokerConfig};

impl Broker {
    /// Other bounds and settings from now on, also for services that are there: what has no room any more
    /// is dropped and counted. Leases run on to the end that they have. The ports stay.
    pub fn reconfigure(&mut self, config: BrokerConfig) {
        for (_, service) in &mut self.services {
            // Where its events are kept stays, whoever said so.
            let delivery = Some(service.delivery());
            service.set((config.policies.0)(service.name(), delivery));
        }
        self.config = config;
    }
}
