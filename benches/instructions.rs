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
use parts::{Acknowledged, Dispatch, Intake, Lookup, Subscribe};

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
#[bench::to_90_services_in_turn(args = (90), setup = Intake::services, config = budget(2_088_000), teardown = Intake::check)]
fn a_thousand_events(intake: Intake) -> Intake {
    intake.run()
}

#[library_benchmark]
#[bench::of_four_workers(args = (4), setup = Acknowledged::new, config = budget(1_340_000), teardown = drop)]
fn a_thousand_acknowledgements(acknowledged: Acknowledged) -> Acknowledged {
    acknowledged.run()
}

#[library_benchmark]
#[bench::new(args = (false), setup = Lookup::new, config = budget(34_930_000), teardown = drop)]
#[bench::known(args = (true), setup = Lookup::new, config = budget(338_700), teardown = drop)]
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
#[bench::of_two_subjects(setup = Subscribe::new, config = budget(19_600), teardown = drop)]
fn a_subscribe_request(subscribe: Subscribe) -> Subscribe {
    subscribe.run()
}

library_benchmark_group!(
    name = hot_paths,
    benchmarks = [
        a_thousand_events,
        a_thousand_acknowledgements,
        a_thousand_subjects,
        a_thousand_turns,
        a_subscribe_request
    ]
);
main!(library_benchmark_groups = hot_paths);
