//! Detects peers that vanished silently.

use std::time::{Duration, Instant};

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulse {
    /// Nothing to do.
    Quiet,
    /// Send a PING.
    Ping,
    /// Nothing arrived for [`Heartbeat::DEAD_AFTER`] intervals, despite our PINGs.
    Dead,
    /// Nothing arrived for the time to live that the peer named, at two checks.
    Expired,
}

/// One connection's heartbeat: any byte that arrives is a sign of life; after an interval of silence
/// we send a PING, and from then on one each interval, also to a peer that speaks again: our PINGs have a time to
/// live, after which a peer that hears nothing of us hangs up, and a publisher hears nothing else. A peer that names a time to live in its PINGs wants its
/// connection closed when it is silent for that time, whatever the interval.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    interval: Duration,
    heard_at: Instant,
    /// When the last PING was due, if there was one.
    pinged_at: Option<Instant>,
    /// It was sent a PING since it was heard.
    is_asked: bool,
    /// The time to live in the peer's last PING, if any.
    ttl: Option<Duration>,
    /// As `heard_at`, but an excuse does not change it.
    spoke_at: Instant,
    /// Its time to live was over at the last check.
    is_overdue: bool,
}

impl Heartbeat {
    /// Intervals of silence after which a peer is dead.
    pub const DEAD_AFTER: u32 = 3;

    /// Starts at the end of the handshake. With an interval of 0 no PING is sent.
    pub fn new(interval: Duration, now: Instant) -> Self {
        Self {
            interval,
            heard_at: now,
            pinged_at: None,
            is_asked: false,
            ttl: None,
            spoke_at: now,
            is_overdue: false,
        }
    }

    /// Changes the interval. A peer already silent for longer is pinged before it is declared dead, and one that was
    /// pinged at once: the time to live that it was told is that of the interval before. With 0 that is the last PING.
    pub fn set_interval(&mut self, interval: Duration, now: Instant) {
        if self.interval != interval {
            self.interval = interval;
            let asked_from = now.checked_sub(interval).unwrap_or(now);
            self.heard_at = self.heard_at.max(asked_from);
            self.pinged_at = self.pinged_at.map(|at| at.min(asked_from));
        }
    }

    /// A PING with this time to live arrived; 0 is none.
    pub fn set_ttl(&mut self, ttl: Duration) {
        self.ttl = (!ttl.is_zero()).then_some(ttl);
    }

    /// Bytes arrived.
    #[inline]
    pub fn heard(&mut self, now: Instant) {
        self.heard_at = now;
        self.is_asked = false;
        self.unheeded(now);
    }

    /// We did not read from the peer: its time to live starts again.
    #[inline]
    pub fn unheeded(&mut self, now: Instant) {
        self.spoke_at = now;
        self.is_overdue = false;
    }

    /// The peer is known to be alive although it did not answer: it is pinged again at once, and has
    /// one more interval.
    pub fn excuse(&mut self, now: Instant) {
        let silence = self.interval * (Self::DEAD_AFTER - 1);
        self.heard_at = now.checked_sub(silence).unwrap_or(now);
        self.is_asked = false;
        self.pinged_at = self.pinged_at.map(|at| at.min(self.heard_at));
    }

    /// Returns what is due. `stalled` is how long our own loop hung since the last check: silence in
    /// that time says nothing about the peer.
    pub fn poll(&mut self, now: Instant, stalled: Duration) -> Pulse {
        self.heard_at = (self.heard_at + stalled).min(now);
        self.spoke_at = (self.spoke_at + stalled).min(now);
        // What arrived while we were busy may not be read yet, so there is a second check.
        if self
            .ttl
            .is_some_and(|ttl| now.saturating_duration_since(self.spoke_at) >= ttl)
            && std::mem::replace(&mut self.is_overdue, true)
        {
            return Pulse::Expired;
        }
        if self.interval.is_zero() {
            return match self.pinged_at.take() {
                Some(_) => Pulse::Ping,
                None => Pulse::Quiet,
            };
        }
        let silent = now.saturating_duration_since(self.heard_at);
        if self.is_asked && silent >= self.interval * Self::DEAD_AFTER {
            return Pulse::Dead;
        }
        let last = self.pinged_at.unwrap_or(self.heard_at);
        if now.saturating_duration_since(last) < self.interval {
            return Pulse::Quiet;
        }
        self.pinged_at = Some(now);
        self.is_asked = true;
        Pulse::Ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    #[derive(Debug, Clone)]
    enum Step {
        Pass(u64),
        Hear,
        Ping(u64),
        Excuse,
        Look,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (1u64..300).prop_map(Step::Pass),
            2 => Just(Step::Hear),
            1 => (0u64..8).prop_map(|deciseconds| Step::Ping(deciseconds * 100)),
            1 => Just(Step::Excuse),
            4 => Just(Step::Look),
        ]
    }

