//! Queues that outlive the process: one log for each durable service, one thread for all.

mod disk;
mod fence;
mod room;
mod segment;
mod thread;

pub(crate) use disk::decode as queue_of;
pub use disk::{DiskDirectory, StateDir, StateDirError};
pub use fence::{By, Fence, Holder, Holding, holder, promote};
pub use room::{keep_room, make_room};
pub use segment::DiskFile;
pub use thread::Store;
