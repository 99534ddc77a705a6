//! The daemon as its clients see it: real libzmq sockets on ports of the system's choice.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test reads clocks, waits, and fails by panicking, its helpers too"
)]

mod corpora;
mod embedded_locator;
mod events;
mod layering;
mod support;
