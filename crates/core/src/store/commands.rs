//! What the store's thread is asked, and what it answers.

use std::fmt;

use bytes::Bytes;

use crate::log::{Damage, Expelled, LogLimits, Recovered, Refused, StoredEvent};
use crate::seq::Seq;
use event_manager_wire::model::ServiceName;

/// One queue among all that ever had its name: when a service is ended and begins anew, its queue has
/// another generation, and what is reported of the older one is of no concern to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId {
    /// Its service, or the name of a service's dead letters.
    pub name: ServiceName,
    /// Higher than that of each queue that had the name before.
    pub generation: u64,
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

/// Which append a report is of. Each is reported of once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AppendTag(pub u64);

/// Too much waits for the store, or it has ended. Holds the command.
#[derive(Debug)]
pub struct Full(pub Command);

/// Who takes commands for the store.
pub trait Sink {
    /// Takes a command, and never waits.
    ///
    /// # Errors
    /// [`Full`]: nothing was done.
    fn try_send(&self, command: Command) -> Result<(), Full>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// By which a second publication of it is known.
    pub id: Option<Bytes>,
    /// What the daemon notes of it.
    pub attributes: Bytes,
    pub body: Bytes,
}

impl Event {
    /// What it takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.id.as_ref().map_or(0, Bytes::len) + self.attributes.len() + self.body.len()
    }
}

/// What the thread is asked to do with one queue. It does so in this order, but reads after the appends, settlements
/// and attempts that it finds waiting with them. While a queue is being opened, what it is asked of that waits.
#[derive(Debug)]
pub enum Command {
    /// Opens a queue, or begins it: [`Report::Opened`] or [`Report::OpenFailed`].
    Open { queue: QueueId, limits: LogLimits },
    /// Other bounds for an open queue.
    Limit { queue: QueueId, limits: LogLimits },
    /// Appends events and commits them: [`Report::Committed`] or [`Report::Failed`]. Those that nobody
    /// waits for are durable after 100 ms, if not before.
    Append {
        queue: QueueId,
        /// Comes back with the report.
        tag: AppendTag,
        events: Vec<Event>,
        /// Somebody waits for them.
        urgent: bool,
    },
    /// These events are done. Durable after 100 ms, if not before.
    Settle { queue: QueueId, seqs: Vec<Seq> },
    /// These events were given to workers so often, and are not done. Durable after 100 ms, if not
    /// before.
    Attempts {
        queue: QueueId,
        /// Sequence numbers, and how many.
        attempts: Vec<(Seq, u32)>,
        /// Those of them that workers hold now: retention leaves them alone until they are settled or
        /// are among `attempts` without being here.
        in_hands: Vec<Seq>,
    },
    /// These events are not to be given out before a time, in ms since 1970. Durable after 100 ms, if not
    /// before.
    Later {
        queue: QueueId,
        /// Sequence numbers, and when.
        until_ms: Vec<(Seq, u64)>,
    },
    /// Events are given to workers from now on, or not any more. When it is durable that they are:
    /// [`Report::HandingOut`].
    HandOut {
        queue: QueueId,
        /// Whether they are.
        on: bool,
    },
    /// Reads unsettled events, those of appends before it included: [`Report::Stored`] or
    /// [`Report::Unread`].
    Read {
        queue: QueueId,
        /// The lowest sequence number.
        from: Seq,
        /// The most events.
        events_max: usize,
        /// The most bytes; one event may be larger.
        bytes_max: u64,
    },
    /// Reads single events, those of appends before it included, as far as they are unsettled:
    /// [`Report::Stored`] or [`Report::Unread`].
    ReadThese {
        queue: QueueId,
        /// Their sequence numbers, the lowest first; one at least.
        seqs: Vec<Seq>,
        /// The most bytes; one event may be larger. The last ones are left out then.
        bytes_max: u64,
    },
    /// Commits and closes a queue: [`Report::Closed`].
    Close { queue: QueueId },
    /// Deletes a queue, open or not, with all that is in it: [`Report::Removed`].
    Remove { queue: QueueId },
}

impl Command {
    /// Whose it is.
    pub fn queue(&self) -> &QueueId {
        match self {
            Self::Open { queue, .. }
            | Self::Limit { queue, .. }
            | Self::Append { queue, .. }
            | Self::Settle { queue, .. }
            | Self::Attempts { queue, .. }
            | Self::Later { queue, .. }
            | Self::HandOut { queue, .. }
            | Self::Read { queue, .. }
            | Self::ReadThese { queue, .. }
            | Self::Close { queue }
            | Self::Remove { queue } => queue,
        }
    }

