//! What is wrong with a request is said with a code, what was expected and what came.

use super::*;

#[test]
fn wrong_requests_are_answered_with_a_code() {
    let mut fixture = Fixture::new();
    let long = "x".repeat(256);
    let endless = "\0".repeat(Limits::default().subscriptions_per_peer_max + 3);
    let param = |token, fields: &[&str]| Message::param(token, fields.iter().copied());
    for (request, code) in [
        (param(Token::SUBSCRIBE, &["s1"]), "missing-field"),
        (param(Token::SUBSCRIBE, &["s1", "", "A"]), "missing-field"),
        (param(Token::SUBSCRIBE, &["s1", "Billing"]), "missing-field"),
        (param(Token::SUBSCRIBE, &["s1", &long, "A"]), "invalid-name"),
        (
            param(Token::SUBSCRIBE, &[&long, "Billing", "A"]),
            "invalid-name",
        ),
        (
            param(Token::SUBSCRIBE, &["s1", "Billing", &long]),
            "invalid-subject",
        ),
        (
            param(Token::SUBSCRIBE, &["s1", "Billing", "glob:"]),
            "invalid-subject",
        ),
        (
            Message::new(Token::SUBSCRIBE, DataType::Param, endless.clone()),
            "too-many-subjects",
        ),
        (
            Message::new(Token::UNSUBSCRIBE, DataType::Param, endless),
            "too-many-subjects",
        ),
        (
            Message::new(Token::SUBSCRIBE, DataType::Param, &b"s1\0\xFF\0A"[..]),
            "invalid-utf8",
        ),
        (param(Token::KEEP_ALIVE, &[""]), "missing-field"),
        (
            param(Token::KEEP_ALIVE, &["nobody"]),
            "unknown-subscription",
        ),
        (
            param(Token::UNSUBSCRIBE, &["nobody"]),
            "unknown-subscription",
        ),
        (param(Token::PUBLISH, &["data"]), "missing-field"),
        (param(Token::PUBLISH, &["data", &long]), "invalid-subject"),
        (param(Token::LOCATE, &["Billing"]), "unknown-token"),
    ] {
        let (token, data) = fixture.reply(&request);
        assert!(
            token == Token::NAK && data.starts_with(&format!("{code}: ")),
            "{data} is not {code}"
        );
    }
    for (text, code) in [
        (
            r#"{"token": "subscribe", "service": "B", "subject": "a", "ack": true}"#,
            "unknown-field",
        ),
        (r#"{"token": "subscribe", "service": 7}"#, "invalid-field"),
        (r#"{"token": "end", "service": 7}"#, "invalid-field"),
        (r#"{"token": "publish", "payload": "x"}"#, "missing-field"),
    ] {
        assert!(fixture.json(text).1.starts_with(code), "{text}");
    }
    fixture.reply(&param(Token::SUBSCRIBE, &["s1", "A", "x"]));
    assert!(
        fixture
            .reply(&param(Token::SUBSCRIBE, &["s2", "B", "x"]))
            .1
            .starts_with("no-port: ")
    );
    assert_eq!(fixture.broker.subscription_count(), 1);
}

#[test]
fn a_refusal_says_what_was_expected_and_what_came() {
    let mut fixture = Fixture::new();
    for (text, expected) in [
        (
            r#""subscribe", "service": 7"#,
            r#"invalid-field: "service": expected a string, got 7"#,
        ),
        (
            r#""subscribe", "subjects": "a""#,
            r#"invalid-field: "subjects": expected a list, got "a""#,
        ),
        (
            r#""subscribe", "subjects": [null]"#,
            r#"invalid-field: "subjects": expected a string, got null"#,
        ),
        (
            r#""subscribe", "delivery": "disk""#,
            r#"invalid-field: "delivery": expected one of "live", "queue", got "disk""#,
        ),
        (
            r#""subscribe", "id": "a", "sub_id": "b""#,
            r#"invalid-field: field "id" is given twice"#,
        ),
        (
            r#""keep_alive""#,
            r#"missing-field: field 1, "id", is missing; they are id"#,
        ),
        (
            r#""keep_alive", "id": """#,
            r#"missing-field: field "id" is missing"#,
        ),
        (
            r#""end", "service": {"a": 1}"#,
            r#"invalid-field: "service": expected a string, got an object"#,
        ),
        (
            r#""emit", "subject": "x", "level": "tape""#,
            r#"invalid-field: "level": expected one of "memory", "disk", "engine", got "tape""#,
        ),
        (
            r#""subscribe", "service": "A", "subjects": ["x"], "retry": 3"#,
            r#"invalid-field: "retry": expected an object, got 3"#,
        ),
        (
            r#""subscribe", "service": "A", "subjects": ["x"], "retry": {"initialMs": "soon"}"#,
            r#"invalid-field: "retry": "initialMs": expected a whole number, got "soon""#,
        ),
        (
            r#""subscribe", "service": "A", "subjects": ["x"], "retry": {"maxDeliveries": 5000000000}"#,
            r#"invalid-field: "retry": "maxDeliveries": expected a whole number, got 5000000000"#,
        ),
        (
            r#""subscribe", "service": "A", "subjects": ["x"], "retry": {"colour": 1}"#,
            r#"unknown-field: "retry": unknown field "colour", expected one of "initialMs", "#,
        ),
        (
            r#""subscribe", "service": "A", "subjects": ["x"], "retry": {"maxDeliveries": 0}"#,
            r#"invalid-field: "retry": maxDeliveries"#,
        ),
        (
            r#""emit", "subject": "x", "level": 5"#,
            r#"invalid-field: "level": expected one of "memory", "disk", "engine", got 5"#,
        ),
        (
            r#""emit", "subject": "x", "ttl": 0"#,
            r#"invalid-field: "ttl": expected seconds, from 0.001 to a year, got 0"#,
        ),
        (
            r#""emit", "subject": "x", "ttl": "1""#,
            r#"invalid-field: "ttl": expected a number, got "1""#,
        ),
        (
            r#""emit", "subject": "x", "deliverAt": -1"#,
            r#"invalid-field: "deliverAt": expected a whole number, got -1"#,
        ),
        (
            // Microseconds.
            r#""emit", "subject": "x", "deliverAt": 1700000000000000"#,
            r#"invalid-field: "deliverAt": expected milliseconds since 1970, at most 100000000000000 (in the year 5138), got 1700000000000000"#,
        ),
        (
            r#""emit", "subject": "x", "payload": 1"#,
            r#"invalid-field: "payload": expected a string, got 1"#,
        ),
        (
            r#""events", "max": 513"#,
            r#"invalid-field: "max": expected a whole number from 1 to 512, got 513"#,
        ),
        (
            r#""events", "data": ["x"]"#,
            r#"invalid-field: "after": expected a whole number, got "x""#,
        ),
        (
            r#""publish", "subject": 1"#,
            r#"invalid-field: "subject": expected a string, got 1"#,
        ),
        (
            r#""dlq", "op": "list", "service": "A", "dryRun": 1"#,
            r#"invalid-field: "dryRun": expected a boolean, got 1"#,
        ),
        (
            r#""dlq", "op": "list", "service": "A", "seqs": [1.5]"#,
            r#"invalid-field: "seqs": expected a whole number, got 1.5"#,
        ),
        (
            r#""dlq", "service": "A""#,
            r#"missing-field: field "op" is missing"#,
        ),
        (
            r#""dlq", "data": ["list", "A", {"op": "purge"}]"#,
            r#"invalid-field: field "op" is given twice"#,
        ),
        (
            r#""dlq", "data": ["list", "A", {"what": 1}]"#,
            r#"unknown-field: unknown field "what", expected one of "op", "#,
        ),
        (
            r#""dlq", "data": ["list", "A", "[1]"]"#,
            r#"invalid-field: "options": expected a JSON object, got "[1]""#,
        ),
        (
            r#""dlq", "data": ["list", "A", "[1"]"#,
            r#"invalid-field: "options": expected a JSON object, got "[1""#,
        ),
    ] {
        let (token, data) = fixture.json(&format!(r#"{{"token": {text}}}"#));
        assert_eq!(token, Token::NAK, "{text}");
        assert!(data.starts_with(expected), "{text}\n{data}\n{expected}");
    }
    // Of much only the beginning.
    let much = "x".repeat(1 << 20);
    for text in [
        format!(r#""events", "max": "{much}""#),
        format!(r#""emit", "subject": "x", "level": "{much}""#),
        format!(r#""emit", "subject": "x", "level": ["{much}"]"#),
        format!(r#""dlq", "data": ["list", "A", "{much}"]"#),
    ] {
        let (_, data) = fixture.json(&format!(r#"{{"token": {text}}}"#));
        assert!(
            data.starts_with("invalid-field") && data.len() < 200,
            "{data}"
        );
    }
}
