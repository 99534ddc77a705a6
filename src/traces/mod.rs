//! Spans of what happens to single events that others wait for, or that went wrong: sync events,
//! deliveries after the first, dead letters. Nothing else is traced, so the way of an event is as it was.
//!
//! A [`Tracer`] puts spans into a bounded channel; the exporter's thread sends them to a collector, by
//! OTLP over HTTP in JSON. That thread is there with the cargo feature `traces` only; without it every
//! tracer is off.

#![cfg_attr(
    not(feature = "traces"),
    allow(dead_code, reason = "what only the exporter needs")
)]

mod call;
mod carried;
#[cfg(feature = "traces")]
mod export;
#[cfg(not(feature = "traces"))]
#[path = "no_export.rs"]
mod export;
mod otlp;
mod span;
mod tracer;

pub use call::CallTrace;
pub use export::Exporter;
pub use otlp::Resource;
pub use span::{Anchor, Span, SpanKind};
pub use tracer::{Spot, Tracer};
