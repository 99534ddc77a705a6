//! What is served over HTTP: health, metrics, statistics.

mod dashboard;
mod hostile;
mod metrics;
mod packaging;
mod tls;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use event_manager::daemon::Daemon;
use event_manager_wire::api::{
    Readiness, Registration, RegistrationState, Stats, Subscription, Subscriptions,
};
use event_manager_wire::model::Endpoint;
use serde_json::json;
use tempfile::TempDir;

use super::support::bus::{host_of_test, own_host};
use super::support::http::HttpClient;
use super::support::peers::publish;
use super::support::program::{Site, wait_until};
use super::support::raw::{RawPeer, frame};
use super::support::{PATIENCE, TestDaemon, config, tunnel};

/// A daemon that serves HTTP.
fn watched() -> TestDaemon {
    TestDaemon::with(|config| config.http_address = Some(Endpoint::tcp("127.0.0.1", 0)))
}

fn not_ready_because(shown: &Readiness, check: &str, part: &str) -> bool {
    let found = &shown.checks[check];
    !shown.ready && !found.ok && found.reason.contains(part)
}

#[test]
fn a_daemon_at_rest_is_live_and_ready_and_tells_its_state() {
    let daemon = watched();
    assert_eq!(daemon.http_get("/livez").json(), json!({"live": true}));
    let ready = daemon.http_get("/readyz");
    let shown: Readiness = ready.read();
    assert_eq!((ready.status, shown.ready), (200, true), "{shown:?}");
    for check in [
        "bound",
        "registered",
        "draining",
        "stores",
        "publishers",
        "delivering",
    ] {
        let found = &shown.checks[check];
        assert!(found.ok && !found.reason.is_empty(), "{check}: {found:?}");
    }
    let stats = daemon.stats();
    assert_eq!(stats.instance, "EventManager");
    let off = Registration {
        state: RegistrationState::Off,
        locator: None,
    };
    assert_eq!(stats.registration, off);
    assert_eq!(stats.readiness, shown);
    assert!(stats.status.started_at_ms <= stats.taken_at_ms);
    assert!(stats.process.resident_bytes > Some(0));
    let page = daemon.http_get("/");
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    let policy = &page.headers["content-security-policy"];
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"));
    assert!(page.body.contains("/metrics") && page.body.contains("/stats"));
}

#[test]
fn what_is_not_there_and_what_is_not_possible_is_said_in_json() {
    let daemon = watched();
    let mut client = HttpClient::connect(daemon.http());
    let lost = client.get("/metric?x=1");
    assert_eq!(lost.status, 404);
    assert_eq!(lost.json()["error"], "there is nothing at /metric");
    assert!(
        lost.json()["hint"]
            .as_str()
            .is_some_and(|hint| hint.contains("/metrics"))
    );
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let refused = client.request(method, "/stats", "Content-Length: 0\r\n");
        assert_eq!(
            (refused.status, refused.headers["allow"].as_str()),
            (405, "GET, HEAD")
        );
        assert_eq!(refused.json()["hint"], "GET or HEAD");
    }
    let head = client.request("HEAD", "/stats", "Origin: http://elsewhere\r\n");
    assert_eq!((head.status, head.body.contains('{')), (200, false));
    assert!(
        head.headers["content-length"]
            .parse::<usize>()
            .expect("a number")
            > 100
    );
    assert!(
        !head
            .headers
            .keys()
            .any(|name| name.starts_with("access-control"))
    );
    assert_eq!(client.get("/livez").status, 200, "the connection goes on");
}

