//! What is done: methods of the hub, functions that take the parts that they change, and tasks.
//!
//! Begin with `intake` and `deliver`, the path of an event.

pub(crate) mod access;
pub(crate) mod admission;
pub(crate) mod audience;
pub(crate) mod connection;
pub(crate) mod dead_letter_requests;
pub(crate) mod dead_letters;
pub(crate) mod deliver;
pub(crate) mod dial;
pub(crate) mod discovering;
pub(crate) mod durable_answers;
pub(crate) mod durable_events;
pub(crate) mod emit;
mod emit_answers;
pub(crate) mod flush;
pub(crate) mod handshakes;
pub(crate) mod hanging_up;
pub(crate) mod heartbeats;
pub(crate) mod housekeeping;
pub(crate) mod intake;
pub(crate) mod lasting;
pub(crate) mod leases;
pub(crate) mod looking;
pub(crate) mod loops;
pub(crate) mod make_room;
pub(crate) mod meeting;
pub(crate) mod mesh;
pub(crate) mod messages;
pub(crate) mod observing;
pub(crate) mod persistence;
pub(crate) mod presumed;
pub(crate) mod proxied;
pub(crate) mod reload;
pub(crate) mod removal;
pub(crate) mod requester;
pub(crate) mod rights;
pub(crate) mod served;
pub(crate) mod stalled;
pub(crate) mod stopping;
pub(crate) mod storage;
pub(crate) mod to_workers;
pub(crate) mod watching;
pub(crate) mod worker;
