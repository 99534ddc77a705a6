//! Settings of `security` that change nothing: `check`, `doctor` and the log at the start name them, and
//! say what to do.

use std::fs;

use serde_json::{Value, json};

use super::support::keys::{Keys, SERVER, pair};
use super::support::process::settings;
use super::support::program::{Serving, Site};

const DIGEST: &str = "a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e";

fn without_effect(keys: &Keys) -> Vec<(Value, &'static str, &'static str)> {
    let key = |number| pair(number).public().to_string();
    let curve = |more: Value| {
        let mut security = keys.security(&["null", "curve"]);
        security["anonymous"] = json!({});
        let more = more.as_object().expect("an object").clone();
        security.as_object_mut().expect("an object").extend(more);
        security
    };
    vec![
        (
            curve(json!({"clients": {"till": {"passwords": [DIGEST]}}})),
            "security.clients.till.passwords have no effect",
            "add \"plain\" to security.mechanisms, or leave them out",
        ),
        (
            curve(json!({"clients": {"admin": {"users": [1]}}})),
            "security.clients.admin.users have no effect",
            "add one to requestAddress, or leave them out",
        ),
        (
            curve(json!({"mechanisms": ["curve"]})),
            "security.anonymous has no effect",
            "add \"null\" to security.mechanisms, or leave it out",
        ),
        (
            curve(json!({"clients": {"a": {"keys": ["0".repeat(64)]}}})),
            "security.clients.a.keys: a key of zeros is nobody's",
            "put the client's public key there",
        ),
        (
            curve(json!({"clients": {"a": {"keys": [key(SERVER)]}}})),
            "security.clients.a.keys: it is the daemon's own public key",
            "put the client's public key there",
        ),
        (
            curve(
                json!({"roles": {"operator": {}, "default": {}}, "clients": {"a": {"keys": [key(3)]}}}),
            ),
            "security.roles.operator has no effect: nobody has this role",
            "name it in security.clients.NAME.role, or leave it out",
        ),
        (
            curve(json!({"clients": {"a": {"publish": [""]}}})),
            "security.clients.a: nobody is this client",
            "give it a key",
        ),
        (
            json!({"mechanisms": ["plain"], "clients": {
                "a": {"publish": [""]}, "b": {"passwords": [DIGEST]}}}),
            "security.clients.a: nobody is this client",
            "give it a key",
        ),
        (
            json!({"mechanisms": ["plain"], "keysDir": "keys", "clients": {"b": {"passwords": [DIGEST]}}}),
            "security.keysDir has no effect",
            "add \"curve\" to security.mechanisms, or leave it out",
        ),
        (
            json!({"plainInClear": true}),
            "security.plainInClear has no effect",
            "add \"plain\" to security.mechanisms, or leave it out",
        ),
    ]
}

#[test]
fn what_has_no_effect_is_named_with_what_to_do() {
    let keys = Keys::new();
    for (security, what, mend) in without_effect(&keys) {
        let site = Site::configured(&settings(&json!({ "security": security })));
        fs::create_dir(site.path("keys")).expect("a directory");
        let checked = site.run(&["check"]);
        assert_eq!(checked.code, Some(0), "{checked:?}");
        let said = checked.stderr;
        assert!(said.contains(what) && said.contains(mend), "{what}: {said}");
        assert_eq!(said.matches(what).count(), 1, "{said}");
        let doctor = site.run(&["doctor", "--wait", "0.1"]).stdout;
        assert!(
            doctor.contains(what) || doctor.contains("EM-9029"),
            "{what}: {doctor}"
        );
        assert!(doctor.contains(mend), "{what}: {doctor}");
        let serving = Serving::ready(site.start(&["serve"]));
        serving.program.logged(what);
        let log = serving.program.log();
        assert_eq!(log.matches(what).count(), 1, "{log}");
        assert!(serving.stop());
    }
}

#[test]
fn what_has_an_effect_is_not_named() {
    let keys = Keys::new();
    let key = pair(3).public().to_string();
    let mut security = keys.security(&["null", "plain", "curve"]);
    security["anonymous"] = json!({"role": "few"});
    security["roles"] = json!({"few": {}, "operator": {}, "default": {}});
    security["clients"] = json!({
        "a": {"keys": [key], "role": "operator"}, "b": {"passwords": [DIGEST]}, "c": {"users": [1]},
    });
    let mut keys = settings(&json!({ "security": security }));
    keys["requestAddress"] = json!(["tcp://127.0.0.1:0", "ipc://requests"]);
    let checked = Site::configured(&keys).run(&["check"]);
    assert_eq!((checked.code, &*checked.stderr), (Some(0), ""));
}

/// The public file in the secret one's place, and one key at two places.
#[test]
fn keys_at_the_wrong_place_are_named() {
    let site = Site::new();
    site.run(&["keys", "init"]).done();
    site.run(&["keys", "new", "billing"]).done();
    let text = fs::read_to_string(site.path("config.json")).expect("a file");
    let before: Value = serde_json::from_str(&text).expect("JSON");
    let mut config = before.clone();
    config["security"]["secretKey"] = json!("server.key");
    site.write("config.json", &config.to_string());
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(site.path("server.key"), mode).expect("a file");
    let ended = site.run(&["keys", "check"]);
    assert_eq!(ended.code, Some(78), "{ended:?}");
    let said = ended.stderr;
    assert!(
        said.contains("server.key: it has only the public key"),
        "{said}"
    );
    assert!(said.contains("fix: name the file with both keys"), "{said}");

    let public = fs::read_to_string(site.path("keys/billing.key")).expect("a file");
    let public = public.split('"').nth(1).expect("a key");
    let mut config = before;
    config["security"]["clients"] = json!({"other": {"keys": [public]}});
    site.write("config.json", &config.to_string());
    let ended = site.run(&["keys", "check"]);
    let said = ended.stderr;
    assert!(
        said.contains("\"other\" and \"billing\" have the same public key"),
        "{said}"
    );
    let mend = "fix: remove the file, or the key from security.clients.other.keys";
    assert!(said.contains(mend), "{said}");
}

#[test]
fn names_that_mean_somebody_else_get_no_keys() {
    let site = Site::new();
    for (name, why) in [
        ("event-manager", "the name of the daemon itself"),
        ("anonymous", "the name of peers without a key"),
    ] {
        let said = site.run(&["keys", "new", name]).failed(2);
        assert!(said.contains(why), "{said}");
    }
}
