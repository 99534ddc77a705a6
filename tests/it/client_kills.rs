//! The client library's hub while its daemon is killed and comes back.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use event_manager_client::{Error, Level};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::client_hub::{daemon, hub, next, run, run_within};
use super::support::PATIENCE;

/// Emits that are under way when the daemon is killed.
const EMITS: usize = 40;
/// How soon a worker has to work again when the daemon is ready.
const AGAIN_MAX: Duration = Duration::from_secs(1);

#[test]
fn no_confirmed_event_is_lost_when_the_daemon_is_killed_and_workers_go_on() {
    // Other tests run beside it.
    kill_under_load(5, PATIENCE);
}

/// `just clients-kill`
#[test]
#[ignore = "takes a minute"]
fn two_hundred_kills_lose_no_confirmed_event() {
    kill_under_load(200, AGAIN_MAX);
}

/// Each confirmed event is on disk; those under way are sent again. Nobody subscribes again but the library.
fn kill_under_load(rounds: usize, again_max: Duration) {
    let mut daemon = daemon().durable().start().expect("a daemon");
    let work = async {
        let hub = hub(&daemon).await;
        let starting = hub.service("Billing").subjects(["exact:Order"]).durable();
        let mut service = starting.start().await.expect("a service");
        let (mut seen, mut confirmed) = (BTreeSet::new(), BTreeSet::new());
        let (mut again, mut duplicates) = (vec![], 0);
        for round in 0..rounds {
            let mut emits = JoinSet::new();
            for n in 0..EMITS {
                let (hub, number) = (hub.clone(), round * EMITS + n);
                emits.spawn(async move {
                    let emit = hub.emit("Order", &number).level(Level::Disk);
                    emit.timeout(PATIENCE).await.map(|_| number)
                });
            }
            // Some have been written by then, some have not.
            let first = next(&mut service).await;
            daemon.kill().expect("it is killed");
            seen.insert(first.json::<usize>().expect("a number"));
            first.ack();
            daemon.start().expect("it comes back");
            let ready = Instant::now();
            let mut is_first = true;
            while !emits.is_empty() || !confirmed.is_subset(&seen) {
                tokio::select! {
                    Some(emitted) = emits.join_next() => {
                        confirmed.insert(emitted.expect("no panic").expect("confirmed"));
                    }
                    delivery = next(&mut service) => {
                        if std::mem::take(&mut is_first) {
                            again.push(ready.elapsed());
                        }
                        let number = delivery.json::<usize>().expect("a number");
                        let is_new = seen.insert(number);
                        assert!(is_new || delivery.attempt() > 1, "{number} came twice");
                        duplicates += usize::from(!is_new);
                        delivery.ack();
                    }
                }
            }
        }
        assert_eq!(confirmed.len(), rounds * EMITS);
        again.sort();
        let slowest = again.last().copied().unwrap_or_default();
        println!(
            "{rounds} kills: {} confirmed, 0 lost, {duplicates} came twice; the worker had its first event {:?} after ready (median), {slowest:?} at most",
            confirmed.len(),
            again.get(again.len() / 2),
        );
        assert!(slowest <= again_max, "{again:?}");
        while let Ok(Some(more)) = timeout(Duration::from_millis(100), service.next()).await {
            more.expect("no error").ack();
        }
        service.drain(PATIENCE).await;
        daemon.wait_idle().expect("idle");
    };
    run_within(PATIENCE * 2 + Duration::from_secs(rounds as u64), work);
}

/// What it kept in memory is gone, the subscription too.
#[test]
fn a_live_service_is_there_again_after_a_restart_without_state() {
    let mut daemon = daemon().start().expect("a daemon");
    run(async {
        let hub = hub(&daemon).await;
        let starting = hub.service("Billing").subjects(["Order"]);
        let mut service = starting.start().await.expect("a service");
        let mut events = hub.subscribe(["Order"]).await.expect("a subscription");
        for round in 0..3 {
            hub.publish("Order", &round).await.expect("room");
            hub.flush().await.expect("taken");
            let delivery = next(&mut service).await;
            assert_eq!(delivery.json::<u32>().expect("a number"), round);
            delivery.ack();
            assert_eq!(
                events
                    .next()
                    .await
                    .expect("an event")
                    .json::<u32>()
                    .expect("a number"),
                round
            );
            daemon.kill().expect("it is killed");
            daemon.start().expect("it comes back");
            // Until both are subscribed again, events are lost to them.
            loop {
                let status = hub.status().await.expect("a status");
                let is_back = status
                    .service("Billing")
                    .is_some_and(|service| service.workers.ready == 1);
                if is_back && status.subscribers.connected == 1 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
}

#[test]
fn a_flush_while_the_daemon_is_away_says_that_events_may_be_lost_and_they_are_sent_when_it_is_back()
{
    let mut daemon = daemon().start().expect("a daemon");
    run(async {
        let hub = hub(&daemon).await;
        daemon.kill().expect("it is killed");
        hub.publish("Order", &1).await.expect("room");
        let away = hub
            .flush_within(Duration::from_millis(50))
            .await
            .expect_err("nobody takes it");
        assert!(
            matches!(away, Error::MayBeLost { lost: 1, of: 1, .. }),
            "{away}"
        );
        let away = hub
            .emit("Order", &1)
            .timeout(Duration::from_millis(50))
            .await
            .expect_err("nobody takes it");
        assert!(matches!(away, Error::NoAnswer { .. }), "{away}");
        daemon.start().expect("it comes back");
        assert_eq!(hub.flush().await.expect("taken").events, 1);
        assert!(daemon.status().expect("a status").publishers.events >= 1);
    });
}