/// Tokens change while the daemon runs, and probes need none.
#[test]
fn with_a_token_file_only_who_has_a_token_is_answered() {
    const FIRST: &str = "0123456789abcdef";
    const SECOND: &str = "fedcba9876543210";
    let site = Site::configured(&json!({"httpAddress": "127.0.0.1:0", "httpTokenFile": "tokens"}));
    let write = |text: &str| {
        site.write("tokens.new", text);
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(site.path("tokens.new"), mode).expect("a file");
        std::fs::rename(site.path("tokens.new"), site.path("tokens")).expect("a file");
    };
    let refused = |text: &str, why: &str| {
        write(text);
        let ended = site.run(&["serve"]);
        assert_eq!(ended.code, Some(78), "{ended:?}");
        assert!(
            ended.stderr.contains("httpTokenFile") && ended.stderr.contains(why),
            "{ended:?}"
        );
    };
    refused("# none\n", "it has no token");
    refused("short\n", "fewer than 16 characters");
    write(FIRST);
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(site.path("tokens"), open).expect("a file");
    let ended = site.run(&["serve"]);
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(ended.stderr.contains("chmod 600 tokens"), "{ended:?}");

    write(&format!("# the dashboard's\n{FIRST}\n"));
    let daemon = TestDaemon::serving(&site);
    let ask = |path: &str, authorization: &str| {
        let header = match authorization {
            "" => String::new(),
            value => format!("Authorization: {value}\r\n"),
        };
        HttpClient::connect(daemon.http()).request("GET", path, &header)
    };
    let bearer = |token: &str| ask("/stats", &format!("Bearer {token}")).status;
    for path in ["/", "/stats", "/metrics", "/events", "/nowhere"] {
        let refused = ask(path, "");
        assert_eq!(refused.status, 401, "{path}");
        assert_eq!(refused.json()["error"], "a token is wanted");
        assert!(refused.headers.contains_key("www-authenticate"));
    }
    assert_eq!(ask("/livez", "").json(), json!({"live": true}));
    assert_eq!(ask("/readyz", "").json(), json!({"ready": true}));
    assert_eq!(bearer(FIRST), 200);
    let whole: Readiness = ask("/readyz", &format!("Bearer {FIRST}")).read();
    assert!(!whole.checks.is_empty());
    // "me:0123456789abcdef"
    assert_eq!(
        ask("/stats", "Basic bWU6MDEyMzQ1Njc4OWFiY2RlZg==").status,
        200
    );
    for wrong in [
        "Bearer",
        "Bearer 0123456789abcdee",
        "Basic !",
        "Basic bWU6eA==",
        "Digest x",
    ] {
        assert_eq!(ask("/stats", wrong).status, 401, "{wrong}");
    }

    assert_eq!(bearer(SECOND), 401);
    let becomes = |token: &str, status: u16| {
        let met = wait_until(|| (bearer(token) == status).then_some(()));
        assert!(met.is_some(), "{token} {status}");
    };
    write(&format!("{FIRST}\n{SECOND}\n"));
    becomes(SECOND, 200);
    assert_eq!(bearer(FIRST), 200);
    write("short");
    write(&format!("{SECOND}\n"));
    becomes(FIRST, 401);
    assert_eq!(bearer(SECOND), 200);
    std::fs::remove_file(site.path("tokens")).expect("a file");
    becomes(SECOND, 401);
    assert_eq!(ask("/livez", "").status, 200);
}

