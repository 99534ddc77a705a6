//! Subscriptions of an earlier run.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Broker, SubscribeError};
use crate::broker::ports::{PortRange, Streamers};
use crate::broker::service::ServiceKey;
use crate::model::{ServiceName, SubjectPattern, SubscriptionId};

/// A subscription as an earlier run left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormerSubscription {
    /// What its client calls it.
    pub id: SubscriptionId,
    /// Its service.
    pub service: ServiceName,
    /// The port of the service, which its workers connect to.
    pub port: u16,
    /// What it asks for.
    pub patterns: BTreeSet<SubjectPattern>,
    /// When its lease is over, by the time of day.
    pub expires_at: Duration,
}

/// Why a subscription was not restored. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Its lease was over before, and the grace too.
    #[error("it expired")]
    Expired,
    /// What refuses a subscription at any time.
    #[error(transparent)]
    Refused(#[from] SubscribeError),
}

impl Broker {
    /// Sets a subscription again that an earlier run had, and binds its service's port: that one and no
    /// other, because workers connect to it. It lives for what is left of its lease, but at least for
    /// `grace`, and at most for `subscription_ttl` if that is longer. `time_of_day` is the same moment
    /// as `now`.
    ///
    /// # Errors
    /// [`RestoreError`]; nothing has changed then.
    pub fn restore(
        &mut self,
        kept: FormerSubscription,
        grace: Duration,
        now: Instant,
        time_of_day: Duration,
        streamers: &mut dyn Streamers,
    ) -> Result<ServiceKey, RestoreError> {
        if kept.expires_at + grace <= time_of_day {
            return Err(RestoreError::Expired);
        }
        self.check_limits(&kept.id, &kept.service, &kept.patterns)?;
        let same_port = |ports: &mut PortRange, key, streamers: &mut dyn Streamers| {
            ports.open_same(kept.port, key, streamers)
        };
        let key = self.open_service(&kept.service, streamers, same_port)?;
        // The time of day may have been set back.
        let left = kept.expires_at.saturating_sub(time_of_day);
        let lease = left.min(self.config.subscription_ttl).max(grace);
        self.set(&kept.id, key, kept.patterns, now + lease);
        if let Some(restored) = self.subscriptions.get_mut(&kept.id) {
            // So that its first keep-alive is noted.
            restored.noted_expiry = now;
        }
        Ok(key)
    }
}
