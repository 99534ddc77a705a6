//! Rights against models that are as naive as they can be.

use std::env;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};

use super::*;

const BYTES_MAX: usize = 12;

/// Random cases for each property; a long run has a million.
fn cases() -> u32 {
    let set = env::var("EVENT_MANAGER_RIGHTS_CASES").ok();
    set.map_or(7_000, |set| set.parse().expect("a number"))
}

/// Runs a property from a seed that is printed, or that was given.
fn check<S: Strategy>(strategy: &S, property: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let given = env::var("EVENT_MANAGER_RIGHTS_SEED").ok();
    let seed = given.map_or_else(
        || u64::from(std::process::id()) << 20 ^ 0x9E37_79B9,
        |given| given.parse().expect("a number"),
    );
    println!("EVENT_MANAGER_RIGHTS_SEED={seed}, {} cases", cases());
    let mut runner = TestRunner::new(Config {
        cases: cases(),
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..Config::default()
    });
    runner.run(strategy, property).expect("the property holds");
}

fn pattern(written: &str) -> SubjectPattern {
    SubjectPattern::parse(written, 255).expect("a pattern")
}

fn subjects(written: &[String]) -> Subjects {
    written.iter().map(|text| pattern(text)).collect()
}

/// How patterns are written, and what they mean.
fn means(written: &str, subject: &str) -> bool {
    match written.split_once(':') {
        Some(("exact", text)) => subject == text,
        Some(("glob", text)) => glob(text.as_bytes(), subject.as_bytes()),
        Some(("prefix", text)) => subject.starts_with(text),
        _ => subject.starts_with(written),
    }
}

fn glob(pattern: &[u8], subject: &[u8]) -> bool {
    match pattern {
        [] => subject.is_empty(),
        [b'*', b'*', rest @ ..] => (0..=subject.len()).any(|n| glob(rest, &subject[n..])),
        [b'*', rest @ ..] => (0..=subject.len())
            .take_while(|&n| !subject[..n].contains(&b'.'))
            .any(|n| glob(rest, &subject[n..])),
        [b'?', rest @ ..] => {
            subject.first().is_some_and(|&b| b != b'.') && glob(rest, &subject[1..])
        }
        [byte, rest @ ..] => subject.first() == Some(byte) && glob(rest, &subject[1..]),
    }
}

fn written() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[ab.]{0,4}",
        2 => "exact:[ab.]{1,6}",
        3 => "glob:[ab.*?]{1,6}",
        2 => "glob:[ab.]{0,4}\\*\\*",
        1 => "prefix:[ab.]{0,4}",
    ]
}

fn lists() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(written(), 0..5)
}

#[test]
fn subjects_are_those_that_a_pattern_means() {
    check(&(lists(), "[ab.]{0,20}"), |(list, subject)| {
        let rights = subjects(&list);
        let is_whole = subject.len() <= BYTES_MAX;
        // Of a longer one nobody knows how it ends.
        let begin = &subject[..subject.len().min(BYTES_MAX + 1)];
        let allowed = list.iter().any(|text| match text.split_once(':') {
            Some(("exact", _)) => is_whole && means(text, begin),
            Some(("glob", glob)) => {
                let is_prefix = glob
                    .strip_suffix("**")
                    .is_some_and(|head| !head.contains(['*', '?']));
                (is_whole || is_prefix) && means(text, begin)
            }
            _ => means(text, begin),
        });
        prop_assert_eq!(rights.have(begin.as_bytes(), BYTES_MAX), allowed);
        Ok(())
    });
}

/// Whoever may have a pattern may have each subject that it matches; and what is plain is seen.
#[test]
fn what_is_covered_is_allowed() {
    let strategy = (lists(), written(), "[ab.]{0,12}");
    check(&strategy, |(list, asked, subject)| {
        let rights = subjects(&list);
        let covers = rights.cover(&pattern(&asked));
        if covers && means(&asked, &subject) {
            prop_assert!(list.iter().any(|text| means(text, &subject)));
        }
        if list.contains(&asked) {
            prop_assert!(covers, "itself");
        }
        if let Some(text) = asked.strip_prefix("exact:") {
            prop_assert_eq!(covers, list.iter().any(|allowed| means(allowed, text)));
        }
        Ok(())
    });
}

