//! Workers that fell silent: the network between is cut, or their machine is gone. Their libzmq connects
//! again when it can, and they say nothing, as they don't know of it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::grace::host_of;
use super::peer::Peer;
use crate::state::KeptReady;
use event_manager_core::broker::ServiceKey;

/// For so long one is expected to come back. Later it may as well be another process.
const EXPECTED_FOR: Duration = Duration::from_secs(3600);
/// So many are expected at most; of more, those that are gone longest are not.
const EXPECTED_MAX: usize = 4096;

/// A connection to a service that ended because nothing was heard of it.
#[derive(Debug)]
struct Missing {
    service: ServiceKey,
    identity: Box<[u8]>,
    host: Box<str>,
    /// How it was ready, if it was.
    ready: Option<KeptReady>,
    since: Instant,
}

/// Whom a peer is known by: its routing id, or its host if it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signature<'a> {
    pub(crate) identity: &'a [u8],
    pub(crate) host: &'a str,
}

impl<'a> Signature<'a> {
    pub(crate) fn of(peer: &'a Peer) -> Self {
        Self {
            identity: &peer.zmtp.identity,
            host: host_of(peer),
        }
    }
}

impl Missing {
    fn is(&self, service: ServiceKey, signature: Signature<'_>) -> bool {
        let is_alike = match signature.identity {
            [] => self.identity.is_empty() && *self.host == *signature.host,
            identity => *self.identity == *identity,
        };
        self.service == service && is_alike
    }
}

/// Those that are missing, the longest first.
#[derive(Debug, Default)]
pub(crate) struct CutOff {
    missing: VecDeque<Missing>,
}

impl CutOff {
    /// A connection to a service has ended, because nothing was heard of it.
    pub(crate) fn fell_silent(
        &mut self,
        service: ServiceKey,
        signature: Signature<'_>,
        ready: Option<KeptReady>,
        now: Instant,
    ) {
        if self.missing.len() == EXPECTED_MAX {
            self.missing.pop_front();
        }
        self.missing.push_back(Missing {
            service,
            identity: signature.identity.into(),
            host: signature.host.into(),
            ready,
            since: now,
        });
    }

    /// Whether somebody is expected at the service.
    pub(crate) fn expects(&mut self, service: ServiceKey, now: Instant) -> bool {
        self.give_up(now);
        let mut missing = self.missing.iter();
        missing.any(|missing| missing.service == service)
    }

    fn give_up(&mut self, now: Instant) {
        let is_over = |missing: &Missing| now.duration_since(missing.since) >= EXPECTED_FOR;
        while self.missing.front().is_some_and(is_over) {
            self.missing.pop_front();
        }
    }

    /// A peer has connected and says nothing. How it was ready, if it is one that is missing.
    ///
    /// # Errors
    /// Why that is in doubt.
    pub(crate) fn presume(
        &mut self,
        service: ServiceKey,
        signature: Signature<'_>,
        now: Instant,
    ) -> Result<Option<KeptReady>, &'static str> {
        self.give_up(now);
        let mut alike = self.missing.iter().enumerate();
        let Some((at, first)) = alike.find(|(_, missing)| missing.is(service, signature)) else {
            return Ok(None);
        };
        let mut others = alike.filter(|(_, missing)| missing.is(service, signature));
        if others.any(|(_, other)| other.ready != first.ready) {
            return Err("workers like it were cut off that were not ready, or otherwise");
        }
        if first.ready.is_none() {
            return Ok(None);
        }
        let found = self.missing.remove(at);
        Ok(found.and_then(|found| found.ready))
    }

    /// A peer says how it is ready: nobody needs to be taken for it any more.
    pub(crate) fn is_back(&mut self, service: ServiceKey, signature: Signature<'_>) {
        let mut missing = self.missing.iter();
        if let Some(at) = missing.position(|missing| missing.is(service, signature)) {
            self.missing.remove(at);
        }
    }

    pub(crate) fn service_ended(&mut self, service: ServiceKey) {
        self.missing.retain(|missing| missing.service != service);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BILLING: ServiceKey = ServiceKey(1);

    fn plain() -> KeptReady {
        KeptReady::default()
    }

    fn by_host(host: &str) -> Signature<'_> {
        Signature {
            identity: b"",
            host,
        }
    }

    #[test]
    fn as_many_are_presumed_as_are_missing() {
        let (mut cut_off, now) = (CutOff::default(), crate::ambient::now());
        for host in ["a", "a", "b"] {
            cut_off.fell_silent(BILLING, by_host(host), Some(plain()), now);
        }
        cut_off.is_back(BILLING, by_host("a"));
        let named = Signature {
            identity: b"w",
            host: "a",
        };
        for (signature, wanted) in [
            (named, None),
            (by_host("c"), None),
            (by_host("a"), Some(plain())),
            (by_host("a"), None),
            (by_host("b"), Some(plain())),
        ] {
            assert_eq!(cut_off.presume(BILLING, signature, now), Ok(wanted));
        }
        assert!(!cut_off.expects(BILLING, now));
    }

    #[test]
    fn who_could_be_another_is_in_doubt() {
        let (mut cut_off, now) = (CutOff::default(), crate::ambient::now());
        cut_off.fell_silent(BILLING, by_host("a"), Some(plain()), now);
        cut_off.fell_silent(BILLING, by_host("a"), None, now);
        assert!(cut_off.presume(BILLING, by_host("a"), now).is_err());
        // A routing id is one worker's, wherever it connects from.
        for (identity, ready) in [(b"v", Some(plain())), (b"w", None)] {
            let signature = |host| Signature { identity, host };
            cut_off.fell_silent(BILLING, signature("a"), ready.clone(), now);
            assert_eq!(cut_off.presume(BILLING, signature("b"), now), Ok(ready));
        }
    }

    #[test]
    fn few_are_expected_and_not_for_ever() {
        let (mut cut_off, start) = (CutOff::default(), crate::ambient::now());
        for _ in 0..=EXPECTED_MAX {
            cut_off.fell_silent(BILLING, by_host("a"), Some(plain()), start);
        }
        assert_eq!(cut_off.missing.len(), EXPECTED_MAX);
        let end = start + EXPECTED_FOR;
        assert!(cut_off.expects(BILLING, end - Duration::from_nanos(1)));
        assert_eq!(cut_off.presume(BILLING, by_host("a"), end), Ok(None));
        assert!(!cut_off.expects(BILLING, end));
        cut_off.fell_silent(BILLING, by_host("a"), Some(plain()), end);
        cut_off.service_ended(BILLING);
        assert!(!cut_off.expects(BILLING, end));
    }
}
