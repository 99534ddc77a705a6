//! Commands that talk to a daemon with CURVE, as their users run them.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use event_manager_client::testing::TestHub;
use event_manager_client::{load_pair, new_pair};
use event_manager_zmtp::curve::Certificate;
use serde_json::Value;

use super::client_hub::daemon;
use super::support::program::Site;

fn keyed() -> TestHub {
    daemon().durable().curve().start().expect("a daemon")
}

fn key_file(daemon: &TestHub) -> String {
    daemon.key_file().display().to_string()
}

fn server_key(daemon: &TestHub) -> String {
    daemon.server_key().expect("it has keys")
}

/// Its commands talk to this daemon, and have no keys.
fn site_of(daemon: &TestHub) -> Site {
    Site::new().with("EVENT_MANAGER_ADDRESS", daemon.address())
}

fn keyed_site_of(daemon: &TestHub) -> Site {
    site_of(daemon)
        .with("EVENT_MANAGER_KEY", &key_file(daemon))
        .with("EVENT_MANAGER_SERVER_KEY", &server_key(daemon))
}

#[test]
fn every_command_has_keys() {
    let daemon = keyed();
    let site = keyed_site_of(&daemon);
    let health = site.run(&["health"]).done();
    assert!(health.starts_with("healthy: "), "{health}");
    let worker = site.start(&[
        "worker",
        "Billing",
        "Order",
        "--delivery",
        "queue",
        "-n",
        "2",
    ]);
    worker.logged("is subscribed as");
    let shown = site.start(&["sub", "Order", "-n", "2"]);
    let tail = site.start(&["tail", "Order", "-n", "2"]);
    super::support::program::wait_until(|| {
        let status = daemon.status().expect("a status");
        (status.subscribers.subscriptions == 2).then_some(())
    });
    let receipt = site.run(&["emit", "Order", "1"]).done();
    assert!(receipt.contains("\"services\":1"), "{receipt}");
    assert_eq!(site.run(&["pub", "Order", "2"]).done(), "");
    assert_eq!(shown.end().done(), "Order\t1\nOrder\t2\n");
    assert_eq!(tail.end().done().lines().count(), 2);
    let worker = worker.end();
    assert_eq!(
        (worker.code, &*worker.stdout),
        (Some(0), "Order\t1\nOrder\t2\n")
    );
    let follower = site.start(&["events", "--follow", "-n", "1"]);
    follower.printed(1);
    let subscribed = site
        .run(&["subscribe", "Kitchen", "Order", "--json"])
        .done();
    let subscribed: Value = serde_json::from_str(&subscribed).expect("JSON");
    let id = subscribed["id"].as_str().expect("an id");
    site.run(&["unsubscribe", id]).done();
    let followed = follower.printed(2);
    assert!(followed.contains("service=Kitchen"), "{followed}");
    follower.signal("INT");
    follower.end().done();
    for arguments in [
        &["services", "--verbose"][..],
        &["dlq", "list", "Billing"],
        &["events"],
        &["top", "-n", "1"],
        &["bench", "publish", "-n", "100"],
        &["services", "--end", "Billing"],
    ] {
        site.run(arguments).done();
    }
    let called = site.run(&["call", "nobody", "x"]);
    assert_eq!((called.code, &*called.stderr), (Some(0), ""), "{called:?}");
    let report = site.run(&["doctor", "--json"]);
    assert!(matches!(report.code, Some(0 | 1)), "{report:?}");
    // Flags go before variables.
    let other = site.with("EVENT_MANAGER_KEY", "nonsense");
    let flag = ["health", "--key", &key_file(&daemon)];
    other.run(&flag).done();
}

