//! How many handshakes with keys may be under way, and how soon one address may begin another. Each
//! costs a few agreements of keys, which anybody may ask for: HELLO needs no key that is known.

// `core::net` has addresses and no sockets.
use core::net::{IpAddr, Ipv4Addr};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Where peers come from, as far as they are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// The first 64 bits of an IPv6 address: whoever has one has all that begin so.
    V6([u16; 4]),
    /// A process of this machine, by a socket whose directory says who may connect: it is trusted to
    /// ask for no more than it needs.
    Local,
    /// More than are told apart.
    Others,
}

impl From<Option<IpAddr>> for Origin {
    fn from(address: Option<IpAddr>) -> Self {
        match address.map(|address| address.to_canonical()) {
            None => Self::Local,
            Some(IpAddr::V4(address)) => Self::V4(address),
            Some(IpAddr::V6(address)) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

/// What may be under way.
#[derive(Debug, Clone, Copy)]
pub struct HandshakeLimits {
    /// Steps of handshakes that wait or are worked at, in all.
    pub steps_max: usize,
    /// The same of one origin.
    pub steps_per_origin_max: usize,
    /// Handshakes that an origin may begin at once,
    pub burst: u32,
    /// and then one for each such time. One that ends with a key that is known doesn't count.
    pub interval: Duration,
    /// Origins that are told apart.
    pub origins_max: usize,
}

impl Default for HandshakeLimits {
    fn default() -> Self {
        Self {
            steps_max: 1024,
            steps_per_origin_max: 64,
            burst: 200,
            interval: Duration::from_millis(20),
            origins_max: 16 << 10,
        }
    }
}

/// Origins that are quiet are looked for at most so often.
const BETWEEN_SWEEPS: Duration = Duration::from_secs(1);

/// The steps of handshakes that are under way.
#[derive(Debug)]
pub struct Handshakes {
    limits: HandshakeLimits,
    steps: usize,
    origins: HashMap<Origin, Rate>,
    swept_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Rate {
    steps: usize,
    /// When it may begin as many handshakes at once as ever.
    full_at: Instant,
}

/// A step that is under way, until [`Handshakes::done`].
#[derive(Debug)]
#[must_use = "it is under way until it is done"]
pub struct UnderWay(Origin);

/// Why a step may not begin now. The texts continue "peer … refused:".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooMany {
    /// The origin begins handshakes too fast.
    #[error("its address begins more than {0} handshakes a second that come to no known key")]
    Rate(u32),
    /// The origin has as many under way as it may.
    #[error("its address has {0} handshakes under way")]
    OfOrigin(usize),
    /// There are as many under way as may be.
    #[error("there are {0} handshakes under way")]
    InAll(usize),
}

impl Default for Handshakes {
    fn default() -> Self {
        Self::with(HandshakeLimits::default())
    }
}

impl Handshakes {
    /// None is under way.
    pub fn with(limits: HandshakeLimits) -> Self {
        Self {
            limits,
            steps: 0,
            origins: HashMap::new(),
            swept_at: None,
        }
    }

    /// How many steps are under way.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// The first step of a handshake begins.
    ///
    /// # Errors
    /// [`TooMany`]; nothing is counted then.
    pub fn begin(&mut self, origin: Origin, now: Instant) -> Result<UnderWay, TooMany> {
        let origin = self.told_apart(origin, now);
        self.check_steps(origin)?;
        if origin != Origin::Local {
            let interval = self.limits.interval;
            let room = interval * self.limits.burst.saturating_sub(1);
            let rate = self.rate(origin, now);
            if rate.full_at.saturating_duration_since(now) > room {
                let per_second = Duration::from_secs(1).as_nanos() / interval.as_nanos().max(1);
                return Err(TooMany::Rate(u32::try_from(per_second).unwrap_or(u32::MAX)));
            }
            rate.full_at = rate.full_at.max(now) + interval;
        }
        Ok(self.count(origin, now))
    }

    /// Another step of a handshake begins.
    ///
    /// # Errors
    /// [`TooMany`]; nothing is counted then.
    pub fn go_on(&mut self, origin: Origin, now: Instant) -> Result<UnderWay, TooMany> {
        let origin = self.told_apart(origin, now);
        self.check_steps(origin)?;
        Ok(self.count(origin, now))
    }

    /// A step is done, whatever it came to.
    pub fn done(&mut self, step: UnderWay) {
        self.steps -= 1;
        if let Some(rate) = self.origins.get_mut(&step.0) {
            rate.steps -= 1;
        }
    }

    /// A handshake ended with a key that is known: it doesn't count.
    pub fn known(&mut self, origin: Origin) {
        let interval = self.limits.interval;
        if let Some(rate) = self.origins.get_mut(&origin) {
            rate.full_at = rate.full_at.checked_sub(interval).unwrap_or(rate.full_at);
        }
    }

    fn check_steps(&self, origin: Origin) -> Result<(), TooMany> {
        let limits = &self.limits;
        let of_origin = self.origins.get(&origin).map_or(0, |rate| rate.steps);
        if self.steps >= limits.steps_max {
            return Err(TooMany::InAll(limits.steps_max));
        }
        if origin != Origin::Local && of_origin >= limits.steps_per_origin_max {
            return Err(TooMany::OfOrigin(limits.steps_per_origin_max));
        }
        Ok(())
    }

    fn count(&mut self, origin: Origin, now: Instant) -> UnderWay {
        self.steps += 1;
        self.rate(origin, now).steps += 1;
        UnderWay(origin)
    }

    fn rate(&mut self, origin: Origin, now: Instant) -> &mut Rate {
        let quiet = Rate {
            steps: 0,
            full_at: now,
        };
        self.origins.entry(origin).or_insert(quiet)
    }

    /// The origin, or [`Origin::Others`] if there is no room for it.
    fn told_apart(&mut self, origin: Origin, now: Instant) -> Origin {
        let is_full = |known: &HashMap<_, _>| known.len() >= self.limits.origins_max;
        if !is_full(&self.origins) || self.origins.contains_key(&origin) {
            return origin;
        }
        let last = self.swept_at.map(|at| now.saturating_duration_since(at));
        if last.is_none_or(|last| last >= BETWEEN_SWEEPS) {
            self.swept_at = Some(now);
            self.origins
                .retain(|_, rate| rate.steps > 0 || rate.full_at > now);
        }
        match is_full(&self.origins) {
            true => Origin::Others,
            false => origin,
        }
    }
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for a fake clock"
)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: HandshakeLimits = HandshakeLimits {
        steps_max: 6,
        steps_per_origin_max: 4,
        burst: 5,
        interval: Duration::from_millis(20),
        origins_max: 3,
    };

    fn v4(last: u8) -> Origin {
        Origin::V4(Ipv4Addr::new(10, 0, 0, last))
    }

    #[test]
    fn origins_are_addresses_and_networks_of_64_bits() {
        let of = |text: &str| Origin::from(Some(text.parse::<IpAddr>().unwrap()));
        assert_eq!(of("10.0.0.7"), v4(7));
        assert_eq!(of("::ffff:10.0.0.7"), v4(7));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(Origin::from(None), Origin::Local);
    }

    #[test]
    fn who_comes_to_no_known_key_begins_50_handshakes_a_second() {
        let (mut handshakes, start) = (Handshakes::default(), Instant::now());
        let mut begun = 0;
        for ms in 0..10_000 {
            let now = start + Duration::from_millis(ms);
            if let Ok(step) = handshakes.begin(v4(1), now) {
                begun += 1;
                handshakes.done(step);
            }
        }
        assert_eq!(begun, 200 + 50 * 10 - 1);
        let now = start + Duration::from_secs(10);
        let other = handshakes.begin(v4(2), now).unwrap();
        handshakes.done(other);
        assert_eq!(handshakes.steps(), 0);
    }

    #[test]
    fn who_has_a_known_key_may_come_as_often_as_it_likes() {
        let (mut handshakes, now) = (Handshakes::default(), Instant::now());
        for _ in 0..10_000 {
            for step in 0..2 {
                let step = match step {
                    0 => handshakes.begin(v4(1), now),
                    _ => handshakes.go_on(v4(1), now),
                };
                handshakes.done(step.unwrap());
            }
            handshakes.known(v4(1));
        }
    }

    #[test]
    fn steps_are_bounded_in_all_and_for_each_origin() {
        let (mut handshakes, now) = (Handshakes::default(), Instant::now());
        let mut steps = vec![];
        for last in 0..16 {
            steps.extend((0..64).map(|_| handshakes.begin(v4(last), now).unwrap()));
            let refused = match last {
                15 => TooMany::InAll(1024),
                _ => TooMany::OfOrigin(64),
            };
            assert_eq!(handshakes.go_on(v4(last), now).unwrap_err(), refused);
        }
        let all = Err(TooMany::InAll(1024));
        assert_eq!(handshakes.begin(v4(99), now).map(drop), all);
        assert_eq!(handshakes.begin(Origin::Local, now).map(drop), all);
        handshakes.done(steps.pop().unwrap());
        let _step = handshakes.begin(v4(99), now).unwrap();
    }

    #[test]
    fn what_is_local_is_bounded_in_all_only() {
        let (mut handshakes, now) = (Handshakes::default(), Instant::now());
        for _ in 0..1024 {
            let _under_way = handshakes.begin(Origin::Local, now).unwrap();
        }
        assert!(handshakes.begin(Origin::Local, now).is_err());
    }

    #[test]
    fn origins_beyond_those_that_are_told_apart_share_one_rate() {
        let (mut handshakes, start) = (Handshakes::with(LIMITS), Instant::now());
        let mut begin = |last, now| {
            let step = handshakes.begin(v4(last), now);
            step.map(|step| handshakes.done(step))
        };
        (0..3).for_each(|last| begin(last, start).unwrap());
        let refused = Err(TooMany::Rate(50));
        let begun = (3..20).map(|last| begin(last, start));
        assert_eq!(begun.filter(|result| *result != refused).count(), 5);
        assert_eq!(begin(0, start), Ok(()), "it has its own");
        let later = start + Duration::from_secs(2);
        for last in 20..23 {
            assert_eq!(begin(last, later), Ok(()), "the others are quiet by now");
        }
        assert!(handshakes.origins.len() <= LIMITS.origins_max + 1);
    }

    /// Tokens that are counted one by one.
    struct Model {
        level: Vec<u128>,
        steps: Vec<usize>,
        at: Instant,
    }

    impl Model {
        fn cap() -> u128 {
            LIMITS.interval.as_nanos() * u128::from(LIMITS.burst)
        }

        fn pass(&mut self, now: Instant) {
            let passed = now.saturating_duration_since(self.at).as_nanos();
            for level in &mut self.level {
                *level = (*level + passed).min(Self::cap());
            }
            self.at = now;
        }

        fn may(&self, origin: usize, begins: bool) -> bool {
            self.steps.iter().sum::<usize>() < LIMITS.steps_max
                && self.steps[origin] < LIMITS.steps_per_origin_max
                && (!begins || self.level[origin] >= LIMITS.interval.as_nanos())
        }
    }

    proptest! {
        #[test]
        fn steps_and_rates_are_those_of_a_naive_count(
            acts in proptest::collection::vec((0usize..4, 0usize..3, 0u64..30_000_000), 0..200),
        ) {
            let start = Instant::now();
            let mut handshakes = Handshakes::with(LIMITS);
            let mut model = Model { level: vec![Model::cap(); 3], steps: vec![0; 3], at: start };
            let mut under_way: Vec<(usize, UnderWay)> = vec![];
            let mut now = start;
            for (act, origin, passed) in acts {
                now += Duration::from_nanos(passed);
                model.pass(now);
                match act {
                    0 | 1 => {
                        let begins = act == 0;
                        let result = match begins {
                            true => handshakes.begin(v4(origin as u8), now),
                            false => handshakes.go_on(v4(origin as u8), now),
                        };
                        prop_assert_eq!(result.is_ok(), model.may(origin, begins), "{:?}", result);
                        if let Ok(step) = result {
                            under_way.push((origin, step));
                            model.steps[origin] += 1;
                            model.level[origin] -= LIMITS.interval.as_nanos() * u128::from(begins);
                        }
                    }
                    2 => if let Some((origin, step)) = under_way.pop() {
                        handshakes.done(step);
                        model.steps[origin] -= 1;
                    }
                    _ => {
                        handshakes.known(v4(origin as u8));
                        let given = model.level[origin] + LIMITS.interval.as_nanos();
                        model.level[origin] = given.min(Model::cap());
                    }
                }
                prop_assert_eq!(handshakes.steps(), under_way.len());
            }
        }
    }
}
