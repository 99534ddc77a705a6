//! Who answers for subscriptions, and for what durable services want on.

use std::collections::BTreeSet;

use super::Broker;
use crate::broker::ids::ServiceKey;
use crate::security::Identity;
use event_manager_wire::model::{SubjectPattern, SubscriptionId};

impl Broker {
    /// A client made a subscription or refreshed it: it answers for that.
    pub fn own(&mut self, id: &SubscriptionId, owner: &Identity) {
        let Some(subscription) = self.subscriptions.get_mut(id) else {
            return;
        };
        if subscription.owner.as_ref() != Some(owner) {
            let before = subscription.owner.replace(owner.clone());
            let key = subscription.service;
            self.changed.push(id.clone());
            self.joined(key, id);
            self.left(key, before.as_ref());
        }
    }

    /// A subscription is at a service. Whose the first one is, theirs is the service.
    pub(super) fn joined(&mut self, key: ServiceKey, id: &SubscriptionId) {
        let service = &mut self.services[key.0 as usize];
        let owner = self.subscriptions.get(id).and_then(|own| own.owner.clone());
        if owner.is_some() && (service.owner.is_none() || service.subscriptions.len() == 1) {
            self.owned += 1;
            service.owner = owner;
        }
    }

    /// A subscription with this owner has left a service. If that has no other there, the service is
    /// another's. Without any subscription it stays theirs, and so does what it wants on.
    pub(super) fn left(&mut self, key: ServiceKey, owner: Option<&Identity>) {
        let Some(service) = self.services.get_mut(key.0 as usize) else {
            return;
        };
        if owner.is_none() || service.owner.as_ref() != owner {
            return;
        }
        let owned = service
            .subscriptions
            .iter()
            .filter_map(|id| Some((id, self.subscriptions.get(id)?.owner.as_ref()?)));
        if owned.clone().any(|(_, other)| Some(other) == owner) {
            return;
        }
        if let Some((id, other)) = owned.clone().next() {
            // So that it is written down.
            self.changed.push(id.clone());
            self.owned += 1;
            service.owner = Some(other.clone());
        }
    }

    /// An earlier run knew whose a service is.
    pub fn restore_owner(&mut self, key: ServiceKey, owner: Identity) {
        self.owned += 1;
        self.services[key.0 as usize].owner = Some(owner);
    }

    /// Another number than before if some service may be another client's than it was.
    pub fn owned(&self) -> u64 {
        self.owned
    }

    /// A durable service doesn't want these any more of what it wants on.
    pub fn forget_wanted(&mut self, key: ServiceKey, patterns: &BTreeSet<SubjectPattern>) {
        let kept = &mut self.services[key.0 as usize].kept;
        let gone: BTreeSet<_> = kept.intersection(patterns).cloned().collect();
        kept.retain(|pattern| !gone.contains(pattern));
        self.forget_patterns(key, &gone);
    }
}
