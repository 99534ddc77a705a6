//! How many events each subject had, for reports.
//!
//! Publishers choose subjects, so only so many are remembered, and of these only a few are shown by
//! name; the others are shown as one.

use std::collections::HashMap;

/// Subjects with counts of their own. When they are more, those with the fewest events are
/// forgotten.
const SUBJECTS_MAX: usize = 4096;
/// How many are left then.
const SUBJECTS_LEFT: usize = 1024;
/// How many are shown by name.
const NAMED_MAX: usize = 16;
/// A subject takes another's name away only when it had so many times its events: names that come and
/// go say nothing.
const LEAD: u64 = 2;

/// Where a subject's events are counted. Valid until [`SubjectCounts::place_of`] says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubjectPlace(u32);

/// A subject that is shown by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedSubject {
    /// The subject; any bytes.
    pub subject: Box<[u8]>,
    /// Its events since it is shown: what was before is among the others.
    pub events: u64,
}

#[derive(Debug)]
struct Counted {
    subject: Box<[u8]>,
    events: u64,
    /// How many it had when it got its name, if it has one.
    named_at: Option<u64>,
}

/// Counts of events by subject.
#[derive(Debug, Default)]
pub struct SubjectCounts {
    places: HashMap<Box<[u8]>, SubjectPlace>,
    /// By place, but for the first, which is for subjects that have none.
    counted: Vec<Counted>,
    others: u64,
    /// Events under names that are gone.
    ended: u64,
}

impl SubjectPlace {
    /// For a subject that is not worth its own.
    pub const OTHERS: Self = Self(0);
}

impl SubjectCounts {
    /// Where a subject is counted, and whether places that were given before are void now.
    pub fn place_of(&mut self, subject: &[u8]) -> (SubjectPlace, bool) {
        if let Some(place) = self.places.get(subject) {
            return (*place, false);
        }
        let is_full = self.counted.len() >= SUBJECTS_MAX;
        if is_full {
            self.forget_small();
        }
        self.counted.push(Counted {
            subject: subject.into(),
            events: 0,
            named_at: None,
        });
        let place = SubjectPlace(self.counted.len() as u32);
        self.places.insert(subject.into(), place);
        (place, is_full)
    }

    /// Counts events. The hot path: it costs an addition.
    #[inline]
    pub fn add(&mut self, place: SubjectPlace, events: u64) {
        match self.counted.get_mut((place.0 as usize).wrapping_sub(1)) {
            Some(counted) => counted.events += events,
            None => self.others += events,
        }
    }

    fn forget_small(&mut self) {
        // What is shown stays, whatever it has.
        self.counted.sort_unstable_by_key(|counted| {
            (counted.named_at.is_none(), u64::MAX - counted.events)
        });
        let forgotten = self.counted.drain(SUBJECTS_LEFT..);
        self.others += forgotten.map(|counted| counted.events).sum::<u64>();
        let places = (1..).map(SubjectPlace);
        let subjects = self.counted.iter().map(|counted| counted.subject.clone());
        self.places = subjects.zip(places).collect();
    }

    /// Gives names to the subjects with the most events, and takes them away from those that have
    /// far fewer. A name counts from when it was given, so no count ever falls or leaps.
    pub fn name_largest(&mut self) {
        let by_events = |counted: &[Counted], place: &usize| u64::MAX - counted[*place].events;
        let mut ranking: Vec<usize> = (0..self.counted.len()).collect();
        if ranking.len() > NAMED_MAX {
            ranking.select_nth_unstable_by_key(NAMED_MAX, |place| by_events(&self.counted, place));
            ranking.truncate(NAMED_MAX);
        }
        ranking.sort_unstable_by_key(|place| by_events(&self.counted, place));
        for place in ranking {
            let Counted {
                events, named_at, ..
            } = self.counted[place];
            if named_at.is_some() || events == 0 {
                continue;
            }
            let is_full = self.named().count() >= NAMED_MAX;
            if is_full && !self.unname_below(events / LEAD) {
                return;
            }
            self.counted[place].named_at = Some(events);
        }
    }

    fn unname_below(&mut self, events: u64) -> bool {
        let named = self.counted.iter_mut();
        let least = named
            .filter(|counted| counted.named_at.is_some())
            .min_by_key(|counted| counted.events);
        let least = least.filter(|least| least.events < events);
        let Some((least, named_at)) = least.and_then(|least| {
            let named_at = least.named_at.take()?;
            Some((least, named_at))
        }) else {
            return false;
        };
        self.ended += least.events - named_at;
        true
    }