/// A web page whose name comes to resolve to this machine is not answered.
#[test]
fn only_names_of_the_daemon_are_answered() {
    let site = Site::configured(&json!({
        "httpAddress": "127.0.0.1:0", "publicHostname": "pos1.shop.example",
        "httpHosts": ["watch.example", "*.svc.cluster.local"],
    }));
    let daemon = TestDaemon::serving(&site);
    let ask = |path: &str, host: &str| {
        let mut client = HttpClient::connect(daemon.http());
        client.send(format!("GET {path} HTTP/1.1\r\n{host}\r\n").as_bytes());
        client.answer(false)
    };
    let paths = [
        "/",
        "/stats",
        "/metrics",
        "/events",
        "/dashboard.js",
        "/else",
    ];
    for host in [
        "evil.example",
        "evil.example:5180",
        "127.0.0.1.evil.example",
        "a b",
        "é.example",
    ] {
        for path in paths {
            let refused = ask(path, &format!("Host: {host}\r\n"));
            assert_eq!(refused.status, 421, "{host} {path}");
            let hint = refused.json()["hint"].clone();
            assert!(
                hint.as_str().is_some_and(|hint| hint.contains("httpHosts")),
                "{hint}"
            );
        }
        // Probes come by any name, and tell no more than how it is.
        let host = format!("Host: {host}\r\n");
        assert_eq!(ask("/livez", &host).json(), json!({"live": true}));
        let ready = ask("/readyz", &host);
        assert_eq!((ready.status, ready.json()), (200, json!({"ready": true})));
    }
    let port = daemon.http().port();
    for host in [
        "Host: 127.0.0.1\r\n",
        &format!("Host: 127.0.0.1:{port}\r\n"),
        &format!("Host: localhost:{port}\r\n"),
        "Host: [::1]:5180\r\n",
        "Host: 10.42.0.7:5180\r\n",
        "Host: event-manager:5180\r\n",
        "Host: pos1.shop.example\r\n",
        "Host: WATCH.example.\r\n",
        "Host: events.default.svc.cluster.local\r\n",
        "Host:\r\n",
        "",
    ] {
        for path in ["/", "/stats", "/metrics", "/events", "/livez"] {
            assert_eq!(ask(path, host).status, 200, "{host:?} {path}");
        }
        let shown: Readiness = ask("/readyz", host).read();
        assert!(shown.checks["registered"].ok);
    }
    // The last of several headers, and a name in the request's first line, count too.
    let two = "Host: localhost\r\nHost: evil.example\r\n";
    assert_eq!(ask("/stats", two).status, 421);
    assert_eq!(
        ask("http://evil.example/stats", "Host: localhost\r\n").status,
        421
    );
}

#[test]
fn it_is_ready_while_the_locator_knows_it() {
    let address = format!("tcp://{}:6000", own_host());
    let daemon = TestDaemon::serving(&Site::configured(&json!({
        "httpAddress": "127.0.0.1:0", "locatorAddress": address,
        "locatorRegister": true, "locatorTtl": 0.6,
    })));
    let missing = |shown: &Readiness| not_ready_because(shown, "registered", &address);
    assert!(missing(&daemon.readiness()));
    assert_eq!(daemon.http_get("/readyz").status, 503);
    let locator = Site::new().start(&["locator", "--address", &address]);
    daemon.wait_for_readiness("ready", |shown| shown.ready);
    assert_eq!(daemon.metrics().value("event_manager_registered", &[]), 1.0);
    drop(locator);
    daemon.wait_for_readiness("the loss", missing);
    let metrics = daemon.metrics();
    assert_eq!(metrics.value("event_manager_registered", &[]), 0.0);
    assert_eq!(metrics.value("event_manager_ready", &[]), 0.0);
    let check = [("check", "registered")];
    assert_eq!(metrics.value("event_manager_ready_check", &check), 0.0);
}

#[test]
fn it_is_not_ready_while_it_stops_and_says_so() {
    let daemon = TestDaemon::with(|config| {
        config.http_address = Some(Endpoint::tcp(host_of_test(), 0));
        config.drain_timeout = PATIENCE;
    });
    let address = daemon.http();
    // A worker that was given more than its socket takes, so that stopping waits for it.
    let service = daemon.subscribe("stalled", "Stalled", &["event"]);
    let mut worker = RawPeer::met(&service.pull_address, "DEALER");
    worker.send(&frame(0, b"READY"));
    daemon.wait_for_ready("Stalled", 1);
    let publisher = daemon.publisher();
    // A tunnel has buffers of its own.
    let events = if tunnel::is_on() { 300 } else { 200 };
    let padding = "x".repeat(60_000);
    (0..events).for_each(|_| publish(&publisher, "event", &padding));
    daemon.wait_for("all", |status| status.publishers.events == events as u64);
    std::thread::scope(|scope| {
        let stopped = scope.spawn(|| daemon.stop());
        let seen = wait_until(|| {
            let answer = HttpClient::connect(address).get("/readyz");
            let shown = answer.read();
            not_ready_because(&shown, "draining", "stopping").then_some((answer.status, shown))
        });
        let (status, shown) = seen.expect("it says so");
        assert_eq!(status, 503);
        assert!(shown.checks["stores"].ok, "no other reason");
        assert_eq!(HttpClient::connect(address).get("/livez").status, 200);
        (0..events).for_each(|_| assert_eq!(worker.read_message().len(), 2));
        assert!(stopped.join().expect("no panic"));
    });
    assert!(TcpStream::connect(address).is_err(), "nobody listens there");
}

