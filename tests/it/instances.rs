//! Instances of other programs: peers that send the heartbeats of ScheduleZero's broker, and know nothing of us.

mod fenced;
mod floods;
mod found;
mod kept;
mod meshed;
mod shown;

use std::time::{Duration, Instant};

use event_manager::config::Config;
use event_manager_wire::api::{Instance, InstanceState, Instances, InstancesPage};
use serde_json::json;

use super::support::{PATIENCE, TestDaemon};

/// As that broker writes it.
pub fn heartbeat(id: &str, pid: i64) -> String {
    said("heartbeat", id, pid)
}

pub fn said(kind: &str, id: &str, pid: i64) -> String {
    format!(
        r#"{{"type": "{kind}", "instance_id": "{id}", "pid": {pid}, "address": "tcp://0.0.0.0:5555"}}"#
    )
}

/// What observes them, with short times.
pub fn observing(config: &mut Config) {
    config.instances.heartbeat = r#"{"type": "heartbeat""#.into();
    config.instances.interval = Duration::from_millis(100);
    config.instances.timeout = Duration::from_millis(300);
}

/// The same as a file has it.
pub fn settings() -> serde_json::Value {
    json!({"heartbeat": r#"{"type": "heartbeat""#, "interval": 0.1, "timeout": 0.3})
}

pub fn send(publisher: &zmq::Socket, text: &str) {
    publisher.send(text, 0).expect("a send");
}

/// The instances as INSTANCES answers, with all of the history.
pub fn page(daemon: &TestDaemon) -> InstancesPage {
    daemon.client(PATIENCE).instances(1000).expect("an answer")
}

pub fn find(page: &InstancesPage, id: &str) -> Instance {
    let mut known = page.instances.known.iter();
    let found = known.find(|one| one.id == id);
    found
        .cloned()
        .unwrap_or_else(|| panic!("{id} is not known: {page:#?}"))
}

/// Waits until they are so.
pub fn wait_for(
    daemon: &TestDaemon,
    what: &str,
    wanted: impl Fn(&Instances) -> bool,
) -> InstancesPage {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let page = page(daemon);
        if wanted(&page.instances) {
            return page;
        }
        assert!(Instant::now() < deadline, "{what} did not come: {page:#?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn state_of(instances: &Instances, id: &str) -> Option<InstanceState> {
    let mut known = instances.known.iter();
    known.find(|one| one.id == id).map(|one| one.state)
}

/// So many changes of who leads, as instance and kind.
pub fn turns(page: &InstancesPage) -> Vec<(String, String)> {
    let history = page.history.iter();
    history
        .map(|turn| (turn.instance.clone(), turn.kind.clone()))
        .collect()
}
