//! Where we are, as clients are told.

use crate::config::SecurityConfig;
use event_manager_core::locator::Directory;
use event_manager_core::requests::Settings;
use event_manager_core::security::Keyring;
use event_manager_wire::api::{self, Addresses};
use event_manager_zmtp::curve::KeyPair;

/// The addresses of this daemon, and of the services that it knows.
pub(crate) struct Site {
    pub(crate) settings: Settings,
    /// Where we listen, for reports.
    pub(crate) addresses: Addresses,
    /// What is bound where other machines reach it.
    pub(crate) exposed: Vec<String>,
    /// Whose keys are accepted.
    pub(crate) keyring: Keyring,
    /// With which the daemon asks its own locator. The keyring has it.
    pub(crate) own: KeyPair,
    /// The embedded ServiceLocator, if there is one.
    pub(crate) directory: Option<Directory>,
}

impl Site {
    /// What is open to other machines because nobody has said who may connect.
    pub(crate) fn security(&self, security: &SecurityConfig) -> api::Security {
        api::Security {
            open_listeners: match security.is_unsaid() {
                true => self.exposed.clone(),
                false => vec![],
            },
        }
    }
}
