//! The client library with CURVE, against a daemon that admits nobody without keys.

use std::time::{Duration, Instant};

use event_manager_client::testing::TestHub;
use event_manager_client::{
    Client, ClientError, ClientKeys, Error, Hub, KeysError, Publisher, State, Subscriber,
    TurnedAway, blocking, new_pair,
};

use super::client_hub::{daemon, next, run, started};
use super::support::PATIENCE;

const SOON: Duration = Duration::from_secs(8);

fn keyed() -> TestHub {
    daemon().durable().curve().start().expect("a daemon")
}

fn keys(daemon: &TestHub) -> ClientKeys {
    daemon.client_keys().expect("it has keys")
}

/// A key that the daemon does not know.
fn stranger(daemon: &TestHub) -> ClientKeys {
    let own = new_pair().expect("a pair");
    ClientKeys {
        own,
        ..keys(daemon)
    }
}

fn wrong_server(daemon: &TestHub) -> ClientKeys {
    let server = *new_pair().expect("a pair").public();
    ClientKeys {
        server,
        ..keys(daemon)
    }
}

#[test]
fn a_hub_with_key_files_does_all_that_one_without_does() {
    let daemon = keyed();
    run(async {
        let server_key = daemon.server_key().expect("it has keys");
        let hub = Hub::builder()
            .address(daemon.address())
            .key_files(daemon.key_file(), server_key)
            .timeout(PATIENCE);
        let hub = hub.connect().await.expect("a hub");
        let mut service = hub.service("Billing").subjects(["Order"]).durable();
        service = service.credit(8);
        let mut service = service.start().await.expect("a service");
        let mut events = hub.subscribe(["Order"]).await.expect("a subscription");
        let large = "x".repeat(3 << 20);
        hub.publish("Order", &large).await.expect("room");
        hub.flush().await.expect("it is taken");
        hub.emit("Order", &2).await.expect("a receipt");
        for expected in [serde_json::json!(large), serde_json::json!(2)] {
            let delivery = next(&mut service).await;
            assert_eq!(
                delivery.json::<serde_json::Value>().expect("JSON"),
                expected
            );
            delivery.ack();
            let event = events.next().await.expect("an event");
            assert_eq!(event.json::<serde_json::Value>().expect("JSON"), expected);
        }
        service.drain(PATIENCE).await;
        hub.close().await.expect("all is taken");
    });
    daemon.wait_idle().expect("idle");
}

