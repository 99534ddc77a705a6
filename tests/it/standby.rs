//! A daemon that stands by until a person says that its machine serves.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::emit::emit;
use super::support::TestDaemon;
use super::support::program::{Ended, Program, Serving, Site};

/// A machine of this name: what runs there is told it by the system.
struct Machine {
    name: &'static str,
    site: Site,
}

impl Machine {
    fn new(name: &'static str, directory: &Path) -> Self {
        let site = Site::configured(&json!({
            "stateDir": directory,
            "services": {"Billing": {"delivery": "queue", "subjects": ["Order"]}},
            "lease": {"source": "hand"},
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
    let directory = TempDir::new().expect("a directory");
    let [a, b] = ["machine-a", "machine-b"].map(|name| Machine::new(name, directory.path()));
    let (first, second) = (a.start(), b.start());
    for waiting in [&first, &second] {
        waiting.logged("run event-manager promote");
    }
    assert_eq!(
        a.promote(&[], "").done(),
        "machine-a serves from now on (epoch 1)\n"
    );
    let first = serving(first);
    assert!(emit(&first, order("a-1")).is_ok());
    second.logged("holder=\"machine-a\"");
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
    let second = serving(second);
    second.wait_for_service("Billing", "its queue", |found| found.counters.queued == 2);
    assert!(emit(&second, order("b-1")).is_ok());
    let first = a.start();
    first.logged("holder=\"machine-b\"");
    drop(first);
    assert!(second.stop());
}

#[test]
fn only_where_a_person_says_it_somebody_is_promoted() {
    let site = Site::configured(&json!({}));
    let said = site.run(&["promote"]).failed(1);
    assert!(said.contains("lease.source is not \"hand\""), "{said}");
}