#[test]
fn it_is_not_ready_while_a_queue_takes_no_events() {
    let directory = TempDir::new().expect("a directory");
    let start = || {
        TestDaemon::in_own_process(&json!({
            "httpAddress": "127.0.0.1:0", "stateDir": directory.path(),
            "services": {"Billing": {"delivery": "queue", "subjects": ["Order"]}},
        }))
    };
    let first = start();
    first.wait_for_readiness("ready", |shown| shown.ready);
    assert!(first.stop());
    let queue = directory.path().join("queues/Billing");
    std::fs::remove_dir_all(&queue).expect("it is there");
    std::fs::write(&queue, "in the way").expect("a file");
    let daemon = start();
    daemon.wait_for_readiness("the failure", |shown| {
        not_ready_because(shown, "stores", "queue Billing takes no events: ")
    });
    let metrics = daemon.metrics();
    assert_eq!(metrics.value("event_manager_store_failed_queues", &[]), 1.0);
    let billing = [("service", "Billing")];
    assert_eq!(metrics.value("event_manager_queue_failed", &billing), 1.0);
    std::fs::remove_file(&queue).expect("it is there");
    daemon.wait_for_readiness("ready again", |shown| shown.ready);
}

#[test]
fn it_is_not_ready_when_subscriptions_should_be_kept_and_are_not() {
    let directory = TempDir::new().expect("a directory");
    std::fs::create_dir(directory.path().join("state.db")).expect("a directory in the way");
    let daemon = TestDaemon::with(|config| {
        config.http_address = Some(Endpoint::tcp("127.0.0.1", 0));
        config.state_dir = directory.path().into();
    });
    let shown = daemon.readiness();
    assert!(
        not_ready_because(&shown, "stores", "state database"),
        "{shown:?}"
    );
}

#[test]
fn without_an_address_nothing_listens() {
    for off in ["", "off"] {
        let site = Site::configured(&json!({"httpAddress": off}));
        let daemon = TestDaemon::serving(&site);
        let line = daemon.program().logged(" ready ");
        assert!(line.contains("http=\"off\""), "{line}");
    }
}

#[test]
fn an_address_in_use_is_named_with_its_key_and_nothing_runs() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound");
    let site = Site::configured(&json!({"httpAddress": address.to_string()}));
    let complaint = site.run(&["serve"]).failed(1);
    let expected = format!("httpAddress {address} can't be bound: Address already in use");
    assert!(complaint.contains(&expected), "{complaint}");
    assert!(
        complaint.contains("another process listens there"),
        "{complaint}"
    );
    let mut config = config();
    config.http_address = Some(Endpoint::tcp("127.0.0.1", address.port()));
    assert!(Daemon::start(config).is_err());
}

#[test]
fn the_address_is_checked_with_the_others() {
    for (keys, part) in [
        (json!({"httpAddress": "5180"}), "HOST:PORT"),
        (json!({"httpAddress": "ipc:///tmp/x"}), "no other scheme"),
        (json!({"httpAddress": "::1:80"}), "brackets"),
        (
            json!({"httpHosts": ["http://x"], "httpAddress": "off"}),
            "NAME, *.DOMAIN",
        ),
        (
            json!({"httpAddress": "127.0.0.1:5101", "requestAddress": "tcp://*:5101"}),
            "overlap",
        ),
    ] {
        let said = Site::configured(&keys).run(&["check"]).failed(78);
        assert!(said.contains("http") && said.contains(part), "{said}");
    }
}

