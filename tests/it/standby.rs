//! A daemon that stands by until a person says that its machine serves.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::emit::emit;
use super::hard::disk::SmallDisk;
use super::support::TestDaemon;
use super::support::program::{Ended, Program, Serving, Site, wait_until};
use super::support::shared_directory::SharedDirectory;

/// A machine of this name: what runs there is told it by the system.
struct Machine {
    name: &'static str,
    site: Site,
}

impl Machine {
    fn new(name: &'static str, directory: &Path) -> Self {
        Self::with_hooks(name, directory, &json!({}))
    }

    fn with_hooks(name: &'static str, directory: &Path, hooks: &Value) -> Self {
        let mut lease = hooks.clone();
        lease["source"] = "hand".into();
        let site = Site::configured(&json!({
            "stateDir": directory,
            "services": {"Billing": {"delivery": "queue", "subjects": ["Order"]}},
            "lease": lease,
        }));
        Self { name, site }
    }

    fn start(&self) -> Program {
        let program = self.site.command(&[]).get_program().to_owned();
        self.site
            .start_in(&self.shell(), &[&program.to_string_lossy()])
    }

    fn promote(&self, arguments: &[&str], typed: &str) -> Ended {
        let program = self.site.command(&[]).get_program().to_owned();
        let program = program.to_string_lossy();
        let command = [&[&*program, "promote"], arguments].concat();
        let mut promoting = self.site.start_in(&self.shell(), &command);
        promoting.types(typed);
        promoting.ends_input();
        promoting.end()
    }

    /// By which a program runs on this machine.
    fn shell(&self) -> Vec<String> {
        let named = format!("hostname {} && exec \"$0\" \"$@\"", self.name);
        ["unshare", "--uts", "sh", "-c", &named]
            .map(str::to_owned)
            .to_vec()
    }
}

fn serving(program: Program) -> TestDaemon {
    TestDaemon::of(Serving::ready(program))
}

fn order(id: &str) -> Value {
    json!({"id": id, "level": "disk", "subject": "Order", "payload": id})
}

#[test]
fn a_person_says_which_machine_serves() {
    let directory = SharedDirectory::new();
    let [a, b] =
        ["machine-a", "machine-b"].map(|name| Machine::new(name, directory.of_next_machine()));
    let (first, second) = (a.start(), b.start());
    for waiting in [&first, &second] {
        waiting.logged("run event-manager promote");
    }
    let promoted = a.promote(&[], "").done();
    let (warned, done) = promoted.split_once('\n').expect("two lines");
    assert!(warned.contains("is not mounted here"), "{promoted}");
    assert_eq!(done, "machine-a serves from now on (epoch 1)\n");
    let first = serving(first);
    assert!(emit(&first, order("a-1")).is_ok());
    second.logged("holder=\"machine-a\"");
    let held = first.status().lease.expect("it is held");
    assert_eq!((&*held.source, &*held.holder), ("hand", "machine-a"));
    assert_eq!((held.token, held.epoch, held.ttl_ms), (2, 2, None));
    // After a restart it serves again, without a word.
    assert!(first.stop());
    let first = serving(a.start());
    assert_eq!(a.promote(&[], "").done(), "machine-a serves already\n");
    // Who doesn't confirm that the other is dead changes nothing.
    for wrong in ["", "machine-b\n", "yes\n"] {
        let refused = b.promote(&[], wrong);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stdout.contains("Type machine-a"), "{refused:?}");
        assert!(
            refused.stderr.contains("nothing was changed"),
            "{refused:?}"
        );
    }
    assert!(emit(&first, order("a-2")).is_ok());
    // One that was not dead ends at once.
    let promoted = b.promote(&["--dead", "machine-a"], "").done();
    assert!(
        promoted.starts_with("machine-b serves from now on"),
        "{promoted}"
    );
    let ended = first.into_program().end();
    assert_eq!(ended.code, Some(76), "{ended:#?}");
    assert!(
        ended.stderr.contains("another machine was promoted"),
        "{ended:#?}"
    );
    let second = serving(second);
    second.wait_for_service("Billing", "its queue", |found| found.counters.queued == 2);
    assert!(emit(&second, order("b-1")).is_ok());
    let first = a.start();
    first.logged("holder=\"machine-b\"");
    drop(first);
    assert!(second.stop());
}

/// Where nobody is yet.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("it is bound").to_string()
}

/// A certificate and its key, and a token.
fn write_secrets(site: &Site) {
    let made = Command::new("openssl")
        .current_dir(site.path("."))
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split(' '))
        .args("-subj /CN=elsewhere -keyout hub.key -out hub.pem".split(' '))
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{made:?}");
    site.write("token", "0123456789abcdef\n");
    for secret in ["token", "hub.key"] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(site.path(secret), mode).expect("a mode");
    }
}

