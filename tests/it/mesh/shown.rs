//! Where the links of a mesh show.

use serde_json::Value;

use super::{free_address, mesh_with, subscriber};
use crate::notable::{noted, wait_for, with_code};
use crate::support::peers::{publish, received};
use crate::support::program::Site;
use event_manager_wire::model::Endpoint;

#[test]
fn links_are_named_and_counted() {
    let missing = free_address();
    let hubs = mesh_with(2, |n, config| {
        config.http_address = Some(Endpoint::tcp("127.0.0.1", 0));
        if n == 0 {
            config.mesh.peers.push(missing.clone().into());
        }
    });
    let (here, there) = (&hubs[0], &hubs[1]);
    let heard = subscriber(here, &[there], "Order");
    publish(&there.publisher(), "Order", "heard");
    assert_eq!(received(&heard), "heard");
    let [own, other] = [here, there].map(|hub| hub.status().mesh.hub);
    let linked = wait_for(here, "EM-0621");
    assert_eq!(linked.fields["hub"], Value::from(&*other));
    let all = noted(here);
    let mut lost = with_code(&all, "EM-0622").into_iter();
    assert!(
        lost.any(|lost| lost.fields["peer"] == missing.to_string()),
        "{all:?}"
    );

    let address = there.subscribers();
    let printed = Site::of(here).run(&["services"]).done();
    for line in [
        format!("mesh: {address} is linked (hub {other}), 1 events came"),
        format!("mesh: {missing} is not linked: "),
    ] {
        assert!(printed.contains(&line), "{printed}");
    }
    let printed = Site::of(there).run(&["services"]).done();
    assert!(
        printed.contains(&format!("mesh: hub {own} at ")),
        "{printed}"
    );
    assert!(
        printed.contains("got 1 events, 0 were dropped"),
        "{printed}"
    );

    let ended = Site::of(here).run(&["doctor", "--json"]);
    let report: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("a list");
    let found = findings.iter().find(|finding| finding["code"] == "EM-9030");
    let text = found.expect("a finding")["text"].as_str().expect("a text");
    assert!(
        text.contains(&format!("the hub at {missing} has not been linked")),
        "{text}"
    );

    let metrics = here.metrics();
    for (name, label, of, expected) in [
        ("mesh_link_connected", "peer", &address, 1.0),
        ("mesh_link_connected", "peer", &missing.to_string(), 0.0),
        ("mesh_events_received_total", "peer", &address, 1.0),
        ("mesh_hub_connected", "hub", &other, 1.0),
    ] {
        let value = metrics.value(&format!("event_manager_{name}"), &[(label, of)]);
        assert!((value - expected).abs() < 0.1, "{name} {of}: {value}");
    }
    let sent = there
        .metrics()
        .value("event_manager_mesh_events_sent_total", &[]);
    assert!((sent - 1.0).abs() < 0.1, "{sent}");
}
