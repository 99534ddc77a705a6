//! Dead letters on request.

use std::collections::BTreeMap;
use std::time::Duration;

use event_manager_client::ClientError;
use event_manager_client::blocking::Client;
use event_manager_wire::api::{DeadLetters, LetterFrame, Status};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::requests::ask_json;
use super::support::TestDaemon;
use super::support::disk_of;
use super::support::peers::{connected, is_silent, publish};
use super::support::program::{Site, wait_until};

const LETTERS: usize = 60;

fn daemon(directory: &TempDir) -> TestDaemon {
    TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "services": {"Billing": {"delivery": "queue", "subjects": ["Order"]}},
    }))
}

fn worker(daemon: &TestDaemon, service: &str) -> zmq::Socket {
    let address = daemon.address_of(service);
    let worker = connected(&daemon.context, zmq::DEALER, &address);
    let ready = r#"READY {"ack": true, "credit": 1000}"#;
    worker.send(ready, 0).expect("a send");
    worker
}

/// Receives an event and answers it; its data.
fn answer(worker: &zmq::Socket, word: &str) -> String {
    let frames = worker.recv_multipart(0).expect("an event");
    let head = String::from_utf8(frames[0].clone()).expect("text");
    let id = head.split(' ').nth(1).expect("an id");
    worker.send(&format!("{word} {id}"), 0).expect("a send");
    String::from_utf8(frames[2].clone()).expect("text")
}

fn client(daemon: &TestDaemon, ms: u64) -> Client {
    let timeout = Duration::from_millis(ms);
    daemon.client(timeout)
}

fn ask(daemon: &TestDaemon, op: &str, service: &str, options: Value) -> DeadLetters {
    let answer = client(daemon, 5000).dead_letters(op, service, &options);
    answer.expect("an answer")
}

fn seqs(daemon: &TestDaemon, service: &str) -> Vec<u64> {
    let answer = ask(daemon, "list", service, json!({"limit": 1000}));
    answer.letters.iter().map(|letter| letter.seq).collect()
}

fn bury(daemon: &TestDaemon, service: &str, count: usize) {
    let worker = worker(daemon, service);
    daemon.wait_for_ready(service, 1);
    let publisher = daemon.publisher();
    (0..count).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    (0..count).for_each(|_| drop(answer(&worker, "TERM")));
    let kept = wait_until(|| (seqs(daemon, service).len() == count).then_some(()));
    kept.expect("all letters");
}

#[test]
fn letters_are_shown_filtered_replayed_and_purged() {
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory);
    daemon.subscribe("sub-1", "Live", &["Order"]);
    // Billing's own copies go on waiting, but for those that are dead.
    for service in ["Live", "Billing"] {
        let before = seqs(&daemon, service);
        assert!(before.is_empty());
    }
    bury(&daemon, "Live", 5);
    let all = seqs(&daemon, "Live");
    let shown = ask(&daemon, "show", "Live", json!({"seqs": [all[1]]}));
    let frames = ["Order", "1"].map(|text| LetterFrame::Text(text.to_owned()));
    assert_eq!(shown.letters[0].frames, Some(frames.to_vec()));
    assert_eq!(shown.letters[0].account.reason, "terminated");
    for filter in [json!({"reason": "other"}), json!({"subject": "Refund"})] {
        assert_eq!(ask(&daemon, "purge", "Live", filter).letters, []);
    }
    let early = ask(&daemon, "purge", "Live", json!({"before": 1}));
    assert_eq!((early.letters.len(), early.next), (0, None));
    ask(&daemon, "purge", "Live", json!({"dryRun": true}));
    ask(&daemon, "replay", "Live", json!({"dryRun": true}));
    assert_eq!(seqs(&daemon, "Live"), all);
    ask(
        &daemon,
        "replay",
        "Live",
        json!({"limit": 2, "subject": "Ord"}),
    );
    assert_eq!(seqs(&daemon, "Live"), all[2..]);
    let worker = worker(&daemon, "Live");
    assert_eq!(answer(&worker, "ACK"), "0");
    assert_eq!(answer(&worker, "ACK"), "1");
    ask(&daemon, "purge", "Live", json!({}));
    assert!(seqs(&daemon, "Live").is_empty());
    assert!(is_silent(&worker, 50));
}

