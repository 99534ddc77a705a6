//! What is wrong, how much, and what mends it.

use serde_json::{Value, json};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    /// Good to know.
    Note,
    /// It may cost events, or soon will.
    Warning,
    /// Something does not work.
    Error,
}

impl Severity {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What kind of thing is wrong; docs/operations.md has a section for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Configuration = 9001,
    NoDaemon = 9002,
    AddressTaken = 9003,
    RangeOverlap = 9004,
    LocatorUnreachable = 9005,
    NotRegistered = 9006,
    NobodyReady = 9007,
    StalledWorker = 9008,
    QueueNearBudget = 9009,
    QueueFailed = 9010,
    DeadLetters = 9011,
    WidePrefix = 9012,
    NearExpiry = 9013,
    FewDescriptors = 9014,
    ManyConnections = 9015,
    DiskNearlyFull = 9016,
    ClockJumped = 9017,
    MemoryNearLimit = 9018,
    NoPort = 9019,
    QueueLeft = 9020,
    PublisherMissing = 9021,
    RefusedAgain = 9022,
    ServiceStuck = 9023,
    PublisherRing = 9025,
    OpenToTheNetwork = 9026,
    ShutOut = 9027,
    KeyFile = 9028,
    NoEffect = 9029,
    LinkMissing = 9030,
    BridgeDown = 9031,
    BridgeNearRetention = 9032,
    EngineFile = 9033,
    TwoLeaders = 9034,
    InstanceApart = 9035,
    LeaseLate = 9036,
    LeaseForgotten = 9037,
    StandsBy = 9038,
    OtherDirectory = 9039,
    LeasesRefused = 9040,
    NothingKept = 9041,
}

impl Code {
    /// All codes, for the test of the documentation.
    #[cfg(test)]
    pub(super) const ALL: [Self; 40] = [
        Self::Configuration,
        Self::NoDaemon,
        Self::AddressTaken,
        Self::RangeOverlap,
        Self::LocatorUnreachable,
        Self::NotRegistered,
        Self::NobodyReady,
        Self::StalledWorker,
        Self::QueueNearBudget,
        Self::QueueFailed,
        Self::DeadLetters,
        Self::WidePrefix,
        Self::NearExpiry,
        Self::FewDescriptors,
        Self::ManyConnections,
        Self::DiskNearlyFull,
        Self::ClockJumped,
        Self::MemoryNearLimit,
        Self::NoPort,
        Self::QueueLeft,
        Self::PublisherMissing,
        Self::RefusedAgain,
        Self::ServiceStuck,
        Self::PublisherRing,
        Self::OpenToTheNetwork,
        Self::ShutOut,
        Self::KeyFile,
        Self::NoEffect,
        Self::LinkMissing,
        Self::BridgeDown,
        Self::BridgeNearRetention,
        Self::EngineFile,
        Self::TwoLeaders,
        Self::InstanceApart,
        Self::LeaseLate,
        Self::LeaseForgotten,
        Self::StandsBy,
        Self::OtherDirectory,
        Self::LeasesRefused,
        Self::NothingKept,
    ];

    pub(super) fn text(self) -> String {
        format!("EM-{}", self as u16)
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) severity: Severity,
    pub(super) code: Code,
    /// The service, key or directory that it is about.
    pub(super) about: String,
    /// What is wrong, without its subject.
    pub(super) text: String,
    /// A command or a line of the configuration, with a word about it.
    pub(super) mend: String,
}

impl Finding {
    pub(super) fn new(
        severity: Severity,
        code: Code,
        about: impl Into<String>,
        text: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            code,
            about: about.into(),
            text: text.into(),
            mend: mend.into(),
        }
    }

    /// For programs.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "severity": self.severity.name(),
            "code": self.code.text(),
            "about": self.about,
            "text": self.text,
            "mend": self.mend,
        })
    }
}
