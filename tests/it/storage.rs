//! How much the services of a client may keep on disk.

use event_manager_wire::api::Status;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::rights::Changing;
use super::support::TestDaemon;
use super::support::peers::{publish, received};

/// One event of three takes between a quarter and a third of that.
const QUOTA: u64 = 2000;
const BODY: [u8; 500] = [b'x'; 500];

fn keys(directory: &TempDir, quota: Option<u64>) -> Value {
    let quotas = quota.map_or(json!({}), |quota| json!({"storedBytes": quota}));
    json!({
        "stateDir": directory.path(),
        "services": {
            "Billing": {"delivery": "queue"},
            "Shipping": {"delivery": "queue"},
            "Declared": {"delivery": "queue", "subjects": ["declared."]},
        },
        "security": {"anonymous": {
            "publish": [""], "subscribe": [""], "services": ["*"], "requests": ["*"],
            "quotas": quotas,
        }},
    })
}

/// The answer's token, and what it says.
fn emit(daemon: &TestDaemon, subject: &str) -> (String, String) {
    let body = String::from_utf8_lossy(&BODY);
    let (token, said) = daemon.ask("TK_EVENT_MANAGER_EMIT", &["", "disk", subject, &body]);
    (token, said)
}

fn accepted(daemon: &TestDaemon, subject: &str) {
    let (token, said) = emit(daemon, subject);
    assert_eq!(token, "TK_SYS_ACK", "{said}");
}

fn stored(status: &Status) -> u64 {
    let mut clients = status.security.clients.iter();
    let anonymous = clients.find(|client| client.name == "anonymous");
    anonymous.map_or(0, |client| client.stored_bytes)
}

fn dropped(status: &Status, service: &str) -> u64 {
    let service = status.service(service).expect("it is there");
    service.counters.dropped.get("quota").copied().unwrap_or(0)
}

#[test]
fn services_of_a_client_keep_as_much_as_it_may() {
    let directory = TempDir::new().expect("a directory");
    let keys = |quota| keys(&directory, quota);
    let changing = Changing::new(&keys(Some(QUOTA)));
    let daemon = &changing.daemon;
    let billing = daemon.subscribe("1", "Billing", &["order."]);
    daemon.subscribe("2", "Shipping", &["order.sent", "parcel."]);
    let subscriber = daemon.subscriber(&["order."]);
    for subject in ["order.1", "order.2", "parcel.1"] {
        accepted(daemon, subject);
    }
    let held = stored(&daemon.status());
    assert!(held > 3 * BODY.len() as u64 && held <= QUOTA, "{held}");
    for subject in ["order.3", "parcel.2", "order.sent"] {
        let (token, said) = emit(daemon, subject);
        assert_eq!(token, "TK_SYS_NAK", "{said}");
        assert!(said.starts_with("busy: "), "{said}");
        assert!(
            said.contains("security.anonymous.quotas.storedBytes"),
            "{said}"
        );
    }
    // What is declared is nobody's.
    accepted(daemon, "declared.1");
    // Publishers aren't asked: others get the event, and what is dropped is counted.
    let publisher = daemon.publisher();
    publish(&publisher, "order.sent", &String::from_utf8_lossy(&BODY));
    for _ in 0..2 {
        received(&subscriber);
    }
    assert_eq!(received(&subscriber).len(), BODY.len());
    let status = daemon.wait_for("a drop", |status| dropped(status, "Shipping") == 1);
    assert_eq!(dropped(&status, "Billing"), 1);
    assert_eq!(stored(&status), held);

    let worker = daemon.worker("Billing", &billing.pull_address);
    for _ in 0..2 {
        received(&worker);
    }
    daemon.wait_for("room", |status| stored(status) < held / 2);
    accepted(daemon, "order.4");
    received(&worker);
    daemon.wait_for("room", |status| stored(status) < held / 2);
    // Less than there is: nothing is dropped for that.
    changing.change(&keys(Some(100)));
    let (token, said) = emit(daemon, "parcel.3");
    assert_eq!(token, "TK_SYS_NAK", "{said}");
    assert_eq!(daemon.service("Shipping").counters.queued, 1);
    changing.change(&keys(None));
    for _ in 0..9 {
        accepted(daemon, "parcel.4");
    }
    changing.change(&keys(Some(QUOTA)));
    assert!(stored(&daemon.status()) > QUOTA);
    assert_eq!(emit(daemon, "order.5").0, "TK_SYS_NAK");
}

#[test]
fn what_services_keep_counts_after_a_restart() {
    let directory = TempDir::new().expect("a directory");
    let first = TestDaemon::in_own_process(&keys(&directory, Some(QUOTA)));
    first.subscribe("1", "Billing", &["order."]);
    for _ in 0..3 {
        accepted(&first, "order.1");
    }
    let held = stored(&first.status());
    first.ask("TK_EVENT_MANAGER_UNSUBSCRIBE", &["1"]);
    first.wait_for("what is kept", |status| status.state.written);
    first.kill();
    let second = TestDaemon::in_own_process(&keys(&directory, Some(QUOTA)));
    second.wait_for("what is there", |status| stored(status) >= held);
    assert_eq!(emit(&second, "order.2").0, "TK_SYS_NAK");
    let publisher = second.publisher();
    publish(&publisher, "order.2", &String::from_utf8_lossy(&BODY));
    second.wait_for("a drop", |status| dropped(status, "Billing") == 1);
}
