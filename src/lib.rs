//! An event router for ZeroMQ services.
//!
//! The modules in reading order; each may import only those above it (`tests/it/layering.rs` holds
//! that). Everything down to [`requests`] is pure: no socket, no clock, no thread, no randomness.
//!
//! | module | what it is |
//! |---|---|
//! | [`api`] | what a daemon tells about itself, as types for both sides |
//! | [`model`] | names, subjects, endpoints, limits: the terms of the domain |
//! | [`zmtp`] | ZMTP 3.x as bytes in, bytes out |
//! | [`messagebus`] | MessageBus messages: token, data type, data |
//! | [`broker`] | the decisions: registry, leases, ports, routes, dispatch, queues |
//! | [`locator`] | the ServiceLocator's directory and its requests |
//! | [`requests`] | one file per request: decode, apply, encode |
//! | [`ambient`] | clock and randomness, for code outside the core |
//! | [`client`] | connections as a client has them: requests, workers, publishers, subscribers, calls |
//! | [`config`] | defaults ← `config.json` ← environment ← flags, parsed once into valid types |
//! | [`telemetry`] | logs, notable events, rate limits, and figures of this process |
//! | [`traces`] | spans of sync events, redeliveries and dead letters |
//! | [`store`] | durable queues |
//! | [`queues`] | the life of durable queues: what is asked of the store, and what its reports come to |
//! | [`state`] | what outlives the process: subscriptions, ports, in a small database |
//! | [`systemd`] | systemd notification and socket activation |
//! | [`reactor`] | the data plane: listeners, peers, outboxes, the loop |
//! | [`outbound`] | requests to others: the ServiceLocator, services, a predecessor |
//! | [`http`] | health, metrics and the dashboard, for those who watch |
//! | [`daemon`] | the composition root |
//! | [`cli`] | one file per subcommand |

pub mod ambient;
pub mod api;
pub mod broker;
pub mod cli;
pub mod client;
pub mod config;
pub mod daemon;
pub mod http;
pub mod locator;
pub mod messagebus;
pub mod model;
pub mod outbound;
pub mod queues;
pub mod reactor;
pub mod requests;
pub mod state;
pub mod store;
pub mod systemd;
pub mod telemetry;
pub mod traces;
pub mod zmtp;