#[test]
fn a_vote_among_daemons_is_refused_with_what_to_use() {
    for (members, why) in [
        (json!(["a:1"]), "nobody to agree with"),
        (
            json!(["a:1", "b:1"]),
            "two can't elect: when the line between them breaks",
        ),
        (
            json!("a:1, b:1, c:1"),
            "not built; use lease.source with an engine",
        ),
    ] {
        let site = Site::configured(&json!({"cluster": {"members": members}}));
        for command in [&["check"][..], &[]] {
            let said = site.run(command).failed(78);
            assert!(said.contains(why), "{said}");
        }
    }
    Site::configured(&json!({"cluster": {"members": []}}))
        .run(&["check"])
        .done();
    let by_variable =
        Site::configured(&json!({})).with("EVENT_MANAGER_CLUSTER__MEMBERS", "a:1,b:1");
    let said = by_variable.run(&["check"]).failed(78);
    assert!(said.contains("two can't elect"), "{said}");
}

#[test]
fn what_makes_no_sense_for_who_serves_always_is_refused() {
    for (more, why) in [
        (json!({}), "needs an engine as lease.source"),
        (json!({"source": "none"}), "there is no engine"),
        (
            json!({"source": "cluster"}),
            "a vote among event managers without an engine, is not built",
        ),
        (
            json!({"role": "standby", "required": true}),
            "lease.required is for lease.role \"active\"",
        ),
        (
            json!({"role": "both"}),
            "\"standby\" or \"active\" is wanted",
        ),
    ] {
        let mut lease = json!({"source": "hand", "role": "active"});
        for (key, value) in more.as_object().expect("an object") {
            lease[key] = value.clone();
        }
        let site = Site::configured(&json!({ "lease": lease }));
        let said = site.run(&["check"]).failed(78);
        assert!(said.contains(why), "{said}");
    }
    let instances = json!({"heartbeat": "beat", "fence": "standby"});
    let site = Site::configured(&json!({ "instances": instances }));
    let said = site.run(&["check"]).failed(78);
    assert!(
        said.contains("needs lease.source with an engine, and lease.role"),
        "{said}"
    );
}

#[test]
fn what_a_killed_predecessor_left_is_taken_away_before_this_one_brings_its_own() {
    let directory = TempDir::new().expect("a directory");
    let (notes, gate) = (
        directory.path().join("notes"),
        directory.path().join("gate"),
    );
    let site = Site::configured(&json!({
        "stateDir": directory.path().join("state"),
        "lease": {
            "source": "hand",
            "onLead": ["/bin/sh", "-c", format!("echo leads $LEASE_TOKEN >> {}", notes.display())],
            "onResign": ["/bin/sh", "-c", format!(
                "read _ < {}; echo resigns $LEASE_TOKEN >> {}", gate.display(), notes.display()
            )],
        },
    }));
    let made = Command::new("mkfifo").arg(&gate).status();
    assert!(made.expect("mkfifo").success());
    let open = || std::fs::write(&gate, "\n").expect("somebody reads");
    let written = |lines: usize| {
        let lines_of = |text: String| (text.lines().count() >= lines).then_some(text);
        wait_until(|| lines_of(std::fs::read_to_string(&notes).unwrap_or_default()))
    };
    let standby = site.start(&[]);
    standby.logged("EM-0711");
    site.run(&["promote"]).done();
    // Clients don't wait for it.
    let first = serving(standby);
    assert!(!notes.exists());
    open();
    assert_eq!(written(2).expect("both"), "resigns 0\nleads 2\n");
    first.into_program().signal("KILL");
    // Who serves at once has nothing to take away.
    let first = serving(site.start(&[]));
    assert_eq!(
        written(3).expect("one more"),
        "resigns 0\nleads 2\nleads 3\n"
    );
    let stopping = std::thread::spawn(move || first.stop());
    open();
    assert!(stopping.join().expect("no panic"));
    assert_eq!(
        written(4).expect("one more"),
        "resigns 0\nleads 2\nleads 3\nresigns 3\n"
    );
}

#[test]
fn health_tells_a_standby_from_a_dead_daemon() {
    let mut guards = vec![json!({}), json!({"httpTokenFile": "token"})];
    if cfg!(feature = "tls") {
        guards.push(json!({"httpTlsCertificate": "hub.pem", "httpTlsKey": "hub.key"}));
    }
    for guard in guards {
        let directory = TempDir::new().expect("a directory");
        let mut keys = json!({
            "stateDir": directory.path(),
            "httpAddress": free_address(),
            "requestAddress": format!("tcp://{}", free_address()),
            "lease": {"source": "hand", "name": "x-1"},
        });
        let more = guard.as_object().expect("an object").clone();
        keys.as_object_mut().expect("an object").extend(more);
        let site = Site::configured(&keys);
        write_secrets(&site);
        let standby = site.start(&[]);
        standby.logged("run event-manager promote");
        let said = site.run(&["health"]).done();
        let expected = "standby: EventManager is healthy; it stands by for the lease x-1 (lease.source hand)\n";
        assert_eq!(said, expected, "{guard}");
        let doctor = site.run(&["doctor"]);
        assert_eq!(doctor.code, Some(0), "{doctor:?}");
        assert!(doctor.stdout.contains("note EM-9038"), "{doctor:?}");
        // A daemon elsewhere is another.
        let elsewhere = format!("tcp://{}", free_address());
        let asked = ["health", "--address", &elsewhere, "--wait", "0.1"];
        site.run(&asked).failed(69);
        site.run(&["promote"]).done();
        let serving = serving(standby);
        assert!(site.run(&["health"]).done().starts_with("healthy: "));
        assert!(serving.stop());
        site.run(&["health", "--wait", "0.1"]).failed(69);
        let doctor = site.run(&["doctor", "--wait", "0.1"]);
        assert_eq!(doctor.code, Some(69), "{doctor:?}");
    }
}

