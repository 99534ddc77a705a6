//! The daemon as its clients see it: real libzmq sockets on ports of the system's choice.

mod corpora;
mod embedded_locator;
mod events;
mod layering;
mod support;