#[test]
fn without_a_service_the_command_says_which_have_letters() {
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory);
    daemon.subscribe("sub-1", "Live", &["Refund"]);
    let site = Site::of(&daemon);
    assert_eq!(site.run(&["dlq", "list"]).done(), "");
    bury(&daemon, "Billing", 3);
    assert_eq!(site.run(&["dlq", "list"]).done(), "Billing\t3\n");
    let told = site.run(&["dlq", "list", "--json"]).done();
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(told, json!({"service": "Billing", "letters": 3}));
    let others = ["dlq", "list", "--reason", "max-deliveries"];
    assert_eq!(site.run(&others).done(), "");
    let said = site.run(&["dlq", "purge"]).failed(2);
    assert!(said.contains("SERVICE"), "{said}");
}

#[test]
fn the_command_replays_each_letter_once_though_it_dies_again() {
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory);
    bury(&daemon, "Billing", 3);
    let site = Site::of(&daemon);
    let listed = site.run(&["dlq", "list", "Billing"]).done();
    assert_eq!(
        listed.matches("\tterminated\tOrder\t").count(),
        3,
        "{listed}"
    );
    let worker = worker(&daemon, "Billing");
    let replay = site.start(&["dlq", "replay", "Billing", "--rate", "1"]);
    (0..3).for_each(|n| assert_eq!(answer(&worker, "TERM"), n.to_string()));
    replay.end().done();
    assert!(is_silent(&worker, 50));
    let purged = ["dlq", "purge", "Billing", "--json"];
    assert_eq!(site.run(&purged).done().lines().count(), 3);
    assert!(seqs(&daemon, "Billing").is_empty());
    assert!(
        site.run(&["dlq", "list", "Nobody"])
            .failed(1)
            .contains("unknown-service")
    );
}

#[test]
fn what_is_wrong_is_refused() {
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory);
    let refused = |op: &str, service: &str, options: Value| {
        let answer = client(&daemon, 5000).dead_letters(op, service, &options);
        match answer {
            Err(ClientError::Nak { code, .. }) => code,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused("list", "Nobody", json!({})), "unknown-service");
    assert_eq!(refused("eat", "Billing", json!({})), "invalid-field");
    assert_eq!(
        refused("list", "Billing", json!({"limit": 0})),
        "invalid-field"
    );
    assert_eq!(
        refused("list", "Billing", json!({"what": 1})),
        "unknown-field"
    );
    let none = TestDaemon::start();
    none.subscribe("sub-1", "Live", &["Order"]);
    let answer = client(&none, 5000).dead_letters("list", "Live", &json!({}));
    assert!(matches!(answer, Err(ClientError::Nak { code, .. }) if code == "no-store"));
}

#[test]
fn a_replay_that_is_killed_loses_and_doubles_nothing() {
    // Killed as soon as it may have begun; somewhere in it; when it was answered.
    for wait_ms in [5, 30, 5000] {
        let directory = TempDir::new().expect("a directory");
        let first = daemon(&directory);
        bury(&first, "Billing", LETTERS);
        // Or the events that died may come back themselves: that they are done is synced later.
        assert!(first.stop());
        let first = daemon(&directory);
        let _ = client(&first, wait_ms).dead_letters("replay", "Billing", &json!({}));
        first.kill();
        let second = daemon(&directory);
        ask(&second, "replay", "Billing", json!({}));
        assert!(seqs(&second, "Billing").is_empty());
        let worker = worker(&second, "Billing");
        let mut got = BTreeMap::new();
        for _ in 0..LETTERS {
            *got.entry(answer(&worker, "ACK")).or_insert(0) += 1;
        }
        assert!(
            got.len() == LETTERS && is_silent(&worker, 50),
            "{wait_ms}: {got:?}"
        );
    }
}

