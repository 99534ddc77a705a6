//! Requests to others, over libzmq: the ServiceLocator, services that get sync events, a predecessor.
//!
//! [`Caller`] is one thread that owns the libzmq sockets; all else here is async and waits for it.

mod caller;
mod guard;
mod locator;
mod registration;
mod sync_event;

pub use caller::{CallError, Caller, CallerThread};
pub use guard::{GuardVerdict, wait_for_predecessor};
pub use locator::{LocateError, LocatorClient};
pub use registration::{RegistrationState, keep_registered};
pub use sync_event::call_services;
