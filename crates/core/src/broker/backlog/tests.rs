#![allow(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for a fake clock"
)]

mod oracle;
mod order;
mod tries;

use super::*;
use crate::broker::dispatch::Workers;
use crate::broker::ids::PeerId;
use bytes::Bytes;

const LIMITS: QueueLimits = QueueLimits {
    bytes_max: 1 << 20,
    events_max: 1000,
};
const SECOND: Duration = Duration::from_secs(1);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn start() -> Instant {
    Instant::now()
}

/// The key of the nth worker of a service.
fn worker(n: usize) -> WorkerKey {
    let mut workers = Workers::default();
    let peer = PeerId { slot: 0, serial: 0 };
    (0..=n).map(|_| workers.join(peer, false)).last().unwrap()
}

fn backlog(change: impl FnOnce(&mut Policy)) -> Backlog {
    let mut policy = Policy::live(LIMITS);
    change(&mut policy);
    Backlog::new(Rc::new(policy))
}

fn done(acked: Result<Acked, UnknownDelivery>) -> Settled {
    match acked {
        Ok(Acked::Done(settled)) => settled,
        other => panic!("{other:?}"),
    }
}

fn item(text: &'static str) -> Item {
    Item::new(Bytes::from_static(text.as_bytes()))
}

fn keyed(text: &'static str, key: u64) -> Item {
    Item {
        key: Some(OrderKey::from_hash(key)),
        ..item(text)
    }
}

fn push(backlog: &mut Backlog, items: impl IntoIterator<Item = Item>) {
    for item in items {
        assert_eq!(backlog.push(item), Ok(Lost::default()));
    }
}

/// Takes all that may go now.
fn served(backlog: &mut Backlog, now: Instant) -> Vec<Bytes> {
    std::iter::from_fn(|| backlog.next(now))
        .map(|item| item.body)
        .collect()
}

/// Lets the next deadline come, without jitter; when that was.
fn wait(backlog: &mut Backlog) -> (Instant, Outcome) {
    let now = backlog.poll_timeout().unwrap();
    (now, backlog.handle_timeout(now, || 1.0))
}

#[test]
fn delays_grow_within_bounds() {
    let retry = Retry {
        max: ms(350),
        ..Retry::default()
    };
    let whole: Vec<_> = (1..=4).map(|n| retry.delay(n, 1.0)).collect();
    assert_eq!(whole, [ms(100), ms(200), ms(350), ms(350)]);
    assert_eq!(retry.delay(1, 0.0), ms(50));
    assert_eq!(retry.delay(2, 0.5), ms(150));
    assert_eq!(retry.delay(u32::MAX, 1.0), ms(350));
    let at_once = Retry {
        initial: Duration::ZERO,
        ..retry
    };
    assert_eq!(at_once.delay(u32::MAX, 1.0), Duration::ZERO);
}

#[test]
fn what_is_taken_is_done_with() {
    let mut backlog = backlog(|_| {});
    push(&mut backlog, [item("a"), item("b")]);
    assert_eq!(
        (backlog.len(), backlog.bytes()),
        (2, 2 + 2 * Item::OVERHEAD_BYTES)
    );
    assert_eq!(served(&mut backlog, start()), ["a", "b"]);
    assert_eq!((backlog.len(), backlog.bytes(), backlog.held()), (0, 0, 0));
    assert_eq!(backlog.poll_timeout(), None);
}

#[test]
fn what_reached_nobody_goes_first() {
    let mut backlog = backlog(|_| {});
    push(&mut backlog, [item("c")]);
    for text in ["b", "a"] {
        _ = backlog.put_back(item(text)).unwrap();
    }
    assert_eq!(served(&mut backlog, start()), ["a", "b", "c"]);
}

#[test]
fn what_never_fits_is_handed_back() {
    let mut backlog = backlog(|policy| policy.limits.bytes_max = Item::OVERHEAD_BYTES + 1);
    push(&mut backlog, [item("a")]);
    assert!(
        backlog.fits(&item("b")) && !backlog.has_room(&item("b")) && !backlog.fits(&item("bb"))
    );
    assert_eq!(backlog.push(item("bb")), Err(item("bb")));
    assert_eq!(backlog.put_back(item("bb")), Err(item("bb")));
    assert_eq!(backlog.len(), 1);
}

