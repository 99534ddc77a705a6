//! The one error of [`Hub`](crate::Hub), and of all that it makes.

use std::fmt;
use std::time::Duration;

use crate::{KeysError, Reply, TurnedAway};

/// Why something came to nothing. Its text says what happened, whether the event may have been taken, and
/// what to do.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Error {
    /// An argument can't be used. Nothing was sent.
    InvalidArgument(String),
    /// The keys can't be used. Nothing was sent.
    Keys(KeysError),
    /// The daemon doesn't admit this program. Nothing was sent.
    TurnedAway {
        /// The daemon's address.
        address: String,
        /// What is known of the reason.
        why: TurnedAway,
    },
    /// The daemon did not answer in time.
    NoAnswer {
        /// What was asked: `EMIT of the id "o-1"`.
        what: String,
        /// How long it was waited for.
        within: Duration,
        /// What is known of the connection.
        why: String,
        /// The request was sent, so it may have been done.
        may_be_taken: bool,
    },
    /// The daemon refused.
    Nak {
        /// The request, for people.
        what: String,
        /// For programs: one of the codes of docs/protocol.md.
        code: String,
        /// Why, for people; its wording may change.
        sentence: String,
    },
    /// The daemon doesn't know an option, or a request: it is older than this client.
    TooOld {
        /// The request, for people.
        what: String,
        /// The daemon's answer, for people.
        sentence: String,
    },
    /// Of the events published since the last flush, some may not have been taken.
    MayBeLost {
        /// How many may be lost, at most.
        lost: u64,
        /// How many were published since the last flush.
        of: u64,
        /// What happened, for people.
        why: String,
    },
    /// No service answers to the subject of a call; nobody got it.
    NoResponders {
        /// The subject that was called.
        subject: String,
        /// What the daemon says of each service that was asked.
        told: String,
    },
    /// No service answered a call in time; one may have got it.
    CallTimeout {
        /// The subject that was called.
        subject: String,
        /// What the daemon says of each service that was asked.
        told: String,
    },
    /// Services got the call and said no.
    CallRefused {
        /// The subject that was called.
        subject: String,
        /// What each of them answered.
        replies: Vec<Reply>,
    },
    /// A body is not what was expected.
    Decode {
        /// Whose: `the body of "order.created"`.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The hub is closed, or its runtime has ended.
    Closed {
        /// What was asked had been sent by then.
        may_be_taken: bool,
    },
    /// The system gives no thread, or a test's daemon can't be started.
    Failed(String),
}

impl Error {
    /// Whether the daemon, or a service, may have taken the event nevertheless.
    pub fn may_be_taken(&self) -> bool {
        match self {
            Self::InvalidArgument(_)
            | Self::Keys(_)
            | Self::TurnedAway { .. }
            | Self::TooOld { .. }
            | Self::NoResponders { .. }
            | Self::Decode { .. }
            | Self::Failed(_) => false,
            Self::NoAnswer { may_be_taken, .. } | Self::Closed { may_be_taken } => *may_be_taken,
            // Some of the durable services may have it.
            Self::Nak { code, .. } => code == "store-failed" || code == "engine-refused",
            Self::MayBeLost { .. } | Self::CallTimeout { .. } | Self::CallRefused { .. } => true,
        }
    }

    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::InvalidArgument(_) => "mend the argument",
            Self::Keys(_) => "mend the file or the key",
            Self::TurnedAway { why, .. } => why.advice(),
            Self::NoAnswer {
                may_be_taken: true, ..
            } => "send it again with the same id, or look whether it was done",
            Self::NoAnswer { .. } => {
                "look whether the daemon runs and the address is right, and try again"
            }
            Self::Nak { code, .. } => match code.as_str() {
                "busy" | "stopping" | "no-port" => "try again later",
                "store-failed" => "send it again with the same id when the disk works",
                "engine-failed" => {
                    "see that the engine runs and the daemon reaches it, and ask again"
                }
                "engine-refused" => {
                    "mend the event or the engine; the daemon has it as a dead letter"
                }
                "in-use" => "leave `delivery` as the service has it, or END the service first",
                "lost" => "acquire it again",
                "no-state" => "give the daemon a stateDir",
                "no-store" => "give the daemon a stateDir, or leave out what needs one",
                _ => "mend the request; its code is explained in docs/protocol.md",
            },
            Self::TooOld { .. } => "update the daemon, or leave out what it doesn't know",
            Self::MayBeLost { .. } => {
                "publish them again if receivers bear duplicates, or use emit, which is confirmed"
            }
            Self::NoResponders { .. } => {
                "start a service that answers it, or look at its registration"
            }
            Self::CallTimeout { .. } => {
                "call again only if the service bears that, or give it more time"
            }
            Self::CallRefused { .. } => "the answers say why",
            Self::Decode { .. } => "look at who publishes it, or reject it",
            Self::Closed { .. } => "connect another hub",
            Self::Failed(_) => "the sentence says why",
        }
    }

    fn taken(&self) -> &'static str {
        match self {
            Self::NoAnswer {
                may_be_taken: true, ..
            }
            | Self::Closed { may_be_taken: true } => "it may have been done",
            Self::NoAnswer { .. }
            | Self::Closed { .. }
            | Self::InvalidArgument(_)
            | Self::Keys(_)
            | Self::TurnedAway { .. } => "nothing was sent",
            Self::Nak { .. } if self.may_be_taken() => "some services may have it",
            Self::Nak { .. } | Self::TooOld { .. } => "nothing was done",
            Self::NoResponders { .. } => "nobody got it",
            Self::CallTimeout { .. } => "a service may have got it",
            Self::CallRefused { .. } => "they got it",
            _ => "",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidArgument(sentence) | Self::Failed(sentence) => f.write_str(sentence)?,
            Self::Keys(error) => error.fmt(f)?,
            Self::TurnedAway { address, why } => write!(f, "{address}: {why}")?,
            Self::NoAnswer {
                what, within, why, ..
            } => {
                write!(f, "no answer to {what} within {within:?} ({why})")?;
            }
            Self::Nak {
                what,
                code,
                sentence,
            } => {
                write!(f, "the daemon refused {what}: {code}: {sentence}")?;
            }
            Self::MayBeLost { lost, of, why } => {
                write!(f, "{lost} of {of} published events may be lost: {why}")?;
            }
            Self::TooOld { what, sentence } => {
                write!(f, "the daemon is too old for {what}: {sentence}")?;
            }
            Self::NoResponders { subject, told } => {
                write!(f, "nobody answers to {subject:?} ({told})")?;
            }
            Self::CallTimeout { subject, told } => {
                write!(f, "no answer to {subject:?} in time ({told})")?;
            }
            Self::CallRefused { subject, replies } => {
                write!(f, "{subject:?} was refused")?;
                for reply in replies {
                    let data = String::from_utf8_lossy(&reply.data);
                    write!(
                        f,
                        "; {}: {}",
                        reply.service,
                        event_manager_wire::model::excerpt(&data, 100)
                    )?;
                }
            }
            Self::Decode { what, why } => write!(f, "{what} can't be read: {why}")?,
            Self::Closed { .. } => f.write_str("the hub is closed")?,
        }
        let taken = self.taken();
        if !taken.is_empty() {
            write!(f, "; {taken}")?;
        }
        write!(f, "; {}", self.advice())
    }
}

impl From<KeysError> for Error {
    fn from(error: KeysError) -> Self {
        Self::Keys(error)
    }
}

impl std::error::Error for Error {}