    proptest! {
        /// Expired is who was silent for its time to live at this look and the one before.
        #[test]
        #[allow(clippy::disallowed_methods, reason = "an arbitrary origin for a fake clock")]
        fn a_time_to_live_is_kept(steps in proptest::collection::vec(step(), 1..200)) {
            let origin = Instant::now();
            let mut beat = Heartbeat::new(Duration::ZERO, origin);
            // In ms: now, the last sign of life, its time to live; and whether it was late at each look since.
            let (mut at, mut spoke, mut ttl) = (0, 0, 0);
            let mut looks = vec![];
            for step in steps {
                let now = origin + Duration::from_millis(at);
                match step {
                    Step::Pass(ms) => at += ms,
                    Step::Excuse => beat.excuse(now),
                    Step::Hear => {
                        beat.heard(now);
                        (spoke, looks) = (at, vec![]);
                    }
                    Step::Ping(ms) => {
                        beat.heard(now);
                        beat.set_ttl(Duration::from_millis(ms));
                        (spoke, ttl, looks) = (at, ms, vec![]);
                    }
                    Step::Look => {
                        looks.push(ttl > 0 && at - spoke >= ttl);
                        let expected = matches!(looks[..], [.., true, true]);
                        let pulse = beat.poll(now, Duration::ZERO);
                        prop_assert_eq!(pulse == Pulse::Expired, expected);
                        prop_assert!(expected || pulse == Pulse::Quiet);
                    }
                }
            }
        }
    }

