//! The startup guard, as two daemons of one site meet it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::bus::own_host;
use super::support::keys::Keys;
use super::support::peers::socket;
use super::support::program::{Program, Serving, Site, locator};

/// So long that a guard that waits for it is noticed.
const LONG: f64 = 60.0;

/// A daemon that waits for the end of a predecessor, for so many seconds.
fn guarded(locator: &str, seconds: f64, more: &Value) -> Program {
    let mut keys = json!({
        "locatorAddress": locator,
        "locatorRegister": true,
        "startupGuardTimeout": seconds,
    });
    for (key, value) in more.as_object().expect("an object") {
        keys[key] = value.clone();
    }
    let site = Site::configured(&keys).with("STARTUP_GUARD", "1");
    site.start(&[])
}

/// A daemon that is registered.
fn predecessor(locator: &str, embedded: bool) -> Serving {
    let keys = json!({
        "locatorAddress": locator,
        "embeddedLocator": embedded,
        "locatorRegister": true,
    });
    let serving = Serving::ready(Site::configured(&keys).start(&[]));
    serving.program.logged("registered with the ServiceLocator");
    serving
}

fn assert_refused(program: Program, why: &str) {
    let complaint = program.end().failed(75);
    for expected in [
        "the startup guard timed out",
        why,
        "stop the predecessor",
        "startupGuardTimeoutAction",
    ] {
        assert!(complaint.contains(expected), "{expected:?}: {complaint}");
    }
    assert!(!complaint.contains("publishers="), "{complaint}");
}

#[test]
fn a_predecessor_that_lives_keeps_another_from_starting() {
    let (_locator, address) = locator();
    let first = predecessor(&address, false);
    let why = format!("a predecessor answers at {}", first.bound().requests[0]);
    let second = guarded(&address, 0.5, &json!({}));
    second.logged(&format!("waiting, {why}"));
    assert_refused(second, &why);
    assert!(first.stop());
}

#[test]
fn the_same_with_the_locator_that_the_predecessor_embeds() {
    let first = predecessor("tcp://127.0.0.1:0", true);
    let locator = first.bound().locator.as_ref().expect("it is embedded");
    let more = json!({"embeddedLocator": true});
    let second = guarded(&locator.to_string(), 0.5, &more);
    assert_refused(second, "a predecessor answers at ");
    assert!(first.stop());
}

/// One that admits nobody without keys is asked with its own, which are those of its successor, wherever
/// the locator is that knows it.
#[test]
fn a_predecessor_with_keys_is_known_to_live() {
    for embedded in [true, false] {
        let keys = Keys::new();
        let mut of_both = json!({"security": keys.security(&["curve"])});
        of_both["embeddedLocator"] = embedded.into();
        let mut settings = of_both.clone();
        let another = (!embedded).then(locator);
        let another = another.as_ref().map(|(_, address)| &**address);
        settings["locatorAddress"] = another.unwrap_or("tcp://127.0.0.1:0").into();
        settings["locatorRegister"] = true.into();
        let first = Serving::ready(Site::configured(&settings).start(&[]));
        first.program.logged("registered with the ServiceLocator");
        let own = first.bound().locator.as_ref().map(ToString::to_string);
        let address = own.as_deref().or(another).expect("a locator");
        let second = guarded(address, 0.5, &of_both);
        assert_refused(second, "a predecessor answers at ");
        assert!(first.stop());
    }
}

#[test]
fn told_to_proceed_it_starts_beside_a_predecessor() {
    let (_locator, address) = locator();
    let first = predecessor(&address, false);
    let more = json!({"startupGuardTimeoutAction": "proceed"});
    let second = Serving::ready(guarded(&address, 0.3, &more));
    second
        .program
        .logged("starting although a predecessor answers");
    assert!(second.stop() && first.stop());
}

#[test]
fn it_starts_as_soon_as_the_predecessor_has_stopped() {
    for embedded in [false, true] {
        let (_locator, address) = locator();
        let first = if embedded {
            predecessor("tcp://127.0.0.1:0", true)
        } else {
            predecessor(&address, false)
        };
        let address = match &first.bound().locator {
            Some(embedded) => embedded.to_string(),
            None => address,
        };
        let more = json!({"embeddedLocator": embedded});
        let second = guarded(&address, LONG, &more);
        second.logged("waiting, a predecessor answers");
        assert!(first.stop());
        let second = Serving::ready(second);
        second.program.logged("startup guard: ");
        second.program.logged("registered with the ServiceLocator");
        assert_eq!(second.bound().locator.is_some(), embedded);
        assert!(second.stop());
    }
}

#[test]
fn without_a_predecessor_it_starts_at_once() {
    let (_locator, address) = locator();
    let begun = Instant::now();
    let first = Serving::ready(guarded(&address, LONG, &json!({})));
    first
        .program
        .logged("the ServiceLocator knows no predecessor");
    first.program.logged("registered with the ServiceLocator");
    first.program.signal("KILL");
    first.program.end();

    let second = Serving::ready(guarded(&address, LONG, &json!({})));
    second.program.logged("where nobody listens any more");
    assert!(second.stop());

    let more = json!({"embeddedLocator": true});
    let alone = Serving::ready(guarded("tcp://127.0.0.1:0", LONG, &more));
    assert!(alone.stop());
    assert!(begun.elapsed() < Duration::from_secs_f64(LONG / 4.0));
}

#[test]
fn what_does_not_answer_is_not_known_to_be_gone() {
    let (_locator, address) = locator();
    let first = predecessor(&address, false);
    first.program.signal("STOP");
    let context = zmq::Context::new();
    let silent = socket(&context, zmq::ROUTER);
    silent.bind("tcp://127.0.0.1:*").expect("a free port");
    let silent = silent.get_last_endpoint().expect("it is bound");
    let nobody = format!("tcp://{}:9", own_host());

    let asks_the_first = guarded(&address, 0.2, &json!({}));
    let asks_silence = guarded(&silent.expect("a text"), 0.2, &json!({}));
    let asks_nobody = guarded(&nobody, 0.2, &json!({}));
    let expected = "it does not answer, which does not mean that it is gone";
    assert_refused(asks_the_first, expected);
    let unknown = "it isn't known whether a predecessor runs: the ServiceLocator: ";
    assert_refused(asks_silence, &format!("{unknown}no answer in time"));
    assert_refused(asks_nobody, &format!("{unknown}nobody listens at {nobody}"));
}

#[test]
fn while_it_waits_it_can_be_stopped() {
    let (_locator, address) = locator();
    let first = predecessor(&address, false);
    let second = guarded(&address, LONG, &json!({}));
    second.logged("waiting, a predecessor answers");
    second.signal("TERM");
    let ended = second.end();
    assert_eq!(ended.code, Some(0));
    assert!(
        ended.stderr.contains("stopped before it had started"),
        "{}",
        ended.stderr
    );
    assert!(first.stop());
}
