//! HTTPS: only a binary with the cargo feature `tls` has it (`just features`).

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::TestDaemon;
use crate::support::http::HttpClient;
use crate::support::program::{Site, wait_until};

fn configured() -> Site {
    Site::configured(&json!({
        "httpAddress": "127.0.0.1:0", "httpTlsCertificate": "hub.pem", "httpTlsKey": "hub.key",
    }))
}

#[cfg(not(feature = "tls"))]
#[test]
fn without_the_feature_the_keys_say_how_to_get_it() {
    let ended = configured().run(&["check"]);
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(ended.stderr.contains("--features tls"), "{ended:?}");
}

fn openssl(site: &Site, arguments: &str) -> Output {
    let arguments: Vec<_> = arguments.split(' ').collect();
    let output = Command::new("openssl")
        .current_dir(site.path("."))
        .args(&arguments)
        .output();
    output.expect("openssl is installed")
}

/// A certificate for this name, and its key, in place of those before.
fn certify(site: &Site, name: &str) {
    let made = openssl(
        site,
        &format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name} \
             -addext subjectAltName=DNS:{name} -keyout new.key -out new.pem"
        ),
    );
    assert!(made.status.success(), "{made:?}");
    for (from, to) in [("new.pem", "hub.pem"), ("new.key", "hub.key")] {
        std::fs::rename(site.path(from), site.path(to)).expect("a file");
    }
}

/// What `openssl s_client` gets for a request.
fn ask(site: &Site, daemon: &TestDaemon, name: &str) -> String {
    site.write(
        "request",
        "GET /livez HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n",
    );
    let script = format!(
        "openssl s_client -quiet -verify_return_error -CAfile hub.pem -verify_hostname {name} \
         -connect {} -ign_eof < request",
        daemon.http()
    );
    let output = Command::new("sh")
        .current_dir(site.path("."))
        .args(["-c", &script])
        .output();
    String::from_utf8_lossy(&output.expect("a shell").stdout).into_owned()
}

#[cfg_attr(not(feature = "tls"), ignore = "needs the cargo feature tls")]
#[test]
fn https_is_served_with_certificates_that_change() {
    let site = configured();
    certify(&site, "hub.example");
    let daemon = TestDaemon::serving(&site);
    let first = ask(&site, &daemon, "hub.example");
    assert!(first.contains(r#"{"live":true}"#), "{first}");
    assert!(!ask(&site, &daemon, "other.example").contains("live"));
    // In the clear there is no answer.
    let mut plain = HttpClient::connect(daemon.http());
    plain.send(b"GET /livez HTTP/1.1\r\nHost: it\r\n\r\n");
    assert!(plain.is_closed());

    certify(&site, "next.example");
    let renewed = wait_until(|| {
        let answer = ask(&site, &daemon, "next.example");
        answer.contains("live").then_some(())
    });
    assert!(renewed.is_some());
    // What can't be used changes nothing.
    site.write("hub.key", "none");
    let noticed = wait_until(|| {
        assert!(ask(&site, &daemon, "next.example").contains("live"));
        let log = daemon.program().log();
        log.contains("the certificate before stays in use: httpTlsKey hub.key")
            .then_some(())
    });
    assert!(noticed.is_some());
}

#[cfg_attr(not(feature = "tls"), ignore = "needs the cargo feature tls")]
#[test]
fn files_that_cannot_be_used_are_named() {
    let site = configured();
    let refused = |why: &str| {
        let ended = site.run(&["serve"]);
        assert_eq!(ended.code, Some(78), "{ended:?}");
        assert!(ended.stderr.contains(why), "{ended:?}");
    };
    refused("httpTlsCertificate hub.pem");
    certify(&site, "hub.example");
    let readable = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(site.path("hub.key"), readable).expect("a file");
    refused("chmod 600 hub.key");
    std::fs::rename(site.path("hub.key"), site.path("old.key")).expect("a file");
    certify(&site, "hub.example");
    std::fs::copy(site.path("old.key"), site.path("hub.key")).expect("a file");
    let own = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(site.path("hub.key"), own).expect("a file");
    refused("httpTlsKey hub.key");
    site.write("hub.pem", "no certificate");
    refused("it has no certificate in PEM");
    let mut keys: Value =
        serde_json::from_str(&std::fs::read_to_string(site.path("config.json")).expect("a file"))
            .expect("JSON");
    keys["httpTlsKey"] = json!("");
    site.write("config.json", &keys.to_string());
    refused("httpTlsKey is missing");
}