#[test]
fn only_where_a_person_says_it_somebody_is_promoted() {
    let site = Site::configured(&json!({}));
    let said = site.run(&["promote"]).failed(1);
    assert!(said.contains("lease.source is not \"hand\""), "{said}");
}

/// Else it could take the machine's address after `lease.onResign` has given it away.
#[test]
fn who_resigns_ends_what_still_runs_because_it_led() {
    let directory = TempDir::new().expect("a directory");
    let notes = directory.path().join("notes");
    let hook = |script: &str| {
        let script = script.replace("NOTES", &notes.display().to_string());
        json!(["/bin/sh", "-c", script])
    };
    let hooks = json!({
        "onLead": hook("echo leads >> NOTES; sleep 60; echo has the address >> NOTES"),
        "onResign": hook("echo resigns >> NOTES"),
    });
    let state = directory.path().join("state");
    let a = Machine::with_hooks("machine-a", &state, &hooks);
    a.promote(&[], "").done();
    let daemon = serving(a.start());
    let noted = || std::fs::read_to_string(&notes).unwrap_or_default();
    wait_until(|| (noted() == "leads\n").then_some(())).expect("it leads");
    daemon.program().signal("TERM");
    let ended = daemon.into_program().end();
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(noted(), "leads\nresigns\n");
    assert!(
        ended.stderr.contains("this daemon doesn't serve any more"),
        "{ended:#?}"
    );
}

/// A daemon that serves as the user whose the directory is, where root has promoted its machine.
#[test]
fn what_root_promotes_the_daemons_user_can_read() {
    let directory = TempDir::new().expect("a directory");
    let state = directory.path().join("state");
    std::fs::create_dir(&state).expect("a directory");
    // Ours is root's; else there is nobody to give it to.
    std::os::unix::fs::chown(&state, Some(4711), Some(4711)).expect("it runs as root");
    let a = Machine::new("machine-a", &state);
    let done = a.promote(&[], "").done();
    assert!(done.ends_with("serves from now on (epoch 1)\n"), "{done}");
    for name in ["lock", "lock.changing"] {
        let found = std::fs::metadata(state.join(name)).expect("it is there");
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&found), 4711, "{name}");
    }
}

/// Nothing is taken from the queues that fill it as long as nobody serves.
#[test]
fn a_full_disk_is_taken_over_and_one_without_any_room_is_waited_for() {
    let disk = SmallDisk::mount("4m");
    let state = disk.path().join("state");
    let site = Site::configured(&json!({
        "stateDir": state,
        "httpAddress": free_address(),
        "services": {"Billing": {"delivery": "queue", "subjects": ["Order"]}},
        "lease": {"source": "hand"},
    }));
    disk.fill(0);
    let refused = site.run(&["promote"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("free some space there"),
        "{refused:?}"
    );
    disk.make_space();
    site.run(&["promote"]).done();
    let first = serving(site.start(&[]));
    assert!(emit(&first, order("a-1")).is_ok());
    first.subscribe("kept", "Kitchen", &["Live"]);
    first.wait_for("that it is on disk", |status| status.state.written);
    let room = state.join("room");
    wait_until(|| room.exists().then_some(())).expect("room for the next one");
    disk.fill(0);
    first.into_program().signal("KILL");
    let second = serving(site.start(&[]));
    second.wait_for_service("Billing", "its queue", |found| found.counters.queued == 1);
    assert!(
        second.find_service("Kitchen").is_some(),
        "what was kept is there"
    );
    second.into_program().signal("KILL");
    // Somebody else has used the space up.
    let _ = std::fs::remove_file(&room);
    disk.fill(0);
    let waiting = site.start(&[]);
    let said = waiting.logged("EM-0718");
    assert!(said.contains("free some space there"), "{said}");
    let health = wait_until(|| Some(site.run(&["health"])).filter(|ended| ended.code == Some(1)));
    let health = health.expect("it is not healthy");
    assert!(health.stderr.contains("No space left"), "{health:?}");
    let doctor = site.run(&["doctor"]);
    assert!(doctor.stdout.contains("error EM-9016"), "{doctor:?}");
    disk.make_space();
    let third = serving(waiting);
    third.wait_for_service("Billing", "its queue", |found| found.counters.queued == 1);
    assert!(third.find_service("Kitchen").is_some());
    assert!(third.stop());
}
