//! How long the hot paths take, for people: `cargo bench --bench micro --features internals`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a bench"
)]

mod parts;

use divan::Bencher;
use divan::counter::ItemsCount;
use parts::{
    Acknowledged, Dispatch, Durable, EVENTS, Emit, Intake, Look, Lookup, ReadBack, Subscribe,
    Worked,
};

fn main() {
    Intake::fan(1, 64).run().check();
    Emit::new().run().check();
    divan::main();
}

#[divan::bench(args = [(1, 64), (8, 64), (1, 1024), (8, 1024)])]
fn events_to_subscribers(bencher: Bencher, (subscribers, size): (usize, usize)) {
    bencher
        .counter(ItemsCount::new(EVENTS))
        .with_inputs(|| Intake::fan(subscribers, size))
        .bench_values(Intake::run);
}

#[divan::bench(args = [1, 4])]
fn events_to_workers(bencher: Bencher, workers: usize) {
    bencher
        .counter(ItemsCount::new(EVENTS))
        .with_inputs(|| Intake::workers(workers))
        .bench_values(Intake::run);
}

#[divan::bench]
fn events_to_acknowledging_workers(bencher: Bencher) {
    bencher
        .counter(ItemsCount::new(EVENTS))
        .with_inputs(|| Intake::acknowledging(4))
        .bench_values(Intake::run);
}

#[divan::bench]
fn acknowledgements(bencher: Bencher) {
    bencher
        .counter(ItemsCount::new(EVENTS))
        .with_inputs(|| Acknowledged::new(4))
        .bench_values(Acknowledged::run);
}

#[divan::bench(args = [false, true])]
fn events_worked_by_subject(bencher: Bencher, by_subject: bool) {
    bencher
        .counter(ItemsCount::new(EVENTS))
        .with_inputs(|| Worked::new(by_subject))
        .bench_values(Worked::run);
}

#[divan::bench(args = [1, 20])]
fn durable_events(bencher: Bencher, services: usize) {
    bencher
        .counter(ItemsCount::new(EVENTS))
        .with_inputs(|| Durable::of(services))
        .bench_values(Durable::run);
}

#[divan::bench]
fn events_read_back(bencher: Bencher) {
    bencher
        .counter(ItemsCount::new(EVENTS))
        .with_inputs(ReadBack::new)
        .bench_values(ReadBack::run);
}

#[divan::bench]
fn confirmed_events(bencher: Bencher) {
    bencher
        .counter(ItemsCount::new(EVENTS))
        .with_inputs(Emit::new)
        .bench_values(Emit::run);
}

#[divan::bench(args = [(500, 1), (500, 200)], sample_count = 10)]
fn a_look(bencher: Bencher, (services, subscriptions): (usize, usize)) {
    bencher
        .with_inputs(|| Look::at(services, subscriptions))
        .bench_values(Look::run);
}

#[divan::bench(args = [(500, 200)], sample_count = 10)]
fn a_state_asked_for(bencher: Bencher, (services, subscriptions): (usize, usize)) {
    bencher
        .with_inputs(|| Look::at(services, subscriptions))
        .bench_values(Look::asked);
}

#[divan::bench(sample_count = 10)]
fn a_part_of_a_state(bencher: Bencher) {
    bencher
        .with_inputs(|| Look::at(1, 2_000))
        .bench_values(Look::part);
}

#[divan::bench]
fn events_to_90_services_in_turn(bencher: Bencher) {
    bencher
        .counter(ItemsCount::new(EVENTS))
        .with_inputs(|| Intake::services(90))
        .bench_values(Intake::run);
}

#[divan::bench(args = [false, true])]
fn subjects_known(bencher: Bencher, known: bool) {
    bencher
        .counter(ItemsCount::new(1000usize))
        .with_inputs(|| Lookup::new(known))
        .bench_values(Lookup::run);
}

#[divan::bench(args = [4_000, 5_000, 100_000])]
fn subjects_known_of_many(bencher: Bencher, subjects: usize) {
    bencher
        .counter(ItemsCount::new(1000usize))
        .with_inputs(|| Lookup::of_many(subjects))
        .bench_values(Lookup::run);
}

#[divan::bench(args = [0, 100, 1_000])]
fn subjects_among_globs(bencher: Bencher, globs: u32) {
    bencher
        .counter(ItemsCount::new(1000usize))
        .with_inputs(|| Lookup::among_globs(globs, false))
        .bench_values(Lookup::run);
}

#[divan::bench(args = [4, 100])]
fn turns_among_workers(bencher: Bencher, workers: u32) {
    bencher
        .counter(ItemsCount::new(EVENTS))
        .with_inputs(|| Dispatch::new(workers))
        .bench_values(Dispatch::run);
}

#[divan::bench(args = [0, 10_000])]
fn subscribe_request(bencher: Bencher, patterns: usize) {
    bencher
        .with_inputs(|| Subscribe::beside(patterns))
        .bench_values(Subscribe::run);
}
