//! Where we are, as clients are told.

use crate::api::Addresses;
use crate::locator::Directory;
use crate::requests::Settings;

/// The addresses of this daemon, and of the services that it knows.
pub(crate) struct Site {
    pub(crate) settings: Settings,
    /// Where we listen, for reports.
    pub(crate) addresses: Addresses,
    /// The embedded ServiceLocator, if there is one.
    pub(crate) directory: Option<Directory>,
}
