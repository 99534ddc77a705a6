//! Finds peers that are gone without a word.

use std::time::{Duration, Instant};

/// What a look at the clock asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulse {
    /// Nothing to do.
    Quiet,
    /// Send a PING.
    Ping,
    /// Nothing was heard for [`Heartbeat::DEAD_AFTER`] intervals, though we asked.
    Dead,
}

/// One connection's heartbeat: any byte that arrives is a sign of life; after an interval of silence
/// comes a PING, then one each interval.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    interval: Duration,
    heard_at: Instant,
    pinged_at: Option<Instant>,
}

impl Heartbeat {
    /// Intervals of silence after which a peer is dead.
    pub const DEAD_AFTER: u32 = 3;

    /// Begins at the handshake's end.
    pub fn new(interval: Duration, now: Instant) -> Self {
        Self {
            interval,
            heard_at: now,
            pinged_at: None,
        }
    }

    /// Beats otherwise from now on.
    pub fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
    }

    /// Bytes arrived.
    #[inline]
    pub fn heard(&mut self, now: Instant) {
        self.heard_at = now;
        self.pinged_at = None;
    }

    /// It was found alive in another way though it did not answer: it is asked again at once, and has
    /// one more interval.
    pub fn excuse(&mut self, now: Instant) {
        let silence = self.interval * (Self::DEAD_AFTER - 1);
        self.heard_at = now.checked_sub(silence).unwrap_or(now);
        self.pinged_at = None;
    }

    /// What is due. `stalled` is how long our own loop hung since the last look: silence in that
    /// time says nothing of the peer.
    pub fn poll(&mut self, now: Instant, stalled: Duration) -> Pulse {
        self.heard_at = (self.heard_at + stalled).min(now);
        let silent = now.saturating_duration_since(self.heard_at);
        if self.pinged_at.is_some() && silent >= self.interval * Self::DEAD_AFTER {
            return Pulse::Dead;
        }
        let last = self.pinged_at.unwrap_or(self.heard_at);
        if now.saturating_duration_since(last) < self.interval {
            return Pulse::Quiet;
        }
        self.pinged_at = Some(now);
        Pulse::Ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

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
        assert_eq!(beat.poll(at(49), Duration::ZERO), Pulse::Quiet);
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
