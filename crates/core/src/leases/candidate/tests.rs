//! Candidates against an adversary: it loses requests and answers, delivers them late, pauses processes,
//! runs their clocks unevenly, and ends them. At no instant do two hold the lease, and tokens only grow.

#![allow(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for a fake clock"
)]

use super::super::chance::Rng;
use super::*;

const TTL: Duration = Duration::from_millis(3000);

/// A request that is under way to the third party, or its answer on the way back.
struct Message {
    at_ms: u64,
    process: usize,
    run: u64,
    number: u64,
    ask: Ask,
    answer: Option<Answer>,
}

struct Process {
    candidate: Candidate,
    run: u64,
    /// Its clock's rate, in thousandths.
    rate: u64,
    paused_until_ms: u64,
    /// What was asked and not answered yet: its number, and when it was sent by the process's clock.
    asked: Option<(u64, Ask, Instant)>,
    last_token: u64,
}

struct World {
    rng: Rng,
    origin: Instant,
    ms: u64,
    entry: Entry,
    messages: Vec<Message>,
    processes: Vec<Process>,
    numbers: u64,
    highest_token: u64,
    takes: u64,
    /// How bad the adversary is: one in so many messages is lost, and is late; one in so many steps a
    /// process is paused or ended.
    loses: u64,
    pauses: u64,
}

fn claim(process: usize, run: u64) -> Claim {
    Claim {
        id: format!("{process}.{run}"),
        ttl: TTL,
        process: None,
    }
}

fn candidate(process: usize, run: u64) -> Candidate {
    Candidate::new(claim(process, run), Directories::Shared)
}

/// Of a directory without a number.
fn content(claim: Option<Claim>) -> Content {
    Content {
        claim,
        directory: None,
    }
}

impl World {
    fn new(seed: u64, processes: usize, (loses, pauses): (u64, u64)) -> Self {
        let mut rng = Rng::of(seed);
        let processes = (0..processes).map(|n| Process {
            candidate: candidate(n, 0),
            run: 0,
            // Two thousandths are more than any two clocks differ, and far less than the margin.
            rate: 998 + rng.below(5),
            paused_until_ms: 0,
            asked: None,
            last_token: 0,
        });
        let processes = processes.collect();
        Self {
            rng,
            origin: Instant::now(),
            ms: 0,
            entry: Entry::default(),
            messages: vec![],
            processes,
            numbers: 0,
            highest_token: 0,
            takes: 0,
            loses,
            pauses,
        }
    }

    fn clock(&self, process: usize) -> Instant {
        self.origin + Duration::from_micros(self.ms * self.processes[process].rate)
    }

    fn holders(&self) -> Vec<usize> {
        let all = 0..self.processes.len();
        all.filter(|n| self.processes[*n].candidate.held(self.clock(*n)).is_some())
            .collect()
    }

    fn delay(&mut self) -> u64 {
        match self.rng.one_in(self.loses) {
            true => self.rng.below(10_000),
            false => 1 + self.rng.below(5),
        }
    }

    /// A millisecond.
    fn step(&mut self) {
        self.ms += 1;
        let due: Vec<_> = self
            .messages
            .extract_if(.., |message| message.at_ms <= self.ms)
            .collect();
        for message in due {
            self.arrive(message);
        }
        for n in 0..self.processes.len() {
            self.act(n);
        }
        let holders = self.holders();
        assert!(holders.len() <= 1, "at {} ms: {holders:?}", self.ms);
    }

    fn arrive(&mut self, mut message: Message) {
        if let Some(answer) = message.answer {
            let now = self.clock(message.process);
            let process = &mut self.processes[message.process];
            let is_awaited = |(number, ..): &mut (u64, Ask, Instant)| *number == message.number;
            if process.run != message.run {
                return;
            }
            if process.paused_until_ms > self.ms {
                message.at_ms = process.paused_until_ms;
                message.answer = Some(answer);
                return self.messages.push(message);
            }
            if let Some((_, ask, sent)) = process.asked.take_if(is_awaited) {
                process.candidate.hear(&ask, sent, answer, now);
            }
            return;
        }
        message.answer = Some(match &message.ask {
            Ask::Read => Answer::Is(self.entry.clone()),
            Ask::Put(expected, content) if *expected == self.entry.revision => {
                let revision = expected + 1;
                self.entry = Entry {
                    revision,
                    content: content.clone(),
                };
                Answer::Stored(revision)
            }
            Ask::Put(..) => Answer::Changed,
        });
        if !self.rng.one_in(self.loses) {
            message.at_ms = self.ms + self.delay();
            self.messages.push(message);
        }
    }

