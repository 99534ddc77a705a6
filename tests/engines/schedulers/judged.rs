//! What the looks of all instances say, and what event managers say of the same.

use event_manager_wire::api::Turn;

use super::instance::{Look, Run};

const MS: u64 = 1_000_000;
/// For so long an instance may lead that has just started, and has heard nobody yet.
pub const START_MAX_MS: u64 = 1000;

/// From the first to the last look at which it led, without one between at which it didn't.
#[derive(Debug, Clone, Copy)]
pub struct Hold {
    pub machine: usize,
    pub begun_ns: u64,
    pub until_ns: u64,
}

/// All of an instance's, but for the first moments of each of its processes.
pub fn holds(machine: usize, runs: &[Run]) -> Vec<Hold> {
    let mut holds = Vec::<Hold>::new();
    for run in runs {
        let from = run.started_ns + START_MAX_MS * MS;
        let mut is_on = false;
        for look in run.looks.iter().filter(|look| look.at_ns >= from) {
            match holds.last_mut() {
                Some(hold) if look.leads && is_on => hold.until_ns = look.at_ns,
                _ if look.leads => holds.push(Hold {
                    machine,
                    begun_ns: look.at_ns,
                    until_ns: look.at_ns,
                }),
                _ => {}
            }
            is_on = look.leads;
        }
    }
    holds
}

/// Where two led at the same time: which ones, and for how many milliseconds.
pub fn together(holds: &[Hold]) -> Vec<(Hold, Hold, u64)> {
    let mut found = vec![];
    for (n, one) in holds.iter().enumerate() {
        for other in holds[n + 1..]
            .iter()
            .filter(|other| other.machine != one.machine)
        {
            let begun = one.begun_ns.max(other.begun_ns);
            let until = one.until_ns.min(other.until_ns);
            if begun <= until {
                found.push((*one, *other, (until - begun) / MS));
            }
        }
    }
    found
}

/// How long each process led that had just started.
pub fn starts_ms(runs: &[Run]) -> Vec<u64> {
    let led = |run: &Run| {
        let first = run.looks.iter().position(|look| look.leads)?;
        let end = run.looks[first..].iter().find(|look| !look.leads)?;
        let is_start = run.looks[first].at_ns < run.started_ns + START_MAX_MS * MS;
        let after = (end.at_ns - run.started_ns) / MS;
        // One that may lead goes on.
        (is_start && after < 10 * START_MAX_MS).then_some(after)
    };
    runs.iter().filter_map(led).collect()
}

/// A change of an instance, by its own looks.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    /// The last look before, and the first after it.
    pub between_ms: (u64, u64),
    pub leads: bool,
}

/// All changes of an instance but those of its first moments, from when it first did not lead.
pub fn changes(runs: &[Run]) -> Vec<Change> {
    let looks = |run: &Run| -> Vec<Look> {
        let from = run.started_ns + START_MAX_MS * MS;
        let after = run.looks.iter().filter(|look| look.at_ns >= from);
        after.copied().collect()
    };
    let all: Vec<_> = runs.iter().flat_map(looks).collect();
    let pairs = all.windows(2).filter(|two| two[0].leads != two[1].leads);
    let of = |two: &[Look]| Change {
        between_ms: (two[0].wall_ms, two[1].wall_ms),
        leads: two[1].leads,
    };
    pairs.map(of).collect()
}

/// Between two looks that should be a fiftieth of a second apart: the process stood still. What came meanwhile it
/// hears afterwards, all at once.
const STOOD_STILL_MS: u64 = 60;

/// From when to when it stood still, each time, in milliseconds since 1970.
pub fn stood_still(runs: &[Run]) -> Vec<(u64, u64)> {
    let looks = runs.iter().flat_map(|run| run.looks.windows(2));
    let gaps = looks.map(|two| (two[0].wall_ms, two[1].wall_ms));
    gaps.filter(|(from, to)| to - from > STOOD_STILL_MS)
        .collect()
}

/// Without turns that ended again while the instance stood still: it can't have written them down.
pub fn seen(history: &[Turn], stood_still: &[(u64, u64)]) -> Vec<Turn> {
    let mut seen = Vec::<Turn>::new();
    for turn in history {
        let within = |(from, to): &(u64, u64), at: u64| at >= *from && at <= *to;
        let undone = seen.last().is_some_and(|before| {
            let mut still = stood_still.iter();
            let both = still.any(|gap| within(gap, before.at_ms) && within(gap, turn.at_ms));
            both && (before.kind == "elected") != (turn.kind == "elected")
        });
        match undone {
            true => drop(seen.pop()),
            false => seen.push(turn.clone()),
        }
    }
    seen
}

/// How long after the event manager's time each change was, in milliseconds, by kind: begun to lead, ended.
#[derive(Debug, Default)]
pub struct Lags {
    pub begun: Vec<i64>,
    pub ended: Vec<i64>,
    /// Those of a time when the event manager was just killed: it writes down what it hears afterwards.
    pub restarted: Vec<i64>,
}

/// That the history of its event manager is what the instance did, change by change.
///
/// # Errors
/// Where they differ.
pub fn compare(
    changes: &[Change],
    history: &[Turn],
    restarts_ms: &[(u64, u64)],
    lags: &mut Lags,
) -> Result<(), String> {
    let kinds = history.iter().map(|turn| turn.kind == "elected");
    if !kinds.eq(changes.iter().map(|change| change.leads)) {
        return Err(format!(
            "{} changes by itself, {} turns: {changes:?} {history:?}",
            changes.len(),
            history.len()
        ));
    }
    for (change, turn) in changes.iter().zip(history) {
        let (before, after) = change.between_ms;
        // Between two looks it isn't known when it was; the later one is taken, so this is the most.
        let lag = match turn.at_ms >= before && turn.at_ms <= after {
            true => 0,
            false => after as i64 - turn.at_ms as i64,
        };
        let is_near = |(from, to): &(u64, u64)| turn.at_ms >= *from && turn.at_ms <= *to;
        match change.leads {
            _ if restarts_ms.iter().any(is_near) => lags.restarted.push(lag),
            true => lags.begun.push(lag),
            false => lags.ended.push(lag),
        }
    }
    Ok(())
}
