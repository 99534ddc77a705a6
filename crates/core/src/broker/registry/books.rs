//! The books of services that are there, and of those that are gone.

use super::Broker;
use crate::broker::Account;
use event_manager_wire::model::ServiceName;

impl Broker {
    /// The books of services that are gone.
    pub fn retired(&self) -> &Account {
        &self.retired
    }

    /// Counts dead letters of a service that could not be kept. It may be gone meanwhile.
    pub fn letters_lost(&mut self, service: &ServiceName, letters: u64) {
        let key = self.find(service);
        let account = match key.and_then(|key| self.service_mut(key)) {
            Some(service) => &mut service.account,
            None => &mut self.retired,
        };
        account.letters_lost += letters;
    }
}
