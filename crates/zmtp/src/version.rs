//! Versions of ZMTP.

/// A version that we speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// libzmq 3.2 and JeroMQ 0.3: no mechanisms, no commands. Subscriptions are messages.
    V2_0,
    /// libzmq 4.0: mechanisms, whose commands end with READY.
    V3_0,
    /// libzmq 4.2: subscriptions are commands; PING and PONG.
    V3_1,
}

impl Version {
    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V2_0 => "2.0",
            Self::V3_0 => "3.0",
            Self::V3_1 => "3.1",
        }
    }

    /// Whether frames may be commands.
    pub fn has_commands(self) -> bool {
        self >= Self::V3_0
    }

    /// Whether subscriptions are commands, and a PING is answered.
    pub fn has_ping(self) -> bool {
        self >= Self::V3_1
    }
}
