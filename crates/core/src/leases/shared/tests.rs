//! Clients of several daemons against an adversary: it loses requests and answers of the third party, delivers
//! them late, runs clocks unevenly, and starts daemons anew. At no instant do two clients hold the lease by
//! their own count, and tokens only grow.

#![allow(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for a fake clock"
)]

use super::super::chance::Rng;
use super::*;
use crate::security::Identity;

const TTL: Duration = Duration::from_millis(1000);

fn name() -> ServiceName {
    ServiceName::new("job").expect("a name")
}

fn holder(name: &str) -> Holder {
    Holder {
        name: LeaseHolder::new(name).expect("a name"),
        client: Identity::Anonymous,
    }
}

/// A daemon with one client, which renews what it has, and wants it else. It deals with one request at a time.
struct Site {
    shared: Shared,
    client: Holder,
    /// The clocks' rate of its machine, in thousandths.
    rate: u64,
    /// What the client holds, until when by its clock.
    held: Option<(u64, Instant)>,
    /// When it asked, what for, and what was asked of the third party: that arrives there and is answered so late.
    asking: Option<(Instant, Deal, Option<Under>)>,
    rests_until_ms: u64,
}

struct Under {
    ask: Ask<Kept>,
    arrives_ms: u64,
    answer: Option<Answer<Kept>>,
    answered_ms: u64,
    until_ms: u64,
}

struct World {
    rng: Rng,
    origin: Instant,
    ms: u64,
    entry: Entry<Kept>,
    /// What was given up waiting for, and may arrive still.
    late: Vec<(u64, Ask<Kept>)>,
    sites: Vec<Site>,
    highest: u64,
    takes: u64,
    loses: u64,
}

impl World {
    fn new(seed: u64, loses: u64) -> Self {
        let mut rng = Rng::of(seed);
        let sites = (0..3).map(|n| Site {
            shared: Shared::default(),
            client: holder(&format!("client-{n}")),
            rate: 998 + rng.below(5),
            held: None,
            asking: None,
            rests_until_ms: 0,
        });
        Self {
            sites: sites.collect(),
            rng,
            origin: Instant::now(),
            ms: 0,
            entry: Entry::default(),
            late: vec![],
            highest: 0,
            takes: 0,
            loses,
        }
    }

    fn clock(&self, site: usize) -> Instant {
        self.origin + Duration::from_micros(self.ms * self.sites[site].rate)
    }

    fn serve(&mut self, ask: &Ask<Kept>) -> Answer<Kept> {
        match ask {
            Ask::Read => Answer::Is(self.entry.clone()),
            Ask::Put(expected, content) if *expected == self.entry.revision => {
                self.entry = Entry {
                    revision: expected + 1 + self.rng.below(3),
                    content: content.clone(),
                };
                Answer::Stored(self.entry.revision)
            }
            Ask::Put(..) => Answer::Changed,
        }
    }

    fn step(&mut self) {
        self.ms += 1;
        let due: Vec<_> = self.late.extract_if(.., |(at, _)| *at <= self.ms).collect();
        for (_, ask) in due {
            self.serve(&ask);
        }
        for n in 0..self.sites.len() {
            self.turn(n);
        }
        let held = |n: &usize| {
            let held = self.sites[*n].held;
            held.is_some_and(|(_, until)| self.clock(*n) < until)
        };
        let holders: Vec<_> = (0..self.sites.len()).filter(held).collect();
        assert!(holders.len() <= 1, "{holders:?} at {} ms", self.ms);
    }

