//! The words of the domain. Standard library only.

mod backoff;
mod endpoint;
mod excerpt;
mod name;
mod subject;
mod trace_context;

pub use backoff::Backoff;
pub use endpoint::{Endpoint, InvalidEndpoint, socket_name};
pub use excerpt::{EXCERPT_BYTES_MAX, beginning, excerpt, excerpt_of_bytes, is_unsafe};
pub use name::{InvalidName, LeaseHolder, ServiceName, SubscriptionId};
pub use subject::{
    Dialect, EventSubject, InvalidPattern, InvalidSubject, SubjectPattern, subject_of,
};
pub use trace_context::{MalformedTraceparent, TraceContext};