/// A look costs the reactor no more with many subscriptions than with few; who wants all asks for parts.
#[test]
fn subscriptions_with_many_subjects_are_counted_and_not_shown() {
    let daemon = watched();
    let subjects: Vec<_> = (0..100).map(|n| format!("Order{n}")).collect();
    let subjects: Vec<_> = subjects.iter().map(|subject| &**subject).collect();
    for n in 0..30 {
        daemon.subscribe(&n.to_string(), &format!("Service{n}"), &subjects);
    }
    let stats = daemon.http_wait_for("/stats", "all of them", |stats: &Stats| {
        stats.status.services.len() == 30
    });
    let services = &stats.status.services;
    assert!(services.iter().all(|one| one.subject_count == 100));
    let shown = services.iter().map(|one| {
        let subscriptions = one.subscriptions.iter();
        let of_subscriptions: usize = subscriptions.map(|one| 1 + one.subjects.len()).sum();
        one.subjects.len() + of_subscriptions
    });
    let shown: usize = shown.sum();
    assert!((2000..=2500).contains(&shown), "{shown}");
    assert_eq!(
        daemon.service("Service29").subscriptions[0].subjects.len(),
        100
    );
}

/// More than the reactor tells in one turn.
#[test]
fn status_has_all_subscriptions_however_many() {
    let daemon = TestDaemon::start();
    let subjects: Vec<_> = (0..1200).map(|n| format!("Order{n:04}")).collect();
    let subjects: Vec<_> = subjects.iter().map(|subject| &**subject).collect();
    daemon.subscribe("all", "Archive", &subjects);
    daemon.subscribe("few", "Billing", &["Order"]);
    for (subject, n) in subjects.iter().take(520).zip(0..) {
        daemon.subscribe(&format!("sub-{n:03}"), "Many", &[subject]);
    }
    let mut client = daemon.client(PATIENCE);
    let told = client.status().expect("an answer");
    let archive = told.service("Archive").expect("a service");
    assert_eq!(
        (archive.subject_count, &archive.subjects[..]),
        (1200, &archive.subscriptions[0].subjects[..])
    );
    assert_eq!(archive.subjects, subjects);
    assert_eq!(
        told.service("Billing").expect("a service").subjects,
        ["Order"]
    );
    let many = told.service("Many").expect("a service");
    assert_eq!((many.subjects.len(), many.subscriptions.len()), (520, 520));
    assert_eq!((many.subject_count, many.subscription_count), (520, 520));
    for ((subscription, subject), n) in many.subscriptions.iter().zip(&subjects).zip(0..) {
        assert_eq!(subscription.id, format!("sub-{n:03}"));
        assert_eq!(subscription.subjects, [*subject]);
    }
}

