//! Nothing that may be a secret is repeated, wherever it was given by mistake.

use std::fs;

use event_manager_zmtp::z85;
use serde_json::{Value, json};

use super::support::keys::{Keys, SERVER, pair};
use super::support::program::{Ended, Site};

const PASSWORD: &str = "hunter2-correct-horse-battery";

/// A secret key as it is written, and with a slip.
fn secrets() -> [String; 3] {
    let secret = z85::encode(pair(9).secret());
    [secret[1..].to_owned(), format!("{secret}x"), secret]
}

fn assert_hidden(ended: &Ended, secret: &str, given: &str) {
    let said = [&*ended.stdout, &ended.stderr].concat();
    // A part of it would do, too.
    for part in [secret, &secret[..20], &secret[secret.len() - 20..]] {
        assert!(!said.contains(part), "{given}: {said}");
    }
}

/// A configuration that is wrong, with a secret somewhere in it.
fn wrong_configurations(secret: &str) -> Vec<(&'static str, Value)> {
    let curve = |more: Value| {
        let mut security =
            json!({"mechanisms": ["null", "curve"], "secretKey": "server.key_secret"});
        let more = more.as_object().expect("an object").clone();
        security.as_object_mut().expect("an object").extend(more);
        json!({ "security": security })
    };
    vec![
        (
            "secretKey",
            curve(json!({"secretKey": secret, "keysDir": "keys"})),
        ),
        (
            "secretKey, a list",
            curve(json!({"secretKey": [secret], "keysDir": "keys"})),
        ),
        (
            "keys",
            curve(json!({"clients": {"a": {"keys": [format!("{secret}?")]}}})),
        ),
        (
            "keys, no list",
            curve(json!({"clients": {"a": {"keys": {"b": secret}}}})),
        ),
        (
            "passwords",
            curve(json!({"clients": {"a": {"passwords": [secret]}}})),
        ),
        (
            "a password alone",
            curve(json!({"clients": {"a": {"passwords": secret}}})),
        ),
        ("no object", curve(json!({"clients": {"a": secret}}))),
        ("no clients", curve(json!({"clients": secret}))),
        (
            "a text",
            curve(json!({"clients": format!("{{\"a\": {{\"passwords\": [\"{secret}\"")})),
        ),
        (
            "a text of a text",
            curve(json!({"clients": json!(secret).to_string()})),
        ),
        (
            "anonymous",
            curve(json!({"anonymous": {"passwords": [secret]}})),
        ),
        (
            "the daemon's name",
            curve(json!({"clients": {"event-manager": {"keys": [secret]}}})),
        ),
        (
            "locatorServerKey",
            json!({"locatorServerKey": format!("{secret}?")}),
        ),
        (
            "connectPublishers",
            json!({"connectPublishers": [{"address": "tcp://h:1", "serverKey": format!("{secret}?")}]}),
        ),
        (
            "serverKey",
            json!({"services": {"A": {"serverKey": format!("{secret}?")}}}),
        ),
        (
            "httpTokenFile",
            json!({"httpAddress": "127.0.0.1:0", "httpTokenFile": secret}),
        ),
    ]
}

#[test]
fn no_configuration_shows_a_secret_that_it_has_by_mistake() {
    let [slip, longer, secret] = secrets();
    for (n, secret) in [&*slip, &longer, &secret, PASSWORD].into_iter().enumerate() {
        for (given, configuration) in wrong_configurations(secret) {
            let site = Site::configured(&configuration);
            fs::create_dir(site.path("keys")).expect("a directory");
            let checked = site.run(&["check"]);
            // What is a key has no fault that can be seen.
            assert!(
                checked.code == Some(78) || secret.len() == 40 || given == "connectPublishers",
                "{given}: {checked:?}"
            );
            if checked.code != Some(78) {
                continue;
            }
            assert_hidden(&checked, secret, given);
            // The others say the same of it.
            if n > 0 {
                continue;
            }
            for command in [
                &["serve"][..],
                &["doctor", "--wait", "0.1"],
                &["keys", "check"],
            ] {
                assert_hidden(&site.run(command), secret, given);
            }
        }
    }
}

#[test]
fn no_command_shows_a_secret_that_stands_for_another_thing() {
    let [slip, longer, secret] = secrets();
    let keys = Keys::new();
    let daemon = keys.daemon(&["curve"]);
    keys.write_secret("client", 9);
    let (file, server) = (keys.secret("client"), keys.secret("server"));
    let (file, server) = (file.to_str().expect("text"), server.to_str().expect("text"));
    let public = pair(SERVER).public().to_string();
    let site = Site::new().with("EVENT_MANAGER_ADDRESS", &daemon.requests());
    let servers = z85::encode(pair(SERVER).secret());
    let dashed = format!("-y{}", &secret[2..]);
    let cases = [
        (file, dashed.as_str(), &secret[2..]),
        (&dashed, &public, &secret[2..]),
        (secret.as_str(), public.as_str(), secret.as_str()),
        (&slip, &public, &slip),
        (file, &secret, &secret),
        (file, &slip, &slip),
        (file, &longer, &longer),
        (file, &servers, &servers),
        (file, server, &servers),
        (file, file, &secret),
    ];
    for (key, server_key, secret) in cases {
        for command in [
            &["services"][..],
            &["health"],
            &["doctor"],
            &["keys", "check"],
        ] {
            let address = daemon.requests();
            let address = match command {
                ["keys", _] => &[&*address][..],
                _ => &[],
            };
            let keys = ["--key", key, "--server-key", server_key];
            let ended = site.run(&[command, address, &keys].concat());
            assert!(matches!(ended.code, Some(77 | 78)), "{ended:?}");
            assert_hidden(&ended, secret, "a command");
        }
    }
    let given = |server_key: &str| {
        let keys = ["services", "--key", file, "--server-key", server_key];
        site.run(&keys).failed(78)
    };
    assert!(given(server).contains("has a secret key, which nobody but its owner should have"));
    assert!(given(&secret).contains("the client's own secret key"));
}
