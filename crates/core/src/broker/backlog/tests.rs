#![allow(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for a fake clock"
)]

mod oracle;
mod order;

use super::*;
use crate::broker::dispatch::Workers;
use crate::broker::routes::PeerId;
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
fn what_a_worker_refuses_waits_longer_each_time() {
    let (mut backlog, mut now) = (backlog(|_| {}), start());
    push(&mut backlog, [item("a")]);
    for (attempt, delay) in [(1, 100), (2, 200), (3, 400)] {
        let delivery = backlog.hold_next(worker(0), now).unwrap();
        assert_eq!(delivery.attempt, attempt);
        let outcome = backlog
            .nak(worker(0), delivery.id, None, "", now, 1.0)
            .unwrap();
        assert_eq!(outcome.retries, 1);
        assert!(!backlog.has_next(now) && backlog.len() == 1);
        let before = now;
        (now, _) = wait(&mut backlog);
        assert_eq!(now - before, ms(delay));
    }
}

#[test]
fn what_waits_for_another_try_keeps_no_more_alive_than_its_own() {
    let (mut backlog, now) = (backlog(|_| {}), start());
    let all = Bytes::from(vec![b'x'; 1 << 20]);
    push(&mut backlog, [Item::new(all.slice(..9))]);
    let delivery = backlog.hold_next(worker(0), now).unwrap();
    _ = backlog
        .nak(worker(0), delivery.id, None, "", now, 1.0)
        .unwrap();
    drop(delivery);
    assert!(all.is_unique());
}

#[test]
fn a_worker_may_say_how_long_to_wait() {
    let (mut backlog, now) = (backlog(|_| {}), start());
    push(&mut backlog, [item("a")]);
    let mut nak = |delay| {
        let delivery = backlog.hold_next(worker(0), now).unwrap();
        _ = backlog
            .nak(worker(0), delivery.id, Some(delay), "", now, 1.0)
            .unwrap();
        backlog.waiting.first_deadline()
    };
    assert_eq!(nak(Duration::ZERO), None);
    assert_eq!(nak(Duration::MAX), Some(now + NAK_DELAY_MAX));
}

#[test]
fn what_is_tried_again_goes_before_newer_events() {
    let (mut backlog, now) = (backlog(|_| {}), start());
    push(&mut backlog, [item("a"), item("b")]);
    let later = Some(now + ms(100));
    push(
        &mut backlog,
        [
            Item {
                not_before: later,
                ..item("c")
            },
            item("d"),
        ],
    );
    let delivery = backlog.hold_next(worker(0), now).unwrap();
    _ = backlog
        .nak(worker(0), delivery.id, None, "", now, 1.0)
        .unwrap();
    assert_eq!(backlog.next(now).unwrap().body, "b");
    let (now, _) = wait(&mut backlog);
    assert_eq!(served(&mut backlog, now), ["a", "c", "d"]);
}

#[test]
fn a_worker_that_is_silent_for_too_long_loses_the_event() {
    let (mut backlog, now) = (backlog(|policy| policy.ack_timeout = SECOND), start());
    push(&mut backlog, [item("a")]);
    let delivery = backlog.hold_next(worker(0), now).unwrap();
    // It says in time that it is still at it.
    backlog.wip(worker(0), delivery.id, now + ms(900)).unwrap();
    let began = now;
    assert_eq!(wait(&mut backlog), (now + SECOND, Outcome::default()));
    let (now, outcome) = wait(&mut backlog);
    assert_eq!(now - began, ms(1900));
    assert_eq!(
        (outcome.timed_out, outcome.retries),
        (vec![(worker(0), delivery.id)], 1)
    );
    assert_eq!(
        backlog.wip(worker(0), delivery.id, now),
        Err(UnknownDelivery)
    );
    let (now, _) = wait(&mut backlog);
    assert_eq!(backlog.hold_next(worker(1), now).unwrap().attempt, 2);
}

#[test]
fn a_late_ack_saves_the_next_try() {
    let (mut backlog, now) = (backlog(|_| {}), start());
    push(&mut backlog, [item("a"), item("b")]);
    let [a, b] = [(); 2].map(|()| backlog.hold_next(worker(0), now).unwrap().id);
    let (now, _) = wait(&mut backlog);
    assert_eq!(backlog.ack(worker(1), a, now), Err(UnknownDelivery));
    assert!(done(backlog.ack(worker(0), a, now)).late);
    // It went to another: that one may finish, but nobody begins it again.
    let (now, _) = wait(&mut backlog);
    assert_eq!(backlog.hold_next(worker(1), now).unwrap().attempt, 2);
    assert_eq!(backlog.ack(worker(0), b, now), Ok(Acked::HeldAgain));
    let outcome = backlog.release(worker(1), &[], now);
    assert_eq!((outcome.done.events, outcome.retries), (1, 0));
    assert_eq!(backlog.ack(worker(0), b, now), Err(UnknownDelivery));
    assert!(backlog.is_empty());
}

