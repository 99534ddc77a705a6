//! How an instance is, by all that is known of it.

/// How an instance is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It was there in an earlier run, and has not been heard in this one.
    #[default]
    Unknown,
    /// It is heard: here, or by another event manager of the mesh if it is not connected here.
    Alive,
    /// Its connection is there, and its heartbeats are not.
    Silent,
    /// It was heard here, and is not any more; another event manager hears it.
    CutOff,
    /// It is heard, but nobody from its host subscribes to heartbeats here: it hears no others, and will
    /// think that it is alone.
    Deaf,
    /// It said that it ends, or nobody hears it.
    Gone,
}

impl Verdict {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Alive => "alive",
            Self::Silent => "silent",
            Self::CutOff => "cut-off",
            Self::Deaf => "deaf",
            Self::Gone => "gone",
        }
    }

    /// Whether somebody hears it now.
    pub fn is_heard(self) -> bool {
        matches!(self, Self::Alive | Self::CutOff | Self::Deaf)
    }
}

/// What is known of an instance.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    /// It said that it ends, or was gone before.
    pub(super) has_ended: bool,
    /// Heard within the timeout by a connection of ours.
    pub(super) heard_here: bool,
    /// Heard within the timeout by another event manager.
    pub(super) heard_beyond: bool,
    /// It was heard by a connection of ours, in this run or before.
    pub(super) was_heard_here: bool,
    /// That connection is open.
    pub(super) is_linked: bool,
    /// Nobody from its host has subscribed to heartbeats for longer than the timeout.
    pub(super) is_deaf: bool,
    /// It was heard in this run at all.
    pub(super) was_heard: bool,
    /// The timeout has passed since the start.
    pub(super) has_had_time: bool,
}

pub(super) fn judge(facts: Facts) -> Verdict {
    match facts {
        Facts {
            has_ended: true, ..
        } => Verdict::Gone,
        Facts {
            heard_here: true,
            is_deaf,
            ..
        } => match is_deaf {
            true => Verdict::Deaf,
            false => Verdict::Alive,
        },
        Facts {
            heard_beyond: true,
            was_heard_here,
            ..
        } => match was_heard_here {
            true => Verdict::CutOff,
            false => Verdict::Alive,
        },
        Facts {
            was_heard: false,
            has_had_time: false,
            ..
        } => Verdict::Unknown,
        Facts {
            is_linked: true, ..
        } => Verdict::Silent,
        _ => Verdict::Gone,
    }
}