#[test]
fn who_makes_room() {
    let full = |when_full| {
        let mut backlog = backlog(|policy| {
            policy.limits.events_max = 2;
            policy.when_full = when_full;
        });
        let numbered = |text, seq| Item {
            seq: Some(Seq(seq)),
            ..item(text)
        };
        push(&mut backlog, [numbered("a", 1), numbered("b", 2)]);
        let lost = backlog.push(numbered("c", 3)).unwrap();
        (lost.seqs, served(&mut backlog, start()))
    };
    let waited = |texts: &'static [&str]| {
        texts
            .iter()
            .map(|text| Bytes::from_static(text.as_bytes()))
            .collect()
    };
    assert_eq!(
        full(WhenFull::DropOldest),
        (vec![Seq(1)], waited(&["b", "c"]))
    );
    assert_eq!(
        full(WhenFull::DropNewest),
        (vec![Seq(3)], waited(&["a", "b"]))
    );
    assert_eq!(full(WhenFull::Spill), (vec![], waited(&["a", "b", "c"])));
}

#[test]
fn what_is_held_is_never_dropped() {
    let (mut backlog, now) = (backlog(|policy| policy.limits.events_max = 1), start());
    push(&mut backlog, [item("held")]);
    let delivery = backlog.hold_next(worker(0), now).unwrap();
    push(&mut backlog, [item("b")]);
    assert_eq!(backlog.push(item("c")).unwrap().events, 1);
    assert_eq!((backlog.held(), backlog.held_by(worker(0)).count()), (1, 1));
    // Given back it waits, and is the oldest.
    let outcome = backlog
        .nak(worker(0), delivery.id, None, "", now, 1.0)
        .unwrap();
    assert_eq!(outcome.dropped.events, 1);
    assert_eq!(served(&mut backlog, now), ["c"]);
}

#[test]
fn an_acknowledged_event_is_done() {
    let (mut backlog, now) = (backlog(|_| {}), start());
    push(&mut backlog, [item("a")]);
    let delivery = backlog.hold_next(worker(0), now).unwrap();
    assert_eq!((delivery.attempt, &delivery.body[..]), (1, &b"a"[..]));
    let ack = |backlog: &mut Backlog, n| backlog.ack(worker(n), delivery.id, now);
    assert_eq!(ack(&mut backlog, 1), Err(UnknownDelivery));
    let settled = done(ack(&mut backlog, 0));
    assert_eq!((&settled.item.body[..], settled.late), (&b"a"[..], false));
    assert_eq!(ack(&mut backlog, 0), Err(UnknownDelivery));
    assert_eq!((backlog.held(), backlog.held_bytes()), (0, 0));
    // It looks once more, and then never.
    _ = wait(&mut backlog);
    assert_eq!(backlog.poll_timeout(), None);
}

#[test]
fn what_is_too_old_is_not_served() {
    let (mut backlog, now) = (backlog(|_| {}), start());
    let end = now + SECOND;
    let short_lived = |text, seq| Item {
        expires_at: Some(end),
        seq: Some(Seq(seq)),
        ..item(text)
    };
    push(
        &mut backlog,
        [short_lived("a", 1), short_lived("b", 2), item("c")],
    );
    let held = backlog.hold_next(worker(0), now).unwrap().id;
    assert!(backlog.has_next(end - ms(1)));
    assert_eq!(served(&mut backlog, end), ["c"]);
    let (at, outcome) = wait(&mut backlog);
    assert_eq!((at, outcome.expired.seqs), (end, vec![Seq(2)]));
    // What a worker holds it may finish, but nobody begins it again.
    let outcome = backlog.nak(worker(0), held, None, "", end, 1.0).unwrap();
    assert_eq!((outcome.expired.seqs, outcome.retries), (vec![Seq(1)], 0));
}

