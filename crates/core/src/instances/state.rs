//! How an instance is, by all that is known of it.

use event_manager_wire::api::InstanceState;

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

pub(super) fn judge(facts: Facts) -> InstanceState {
    match facts {
        Facts {
            has_ended: true, ..
        } => InstanceState::Gone,
        Facts {
            heard_here: true,
            is_deaf,
            ..
        } => match is_deaf {
            true => InstanceState::Deaf,
            false => InstanceState::Alive,
        },
        Facts {
            heard_beyond: true,
            was_heard_here,
            ..
        } => match was_heard_here {
            true => InstanceState::CutOff,
            false => InstanceState::Alive,
        },
        Facts {
            was_heard: false,
            has_had_time: false,
            ..
        } => InstanceState::Unknown,
        Facts {
            is_linked: true, ..
        } => InstanceState::Silent,
        _ => InstanceState::Gone,
    }
}