    fn act(&mut self, n: usize) {
        if self.processes[n].paused_until_ms > self.ms {
            return;
        }
        if self.rng.one_in(self.pauses) {
            self.processes[n].paused_until_ms = self.ms + self.rng.below(12_000);
            return;
        }
        let now = self.clock(n);
        if self.rng.one_in(self.pauses) {
            return self.begin_anew(n);
        }
        let process = &mut self.processes[n];
        if let Some(held) = process.candidate.held(now)
            && held.token != process.last_token
        {
            process.last_token = held.token;
            assert!(held.token > self.highest_token, "tokens grow");
            self.highest_token = held.token;
            self.takes += 1;
        }
        let patience = process.candidate.patience();
        let is_late = |(_, _, sent): &mut (u64, Ask, Instant)| now >= *sent + patience;
        if let Some((_, ask, sent)) = process.asked.take_if(is_late) {
            process.candidate.hear(&ask, sent, Answer::Unknown, now);
        }
        if process.asked.is_some() && process.candidate.held(now).is_some() {
            return;
        }
        match process.candidate.next(now) {
            Next::Over => self.begin_anew(n),
            Next::Ask(ask) if self.processes[n].asked.is_none() => self.send(n, ask, now),
            Next::Ask(_) | Next::Rest(_) => {}
        }
    }

    fn send(&mut self, n: usize, ask: Ask, now: Instant) {
        self.numbers += 1;
        let process = &mut self.processes[n];
        process.asked = Some((self.numbers, ask.clone(), now));
        let (run, number) = (process.run, self.numbers);
        if self.rng.one_in(self.loses) {
            return;
        }
        let at_ms = self.ms + self.delay();
        self.messages.push(Message {
            at_ms,
            process: n,
            run,
            number,
            ask,
            answer: None,
        });
    }

    /// What it had sent is still under way.
    fn begin_anew(&mut self, n: usize) {
        let process = &mut self.processes[n];
        process.run += 1;
        process.candidate = candidate(n, process.run);
        process.asked = None;
    }
}

#[test]
fn at_no_instant_two_hold_it_and_tokens_only_grow() {
    let mut takes = 0;
    for seed in 1..=120 {
        let badness = match seed % 4 {
            0 => (4, 2000),
            1 => (50, 500),
            2 => (10, 20_000),
            _ => (1000, 3000),
        };
        let mut world = World::new(seed, 2 + (seed % 3) as usize, badness);
        (0..20_000).for_each(|_| world.step());
        takes += world.takes;
    }
    assert!(takes > 200, "it was held {takes} times only");
}

#[test]
fn it_is_taken_soon_after_its_holder_has_ended() {
    for seed in 1..=50 {
        let mut world = World::new(seed, 2, (1_000_000_000, 1_000_000_000));
        while world.holders().is_empty() {
            world.step();
            assert!(world.ms < 100, "nobody holds it, and nobody takes it");
        }
        (0..seed * 37).for_each(|_| world.step());
        let holder = world.holders()[0];
        world.processes[holder].paused_until_ms = u64::MAX;
        let (ended, other) = (world.ms, 1 - holder);
        while world.holders() != [other] {
            world.step();
            let after = Duration::from_millis(world.ms - ended);
            assert!(after < TTL + TTL / 8, "not after {after:?}");
        }
    }
}

#[test]
fn what_is_released_is_taken_at_once_and_only_once() {
    let mut world = World::new(7, 2, (1_000_000_000, 1_000_000_000));
    (0..5000).for_each(|_| world.step());
    let holder = world.holders()[0];
    let now = world.clock(holder);
    let released = world.processes[holder].candidate.release().unwrap();
    assert_eq!(world.processes[holder].candidate.release(), None);
    assert_eq!(world.processes[holder].candidate.held(now), None);
    world.processes[holder].paused_until_ms = u64::MAX;
    world.send(holder, released, now);
    let at = world.ms;
    while world.holders() != [1 - holder] {
        world.step();
        assert!(world.ms - at < 500, "it is not taken");
    }
}

