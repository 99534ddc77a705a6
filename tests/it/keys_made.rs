//! `event-manager keys`: what it makes, what it says is wrong, and the README's three commands.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use event_manager_client::new_pair;
use event_manager_client::testing::TestHub;
use serde_json::{Value, json};

use super::client_hub::{daemon, started};
use super::support::program::Site;

const README: &str = include_str!("../../README.md");

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

/// A daemon's configuration here finds ports that nobody has.
fn on_free_ports(site: Site) -> (Site, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("tcp://{}", listener.local_addr().expect("it is bound"));
    let any = "tcp://127.0.0.1:0";
    let variables = [
        ("EVENT_MANAGER_REQUEST_ADDRESS", &*address),
        ("EVENT_MANAGER_PUB_ADDRESS", any),
        ("EVENT_MANAGER_SUB_ADDRESS", any),
        ("EVENT_MANAGER_HTTP_ADDRESS", "off"),
        ("SERVICE_LOCATOR_ADDRESS", any),
        ("EVENT_MANAGER_EMBEDDED_LOCATOR", "true"),
        ("EVENT_MANAGER_MIN_STREAMER_PORT", "0"),
        ("EVENT_MANAGER_MAX_STREAMER_PORT", "0"),
    ];
    let with = |site: Site, (name, value): (&str, &str)| site.with(name, value);
    (variables.into_iter().fold(site, with), address)
}

/// The commands of a console block, and what each prints.
fn console(heading: &str, number: usize) -> Vec<(Vec<String>, String)> {
    let section = README.split(heading).nth(1).expect("a section");
    let block = section.split("```console\n").nth(number).expect("a block");
    let block = block.split("```").next().expect("its end");
    let mut commands = vec![];
    for line in block.lines() {
        match line.strip_prefix("$ event-manager") {
            Some(arguments) => {
                // As a shell splits them: no quote is within a word.
                let quoted = arguments
                    .split('\'')
                    .enumerate()
                    .flat_map(|(n, part)| match n % 2 {
                        0 => part
                            .split_whitespace()
                            .map(str::to_owned)
                            .collect::<Vec<_>>(),
                        _ => vec![part.to_owned()],
                    });
                commands.push((quoted.collect(), String::new()));
            }
            None => {
                let (_, printed) = commands.last_mut().expect("a command");
                printed.push_str(line);
                printed.push('\n');
            }
        }
    }
    commands
}

/// Without keys, which are others each time.
fn without_keys(text: &str) -> String {
    let is_key = |word: &&str| !(40..=44).contains(&word.len());
    text.split(' ').filter(is_key).collect::<Vec<_>>().join(" ")
}

fn run(site: &Site, arguments: &[String]) -> String {
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    site.run(&arguments).done()
}

#[test]
fn the_readme_s_three_commands_close_the_daemon() {
    const HEADING: &str = "## Closed in three commands";
    let (site, address) = on_free_ports(Site::new());
    let commands = console(HEADING, 1);
    let [(init, initialised), (new, made), (serve, _)] = &commands[..] else {
        panic!("{commands:?}")
    };
    for (command, printed) in [(init, initialised), (new, made)] {
        let said = run(&site, command);
        // The last word of a line may be a key.
        let lines = |text: &str| text.lines().map(without_keys).collect::<Vec<_>>();
        assert_eq!(lines(&said), lines(printed));
    }
    assert_eq!(serve, &Vec::<String>::new());
    let daemon = site.start(&[]);
    daemon.logged("EM-0001");
    // Its machine, then elsewhere.
    let [(services, _), (emit, _)] = &console(HEADING, 2)[..] else {
        panic!("two commands")
    };
    assert_eq!(run(&site, services), "no service is subscribed\n");
    assert!(run(&site, emit).contains("\"services\":0"));
    let stranger = Site::new().with("EVENT_MANAGER_ADDRESS", &address);
    stranger.run(&["services"]).failed(77);
    let keys = ["--key", "billing.key_secret", "--server-key", "server.key"];
    let check = [&["keys", "check", &address][..], &keys].concat();
    let checked = site.run(&check).done();
    assert!(checked.contains("admits the client's key"), "{checked}");
    fs::remove_file(site.path("keys/billing.key")).expect("a file");
    super::support::program::wait_until(|| (site.run(&check).code == Some(77)).then_some(()));
}

