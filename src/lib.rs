//! An event router for ZeroMQ services.
//!
//! What is pure, and what clients need too, has crates of its own under `crates/`; Cargo sees to it
//! that they use no socket and no runtime:
//!
//! | crate | what is in it |
//! |---|---|
//! | [`event_manager_zmtp`] | ZMTP as bytes in, bytes out |
//! | [`event_manager_wire`] | names, subjects, endpoints; messages; what a daemon tells about itself |
//! | [`event_manager_core`] | the decisions: who may connect, routes, leases, ports, dispatch, requests, durable queues |
//! | [`event_manager_client`] | connections as a client has them |
//!
//! The daemon's own modules in reading order; each may import only those above it
//! (`tests/it/layering.rs` holds that).
//!
//! | module | what it is |
//! |---|---|
//! | [`ambient`] | clock and randomness |
//! | [`config`] | defaults ← `config.json` ← environment ← flags, parsed once into valid types |
//! | [`telemetry`] | logs, notable events, rate limits, and figures of this process |
//! | [`traces`] | spans of sync events, redeliveries and dead letters |
//! | [`store`] | durable queues: the thread that owns them, and their files |
//! | [`state`] | what outlives the process: subscriptions, ports, in a small database |
//! | [`systemd`] | systemd notification and socket activation |
//! | [`reactor`] | the data plane: listeners, peers, outboxes, the loop |
//! | [`keys`] | certificates in files, and the thread that watches them |
//! | [`outbound`] | requests to others: the ServiceLocator, services, a predecessor |
//! | [`engines`] | other brokers, one file each |
//! | [`lease`] | the lease under which a daemon serves: a thread that waits for it and renews it |
//! | [`bridges`] | what goes to them: a thread that is a client of the daemon |
//! | [`instances`] | instances of other programs: a thread that keeps their registry |
//! | [`http`] | health, metrics and the dashboard, for those who watch |
//! | [`daemon`] | the composition root |
//! | [`cli`] | one file per subcommand |

pub mod ambient;
pub mod bridges;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod engines;
pub mod http;
pub mod instances;
pub mod keys;
pub mod lease;
pub mod outbound;
pub mod reactor;
pub mod state;
pub mod store;
pub mod systemd;
pub mod telemetry;
pub mod traces;
