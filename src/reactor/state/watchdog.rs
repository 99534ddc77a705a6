//! Services whose events wait although a worker could take them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use event_manager_core::broker::{Service, ServiceKey};

/// How often all services are looked at.
pub(crate) const LOOK: Duration = Duration::from_secs(1);
/// For how long events may be due, with a worker that could take them, and none given out.
const STUCK: Duration = Duration::from_secs(3);

/// A service whose events could go and didn't, when it was looked at last.
#[derive(Debug)]
pub(crate) struct Suspect {
    pub(crate) since: Instant,
    /// How many events it had given out.
    pub(crate) given_out: u64,
}

/// Services that are watched.
#[derive(Debug, Default)]
pub(crate) struct Watchdog {
    pub(crate) looked_at: Option<Instant>,
    pub(crate) suspects: BTreeMap<ServiceKey, Suspect>,
}

impl Watchdog {
    /// For how long a service's events wait in vain, if that is too long.
    pub(crate) fn stuck_for(&self, key: ServiceKey, now: Instant) -> Option<Duration> {
        let suspect = self.suspects.get(&key)?;
        let waited = now.saturating_duration_since(suspect.since);
        (waited >= STUCK).then_some(waited)
    }

    /// Looks at a service; whether it is stuck.
    pub(crate) fn look(&mut self, key: ServiceKey, service: &Service, now: Instant) -> bool {
        let is_overdue = service.poll_timeout().is_some_and(|at| at + LOOK <= now);
        let waits_in_vain = service.due_events(now) > 0 && service.free_workers() > 0;
        if !is_overdue && !waits_in_vain {
            self.suspects.remove(&key);
            return false;
        }
        let given_out = service.given_out();
        let suspect = self.suspects.entry(key).or_insert(Suspect {
            since: now,
            given_out,
        });
        if suspect.given_out != given_out {
            (suspect.since, suspect.given_out) = (now, given_out);
        }
        self.stuck_for(key, now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ambient::now;
    use event_manager_core::broker::{Item, PeerId, Policy, QueueLimits, ServiceSettings};
    use event_manager_wire::model::ServiceName;

    fn service() -> Service {
        let limits = QueueLimits {
            bytes_max: 1 << 20,
            events_max: 100,
        };
        let settings = ServiceSettings {
            policy: Policy::live(limits),
            ..ServiceSettings::live(limits)
        };
        let mut service = Service::new(ServiceName::new("Billing").unwrap(), Ok(1), settings);
        let peer = PeerId { slot: 0, serial: 0 };
        let worker = service.workers.join(peer, false);
        service.workers.ready_with(worker, 1);
        service
    }

    #[test]
    fn who_waits_in_vain_is_found_and_who_makes_progress_is_not() {
        let (mut service, start) = (service(), now());
        let (mut watchdog, key) = (Watchdog::default(), ServiceKey(0));
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!((0..9).all(|s| !watchdog.look(key, &service, at(s))));
        // Nobody is told of it: as if it had been forgotten.
        for _ in 0..2 {
            service.enqueue(Item::new(Bytes::from_static(b"x")));
        }
        let looks = [10, 11, 12, 13].map(|s| watchdog.look(key, &service, at(s)));
        assert_eq!(looks, [false, false, false, true]);
        assert_eq!(
            watchdog.stuck_for(key, at(14)),
            Some(Duration::from_secs(4))
        );
        // It is given one; the other waits because nobody has room for it.
        assert!(service.dequeue(at(14)).is_some());
        assert!((14..30).all(|s| !watchdog.look(key, &service, at(s))));
        assert_eq!(watchdog.stuck_for(key, at(30)), None);
    }

    #[test]
    fn a_time_that_passes_unheeded_is_found() {
        let (mut service, start) = (service(), now());
        let (mut watchdog, key) = (Watchdog::default(), ServiceKey(0));
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut later = Item::new(Bytes::from_static(b"x"));
        later.not_before = Some(at(5));
        service.enqueue(later);
        assert!((0..9).all(|s| !watchdog.look(key, &service, at(s))));
        assert!(watchdog.look(key, &service, at(9)));
        let aftermath = service.handle_timeout(at(9), || 0.0);
        assert!(aftermath.dead.is_empty());
        assert!(service.dequeue(at(9)).is_some());
        assert!(!watchdog.look(key, &service, at(10)));
    }
}
