//! Spans, as a collector gets them.

#[cfg(feature = "traces")]
mod collector;
#[cfg(feature = "traces")]
mod exported;

/// A binary without the feature says how to get one with it.
#[cfg(not(feature = "traces"))]
#[test]
fn without_the_feature_the_keys_are_an_error() {
    for set in [
        "traces.endpoint=http://127.0.0.1:4318",
        "traces.traceparent=header:2",
    ] {
        let checked = std::process::Command::new(env!("CARGO_BIN_EXE_event-manager"))
            .args(["check", "--set", set])
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&checked.stderr);
        assert_eq!(checked.status.code(), Some(78), "{said}");
        assert!(said.contains("--features traces"), "{said}");
    }
}