#[test]
fn a_late_ack_counts_though_the_event_went_back_to_the_same_worker() {
    let (mut backlog, now) = (backlog(|policy| policy.retry.max_deliveries = 2), start());
    push(&mut backlog, [keyed("a1", 1), keyed("a2", 1)]);
    let first = backlog.hold_next(worker(0), now).unwrap();
    _ = wait(&mut backlog);
    let (now, _) = wait(&mut backlog);
    let second = backlog.hold_next(worker(0), now).unwrap();
    assert_eq!(backlog.ack(worker(0), first.id, now), Ok(Acked::HeldAgain));
    // It has the event in its hands until it answers, so its key waits.
    assert!(!backlog.has_next(now));
    let outcome = backlog
        .nak(worker(0), second.id, None, "", now, 1.0)
        .unwrap();
    assert_eq!((outcome.done.events, outcome.dead.len()), (1, 0));
    assert_eq!(backlog.next(now).unwrap().body, "a2");
}

#[test]
fn a_worker_that_does_one_after_the_other_is_in_time() {
    let (mut backlog, start) = (backlog(|policy| policy.ack_timeout = SECOND), start());
    let events = 100;
    push(&mut backlog, (0..events).map(|_| item("a")));
    let mut hands: std::collections::VecDeque<_> = (0..32)
        .map(|_| backlog.hold_next(worker(0), start).unwrap().id)
        .collect();
    for done in 1..=events {
        // Each takes nearly as long as a silence may, and the last of its hands 31 times as long.
        let now = start + done * ms(900);
        let outcome = backlog.handle_timeout(now, || 1.0);
        assert_eq!(outcome, Outcome::default(), "after {done} events");
        let id = hands.pop_front().unwrap();
        assert!(backlog.ack(worker(0), id, now).is_ok());
        let next = backlog.hold_next(worker(0), now);
        hands.extend(next.map(|delivery| delivery.id));
    }
    assert_eq!((backlog.len(), backlog.held()), (0, 0));
}

#[test]
fn a_worker_that_says_nothing_loses_all_that_it_holds() {
    let (mut backlog, start) = (backlog(|policy| policy.ack_timeout = SECOND), start());
    push(&mut backlog, [item("a"), item("b"), item("c")]);
    let ids = [(); 3].map(|()| backlog.hold_next(worker(0), start).unwrap().id);
    let now = start + ms(700);
    assert!(backlog.ack(worker(0), ids[0], now).is_ok());
    assert_eq!(
        backlog.handle_timeout(start + ms(1699), || 1.0),
        Outcome::default()
    );
    let outcome = backlog.handle_timeout(start + ms(1700), || 1.0);
    let expected: Vec<_> = ids[1..].iter().map(|id| (worker(0), *id)).collect();
    assert_eq!((outcome.timed_out, outcome.retries), (expected, 2));
}

#[test]
fn an_event_that_a_busy_worker_forgot_comes_back() {
    let (mut backlog, start) = (backlog(|policy| policy.ack_timeout = SECOND), start());
    push(&mut backlog, (0..20).map(|_| item("a")));
    let forgotten = backlog.hold_next(worker(0), start).unwrap().id;
    let mut lost = None;
    for step in 1..20 {
        let now = start + step * ms(500);
        let outcome = backlog.handle_timeout(now, || 1.0);
        if !outcome.timed_out.is_empty() {
            lost = Some((now - start, outcome.timed_out));
            break;
        }
        let id = backlog.hold_next(worker(0), now).unwrap().id;
        assert!(backlog.ack(worker(0), id, now).is_ok());
    }
    // A second after a later one was answered, at half a second.
    assert_eq!(lost, Some((ms(1500), vec![(worker(0), forgotten)])));
}

#[test]
fn an_overtaken_event_has_more_time_while_its_worker_says_so() {
    let (mut backlog, start) = (backlog(|policy| policy.ack_timeout = SECOND), start());
    push(&mut backlog, [item("long"), item("b")]);
    let [long, b] = [(); 2].map(|()| backlog.hold_next(worker(0), start).unwrap().id);
    assert!(backlog.ack(worker(0), b, start + ms(100)).is_ok());
    for step in 1..10 {
        let now = start + step * ms(900);
        backlog.wip(worker(0), long, now).unwrap();
        let outcome = backlog.handle_timeout(now + ms(899), || 1.0);
        assert_eq!(outcome, Outcome::default(), "after {step} words");
    }
    // What it says of others is nothing of this one.
    let now = start + ms(9 * 900 + 950);
    backlog.hear(worker(0), now);
    let outcome = backlog.handle_timeout(now + ms(50), || 1.0);
    assert_eq!(outcome.timed_out, [(worker(0), long)]);
}

