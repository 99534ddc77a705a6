//! Notable events, at most one for each burst, spans, and counts of what was refused.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Instant;

use super::refusals::{Refusals, host_of};
use crate::telemetry::{Bursts, Journal, Notable};
use crate::traces::Tracer;
use event_manager_wire::api::RefusedAgain;
use event_manager_wire::model::ServiceName;

/// The journal and the counts of refusals.
pub(crate) struct Notes {
    /// As of the last tick or request: near enough for bursts.
    pub(crate) now: Instant,
    journal: Journal,
    tracer: Tracer,
    bursts: Bursts,
    /// Connections and messages that were refused, by reason.
    refused: BTreeMap<&'static str, u64>,
    /// Who is refused again and again.
    refusals: Refusals,
}

impl Notes {
    pub(crate) fn new(journal: Journal, tracer: Tracer, now: Instant) -> Self {
        Self {
            now,
            journal,
            tracer,
            bursts: Bursts::default(),
            refused: BTreeMap::new(),
            refusals: Refusals::default(),
        }
    }

    /// Where spans go.
    pub(crate) fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// Notes something that can't come in floods.
    pub(crate) fn note(&self, notable: &Notable<'_>) {
        self.journal.note(notable);
    }

    /// Notes the first event of a burst. It is given the number of those that were left out since the
    /// last one was noted.
    pub(crate) fn burst<'a>(&mut self, key: &str, notable: impl FnOnce(u64) -> Notable<'a>) {
        if let Some(suppressed) = self.bursts.admit(key, self.now) {
            self.journal.note(&notable(suppressed));
        }
    }

    /// [`burst`](Self::burst) with a burst for each service.
    pub(crate) fn burst_of<'a>(
        &mut self,
        kind: &str,
        service: &ServiceName,
        notable: impl FnOnce(u64) -> Notable<'a>,
    ) {
        self.burst(&format!("{kind}:{service}"), notable);
    }

    /// Whether a log line begins a burst: then how many were left out since the last one.
    pub(crate) fn admit(&mut self, key: &str) -> Option<u64> {
        self.bursts.admit(key, self.now)
    }

    /// Counts something that was refused, and notes the first of a burst.
    pub(crate) fn refuse(&mut self, reason: &'static str, peer: &str, why: &dyn Display) {
        self.count_refused(reason);
        // Of what we dial ourselves it is said when the connection has ended, and shown in STATUS.
        if reason == "mesh" {
            return;
        }
        let why = &why.to_string();
        self.refusals.add(reason, peer, why, self.now);
        self.burst(reason, |suppressed| match reason {
            "out-of-descriptors" | "too-many-connections" => Notable::ConnectionRefused {
                peer,
                reason,
                why,
                suppressed,
            },
            "heartbeat-timeout" => Notable::PeerSilent {
                peer,
                reason,
                why,
                suppressed,
            },
            "slow-subscriber" => Notable::SubscriberDisconnected {
                peer,
                reason,
                why,
                suppressed,
            },
            _ => Notable::PeerRefused {
                peer,
                reason,
                why,
                suppressed,
            },
        });
    }

    /// Counts a link that somebody else wanted. Who dials again and again has another port each time.
    pub(crate) fn refuse_hub(&mut self, peer: &str, why: &str) {
        self.count_refused("mesh");
        self.refusals.add("mesh", peer, why, self.now);
        let burst = format!("mesh:{}", host_of(peer));
        self.burst(&burst, |suppressed| Notable::LinkRefused {
            peer,
            why,
            suppressed,
        });
    }

    pub(crate) fn count_refused(&mut self, reason: &'static str) {
        *self.refused.entry(reason).or_default() += 1;
    }

    /// How often what was refused, by reason.
    pub(crate) fn refused(&self) -> &BTreeMap<&'static str, u64> {
        &self.refused
    }

    /// Peers that go on being refused, for reports.
    pub(crate) fn refused_again(&self, now: Instant) -> Vec<RefusedAgain> {
        self.refusals.again(now)
    }

    /// The first notable events after a number, or the latest, as JSON.
    pub(crate) fn page(&self, after: Option<u64>, max: usize) -> String {
        let page = self.journal.page(after, max);
        // It has nothing that JSON can't say.
        serde_json::to_string(&page).unwrap_or_default()
    }
}
