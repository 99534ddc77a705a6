//! The client library's examples do what they say.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use event_manager_client::testing::TestHub;

use super::client_hub::{daemon, hub, run};

const PROGRAM: &str = env!("CARGO_BIN_EXE_event-manager");
const EXAMPLES: [&str; 6] = ["publish", "emit", "worker", "call", "answer", "watch"];

/// They are there if all tests were built; a test that is built alone has them built.
pub(super) fn build() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--locked", "--quiet"]);
    if Path::new(PROGRAM)
        .parent()
        .is_some_and(|directory| directory.ends_with("release"))
    {
        cargo.arg("--release");
    }
    for example in EXAMPLES {
        cargo.args(["--example", example]);
    }
    let built = cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo");
    assert!(built.success());
}

pub(super) fn start(daemon: &TestHub, example: &str, arguments: &[&str]) -> Child {
    let path = Path::new(PROGRAM).with_file_name("examples").join(example);
    let mut program = Command::new(path);
    program
        .args(arguments)
        .env("EVENT_MANAGER_CLIENT_ADDRESS", daemon.address())
        .stdout(Stdio::piped());
    if let Some(server_key) = daemon.server_key() {
        program.env("EVENT_MANAGER_KEY", daemon.key_file());
        program.env("EVENT_MANAGER_SERVER_KEY", server_key);
    }
    program.spawn().expect("it starts")
}

fn printed(program: Child) -> String {
    let ended = program.wait_with_output().expect("an end");
    assert!(ended.status.success(), "{ended:?}");
    String::from_utf8(ended.stdout).expect("text")
}

#[test]
fn each_example_does_what_it_says() {
    build();
    let daemon = daemon().durable().start().expect("a daemon");
    let mut watcher = start(&daemon, "watch", &["4"]);
    let output = watcher.stdout.as_mut().expect("a pipe");
    let mut first = [0; "watching\n".len()];
    std::io::Read::read_exact(output, &mut first).expect("a line");
    assert_eq!(&first, b"watching\n");
    run(async {
        let hub = hub(&daemon).await;
        // It is durable from now on, whoever works for it.
        let starting = hub.service("Billing").subjects(["glob:order.*"]).durable();
        starting.start().await.expect("a service");
    });
    assert_eq!(printed(start(&daemon, "publish", &[])), "3 events taken\n");
    for duplicate in [false, true] {
        let receipt = printed(start(&daemon, "emit", &[]));
        assert_eq!(
            receipt,
            format!("order-4: 1 services, Disk, duplicate: {duplicate}\n")
        );
    }
    let all = "order 1 costs 950\norder 2 costs 950\norder 3 costs 950\norder 4 costs 1200\n";
    assert_eq!(printed(start(&daemon, "worker", &["4"])), all);
    let watched = printed(watcher);
    assert!(
        watched.starts_with("order.created {\"number\":1,"),
        "{watched}"
    );
    assert_eq!(watched.lines().count(), 4);
    daemon.wait_idle().expect("idle");

    assert_eq!(
        printed(start(&daemon, "call", &[])),
        "nobody knows a price\n"
    );
    let mut answers = start(&daemon, "answer", &["1"]);
    let output = answers.stdout.as_mut().expect("a pipe");
    let mut first = [0; "answering\n".len()];
    std::io::Read::read_exact(output, &mut first).expect("a line");
    assert_eq!(printed(start(&daemon, "call", &[])), "it costs 950\n");
    assert_eq!(printed(answers), "order 4 was asked for\n");
}
