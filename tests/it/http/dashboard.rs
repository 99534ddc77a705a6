//! The dashboard's files, and the events that it shows. What it looks like, `just dashboard` checks.

use event_manager_wire::api::EventsPage;

use super::super::support::{PATIENCE, TestDaemon};
use super::watched;

/// All that the page loads, with its type.
const FILES: [(&str, &str); 3] = [
    ("/", "text/html; charset=utf-8"),
    ("/dashboard.css", "text/css; charset=utf-8"),
    ("/dashboard.js", "text/javascript; charset=utf-8"),
];

#[test]
fn the_page_is_served_whole_and_loads_nothing_from_elsewhere() {
    let daemon = watched();
    for (path, kind) in FILES {
        let answer = daemon.http_get(path);
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.headers["content-type"], kind, "{path}");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        for elsewhere in ["http:", "https:", "ws:", "//cdn", "@import", "url("] {
            assert!(!answer.body.contains(elsewhere), "{path} has {elsewhere:?}");
        }
    }
    let page = daemon.http_get("/").body;
    for attribute in ["src=\"", "href=\""] {
        for named in page.split(attribute).skip(1) {
            let named = named.split('"').next().expect("an end");
            let is_ours = named == "data:," || daemon.http_get(named).status == 200;
            assert!(is_ours, "{named} is not there");
        }
    }
}

#[test]
fn the_policy_lets_nothing_inline_run_and_no_text_become_markup() {
    let daemon = watched();
    let page = daemon.http_get("/");
    let policy = &page.headers["content-security-policy"];
    let directives: Vec<_> = policy.split(';').map(str::trim).collect();
    for expected in [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ] {
        assert!(directives.contains(&expected), "{expected}: {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    // What the policy would forbid anyway, so that browsers without it are safe too.
    let script = daemon.http_get("/dashboard.js").body;
    for sink in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
    ] {
        assert!(!script.contains(sink), "{sink}");
    }
    for inline in ["<style", " style=", " onclick=", "<script>"] {
        assert!(!page.body.contains(inline), "{inline}");
    }
}

fn numbers(page: &EventsPage) -> Vec<u64> {
    page.events.iter().map(|event| event.seq).collect()
}

fn events(daemon: &TestDaemon, query: &str) -> EventsPage {
    let answer = daemon.http_get(&format!("/events{query}"));
    assert_eq!(answer.status, 200, "{query}: {}", answer.body);
    answer.read()
}

#[test]
fn notable_events_are_read_a_page_at_a_time() {
    let daemon = watched();
    for n in 0..60 {
        daemon.subscribe(&format!("sub-{n}"), &format!("S{n}"), &["x"]);
    }
    let latest = events(&daemon, "");
    let last = latest.latest;
    assert!(last > 100, "{last}");
    let expected: Vec<_> = (last - 99..=last).collect();
    assert_eq!(numbers(&latest), expected, "the latest, at most 100");
    assert_eq!(latest.events_after, last);
    let mut client = daemon.client(PATIENCE);
    let all = client.events(None, 512).expect("an answer");
    assert_eq!(events(&daemon, "?max=512"), all, "as EVENTS answers");

    let mut followed = vec![];
    let mut after = 0;
    loop {
        let page = events(&daemon, &format!("?after={after}&max=7"));
        assert!(page.events.len() <= 7);
        if numbers(&page).is_empty() {
            break;
        }
        followed.extend(numbers(&page));
        after = page.events_after;
    }
    assert_eq!(followed, numbers(&all));
    // A number of an earlier run, when there were more.
    let beyond = events(&daemon, "?after=1000000");
    assert_eq!((numbers(&beyond), beyond.events_after), (vec![], last));
}

#[test]
fn events_that_can_not_be_asked_for_are_refused() {
    let daemon = watched();
    for query in [
        "?after=-1",
        "?after=x",
        "?after=",
        "?max=0",
        "?max=513",
        "?after=99999999999999999999",
        "?before=1",
        "?after=1&after=2",
    ] {
        let refused = daemon.http_get(&format!("/events{query}"));
        assert_eq!(refused.status, 400, "{query}");
        let shown = refused.json();
        assert!(shown["error"].as_str().is_some_and(|why| !why.is_empty()));
        let hint = shown["hint"].as_str().expect("a hint");
        assert!(hint.contains("after") && hint.contains("512"), "{hint}");
    }
}
