use super::*;

const fn id(slot: u32) -> PeerId {
    PeerId { slot, serial: 0 }
}

fn former(is_shared: bool, marks: Option<KeptMarks>) -> Former {
    let ready = KeptReady {
        marks,
        ..KeptReady::default()
    };
    Former {
        port: 1,
        is_shared,
        ready,
        by_host: HashMap::new(),
    }
}

fn marks() -> KeptMarks {
    KeptMarks {
        identities: [STANDARD.encode("known")].into(),
        hosts: [("10.0.0.1".into(), 2), ("10.0.0.2".into(), 2)].into(),
        strangers: ["10.0.0.2".into()].into(),
    }
}

fn presumes(former: &mut Former, slot: u32, identity: &str, host: &str) -> bool {
    former.presume(id(slot), identity.as_bytes(), host) == Presumption::Presumed
}

#[test]
fn whoever_comes_to_a_port_of_one_service_only_is_its_worker_but_for_unknown_routing_ids() {
    for known in [None, Some(marks())] {
        let is_known = known.is_some();
        let mut former = former(false, known);
        assert!((0..9).all(|slot| presumes(&mut former, slot, "", "10.0.0.2")));
        assert!(presumes(&mut former, 9, "known", "10.0.0.9"));
        assert_eq!(presumes(&mut former, 9, "unknown", "10.0.0.9"), !is_known);
    }
    assert!(!presumes(&mut former(true, None), 0, "", "10.0.0.1"));
}

#[test]
fn at_a_port_of_several_services_a_worker_has_to_be_known() {
    let mut former = former(true, Some(marks()));
    assert!(presumes(&mut former, 0, "known", "10.0.0.9"));
    assert!(!presumes(&mut former, 1, "unknown", "10.0.0.1"));
    assert!(
        !presumes(&mut former, 2, "", "10.0.0.2"),
        "a stranger was there"
    );
    assert!(
        !presumes(&mut former, 3, "", "10.0.0.3"),
        "nobody was there"
    );
    assert!(presumes(&mut former, 4, "", "10.0.0.1"));
    assert!(presumes(&mut former, 5, "", "10.0.0.1"));
    let Presumption::InDoubt(_, mut withdrawn) = former.presume(id(6), b"", "10.0.0.1") else {
        panic!("there were two");
    };
    withdrawn.sort_by_key(|id| id.slot);
    assert_eq!(withdrawn, [id(4), id(5)]);
    assert!(!presumes(&mut former, 7, "", "10.0.0.1"));
}

#[test]
fn one_that_came_and_went_leaves_its_place_to_the_next() {
    let mut grace = Grace::default();
    let ready = former(true, Some(marks())).ready;
    grace.expect(ServiceKey(0), 1, ready, true);
    for slot in 0..9 {
        let former = grace.former.get_mut(&ServiceKey(0)).unwrap();
        assert!(presumes(former, slot, "", "10.0.0.1"));
        grace.worker_left(ServiceKey(0), id(slot));
    }
}

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for a fake clock"
)]
fn who_has_just_come_is_not_judged_yet_and_does_not_hold_up_the_end() {
    let origin = Instant::now();
    let at = |ms| origin + Duration::from_millis(ms);
    let mut grace = Grace::default();
    grace.begin(at(1000));
    grace.worker_joined(id(1), false, at(900));
    grace.worker_joined(id(2), true, at(900));
    grace.worker_joined(id(3), false, at(1000));
    assert_eq!(grace.unjudged, [id(1), id(3)].into());
    assert_eq!(
        (grace.end(at(1000)), grace.next_judged(at(1099))),
        (None, None)
    );
    assert_eq!(grace.next_judged(at(1100)), Some(id(1)));
    assert_eq!(grace.unjudged, [id(3)].into());
    assert_eq!(grace.end(at(1100)), Some(vec![]));
    grace.worker_left(ServiceKey(0), id(3));
    assert!(grace.unjudged.is_empty());
}

#[test]
fn marks_are_bounded_and_what_is_not_noted_is_not_presumed() {
    let mut gathered = Marks::of(true);
    for n in 0..10_000 {
        gathered.add_identity(format!("{n:0100}"));
        *gathered.host(&n.to_string()) += 1;
    }
    assert!(gathered.identities_bytes <= IDENTITIES_BYTES_MAX);
    assert_eq!(gathered.kept.hosts.len(), HOSTS_MAX + 1);
    (0..10_000).for_each(|n| gathered.add_stranger(&n.to_string()));
    *gathered.host("again") += 1;
    assert_eq!(gathered.kept.strangers.len(), HOSTS_MAX);
    assert!(gathered.kept.hosts.keys().all(String::is_empty));
    assert!(gathered.kept().is_some());
    let mut gathered = Marks::of(false);
    gathered.add_identity("x".repeat(IDENTITIES_BYTES_MAX));
    gathered.add_identity("y".into());
    assert_eq!(gathered.kept(), None);
}

#[test]
fn the_host_of_an_address() {
    for (address, host) in [
        ("10.0.0.1:5", "10.0.0.1"),
        ("[::1]:5", "[::1]"),
        ("ipc", "ipc"),
    ] {
        assert_eq!(host_in(address), host);
    }
}
