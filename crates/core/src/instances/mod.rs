//! Instances of other programs that say by heartbeats that they live: who they are, how they are, and which
//! of them leads by their own rule.
//!
//! They need not know of it: what is read here passes anyway. Time is an argument.

mod fence;
mod history;
mod places;
mod reading;
mod registry;
mod state;

pub use fence::{Fence, FencePolicy, Links};
pub use history::{HISTORY_MAX, Turn, TurnKind};
pub use places::{PLACE_PORTS_MAX, Place, PlaceError, found};
pub use reading::{Fields, ID_BYTES_MAX, Kind, MESSAGE_BYTES_MAX, Said, Unreadable, read};
pub use registry::{
    Former, Happened, Heard, INSTANCES_MAX, Instance, NEW_PER_SECOND_MAX, Now, Registry, Rules, Way,
};

#[cfg(test)]
mod tests;
