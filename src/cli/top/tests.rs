use std::time::{Duration, Instant};

use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::{Value, json};

use super::super::output::safe;
use super::state::{Mode, Sort, Top};
use super::table::{cut, width_of};
use super::view::{plain, render};
use crate::ambient::now;

/// As STATUS shows a service.
fn service(name: &str, matched: u64, delivered: u64, dropped: Value) -> Value {
    let all: u64 = dropped
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, n)| n.as_u64())
        .sum();
    json!({
        "name": name, "port": 5002, "subjects": ["Order", ""],
        "workers": {"connected": 3, "ready": 2, "stalled": 1, "named": [
            {"name": "till-1"}, {"client": "lib/1"}, {"client": "lib/1"}, {"name": "b\u{202e}", "client": "lib/1"},
        ]},
        "durable": {"onDiskOnlyEvents": 7},
        "counters": {
            "matched": matched, "delivered": delivered, "queued": matched - delivered - all - 5,
            "inFlight": 3, "deadLettered": 2, "expired": 0, "dropped": dropped,
        },
    })
}

fn status(started_at_ms: u64, uptime: f64, published: u64, services: &[Value]) -> Value {
    json!({
        "service": "EventManager", "version": "1.2.3",
        "startedAtMs": started_at_ms, "uptimeSeconds": uptime, "draining": false,
        "publishers": {"connected": 4, "events": published},
        "subscribers": {"connected": 5, "subscriptions": 6,
            "counters": {"matched": published, "delivered": published, "dropped": {}}},
        "connections": {"open": 17, "max": 989},
        "services": services,
        "peers": {"slow": [
            {"address": "10.0.0.1:77", "role": "worker", "service": "Billing", "bytes": 600, "budgetBytes": 1000},
        ]},
    })
}

/// What was asked at these times, in seconds.
fn top_of(answers: &[(u64, Result<Value, &str>)]) -> (Top, Instant) {
    let begun = now();
    let mut top = Top::new("tcp://here:5101".into());
    let mut at = begun;
    for (seconds, answer) in answers {
        at = begun + Duration::from_secs(*seconds);
        let answer = match answer {
            Ok(status) => Ok(serde_json::from_value(status.clone()).unwrap()),
            Err(why) => Err((*why).to_owned()),
        };
        top.observe(at, answer);
    }
    (top, at)
}

fn screen(top: &Top, at: Instant, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| render(frame, top, at)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let line = |y| -> String { (0..width).map(|x| buffer[(x, y)].symbol()).collect() };
    (0..height).map(|y| line(y).trim_end().to_owned()).collect()
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

fn line_with<'a>(lines: &'a [String], text: &str) -> &'a str {
    let line = lines.iter().find(|line| line.contains(text));
    line.unwrap_or_else(|| panic!("no {text:?}: {lines:#?}"))
}

fn press(top: &mut Top, keys: &str) {
    for key in keys.chars() {
        assert!(top.key(KeyEvent::from(KeyCode::Char(key))));
    }
}

fn names(top: &Top) -> Vec<&str> {
    top.rows().iter().map(|row| &*row.service.name).collect()
}

#[test]
fn a_mesh_has_a_line_of_its_own() {
    let with_mesh = |uptime: f64, came: u64, went: u64| {
        let mut status = status(1, uptime, 0, &[]);
        status["mesh"] = json!({
            "eventsSent": went,
            "links": [{"connected": true, "events": came}, {"connected": false, "events": 5}],
            "hubs": [{}],
        });
        status
    };
    let answers = [
        (0, Ok(with_mesh(10.0, 100, 0))),
        (9, Ok(with_mesh(12.0, 300, 50))),
    ];
    let (top, at) = top_of(&answers);
    let line = "mesh 1 of 2 linked: 100/s   hubs 1: 25/s";
    assert_eq!(screen(&top, at, 100, 24)[3], line);
}

/// A bridge out with its service, and one that brings events in.
fn with_bridges(uptime: f64, events: u64, state: &str, problem: Value) -> Value {
    let mut of_bridge = service("bridge.orders", 20, 5, json!({}));
    of_bridge["counters"] = json!({"queued": 7, "inFlight": 3});
    let mut status = status(1, uptime, 0, &[of_bridge]);
    status["bridges"] = json!([
        {"name": "orders", "engine": "main", "direction": "out", "state": state, "problem": problem, "events": events},
        {"name": "stock", "engine": "main", "direction": "in", "state": "running", "events": 2 * events},
    ]);
    status
}

