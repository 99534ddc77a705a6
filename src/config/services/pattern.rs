//! Which services an entry is for.

use std::cmp::Reverse;

use event_manager_wire::model::{InvalidName, ServiceName};

/// A service's name, or a glob over names: `*` stands for any characters, also none, `?` for one.
/// Names have no words, so a dot is a character like others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NamePattern {
    Exact(ServiceName),
    Glob(ServiceName),
}

impl NamePattern {
    /// Takes the written form.
    ///
    /// # Errors
    /// What a service couldn't be called either.
    pub(super) fn new(written: &str) -> Result<Self, InvalidName> {
        let name = ServiceName::new(written)?;
        Ok(match written.contains(['*', '?']) {
            true => Self::Glob(name),
            false => Self::Exact(name),
        })
    }

    pub(super) fn as_name(&self) -> &ServiceName {
        match self {
            Self::Exact(name) | Self::Glob(name) => name,
        }
    }

    /// The name, if it is for one service alone.
    pub(super) fn exact(&self) -> Option<&ServiceName> {
        match self {
            Self::Exact(name) => Some(name),
            Self::Glob(_) => None,
        }
    }

    pub(super) fn matches(&self, name: &ServiceName) -> bool {
        match self {
            Self::Exact(own) => own == name,
            Self::Glob(glob) => {
                let glob: Vec<_> = glob.as_str().chars().collect();
                let name: Vec<_> = name.as_str().chars().collect();
                glob_matches(&glob, &name)
            }
        }
    }

    /// The more specific, the lower: exact names, then globs with more literal characters.
    pub(super) fn rank(&self) -> impl Ord + use<> {
        let literals = |glob: &ServiceName| {
            let literal = |character: &char| !matches!(character, '*' | '?');
            glob.as_str().chars().filter(literal).count()
        };
        match self {
            Self::Exact(_) => (0, Reverse(0)),
            Self::Glob(glob) => (1, Reverse(literals(glob))),
        }
    }
}

/// Matches in at most `glob × name` steps: only the latest star needs to be tried again.
fn glob_matches(glob: &[char], name: &[char]) -> bool {
    let (mut g, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match glob.get(g) {
            Some('*') => {
                g += 1;
                star = Some((g, n));
            }
            Some(&character) if character == '?' || character == name[n] => {
                g += 1;
                n += 1;
            }
            _ => {
                let Some((after_star, from)) = star else {
                    return false;
                };
                (g, n) = (after_star, from + 1);
                star = Some((g, n));
            }
        }
    }
    glob[g..].iter().all(|character| *character == '*')
}
