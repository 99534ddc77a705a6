//! Watches the second law: no event that is due waits while a worker could take it, and what has a time
//! is done at that time.
//!
//! That follows from [`Hub::dispatch`] being called after each change of a service. Should it not have
//! been, the events would wait until something else happens. So each service is looked at now and then:
//! one that waits in vain for some seconds is named, and dispatched.

use std::time::Instant;

use crate::ambient::{chance, now};
use crate::reactor::hub::Hub;
use crate::reactor::state::watchdog::LOOK;
use crate::telemetry::Notable;
use event_manager_core::broker::ServiceKey;

impl Hub {
    /// Looks at all services, if that is to be done again; helps those that are stuck.
    pub(crate) fn watch_services(&mut self) {
        let now = now();
        let looked_at = self.time.upkeep.watchdog.looked_at;
        if looked_at.is_some_and(|at| now.saturating_duration_since(at) < LOOK)
            || self.phase.has_ended()
        {
            return;
        }
        self.time.upkeep.watchdog.looked_at = Some(now);
        let watchdog = &mut self.time.upkeep.watchdog;
        let broker = &self.broker;
        watchdog
            .suspects
            .retain(|key, _| broker.service(*key).is_some());
        let stuck: Vec<_> = broker
            .services()
            .filter(|(key, service)| watchdog.look(*key, service, now))
            .map(|(key, _)| key)
            .collect();
        for key in stuck {
            self.help(key, now);
        }
    }

    fn help(&mut self, key: ServiceKey, now: Instant) {
        let service = &mut self.broker[key];
        let (due, waits_for_disk) = (service.due_events(now), service.waits_for_disk());
        let before = service.account.dropped;
        let aftermath = service.handle_timeout(now, chance);
        let name = service.name();
        let stuck_for = self
            .time
            .upkeep
            .watchdog
            .stuck_for(key, now)
            .unwrap_or_default();
        self.notes
            .burst_of("stuck", name, |suppressed| Notable::ServiceStuck {
                service: name.as_str(),
                due,
                stuck_ms: stuck_for.as_millis() as u64,
                waits_for_disk,
                suppressed,
            });
        self.notes.dropped_since(service, &before);
        self.finish(key, aftermath);
        self.dispatch(key);
    }
}
