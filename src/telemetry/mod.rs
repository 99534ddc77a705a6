//! What a person sees: logs, kept down to a line each burst, and readings of this process.

mod bursts;
mod process;

pub use bursts::Bursts;
pub use process::ProcessReadings;
