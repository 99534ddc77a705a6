//! What packages are made of: completions, manual pages, the configurations they bring.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

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
    let of_keys = ["check", "init", "new"].map(|name| format!("keys-{name}"));
    let expected = commands()
        .iter()
        .chain(&of_keys)
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

/// What the compose file with NATS and two daemons mounts.
#[cfg(feature = "nats")]
#[test]
fn the_configuration_of_daemons_that_share_a_queue_is_valid() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/docker/engines");
    let path = directory.join("config.json").display().to_string();
    let shown = Site::new().run(&["check", "--config", &path]).done();
    let said = "Billing: an event is in the queue when the stream has it";
    assert!(shown.contains(said), "{shown}");
    let compose = fs::read_to_string(directory.join("compose.yaml")).expect("a text");
    let mounted = "./config.json:/etc/event-manager/config.json:ro";
    assert_eq!(compose.matches(mounted).count(), 2);
    for part in ["hub-a", "hub-b"] {
        assert!(compose.contains(&format!("PUBLIC_HOSTNAME: {part}")));
        assert!(compose.contains(&format!("- {part}:/var/lib/event-manager")));
    }
}

/// Sources below a directory, but tests.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let (directories, files): (Vec<_>, Vec<_>) = paths.partition(|path| path.is_dir());
    let below = directories.iter().flat_map(|path| sources(path));
    let files = files.into_iter().filter(|path| !path.ends_with("tests.rs"));
    below.chain(files).collect()
}

/// The image is built in docker alone, which not every machine has; what it needs is known here.
#[test]
fn the_dockerfile_copies_all_that_the_build_needs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| fs::read_to_string(root.join(name)).expect("a file");
    let (dockerfile, ignored, manifest) = (
        read("Dockerfile"),
        read(".dockerignore"),
        read("Cargo.toml"),
    );
    // Cargo wants the files of all targets that its manifest names.
    let mut targets = 0;
    for section in manifest
        .split("\n[")
        .filter(|s| s.starts_with("[bench]]") || s.starts_with("[test]]"))
    {
        let value = |key: &str| {
            let line = section.lines().find_map(|line| line.strip_prefix(key));
            line.map(|value| value.trim_matches([' ', '=', '"']).to_owned())
        };
        let path = value("path")
            .or_else(|| Some(format!("benches/{}.rs", value("name")?)))
            .expect("a path or a name");
        assert!(
            dockerfile.contains(&path),
            "the Dockerfile has no empty {path}"
        );
        targets += 1;
    }
    assert!(targets >= 4, "{targets}");
    // What is built in from outside `src`.
    let mut built_in = BTreeSet::new();
    for source in sources(&root.join("src")) {
        let text = fs::read_to_string(&source).expect("text");
        for macro_name in ["include_str!(\"", "include_bytes!(\""] {
            for rest in text.split(macro_name).skip(1) {
                let (path, _) = rest.split_once('"').expect("a path");
                let path = source.with_file_name(path).canonicalize().expect("a file");
                let path = path.strip_prefix(root.canonicalize().expect("a directory"));
                built_in.insert(path.expect("it is ours").display().to_string());
            }
        }
    }
    assert!(built_in.contains("src/http/dashboard.html"), "{built_in:?}");
    for path in built_in.iter().filter(|path| !path.starts_with("src/")) {
        assert!(
            dockerfile.contains(&format!("COPY {path}")),
            "the Dockerfile doesn't copy {path}"
        );
        assert!(
            ignored.contains(&format!("!{path}")),
            ".dockerignore leaves {path} out"
        );
    }
}
