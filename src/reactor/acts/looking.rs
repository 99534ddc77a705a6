//! Looks at the state: each in turns, between which others have theirs.

use std::rc::Rc;

use tokio::sync::oneshot;

use crate::reactor::hub::SharedHub;
use crate::reactor::report::status::Look;
use crate::reactor::state::effects::Lists;
use event_manager_wire::api::Status;

/// Begins to look, for who waits for the reply.
pub(crate) fn begin(hub: &SharedHub, lists: Lists, reply: oneshot::Sender<Status>) {
    let look = Look::begin(&hub.borrow().broker, lists);
    tokio::task::spawn_local(go_on(Rc::clone(hub), look, reply));
}

/// Until all is told, or nobody waits for it any more.
async fn go_on(hub: SharedHub, mut look: Look, reply: oneshot::Sender<Status>) {
    while !look.is_over() {
        if reply.is_closed() {
            return;
        }
        hub.borrow().look_on(&mut look);
        tokio::task::yield_now().await;
    }
    let state = hub.borrow_mut().end_look(look);
    let _ = reply.send(state);
}