/// Whoever subscribes to a prefix of which it may get something is not told that it gets nothing.
#[test]
fn what_may_be_heard_is_seen() {
    let strategy = (lists(), "[ab.]{0,6}", "[ab.]{0,6}");
    check(&strategy, |(list, prefix, rest)| {
        let subject = prefix.clone() + &rest;
        if list.iter().any(|text| means(text, &subject)) {
            prop_assert!(subjects(&list).may_begin_with(prefix.as_bytes()));
        }
        Ok(())
    });
    let order = subjects(&["order.".into(), "exact:invoice".into(), "glob:a.*".into()]);
    for (prefix, heard) in [
        ("", true),
        ("order", true),
        ("order.x", true),
        ("inv", true),
        ("invoice.", false),
        ("a.b", true),
        ("b", false),
    ] {
        assert_eq!(order.may_begin_with(prefix.as_bytes()), heard, "{prefix}");
    }
}

#[test]
fn names_of_services_end_with_a_star() {
    let strategy = (
        proptest::collection::vec("([A-C]{1,3}\\*?|\\*)", 0..4),
        "[A-C]{1,4}",
    );
    check(&strategy, |(list, name)| {
        let patterns = list.iter().map(|text| NamePattern::parse(text));
        let names: ServiceNames = patterns.map(|parsed| parsed.expect("a name")).collect();
        let allowed = list.iter().any(|text| match text.strip_suffix('*') {
            Some(begin) => name.starts_with(begin),
            None => name == *text,
        });
        prop_assert_eq!(names.have(&name), allowed);
        Ok(())
    });
}

#[test]
fn plain_words() {
    let order = subjects(&["order.".into(), "exact:invoice".into()]);
    for (subject, allowed) in [
        ("order.created", true),
        ("order", false),
        ("invoice", true),
        ("invoice.paid", false),
        ("", false),
    ] {
        assert_eq!(order.have(subject.as_bytes(), 255), allowed, "{subject}");
    }
    for (asked, covered) in [
        ("order.", true),
        ("order.created", true),
        ("order", false),
        ("", false),
        ("glob:order.*", true),
        ("glob:order*", false),
        ("glob:**", false),
        ("exact:order.x", true),
        ("exact:invoice", true),
        ("glob:invoice", true),
        ("invoice", false),
    ] {
        assert_eq!(order.cover(&pattern(asked)), covered, "{asked}");
    }
    assert_eq!(subjects(&["a".into(), String::new()]), Subjects::All);
    assert_eq!(subjects(&["glob:**".into()]), Subjects::All);
    assert!(!subjects(&[]).have(b"", 255));
}

#[test]
fn wrong_names_are_refused() {
    let why = |written| {
        NamePattern::parse(written)
            .expect_err("it is wrong")
            .to_string()
    };
    assert!(why("A*B").contains("only at the end"));
    assert!(why("").contains("the name \"\""));
    assert!(why("A\0").contains("the name"));
    assert_eq!(
        NamePattern::parse("Billing-*")
            .expect("it is right")
            .to_string(),
        "Billing-*"
    );
}

#[test]
fn requests_are_usual_or_named() {
    let may =
        |kinds: &RequestKinds, name: &str| kinds.have(request_named(name).expect("a request"));
    for name in [
        "subscribe",
        "keep-alive",
        "EMIT",
        "publish",
        "register",
        "locate",
    ] {
        assert!(may(&RequestKinds::Usual, name), "{name}");
    }
    for name in ["dlq", "end", "status", "events", "list"] {
        assert!(!may(&RequestKinds::Usual, name), "{name}");
    }
    let only = RequestKinds::Only([Token::SUBSCRIBE, Token::END].into());
    for (name, allowed) in [
        ("subscribe", true),
        ("keep_alive", true),
        ("unsubscribe", true),
        ("end", true),
        ("emit", false),
        ("locate", true),
        ("dlq", false),
    ] {
        assert_eq!(may(&only, name), allowed, "{name}");
    }
    // Of another priority it is the same request.
    assert!(!RequestKinds::Usual.have(Token::from_value(0xF020_0102)));
    assert!(only.have(Token::from_value(0xF020_0102)));
    assert!(request_names().all(|name| request_named(&name).is_some()));
    assert_eq!(request_named("ack"), None);
}
