//! The daemon as its clients see it: real libzmq sockets on ports of the system's choice.

mod events;
mod forwarder;
mod hostile;
mod layering;
mod slow;
mod support;
