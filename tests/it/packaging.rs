//! What packages are made of: completions, manual pages, the configurations they bring.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::support::program::Site;

/// The commands that help lists.
fn commands() -> Vec<String> {
    let help = Site::new().run(&["--help"]).done();
    let (_, listed) = help.split_once("Commands:\n").expect("a list");
    let (listed, _) = listed.split_once("\n\n").expect("its end");
    let lines = listed.lines().filter(|line| !line.starts_with("   "));
    let names = lines.filter_map(|line| line.split_whitespace().next());
    names.filter(|n| *n != "help").map(str::to_owned).collect()
}

#[test]
fn completions_know_every_command() {
    let commands = commands();
    assert!(commands.len() > 10, "{commands:?}");
    for shell in ["bash", "zsh", "fish"] {
        let script = Site::new().run(&["completions", shell]).done();
        for name in &commands {
            assert!(script.contains(name.as_str()), "{shell}: {name}");
        }
        assert!(script.contains("drain-timeout"), "{shell}");
    }
    let complaint = Site::new().run(&["completions", "ksh"]).failed(2);
    assert!(complaint.contains("bash"), "{complaint}");
}

#[test]
fn each_command_has_a_manual_page() {
    let site = Site::new();
    fs::create_dir(site.path("pages")).expect("a directory");
    assert_eq!(site.run(&["man", "--out", "pages"]).done(), "");
    let pages = fs::read_dir(site.path("pages")).expect("a directory");
    let pages: BTreeSet<String> = pages
        .map(|entry| entry.expect("an entry").file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    let expected = commands()
        .iter()
        .map(|name| format!("event-manager-{name}.1"))
        .chain(["event-manager.1".to_owned()])
        .collect();
    assert_eq!(pages, expected);
    let main = site.run(&["man"]).done();
    let written = fs::read_to_string(site.path("pages/event-manager.1"));
    assert_eq!(main, written.expect("a page"));
    for part in [".SH CONFIGURATION", "drain\\-timeout", "Exit codes"] {
        assert!(main.contains(part), "{part}");
    }
    let complaint = site.run(&["man", "--out", "missing"]).failed(1);
    assert!(
        complaint.contains("can't be written to missing"),
        "{complaint}"
    );
}

#[test]
fn configurations_of_packages_are_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in ["config.json", "packaging/docker/config.json"] {
        let path = root.join(file).display().to_string();
        let shown = Site::new().run(&["check", "--config", &path]).done();
        assert!(shown.contains("embeddedLocator"), "{file}: {shown}");
    }
}
