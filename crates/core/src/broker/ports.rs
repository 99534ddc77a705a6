//! Ports for services.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::RangeInclusive;

use super::ids::ServiceKey;
use event_manager_wire::model::ServiceName;

/// Why a streamer could not be bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindFailure {
    /// The port is in use: the next one may be free.
    InUse,
    /// No port will do, such as when file descriptors ran out; says why.
    Hopeless(String),
}

/// What the broker asks of the shell: listeners for services.
pub trait Streamers {
    /// Binds a ROUTER for the service on this port (0: one that the system chooses) and returns the
    /// port. When it returns, connections are accepted.
    ///
    /// # Errors
    /// [`BindFailure`]; nothing is bound then.
    fn open(&mut self, service: ServiceKey, port: u16) -> Result<u16, BindFailure>;
}

/// For how many services that are gone their port is remembered.
const REMEMBERED_MAX: usize = 10_000;

/// The range from which services get their ports.
///
/// A service gets the port that it had before, if that is free; else the one that was never used or
/// has been free for the longest time, because libzmq peers of a service that is gone dial its old
/// port for ever.
#[derive(Debug)]
pub struct PortRange {
    range: RangeInclusive<u16>,
    /// Free ports, the one to take first at the front.
    free: VecDeque<u16>,
    /// The port that a service had, and the age of that memory.
    remembered: HashMap<ServiceName, (u16, u64)>,
    /// The remembered names, oldest first.
    ages: BTreeMap<u64, ServiceName>,
    age: u64,
    /// Names that are not remembered any more, for those who keep them elsewhere.
    forgotten: Vec<ServiceName>,
    /// Who had each port last.
    holders: HashMap<u16, Holder>,
}

#[derive(Debug)]
struct Holder {
    service: ServiceName,
    /// Others had the port, too: their workers may still dial it.
    is_shared: bool,
}

impl PortRange {
    /// `0..=0` lets the system choose each port.
    pub fn new(range: RangeInclusive<u16>) -> Self {
        let free = if *range.end() == 0 {
            VecDeque::new()
        } else {
            range.clone().collect()
        };
        Self {
            range,
            free,
            remembered: HashMap::new(),
            ages: BTreeMap::new(),
            age: 0,
            forgotten: Vec::new(),
            holders: HashMap::new(),
        }
    }

    /// Binds a port for the service.
    ///
    /// # Errors
    /// A sentence that says why there is none.
    pub(super) fn open(
        &mut self,
        name: &ServiceName,
        service: ServiceKey,
        streamers: &mut dyn Streamers,
    ) -> Result<u16, String> {
        if *self.range.end() == 0 {
            let port = self.open_any(name, service, streamers)?;
            self.hold(name, port, false);
            return Ok(port);
        }
        if let Some(at) = self
            .remembered
            .get(name)
            .and_then(|(port, _)| self.free.iter().position(|p| p == port))
            && let Some(port) = self.free.remove(at)
        {
            self.free.push_front(port);
        }
        for at in 0..self.free.len() {
            match streamers.open(service, self.free[at]) {
                Ok(port) => {
                    self.free.remove(at);
                    self.hold(name, port, false);
                    return Ok(port);
                }
                Err(BindFailure::InUse) => {}
                Err(BindFailure::Hopeless(why)) => return Err(why),
            }
        }
        let (min, max) = (self.range.start(), self.range.end());
        Err(format!(
            "no port of {min}-{max} is free for service {name:?}"
        ))
    }

    /// Binds this port and no other for the service.
    ///
    /// # Errors
    /// A sentence that says why it can't.
    pub(super) fn open_same(
        &mut self,
        name: &ServiceName,
        port: u16,
        service: ServiceKey,
        streamers: &mut dyn Streamers,
    ) -> Result<u16, String> {
        if port == 0 {
            return Err("it had none".into());
        }
        let at = self.free.iter().position(|free| *free == port);
        if at.is_none() && *self.range.end() != 0 {
            let (min, max) = (self.range.start(), self.range.end());
            return Err(format!("it is not a free port of {min}-{max}"));
        }
        match streamers.open(service, port) {
            Ok(port) => {
                at.and_then(|at| self.free.remove(at));
                self.hold(name, port, false);
                Ok(port)
            }
            Err(BindFailure::InUse) => Err("it is in use".into()),
            Err(BindFailure::Hopeless(why)) => Err(why),
        }
    }

    fn hold(&mut self, service: &ServiceName, port: u16, is_shared: bool) {
        let before = self.holders.get(&port);
        let is_shared =
            is_shared || before.is_some_and(|held| held.is_shared || held.service != *service);
        let holder = Holder {
            service: service.clone(),
            is_shared,
        };
        self.holders.insert(port, holder);
    }

    /// Whether another service than the last had this port, too.
    pub(super) fn is_shared(&self, port: u16) -> bool {
        self.holders.get(&port).is_some_and(|held| held.is_shared)
    }

    fn open_any(
        &self,
        name: &ServiceName,
        service: ServiceKey,
        streamers: &mut dyn Streamers,
    ) -> Result<u16, String> {
        let remembered = self.remembered.get(name).map(|(port, _)| *port);
        for port in remembered.into_iter().chain([0]) {
            match streamers.open(service, port) {
                Ok(port) => return Ok(port),
                Err(BindFailure::InUse) => {}
                Err(BindFailure::Hopeless(why)) => return Err(why),
            }
        }
        Err("the system has no free port".into())
    }