    #[test]
    #[allow(
        clippy::disallowed_methods,
        reason = "an arbitrary origin for a fake clock"
    )]
    fn a_time_to_live_is_no_shorter_for_our_stalls() {
        let origin = Instant::now();
        let at = |ms: u64| origin + Duration::from_millis(ms);
        let mut beat = Heartbeat::new(INTERVAL, origin);
        beat.set_ttl(Duration::from_millis(500));
        assert_eq!(beat.poll(at(5_000), Duration::from_secs(5)), Pulse::Quiet);
        assert_eq!(beat.poll(at(5_499), Duration::ZERO), Pulse::Quiet);
        beat.unheeded(at(5_499));
        assert_eq!(beat.poll(at(5_998), Duration::ZERO), Pulse::Quiet);
        assert_eq!(beat.poll(at(5_999), Duration::ZERO), Pulse::Quiet);
        assert_eq!(beat.poll(at(6_000), Duration::ZERO), Pulse::Expired);
    }

    #[test]
    #[allow(
        clippy::disallowed_methods,
        reason = "an arbitrary origin for a fake clock"
    )]
    fn a_shorter_interval_asks_before_it_gives_up() {
        let origin = Instant::now();
        let at = |seconds: u64| origin + Duration::from_secs(seconds);
        for before in [Duration::ZERO, INTERVAL * 100] {
            let mut beat = Heartbeat::new(before, origin);
            assert_eq!(beat.poll(at(500), Duration::ZERO), Pulse::Quiet);
            beat.set_interval(INTERVAL, at(500));
            assert_eq!(beat.poll(at(500), Duration::ZERO), Pulse::Ping);
            assert_eq!(beat.poll(at(501), Duration::ZERO), Pulse::Quiet);
            assert_eq!(beat.poll(at(520), Duration::ZERO), Pulse::Dead);
        }
    }

    #[test]
    #[allow(
        clippy::disallowed_methods,
        reason = "an arbitrary origin for a fake clock"
    )]
    fn another_interval_is_told_at_once_to_who_was_asked() {
        let origin = Instant::now();
        let at = |seconds: u64| origin + Duration::from_secs(seconds);
        let mut beat = Heartbeat::new(INTERVAL, origin);
        beat.set_interval(INTERVAL * 2, at(1));
        assert_eq!(beat.poll(at(1), Duration::ZERO), Pulse::Quiet);
        assert_eq!(beat.poll(at(20), Duration::ZERO), Pulse::Ping);
        for (n, interval) in [INTERVAL * 10, INTERVAL, Duration::ZERO]
            .into_iter()
            .enumerate()
        {
            let now = at(21 + n as u64);
            beat.heard(now);
            beat.set_interval(interval, now);
            assert_eq!(beat.poll(now, Duration::ZERO), Pulse::Ping, "{interval:?}");
            assert_eq!(beat.poll(now, Duration::ZERO), Pulse::Quiet, "{interval:?}");
        }
        assert_eq!(beat.poll(at(1000), Duration::ZERO), Pulse::Quiet);
    }

    #[test]
    #[allow(
        clippy::disallowed_methods,
        reason = "an arbitrary origin for a fake clock"
    )]
    fn a_silent_peer_is_asked_then_given_up() {
        let origin = Instant::now();
        let at = |seconds: u64| origin + Duration::from_secs(seconds);
        let mut beat = Heartbeat::new(INTERVAL, origin);
        let pulses: Vec<_> = (0..=30).map(|s| beat.poll(at(s), Duration::ZERO)).collect();
        let pings: Vec<_> = (0..=30).filter(|&s| pulses[s] == Pulse::Ping).collect();
        assert_eq!(pings, [10, 20]);
        assert_eq!(pulses[29], Pulse::Quiet);
        assert_eq!(pulses[30], Pulse::Dead);
        beat.excuse(at(30));
        assert_eq!(beat.poll(at(30), Duration::ZERO), Pulse::Ping);
        assert_eq!(beat.poll(at(39), Duration::ZERO), Pulse::Quiet);
        assert_eq!(beat.poll(at(40), Duration::ZERO), Pulse::Dead);
        beat.heard(at(40));
        assert_eq!(beat.poll(at(40), Duration::ZERO), Pulse::Ping);
        assert_eq!(beat.poll(at(49), Duration::ZERO), Pulse::Quiet);
    }

    #[test]
    #[allow(
        clippy::disallowed_methods,
        reason = "an arbitrary origin for a fake clock"
    )]
    fn who_was_asked_is_asked_each_interval_whether_it_speaks_or_not() {
        let origin = Instant::now();
        let at = |seconds: u64| origin + Duration::from_secs(seconds);
        let mut beat = Heartbeat::new(INTERVAL, origin);
        let pings = |beat: &mut Heartbeat, from: u64, to: u64| {
            let speaks = |beat: &mut Heartbeat, s| {
                beat.heard(at(s));
                beat.poll(at(s), Duration::ZERO)
            };
            let asked = (from..to).filter(|s| speaks(beat, *s) == Pulse::Ping);
            asked.collect::<Vec<_>>()
        };
        assert_eq!(pings(&mut beat, 1, 50), [], "it was never silent");
        assert_eq!(beat.poll(at(59), Duration::ZERO), Pulse::Ping);
        assert_eq!(pings(&mut beat, 60, 100), [69, 79, 89, 99]);
        // What it said last was long before it was asked last.
        let silent = (100..130).map(|s| beat.poll(at(s), Duration::ZERO));
        let silent: Vec<_> = silent.filter(|pulse| *pulse != Pulse::Quiet).collect();
        assert_eq!(silent, [Pulse::Ping, Pulse::Ping, Pulse::Dead]);
        beat.excuse(at(130));
        beat.heard(at(130));
        assert_eq!(beat.poll(at(130), Duration::ZERO), Pulse::Ping);
    }

    #[test]
    #[allow(
        clippy::disallowed_methods,
        reason = "an arbitrary origin for a fake clock"
    )]
    fn our_own_stall_is_not_held_against_it() {
        let origin = Instant::now();
        let at = |seconds: u64| origin + Duration::from_secs(seconds);
        let mut beat = Heartbeat::new(INTERVAL, origin);
        assert_eq!(beat.poll(at(10), Duration::ZERO), Pulse::Ping);
        assert_eq!(beat.poll(at(110), Duration::from_secs(100)), Pulse::Ping);
        assert_eq!(beat.poll(at(130), Duration::ZERO), Pulse::Dead);
    }
}
