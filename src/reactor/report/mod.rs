//! What is told of the state; nothing is changed here.

pub(crate) mod clients;
mod lease;
pub(crate) mod slow;
pub(crate) mod spans;
pub(crate) mod status;
