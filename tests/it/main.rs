//! The daemon as its clients see it: real libzmq sockets on ports of the system's choice.

mod corpora;
mod documentation;
mod embedded_locator;
mod events;
mod forwarder;
mod hostile;
mod layering;
mod leases;
mod locator;
mod matching;
mod naks;
mod ports;
mod requests;
mod services;
mod slow;
mod subscribed;
mod support;
