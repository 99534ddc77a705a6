//! A real file system that is full.

use super::*;

/// Needs root: mounts a tmpfs of 1 MiB.
#[test]
#[ignore = "needs root"]
fn a_full_file_system_is_survived_again_and_again() {
    on_a_small_file_system(fill_again_and_again);
}

/// The same.
#[test]
#[ignore = "needs root"]
fn what_a_queue_is_done_with_is_room_for_another() {
    on_a_small_file_system(fill_and_empty_one);
}

fn on_a_small_file_system(test: impl FnOnce(&Path)) {
    let directory = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(directory.path())
        .status();
    assert!(mounted.unwrap().success());
    let test = std::panic::AssertUnwindSafe(|| test(directory.path()));
    let outcome = std::panic::catch_unwind(test);
    let unmounted = std::process::Command::new("umount")
        .arg(directory.path())
        .status();
    assert!(unmounted.unwrap().success());
    outcome.unwrap();
}

fn seqs_of(appends: &[Appended]) -> Vec<Seq> {
    let outcomes = appends.iter().flat_map(|append| &append.outcomes);
    let seqs = outcomes.map(|outcome| match outcome {
        Outcome::Appended(seq) => *seq,
        other => panic!("{other:?}"),
    });
    seqs.collect()
}

fn fill_again_and_again(directory: &Path) {
    let limits = LogLimits {
        segment_bytes: 100_000,
        ..LogLimits::default()
    };
    let large: &'static str = String::leak("x".repeat(20_000));
    let mut highest = Seq::ZERO;
    for _ in 0..5 {
        let tested = Tested::start(directory, limits);
        assert!(tested.open("A").next_seq > highest);
        let mut kept: Vec<Seq> = tested.bodies("A").iter().map(|event| event.0).collect();
        loop {
            tested.send_append("A", 1, vec![event("", large)], true);
            match tested.next() {
                Report::Committed { appends, .. } => kept.extend(seqs_of(&appends)),
                Report::Failed { reason, .. } => {
                    assert!(reason.contains("No space left"), "{reason}");
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(
            tested.next(),
            Report::State {
                failed: Some(_),
                ..
            }
        ));
        let found: Vec<Seq> = tested.bodies("A").iter().map(|event| event.0).collect();
        assert_eq!(found, kept);
        highest = *kept.last().unwrap();
        let seqs = kept[..kept.len() - 1].to_vec();
        let queue = queue_of("A");
        tested.send(Command::Settle { queue, seqs });
        let report = tested.next();
        assert!(
            matches!(&report, Report::State { failed: None, .. }),
            "{report:?}"
        );
        tested.store.stop();
    }
}

fn fill_and_empty_one(directory: &Path) {
    let limits = LogLimits {
        segment_bytes: 450_000,
        ..LogLimits::default()
    };
    let tested = Tested::start(directory, limits);
    tested.open("A");
    tested.open("B");
    let event = || vec![event("", String::leak("x".repeat(20_000)))];
    let mut seqs = vec![];
    loop {
        tested.send_append("A", 1, event(), true);
        match tested.next() {
            Report::Committed { appends, .. } => seqs.extend(seqs_of(&appends)),
            Report::Failed { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    let queue = queue_of("A");
    tested.send(Command::Settle { queue, seqs });
    let is_state = |report: &Report| matches!(report, Report::State { .. });
    let (mut sent, mut committed) = (0, 0);
    let end = now() + PATIENCE;
    // A goes on by itself, and B needs more than was left to it.
    while committed < 15 {
        assert!(now() < end, "B has {committed} of {sent}");
        sent += 1;
        tested.send_append("B", sent, event(), true);
        match tested.reports.iter().find(|report| !is_state(report)) {
            Some(Report::Committed { .. }) => committed += 1,
            Some(Report::Failed { .. }) => {
                // Until its next try.
                let _ = tested.reports.recv_timeout(Duration::from_secs(2));
            }
            other => panic!("{other:?}"),
        }
    }
    tested.store.stop();
}