    /// Returns how much memory its events and numbers take.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Append { events, .. } => events.iter().map(Event::bytes).sum(),
            Self::Settle { seqs, .. } => size_of_val(&seqs[..]),
            Self::Attempts { attempts, .. } => size_of_val(&attempts[..]),
            Self::Later { until_ms, .. } => size_of_val(&until_ms[..]),
            Self::ReadThese { seqs, .. } => size_of_val(&seqs[..]),
            _ => 0,
        }
    }
}

/// What became of an event that was to be appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is durable under this sequence number.
    Appended(Seq),
    /// Its id was seen before: with the event of this sequence number, which is durable.
    Seen(Seq),
    /// It is larger than [`crate::log::LogLimits::event_bytes_max`], or its id too long.
    TooLarge,
}

/// An append whose events are durable.
#[derive(Debug)]
pub struct Appended {
    pub tag: AppendTag,
    /// One for each event, in their order.
    pub outcomes: Vec<Outcome>,
}

/// What the thread has to say.
#[derive(Debug)]
pub enum Report {
    /// The queue is open.
    Opened {
        queue: QueueId,
        /// What was found in it.
        recovered: Recovered,
    },
    /// The queue can't be opened.
    OpenFailed { queue: QueueId, reason: String },
    /// The events of these appends, in their order, are durable.
    Committed {
        queue: QueueId,
        appends: Vec<Appended>,
        /// What the queue's unsettled events take on disk by that, in bytes.
        holds: u64,
    },
    /// The events of an append are lost.
    Failed {
        queue: QueueId,
        tag: AppendTag,
        reason: String,
    },
    /// What a queue's unsettled events take on disk, in bytes, when that has changed without a commit of
    /// events.
    Holds { queue: QueueId, bytes: u64 },
    /// Events may be given to workers: who finds the queue after a crash will know that they may have
    /// been. Or that can't be written now, which should hold up nobody.
    HandingOut { queue: QueueId },
    Stored {
        queue: QueueId,
        /// The lowest sequence number that was asked for.
        from: Seq,
        /// The events; none if there are no more.
        events: Vec<StoredEvent>,
        /// How many are unsettled in all of the queue.
        unsettled: u64,
    },
    /// The disk doesn't let them be read now. They are unsettled as before; who wants them asks again.
    Unread {
        queue: QueueId,
        /// The lowest sequence number that was asked for.
        from: Seq,
        reason: String,
    },
    /// Events were given up, as they were too many or too old. They are settled.
    Expelled {
        queue: QueueId,
        events: Vec<Expelled>,
    },
    /// Events turned out to be damaged. They are settled.
    Damaged { queue: QueueId, damage: Vec<Damage> },
    /// Files in the queue's directory look like segments and are none of its own. They are not served.
    Refused {
        queue: QueueId,
        refused: Vec<Refused>,
    },
    /// The log has failed, or works again.
    State {
        queue: QueueId,
        /// Why it has failed; none if it works.
        failed: Option<String>,
    },
    /// The queue is closed; all that could be is committed.
    Closed { queue: QueueId },
    /// The queue is gone, or why it isn't.
    Removed {
        queue: QueueId,
        /// Why it is still there.
        error: Option<String>,
    },
    /// Somebody removed the state directory, and what was done about it.
    DirectoryGone { why: String },
    /// The thread panicked: nothing that waits is done, nor what comes. The last report.
    Died,
}

impl Report {
    /// Whose it is, if it is of one queue.
    pub fn queue(&self) -> Option<&QueueId> {
        Some(match self {
            Self::Died | Self::DirectoryGone { .. } => return None,
            Self::Opened { queue, .. }
            | Self::OpenFailed { queue, .. }
            | Self::Committed { queue, .. }
            | Self::Failed { queue, .. }
            | Self::Stored { queue, .. }
            | Self::HandingOut { queue }
            | Self::Holds { queue, .. }
            | Self::Unread { queue, .. }
            | Self::Expelled { queue, .. }
            | Self::Damaged { queue, .. }
            | Self::Refused { queue, .. }
            | Self::State { queue, .. }
            | Self::Closed { queue }
            | Self::Removed { queue, .. } => queue,
        })
    }
}