#[test]
fn a_blocking_hub_and_the_parts_below_have_keys_too() {
    let daemon = keyed();
    let hub = Hub::builder().address(daemon.address()).keys(keys(&daemon));
    let hub = blocking::Hub::build(hub).expect("a hub");
    hub.emit("Order", &1).send().expect("a receipt");
    run(async {
        let address = daemon.subscribers().parse().expect("an address");
        let subscriber = Subscriber::new(&address, vec![b"Order".to_vec()]);
        let mut subscriber = subscriber.with_keys(Some(keys(&daemon)));
        let publisher = Publisher::new(daemon.publishers().parse().expect("an address"), PATIENCE);
        let mut publisher = publisher.with_keys(Some(keys(&daemon)));
        let publishing = async {
            loop {
                publisher.send(&[b"Order", b"7"]).await.expect("a daemon");
                publisher.flush().await.expect("a daemon");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = publishing => {}
            frames = subscriber.next() => assert_eq!(frames, ["Order", "7"]),
        }
        let client = Client::new(daemon.address(), PATIENCE);
        let mut client = client.with_keys(Some(keys(&daemon)));
        client.status().await.expect("a status");
    });
}

#[test]
fn whoever_is_turned_away_is_told_why_in_time() {
    let (daemon, open) = (keyed(), started());
    let stranger = stranger(&daemon);
    let wrong = wrong_server(&daemon);
    let cases = [
        (&daemon, None, TurnedAway::WithoutKeys),
        (&daemon, Some(&wrong), TurnedAway::ServerKey),
        (
            &daemon,
            Some(&stranger),
            TurnedAway::ClientKey(*stranger.own.public()),
        ),
        (&open, Some(&stranger), TurnedAway::NoCurve),
    ];
    for (daemon, keys, expected) in cases {
        let begun = Instant::now();
        run(async {
            let connecting = Hub::builder().address(daemon.address()).keys(keys.cloned());
            let client = Client::new(daemon.address(), SOON);
            let mut client = client.with_keys(keys.cloned());
            let address = daemon.publishers().parse().expect("an address");
            let mut publisher = Publisher::new(address, SOON).with_keys(keys.cloned());
            publisher.send(&[b"Order"]).await.expect("it waits");
            let (hub, asked, published) =
                tokio::join!(connecting.connect(), client.status(), publisher.flush());
            let error = hub.err().expect("it is refused");
            assert!(
                matches!(&error, Error::TurnedAway { why, .. } if *why == expected),
                "{error}"
            );
            assert!(!error.may_be_taken());
            for error in [asked.map(drop), published] {
                let error = error.expect_err("it is refused");
                assert!(
                    matches!(error, ClientError::TurnedAway { why, .. } if why == expected),
                    "{error}"
                );
            }
        });
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }
}

#[test]
fn a_hub_that_is_not_admitted_yet_works_once_it_is() {
    let daemon = keyed();
    let stranger = stranger(&daemon);
    run(async {
        let hub = Hub::builder()
            .address(daemon.address())
            .keys(stranger.clone());
        let hub = hub.timeout(PATIENCE).connect_lazy().expect("a hub");
        let key = stranger.own.public().to_string();
        let told = |state: &State| matches!(state, State::Connecting { why } if why.contains(&key));
        while !told(&hub.state()) {
            hub.state_change().await;
        }
        let text = format!("public-key = \"{key}\"\n");
        let directory = daemon.key_file().with_file_name("keys");
        std::fs::write(directory.join("late.key"), text).expect("a file");
        hub.emit("Order", &1).await.expect("a receipt");
    });
}

#[test]
fn bad_keys_are_named_before_anything_is_sent() {
    let daemon = keyed();
    let server_key = daemon.server_key().expect("it has keys");
    let key_file = daemon.key_file();
    let public = key_file.with_file_name("keys").join("client.key");
    run(async {
        for (file, key, expected) in [
            (&public, &*server_key, "has only the public key"),
            (&key_file, "short", "the server key is neither a key"),
            (
                &key_file.with_file_name("none.key_secret"),
                &server_key,
                "No such file",
            ),
        ] {
            let hub = Hub::builder()
                .address(daemon.address())
                .key_files(file, key);
            let error = hub.connect().await.err().expect("it is refused");
            assert!(matches!(error, Error::Keys(_)), "{error}");
            let error = error.to_string();
            assert!(
                error.contains(expected) && error.contains("nothing was sent"),
                "{error}"
            );
        }
        // Anybody agrees with this key.
        let none = "0000000000000000000000000000000000000000";
        let hub = Hub::builder()
            .address(daemon.address())
            .key_files(&key_file, none);
        let error = hub
            .connect()
            .await
            .err()
            .expect("it is refused")
            .to_string();
        assert!(error.contains("a point of low order"), "{error}");
    });
    let half = KeysError::Half("a", "b").to_string();
    assert!(half.starts_with("a is given without b"), "{half}");
}

#[test]
fn a_service_that_registered_with_its_key_is_called_with_that() {
    let daemon = keyed();
    run(async {
        let hub = Hub::builder().address(daemon.address()).keys(keys(&daemon));
        let hub = hub.timeout(PATIENCE).connect().await.expect("a hub");
        let answers = hub.answers("Prices").subjects(["exact:price"]);
        let mut answers = answers.start().await.expect("it answers");
        let stopper = answers.stopper();
        let port = answers.address().to_owned();
        let asking = async {
            let cents: u64 = hub.call("price", &7).first().await.expect("a price");
            assert_eq!(cents, 6650);
            // Others don't get in there.
            for keys in [None, Some(stranger(&daemon))] {
                let client = Client::new(&port, Duration::from_secs(1)).with_keys(keys);
                { client }.status().await.expect_err("it is refused");
            }
            stopper.stop();
        };
        let handling =
            answers.for_each_concurrent(1, |event| async move { Ok(event.json::<u64>()? * 950) });
        let (handled, ()) = tokio::join!(handling, asking);
        handled.expect("no error");
    });
}

#[test]
fn a_service_s_key_may_be_configured() {
    let other = new_pair().expect("a pair").public().to_string();
    for key in [&*other, "none"] {
        let services = serde_json::json!({"Prices": {"serverKey": key}});
        let daemon = daemon().durable().curve().config("services", services);
        let daemon = daemon.start().expect("a daemon");
        run(async {
            let hub = Hub::builder().address(daemon.address()).keys(keys(&daemon));
            let hub = hub.timeout(PATIENCE).connect().await.expect("a hub");
            let answers = hub.answers("Prices").subjects(["exact:price"]);
            let _answers = answers.start().await.expect("it answers");
            let replies = hub.call("price", &7).all().await.expect("replies");
            let refused = String::from_utf8_lossy(&replies[0].data).into_owned();
            let told = match key {
                "none" => "it wants keys (CURVE)",
                _ => "is none of its keys",
            };
            assert!(refused.contains(told), "{refused}");
        });
    }
}
