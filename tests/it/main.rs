//! The daemon as its clients see it: real libzmq sockets on ports of the system's choice.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "this is a test, and tests are shells: they have clocks, and what fails is to panic"
)]

mod events;
mod layering;
mod leases;
mod locator;
mod matching;
mod naks;
mod ports;
mod requests;
mod subscribed;
mod support;