    /// Subjects that are shown by name.
    pub fn named(&self) -> impl Iterator<Item = NamedSubject> {
        self.counted.iter().filter_map(|counted| {
            Some(NamedSubject {
                subject: counted.subject.clone(),
                events: counted.events - counted.named_at?,
            })
        })
    }

    /// Events that had no subject with a name when they came.
    pub fn unnamed_events(&self) -> u64 {
        let all = self.others
            + self
                .counted
                .iter()
                .map(|counted| counted.events)
                .sum::<u64>();
        let named = self.named().map(|named| named.events).sum::<u64>();
        all - named - self.ended
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(n: u32) -> Vec<u8> {
        n.to_string().into_bytes()
    }

    fn events_of(counts: &SubjectCounts, subject: &[u8]) -> Option<u64> {
        let found = counts.named().find(|named| *named.subject == *subject);
        found.map(|named| named.events)
    }

    #[test]
    fn a_name_counts_from_when_it_is_given() {
        let mut counts = SubjectCounts::default();
        let (place, _) = counts.place_of(b"a");
        counts.add(place, 5);
        counts.name_largest();
        assert_eq!(
            (events_of(&counts, b"a"), counts.unnamed_events()),
            (Some(0), 5)
        );
        counts.add(place, 2);
        counts.add(SubjectPlace::OTHERS, 1);
        assert_eq!(
            (events_of(&counts, b"a"), counts.unnamed_events()),
            (Some(2), 6)
        );
    }

    #[test]
    fn the_largest_take_names_from_the_small() {
        let mut counts = SubjectCounts::default();
        for n in 0..NAMED_MAX as u32 {
            let (place, _) = counts.place_of(&name(n));
            counts.add(place, 100);
        }
        counts.name_largest();
        let (late, _) = counts.place_of(b"late");
        counts.add(late, 201);
        counts.name_largest();
        assert_eq!(events_of(&counts, b"late"), None, "not by so little");
        counts.add(late, 1);
        counts.name_largest();
        assert_eq!(events_of(&counts, b"late"), Some(0));
        assert_eq!(counts.named().count(), NAMED_MAX);
    }

    #[test]
    fn a_flood_of_subjects_is_bounded_and_hides_no_large_one() {
        let mut counts = SubjectCounts::default();
        let (mut large, _) = counts.place_of(b"large");
        counts.add(large, 100);
        for n in 0..3 * SUBJECTS_MAX as u32 {
            let (place, void) = counts.place_of(&name(n));
            counts.add(place, 1);
            if void {
                large = counts.place_of(b"large").0;
            }
            counts.add(large, 1);
        }
        assert!(counts.counted.len() <= SUBJECTS_MAX);
        let all = 100 + 6 * SUBJECTS_MAX as u64;
        assert_eq!(counts.unnamed_events(), all);
        counts.name_largest();
        assert_eq!(events_of(&counts, b"large"), Some(0));
    }

    proptest! {
        /// Whatever is counted and named when: no count falls, all of them together grow by what is
        /// counted, and only as many are named as may be.
        #[test]
        fn counts_never_fall(steps in prop::collection::vec((0u32..40, 0u64..50, any::<bool>()), 1..300)) {
            let mut counts = SubjectCounts::default();
            let mut before: HashMap<Box<[u8]>, u64> = HashMap::new();
            let mut unnamed = 0;
            for (n, events, names) in steps {
                let (place, _) = counts.place_of(&name(n));
                let sum = |counts: &SubjectCounts| {
                    counts.unnamed_events() + counts.named().map(|named| named.events).sum::<u64>()
                };
                let was = sum(&counts);
                counts.add(place, events);
                prop_assert_eq!(sum(&counts), was + events);
                if names {
                    counts.name_largest();
                    prop_assert!(counts.unnamed_events() >= unnamed);
                }
                unnamed = counts.unnamed_events();
                let now: HashMap<_, _> = counts.named().map(|named| (named.subject, named.events)).collect();
                prop_assert!(now.len() <= NAMED_MAX);
                for (subject, events) in &now {
                    prop_assert!(before.get(subject).is_none_or(|was| was <= events));
                }
                before = now;
            }
        }
    }
}
