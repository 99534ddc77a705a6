//! The ServiceLocator: which service is at which address.
//!
//! [`Directory`] is its whole state and answers its requests; the embedded locator and the one that
//! runs alone are the same.

mod directory;
mod requests;

pub use directory::{Asker, Directory, RegisterError, Registered};
pub use requests::{LocatorTokens, answer};
