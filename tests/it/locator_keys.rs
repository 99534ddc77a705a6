//! `event-manager locator`, the ServiceLocator alone, with `security`.

use std::fs;
use std::time::Duration;

use event_manager_client::blocking::Client;
use event_manager_client::{ClientError, ClientKeys, TurnedAway, new_pair};
use event_manager_wire::messagebus::{Message, Token};
use serde_json::{Value, json};

use super::support::PATIENCE;
use super::support::program::{Program, Site, wait_until};

/// A locator that admits "prices", which may be only that, and "shop", which asks.
fn start(site: &Site) -> (Program, String) {
    site.run(&["keys", "init"]).done();
    for name in ["prices", "shop"] {
        site.run(&["keys", "new", name]).done();
    }
    configure(
        site,
        &json!({"prices": {"services": ["Prices"]}, "shop": {"requests": ["list"]}}),
    );
    let at = [
        "locator",
        "--address",
        "tcp://127.0.0.1:0",
        "--config",
        "config.json",
    ];
    let program = site.start(&at);
    let line = program.logged("the ServiceLocator is ready");
    let (_, address) = line.split_once("address=").expect("an address");
    let address = address.to_owned();
    (program, address)
}

fn configure(site: &Site, clients: &Value) {
    let security = json!({"mechanisms": ["curve"], "secretKey": "server.key_secret", "keysDir": "keys",
        "clients": clients});
    site.write("config.json", &json!({ "security": security }).to_string());
}

fn keys(site: &Site, name: &str) -> ClientKeys {
    let server = site.path("server.key");
    let server = server.to_str().expect("text");
    ClientKeys::load(site.path(&format!("{name}.key_secret")), server).expect("keys")
}

fn client(site: &Site, address: &str, name: &str) -> Client {
    Client::new(address, PATIENCE).with_keys(Some(keys(site, name)))
}

fn ask(client: &mut Client, token: Token, fields: &[&str]) -> (bool, String) {
    let request = Message::param(token, fields.iter().copied());
    let answer = client.ask(&request, Duration::ZERO).expect("an answer");
    let data = String::from_utf8_lossy(&answer.data).replace('\0', " ");
    (answer.token.is(Token::ACK), data)
}

#[test]
fn a_locator_alone_admits_by_keys_and_takes_only_names_of_ones_services() {
    let site = Site::new();
    let (program, address) = start(&site);
    let mut prices = client(&site, &address, "prices");
    let (done, said) = ask(&mut prices, Token::REGISTER, &["Prices", "tcp://h:1"]);
    assert!(done, "{said}");
    let (done, said) = ask(&mut prices, Token::REGISTER, &["EventManager", "tcp://h:2"]);
    assert!(!done && said.starts_with("forbidden"), "{said}");
    let mut shop = client(&site, &address, "shop");
    let found = ask(&mut shop, Token::LOCATE, &["Prices"]);
    assert_eq!(found, (true, "tcp://h:1".into()));
    assert!(ask(&mut shop, Token::LIST, &[]).0);
    assert!(!ask(&mut shop, Token::REGISTER, &["Shop", "tcp://h:3"]).0);

    // Without keys, and with others, nobody gets in.
    let wait = Duration::from_secs(3);
    let stranger = ClientKeys {
        own: new_pair().expect("a pair"),
        ..keys(&site, "shop")
    };
    for (keys, expected) in [
        (None, TurnedAway::WithoutKeys),
        (
            Some(stranger.clone()),
            TurnedAway::ClientKey(*stranger.own.public()),
        ),
    ] {
        let request = Message::param(Token::LOCATE, ["Prices"]);
        let mut other = Client::new(&address, wait).with_keys(keys);
        match other.ask(&request, Duration::ZERO) {
            Err(ClientError::TurnedAway { why, .. }) => assert_eq!(why, expected),
            other => panic!("{other:?}"),
        }
    }
    program.logged("put a file with the line public-key");

    // A file that is removed revokes; SIGHUP puts other rights in force.
    fs::remove_file(site.path("keys/shop.key")).expect("a file");
    wait_until(|| {
        let mut again = Client::new(&address, wait).with_keys(Some(keys(&site, "shop")));
        let request = Message::param(Token::LOCATE, ["Prices"]);
        again.ask(&request, Duration::ZERO).is_err().then_some(())
    });
    configure(
        &site,
        &json!({"prices": {"services": ["Prices", "EventManager"]}}),
    );
    program.signal("HUP");
    wait_until(|| {
        ask(&mut prices, Token::REGISTER, &["EventManager", "tcp://h:2"])
            .0
            .then_some(())
    });
    // What is wrong changes nothing.
    site.write("config.json", "{");
    program.signal("HUP");
    program.logged("EM-");
    assert!(ask(&mut prices, Token::LOCATE, &["EventManager"]).0);
    program.signal("TERM");
    assert_eq!(program.end().code, Some(0));
}

#[test]
fn a_locator_that_is_wrongly_configured_says_so_and_ends() {
    let site = Site::new();
    let run = || {
        let at = [
            "locator",
            "--address",
            "tcp://127.0.0.1:0",
            "--config",
            "config.json",
        ];
        let ended = site.run(&at);
        assert_eq!(ended.code, Some(78), "{ended:?}");
        ended.stderr
    };
    assert!(run().contains("config.json"));
    site.write("config.json", r#"{"security": {"mechanisms": ["curve"]}}"#);
    assert!(run().contains("needs security.secretKey"));
    configure(&site, &json!({}));
    fs::create_dir(site.path("keys")).expect("a directory");
    let said = run();
    assert!(
        said.contains("server.key_secret") && said.contains("No such file"),
        "{said}"
    );
}
