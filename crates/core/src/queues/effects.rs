//! What the queues leave for their shell to do.

use super::EmissionId;
use crate::broker::{Dropped, ServiceKey};
use crate::log::{Refused, StoredEvent};
use crate::seq::Seq;
use crate::store::QueueId;
use event_manager_wire::model::ServiceName;

/// Something that the shell is to do. `R` is a request for dead letters.
#[derive(Debug)]
pub enum Effect<R> {
    /// Something of the service has changed: what can be handed out should be.
    Dispatch(ServiceKey),
    /// So little waits for the disk that publishers may be read from again.
    WakePublishers,
    /// A queue has an event of an emission, or has not.
    Confirm {
        emission: EmissionId,
        queue: ServiceName,
        /// Whether the queue did not have it before, by its id; or why it doesn't have it.
        result: Result<bool, String>,
        /// The event's number there, if it is new.
        seq: Option<Seq>,
    },
    /// A queue was opened that had events, or damaged ones.
    Found {
        service: ServiceKey,
        /// How many events wait in it.
        events: u64,
    },
    /// Events of a service were dropped; they are counted.
    Dropped {
        service: ServiceKey,
        before: Dropped,
    },
    /// A request has what it wanted to read.
    Read {
        request: R,
        queue: ServiceName,
        events: Vec<StoredEvent>,
        /// How many unsettled events there are in all.
        unsettled: u64,
    },
    /// What a request wanted can't be read.
    NotRead { request: R, reason: String },
    /// The letters of a request are events of their service again.
    Replayed(R),
    /// They are not, and stay letters.
    NotReplayed { request: R, reason: String },
    /// An event that another broker gave is a dead letter on disk, or could not be made one.
    TakenLetter {
        service: ServiceName,
        /// The number that the event has here.
        number: Seq,
        is_kept: bool,
    },
    /// The store has removed a queue, or could not.
    Removed {
        queue: QueueId,
        /// Why it may still be there.
        error: Option<String>,
    },
    /// Somebody may want to know.
    Note(Note),
}

/// What happened to a queue that operators may have to know.
#[derive(Debug)]
pub enum Note {
    /// A queue takes no events any more.
    Failed { queue: ServiceName, reason: String },
    /// A queue that had failed or could not be read works again.
    Recovered(ServiceName),
    /// A queue can't be read.
    Unreadable { queue: ServiceName, reason: String },
    /// Events were found on disk.
    Found {
        queue: ServiceName,
        /// How many.
        events: u64,
        /// What was cut from the end of the last segment, in bytes.
        torn_bytes: u64,
    },
    /// A part of a queue is damaged.
    Damaged {
        queue: ServiceName,
        /// Where, and how.
        damage: String,
    },
    /// Files that are none of the queue's.
    Refused {
        queue: ServiceName,
        refused: Vec<Refused>,
    },
    /// Dead letters were given up: the oldest.
    LettersDropped {
        queue: ServiceName,
        reason: crate::broker::DropReason,
        /// How many.
        letters: usize,
    },
    /// Dead letters could not be kept.
    LettersNotKept {
        service: ServiceName,
        reason: String,
    },
    /// The state directory is gone.
    DirectoryGone(String),
}
