#![allow(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for a fake clock"
)]

use proptest::prelude::*;

use super::*;

fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

fn holder(text: &str) -> Holder {
    Holder {
        name: LeaseHolder::new(text).unwrap(),
        client: Identity::Anonymous,
    }
}

const TTL: Duration = Duration::from_secs(3);

#[test]
fn one_holds_it_until_it_ends_and_tokens_grow() {
    let (mut leases, now, lease) = (Leases::default(), Instant::now(), name("l"));
    let token = |leases: &Leases, now| leases.view(&lease, now).token;
    assert_eq!(leases.acquire(&lease, holder("a"), TTL, 0, now), Ok(None));
    let first = token(&leases, now);
    let later = now + Duration::from_secs(2);
    let held = Refused::Held(holder("a").name, Duration::from_secs(1));
    let by_other = leases.acquire(&lease, holder("b"), TTL, 0, later);
    assert_eq!(by_other, Err(held));
    // Who asks again has it still, with the same token.
    assert_eq!(leases.acquire(&lease, holder("a"), TTL, 0, later), Ok(None));
    assert_eq!(token(&leases, later), first);
    leases.renew(&lease, &holder("a"), first, later).unwrap();
    for (who, number) in [("a", first + 1), ("b", first)] {
        let renewed = leases.renew(&lease, &holder(who), number, later);
        assert_eq!(renewed, Err(Refused::Lost), "{who} {number}");
        let released = leases.release(&lease, &holder(who), number, later);
        assert_eq!(released, Err(Refused::Lost), "{who} {number}");
    }
    // Another client that calls itself so is another holder.
    let namesake = Holder {
        client: Identity::Client("x".into()),
        ..holder("a")
    };
    assert!(leases.renew(&lease, &namesake, first, later).is_err());
    let end = later + TTL;
    assert_eq!(
        leases.renew(&lease, &holder("a"), first, end),
        Err(Refused::Lost)
    );
    assert_eq!(leases.acquire(&lease, holder("b"), TTL, 0, end), Ok(None));
    let second = token(&leases, end);
    assert!(second > first);
    leases.release(&lease, &holder("b"), second, end).unwrap();
    assert_eq!(leases.view(&lease, end).held, None);
    // When nothing is known any more, the floor keeps them growing.
    assert_eq!(
        leases.acquire(&lease, holder("b"), TTL, 1 << 40, end),
        Ok(None)
    );
    assert_eq!(token(&leases, end), 1 << 40);
}

#[test]
fn what_is_known_is_bounded_and_no_token_is_given_twice() {
    let (mut leases, now) = (Leases::default(), Instant::now());
    for n in 0..LEASES_MAX {
        let acquired = leases.acquire(&name(&n.to_string()), holder("a"), TTL, 0, now);
        assert_eq!(acquired, Ok(None));
    }
    let more = |leases: &mut Leases, now| leases.acquire(&name("more"), holder("a"), TTL, 0, now);
    assert_eq!(more(&mut leases, now), Err(Refused::Full));
    let highest = leases.highest();
    leases.release(&name("7"), &holder("a"), 8, now).unwrap();
    assert_eq!(more(&mut leases, now), Ok(Some(name("7"))));
    assert!(leases.view(&name("more"), now).token > highest);
    assert_eq!(
        leases.acquire(&name("7"), holder("a"), TTL, 0, now),
        Err(Refused::Full)
    );
}

/// What a client believes: that it holds the lease until then, by its own clock, which counts from when it
/// asked.
#[derive(Debug, Clone, Copy)]
struct Belief {
    token: u64,
    until: u64,
}

#[derive(Debug, Clone)]
enum Step {
    /// This client asks, and its request takes so long; it hears the answer, or doesn't.
    Acquire(usize, u64, bool),
    Renew(usize, u64, bool),
    Release(usize, u64),
    /// The daemon is killed; what was kept, is. It is away for so long.
    Restart(u64),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let late = 0u64..1500;
    prop_oneof![
        4 => (0usize..3, late.clone(), any::<bool>()).prop_map(|(c, late, heard)| Step::Acquire(c, late, heard)),
        4 => (0usize..3, late.clone(), any::<bool>()).prop_map(|(c, late, heard)| Step::Renew(c, late, heard)),
        1 => (0usize..3, late).prop_map(|(c, late)| Step::Release(c, late)),
        1 => (0u64..5000).prop_map(Step::Restart),
        4 => (1u64..2000).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever is late, lost or killed: at no time do two clients believe that they hold it, and whoever
    /// comes to believe so has a higher token than all before.
    #[test]
    fn never_do_two_hold_it(steps in proptest::collection::vec(step(), 1..60)) {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let (mut leases, lease, ttl) = (Leases::default(), name("l"), TTL.as_millis() as u64);
        // What is on disk: acquiring is answered only then. A release may be, or not: here it is not.
        let mut on_disk: Option<Former> = None;
        let mut beliefs: [Option<Belief>; 3] = [None; 3];
        let (mut ms, mut highest) = (0u64, 0u64);
        for step in steps {
            match step {
                Step::Acquire(client, late, heard) => {
                    let asked = ms;
                    ms += late;
                    let who = holder(&client.to_string());
                    if leases.acquire(&lease, who, TTL, 0, at(ms)).is_ok() {
                        on_disk = leases.kept(&lease);
                        let token = leases.view(&lease, at(ms)).token;
                        if heard {
                            let is_same = beliefs[client].is_some_and(|held| held.token == token);
                            prop_assert!(token >= highest && (is_same || token > 0));
                            beliefs[client] = Some(Belief { token, until: asked + ttl });
                        }
                        highest = highest.max(token);
                    }
                }
                Step::Renew(client, late, heard) => {
                    let asked = ms;
                    let Some(held) = beliefs[client].filter(|held| held.until > asked) else { continue };
                    ms += late;
                    let who = holder(&client.to_string());
                    let renewed = leases.renew(&lease, &who, held.token, at(ms));
                    if renewed.is_ok() && heard {
                        beliefs[client] = Some(Belief { until: asked + ttl, ..held });
                    }
                }
                Step::Release(client, late) => {
                    // Whoever gives it back believes so no more, whatever becomes of the request.
                    let Some(held) = beliefs[client].take() else { continue };
                    ms += late;
                    let _ = leases.release(&lease, &holder(&client.to_string()), held.token, at(ms));
                }
                Step::Restart(away) => {
                    ms += away;
                    leases = Leases::default();
                    if let Some(former) = &on_disk {
                        leases.restore(lease.clone(), former.clone(), at(ms));
                    }
                }
                Step::Pass(more) => ms += more,
            }
            let believing = beliefs.iter().flatten().filter(|held| held.until > ms);
            prop_assert!(believing.count() <= 1, "{beliefs:?} at {ms}");
            // Whoever believes so has the highest token that was ever given.
            for held in beliefs.iter().flatten().filter(|held| held.until > ms) {
                prop_assert_eq!(held.token, highest);
            }
        }
    }
}
