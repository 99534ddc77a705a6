//! Which events reach whom: prefixes, exact subjects, globs, and their union.

use super::support::TestDaemon;
use super::support::peers::{publish, received};

/// Ends what each receiver reads.
const END: &str = "THE-END";

/// Publishes these subjects; what of them each of these services' workers gets.
fn routed(daemon: &TestDaemon, services: &[&[&str]], subjects: &[&str]) -> Vec<Vec<String>> {
    let publisher = daemon.publisher();
    let workers: Vec<_> = services
        .iter()
        .enumerate()
        .map(|(n, patterns)| {
            let name = format!("Service{n}");
            let patterns: Vec<&str> = patterns.iter().copied().chain(["exact:THE-END"]).collect();
            let subscribed = daemon.subscribe(&name, &name, &patterns);
            daemon.worker(&name, &subscribed.pull_address)
        })
        .collect();
    for subject in subjects.iter().chain([&END]) {
        publish(&publisher, subject, subject);
    }
    let read = |worker: &zmq::Socket| {
        std::iter::repeat_with(|| received(worker))
            .take_while(|data| data != END)
            .collect()
    };
    workers.iter().map(read).collect()
}

#[test]
fn pos1_and_pos10_in_each_dialect() {
    let subjects = ["POS1", "POS10", "POS1.Sale", "POS2", "POS", "XPOS1", "pos1"];
    let cases: [(&[&str], &[&str]); 12] = [
        (&["POS1"], &["POS1", "POS10", "POS1.Sale"]),
        (&["prefix:POS1"], &["POS1", "POS10", "POS1.Sale"]),
        (&["exact:POS1"], &["POS1"]),
        (&["exact:POS10"], &["POS10"]),
        (&["glob:POS1"], &["POS1"]),
        (&["glob:POS1*"], &["POS1", "POS10"]),
        (&["glob:POS1**"], &["POS1", "POS10", "POS1.Sale"]),
        (&["glob:POS?"], &["POS1", "POS2"]),
        (&["glob:POS1?"], &["POS10"]),
        (&["glob:*.Sale"], &["POS1.Sale"]),
        (&["exact:POS1", "exact:POS10"], &["POS1", "POS10"]),
        (&["POS10", "exact:POS1"], &["POS1", "POS10"]),
    ];
    let daemon = TestDaemon::start();
    let services = cases.map(|(patterns, _)| patterns);
    let got = routed(&daemon, &services, &subjects);
    for ((patterns, expected), got) in cases.iter().zip(got) {
        assert_eq!(got, *expected, "{patterns:?}");
    }
}

/// Plain subscribers know prefixes only, as with libzmq: the dialects' words are part of them.
#[test]
fn pos1_and_pos10_for_plain_subscribers() {
    let daemon = TestDaemon::start();
    let publisher = daemon.publisher();
    let subjects = ["POS1", "POS10", "exact:POS1", "glob:POS1"];
    for (prefix, expected) in [
        ("POS1", &["POS1", "POS10"][..]),
        ("POS10", &["POS10"]),
        ("exact:POS1", &["exact:POS1"]),
        ("", &subjects),
    ] {
        let subscriber = daemon.subscriber(&[prefix]);
        for subject in subjects {
            publish(&publisher, subject, subject);
        }
        for subject in expected {
            assert_eq!(received(&subscriber), *subject, "{prefix}");
        }
        drop(subscriber);
        daemon.wait_for_subscriptions(0);
    }
}

#[test]
fn globs_know_words() {
    let subjects = [
        "order",
        "order.created",
        "order.created.v2",
        "user.created",
        "order.",
    ];
    let cases: [(&[&str], &[&str]); 6] = [
        (&["glob:order.*"], &["order.created", "order."]),
        (
            &["glob:order.**"],
            &["order.created", "order.created.v2", "order."],
        ),
        (&["glob:*.created"], &["order.created", "user.created"]),
        (&["glob:**.v2"], &["order.created.v2"]),
        (&["glob:*"], &["order"]),
        (&["glob:**"], &subjects),
    ];
    let daemon = TestDaemon::start();
    let services = cases.map(|(patterns, _)| patterns);
    for ((patterns, expected), got) in cases.iter().zip(routed(&daemon, &services, &subjects)) {
        assert_eq!(got, *expected, "{patterns:?}");
    }
}

/// However many of its subscriptions match, each service gets each event once.
#[test]
fn the_union_of_subscriptions_gives_each_event_once() {
    let daemon = TestDaemon::start();
    let all: &[&str] = &[
        "",
        "Order",
        "OrderC",
        "exact:OrderCreated",
        "glob:Order*",
        "glob:**",
        "prefix:O",
    ];
    for (n, pattern) in all.iter().enumerate() {
        for service in ["Service0", "Service1"] {
            daemon.subscribe(&format!("more-{service}-{n}"), service, &[pattern]);
        }
    }
    let subjects = [
        "OrderCreated",
        "Order",
        "OrderCreated",
        "Refund",
        "OrderCreated",
    ];
    assert_eq!(
        routed(&daemon, &[all, &["Order"]], &subjects),
        [subjects; 2]
    );
    for service in ["Service0", "Service1"] {
        assert_eq!(daemon.service(service).counters.matched, 6);
    }
}

#[test]
fn the_empty_subject_is_everything() {
    let daemon = TestDaemon::start();
    let subjects = ["", "a", "ü.ö", "0", " "];
    let got = routed(&daemon, &[&[""], &["prefix:"], &["glob:**"]], &subjects);
    assert_eq!(got, [subjects; 3]);
}

/// The subject is what stands before the first NUL of the first frame; one frame is enough.
#[test]
fn the_subject_ends_at_its_first_nul() {
    let daemon = TestDaemon::start();
    let publisher = daemon.publisher();
    let subscribed = daemon.subscribe("s1", "Billing", &["exact:POS1"]);
    let worker = daemon.worker("Billing", &subscribed.pull_address);
    for event in ["POS1\0first", "POS10\0no", "\0POS1", "POS1", "POS1\0\0last"] {
        publisher.send(event, 0).expect("a send");
    }
    for expected in ["POS1\0first", "POS1", "POS1\0\0last"] {
        assert_eq!(received(&worker), expected);
    }
}

/// A subject that is longer than any pattern may be still matches prefixes and globs.
#[test]
fn long_subjects() {
    let daemon = TestDaemon::with(|config| config.limits.subject_bytes_max = 20);
    let long = ["POS1.", &"x".repeat(500)].concat();
    let services: [&[&str]; 4] = [
        &["POS1."],
        &["glob:POS1.**"],
        &["glob:POS1.*"],
        &["exact:POS1."],
    ];
    let got = routed(&daemon, &services, &[&long]);
    assert_eq!(
        got,
        [vec![long.clone()], vec![long.clone()], vec![long], vec![]]
    );
}
