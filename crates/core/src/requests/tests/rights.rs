//! What is forbidden is refused before anything has changed.

use super::*;
use event_manager_wire::model::SubjectPattern;

/// One that may have `order.`, publish `invoice.` and serve `Billing`.
fn limited() -> Fixture {
    let mut fixture = Fixture::new();
    let subjects = |text: &str| {
        [SubjectPattern::parse(text, 99).unwrap()]
            .into_iter()
            .collect()
    };
    let rights = &mut fixture.grant.rights;
    rights.subscribe = subjects("order.");
    rights.publish = subjects("invoice.");
    rights.services = ["Billing", "Own-*"]
        .iter()
        .map(|name| crate::security::NamePattern::parse(name).unwrap())
        .collect();
    rights.requests = RequestKinds::Usual;
    fixture
}

fn forbidden(fixture: &mut Fixture, json: &str) {
    let (token, said) = fixture.json(json);
    assert_eq!(token, Token::NAK, "{json}: {said}");
    assert!(
        said.starts_with("forbidden: peers without a key may not "),
        "{json}: {said}"
    );
}

#[test]
fn what_no_right_names_is_forbidden() {
    let mut fixture = limited();
    for request in [
        r#"{"token": "subscribe", "id": "1", "service": "Shipping", "subjects": ["order."]}"#,
        r#"{"token": "subscribe", "id": "1", "service": "Billing", "subjects": ["order.x", ""]}"#,
        r#"{"token": "subscribe", "id": "1", "service": "Billing", "subjects": ["order.x"], "deadLetterSubject": "order.x"}"#,
        r#"{"token": "emit", "subject": "order.x", "payload": "x"}"#,
        r#"{"token": "publish", "subject": "order.x", "payload": "x"}"#,
        r#"{"token": "status"}"#,
        r#"{"token": "events"}"#,
        r#"{"token": "end", "service": "Billing"}"#,
        r#"{"token": "dlq", "op": "list", "service": "Billing"}"#,
    ] {
        forbidden(&mut fixture, request);
    }
    assert_eq!(fixture.broker.subscription_count(), 0);
    assert!(fixture.emitted.is_empty() && fixture.called.is_empty() && fixture.claimed.is_empty());
    let (token, said) = fixture.json(
        r#"{"token": "subscribe", "id": "1", "service": "Billing", "subjects": ["order.x", "glob:order.*"], "deadLetterSubject": "invoice.x"}"#,
    );
    assert_eq!(token, Token::ACK, "{said}");
    assert_eq!(fixture.claimed.len(), 1);
}

#[test]
fn named_requests_are_for_ones_own_services() {
    let mut fixture = limited();
    fixture.grant.rights.requests = RequestKinds::Only([Token::DLQ, Token::END].into());
    forbidden(
        &mut fixture,
        r#"{"token": "dlq", "op": "list", "service": "Shipping"}"#,
    );
    forbidden(&mut fixture, r#"{"token": "end", "service": "Shipping"}"#);
    forbidden(
        &mut fixture,
        r#"{"token": "emit", "subject": "invoice.x", "payload": "x"}"#,
    );
    let (token, said) = fixture.json(r#"{"token": "end", "service": "Own-1"}"#);
    assert_eq!(token, Token::NAK);
    assert!(said.starts_with("unknown-service"), "{said}");
}

/// A subscription that somebody else made.
fn beside(id: &str, service: &str, subject: &str) -> Fixture {
    let mut fixture = limited();
    let all = Grant::everything("");
    let limited = std::mem::replace(&mut fixture.grant, all);
    let (token, said) = fixture.json(&format!(
        r#"{{"token": "subscribe", "id": "{id}", "service": "{service}", "subjects": ["{subject}"]}}"#
    ));
    assert_eq!(token, Token::ACK, "{said}");
    fixture.grant = limited;
    fixture.claimed.clear();
    fixture
}

#[test]
fn a_subscription_of_another_is_left_alone() {
    let mut fixture = beside("1", "Shipping", "order.");
    for request in [
        r#"{"token": "keep_alive", "id": "1"}"#,
        r#"{"token": "unsubscribe", "id": "1"}"#,
        // It would be taken away from there.
        r#"{"token": "subscribe", "id": "1", "service": "Billing", "subjects": ["order."]}"#,
    ] {
        forbidden(&mut fixture, request);
    }
    assert_eq!(fixture.broker.subscription_count(), 1);
    // One's own service, with a subject that one may not have.
    let mut fixture = beside("2", "Billing", "invoice.");
    forbidden(&mut fixture, r#"{"token": "keep_alive", "id": "2"}"#);
    assert!(fixture.claimed.is_empty());
    let (token, said) = fixture.json(r#"{"token": "unsubscribe", "id": "2"}"#);
    assert_eq!(token, Token::ACK, "{said}");
}
