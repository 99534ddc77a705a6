//! Who led when.

use std::collections::VecDeque;

/// The most changes that are kept.
pub const HISTORY_MAX: usize = 1000;

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnKind {
    /// It leads now.
    Elected,
    /// It ended, or another has a lower process id.
    Resigned,
    /// It led, and is not heard any more.
    Timeout,
    /// It led, and the fence has begun.
    Fenced,
}

impl TurnKind {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Elected => "elected",
            Self::Resigned => "resigned",
            Self::Timeout => "timeout",
            Self::Fenced => "fenced",
        }
    }

    /// From its name; what a later release writes is nothing here.
    pub fn from_name(name: &str) -> Option<Self> {
        let all = [Self::Elected, Self::Resigned, Self::Timeout, Self::Fenced];
        all.into_iter().find(|kind| kind.name() == name)
    }
}

/// A change of who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Grows with each change, over restarts too.
    pub number: u64,
    /// In milliseconds since 1970.
    pub at_ms: u64,
    pub instance: String,
    pub pid: Option<i64>,
    pub kind: TurnKind,
}

/// The latest changes.
#[derive(Debug, Default)]
pub(super) struct History {
    turns: VecDeque<Turn>,
    last: u64,
}

impl History {
    /// Those of an earlier run, by their numbers.
    pub(super) fn restore(turns: impl IntoIterator<Item = Turn>) -> Self {
        let mut turns: Vec<_> = turns.into_iter().collect();
        turns.sort_by_key(|turn| turn.number);
        let begin = turns.len().saturating_sub(HISTORY_MAX);
        let turns: VecDeque<_> = turns.drain(begin..).collect();
        Self {
            last: turns.back().map_or(0, |turn| turn.number),
            turns,
        }
    }

    pub(super) fn add(&mut self, at_ms: u64, instance: &str, pid: Option<i64>, kind: TurnKind) {
        self.last += 1;
        if self.turns.len() >= HISTORY_MAX {
            self.turns.pop_front();
        }
        self.turns.push_back(Turn {
            number: self.last,
            at_ms,
            instance: instance.to_owned(),
            pid,
            kind,
        });
    }

    /// The oldest first.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Turn> {
        self.turns.iter()
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }
}
