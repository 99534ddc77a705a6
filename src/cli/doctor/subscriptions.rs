//! Subscriptions: prefixes that catch more than they say, and leases that nobody keeps.

use std::collections::{BTreeMap, BTreeSet};

use super::finding::{Code, Finding, Severity};
use event_manager_wire::api::{ServiceStatus, Status};
use event_manager_wire::model::{Dialect, SubjectPattern};

/// Subjects that a finding names.
const NAMED_MAX: usize = 3;

/// All findings about subscriptions.
pub(super) fn check(status: &Status) -> Vec<Finding> {
    let ttl = status.subscription_ttl_seconds;
    let mut found = wide_prefixes(&status.services);
    let expiring = status.services.iter();
    found.extend(expiring.flat_map(|service| near_expiry(service, ttl)));
    found
}

/// How a prefix goes on in a longer subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Continuation {
    /// With a new word: that is what prefixes are for.
    Word,
    /// In the middle of a word.
    Letters,
    /// In the middle of a number.
    Digits,
}

fn continuation(prefix: &str, subject: &str) -> Continuation {
    let last = prefix.chars().next_back();
    let next = subject
        .get(prefix.len()..)
        .and_then(|rest| rest.chars().next());
    match (last, next) {
        (Some(last), Some(next)) if last.is_ascii_digit() && next.is_ascii_digit() => {
            Continuation::Digits
        }
        (Some(last), Some(next)) if last.is_alphanumeric() && next.is_alphanumeric() => {
            Continuation::Letters
        }
        _ => Continuation::Word,
    }
}

/// What every subject that a pattern asks for begins with.
fn beginning(pattern: &SubjectPattern) -> &str {
    let text = pattern.text();
    match pattern.dialect() {
        Dialect::Glob => text.split(['*', '?']).next().unwrap_or_default(),
        Dialect::Prefix | Dialect::Exact => text,
    }
}

fn wide_prefixes(services: &[ServiceStatus]) -> Vec<Finding> {
    let mut subjects: BTreeSet<String> = BTreeSet::new();
    let mut prefixes: BTreeMap<String, &str> = BTreeMap::new();
    for service in services {
        for written in &service.subjects {
            let Ok(pattern) = SubjectPattern::parse(written, usize::MAX) else {
                continue;
            };
            subjects.insert(beginning(&pattern).to_owned());
            if pattern.dialect() == Dialect::Prefix && !pattern.text().is_empty() {
                prefixes.insert(pattern.text().to_owned(), &service.name);
            }
        }
    }
    let finding = |(prefix, service): (&String, &&str)| wide_prefix(prefix, service, &subjects);
    prefixes.iter().filter_map(finding).collect()
}

fn wide_prefix(prefix: &str, service: &str, subjects: &BTreeSet<String>) -> Option<Finding> {
    let longer = subjects
        .range(prefix.to_owned()..)
        .take_while(|subject| subject.starts_with(prefix));
    let mut caught: Vec<_> = longer
        .map(|subject| (continuation(prefix, subject), subject))
        .filter(|(how, _)| *how != Continuation::Word)
        .take(NAMED_MAX + 1)
        .collect();
    caught.sort_by_key(|(how, _)| std::cmp::Reverse(*how));
    let severity = match caught.first()?.0 {
        Continuation::Digits => Severity::Warning,
        Continuation::Letters | Continuation::Word => Severity::Note,
    };
    let more = if caught.len() > NAMED_MAX {
        " and others"
    } else {
        ""
    };
    let names: Vec<_> = caught
        .iter()
        .take(NAMED_MAX)
        .map(|(_, subject)| format!("{subject:?}"))
        .collect();
    Some(Finding::new(
        severity,
        Code::WidePrefix,
        service,
        format!(
            "the subject {prefix:?} is a prefix: it also matches {}{more}",
            names.join(", ")
        ),
        format!(
            "if that is not intended, subscribe to \"exact:{prefix}\", or \"glob:{prefix}.**\" for what is below it"
        ),
    ))
}

fn near_expiry(service: &ServiceStatus, ttl: f64) -> Vec<Finding> {
    let subscriptions = service.subscriptions.iter();
    subscriptions
        .map(|subscription| (&subscription.id, subscription.expires_in_seconds))
        .filter(|(_, left)| *left < ttl / 3.0)
        .map(|(id, left)| {
            Finding::new(
                Severity::Warning,
                Code::NearExpiry,
                &service.name,
                format!("subscription {id:?} expires in {left:.1} s of {ttl:.0} s: no KEEP_ALIVE arrives"),
                format!("let its client send KEEP_ALIVE every {:.1} s, or set \"subscriptionTtl\" to more than {ttl}", ttl / 3.0),
            )
        })
        .collect()
}
