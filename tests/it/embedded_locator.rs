//! The ServiceLocator in the daemon, used by the daemon itself.

use std::time::{Duration, Instant};

use event_manager::daemon::Daemon;
use event_manager::outbound::RegistrationState;
use event_manager_wire::model::Endpoint;

use super::support::{PATIENCE, config};

#[test]
fn the_daemon_registers_with_its_own_locator_on_any_interface_and_port() {
    for host in ["127.0.0.1", "*"] {
        let mut config = config();
        config.locator.embedded = true;
        config.locator.register = true;
        config.locator.address = Endpoint::tcp(host, 0);
        let daemon = Daemon::start(config).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while daemon.registration() != RegistrationState::Registered {
            assert!(Instant::now() < deadline, "not registered on {host}");
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(daemon.stop());
    }
}
