//! How bridges to other brokers are.

use serde::{Deserialize, Serialize};

/// A bridge to another broker (`bridges` in the configuration).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Bridge {
    /// What the configuration calls it.
    pub name: String,
    /// The service whose queue is at the engine, if it is one of the two ways of that.
    pub service: Option<String>,
    /// The name of its engine.
    pub engine: String,
    /// `out`: to the engine; `in`: from it.
    pub direction: String,
    /// Whether the daemon is ready only while it works.
    pub required: bool,
    /// Whether it works.
    pub state: BridgeState,
    /// Why it doesn't, if it doesn't.
    pub problem: Option<String>,
    /// Events that the other side has: out, that the engine has confirmed; in, that were published here.
    pub events: u64,
    /// The bytes of their bodies.
    pub bytes: u64,
    /// Those of them that it had already: they had been sent before a connection was lost.
    pub known: u64,
    /// Events that it will never take, or that are none: they are dead letters of the bridge's service.
    pub refused: u64,
    /// Events that came from here, or by several event managers: they were left out, or they would go round.
    pub left_out: u64,
    /// Events that were taken from the engine, of a service whose queue is there: those that it has heard of
    /// (`events`), that are dead letters (`refused`), that went back (`returned`), and that are in hands
    /// (`inFlight`).
    pub taken: u64,
    /// Events that went back to the engine for others, of a service whose queue is there.
    pub returned: u64,
    /// Events that were sent and are not confirmed yet; of a service whose queue is there, events in hands.
    pub in_flight: u64,
    /// How often the engine could not be reached or did not confirm.
    pub failures: u64,
}

/// Whether a bridge works.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BridgeState {
    /// The engine is not reached yet, or not any more.
    #[default]
    Connecting,
    /// Events go their way.
    Running,
    /// The engine is reached, and doesn't confirm.
    Failing,
}

impl BridgeState {
    /// The word for it in JSON and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Running => "running",
            Self::Failing => "failing",
        }
    }
}
