//! What is not done the first time: refused, silent, late, lost and dying workers.

use super::*;

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