fn queues(directory: &TempDir) -> Vec<String> {
    let found = std::fs::read_dir(directory.path().join("queues")).expect("a directory");
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("an entry").file_name();
    found
        .map(|entry| name(entry).to_string_lossy().into_owned())
        .collect()
}

/// The refusal that is the answer.
fn refused(daemon: &TestDaemon, op: &str, service: &str) -> String {
    let answer = client(daemon, 5000).dead_letters(op, service, &json!({}));
    answer.expect_err("a refusal").to_string()
}

#[test]
fn letters_are_there_without_their_service() {
    let directory = TempDir::new().expect("a directory");
    let first = daemon(&directory);
    first.subscribe("sub-1", "Live", &["Order"]);
    bury(&first, "Live", 3);
    first.unsubscribe("sub-1");
    assert_eq!(seqs(&first, "Live").len(), 3);
    assert!(first.stop());
    let second = daemon(&directory);
    assert_eq!(seqs(&second, "Live").len(), 3);
    let refusal = refused(&second, "replay", "Live");
    assert!(refusal.contains("subscribe it first"), "{refusal}");
    assert_eq!(seqs(&second, "Live").len(), 3);
    ask(&second, "purge", "Live", json!({}));
    assert!(seqs(&second, "Live").is_empty());
    assert!(refused(&second, "list", "Nobody").contains("unknown-service"));
}

#[test]
fn a_look_at_no_letters_leaves_no_queue_behind() {
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory);
    for op in ["list", "show", "replay", "purge"] {
        let answer = ask(&daemon, op, "Billing", json!({}));
        assert_eq!((answer.letters.len(), answer.next), (0, None));
    }
    // The store does all in its order: it has done what was asked before this event.
    let publisher = daemon.publisher();
    publish(&publisher, "Order", "x");
    daemon.wait_for_service("Billing", "the event on disk", |found| {
        disk_of(found).pending_events == 0 && found.counters.queued == 1
    });
    assert_eq!(queues(&directory), ["Billing"]);
}

#[test]
fn a_flood_of_looks_at_letters_is_bounded() {
    const REQUESTS: usize = 500;
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory);
    bury(&daemon, "Billing", 1);
    let requester = connected(&daemon.context, zmq::DEALER, &daemon.requests());
    for _ in 0..REQUESTS {
        let request = ["", "TK_EVENT_MANAGER_DLQ", "PARAM", "show\0Billing"];
        requester.send_multipart(request, 0).expect("a send");
    }
    let (mut shown, mut busy) = (0, 0);
    for _ in 0..REQUESTS {
        let frames = requester.recv_multipart(0).expect("an answer");
        match String::from_utf8_lossy(&frames[3]) {
            text if text.starts_with("busy: ") => busy += 1,
            text => shown += usize::from(text.contains("\"seq\":")),
        }
    }
    assert!(shown > 0 && busy > 0, "{shown} shown, {busy} busy");
    assert_eq!(shown + busy, REQUESTS);
}

#[test]
fn a_letter_with_an_endless_subject_is_kept() {
    let directory = TempDir::new().expect("a directory");
    let daemon = TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "limits": {"maxMessageBytes": 100_000},
        "services": {"Billing": {"delivery": "queue", "subjects": ["Order"]}},
    }));
    let worker = worker(&daemon, "Billing");
    let subject = format!("Order{}", "\u{1}".repeat(90_000));
    let publisher = daemon.publisher();
    publish(&publisher, &subject, "x");
    answer(&worker, "TERM");
    let kept = wait_until(|| (seqs(&daemon, "Billing").len() == 1).then_some(()));
    kept.expect("the letter");
    let letter = &ask(&daemon, "list", "Billing", json!({})).letters[0];
    assert!(letter.account.subject.len() <= 1024);
}