#[test]
fn keys_are_made_once_and_only_their_owner_reads_the_secret() {
    let site = Site::new();
    site.run(&["keys", "init"]).done();
    let read = |name: &str| fs::read_to_string(site.path(name)).expect("a file");
    for (name, expected) in [
        ("server.key_secret", 0o600),
        ("server.key", 0o644),
        ("config.json", 0o644),
    ] {
        assert_eq!(mode(&site.path(name)), expected, "{name}");
    }
    let before = read("server.key_secret");
    let said = site.run(&["keys", "init"]).failed(1);
    assert!(
        said.contains("server.key_secret is there already; nothing was changed"),
        "{said}"
    );
    assert_eq!(read("server.key_secret"), before);

    site.run(&["keys", "new", "a b.c"]).done();
    assert_eq!(mode(&site.path("a b.c.key_secret")), 0o600);
    assert!(!read("keys/a b.c.key").contains("secret-key"));
    let said = site.run(&["keys", "new", "a b.c"]).failed(1);
    assert!(said.contains("is there already"), "{said}");
    // Half of it is there.
    fs::remove_file(site.path("a b.c.key_secret")).expect("a file");
    site.run(&["keys", "new", "a b.c"]).failed(1);
    assert!(!site.path("a b.c.key_secret").exists());
    let said = site.run(&["keys", "new", "x", "--out", "keys"]).failed(1);
    assert!(said.contains("where no secret belongs"), "{said}");
    let said = site
        .run(&["keys", "new", "x", "--out", "nowhere"])
        .failed(1);
    assert!(
        said.contains("nowhere/x.key_secret can't be made"),
        "{said}"
    );
    assert!(!site.path("keys/x.key").exists());
    for name in ["../x", ".x", "", "-x", "a\nb"] {
        site.run(&["keys", "new", "--", name]).failed(2);
    }
    let names = fs::read_dir(site.path("keys")).expect("a directory");
    assert_eq!(names.count(), 1, "nothing is left over");
}

#[test]
fn a_configuration_that_is_there_is_not_changed() {
    let site = Site::configured(&json!({}));
    let before = fs::read_to_string(site.path("config.json")).expect("a file");
    let said = site.run(&["keys", "init"]).done();
    assert_eq!(
        fs::read_to_string(site.path("config.json")).expect("a file"),
        before
    );
    // The line is one for the file.
    let line = said.lines().last().expect("a line");
    let mut keys: Value = serde_json::from_str(&before).expect("JSON");
    let security: Value = serde_json::from_str(&format!("{{{line}}}")).expect("JSON");
    keys["security"] = security["security"].clone();
    site.write("config.json", &keys.to_string());
    let checked = site.run(&["check"]).done();
    assert!(checked.contains("server.key_secret"), "{checked}");
    let checked = site.run(&["keys", "check"]).done();
    assert!(checked.contains("keys of clients: 0"), "{checked}");
}

