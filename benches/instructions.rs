//! How many instructions the hot paths take: `just instructions`, which needs valgrind.
//!
//! Counts don't depend on what else the machine does, so they may fail a build: each has a limit,
//! a tenth above what was counted when it was set. A change that costs more has to say why, and to
//! raise it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a bench"
)]

mod parts;

use gungraun::prelude::*;
use gungraun::{Callgrind, EventKind};
use parts::{
    Acknowledged, Dispatch, Durable, Emit, Intake, Look, Lookup, ReadBack, Subscribe, Worked,
};

/// Fails above a tenth more than `counted` instructions.
fn budget(counted: u64) -> LibraryBenchmarkConfig {
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(Callgrind::default().hard_limits([(EventKind::Ir, counted + counted / 10)]));
    config
}

#[library_benchmark]
#[bench::to_one(args = (1, 64), setup = Intake::fan, config = budget(43_700), teardown = Intake::check)]
#[bench::to_eight(args = (8, 64), setup = Intake::fan, config = budget(49_300), teardown = Intake::check)]
#[bench::to_one_of_1_kib(args = (1, 1024), setup = Intake::fan, config = budget(44_100), teardown = Intake::check)]
#[bench::to_four_workers(args = (4), setup = Intake::workers, config = budget(214_900), teardown = Intake::check)]
#[bench::to_four_acknowledging_workers(args = (4), setup = Intake::acknowledging, config = budget(1_825_000), teardown = Intake::check)]
#[bench::to_90_services_in_turn(args = (90), setup = Intake::services, config = budget(1_912_000), teardown = Intake::check)]
fn a_thousand_events(intake: Intake) -> Intake {
    intake.run()
}

#[library_benchmark]
#[bench::of_four_workers(args = (4), setup = Acknowledged::new, config = budget(1_340_000), teardown = drop)]
fn a_thousand_acknowledgements(acknowledged: Acknowledged) -> Acknowledged {
    acknowledged.run()
}

#[library_benchmark]
#[bench::in_no_order(args = (false), setup = Worked::new, config = budget(5_127_000), teardown = drop)]
#[bench::by_subject(args = (true), setup = Worked::new, config = budget(7_438_000), teardown = drop)]
fn a_thousand_events_worked(worked: Worked) -> Worked {
    worked.run()
}

#[library_benchmark]
#[bench::of_one_service(args = (1), setup = Durable::of, config = budget(4_592_000), teardown = drop)]
#[bench::each_of_another_of_20(args = (20), setup = Durable::of, config = budget(7_211_000), teardown = drop)]
fn a_thousand_durable_events(durable: Durable) -> Durable {
    durable.run()
}

#[library_benchmark]
#[bench::of_one_log(setup = ReadBack::new, config = budget(1_232_000), teardown = drop)]
fn a_thousand_events_read_back(log: ReadBack) -> ReadBack {
    log.run()
}

#[library_benchmark]
#[bench::in_memory(setup = Emit::new, config = budget(12_410_000), teardown = Emit::check)]
fn a_thousand_confirmed_events(emit: Emit) -> Emit {
    emit.run()
}

#[library_benchmark]
#[bench::at_500_services(args = (500, 1), setup = Look::at, config = budget(4_034_000), teardown = drop)]
#[bench::at_500_services_with_100_000_subscriptions(args = (500, 200), setup = Look::at, config = budget(5_190_000), teardown = drop)]
fn a_look(look: Look) -> Look {
    look.run()
}

#[library_benchmark]
#[bench::of_100_000_subscriptions(args = (500, 200), setup = Look::at, config = budget(5_085_000), teardown = drop)]
fn a_state_asked_for(look: Look) -> Look {
    look.asked()
}

#[library_benchmark]
#[bench::of_2000_subscriptions(args = (1, 2_000), setup = Look::at, config = budget(2_892_000), teardown = drop)]
fn a_part_of_a_state(look: Look) -> Look {
    look.part()
}

#[library_benchmark]
#[bench::new(args = (false), setup = Lookup::new, config = budget(6_793_000), teardown = drop)]
#[bench::known(args = (true), setup = Lookup::new, config = budget(209_700), teardown = drop)]
#[bench::known_of_4000(args = (4_000), setup = Lookup::of_many, config = budget(174_500), teardown = drop)]
#[bench::known_of_100_000(args = (100_000), setup = Lookup::of_many, config = budget(328_700), teardown = drop)]
#[bench::among_no_globs(args = (0, false), setup = Lookup::among_globs, config = budget(3_821_000), teardown = drop)]
#[bench::among_1000_globs(args = (1_000, false), setup = Lookup::among_globs, config = budget(5_960_000), teardown = drop)]
#[bench::among_1000_deep_globs(args = (1_000, true), setup = Lookup::among_globs, config = budget(6_641_000), teardown = drop)]
fn a_thousand_subjects(lookup: Lookup) -> Lookup {
    lookup.run()
}

#[library_benchmark]
#[bench::among_4(args = (4), setup = Dispatch::new, config = budget(376_300), teardown = drop)]
#[bench::among_100(args = (100), setup = Dispatch::new, config = budget(528_100), teardown = drop)]
fn a_thousand_turns(dispatch: Dispatch) -> Dispatch {
    dispatch.run()
}

#[library_benchmark]
#[bench::of_two_subjects(args = (0), setup = Subscribe::beside, config = budget(19_600), teardown = drop)]
#[bench::beside_10_000_patterns(args = (10_000), setup = Subscribe::beside, config = budget(28_890), teardown = drop)]
fn a_subscribe_request(subscribe: Subscribe) -> Subscribe {
    subscribe.run()
}

library_benchmark_group!(
    name = hot_paths,
    benchmarks = [
        a_thousand_events,
        a_thousand_acknowledgements,
        a_thousand_events_worked,
        a_thousand_durable_events,
        a_thousand_events_read_back,
        a_thousand_confirmed_events,
        a_look,
        a_state_asked_for,
        a_part_of_a_state,
        a_thousand_subjects,
        a_thousand_turns,
        a_subscribe_request
    ]
);
main!(library_benchmark_groups = hot_paths);