#[test]
fn a_holder_counts_from_when_it_asked_and_what_is_over_stays_so() {
    let mut candidate = candidate(1, 1);
    let origin = Instant::now();
    let at = |ms| origin + Duration::from_millis(ms);
    candidate.hear(&Ask::Read, at(0), Answer::Is(Entry::default()), at(1));
    let put = Ask::Put(0, content(Some(claim(1, 1))));
    assert_eq!(candidate.next(at(1)), Next::Ask(put.clone()));
    candidate.hear(&put, at(1), Answer::Stored(17), at(900));
    let held = Held {
        token: 17,
        until: at(2701),
    };
    assert_eq!(candidate.held(at(2700)), Some(held));
    assert_eq!(candidate.held(at(2701)), None);
    let term = Term::new(held, at(900));
    assert!(!term.is_over(at(2700)) && term.is_over(at(2701)));
    // Renewed once, with an answer in time; the next one comes when all is over.
    let put = Ask::Put(17, content(Some(claim(1, 1))));
    assert_eq!(candidate.next(at(1001)), Next::Ask(put.clone()));
    candidate.hear(&put, at(1001), Answer::Stored(18), at(1002));
    term.extend(candidate.held(at(1002)).unwrap().until);
    assert!(!term.is_over(at(3700)) && term.is_over(at(3701)));
    let put = Ask::Put(18, content(Some(claim(1, 1))));
    assert_eq!(candidate.next(at(2001)), Next::Ask(put.clone()));
    candidate.hear(&put, at(2001), Answer::Stored(19), at(3701));
    assert_eq!(candidate.next(at(3701)), Next::Over);
    term.end();
    term.extend(at(9000));
    assert!(term.is_over(at(1002)), "what is over stays so");
}

#[test]
fn an_entry_of_a_longer_time_is_waited_for_as_long() {
    let mut candidate = candidate(1, 1);
    let origin = Instant::now();
    let theirs = Entry {
        revision: 5,
        content: content(Some(Claim {
            id: "another".into(),
            ttl: TTL * 2,
            process: None,
        })),
    };
    let mut now = origin;
    candidate.hear(&Ask::Read, now, Answer::Is(theirs.clone()), now);
    loop {
        match candidate.next(now) {
            Next::Rest(until) => now = until,
            Next::Ask(Ask::Read) => {
                candidate.hear(&Ask::Read, now, Answer::Is(theirs.clone()), now);
            }
            Next::Ask(Ask::Put(revision, _)) => break assert_eq!(revision, 5),
            Next::Over => panic!("it never began"),
        }
    }
    assert_eq!(now, origin + TTL * 2);
}

/// A key that was deleted, a bucket that was made anew, a failover.
#[test]
fn what_the_third_party_forgets_is_held_until_its_time_is_over() {
    let origin = Instant::now();
    let at = |ms| origin + Duration::from_millis(ms);
    let is = |revision, claim| {
        let content = content(claim);
        Answer::Is(Entry { revision, content })
    };
    let mut waiting = candidate(1, 0);
    let held = is(7, Some(claim(0, 0)));
    waiting.hear(&Ask::Read, at(0), held, at(0));
    waiting.hear(&Ask::Read, at(1000), is(0, None), at(1000));
    // Its holder has renewed it at 999, for all that is known.
    let mut ms = 1000;
    let taken = loop {
        match waiting.next(at(ms)) {
            Next::Rest(until) => assert!(until > at(ms)),
            Next::Ask(Ask::Read) => waiting.hear(&Ask::Read, at(ms), is(0, None), at(ms)),
            Next::Ask(Ask::Put(revision, _)) => break (revision, ms),
            Next::Over => panic!("it never held it"),
        }
        ms += 10;
    };
    assert_eq!(taken, (0, 4000));
    // What was given back is free at once, and so is what nobody ever had.
    let mut second = candidate(2, 0);
    second.hear(&Ask::Read, at(0), is(7, Some(claim(0, 0))), at(0));
    second.hear(&Ask::Read, at(1000), is(8, None), at(1000));
    assert!(matches!(second.next(at(1000)), Next::Ask(Ask::Put(8, _))));
    let mut third = candidate(3, 0);
    third.hear(&Ask::Read, at(0), is(0, None), at(0));
    assert!(matches!(third.next(at(0)), Next::Ask(Ask::Put(0, _))));
}