#[test]
fn letters_that_can_not_be_kept_are_counted_wherever_somebody_looks() {
    let directory = TempDir::new().expect("a directory");
    std::fs::create_dir(directory.path().join("queues")).expect("a directory");
    let in_the_way = directory.path().join("queues/Live.DLQ");
    std::fs::write(&in_the_way, "in the way").expect("a file");
    let daemon = TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "httpAddress": "127.0.0.1:0",
    }));
    daemon.subscribe("sub-1", "Live", &["Order"]);
    let worker = worker(&daemon, "Live");
    daemon.wait_for_ready("Live", 1);
    let publisher = daemon.publisher();
    (0..3).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    (0..3).for_each(|_| drop(answer(&worker, "TERM")));
    daemon.wait_for_counter("Live", |c| c.letters_lost, 3);
    std::fs::remove_file(&in_the_way).expect("it is there");
    assert_eq!(
        ask(&daemon, "list", "Live", json!({})).letters_lost,
        json!(3)
    );
    let site = Site::of(&daemon);
    let listed = site.run(&["dlq", "list", "Live"]);
    assert_eq!((listed.code, &*listed.stdout), (Some(0), ""));
    assert!(
        listed.stderr.starts_with("3 more could not be kept"),
        "{}",
        listed.stderr
    );
    let verbose = site.run(&["services", "--verbose"]).done();
    assert!(verbose.contains("letters lost 3"), "{verbose}");
    let lost = "event_manager_dead_letters_lost_total";
    assert_eq!(daemon.metrics().value(lost, &[("service", "Live")]), 3.0);
    let stats = daemon.stats().status;
    assert_eq!(stats.services[0].counters.letters_lost, 3);
    daemon.unsubscribe("sub-1");
    assert_eq!(daemon.status().retired_services.letters_lost, 3);
}

#[test]
fn an_event_that_comes_back_is_no_lost_letter() {
    let directory = TempDir::new().expect("a directory");
    std::fs::create_dir(directory.path().join("queues")).expect("a directory");
    let in_the_way = directory.path().join("queues/Billing.DLQ");
    std::fs::write(&in_the_way, "in the way").expect("a file");
    let first = daemon(&directory);
    let dying = worker(&first, "Billing");
    first.wait_for_ready("Billing", 1);
    publish(&first.publisher(), "Order", "x");
    assert_eq!(answer(&dying, "TERM"), "x");
    first.wait_for_counter("Billing", |c| c.dead_lettered, 1);
    // It says so only when the store has refused the letter.
    let told = wait_until(|| {
        let events = Site::of(&first).run(&["events", "--json"]).done();
        events
            .lines()
            .find(|line| line.contains("EM-0504"))
            .map(str::to_owned)
    });
    let told = told.expect("a word of it");
    assert!(told.contains("its event stays in the queue"), "{told}");
    assert_eq!(first.service("Billing").counters.letters_lost, 0);
    std::fs::remove_file(&in_the_way).expect("it is there");
    drop(dying);
    first.stop();

    let second = daemon(&directory);
    let again = worker(&second, "Billing");
    assert_eq!(answer(&again, "TERM"), "x");
    let kept = wait_until(|| (seqs(&second, "Billing").len() == 1).then_some(()));
    kept.expect("the letter");
    assert_eq!(second.service("Billing").counters.letters_lost, 0);
}

#[test]
fn the_end_of_a_service_says_how_many_of_its_letters_stay() {
    let directory = TempDir::new().expect("a directory");
    std::fs::create_dir(directory.path().join("queues")).expect("a directory");
    let in_the_way = directory.path().join("queues/Locked.DLQ");
    std::fs::write(&in_the_way, "in the way").expect("a file");
    let daemon = TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "services": {"*": {"delivery": "queue"}},
    }));
    let site = Site::of(&daemon);
    let end = |service: &str| site.run(&["services", "--end", service]).done();
    daemon.subscribe("sub-1", "Bob's", &["Order"]);
    bury(&daemon, "Bob's", 3);
    daemon.unsubscribe("sub-1");
    assert_eq!(
        end("Bob's"),
        "Bob's has ended; 3 dead letters remain: list them with `event-manager dlq list 'Bob'\\''s'`, \
         delete them with `event-manager dlq purge 'Bob'\\''s'`\n"
    );
    let purged = site.run(&["dlq", "purge", "Bob's"]).done();
    assert_eq!(purged.lines().count(), 3);
    for (service, letters) in [
        ("Bob's", json!(0)),
        ("New", json!(0)),
        ("Locked", Value::Null),
    ] {
        daemon.subscribe("sub-1", service, &["Order"]);
        daemon.unsubscribe("sub-1");
        let (token, answer) = daemon.ask("TK_EVENT_MANAGER_END", &[service]);
        assert_eq!(token, "TK_SYS_ACK", "{answer}");
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!(answer["deadLetters"], letters, "{answer}");
        assert_eq!(answer["hint"].is_string(), letters.is_null());
    }
    daemon.subscribe("sub-1", "New", &["Order"]);
    daemon.unsubscribe("sub-1");
    assert_eq!(end("New"), "");
}

