//! Who may connect.

mod networks;

pub use networks::{Network, NetworkError, is_local};
