//! Requests to others: the ServiceLocator, services that get sync events, a predecessor.

mod guard;
mod locator;
mod registration;
mod sync_event;

pub use guard::{GuardVerdict, wait_for_predecessor};
pub use locator::{LocateError, LocatorClient};
pub use registration::{RegistrationState, keep_registered};
pub use sync_event::call_services;
