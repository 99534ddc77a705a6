//! What durable queues and acknowledgements promise, under load, kills, poison and broken disks.

mod bed;
mod books;
pub mod disk;
mod gone;
mod kills;
mod order;
mod poison;
mod scenario;
mod soak;
mod stalled;
mod strays;
mod words;
