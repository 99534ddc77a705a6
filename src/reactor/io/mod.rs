//! Bytes in and out: sockets, what is read from them and what waits to be written. It knows neither the
//! hub nor the broker's decisions.

pub(crate) mod agreements;
pub(crate) mod inbox;
pub(crate) mod kernel;
pub(crate) mod listener;
pub(crate) mod outbox;
pub(crate) mod peer_error;
pub(crate) mod stream;
