//! What a binary without engines has in their place.

use std::time::Duration;

use super::{Outgoing, Outlet, Sent};

/// There is none.
pub enum NoOutlet {}

impl Outlet for NoOutlet {
    async fn send(&mut self, _: &[Outgoing], _: Duration) -> Sent {
        match *self {}
    }

    async fn lost(&mut self) -> String {
        match *self {}
    }
}