#[test]
fn events_with_one_key_go_one_at_a_time() {
    let (mut backlog, now) = (backlog(|_| {}), start());
    push(
        &mut backlog,
        [keyed("a1", 1), keyed("a2", 1), keyed("b1", 2), item("c")],
    );
    let hold = |backlog: &mut Backlog, n| {
        let delivery = backlog.hold_next(worker(n), now)?;
        Some((delivery.id, delivery.body))
    };
    let (a1, body) = hold(&mut backlog, 0).unwrap();
    assert_eq!(body, "a1");
    assert_eq!(hold(&mut backlog, 1).unwrap().1, "b1");
    assert_eq!(hold(&mut backlog, 1).unwrap().1, "c");
    assert_eq!(hold(&mut backlog, 1), None);
    // Its key waits with it for another try.
    _ = backlog.nak(worker(0), a1, None, "", now, 1.0).unwrap();
    assert_eq!(hold(&mut backlog, 1), None);
    _ = wait(&mut backlog);
    let (a1, body) = hold(&mut backlog, 1).unwrap();
    assert_eq!(body, "a1");
    _ = backlog.term(worker(1), a1, "", now).unwrap();
    assert_eq!(hold(&mut backlog, 1).unwrap().1, "a2");
}

#[test]
fn what_should_go_later_holds_up_nobody_until_it_is_due() {
    let (mut backlog, now) = (backlog(|_| {}), start());
    let later = Item {
        not_before: Some(now + SECOND),
        ..keyed("later", 1)
    };
    push(&mut backlog, [later, keyed("a", 1)]);
    let a = backlog.hold_next(worker(0), now).unwrap();
    assert_eq!(a.body, "a");
    let (now, _) = wait(&mut backlog);
    assert!(!backlog.has_next(now));
    backlog.ack(worker(0), a.id, now).unwrap();
    assert_eq!(served(&mut backlog, now), ["later"]);
}

#[test]
fn keys_cost_nothing_when_nothing_has_them() {
    let (mut backlog, now) = (backlog(|policy| policy.limits.events_max = 2), start());
    for key in 0..100 {
        _ = backlog.push(keyed("a", key)).unwrap();
        if key % 10 == 0 {
            let id = backlog.hold_next(worker(0), now).unwrap().id;
            backlog.ack(worker(0), id, now).unwrap();
        }
    }
    assert_eq!(backlog.waiting.key_count(), 2);
    served(&mut backlog, now);
    assert_eq!(backlog.waiting.key_count(), 0);
}

fn numbered(seq: u64) -> Item {
    Item {
        seq: Some(Seq(seq)),
        ..item("x")
    }
}

#[test]
fn what_the_log_gave_up_waits_no_more() {
    let now = start();
    let mut backlog = backlog(|_| {});
    push(&mut backlog, (1..=3).map(numbered));
    let delayed = Item {
        not_before: Some(now + SECOND),
        ..numbered(4)
    };
    push(&mut backlog, [delayed]);
    push(&mut backlog, (5..=7).map(numbered));
    let held = backlog.hold_next(worker(0), now).unwrap();
    let reason = DropReason::RetentionAge;
    let lost = backlog.give_up(&(1..=5).map(Seq).collect(), reason);
    // The first is in a worker's hands: it may still be done.
    assert_eq!(
        (lost.events, lost.seqs),
        (4, vec![Seq(2), Seq(3), Seq(4), Seq(5)])
    );
    assert_eq!((backlog.len(), backlog.held()), (2, 1));
    backlog.ack(worker(0), held.id, now).unwrap();
    let none = backlog.give_up(&BTreeSet::from([Seq(4)]), reason);
    assert_eq!(none, Lost::default());
    assert_eq!(served(&mut backlog, now).len(), 2);
    assert_eq!(backlog.bytes(), 0);
}

#[test]
fn what_its_log_gave_up_is_not_tried_again() {
    let now = start();
    let mut backlog = backlog(|_| {});
    push(&mut backlog, (1..=2).map(numbered));
    let held = [0, 1].map(|_| backlog.hold_next(worker(0), now).unwrap());
    let lost = backlog.give_up(&BTreeSet::from([Seq(1)]), DropReason::RetentionBytes);
    assert_eq!(lost, Lost::default());
    let outcomes = held.map(|held| {
        let nak = backlog.nak(worker(0), held.id, Some(Duration::ZERO), "no", now, 0.0);
        nak.unwrap()
    });
    let dropped: Vec<_> = outcomes[0].given_up.iter().collect();
    assert_eq!(dropped, [(DropReason::RetentionBytes, 1)]);
    assert_eq!((outcomes[0].retries, outcomes[1].retries), (0, 1));
    assert_eq!((backlog.len(), backlog.held()), (1, 0));
}
