//! Bridges to other brokers, with their real servers and public clients.
//!
//! `just engines` installs both, and runs these; without them they fail. `EVENT_MANAGER_ENGINES` is the
//! directory where they are.

#![allow(
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test reads clocks, waits, and fails by panicking, its helpers too; not all of the support is used here"
)]

mod conformance;
mod conformance_cut;
mod conformance_emit;
mod conformance_in;
mod conformance_killed;
mod conformance_served;
#[cfg(feature = "etcd")]
mod etcd;
mod faults;
mod fence;
mod leases;
mod machines;
mod nats;
mod nats_cluster;
mod nats_tls;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
#[cfg(feature = "rabbitmq")]
mod rabbitmq_cluster;
#[cfg(feature = "rabbitmq")]
mod rabbitmq_server;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "redis")]
mod redis_dotmac;
#[cfg(feature = "redis")]
mod redis_in;
#[cfg(feature = "redis")]
mod redis_tls;
mod schedulers;
mod server;
mod standby;
#[path = "../it/support/mod.rs"]
mod support;
mod tls;