    fn turn(&mut self, n: usize) {
        let now = self.clock(n);
        if self.rng.one_in(20_000) {
            // The daemon is killed; its client goes on by its own count.
            self.sites[n].shared = Shared::default();
            self.sites[n].asking = None;
        }
        let Some((asked_at, mut deal, under)) = self.sites[n].asking.take() else {
            return self.begin(n, now);
        };
        let Some(mut under) = under else {
            return self.go_on(n, asked_at, deal, now);
        };
        if under.answer.is_none() && self.ms >= under.arrives_ms {
            under.answer = Some(self.serve(&under.ask));
        }
        if let Some(answer) = under.answer.take_if(|_| self.ms >= under.answered_ms) {
            self.sites[n]
                .shared
                .hear(&mut deal, &under.ask, answer, now);
            return self.go_on(n, asked_at, deal, now);
        }
        if self.ms < under.until_ms {
            self.sites[n].asking = Some((asked_at, deal, Some(under)));
            return;
        }
        if under.answer.is_none() {
            self.late.push((under.arrives_ms, under.ask.clone()));
        }
        self.sites[n]
            .shared
            .hear(&mut deal, &under.ask, Answer::Unknown, now);
    }

    fn begin(&mut self, n: usize, now: Instant) {
        if self.ms < self.sites[n].rests_until_ms {
            return;
        }
        let held = self.sites[n].held.filter(|(_, until)| now < *until);
        self.sites[n].held = held;
        let client = self.sites[n].client.clone();
        let (wish, pause) = match held {
            Some((token, _)) if self.rng.one_in(10) => {
                self.sites[n].held = None;
                (Wish::Release(client, token), 300)
            }
            Some((token, _)) => (Wish::Renew(client, token), 330),
            None => (Wish::Acquire(client, TTL), 100),
        };
        self.sites[n].rests_until_ms = self.ms + pause;
        self.sites[n].asking = Some((now, Deal::new(name(), wish), None));
    }

    fn go_on(&mut self, n: usize, asked_at: Instant, deal: Deal, now: Instant) {
        let floor = self.ms / 2;
        let done = match self.sites[n].shared.next(&deal, floor, now) {
            Next::Ask(ask) => {
                let mut delay = || match self.rng.one_in(self.loses) {
                    true => self.rng.below(4_000),
                    false => 1 + self.rng.below(3),
                };
                let (there, back) = (delay(), delay());
                let under = Under {
                    ask,
                    arrives_ms: self.ms + there,
                    answer: None,
                    answered_ms: self.ms + there + back,
                    until_ms: self.ms + 500,
                };
                self.sites[n].asking = Some((asked_at, deal, Some(under)));
                return;
            }
            Next::Done(done) => done,
        };
        match (&deal.wish, done) {
            (Wish::Acquire(..), Ok(shown))
                if self.sites[n].held.is_none() && now < asked_at + TTL =>
            {
                assert!(shown.token >= self.highest, "{shown:?} < {}", self.highest);
                self.takes += u64::from(shown.token > self.highest);
                self.highest = shown.token;
                self.sites[n].held = Some((shown.token, asked_at + TTL));
            }
            (Wish::Renew(..), Ok(_)) => {
                if let Some((_, until)) = &mut self.sites[n].held {
                    *until = (*until).max(asked_at + TTL);
                }
            }
            (Wish::Renew(..), Err(Refused::Lost)) => self.sites[n].held = None,
            _ => {}
        }
    }
}

#[test]
fn no_two_clients_hold_a_lease_and_tokens_grow() {
    for seed in 0..60 {
        for loses in [3, 20, 1_000] {
            let mut world = World::new(seed, loses);
            for _ in 0..20_000 {
                world.step();
            }
            assert!(world.takes > 1, "seed {seed}, {loses}: {}", world.takes);
        }
    }
}

/// One daemon, whose third party answers at once.
struct Direct {
    shared: Shared,
    entry: Entry<Kept>,
}

impl Direct {
    fn ask(&mut self, wish: Wish, now: Instant) -> Result<Shown, Refused> {
        let mut deal = Deal::new(name(), wish);
        loop {
            let ask = match self.shared.next(&deal, 100, now) {
                Next::Done(done) => return done,
                Next::Ask(ask) => ask,
            };
            let answer = match &ask {
                Ask::Read => Answer::Is(self.entry.clone()),
                Ask::Put(expected, _) if *expected != self.entry.revision => Answer::Changed,
                Ask::Put(expected, content) => {
                    self.entry = Entry {
                        revision: expected + 1,
                        content: content.clone(),
                    };
                    Answer::Stored(expected + 1)
                }
            };
            self.shared.hear(&mut deal, &ask, answer, now);
        }
    }
}

