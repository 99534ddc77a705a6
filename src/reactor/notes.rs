//! What operators are told: notable events, at most one for each burst, spans, and what was refused.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Instant;

use super::refusals::Refusals;
use crate::api::RefusedAgain;
use crate::model::ServiceName;
use crate::telemetry::{Bursts, Journal, Notable, Page};
use crate::traces::Tracer;

/// The journal and the counts of refusals.
#[derive(Default)]
pub(super) struct Notes {
    journal: Journal,
    tracer: Tracer,
    bursts: Bursts,
    /// Connections and messages that were refused, by reason.
    refused: BTreeMap<&'static str, u64>,
    /// Who is refused again and again.
    refusals: Refusals,
}

impl Notes {
    pub(super) fn new(journal: Journal, tracer: Tracer) -> Self {
        Self {
            journal,
            tracer,
            ..Self::default()
        }
    }

    /// Where spans go.
    pub(super) fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// Notes something that can't come in floods.
    pub(super) fn note(&self, notable: &Notable<'_>) {
        self.journal.note(notable);
    }

    /// Notes the first event of a burst. It is given the number of those that were left out since the
    /// last one was noted.
    pub(super) fn burst<'a>(
        &mut self,
        key: &str,
        now: Instant,
        notable: impl FnOnce(u64) -> Notable<'a>,
    ) {
        if let Some(suppressed) = self.bursts.admit(key, now) {
            self.journal.note(&notable(suppressed));
        }
    }

    /// [`burst`](Self::burst) with a burst for each service.
    pub(super) fn burst_of<'a>(
        &mut self,
        kind: &str,
        service: &ServiceName,
        now: Instant,
        notable: impl FnOnce(u64) -> Notable<'a>,
    ) {
        self.burst(&format!("{kind}:{service}"), now, notable);
    }

    /// Whether a log line begins a burst: then how many were left out since the last one.
    pub(super) fn admit(&mut self, key: &str, now: Instant) -> Option<u64> {
        self.bursts.admit(key, now)
    }

    /// Counts something that was refused, and notes the first of a burst.
    pub(super) fn refuse(
        &mut self,
        reason: &'static str,
        peer: &str,
        why: &dyn Display,
        now: Instant,
    ) {
        self.count_refused(reason);
        let why = &why.to_string();
        self.refusals.add(reason, peer, why, now);
        self.burst(reason, now, |suppressed| match reason {
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

    pub(super) fn count_refused(&mut self, reason: &'static str) {
        *self.refused.entry(reason).or_default() += 1;
    }

    /// How often what was refused, by reason.
    pub(super) fn refused(&self) -> &BTreeMap<&'static str, u64> {
        &self.refused
    }

    /// Peers that go on being refused, for reports.
    pub(super) fn refused_again(&self, now: Instant) -> Vec<RefusedAgain> {
        self.refusals.again(now)
    }

    /// The latest notable events after that number.
    pub(super) fn page(&self, after: Option<u64>, max: usize) -> Page {
        self.journal.page(after, max)
    }
}