#[test]
fn letters_that_could_not_be_kept_are_not_taken_for_none() {
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory);
    daemon.subscribe("sub-1", "Live", &["Order"]);
    let in_the_way = directory.path().join("queues/Live.DLQ");
    std::fs::write(&in_the_way, "").expect("a file");
    let worker = worker(&daemon, "Live");
    daemon.wait_for_ready("Live", 1);
    let publisher = daemon.publisher();
    publish(&publisher, "Order", "0");
    assert_eq!(answer(&worker, "TERM"), "0");
    let failed = |status: &Status| status.store.failed.contains_key("Live.DLQ");
    daemon.wait_for("a queue that fails", failed);
    let refusal = refused(&daemon, "list", "Live");
    assert!(
        refusal.contains("store-failed") && refusal.contains("queues/Live.DLQ"),
        "{refusal}"
    );
    // No other event has to die for it.
    std::fs::remove_file(&in_the_way).expect("a removal");
    daemon.wait_for("a queue that works", |status| !failed(status));
    assert!(seqs(&daemon, "Live").is_empty());
    publish(&publisher, "Order", "1");
    assert_eq!(answer(&worker, "TERM"), "1");
    let kept = wait_until(|| (seqs(&daemon, "Live").len() == 1).then_some(()));
    kept.expect("the letter");
}

/// A worker that has said READY, and gives up every event; the subjects of those that it was given.
fn bury_each(daemon: &TestDaemon, service: &str, count: usize) -> Vec<String> {
    let before = daemon.service(service).counters.dead_lettered;
    let worker = worker(daemon, service);
    let subjects = (0..count).map(|_| {
        let frames = worker.recv_multipart(0).expect("an event");
        let text = |frame: &[u8]| String::from_utf8(frame.to_vec()).expect("text");
        let id = text(&frames[0])
            .split(' ')
            .nth(1)
            .expect("an id")
            .to_owned();
        worker.send(&format!("TERM {id}"), 0).expect("a send");
        text(&frames[1])
    });
    let subjects = subjects.collect();
    daemon.wait_for_counter(service, |c| c.dead_lettered, before + count as u64);
    assert!(is_silent(&worker, 50));
    subjects
}