/// One of this rule with this directory, to whom that entry is told again and again for twice its time: whether
/// it asks for it, and with which directory.
fn takes(directories: Directories, ours: Option<&str>, content: &Content) -> Option<Content> {
    let entry = Entry {
        revision: 5,
        content: content.clone(),
    };
    let mut candidate = Candidate::new(claim(1, 0), directories);
    candidate.found(ours.map(str::to_owned));
    let origin = Instant::now();
    let (mut now, mut reads) = (origin, 0);
    while now < origin + TTL * 2 {
        match candidate.next(now) {
            Next::Rest(until) => now = until,
            Next::Ask(Ask::Put(_, content)) => return Some(content),
            Next::Ask(ask) => candidate.hear(&ask, now, Answer::Is(entry.clone()), now),
            Next::Over => panic!("it never held it"),
        }
        reads += 1;
        assert!(reads < 60, "it asks all the time");
    }
    None
}

#[test]
fn who_has_another_directory_takes_over_from_nobody() {
    let theirs = |claim| Content {
        claim,
        directory: Some("a1".into()),
    };
    // Held by somebody who is gone, and given back.
    for found in [theirs(Some(claim(0, 0))), theirs(None)] {
        for other in [None, Some("b2")] {
            assert_eq!(takes(Directories::Shared, other, &found), None);
            let put = takes(Directories::Own, other, &found).expect("it is taken");
            assert_eq!(put.directory.as_deref(), other);
        }
        let put = takes(Directories::Shared, Some("a1"), &found).expect("it is taken");
        assert_eq!(put.directory.as_deref(), Some("a1"));
    }
    // Of one that nobody has named, nothing is known.
    for found in [content(Some(claim(0, 0))), content(None)] {
        for ours in [None, Some("b2")] {
            let put = takes(Directories::Shared, ours, &found).expect("it is taken");
            assert_eq!(put.directory.as_deref(), ours);
        }
    }
}

#[test]
fn a_directory_that_is_found_later_is_told_and_stays_told() {
    let mut first = candidate(1, 1);
    let origin = Instant::now();
    let at = |ms| origin + Duration::from_millis(ms);
    first.hear(&Ask::Read, at(0), Answer::Is(Entry::default()), at(0));
    let Next::Ask(put) = first.next(at(0)) else {
        panic!("it rests");
    };
    first.hear(&put, at(0), Answer::Stored(1), at(1));
    // The directory is new, and gets its number from who serves.
    first.found(Some("a1".into()));
    assert_eq!(first.other_directory(), None);
    let Next::Ask(renewal) = first.next(at(1000)) else {
        panic!("it rests");
    };
    let named = |claim| Content {
        claim,
        directory: Some("a1".into()),
    };
    assert_eq!(renewal, Ask::Put(1, named(Some(claim(1, 1)))));
    first.hear(&renewal, at(1000), Answer::Stored(2), at(1001));
    assert!(first.held(at(2000)).is_some());
    assert_eq!(first.release(), Some(Ask::Put(2, named(None))));
    // Who waits finds the storage at last.
    let mut second = candidate(2, 1);
    let given_back = Answer::Is(Entry {
        revision: 3,
        content: named(None),
    });
    second.hear(&Ask::Read, at(0), given_back.clone(), at(0));
    assert_eq!(second.other_directory(), Some("a1"));
    assert!(matches!(second.next(at(0)), Next::Rest(_)));
    assert_eq!(second.next(at(500)), Next::Ask(Ask::Read));
    second.found(Some("a1".into()));
    second.hear(&Ask::Read, at(500), given_back, at(500));
    assert_eq!(second.other_directory(), None);
    assert!(matches!(second.next(at(500)), Next::Ask(Ask::Put(3, _))));
}
