#![allow(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for a fake clock"
)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use event_manager_wire::api::InstanceState;

const RULES: Rules = Rules {
    interval: Duration::from_secs(1),
    timeout: Duration::from_secs(3),
    forget_after: Duration::from_secs(100),
    only_here: false,
};
const LINK: Way<'static> = Way::Link {
    number: 1,
    address: "10.0.0.1:7",
};

fn fields() -> Fields {
    Fields {
        id: "instance_id".into(),
        pid: "pid".into(),
        address: "address".into(),
    }
}

fn read_one(text: &[u8]) -> Result<Said, Unreadable> {
    read(Kind::Heartbeat, [text], &fields())
}

fn said(kind: Kind, id: &str, pid: i64) -> Said {
    Said {
        kind,
        id: id.into(),
        pid: Some(pid),
        address: None,
    }
}

/// A registry under a clock that the test sets.
struct Watched {
    registry: Registry,
    begun: Instant,
    ms: u64,
    happened: Vec<Happened>,
}

impl Watched {
    fn new(former: Vec<Former>, turns: Vec<Turn>) -> Self {
        Self::by(RULES, former, turns)
    }

    fn by(rules: Rules, former: Vec<Former>, turns: Vec<Turn>) -> Self {
        let begun = Instant::now();
        let now = Now {
            at: begun,
            wall_ms: 1_000_000,
        };
        Self {
            registry: Registry::new(rules, former, turns, now),
            begun,
            ms: 0,
            happened: vec![],
        }
    }

    fn now(&self) -> Now {
        Now {
            at: self.begun + Duration::from_millis(self.ms),
            wall_ms: 1_000_000 + self.ms,
        }
    }

    fn hear(&mut self, kind: Kind, id: &str, pid: i64, way: Way<'_>) -> Heard {
        let now = self.now();
        let said = said(kind, id, pid);
        self.registry.hear(&said, way, now, &mut self.happened)
    }

    fn beat(&mut self, id: &str, pid: i64) {
        assert_eq!(self.hear(Kind::Heartbeat, id, pid, LINK), Heard::Taken);
    }

    fn pass(&mut self, ms: u64) {
        self.ms += ms;
        let now = self.now();
        self.registry.tend(now, &mut self.happened);
    }

    fn state(&self, id: &str) -> InstanceState {
        self.registry.get(id).unwrap().state()
    }

    fn leaders(&self) -> Vec<&str> {
        self.registry.leaders().collect()
    }

    fn turns(&self) -> Vec<(String, TurnKind)> {
        let turns = self.registry.history();
        turns
            .map(|turn| (turn.instance.clone(), turn.kind))
            .collect()
    }
}

#[test]
fn a_heartbeat_is_read_in_its_frame_or_behind_a_subject() {
    let text = br#"{"type": "heartbeat", "instance_id": "a", "pid": 7, "address": "tcp://h:1"}"#;
    let expected = Said {
        address: Some("tcp://h:1".into()),
        ..said(Kind::Heartbeat, "a", 7)
    };
    assert_eq!(read_one(text), Ok(expected.clone()));
    let behind = [&b"x.heartbeat\0"[..], text].concat();
    assert_eq!(read_one(&behind), Ok(expected.clone()));
    let frames = [&b"x.heartbeat"[..], text, b"{}"];
    assert_eq!(read(Kind::Heartbeat, frames, &fields()), Ok(expected));
}