#[test]
fn letters_have_the_subject_of_one_s_choice() {
    let directory = TempDir::new().expect("a directory");
    let start = || {
        TestDaemon::in_own_process(&json!({
            "stateDir": directory.path(),
            "services": {
                "Bill*": {"deadLetterSubject": "failed.bills"},
                "Named": {"deadLetterSubject": "failed.named"},
            },
        }))
    };
    let mut daemon = start();
    let watcher = daemon.subscriber(&["failed.", "Own.DLQ"]);
    let client = |daemon: &TestDaemon| daemon.requester();
    let subscribe = |daemon: &TestDaemon, service: &str, options: Value| {
        let mut request = options;
        request["token"] = json!("subscribe");
        request["subjects"] = json!([format!("exact:{service}")]);
        (request["id"], request["service"]) = (json!(service), json!(service));
        ask_json(&client(daemon), &request)
    };
    let chosen = json!({"deadLetterSubject": "failed.chosen", "delivery": "queue"});
    let cases = [
        ("Billing", json!({}), "failed.bills"),
        // A subscription goes before globs, and after what is configured for the exact name.
        ("Bills", chosen.clone(), "failed.chosen"),
        ("Named", chosen, "failed.named"),
        ("Own", json!({"deadLetterSubject": null}), "Own.DLQ"),
    ];
    for (service, options, expected) in &cases {
        let answer = subscribe(&daemon, service, options.clone());
        assert_eq!(answer["deadLetterSubject"], *expected, "{answer}");
        assert_eq!(daemon.service(service).dead_letter_subject, *expected);
        publish(&daemon.publisher(), service, "x");
        assert_eq!(bury_each(&daemon, service, 1), [*service]);
        let letter = watcher.recv_multipart(0).expect("a letter");
        assert_eq!(letter[0], expected.as_bytes());
        assert_eq!(letter[2], service.as_bytes());
        // Who looks for it on disk names its service.
        let kept = wait_until(|| (!seqs(&daemon, service).is_empty()).then_some(()));
        kept.expect("a letter on disk");
    }
    for (wrong, code) in [
        (json!(""), "invalid-field"),
        (json!(7), "invalid-field"),
        (json!("glob:x.*"), "invalid-field"),
        (json!("a\0b"), "invalid-field"),
        (json!("x".repeat(1025)), "invalid-subject"),
    ] {
        let answer = subscribe(&daemon, "Wrong", json!({"deadLetterSubject": wrong}));
        assert_eq!(answer["code"], code, "{wrong}: {answer}");
    }
    assert!(daemon.stop());
    daemon = start();
    let is_kept = daemon.service("Bills").dead_letter_subject;
    assert_eq!(is_kept, "failed.chosen", "it survives a restart");
}

/// Letters of letters would never end.
#[test]
fn who_subscribes_to_its_own_letters_gets_each_once() {
    let daemon = TestDaemon::start();
    let client = daemon.requester();
    for (service, letters, subject) in [("A", "failed.a", "failed.b"), ("B", "failed.b", "failed.")]
    {
        let answer = ask_json(
            &client,
            &json!({"token": "subscribe", "id": service, "service": service,
                "subjects": [subject, format!("exact:{service}")], "deadLetterSubject": letters}),
        );
        assert_eq!(answer["deadLetterSubject"], letters, "{answer}");
    }
    // A's letter goes to B, and ends there though A would get B's; B's go to both, and end there.
    publish(&daemon.publisher(), "A", "x");
    assert_eq!(bury_each(&daemon, "A", 1), ["A"]);
    assert_eq!(bury_each(&daemon, "B", 1), ["failed.a"]);
    publish(&daemon.publisher(), "B", "x");
    assert_eq!(bury_each(&daemon, "B", 2), ["B", "failed.b"]);
    assert_eq!(bury_each(&daemon, "A", 1), ["failed.b"]);
}

/// What a service chooses must not hide the letters of others.
#[test]
fn letters_may_have_the_subject_of_other_events() {
    let daemon = TestDaemon::start();
    let client = daemon.requester();
    for (service, letters) in [("A", "Order"), ("B", "failed")] {
        let answer = ask_json(
            &client,
            &json!({"token": "subscribe", "id": service, "service": service,
                "subjects": ["exact:Order"], "deadLetterSubject": letters}),
        );
        assert_eq!(answer["deadLetterSubject"], letters, "{answer}");
    }
    let watcher = daemon.subscriber(&["failed"]);
    publish(&daemon.publisher(), "Order", "x");
    // B's letter is told though its event has the subject of A's.
    assert_eq!(bury_each(&daemon, "B", 1), ["Order"]);
    let letter = watcher.recv_multipart(0).expect("a letter");
    assert_eq!(letter[2..], [b"Order".to_vec(), b"x".to_vec()]);
    // A's letter comes to both, and is the last.
    assert_eq!(bury_each(&daemon, "A", 2), ["Order", "Order"]);
    assert_eq!(bury_each(&daemon, "B", 1), ["Order"]);
    assert!(is_silent(&watcher, 50));
}
