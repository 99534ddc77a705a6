//! Links that can't be, and what is said of them.

use event_manager_wire::model::Endpoint;
use serde_json::{Value, json};

use super::{free_address, free_addresses, hub_of, wait_linked};
use crate::notable::{noted, wait_for, with_code};
use crate::support::peers::{is_silent, publish, received, socket};
use crate::support::program::Site;
use crate::support::raw::{COMMAND, RawPeer, command, greeting, ready_with};
use crate::support::{PATIENCE, TestDaemon};

fn dialled_with(address: &str, properties: &[(&str, &[u8])]) -> RawPeer {
    let mut peer = RawPeer::connect(address);
    peer.send(&greeting());
    peer.send_while_heard(&ready_with("XSUB", properties));
    peer
}

#[test]
fn a_hub_is_told_who_it_dialled_and_gets_no_events_of_hubs() {
    let all = free_addresses(2);
    let hubs = [0, 1].map(|n| TestDaemon::with(|config| hub_of(config, &all[n], &all)));
    hubs.iter().for_each(|hub| wait_linked(hub, 1));
    let id = hubs[0].status().mesh.hub;
    let mut third = dialled_with(&hubs[0].subscribers(), &[("x-em-hub", b"00112233445566AA")]);
    third.read_exactly(64);
    assert!(third.read_frame().1.starts_with(b"\x05READY"));
    let (flags, hub) = third.read_frame();
    let expected = [b"\x05EMHUB", id.as_bytes()].concat();
    assert_eq!((flags, &hub[..hub.len() - 8]), (COMMAND, &expected[..]));
    third.send(&command("SUBSCRIBE", b""));
    third.settle();
    let known = hubs[0].status().mesh.hubs;
    let known: Vec<_> = known.iter().map(|hub| (&*hub.hub, hub.prefixes)).collect();
    assert!(known.contains(&("00112233445566aa", 1)), "{known:?}");
    // What another hub's clients publish is for our own clients only. That a hub wants everything is no
    // wish of ours.
    assert_eq!(hubs[0].status().mesh.links[0].prefixes, 0);
    let heard = hubs[0].subscriber(&[""]);
    hubs[1].wait_for("the prefix", |status| status.mesh.hubs[0].prefixes == 1);
    publish(&hubs[1].publisher(), "Order", "of a hub");
    assert_eq!(received(&heard), "of a hub");
    publish(&hubs[0].publisher(), "Order", "of a client");
    assert_eq!(received(&heard), "of a client");
    assert_eq!(
        third.read_message(),
        [b"Order".to_vec(), b"of a client".to_vec()]
    );
    assert!(third.is_silent(50));
}

#[test]
fn what_is_no_id_of_a_hub_is_refused() {
    let daemon = TestDaemon::start();
    let long = [b'a'; 300];
    let once: (&str, &[u8]) = ("X-EM-Hub", b"00112233445566aa");
    for properties in [
        &[("X-EM-Hub", &b""[..])][..],
        &[("X-EM-Hub", b"00112233445566a")],
        &[("X-EM-Hub", b"00112233445566aaa")],
        &[("X-EM-Hub", b"00112233445566ag")],
        &[("X-EM-Hub", &long)],
        &[once, once],
        &[once, ("x-em-hub", b"ffffffffffffffff")],
    ] {
        let before = daemon
            .status()
            .peers
            .refused
            .get("handshake-failed")
            .copied();
        let mut peer = dialled_with(&daemon.subscribers(), properties);
        peer.read_to_end();
        daemon.wait_for("the refusal", |status| {
            status.peers.refused.get("handshake-failed").copied() > before
        });
    }
    let noted = wait_for(&daemon, "EM-0602");
    assert!(
        noted.fields["why"]
            .as_str()
            .expect("a text")
            .contains("its X-EM-Hub is not 16 hex digits")
    );
    assert!(daemon.status().mesh.hubs.is_empty());
}

#[test]
fn a_hub_that_dials_itself_is_refused() {
    let own = free_address();
    // By another name than its own, so that it isn't plain to see.
    let daemon = TestDaemon::with(|config| {
        config.sub_addresses = vec![own.clone()];
        config.mesh.peers = vec![own.clone().into()];
    });
    let status = daemon.wait_for("the refusal", |status| {
        status.mesh.links[0].failed_tries > 1
    });
    let why = status.mesh.links[0]
        .last_error
        .as_deref()
        .expect("an error");
    assert!(why.contains("it is this daemon itself"), "{why}");
    assert!(!status.mesh.links[0].connected && status.mesh.links[0].refused);
    wait_for(&daemon, "EM-0623");
    // Each is said once, however often it is tried; and nobody is told to look for a client.
    daemon.wait_for("more tries", |status| status.mesh.links[0].failed_tries > 8);
    let all = noted(&daemon);
    for code in ["EM-0622", "EM-0623"] {
        assert_eq!(with_code(&all, code).len(), 1, "{all:#?}");
    }
    assert_eq!(daemon.status().peers.refused_again, []);
    let ended = Site::of(&daemon).run(&["doctor", "--json"]);
    let report: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("a list").iter();
    let mut found = findings.filter(|finding| finding["code"] == "EM-9030");
    let found = found.next().expect("a finding");
    let (text, mend) = (found["text"].to_string(), found["mend"].to_string());
    assert!(text.contains("remove it from mesh.peers"), "{text}");
    assert!(!mend.contains("start the event manager"), "{mend}");
    assert!(mend.contains(&own.to_string()), "{mend}");
    // Somebody who says that he is us hears who we are, and no more.
    let id = status.mesh.hub;
    let mut peer = dialled_with(&daemon.subscribers(), &[("X-EM-Hub", id.as_bytes())]);
    peer.send_while_heard(&command("SUBSCRIBE", b""));
    let heard = peer.read_to_end();
    let hub = heard.windows(6).position(|part| part == b"\x05EMHUB");
    assert!(hub.is_some_and(|at| heard.len() == at + 6 + 16 + 8));
    assert_eq!(daemon.status().subscribers.subscriptions, 0);
    // This one is another process, with a copy of our stateDir.
    let all = noted(&daemon);
    let refused = with_code(&all, "EM-0623");
    let why = refused.last().expect("a refusal").fields["why"].to_string();
    assert!(why.contains("its stateDir is a copy of ours"), "{why}");
}