#[test]
fn problems_of_files_are_named_with_what_mends_them() {
    let site = Site::new();
    site.run(&["keys", "init"]).done();
    site.run(&["keys", "new", "billing"]).done();
    let secret = fs::read_to_string(site.path("billing.key_secret")).expect("a file");
    let copy = |from: &str, to: &str| {
        fs::copy(site.path(from), site.path(to)).expect("a copy");
    };
    copy("billing.key_secret", "keys/billing.key_secret");
    copy("keys/billing.key", "keys/other.key");
    copy("server.key", "keys/server.key");
    symlink("/nowhere/x.key", site.path("keys/x.key")).expect("a link");
    site.write("keys/noise.key", "nothing");
    site.write("keys/whole.key", &secret);
    let problems = [
        (
            "keys/billing.key_secret: no secret belongs there",
            "move it to the client",
        ),
        (
            "\"billing\" and \"other\" have the same public key",
            "remove one of the two",
        ),
        ("keys/server.key: it is the daemon's own key", "remove it"),
        (
            "keys/x.key: the link leads to /nowhere/x.key",
            "remove the link",
        ),
        (
            "keys/noise.key: it has no line public-key",
            "put the client's public file there",
        ),
        (
            "keys/whole.key: it has the secret-key too",
            "give the client another pair",
        ),
    ];
    let ended = site.run(&["keys", "check"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let doctor = site.run(&["doctor", "--wait", "0.2"]);
    let checked = site.run(&["check"]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    for (what, mend) in problems {
        for said in [&ended.stderr, &doctor.stdout, &checked.stderr] {
            assert!(said.contains(what) && said.contains(mend), "{what}: {said}");
        }
        assert!(doctor.stdout.contains("EM-9028"), "{doctor:?}");
    }
    let said = [ended.stderr, doctor.stdout, checked.stderr].concat();
    let key = secret.split('"').nth(3).expect("a secret key");
    assert!(!said.contains(key), "{said}");

    // What keeps the daemon from starting.
    let open = fs::Permissions::from_mode(0o644);
    fs::set_permissions(site.path("server.key_secret"), open).expect("a file");
    for command in [&["keys", "check"][..], &["check"], &["serve"]] {
        let ended = site.run(command);
        assert_eq!(ended.code, Some(78), "{ended:?}");
        assert!(
            ended.stderr.contains("run chmod 600 server.key_secret"),
            "{ended:?}"
        );
    }
    fs::remove_file(site.path("server.key_secret")).expect("a file");
    let ended = site.run(&["keys", "check"]);
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(
        ended.stderr.contains("No such file") && ended.stderr.contains("keys init"),
        "{ended:?}"
    );
}

fn check(site: &Site, daemon: &TestHub, keys: &[&str]) -> (Option<i32>, String) {
    let ended = site.run(&[&["keys", "check", daemon.address()][..], keys].concat());
    (ended.code, [ended.stdout, ended.stderr].concat())
}

#[test]
fn keys_are_tried_from_the_client_s_side() {
    let closed = daemon().curve().start().expect("a daemon");
    let own = closed.key_file().display().to_string();
    let right = closed.server_key().expect("it has keys");
    let wrong = new_pair().expect("a pair").public().to_string();
    let site = Site::new();
    site.run(&["keys", "new", "stranger"]).done();
    let good = ["--key", &own, "--server-key", &right];
    for (keys, code, why) in [
        (&good[..], 0, "admits the client's key"),
        (&[], 77, "it wants keys (CURVE)"),
        (
            &["--key", &own, "--server-key", &wrong],
            77,
            "is none of its keys",
        ),
        (
            &["--key", "stranger.key_secret", "--server-key", &right],
            77,
            "the server key is right, but the client's key",
        ),
    ] {
        let (ended, said) = check(&site, &closed, keys);
        assert_eq!(ended, Some(code), "{said}");
        assert!(said.contains(why), "{said}");
    }
    if std::env::var_os("EVENT_MANAGER_TEST_CURVE").is_none() {
        let open = started();
        let (ended, said) = check(&site, &open, &good);
        assert_eq!(ended, Some(77), "{said}");
        assert!(
            said.contains("it has no CURVE") && said.contains("admits peers without keys"),
            "{said}"
        );
        let (ended, said) = check(&site, &open, &[]);
        assert_eq!(ended, Some(0), "{said}");
        assert!(said.contains("nothing is encrypted"), "{said}");
    }
    let nobody = site.run(&["keys", "check", "tcp://127.0.0.1:9"]).failed(69);
    assert!(nobody.contains("refused"), "{nobody}");
    assert!(nobody.contains("Start the daemon"), "{nobody}");
}