    /// The service is gone and its port is free again.
    pub(super) fn close(&mut self, name: &ServiceName, port: u16) {
        if self.range.contains(&port) && *self.range.end() != 0 {
            self.free.push_back(port);
        }
        self.remember(name, port);
    }

    /// A service had this port in an earlier run, maybe as one of several.
    pub(super) fn recall(&mut self, name: &ServiceName, port: u16, is_shared: bool) {
        if port > 0 {
            self.hold(name, port, is_shared);
            self.remember(name, port);
        }
    }

    /// Ports that some service had in an earlier run come after the others.
    pub(super) fn put_used_last(&mut self) {
        let free = std::mem::take(&mut self.free);
        let is_used = |port: &u16| self.holders.contains_key(port);
        let (used, unused): (VecDeque<_>, VecDeque<_>) = free.into_iter().partition(is_used);
        self.free = unused;
        self.free.extend(used);
    }

    /// The port that a service had when it was heard of last.
    pub(super) fn remembered(&self, name: &ServiceName) -> Option<u16> {
        self.remembered.get(name).map(|(port, _)| *port)
    }

    /// All of them.
    pub(super) fn all_remembered(&self) -> impl Iterator<Item = (&ServiceName, u16)> {
        self.remembered
            .iter()
            .map(|(name, (port, _))| (name, *port))
    }

    /// Services whose port is not remembered any more, since the last call.
    pub(super) fn take_forgotten(&mut self) -> Vec<ServiceName> {
        std::mem::take(&mut self.forgotten)
    }

    /// The service gets this port when it comes, if that is free.
    fn remember(&mut self, name: &ServiceName, port: u16) {
        self.age += 1;
        if let Some((_, age)) = self.remembered.insert(name.clone(), (port, self.age)) {
            self.ages.remove(&age);
        }
        self.ages.insert(self.age, name.clone());
        if self.ages.len() > REMEMBERED_MAX
            && let Some((_, oldest)) = self.ages.pop_first()
        {
            self.remembered.remove(&oldest);
            self.forgotten.push(oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Ports that others hold.
    struct Held(BTreeSet<u16>);

    impl Streamers for Held {
        fn open(&mut self, _: ServiceKey, port: u16) -> Result<u16, BindFailure> {
            let port = if port == 0 { 9000 } else { port };
            if self.0.insert(port) {
                Ok(port)
            } else {
                Err(BindFailure::InUse)
            }
        }
    }

    fn name(text: &str) -> ServiceName {
        ServiceName::new(text).unwrap()
    }

    #[test]
    fn ports_in_use_are_skipped_and_old_ones_come_back() {
        let mut ports = PortRange::new(5001..=5004);
        let mut held = Held(BTreeSet::from([5001]));
        let open = |ports: &mut PortRange, held: &mut Held, service: &str| {
            ports.open(&name(service), ServiceKey(0), held)
        };
        assert_eq!(open(&mut ports, &mut held, "A"), Ok(5002));
        assert_eq!(open(&mut ports, &mut held, "B"), Ok(5003));
        for (service, port) in [("A", 5002), ("B", 5003)] {
            held.0.remove(&port);
            ports.close(&name(service), port);
        }
        assert_eq!(
            open(&mut ports, &mut held, "C"),
            Ok(5004),
            "never used goes first"
        );
        assert_eq!(open(&mut ports, &mut held, "B"), Ok(5003), "its own again");
        assert_eq!(open(&mut ports, &mut held, "D"), Ok(5002));
        let error = open(&mut ports, &mut held, "E").unwrap_err();
        assert!(
            error.contains("no port of 5001-5004 is free") && error.contains("\"E\""),
            "{error}"
        );
    }

    #[test]
    fn ports_that_several_services_had_are_known_also_after_a_restart() {
        let mut held = Held(BTreeSet::new());
        let mut before = PortRange::new(5001..=5001);
        for service in ["A", "B", "B"] {
            let port = before.open(&name(service), ServiceKey(0), &mut held);
            assert_eq!(port, Ok(5001));
            assert_eq!(before.is_shared(5001), service == "B");
            before.close(&name(service), 5001);
            held.0.clear();
        }
        let mut after = PortRange::new(5001..=5003);
        after.recall(&name("B"), 5001, before.is_shared(5001));
        after.recall(&name("C"), 5002, false);
        after.put_used_last();
        assert_eq!(after.free, [5003, 5001, 5002]);
        assert_eq!(
            [5001, 5002, 5003].map(|port| after.is_shared(port)),
            [true, false, false]
        );
        after
            .open_same(&name("D"), 5002, ServiceKey(0), &mut held)
            .unwrap();
        assert!(after.is_shared(5002));
    }

    #[test]
    fn the_system_may_choose() {
        let mut ports = PortRange::new(0..=0);
        let mut held = Held(BTreeSet::new());
        assert_eq!(ports.open(&name("A"), ServiceKey(0), &mut held), Ok(9000));
        held.0.clear();
        ports.close(&name("A"), 9000);
        assert_eq!(ports.open(&name("A"), ServiceKey(0), &mut held), Ok(9000));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut ports = PortRange::new(0..=0);
        for n in 0..REMEMBERED_MAX + 5 {
            ports.close(&name(&n.to_string()), 1);
        }
        assert_eq!(
            (ports.remembered.len(), ports.ages.len()),
            (REMEMBERED_MAX, REMEMBERED_MAX)
        );
        assert!(!ports.remembered.contains_key("0"));
        assert_eq!(ports.take_forgotten().len(), 5);
    }
}