#[test]
fn one_hub_is_linked_once() {
    let both = free_addresses(2);
    let there = TestDaemon::with(|config| config.sub_addresses = both.clone());
    let here = TestDaemon::with(|config| {
        config.mesh.peers = both.iter().cloned().map(Into::into).collect();
    });
    let status = here.wait_for("the refusal", |status| {
        let links = &status.mesh.links;
        links.iter().any(|link| link.connected) && links.iter().any(|link| link.failed_tries > 1)
    });
    let refused = status.mesh.links.iter().find(|link| !link.connected);
    let why = refused
        .and_then(|link| link.last_error.clone())
        .expect("an error");
    assert!(
        why.contains("already: its events would come twice"),
        "{why}"
    );
    let heard = here.subscriber(&[""]);
    there.wait_for("the prefix", |status| {
        status.mesh.hubs.iter().map(|hub| hub.prefixes).sum::<u64>() == 1
    });
    publish(&there.publisher(), "Order", "once");
    assert_eq!(received(&heard), "once");
    assert!(is_silent(&heard, 50));
}

/// An XPUB of libzmq takes no notice, and is given up after a while; so is an event manager of before.
#[test]
fn what_is_no_hub_is_refused() {
    let context = zmq::Context::new();
    let xpub = socket(&context, zmq::XPUB);
    xpub.bind("tcp://127.0.0.1:*").expect("a port");
    let address = xpub.get_last_endpoint().expect("an option").expect("text");
    let here = TestDaemon::with(|config| {
        config.mesh.peers = vec![address.parse::<Endpoint>().expect("an address").into()];
        config.handshake_timeout = std::time::Duration::from_millis(200);
    });
    let _heard = here.subscriber(&[""]);
    let status = here.wait_for("the refusal", |status| {
        status.mesh.links[0].last_error.is_some()
    });
    let why = status.mesh.links[0]
        .last_error
        .as_deref()
        .expect("an error");
    assert!(why.contains("use connectPublishers for others"), "{why}");
    // It was asked for nothing.
    assert!(is_silent(&xpub, 50));

    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("tcp://{}", listener.local_addr().expect("it is bound"));
    let here = TestDaemon::with(|config| {
        config.mesh.peers = vec![address.parse::<Endpoint>().expect("an address").into()];
    });
    let (stream, _) = listener.accept().expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("an option");
    let mut old = RawPeer(stream);
    old.send(&greeting());
    old.send(&crate::support::raw::ready("XPUB", ""));
    old.send(&command("EMTRACE", &[0; 16]));
    let begun = old.read_to_end();
    let said = String::from_utf8_lossy(&begun).into_owned();
    assert!(
        said.contains("X-EM-Hub") && !said.contains("SUBSCRIBE"),
        "{said}"
    );
    let status = here.wait_for("the refusal", |status| {
        status.mesh.links[0].last_error.is_some()
    });
    let why = status.mesh.links[0]
        .last_error
        .as_deref()
        .expect("an error");
    assert!(why.contains("an event manager without a mesh"), "{why}");
}

#[test]
fn who_may_not_be_a_hub_is_refused() {
    let there = TestDaemon::with(|config| {
        let security = json!({"anonymous": {"subscribe": [""], "requests": ["*"]}});
        config.security = serde_json::from_value(security).expect("a configuration");
    });
    let address: Endpoint = there.subscribers().parse().expect("an address");
    let here = TestDaemon::with(|config| config.mesh.peers = vec![address.clone().into()]);
    there.wait_for("the refusal", |status| {
        status
            .peers
            .refused
            .get("forbidden")
            .is_some_and(|times| *times > 0)
    });
    assert!(!here.status().mesh.links[0].connected);
    let noted = wait_for(&there, "EM-0607");
    let why = noted.fields["why"].as_str().expect("a text");
    assert!(why.contains("peers without a key may not be a hub of the mesh; what it may is in security.anonymous.hub"), "{why}");
}
