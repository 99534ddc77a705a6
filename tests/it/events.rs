//! The way of an event.

use super::support::TestDaemon;
use super::support::peers::{publish, received};

#[test]
fn an_event_reaches_subscribers_and_a_worker() {
    let daemon = TestDaemon::start();
    let subscribed = daemon.subscribe("sub-1", "Billing", &["Order"]);
    assert_eq!(subscribed.pub_address, daemon.publishers());
    let worker = daemon.worker("Billing", &subscribed.pull_address);
    let subscriber = daemon.subscriber(&["Order"]);
    let publisher = daemon.publisher();
    for n in 0..1000 {
        publish(&publisher, "OrderCreated", &n.to_string());
    }
    for n in 0..1000 {
        assert_eq!(received(&worker), n.to_string());
        assert_eq!(received(&subscriber), n.to_string());
    }
}
