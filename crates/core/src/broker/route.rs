//! Who gets an event.

use std::collections::HashMap;
use std::rc::Rc;

use super::ids::{PeerId, ServiceKey};

/// One who gets events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Receiver {
    /// A connection to the subscribers' socket.
    Subscriber(PeerId),
    /// A service, which gives the event to one of its workers.
    Service(ServiceKey),
}

/// Everybody who gets an event, each once.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Connections of the forwarder's side.
    pub subscribers: Box<[PeerId]>,
    pub services: Box<[ServiceKey]>,
}

impl Route {
    /// Whether nobody gets it.
    pub fn is_empty(&self) -> bool {
        self.subscribers.is_empty() && self.services.is_empty()
    }

    fn to(receivers: &[Receiver]) -> Self {
        let subscriber = |receiver: &Receiver| match receiver {
            Receiver::Subscriber(peer) => Some(*peer),
            Receiver::Service(_) => None,
        };
        let service = |receiver: &Receiver| match receiver {
            Receiver::Service(service) => Some(*service),
            Receiver::Subscriber(_) => None,
        };
        Self {
            subscribers: receivers.iter().filter_map(subscriber).collect(),
            services: receivers.iter().filter_map(service).collect(),
        }
    }
}

/// By what way an event came here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Via {
    /// From a client: it goes everywhere.
    #[default]
    Client,
    /// From another broker, by a bridge: no service gets it that passes events on, so that it doesn't go
    /// round.
    Bridge,
    /// From another event manager: no hub of a mesh gets it either.
    Hub,
}

/// What routes take that nobody uses any more, before they are looked for; and those in use, before
/// subjects are forgotten for them.
const BYTES_MAX: usize = 16 << 20;

/// Each route once, so that equal ones are told by their address.
#[derive(Debug, Default)]
pub(super) struct Routes {
    all: HashMap<Box<[Receiver]>, Rc<Route>>,
    bytes: usize,
}

impl Routes {
    /// The route to these receivers, which are sorted.
    pub(super) fn to(&mut self, receivers: &[Receiver]) -> Rc<Route> {
        if let Some(known) = self.all.get(receivers) {
            return Rc::clone(known);
        }
        let route = Rc::new(Route::to(receivers));
        self.bytes += bytes_of(receivers);
        self.all.insert(receivers.into(), Rc::clone(&route));
        route
    }

    /// Whether it has to be made smaller.
    pub(super) fn are_many(&self) -> bool {
        self.bytes > BYTES_MAX
    }

    /// Forgets those that nobody else has; whether there is some room for others now.
    pub(super) fn forget_unused(&mut self) -> bool {
        self.all.retain(|_, route| Rc::strong_count(route) > 1);
        self.bytes = self.all.keys().map(|receivers| bytes_of(receivers)).sum();
        self.bytes <= BYTES_MAX / 2
    }
}

/// What a route takes, about.
fn bytes_of(receivers: &[Receiver]) -> usize {
    128 + size_of_val(receivers) + receivers.len() * size_of::<PeerId>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_bounded_and_those_in_use_stay() {
        let mut routes = Routes::default();
        let to = |n: u32| [Receiver::Service(ServiceKey(n))];
        let used = routes.to(&to(0));
        let mut n = 0;
        while !routes.are_many() {
            n += 1;
            routes.to(&to(n));
        }
        assert!(n > 50_000);
        assert!(routes.forget_unused());
        assert_eq!(routes.all.len(), 1);
        assert!(Rc::ptr_eq(&routes.to(&to(0)), &used));
        assert_eq!(*used.services, [ServiceKey(0)]);
    }
}
