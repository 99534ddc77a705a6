//! An event router for ZeroMQ services.
//!
//! What is pure, and what clients need too, has crates of its own under `crates/`; Cargo sees to it
//! that they use no socket and no runtime. The daemon's code names their modules as if they were here:
//!
//! | crate | its modules here |
//! |---|---|
//! | `crates/zmtp` | [`zmtp`]: ZMTP as bytes in, bytes out |
//! | `crates/wire` | [`model`]: names, subjects, endpoints; [`messagebus`]: messages; [`api`]: what a daemon tells about itself |
//! | `crates/core` | [`security`]: who may connect; [`broker`]: the decisions about routes, leases, ports, dispatch; [`locator`]; [`requests`]; [`queues`]: the life of durable queues |
//! | `crates/client` | [`client`]: connections as a client has them |
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
//! | [`outbound`] | requests to others: the ServiceLocator, services, a predecessor |
//! | [`http`] | health, metrics and the dashboard, for those who watch |
//! | [`daemon`] | the composition root |
//! | [`cli`] | one file per subcommand |

pub use event_manager_client as client;
pub use event_manager_core::{broker, locator, queues, requests, security};
pub use event_manager_wire::{api, messagebus, model};
pub use event_manager_zmtp as zmtp;

pub mod ambient;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod http;
pub mod outbound;
pub mod reactor;
pub mod state;
pub mod store;
pub mod systemd;
pub mod telemetry;
pub mod traces;
