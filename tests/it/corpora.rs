//! What fuzzing found interesting stays tested.

use std::fs;
use std::path::Path;

#[path = "../fuzz/targets.rs"]
mod targets;

fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(target);
    let mut replayed = 0;
    for entry in fs::read_dir(&corpus).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        run(&fs::read(&path).unwrap());
        replayed += 1;
    }
    assert!(replayed > 0, "{} is empty", corpus.display());
}

#[test]
fn handshakes() {
    replay("handshake", targets::handshake);
}

#[test]
fn frames() {
    replay("frames", targets::frames);
}

#[test]
fn messagebus_messages() {
    replay("messagebus", targets::messagebus);
}

#[test]
fn configurations() {
    replay("config", targets::config);
}

#[test]
fn boxes_of_curve() {
    replay("boxes", targets::boxes);
}

#[test]
fn handshakes_of_curve() {
    replay("curve_server", targets::curve_server);
    replay("curve_client", targets::curve_client);
}

#[test]
fn keys() {
    replay("z85_texts", targets::z85_texts);
    replay("certificates", targets::certificates);
    replay("rights", targets::rights);
}