#[test]
fn what_is_none_is_named() {
    let read = |text: &str| read_one(text.as_bytes());
    assert_eq!(read("[1]"), Err(Unreadable::NoJson));
    assert_eq!(read("{\"a\""), Err(Unreadable::NoJson));
    assert_eq!(read_one(b"\xFF\xFE"), Err(Unreadable::NoJson));
    let deep = format!("{{\"a\": {}", "[".repeat(10_000));
    assert_eq!(read(&deep), Err(Unreadable::NoJson));
    assert_eq!(read("{}"), Err(Unreadable::NoId));
    assert_eq!(read(r#"{"instance_id": null}"#), Err(Unreadable::NoId));
    assert_eq!(read(r#"{"instance_id": ""}"#), Err(Unreadable::BadId));
    assert_eq!(read(r#"{"instance_id": "a\n"}"#), Err(Unreadable::BadId));
    let long = |bytes| format!(r#"{{"instance_id": "{}"}}"#, "x".repeat(bytes));
    assert!(read(&long(ID_BYTES_MAX)).is_ok());
    assert_eq!(read(&long(ID_BYTES_MAX + 1)), Err(Unreadable::BadId));
    assert_eq!(read(&long(1 << 20)), Err(Unreadable::TooLarge));
    // A process id of another shape is none, and the instance can't lead.
    for pid in [
        "\"7\"",
        "7.5",
        "1e99",
        "null",
        "[7]",
        "99999999999999999999",
    ] {
        let text = format!(r#"{{"instance_id": "a", "pid": {pid}, "address": 7}}"#);
        let said = read(&text).unwrap();
        assert_eq!((said.pid, said.address), (None, None), "{pid}");
    }
}

#[test]
fn silent_cut_off_deaf_and_gone_are_told_apart() {
    let mut all = Watched::new(vec![], vec![]);
    all.beat("a", 1);
    assert_eq!(all.state("a"), InstanceState::Alive);
    all.pass(3001);
    assert_eq!(all.state("a"), InstanceState::Silent);
    // Another event manager hears it.
    all.hear(Kind::Heartbeat, "a", 1, Way::Hub);
    assert_eq!(all.state("a"), InstanceState::CutOff);
    all.hear(Kind::Heartbeat, "b", 2, Way::Hub);
    assert_eq!(all.state("b"), InstanceState::Alive);
    all.beat("a", 1);
    let (now, host) = (all.now(), |_: &str| Some("10.0.0.1".to_owned()));
    let others = ["10.0.0.2".to_owned()].into();
    all.registry.know_listeners(&others, host, now);
    all.pass(1500);
    all.beat("a", 1);
    assert_eq!(all.state("a"), InstanceState::Alive);
    all.pass(1600);
    assert_eq!(all.state("a"), InstanceState::Deaf);
    let now = all.now();
    let all_hosts = ["10.0.0.1".to_owned()].into();
    all.registry.know_listeners(&all_hosts, host, now);
    all.pass(0);
    assert_eq!(all.state("a"), InstanceState::Alive);
    let now = all.now();
    all.registry.link_ended(1, now, &mut all.happened);
    all.pass(3100);
    assert_eq!(all.state("a"), InstanceState::Gone);
    all.beat("a", 1);
    all.hear(Kind::Shutdown, "a", 1, LINK);
    assert_eq!(all.state("a"), InstanceState::Gone);
    all.pass(100_001);
    assert!(all.registry.get("a").is_none(), "it is forgotten");
}

#[test]
fn the_lowest_process_id_leads_and_each_change_is_kept() {
    let mut all = Watched::new(vec![], vec![]);
    all.beat("b", 20);
    all.beat("a", 10);
    assert_eq!(all.leaders(), ["a"]);
    all.hear(Kind::Shutdown, "a", 10, LINK);
    all.pass(2000);
    all.beat("c", 20);
    assert_eq!(all.leaders(), ["b", "c"], "equal process ids both lead");
    assert!(matches!(
        all.happened.last(),
        Some(Happened::TwoLeaders { pid: 20, ids }) if ids.len() == 2
    ));
    all.pass(2000);
    use TurnKind::{Elected, Fenced, Resigned, Timeout};
    let turns = [
        ("b", Elected),
        ("b", Resigned),
        ("a", Elected),
        ("a", Resigned),
        ("b", Elected),
        ("c", Elected),
        ("b", Timeout),
    ];
    let turns = turns.map(|(id, kind)| (id.to_owned(), kind));
    assert_eq!(all.turns(), turns);
    let now = all.now();
    all.registry.set_fenced(true, now, &mut all.happened);
    assert_eq!(all.leaders(), Vec::<&str>::new());
    assert_eq!(all.turns().last(), Some(&("c".to_owned(), Fenced)));
    // Those that another event manager hears may lead.
    all.hear(Kind::Heartbeat, "d", 99, Way::Hub);
    assert_eq!(all.leaders(), ["d"]);
    let now = all.now();
    all.registry.set_fenced(false, now, &mut all.happened);
    assert_eq!(all.leaders(), ["c"]);
}

#[test]
fn where_a_lease_decides_those_elsewhere_do_not_count() {
    let mut all = Watched::new(vec![], vec![]);
    let rules = Rules {
        only_here: true,
        ..RULES
    };
    all.registry = Registry::new(rules, vec![], vec![], all.now());
    all.hear(Kind::Heartbeat, "elsewhere", 1, Way::Hub);
    assert!(!all.registry.is_any_here());
    all.beat("here", 2);
    assert!(all.registry.is_any_here());
    assert_eq!(all.leaders(), ["here"]);
    let now = all.now();
    all.registry.set_fenced(true, now, &mut all.happened);
    assert_eq!(all.leaders(), Vec::<&str>::new());
}

#[test]
fn after_a_restart_nobody_is_elected_before_all_are_known_to_be_there_or_not() {
    let mut before = Watched::new(vec![], vec![]);
    before.beat("a", 1);
    before.beat("b", 2);
    let former = || -> Vec<_> {
        let instances = before.registry.instances();
        instances.map(|one| one.known().clone()).collect()
    };
    let turns: Vec<_> = before.registry.history().cloned().collect();
    let mut all = Watched::new(former(), turns.clone());
    assert_eq!(all.state("a"), InstanceState::Unknown);
    all.beat("b", 2);
    assert_eq!(all.leaders(), ["a"], "as before");
    all.beat("a", 1);
    assert_eq!((all.leaders(), all.turns().len()), (vec!["a"], turns.len()));
    let mut all = Watched::new(former(), turns);
    all.beat("b", 2);
    all.pass(2000);
    all.beat("b", 2);
    all.pass(1001);
    assert_eq!(
        (all.state("a"), all.leaders()),
        (InstanceState::Gone, vec!["b"])
    );
    let last: Vec<_> = all.turns().split_off(1);
    let expected = [("a", TurnKind::Timeout), ("b", TurnKind::Elected)];
    assert_eq!(last, expected.map(|(id, kind)| (id.to_owned(), kind)));
}

/// Those may be cut off now, with their event manager.
#[test]
fn after_a_restart_those_that_have_no_part_in_who_leads_are_not_awaited() {
    let rules = Rules {
        only_here: true,
        ..RULES
    };
    let mut before = Watched::by(rules, vec![], vec![]);
    before.beat("a", 2);
    before.hear(Kind::Heartbeat, "b", 1, Way::Hub);
    let now = before.now();
    before.registry.set_fenced(true, now, &mut before.happened);
    let instances = before.registry.instances();
    let former = instances.map(|one| one.known().clone()).collect();
    let turns = before.registry.history().cloned().collect();
    let mut all = Watched::by(rules, former, turns);
    assert_eq!(all.leaders(), Vec::<&str>::new());
    all.beat("a", 2);
    assert_eq!(
        (all.leaders(), all.state("b")),
        (vec!["a"], InstanceState::Unknown)
    );
    let kinds: Vec<_> = all.turns().into_iter().map(|(_, kind)| kind).collect();
    let (elected, fenced) = (TurnKind::Elected, TurnKind::Fenced);
    assert_eq!(kinds, [elected, fenced, elected]);
    // That one is gone when its time is over, and nothing is counted twice.
    all.pass(3001);
    assert_eq!(all.state("b"), InstanceState::Gone);
    all.hear(Kind::Heartbeat, "b", 1, Way::Hub);
    all.beat("a", 2);
    assert_eq!(all.leaders(), ["a"]);
}

#[test]
fn floods_of_ids_are_bounded() {
    let mut all = Watched::new(vec![], vec![]);
    all.beat("known", 1);
    let mut taken = 0;
    for second in 0..13 {
        for n in 0..1000 {
            let id = format!("{second}-{n}");
            let heard = all.hear(Kind::Heartbeat, &id, 2, LINK);
            taken += u32::from(heard == Heard::Taken);
        }
        all.beat("known", 1);
        all.pass(1000);
        assert!(all.registry.instances().count() <= INSTANCES_MAX);
        assert_eq!(all.leaders(), ["known"]);
    }
    assert!(taken <= 14 * NEW_PER_SECOND_MAX, "{taken}");
    assert_eq!(all.hear(Kind::Event, "new", 1, LINK), Heard::Stranger);
    // Equal process ids by the thousand.
    let mut all = Watched::new(vec![], vec![]);
    for second in 0..12 {
        for n in 0..100 {
            all.hear(Kind::Heartbeat, &format!("{second}-{n}"), 7, LINK);
        }
        all.ms += 1000;
    }
    assert!(all.leaders().len() <= 16);
    assert!(all.registry.history().count() <= HISTORY_MAX);
}

#[derive(Debug, Clone)]
enum Step {
    Beat(u8, i64),
    BeatBeyond(u8, i64),
    Shutdown(u8),
    EndLink(u8),
    Fence(bool),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..5, 0i64..4).prop_map(|(id, pid)| Step::Beat(id, pid)),
        2 => (0u8..5, 0i64..4).prop_map(|(id, pid)| Step::BeatBeyond(id, pid)),
        1 => (0u8..5).prop_map(Step::Shutdown),
        1 => (0u8..5).prop_map(Step::EndLink),
        1 => any::<bool>().prop_map(Step::Fence),
        4 => (1u64..2500).prop_map(Step::Pass),
    ]
}

/// What a model knows of an instance: its process id, when it was last heard here and beyond, its link.
#[derive(Debug, Default, Clone)]
struct Modelled {
    pid: i64,
    here: Option<u64>,
    beyond: Option<u64>,
    linked: bool,
    ended: bool,
}

proptest! {
    #[test]
    fn verdicts_and_leaders_agree_with_a_model(steps in proptest::collection::vec(step(), 1..80)) {
        let mut all = Watched::new(vec![], vec![]);
        let mut model = BTreeMap::<String, Modelled>::new();
        let mut fenced = false;
        for step in steps {
            let link = |id: u8| Way::Link { number: id.into(), address: "h:1" };
            let ms = all.ms;
            match step {
                Step::Beat(id, pid) => {
                    all.hear(Kind::Heartbeat, &id.to_string(), pid, link(id));
                    let one = model.entry(id.to_string()).or_default();
                    (one.pid, one.here, one.linked, one.ended) = (pid, Some(ms), true, false);
                }
                Step::BeatBeyond(id, pid) => {
                    all.hear(Kind::Heartbeat, &id.to_string(), pid, Way::Hub);
                    let one = model.entry(id.to_string()).or_default();
                    (one.pid, one.beyond, one.ended) = (pid, Some(ms), false);
                }
                Step::Shutdown(id) => {
                    all.hear(Kind::Shutdown, &id.to_string(), 0, link(id));
                    if let Some(one) = model.get_mut(&id.to_string()) {
                        (one.here, one.linked, one.ended) = (Some(ms), true, true);
                    }
                }
                Step::EndLink(id) => {
                    let now = all.now();
                    all.registry.link_ended(id.into(), now, &mut all.happened);
                    if let Some(one) = model.get_mut(&id.to_string()) {
                        one.linked = false;
                    }
                }
                Step::Fence(wanted) => {
                    let now = all.now();
                    all.registry.set_fenced(wanted, now, &mut all.happened);
                    fenced = wanted;
                }
                Step::Pass(ms) => all.pass(ms),
            }
            // What was seen as gone stays so until its next heartbeat.
            all.pass(0);
            let ms = all.ms;
            let within = |at: Option<u64>| at.is_some_and(|at| ms - at <= 3000);
            let mut lowest = None;
            let mut leading = vec![];
            for (id, one) in &mut model {
                let (here, beyond) = (within(one.here), within(one.beyond));
                let expected = match () {
                    () if one.ended => InstanceState::Gone,
                    () if here => InstanceState::Alive,
                    () if beyond && one.here.is_some() => InstanceState::CutOff,
                    () if beyond => InstanceState::Alive,
                    () if one.linked => InstanceState::Silent,
                    () => InstanceState::Gone,
                };
                one.ended = expected == InstanceState::Gone;
                prop_assert_eq!(all.state(id), expected);
                if (here || beyond) && !one.ended && !(fenced && here) {
                    if lowest.is_none_or(|lowest| one.pid < lowest) {
                        (lowest, leading) = (Some(one.pid), vec![]);
                    }
                    if lowest == Some(one.pid) {
                        leading.push(id.as_str());
                    }
                }
            }
            prop_assert_eq!(all.leaders(), leading);
            // The history says the same.
            let mut led = std::collections::BTreeSet::new();
            for (id, kind) in all.turns() {
                match kind {
                    TurnKind::Elected => prop_assert!(led.insert(id)),
                    _ => prop_assert!(led.remove(&id)),
                }
            }
            let leaders: std::collections::BTreeSet<_> =
                all.leaders().into_iter().map(str::to_owned).collect();
            prop_assert_eq!(led, leaders);
        }
    }

    #[test]
    fn nothing_that_is_read_does_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_one(&bytes);
        let _ = read_one(&[b"{", &bytes[..]].concat());
    }
}
