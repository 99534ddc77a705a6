//! The decisions of the event manager. Nothing here owns a socket, a clock, a thread or randomness:
//! time is an argument, and what has to be done is returned.
//!
//! | module | what it decides |
//! |---|---|
//! | [`security`] | who may connect |
//! | [`event_id`] | to whom the ids of events belong |
//! | [`seq`] | the numbers of events in durable queues |
//! | [`broker`] | subscriptions and leases, ports, routes, which worker gets what, retries |
//! | [`instances`] | instances of other programs: how they are, and who of them leads |
//! | [`leases`] | who holds which lease, with a number that only grows |
//! | [`locator`] | the ServiceLocator's directory and its requests |
//! | [`requests`] | one file per request: what it may contain, what it does, its answer |
//! | [`log`] | the log of one durable queue, over a trait for its directory |
//! | [`store`] | what the owner of all logs is told, what it does and what it reports |
//! | [`queues`] | the life of durable queues: what is asked of the store, and what its reports mean |

pub mod broker;
pub mod event_id;
pub mod instances;
pub mod leases;
pub mod locator;
pub mod log;
pub mod queues;
pub mod requests;
pub mod security;
pub mod seq;
pub mod store;
