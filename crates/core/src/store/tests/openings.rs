//! While a long log is read, the other queues' events don't wait, and its own commands do.

use std::collections::BTreeMap;

use super::*;

/// Disks of any number of queues, whose logs are all long.
#[derive(Clone, Default)]
struct LongLogs {
    disks: Rc<RefCell<BTreeMap<ServiceName, SimDisk>>>,
    openings: Rc<RefCell<Vec<Opening<SimDisk>>>>,
    is_removed: Rc<Cell<bool>>,
}

impl StateStore for LongLogs {
    type Directory = SimDisk;

    fn is_held(&self) -> bool {
        !self.is_removed.get()
    }

    fn hold_again(&mut self) -> Result<(), String> {
        self.is_removed.set(false);
        Ok(())
    }

    fn queue(&self, queue: &ServiceName) -> io::Result<SimDisk> {
        let mut disks = self.disks.borrow_mut();
        let disk = disks.entry(queue.clone());
        Ok(disk.or_insert_with(|| SimDisk::new(1)).clone())
    }

    fn is_long(&self, bytes: u64) -> bool {
        bytes > 0
    }

    fn begin(&self, opening: Opening<SimDisk>) -> Result<(), Opening<SimDisk>> {
        self.openings.borrow_mut().push(opening);
        Ok(())
    }

    fn remove(&self, queue: &ServiceName) -> io::Result<()> {
        self.disks.borrow_mut().remove(queue);
        Ok(())
    }
}

impl LongLogs {
    /// Which are being read, in the order in which that began.
    fn under_way(&self) -> Vec<String> {
        let openings = self.openings.borrow();
        let names = openings.iter().map(|one| one.queue().name.to_string());
        names.collect()
    }

    fn read_first(&self, store: &mut Logs<LongLogs, Ears>) {
        let opening = self.openings.borrow_mut().remove(0);
        store.opened(opening.run(0));
    }
}

fn of(name: &str, generation: u64) -> QueueId {
    QueueId {
        name: ServiceName::new(name).unwrap(),
        generation,
    }
}

fn open(queue: QueueId) -> Command {
    let limits = limits();
    Command::Open { queue, limits }
}

fn append(queue: QueueId, tag: u64, body: &[u8]) -> Command {
    let event = Event {
        id: None,
        attributes: Bytes::new(),
        body: Bytes::copy_from_slice(body),
    };
    Command::Append {
        queue,
        tag: AppendTag(tag),
        events: vec![event],
        urgent: true,
    }
}

fn read(queue: QueueId) -> Command {
    Command::Read {
        queue,
        from: Seq::ZERO,
        events_max: 100,
        bytes_max: 1 << 20,
    }
}

fn do_all(store: &mut Logs<LongLogs, Ears>, commands: Vec<Command>) {
    let mut commands = commands.into_iter();
    let first = commands.next().unwrap();
    store.group(first, || commands.next());
}

/// What was reported, in short.
fn told(ears: &Ears) -> Vec<String> {
    let in_short = |report: Report| {
        let what = match &report {
            Report::Opened { .. } => "open".to_owned(),
            Report::OpenFailed { reason, .. } => reason.clone(),
            Report::Committed { appends, .. } => {
                let tags = appends.iter().map(|append| append.tag.0.to_string());
                format!("committed {}", tags.collect::<Vec<_>>().join(", "))
            }
            Report::Stored { events, .. } => format!("read {}", events.len()),
            Report::State { failed, .. } => format!("failed: {failed:?}"),
            Report::Removed { .. } => "removed".to_owned(),
            Report::DirectoryGone { .. } => return Some("gone".to_owned()),
            _ => return None,
        };
        let queue = report.queue()?;
        Some(format!("{queue} {} {what}", queue.generation))
    };
    ears.take().into_iter().filter_map(in_short).collect()
}

/// A store after a restart, with logs of these queues, each longer than the one before it.
fn restarted(names: &[&str]) -> (LongLogs, Ears, Logs<LongLogs, Ears>) {
    let (disks, ears) = (LongLogs::default(), Ears::new());
    let mut store = Logs::new(disks.clone(), ears.clone());
    for (name, n) in names.iter().zip(1..) {
        let body = vec![0; n * 10];
        let queue = of(name, 1);
        do_all(
            &mut store,
            vec![open(queue.clone()), append(queue, 0, &body)],
        );
    }
    store.end();
    ears.take();
    let store = Logs::new(disks.clone(), ears.clone());
    (disks, ears, store)
}

#[test]
fn others_do_not_wait_and_its_own_commands_keep_their_order() {
    let (disks, ears, mut store) = restarted(&["Long"]);
    let (long, other) = (of("Long", 1), of("Other", 2));
    do_all(
        &mut store,
        vec![open(long.clone()), append(long.clone(), 1, b"b")],
    );
    do_all(
        &mut store,
        vec![read(long.clone()), append(long.clone(), 2, b"c")],
    );
    do_all(
        &mut store,
        vec![open(other.clone()), append(other, 3, b"d")],
    );
    assert_eq!(told(&ears), ["Other 2 open", "Other 2 committed 3"]);
    disks.read_first(&mut store);
    let expected = ["Long 1 open", "Long 1 committed 1, 2", "Long 1 read 3"];
    assert_eq!(told(&ears), expected);
    // It is one as any other now.
    do_all(&mut store, vec![append(long, 4, b"e")]);
    assert_eq!(told(&ears), ["Long 1 committed 4"]);
}

#[test]
fn the_shortest_is_read_first_and_two_at_once() {
    let (disks, ears, mut store) = restarted(&["A", "B", "C", "D"]);
    for name in ["D", "C", "B", "A"] {
        do_all(&mut store, vec![open(of(name, 1))]);
    }
    assert_eq!(disks.under_way(), ["D", "C"]);
    disks.read_first(&mut store);
    assert_eq!(disks.under_way(), ["C", "A"]);
    disks.read_first(&mut store);
    disks.read_first(&mut store);
    assert_eq!(disks.under_way(), ["B"]);
    disks.read_first(&mut store);
    assert_eq!(
        told(&ears),
        ["D 1 open", "C 1 open", "A 1 open", "B 1 open"]
    );
}

#[test]
fn the_next_queue_of_its_name_waits_until_it_is_removed() {
    let (disks, ears, mut store) = restarted(&["Long"]);
    let (old, new) = (of("Long", 1), of("Long", 2));
    let queue = old.clone();
    do_all(&mut store, vec![open(old), Command::Remove { queue }]);
    do_all(&mut store, vec![open(new.clone()), append(new, 1, b"new")]);
    assert!(told(&ears).is_empty());
    disks.read_first(&mut store);
    let expected = [
        "Long 1 open",
        "Long 1 removed",
        "Long 2 open",
        "Long 2 committed 1",
    ];
    assert_eq!(told(&ears), expected);
}

#[test]
fn a_log_that_is_open_when_its_directory_is_gone_has_failed() {
    let (disks, ears, mut store) = restarted(&["Long"]);
    do_all(&mut store, vec![open(of("Long", 1))]);
    disks.is_removed.set(true);
    ears.now.set(ears.now.get() + Duration::from_secs(1));
    store.tend();
    assert_eq!(told(&ears), ["gone"]);
    disks.read_first(&mut store);
    let failed = "Long 1 failed: Some(\"the state directory was removed\")";
    assert_eq!(told(&ears), ["Long 1 open", failed]);
}