#[test]
fn it_is_held_by_one_with_its_token_until_its_time_is_over() {
    let begun = Instant::now();
    let at = |ms| begun + Duration::from_millis(ms);
    let mut one = Direct {
        shared: Shared::default(),
        entry: Entry::default(),
    };
    let acquire = |name: &str| Wish::Acquire(holder(name), TTL);
    let free = one.ask(Wish::Get, at(0)).expect("an answer");
    assert_eq!((free.token, free.held), (0, None));
    let token = one.ask(acquire("a"), at(0)).expect("it is free").token;
    assert_eq!(token, 100);
    assert_eq!(
        one.ask(acquire("a"), at(500)).expect("its own").token,
        token
    );
    let refused = one.ask(acquire("b"), at(1000));
    let left = Duration::from_millis(600);
    assert_eq!(refused, Err(Refused::Held(holder("a").name, left)));
    for (who, other) in [("b", token), ("a", token + 1)] {
        let wish = Wish::Renew(holder(who), other);
        assert_eq!(one.ask(wish, at(1000)), Err(Refused::Lost));
    }
    // At another daemon, which hears of it now: its time is counted from then.
    let mut other = Direct {
        shared: Shared::default(),
        entry: one.entry.clone(),
    };
    other.ask(acquire("b"), at(1599)).expect_err("it is held");
    other.ask(acquire("b"), at(2698)).expect_err("it is held");
    // Who has it may ask there.
    let renewed = other.ask(Wish::Renew(holder("a"), token), at(2698));
    assert_eq!(renewed.expect("it is held").token, token);
    one.entry = other.entry.clone();
    // It is unchanged there for its time, and a tenth.
    assert_eq!(
        one.ask(Wish::Renew(holder("a"), token), at(3000))
            .expect("its own")
            .token,
        token
    );
    assert_eq!(
        one.ask(Wish::Renew(holder("a"), token), at(4100)),
        Err(Refused::Lost)
    );
    assert_eq!(
        one.ask(acquire("b"), at(4100)).expect("it is over").token,
        token + 1
    );
    let released = one.ask(Wish::Release(holder("b"), token + 1), at(4200));
    assert_eq!(released.expect("its own").held, None);
    assert_eq!(
        one.ask(acquire("b"), at(4200)).expect("it is free").token,
        token + 2
    );
    // The third party forgets: for its time it is held still, and its token is not given again.
    one.entry = Entry::default();
    one.ask(acquire("a"), at(4300)).expect_err("it is held");
    let taken = one.ask(acquire("a"), at(5400)).expect("it is over");
    assert_eq!(taken.token, token + 3);
}

#[test]
fn what_is_known_is_bounded() {
    let now = Instant::now();
    let mut shared = Shared::default();
    let named = |n: usize| ServiceName::new(&format!("job-{n}")).expect("a name");
    let mut acquire = |n: usize, now: Instant| {
        let mut deal = Deal::new(named(n), Wish::Acquire(holder("a"), TTL));
        let mut entry = Entry::default();
        loop {
            match shared.next(&deal, 1, now) {
                Next::Done(done) => return (done, shared.seen.len()),
                Next::Ask(ask) => {
                    let answer = match &ask {
                        Ask::Read => Answer::Is(std::mem::take(&mut entry)),
                        Ask::Put(..) => Answer::Stored(1),
                    };
                    shared.hear(&mut deal, &ask, answer, now);
                }
            }
        }
    };
    for n in 0..LEASES_MAX - 1 {
        acquire(n, now).0.expect("there is room");
    }
    for n in LEASES_MAX..LEASES_MAX + 5 {
        let (_, known) = acquire(n, now);
        assert!(known <= LEASES_MAX);
    }
    let later = now + 2 * TTL;
    acquire(LEASES_MAX + 9, later).0.expect("there is room");
}
