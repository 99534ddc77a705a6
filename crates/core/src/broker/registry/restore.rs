//! Subscriptions of an earlier run, and what a later one needs to know.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::open::PortWish;
use super::{Broker, SubscribeError};
use crate::broker::delivery_mode::DeliveryMode;
use crate::broker::ids::ServiceKey;
use crate::broker::ports::Streamers;
use crate::security::Identity;
use event_manager_wire::model::{ServiceName, SubjectPattern, SubscriptionId};

/// A subscription as an earlier run left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormerSubscription {
    /// What its client calls it.
    pub id: SubscriptionId,
    pub service: ServiceName,
    /// The port that the service had.
    pub port: u16,
    /// The one that the subscription's client was told.
    pub told_port: u16,
    /// Where its service's events are kept, if a subscription said so.
    pub delivery: Option<DeliveryMode>,
    /// What it asks for.
    pub patterns: BTreeSet<SubjectPattern>,
    /// Who answers for it, if that was written down.
    pub owner: Option<Identity>,
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
    /// other, because workers connect to it. If it can't be bound, the service has none until
    /// [`find_ports`](Self::find_ports) finds another; its clients learn of it by their next keep-alive.
    /// Limits are for new subscriptions: what was there stays. It lives for what is left of its lease,
    /// but at least for `grace`, and at most for `subscription_ttl` if that is longer. `time_of_day` is
    /// the same moment as `now`. One of a durable service is restored also when it expired, for what the
    /// service wants on.
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
        let is_durable = self.is_durable(&kept.service, kept.delivery);
        if kept.expires_at + grace <= time_of_day && !is_durable {
            return Err(RestoreError::Expired);
        }
        let wish = PortWish::Same(kept.port);
        let key = self.open_service(&kept.service, kept.delivery, wish, streamers)?;
        // The time of day may have been set back.
        let left = kept.expires_at.saturating_sub(time_of_day);
        let lease = left.min(self.config.subscription_ttl).max(grace);
        self.set(&kept.id, key, kept.patterns, (kept.told_port, now + lease));
        if let Some(restored) = self.subscriptions.get_mut(&kept.id) {
            // So that its first keep-alive is noted.
            restored.noted_expiry = now;
            restored.owner = kept.owner;
        }
        self.joined(key, &kept.id);
        Ok(key)
    }

    /// A durable service without subscriptions exists again, on the port that is
    /// [remembered](Self::recall_port) if that is free, and goes on wanting these too. One that is
    /// not durable doesn't.
    ///
    /// # Errors
    /// [`SubscribeError::Reserved`], [`SubscribeError::TooLong`].
    pub fn restore_wanting(
        &mut self,
        name: &ServiceName,
        patterns: BTreeSet<SubjectPattern>,
        delivery: Option<DeliveryMode>,
        streamers: &mut dyn Streamers,
    ) -> Result<(), SubscribeError> {
        if self.settings_of(name, delivery)?.delivery == DeliveryMode::Queue {
            let key = self.open_service(name, delivery, PortWish::Former, streamers)?;
            let kept = &self.services[key.0 as usize].kept;
            let more: BTreeSet<_> = patterns.difference(kept).cloned().collect();
            self.add_patterns(key, more.iter());
            self.services[key.0 as usize].kept.extend(more);
        }
        Ok(())
    }

    fn is_durable(&self, name: &ServiceName, asked: Option<DeliveryMode>) -> bool {
        let settings = self.settings_of(name, asked);
        settings.is_ok_and(|settings| settings.delivery == DeliveryMode::Queue)
    }

    /// The ids of all subscriptions.
    pub fn subscription_ids(&self) -> impl Iterator<Item = &SubscriptionId> {
        self.subscriptions.keys()
    }

    /// The subscriptions that began, changed or ended since the last call. Their leases change with
    /// each keep-alive: that counts once a quarter of `subscription_ttl`.
    pub fn take_changed(&mut self) -> Vec<SubscriptionId> {
        std::mem::take(&mut self.changed)
    }

    /// Durable services whose last subscription ended or moved to another since the last call.
    pub fn take_deserted(&mut self) -> Vec<ServiceKey> {
        std::mem::take(&mut self.deserted)
    }

    /// Deliveries of services that begin from now on have numbers above this one. A worker may speak
    /// of what it got from an earlier run, and must not be taken to mean another event.
    pub fn number_deliveries_from(&mut self, last: u64) {
        self.last_delivery = last;
    }
}
