//! What a person sees: logs, kept down to a line each burst, notable events with a code, and readings
//! of this process.

mod bursts;
mod journal;
mod log_writer;
mod logging;
mod printable;
mod process;
mod targets;

pub use bursts::Bursts;
pub use journal::{
    Journal, KINDS, Kind, Notable, RING_MAX, host_name, instance_name, read_events, rfc3339,
};
pub use logging::{Logging, LoggingError, check_rust_log, outdated_targets};
pub use printable::{printable, printable_json};
pub use process::process_readings;
pub use targets::{LOG_TARGETS, LogTarget};
