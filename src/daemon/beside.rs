//! What runs beside the reactor and control, each on a thread of its own, if the configuration has it.

use std::io;

use super::savers::Savers;
use crate::bridges::Bridges;
use crate::config::Config;
use crate::instances::Instances;
use crate::lease;
use crate::reactor::Reactor;
use crate::telemetry::Journal;

/// Bridges, the registry of instances, and who asks the engine that keeps clients' leases.
#[derive(Debug, Default)]
pub(super) struct Beside {
    bridges: Option<Bridges>,
    instances: Option<Instances>,
    leases: Option<lease::Clients>,
}

impl Beside {
    /// Starts what is wanted.
    ///
    /// # Errors
    /// The system gives no thread. Some may run.
    pub(super) fn start(
        &mut self,
        config: &Config,
        reactor: &Reactor,
        savers: &mut Savers,
        journal: &Journal,
    ) -> io::Result<()> {
        let inputs = || reactor.inputs.clone();
        self.bridges = Bridges::start(config, inputs(), reactor.hub_id, journal.clone())?;
        if let Some((sightings, former)) = savers.instances.take() {
            let told = (inputs(), savers.turn.take());
            let config = &config.instances;
            let started = Instances::start(config, sightings, former, told, journal.clone())?;
            self.instances = Some(started);
        }
        if let Some(asked) = savers.leases.take() {
            let started = lease::Clients::start(config, asked, inputs(), journal.clone())?;
            self.leases = Some(started);
        }
        Ok(())
    }

    /// Ends those that would go on beside a reactor that ends; whether they ended well.
    pub(super) fn stop(&mut self) -> bool {
        let bridges_ended_well = self.bridges.take().is_none_or(Bridges::stop);
        let instances_ended_well = self.instances.take().is_none_or(Instances::stop);
        bridges_ended_well && instances_ended_well
    }

    /// Waits for those that end with the reactor; whether they ended well.
    pub(super) fn join(self) -> bool {
        self.leases.is_none_or(lease::Clients::join)
    }
}
