//! Another configuration while the broker is at work.

use super::{Broker, BrokerConfig, SubscribeError};
use crate::broker::delivery_mode::DeliveryMode;
use crate::broker::ids::ServiceKey;
use crate::broker::options::ServiceOptions;
use crate::broker::service::ServiceSettings;
use event_manager_wire::model::ServiceName;

impl Broker {
    /// Other bounds and settings from now on, also for services that are there: what has no room any more
    /// is dropped and counted. Leases run on to the end that they have. The ports stay.
    pub fn reconfigure(&mut self, config: BrokerConfig) {
        for (_, service) in &mut self.services {
            // Where its events are kept stays, whoever said so.
            let delivery = Some(service.delivery());
            let settings = (config.policies.0)(service.name(), delivery, &service.options);
            service.set(settings);
        }
        let chosen = self.services.iter().filter_map(|(key, service)| {
            Some((ServiceKey(key as u32), service.dead_letter_subject.clone()?))
        });
        self.letter_subjects = chosen.collect();
        self.config = config;
    }

    /// A subscription wants a service otherwise: what it says goes before what earlier ones said.
    pub fn set_options(&mut self, key: ServiceKey, options: &ServiceOptions) {
        if options.is_empty() {
            return;
        }
        let service = &mut self.services[key.0 as usize];
        service.options = options.or(&service.options);
        self.options_changed(key);
    }

    /// No subscription says any more what subject this service's dead letters have.
    pub fn forget_letter_subject(&mut self, key: ServiceKey) {
        self.services[key.0 as usize].options.dead_letter_subject = None;
        self.options_changed(key);
    }

    fn options_changed(&mut self, key: ServiceKey) {
        let service = &mut self.services[key.0 as usize];
        let delivery = Some(service.delivery());
        let settings = (self.config.policies.0)(service.name(), delivery, &service.options);
        service.set(settings);
        self.note_letter_subject(key);
    }

    /// The subject of this service's dead letters may be another from now on.
    pub(super) fn note_letter_subject(&mut self, key: ServiceKey) {
        match self[key].dead_letter_subject.clone() {
            Some(subject) => drop(self.letter_subjects.insert(key, subject)),
            None => drop(self.letter_subjects.remove(&key)),
        }
    }

    /// Whether some service chose this subject for its dead letters.
    pub fn is_chosen_for_letters(&self, subject: &[u8]) -> bool {
        let mut chosen = self.letter_subjects.values();
        chosen.any(|chosen| chosen.as_str().as_bytes() == subject)
    }

    /// What a service would be set to with these options, too, also if it began with what is asked.
    ///
    /// # Errors
    /// [`SubscribeError::Reserved`], [`SubscribeError::TooLong`].
    pub fn settings_with(
        &self,
        name: &ServiceName,
        asked: Option<DeliveryMode>,
        options: &ServiceOptions,
    ) -> Result<ServiceSettings, SubscribeError> {
        let (delivery, options) = match self.find(name).map(|key| &self[key]) {
            Some(service) => (service.delivery(), options.or(&service.options)),
            None => (self.settings_of(name, asked)?.delivery, options.clone()),
        };
        Ok((self.config.policies.0)(name, Some(delivery), &options))
    }
}
