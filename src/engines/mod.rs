//! Other brokers. Each engine is one file behind its cargo feature, and nobody else names it; what all of
//! them are to a bridge is here.

#[cfg(feature = "nats")]
mod nats;
#[cfg(not(feature = "nats"))]
mod no_engine;

use std::time::Duration;

use bytes::Bytes;

use crate::config::{Engine, SecurityConfig};

/// An event on its way to an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// By which the engine, or whoever reads there, knows it again when it comes twice.
    pub id: String,
    /// Where it goes there.
    pub subject: String,
    /// Names and values, which are printable.
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
}

impl Outgoing {
    /// What it takes, in bytes, about.
    pub fn bytes(&self) -> usize {
        let headers = self.headers.iter();
        let headers: usize = headers
            .map(|(name, value)| name.len() + value.len() + 4)
            .sum();
        self.subject.len() + headers + self.body.len()
    }
}

/// What became of an event that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The engine has confirmed that it has it.
    Stored,
    /// It had it already.
    Known,
    /// It will never take it.
    Refused(String),
    /// Nothing is known of it: it is sent again.
    Unknown,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Sent {
    /// Of its first events, in their order.
    pub outcomes: Vec<Outcome>,
    /// Why nothing is known of the others. They are sent again.
    pub failed: Option<String>,
    /// That is because the connection was lost.
    pub is_lost: bool,
}

/// Events go out by it. A new one is made when this one fails.
#[allow(async_fn_in_trait, reason = "it is used on one thread")]
pub trait Outlet {
    /// Sends events in this order, and waits for what becomes of them. At most `stall` may pass without
    /// one of them being confirmed.
    async fn send(&mut self, batch: &[Outgoing], stall: Duration) -> Sent;

    /// Waits until the connection is lost, and says so.
    async fn lost(&mut self) -> String;
}

/// Connects to an engine.
///
/// # Errors
/// Why that failed: a sentence that says what to do, as far as that is known.
#[cfg(feature = "nats")]
pub async fn outlet(
    engine: &Engine,
    security: &SecurityConfig,
    name: &str,
) -> Result<impl Outlet + use<>, String> {
    match engine.kind() {
        crate::config::EngineKind::Nats => nats::NatsOutlet::connect(engine, security, name).await,
    }
}

/// This binary knows no engine, so that no configuration names one.
///
/// # Errors
/// Always.
#[cfg(not(feature = "nats"))]
pub async fn outlet(
    _: &Engine,
    _: &SecurityConfig,
    _: &str,
) -> Result<no_engine::NoOutlet, String> {
    Err("this binary knows no engine".into())
}