#[test]
fn the_log_is_told_of_tries_that_are_not_over() {
    let (mut backlog, now) = (backlog(|_| {}), start());
    let numbered = |seq| Item {
        seq: Some(Seq(seq)),
        ..item("x")
    };
    push(&mut backlog, (1..=4).map(numbered));
    let ids = [(); 3].map(|()| backlog.hold_next(worker(0), now).unwrap().id);
    assert!(backlog.ack(worker(0), ids[0], now).is_ok());
    _ = backlog.nak(worker(0), ids[2], None, "", now, 1.0).unwrap();
    // The first is done and the last was given to nobody.
    assert_eq!(backlog.take_tries(), [(Seq(2), 1), (Seq(3), 1)]);
    assert_eq!(backlog.take_in_hands(), [Seq(2)]);
    assert_eq!(
        (backlog.take_tries(), backlog.take_in_hands()),
        (vec![], vec![])
    );
    let outcome = backlog.release(worker(0), &ids[1..2], now);
    assert_eq!(outcome.retries, 0);
    // It had not been written.
    assert_eq!(backlog.take_tries(), [(Seq(2), 0)]);
}

#[test]
fn what_a_lost_worker_held_goes_on_at_once() {
    let (mut backlog, now) = (backlog(|_| {}), start());
    push(&mut backlog, [item("a"), item("b"), item("c")]);
    let ids = [(); 2].map(|()| backlog.hold_next(worker(0), now).unwrap().id);
    let outcome = backlog.release(worker(0), &ids[1..], now);
    assert_eq!((outcome.retries, backlog.held()), (1, 0));
    let again = [(); 3].map(|()| backlog.hold_next(worker(1), now).unwrap());
    let again = again.map(|delivery| (delivery.body, delivery.attempt));
    // "b" was never written, so nobody can have seen it.
    assert_eq!(again, [("a".into(), 2), ("b".into(), 1), ("c".into(), 1)]);
}

#[test]
fn a_worker_that_left_has_no_late_word() {
    let (mut backlog, now) = (backlog(|_| {}), start());
    push(&mut backlog, [item("a")]);
    let id = backlog.hold_next(worker(0), now).unwrap().id;
    _ = wait(&mut backlog);
    _ = backlog.release(worker(0), &[], now);
    assert_eq!(backlog.ack(worker(0), id, now), Err(UnknownDelivery));
    assert_eq!(backlog.len(), 1);
}

#[test]
fn an_event_that_kills_its_workers_is_dead_in_the_end() {
    let (mut backlog, now) = (backlog(|policy| policy.retry.max_deliveries = 3), start());
    push(&mut backlog, [item("a")]);
    let mut dead = vec![];
    let mut killed = 0;
    while backlog.hold_next(worker(0), now).is_some() {
        killed += 1;
        dead.extend(backlog.release(worker(0), &[], now).dead);
    }
    assert_eq!(
        (killed, dead.len(), dead[0].reason),
        (3, 1, DeadReason::MaxDeliveries)
    );
    assert_eq!(dead[0].detail, "its worker left");
}

#[test]
fn a_terminated_event_is_dead_at_once() {
    let (mut backlog, now) = (backlog(|_| {}), start());
    push(&mut backlog, [item("a")]);
    let id = backlog.hold_next(worker(0), now).unwrap().id;
    let outcome = backlog.term(worker(0), id, &"é".repeat(1000), now);
    let letter = &outcome.unwrap().dead[0];
    assert_eq!(
        (letter.reason, letter.item.attempt),
        (DeadReason::Terminated, 1)
    );
    assert_eq!((letter.item.first_at, letter.last_at), (Some(now), now));
    assert_eq!(letter.detail, "é".repeat(DeadLetter::DETAIL_CHARS_MAX));
    assert_eq!(backlog.term(worker(0), id, "", now), Err(UnknownDelivery));
}

#[test]
fn poison_is_tried_so_often_and_holds_up_nobody() {
    let (mut backlog, mut now) = (backlog(|_| {}), start());
    push(
        &mut backlog,
        [item("poison"), item("a"), item("b"), item("c")],
    );
    let (mut tried, mut done, mut dead) = (0, vec![], vec![]);
    let began = now;
    while !backlog.is_empty() {
        while let Some(delivery) = backlog.hold_next(worker(0), now) {
            if delivery.body != "poison" {
                backlog.ack(worker(0), delivery.id, now).unwrap();
                done.push((delivery.body, now - began));
                continue;
            }
            tried += 1;
            let outcome = backlog.nak(worker(0), delivery.id, None, "can't", now, 1.0);
            dead.extend(outcome.unwrap().dead);
        }
        if !backlog.is_empty() {
            (now, _) = wait(&mut backlog);
        }
    }
    assert_eq!(
        done,
        ["a", "b", "c"].map(|text| (Bytes::from_static(text.as_bytes()), Duration::ZERO))
    );
    assert_eq!((tried, dead.len()), (8, 1));
    let letter = &dead[0];
    assert_eq!(
        (&letter.item.body[..], &letter.detail[..]),
        (&b"poison"[..], "can't")
    );
    assert_eq!(
        (letter.item.attempt, letter.item.first_at),
        (8, Some(began))
    );
    // 100 ms, doubled six times.
    assert_eq!(letter.last_at - began, ms(100 * 127));
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