#[test]
fn bridges_have_a_line_each() {
    let why = json!("no stream takes\u{1b} it");
    let answers = [
        (0, Ok(with_bridges(10.0, 100, "running", Value::Null))),
        (9, Ok(with_bridges(12.0, 300, "failing", why))),
    ];
    let (top, at) = top_of(&answers);
    let lines = [
        "bridge orders → main: failing, 100/s, 10 waiting; no stream takes\u{fffd} it",
        "bridge stock ← main: running, 200/s",
    ];
    assert_eq!(screen(&top, at, 100, 24)[3..5], lines);
    let text = plain(&top, at);
    assert_eq!(text.lines().skip(3).take(2).collect::<Vec<_>>(), lines);
}

#[test]
fn of_many_bridges_those_that_do_not_work_are_shown() {
    let bridge = |n: u64| {
        json!({"name": format!("b{n}"), "engine": "main", "direction": "out",
        "state": if n == 8 { "connecting" } else { "running" }})
    };
    let mut status = status(1, 10.0, 0, &[]);
    status["bridges"] = (0..9).map(bridge).collect();
    let (top, at) = top_of(&[(0, Ok(status))]);
    let lines = screen(&top, at, 100, 24);
    assert_eq!(lines[3], "bridge b8 → main: connecting, -/s");
    assert_eq!(lines[8], "and 4 bridges more");
    assert_eq!(plain(&top, at).matches("bridge b").count(), 9);
}

#[test]
fn figures_are_those_of_the_status_and_rates_those_between_two() {
    let before = status(
        1,
        10.0,
        100,
        &[service("Billing", 1000, 500, json!({"queue-full": 10}))],
    );
    let dropped = json!({"queue-full": 34, "expired": 1});
    let after = status(1, 12.0, 500, &[service("Billing", 2001, 503, dropped)]);
    let (top, at) = top_of(&[(0, Ok(before)), (9, Ok(after))]);
    let lines = screen(&top, at, 140, 24);
    assert_eq!(lines[0], "EventManager 1.2.3 at tcp://here:5101: up 12 s");
    assert_eq!(
        lines[1],
        "publishers 4: 200/s   subscribers 5: 200/s, drop/s 0"
    );
    assert_eq!(
        lines[2],
        "services 1: 1.5/s   connections 17 of 989   subscriptions 6"
    );
    let row = words(line_with(&lines, "Billing  "));
    let lag = (2001 - 503 - 35 - 5).to_string();
    assert_eq!(
        row,
        [
            "Billing",
            "500",
            "1.5",
            &lag,
            "7",
            "3",
            "2/3",
            "1",
            "stalled",
            "2",
            "35",
            "12",
            "queue-full,expired"
        ]
    );
    assert_eq!(
        line_with(&lines, "10.0.0.1"),
        "worker Billing 10.0.0.1:77: 600 of 1000 bytes queued"
    );
    let foot = &lines[23];
    assert!(
        foot.contains("Billing: port 5002, subjects Order (all), expired 1, queue-full 34, workers b\u{fffd}, lib/1 ×2, till-1"),
        "{foot}"
    );
    let text = plain(&top, at);
    assert_eq!(words(text.lines().nth(4).unwrap()), row);
    assert!(text.contains("slow: worker Billing 10.0.0.1:77: 600 of 1000 bytes queued\n"));
}

