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
use parts::{Acknowledged, Dispatch, EVENTS, Intake, Lookup, Subscribe};

fn main() {
    Intake::fan(1, 64).run().check();
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

#[divan::bench(args = [4, 100])]
fn turns_among_workers(bencher: Bencher, workers: u32) {
    bencher
        .counter(ItemsCount::new(EVENTS))
        .with_inputs(|| Dispatch::new(workers))
        .bench_values(Dispatch::run);
}

#[divan::bench]
fn subscribe_request(bencher: Bencher) {
    bencher
        .with_inputs(Subscribe::new)
        .bench_values(Subscribe::run);
}