#[test]
fn who_is_shut_out_is_told_why_and_what_to_do() {
    let daemon = keyed();
    let directory = tempfile::tempdir().expect("a directory");
    let stranger = new_pair().expect("a pair");
    let file = directory.path().join("stranger.key_secret");
    fs::write(&file, Certificate::secret_text(&stranger)).expect("a file");
    let stranger_file = file.display().to_string();
    let (own, right) = (key_file(&daemon), server_key(&daemon));
    let wrong = new_pair().expect("a pair").public().to_string();
    let unknown = stranger.public().to_string();
    let cases = [
        (
            vec![],
            "it wants keys (CURVE)",
            "--key FILE and --server-key",
        ),
        (
            vec!["--key", &own, "--server-key", &wrong],
            "is none of its keys",
            "security.secretKey",
        ),
        (
            vec!["--key", &stranger_file, "--server-key", &right],
            &unknown,
            "into the daemon's security.keysDir",
        ),
    ];
    let site = site_of(&daemon);
    for (keys, why, mend) in cases {
        let programs = [&["services"][..], &["worker", "Billing", "x"], &["health"]]
            .map(|command| site.start(&[command, &keys].concat()));
        for program in programs {
            let said = program.end().failed(77);
            assert!(said.contains(why) && said.contains(mend), "{said}");
            assert!(said.contains(daemon.address()), "{said}");
        }
        let doctor = site.run(&[&["doctor", "--json"][..], &keys].concat());
        assert_eq!(doctor.code, Some(77), "{doctor:?}");
        let report: Value = serde_json::from_str(&doctor.stdout).expect("JSON");
        let finding = report["findings"].as_array().expect("a list");
        let finding = finding.iter().find(|finding| finding["code"] == "EM-9027");
        let said = finding.expect("a finding").to_string();
        assert!(said.contains(why) && said.contains(mend), "{said}");
    }
}

#[test]
fn wrong_keys_are_named_and_never_shown() {
    let daemon = keyed();
    let site = site_of(&daemon);
    let (own, right) = (key_file(&daemon), server_key(&daemon));
    let secret = fs::read_to_string(daemon.key_file()).expect("a file");
    let secret = secret.split('"').nth(3).expect("a secret key");
    site.write("noise.key", "nothing");
    for (keys, why) in [
        (
            &["--key", &own][..],
            "is given without --server-key (or EVENT_MANAGER_SERVER_KEY)",
        ),
        (
            &["--server-key", &right],
            "is given without --key (or EVENT_MANAGER_KEY)",
        ),
        (
            &["--key", "none.key_secret", "--server-key", &right],
            "none.key_secret can't be read: No such file",
        ),
        (
            &["--key", "noise.key", "--server-key", &right],
            "noise.key: it has no line public-key",
        ),
        (
            &["--key", &own, "--server-key", &secret[1..]],
            "is neither a key",
        ),
        (&["--key", secret, "--server-key", &right], "names no file"),
    ] {
        for command in ["services", "health", "doctor"] {
            let said = site.run(&[&[command][..], keys].concat()).failed(78);
            assert!(said.contains(why), "{said}");
            assert!(!said.contains(&secret[1..]), "{said}");
        }
    }
}

/// Whoever may read the daemon's secret may be the daemon.
#[test]
fn on_the_daemon_s_machine_its_own_keys_serve() {
    let mut daemon = keyed();
    // Its file has its ports now.
    daemon.restart().expect("a daemon");
    let config = daemon.key_file().with_file_name("config.json");
    let here = Site::new().with("CONFIG_PATH", &config.display().to_string());
    let secret = daemon.key_file().with_file_name("server.key_secret");
    for site in [here, {
        let here = Site::new().with("CONFIG_PATH", &config.display().to_string());
        here.with("EVENT_MANAGER_ADDRESS", daemon.address())
    }] {
        for command in [&["services"][..], &["health"], &["pub", "Order", "1"]] {
            site.run(command).done();
        }
        let doctor = site.run(&["doctor"]);
        assert!(!doctor.stdout.contains("EM-9027"), "{doctor:?}");
    }
    // It is not handed to others.
    let elsewhere = Site::new()
        .with("CONFIG_PATH", &config.display().to_string())
        .with("EVENT_MANAGER_ADDRESS", "tcp://127.0.0.1:9");
    elsewhere.run(&["services", "--wait", "0.2"]).failed(69);
    let mode = fs::Permissions::from_mode(0o644);
    fs::set_permissions(&secret, mode).expect("a file");
    let here = Site::new().with("CONFIG_PATH", &config.display().to_string());
    let said = here.run(&["services"]).failed(78);
    assert!(
        said.contains("name yours with --key and --server-key"),
        "{said}"
    );
    assert!(
        said.contains(&format!("chmod 600 {}", secret.display())),
        "{said}"
    );
    // A daemon that runs with an older configuration has no CURVE.
    let open = super::client_hub::started();
    let text = fs::read_to_string(&config).expect("a file");
    let mut keys: Value = serde_json::from_str(&text).expect("JSON");
    keys["requestAddress"] = open.address().into();
    let site = Site::configured(&keys);
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("a file");
    load_pair(&secret).expect("it can be read");
    site.run(&["services"]).done();
}
