//! The service manager that started us: notification and socket activation.
//!
//! The protocols are those of sd_notify(3) and sd_listen_fds(3); other managers speak them too.
//! Without one, all of this does nothing.

mod notify;
mod sockets;

pub use notify::{Beat, Manager};
pub use sockets::{Inherited, Socket};
