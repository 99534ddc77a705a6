//! Where we are, as clients are told.

use crate::api::Addresses;
use crate::locator::Directory;
use crate::requests::Settings;

/// The addresses of this daemon, and of the services that it knows.
pub(super) struct Site {
    pub(super) settings: Settings,
    /// Where we listen, for reports.
    pub(super) addresses: Addresses,
    /// The embedded ServiceLocator, if there is one.
    pub(super) directory: Option<Directory>,
}
