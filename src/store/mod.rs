//! Queues that outlive the process: one log for each durable service, one thread for all.

pub mod log;
