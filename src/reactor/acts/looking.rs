//! Looks at the state: each in turns, between which others have theirs.

use std::rc::Rc;

use tokio::sync::oneshot;

use crate::reactor::hub::SharedHub;
use crate::reactor::state::effects::Lists;
use event_manager_wire::api::Status;

/// Looks at the state, for who waits for the reply.
pub(crate) fn begin(hub: &SharedHub, lists: Lists, reply: oneshot::Sender<Status>) {
    tokio::task::spawn_local(look(Rc::clone(hub), lists, reply));
}

/// Goes on until all is told, or nobody waits for it any more. A look that takes one turn shows one moment, so
/// all its parts agree.
async fn look(hub: SharedHub, lists: Lists, reply: oneshot::Sender<Status>) {
    let mut look = hub.borrow().begin_look(lists);
    loop {
        if reply.is_closed() {
            return;
        }
        hub.borrow().look_on(&mut look);
        if look.is_over() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let state = hub.borrow_mut().end_look(look);
    let _ = reply.send(state);
}
