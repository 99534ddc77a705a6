//! What is told of the state; nothing is changed here.

pub(crate) mod clients;
pub(crate) mod slow;
pub(crate) mod spans;
pub(crate) mod status;