#[test]
fn nothing_is_known_of_rates_at_first_and_after_a_restart() {
    let billing = |matched, delivered| service("Billing", matched, delivered, json!({}));
    let rates = |answers: &[Value]| {
        let answers: Vec<_> = (0..).zip(answers.iter().cloned().map(Ok)).collect();
        let (top, at) = top_of(&answers);
        let lines = screen(&top, at, 140, 24);
        let row = words(line_with(&lines, "2/3")).into_iter();
        row.skip(1).take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let first = status(1, 10.0, 100, &[billing(100, 50)]);
    assert_eq!(rates(std::slice::from_ref(&first)), ["-", "-"]);
    let second = status(1, 11.0, 100, &[billing(102, 51)]);
    assert_eq!(rates(&[first.clone(), second.clone()]), ["2.0", "1.0"]);
    // The daemon was started again, and has been running for longer than we saw it before.
    let restarted = status(2, 30.0, 100, &[billing(200, 100)]);
    assert_eq!(rates(&[first.clone(), restarted.clone()]), ["-", "-"]);
    let on = status(2, 31.0, 100, &[billing(201, 100)]);
    assert_eq!(rates(&[first.clone(), restarted, on]), ["1.0", "0"]);
    // The service ended and came again.
    let anew = status(1, 11.0, 100, &[billing(30, 20)]);
    assert_eq!(rates(&[first, anew]), ["-", "-"]);
}

#[test]
fn a_daemon_that_is_gone_is_said_to_be_and_what_it_said_stays() {
    let first = || {
        Ok(status(
            1,
            10.0,
            100,
            &[service("Billing", 100, 50, json!({}))],
        ))
    };
    let (top, at) = top_of(&[
        (0, first()),
        (4, Err("no event manager answers at tcp://here:5101")),
    ]);
    let lines = screen(&top, at, 120, 24);
    assert_eq!(
        lines[3],
        "no event manager answers at tcp://here:5101; trying again; the figures are 4 s old"
    );
    assert_eq!(words(line_with(&lines, "2/3"))[..3], ["Billing", "-", "-"]);
    assert!(!plain(&top, at).contains("Billing"));
    let (top, at) = top_of(&[(0, Err("gone")), (1, first())]);
    assert!(
        screen(&top, at, 120, 24)
            .iter()
            .all(|line| !line.contains("gone"))
    );
    let (top, at) = top_of(&[(0, Err("gone"))]);
    assert_eq!(
        plain(&top, at),
        "event-manager top: tcp://here:5101\ngone; trying again\n\n"
    );
}

fn three() -> Top {
    let services = [
        service("alpha", 100, 10, json!({})),
        service("Beta", 300, 20, json!({"queue-full": 1})),
        service("gamma", 200, 30, json!({})),
    ];
    top_of(&[(0, Ok(status(1, 1.0, 0, &services)))]).0
}

#[test]
fn keys_sort_filter_and_mark() {
    let mut top = three();
    assert_eq!(names(&top), ["Beta", "alpha", "gamma"]);
    press(&mut top, "r");
    assert_eq!(names(&top), ["gamma", "alpha", "Beta"]);
    press(&mut top, "rsss");
    assert_eq!(
        (top.sort, names(&top)),
        (Sort::Lag, vec!["Beta", "gamma", "alpha"])
    );
    press(&mut top, "jj");
    assert_eq!(top.selected(&top.rows()), Some(2));
    press(&mut top, "jk");
    // The mark stays with its service.
    press(&mut top, "r");
    assert_eq!(
        (names(&top)[1], top.selected(&top.rows())),
        ("gamma", Some(1))
    );
    press(&mut top, "/AMMq");
    assert_eq!((top.mode, names(&top).len()), (Mode::Filter, 0));
    top.key(KeyEvent::from(KeyCode::Backspace));
    top.key(KeyEvent::from(KeyCode::Enter));
    assert_eq!(names(&top), ["gamma"]);
    top.key(KeyEvent::from(KeyCode::Esc));
    assert_eq!(names(&top).len(), 3);
    press(&mut top, "/x");
    top.key(KeyEvent::from(KeyCode::Esc));
    assert_eq!((top.mode, names(&top).len()), (Mode::List, 3));
    press(&mut top, "sssss");
    assert_eq!(top.sort, Sort::Name);
}

#[test]
fn help_is_shown_and_keys_end_it() {
    let mut top = three();
    press(&mut top, "?");
    assert!(screen(&top, now(), 80, 24)[0].starts_with("up, down"));
    press(&mut top, "q");
    assert!(screen(&top, now(), 80, 24)[0].starts_with("EventManager"));
    assert!(!top.key(KeyEvent::from(KeyCode::Char('q'))));
    for before in ["", "/", "?"] {
        let mut top = three();
        press(&mut top, before);
        let key = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert!(!top.key(key), "Ctrl-C after {before:?}");
    }
}

#[test]
fn a_narrow_screen_keeps_what_matters_most() {
    let mut top = three();
    let lines = screen(&top, now(), 40, 10);
    assert_eq!(words(&lines[3])[..3], ["SERVICE", "IN/S", "OUT/S"]);
    assert!(
        words(line_with(&lines, "alpha")).contains(&"85"),
        "{lines:#?}"
    );
    for mode in [Mode::List, Mode::Filter, Mode::Help] {
        top.mode = mode;
        let widths = [0, 1, 2, 9, 10, 11, 17, 25, 33, 40, 44];
        for (width, height) in widths
            .into_iter()
            .flat_map(|w| [0, 1, 2, 3, 5, 17].map(|h| (w, h)))
        {
            screen(&top, now(), width, height);
        }
    }
}

#[test]
fn long_names_and_many_reasons_leave_room_for_each_other() {
    let name = "a-service-with-a-rather-long-name";
    let reasons = json!({"queue-full": 9, "memory-limit": 8, "store-failed": 7, "too-late": 6});
    let before = status(1, 1.0, 0, &[service(name, 100, 10, json!({}))]);
    let after = status(1, 2.0, 0, &[service(name, 200, 20, reasons)]);
    let (top, at) = top_of(&[(0, Ok(before)), (1, Ok(after))]);
    let lines = screen(&top, at, 80, 24);
    let row = line_with(&lines, "a-service-with-a-ra");
    assert!(row.contains("30 queue-full,memory-limit"), "{row}");
    let text = plain(&top, at);
    assert!(text.contains(name), "{text}");
    assert!(
        text.contains("30 queue-full,memory-limit,store-failed,too-late\n"),
        "{text}"
    );
}

#[test]
fn ninety_services_scroll_with_the_mark() {
    let services: Vec<_> = (0..90)
        .map(|n| service(&format!("service-{n:02}"), 100 + n, 1, json!({})))
        .collect();
    let (mut top, at) = top_of(&[(0, Ok(status(1, 1.0, 0, &services)))]);
    assert!(line_with(&screen(&top, at, 80, 24), "service-00").contains("94"));
    top.key(KeyEvent::from(KeyCode::End));
    let lines = screen(&top, at, 80, 24);
    assert!(line_with(&lines, "service-89").contains("183"));
    assert!(lines.iter().all(|line| !line.contains("service-00")));
    top.key(KeyEvent::from(KeyCode::PageUp));
    assert_eq!(top.selected(&top.rows()), Some(79));
    assert_eq!(
        plain(&top, at)
            .lines()
            .filter(|l| l.contains("service-"))
            .count(),
        90
    );
}

#[test]
fn names_can_not_harm_the_screen() {
    let hostile =
        "\u{1b}[2J\r\n\u{202e}台所台所台所台所台所台所台所台所台所台所台所台所台所台所台所";
    let services = [
        service(hostile, 100, 10, json!({"\u{7}x": 1})),
        service("Billing", 10, 1, json!({})),
    ];
    let (top, at) = top_of(&[(0, Ok(status(1, 1.0, 0, &services)))]);
    for width in [20, 40, 81, 140] {
        let lines = screen(&top, at, width, 24);
        assert!(
            lines
                .iter()
                .all(|line| !line.contains(['\u{1b}', '\u{202e}', '\u{7}']))
        );
    }
    let text = plain(&top, at);
    assert!(
        text.chars().all(|c| c == '\n' || !c.is_control()),
        "{text:?}"
    );
    // The next column begins at the same cell in each line.
    let ends: Vec<_> = text
        .lines()
        .filter_map(|line| Some(width_of(&line[..line.find("2/3")?])))
        .collect();
    assert_eq!(ends.len(), 2);
    assert_eq!(ends[0], ends[1], "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_text_is_cut_to_its_width(text in "\\PC{0,30}", width in 0..20usize) {
        let text = safe(&text);
        let cut = cut(&text, width);
        prop_assert!(width_of(&cut) <= width, "{cut:?}");
        let whole = cut.strip_suffix('…').unwrap_or(&cut);
        prop_assert!(text.starts_with(whole));
    }

    /// Whatever is answered, no rate is negative and nothing panics.
    #[test]
    fn rates_are_never_negative(
        answers in prop::collection::vec((1..3u64, 0..100u64, 0..1000u64, 0..100u64), 1..8),
    ) {
        let answers: Vec<_> = answers
            .into_iter()
            .map(|(run, uptime, events, dropped)| {
                let billing = service("Billing", events + dropped + 5, events, json!({"x": dropped}));
                (uptime, Ok(status(run, uptime as f64, events, &[billing])))
            })
            .collect();
        let (top, at) = top_of(&answers);
        if let Some(rates) = &top.rates {
            let all = rates.services.values().chain([&rates.plain]);
            for rates in all {
                prop_assert!(rates.matched >= 0.0 && rates.delivered >= 0.0);
                prop_assert!(rates.dropped.values().all(|rate| *rate > 0.0));
            }
        }
        screen(&top, at, 80, 24);
    }
}