#[test]
fn of_many_subscriptions_the_first_are_shown_and_all_are_there_in_parts() {
    let daemon = watched();
    for n in 0..40 {
        daemon.subscribe(
            &format!("sub-{n:02}"),
            "Billing",
            &[&format!("Order{n:02}")],
        );
    }
    let stats = daemon.http_wait_for("/stats", "all subscriptions", |stats: &Stats| {
        let billing = stats.status.service("Billing");
        billing.is_some_and(|billing| billing.subscription_count == 40)
    });
    let shown = stats.status.service("Billing").expect("a service");
    assert_eq!((shown.subjects.len(), shown.subject_count), (16, 40));
    let ids = |all: &[Subscription]| all.iter().map(|one| one.id.clone()).collect::<Vec<_>>();
    let all: Vec<_> = (0..40).map(|n| format!("sub-{n:02}")).collect();
    assert_eq!(ids(&shown.subscriptions), all[..16]);
    let whole = daemon.service("Billing");
    assert_eq!(
        (whole.subjects.len(), ids(&whole.subscriptions)),
        (40, all.clone())
    );
    let service = [("service", "Billing")];
    let metrics = daemon.metrics();
    assert_eq!(metrics.value("event_manager_subscriptions", &service), 40.0);
    let mut client = HttpClient::connect(daemon.http());
    let (mut found, mut after) = (vec![], String::new());
    for length in [15, 15, 10] {
        let path = format!("/subscriptions?service=Billing&max=15{after}");
        let part: Subscriptions = client.get(&path).read();
        assert_eq!(
            (&*part.service, part.subscriptions.len()),
            ("Billing", length)
        );
        assert!(
            part.subscriptions
                .iter()
                .all(|one| one.expires_in_seconds > 0.0)
        );
        assert_eq!(
            part.subscriptions[0].subjects,
            [format!("Order{:02}", found.len())]
        );
        found.extend(ids(&part.subscriptions));
        after = part.next.map_or("".into(), |next| format!("&after={next}"));
        assert_eq!(after.is_empty(), found.len() == 40);
    }
    assert_eq!(found, all);
    for (query, status) in [
        ("", 400),
        ("?service=Billing&max=0", 400),
        ("?service=Billing&max=501", 400),
        ("?service=Billing&x=1", 400),
        ("?service=", 400),
        ("?service=Nobody", 404),
    ] {
        let refused = client.get(&format!("/subscriptions{query}"));
        assert_eq!(refused.status, status, "{query}");
        assert!(refused.json()["hint"].is_string(), "{query}");
    }
}

#[test]
fn an_ipv6_address_is_served_too() {
    let ipv6: SocketAddr = "[::1]:0".parse().expect("an address");
    if TcpListener::bind(ipv6).is_err() {
        return println!("this machine has no IPv6");
    }
    let site = Site::configured(&json!({"httpAddress": "[::1]:0"}));
    let daemon = TestDaemon::serving(&site);
    assert!(daemon.http().is_ipv6());
    assert_eq!(daemon.http_get("/livez").status, 200);
}

#[test]
fn two_thousand_scrapes_under_load_lose_no_event() {
    const EVENTS: u64 = 20_000;
    let daemon = watched();
    let subscriber = daemon.subscriber(&["load"]);
    let service = daemon.subscribe("sub-1", "Load", &["load"]);
    let worker = daemon.worker("Load", &service.pull_address);
    let publisher = daemon.publisher();
    let address = daemon.http();
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let scrapers = [0; 4].map(|_| {
            scope.spawn(|| {
                let mut client = HttpClient::connect(address);
                let mut scrapes = 0;
                while scrapes < 500 || !is_done.load(Ordering::Relaxed) {
                    let path = ["/metrics", "/stats"][scrapes % 2];
                    assert_eq!(client.get(path).status, 200);
                    scrapes += 1;
                }
                scrapes
            })
        });
        for socket in [&subscriber, &worker] {
            socket.set_rcvhwm(0).expect("an option");
        }
        let published = scope.spawn(move || {
            (0..EVENTS).for_each(|n| publish(&publisher, "load", &n.to_string()));
            publisher
        });
        for n in 0..EVENTS {
            for socket in [&subscriber, &worker] {
                let event = socket.recv_multipart(0).expect("an event");
                assert_eq!(event[1], n.to_string().as_bytes());
            }
        }
        is_done.store(true, Ordering::Relaxed);
        let scrapes: usize = scrapers.map(|s| s.join().expect("no panic")).iter().sum();
        assert!(scrapes >= 2000);
        drop(published.join().expect("no panic"));
    });
    let metrics = daemon.metrics();
    let load = [("service", "Load")];
    assert_eq!(
        metrics.value("event_manager_events_delivered_total", &load),
        EVENTS as f64
    );
    assert_eq!(
        metrics.value("event_manager_published_events_total", &[]),
        EVENTS as f64
    );
}
