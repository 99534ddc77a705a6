//! The daemon as its clients see it: real libzmq sockets on ports of the system's choice.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test reads clocks, waits, and fails by panicking, its helpers too"
)]

/// The daemon's own: what it takes is measured here.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

mod acknowledging;
mod audience;
mod bridges;
mod churn;
mod client_answers;
mod client_examples;
mod client_hammer;
mod client_hub;
mod client_keys;
mod client_kills;
mod client_service;
mod client_silence;
mod command_bench;
mod command_keys;
mod command_line;
mod command_worker;
mod commands_alone;
mod corpora;
mod credentials;
mod crowds;
mod curve;
mod curve_attacks;
mod curve_dials;
mod curve_figures;
mod dead_letters;
mod delivered_ids;
mod dialled;
mod doctor;
mod documentation;
mod durable;
mod durable_rights;
mod echoes;
mod embedded_locator;
mod emit;
mod ended;
mod environment;
mod event_ids;
mod events;
mod first_ready;
mod forwarder;
mod hard;
mod health;
mod heartbeat;
mod hostile;
mod http;
mod hub_bridges;
mod idle;
mod instances;
mod keys_made;
mod lasting;
mod layering;
mod lease_requests;
mod leases;
#[cfg(feature = "nats")]
mod leases_kept;
mod leaving;
mod liveness;
mod locator;
mod locator_keys;
mod long_names;
mod many;
mod matching;
mod memory;
mod mesh;
mod naks;
mod no_effect;
mod notable;
mod old_peers;
mod packaging;
mod ports;
mod presumed;
mod proxied;
mod publishing;
mod registration;
mod reload;
mod requests;
mod restart;
mod rights;
mod rings;
mod security;
mod serve;
mod services;
mod slow;
mod standby;
mod startup_guard;
mod status;
mod stopping;
mod storage;
mod subscribed;
mod support;
mod sync_events;
mod system_calls;
mod systemd;
mod terminal;
mod top;
mod traces;
