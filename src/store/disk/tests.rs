use super::*;
use event_manager_core::log::SegmentFile;
use proptest::prelude::*;

proptest! {
    #[test]
    fn names_of_queues_are_reversible_and_safe(name in "[a-z./%2EF ü]{1,40}") {
        let queue = ServiceName::new(&name).unwrap();
        let file = encode(&queue).unwrap();
        prop_assert!(!file.starts_with('.') && !file.contains('/'));
        prop_assert_eq!(decode(&file), Some(queue));
    }
}

#[test]
fn only_what_was_encoded_is_a_queue() {
    assert_eq!(
        decode("%2f"),
        ServiceName::new("%2f").ok().filter(|_| false)
    );
    assert_eq!(
        (decode(".x"), decode("a.%2E"), decode("%41")),
        (None, None, None)
    );
    let long = ServiceName::new(&"/".repeat(100)).unwrap();
    let error = encode(&long).unwrap_err().to_string();
    assert!(error.contains("300 bytes; the limit is 255"), "{error}");
}

#[test]
fn the_second_to_lock_is_told_who_was_first() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep/state");
    let first = StateDir::lock(&path).unwrap();
    let error = StateDir::lock(&path).unwrap_err().to_string();
    let expected = format!(
        "{} is in use by process {}",
        path.display(),
        std::process::id()
    );
    assert_eq!(error, expected);
    drop(first);
    StateDir::lock(&path).unwrap();
}

#[test]
fn errors_say_what_was_done_where() {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::lock(directory.path()).unwrap();
    let queue = state.queue(&ServiceName::new("Billing").unwrap()).unwrap();
    let error = queue.open("none.log").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    let text = error.to_string();
    assert!(
        text.starts_with("opening /") && text.contains("/queues/Billing/none.log: "),
        "{text}"
    );
}

#[test]
fn a_removed_queue_is_gone_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::lock(directory.path()).unwrap();
    let names = ["a/b", "c"].map(|name| ServiceName::new(name).unwrap());
    for name in &names {
        state.queue(name).unwrap().create("x").unwrap();
    }
    // One that a crash left half removed.
    fs::create_dir(directory.path().join("queues/.removed-0")).unwrap();
    state.remove(&names[0]).unwrap();
    state.remove(&names[0]).unwrap();
    assert_eq!(state.queues().unwrap(), [names[1].clone()]);
    drop(state);
    StateDir::lock(directory.path()).unwrap();
    assert_eq!(names_in(directory.path().join("queues")), ["c"]);
}

#[test]
fn a_removed_file_is_written_again_only_when_it_cannot_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::lock(directory.path()).unwrap();
    let name = ServiceName::new("Billing").unwrap();
    let queue = state.queue(&name).unwrap();
    let create = |name| queue.create(name).unwrap().write_at(0, b"old").unwrap();
    let bytes = |name| queue.create(name).unwrap().bytes().unwrap();
    create("1.log");
    queue.remove("1.log").unwrap();
    assert_eq!(bytes("2.log"), 0, "it was used before a sync");
    queue.sync().unwrap();
    assert_ne!(bytes("3.log"), 0);
    for name in ["4.log", "5.log", "6.log"] {
        create(name);
        queue.remove(name).unwrap();
    }
    assert_eq!(queue.names().unwrap().len(), 2);
    let on_disk = names_in(directory.path().join("queues/Billing")).len();
    assert_eq!(on_disk, 2 + SPARES_MAX, "more are kept");
    // The next to open it has them, too.
    let queue = state.queue(&name).unwrap();
    queue.sync().unwrap();
    assert_ne!(queue.create("7.log").unwrap().bytes().unwrap(), 0);
    let taken = queue.create("7.log").unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
}

#[test]
fn what_is_kept_is_given_back() {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::lock(directory.path()).unwrap();
    let queue = state.queue(&ServiceName::new("Billing").unwrap()).unwrap();
    for name in ["1.log", "2.log", "3.log"] {
        queue.create(name).unwrap();
    }
    queue.remove("1.log").unwrap();
    queue.sync().unwrap();
    queue.remove("2.log").unwrap();
    queue.give_back();
    assert_eq!(names_in(directory.path().join("queues/Billing")), ["3.log"]);
    queue.sync().unwrap();
    assert_eq!(queue.create("4.log").unwrap().bytes().unwrap(), 0);
}

/// Its number would be given to a new one.
#[test]
fn what_is_left_of_segments_that_somebody_removed_is_not_written_again() {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::lock(directory.path()).unwrap();
    let name = ServiceName::new("Billing").unwrap();
    let queue = state.queue(&name).unwrap();
    queue.create("1.log").unwrap().write_at(0, b"old").unwrap();
    queue.remove("1.log").unwrap();
    let queue = state.queue(&name).unwrap();
    queue.sync().unwrap();
    assert_eq!(queue.create("1.log").unwrap().bytes().unwrap(), 0);
}

fn names_in(path: PathBuf) -> Vec<String> {
    names(&path).unwrap()
}

#[test]
fn a_directory_that_cant_be_made_is_an_error_and_no_endless_try() {
    // That file system says of each new name in it that there is no such directory.
    for path in ["/proc/event-manager", "/proc/event-manager/state"] {
        let error = create_directory(Path::new(path)).unwrap_err().to_string();
        assert!(
            error.starts_with("creating /proc/event-manager: "),
            "{error}"
        );
    }
}
