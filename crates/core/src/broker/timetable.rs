//! When each service's events want attention.

use std::collections::BTreeSet;
use std::time::Instant;

use super::ids::ServiceKey;

/// A time for each service that wants attention at one. To find those that are due costs nothing for
/// the others, however many there are.
#[derive(Debug, Default)]
pub struct Timetable {
    by_time: BTreeSet<(Instant, ServiceKey)>,
    /// The time of each service, by its key.
    of: Vec<Option<Instant>>,
}

impl Timetable {
    /// This service wants attention at this time, or at none. Whatever it wanted before is forgotten.
    pub fn set(&mut self, key: ServiceKey, at: Option<Instant>) {
        let index = key.0 as usize;
        let before = self.at(key);
        if before == at {
            return;
        }
        if index >= self.of.len() {
            self.of.resize(index + 1, None);
        }
        if let Some(before) = before {
            self.by_time.remove(&(before, key));
        }
        self.by_time.extend(at.map(|at| (at, key)));
        self.of[index] = at;
    }

    /// When this service wants attention.
    pub fn at(&self, key: ServiceKey) -> Option<Instant> {
        self.of.get(key.0 as usize).copied().flatten()
    }

    /// When the first service wants attention.
    pub fn first(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes the services that are due, the first one first. They have no time from then on.
    pub fn take_due(&mut self, now: Instant) -> Vec<ServiceKey> {
        let mut due = vec![];
        while let Some((at, key)) = self.by_time.first().copied()
            && at <= now
        {
            self.set(key, None);
            due.push(key);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::disallowed_methods,
        reason = "an arbitrary origin for a fake clock"
    )]

    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Act {
        Set(u32, Option<u64>),
        TakeDue(u64),
    }

    proptest! {
        #[test]
        fn each_service_is_due_at_the_time_that_was_set_last(
            acts in proptest::collection::vec(
                prop_oneof![
                    4 => (0u32..8, proptest::option::weighted(0.8, 0u64..20))
                        .prop_map(|(key, at)| Act::Set(key, at)),
                    1 => (0u64..20).prop_map(Act::TakeDue),
                ],
                1..80,
            ),
        ) {
            let start = Instant::now();
            let at = |seconds| start + Duration::from_secs(seconds);
            let mut timetable = Timetable::default();
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            for act in acts {
                match act {
                    Act::Set(key, when) => {
                        timetable.set(ServiceKey(key), when.map(at));
                        match when {
                            Some(when) => _ = model.insert(key, when),
                            None => _ = model.remove(&key),
                        }
                    }
                    Act::TakeDue(now) => {
                        let mut due: Vec<_> = model
                            .iter()
                            .filter(|(_, when)| **when <= now)
                            .map(|(key, when)| (*when, *key))
                            .collect();
                        due.sort_unstable();
                        let due: Vec<_> = due.into_iter().map(|(_, key)| ServiceKey(key)).collect();
                        prop_assert_eq!(timetable.take_due(at(now)), due);
                        model.retain(|_, when| *when > now);
                    }
                }
                prop_assert_eq!(timetable.first(), model.values().min().copied().map(at));
                for key in 0..8 {
                    let wanted = model.get(&key).copied().map(at);
                    prop_assert_eq!(timetable.at(ServiceKey(key)), wanted);
                }
                prop_assert_eq!(timetable.by_time.len(), model.len());
            }
        }
    }
}
