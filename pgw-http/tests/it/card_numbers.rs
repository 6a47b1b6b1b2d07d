//! A thousand card numbers in every text that any route takes, by the document and by the table: none is taken, stored or logged.

use axum::http::{Method, StatusCode};
use pgw_core::pan::contains_card_number;
use pgw_core::testing::random::Random;
use pgw_http::Route;
use serde_json::{Map, Value, json};

use crate::harness::App;
use crate::logging::Log;
use crate::permissions::{Ids, body, protected, rows};

/// Ranges and lengths of issuers: Visa, Mastercard, American Express, Discover, JCB, Diners Club, UnionPay.
const ISSUERS: [(&str, usize); 10] = [
    ("4", 16),
    ("51", 16),
    ("2221", 16),
    ("34", 15),
    ("37", 15),
    ("6011", 16),
    ("3528", 16),
    ("36", 14),
    ("62", 16),
    ("62", 19),
];

/// Numbers whose check digit is right, as people and programs write them.
fn numbers() -> Vec<String> {
    let random = Random::new(7);
    let separators = ["", " ", "-", "."];
    (0..1_000)
        .map(|n| {
            let (range, len) = ISSUERS[n % ISSUERS.len()];
            let mut digits = range.to_owned();
            while digits.len() < len - 1 {
                digits.push(char::from(b'0' + u8::try_from(random.below(10)).unwrap()));
            }
            digits.push(check_digit(&digits));
            let written = grouped(&digits, separators[n / ISSUERS.len() % separators.len()]);
            if n % 3 == 0 { format!("card {written}, thanks") } else { written }
        })
        .collect()
}

/// ISO/IEC 7812-1, annex B.
fn check_digit(digits: &str) -> char {
    let doubled = digits.bytes().rev().enumerate().map(|(at, byte)| {
        let digit = u32::from(byte - b'0') * if at % 2 == 0 { 2 } else { 1 };
        digit / 10 + digit % 10
    });
    char::from_digit((10 - doubled.sum::<u32>() % 10) % 10, 10).unwrap()
}

/// As on the card.
fn grouped(digits: &str, separator: &str) -> String {
    let lens: &[usize] = if digits.len() == 15 { &[4, 6, 5] } else { &[4, 4, 4, 4, 3] };
    let mut rest = digits;
    let mut groups = Vec::new();
    for len in lens {
        let (group, more) = rest.split_at(rest.len().min(*len));
        groups.push(group);
        rest = more;
    }
    groups.retain(|group| !group.is_empty());
    groups.join(separator)
}

/// The body of a route with a number in one of its texts, one for each. An amount is none: how it is read depends on the payment.
fn spoiled(route: &Route, document: &Value, number: &str) -> Vec<Value> {
    let valid: Value = serde_json::from_str(&body(route)).unwrap();
    let mut texts = texts_of(schema_of(route, document), document, number);
    // What the document does not know (yet) is known by an example.
    for (name, value) in valid.as_object().unwrap() {
        if value.is_string() && !texts.iter().any(|(known, _)| known == name) {
            texts.push((name.clone(), number.into()));
        }
    }
    texts.retain(|(name, _)| name != "amount");
    let with = |(name, value): (String, Value)| {
        let mut body = valid.clone();
        body[name] = value;
        body
    };
    texts.into_iter().map(with).collect()
}

fn schema_of<'a>(route: &Route, document: &'a Value) -> &'a Value {
    let method = route.method().as_str().to_ascii_lowercase();
    &document["paths"][route.path()][method]["requestBody"]["content"]["application/json"]["schema"]
}

/// Members of a schema that take texts, each with the number in it.
fn texts_of(schema: &Value, document: &Value, number: &str) -> Vec<(String, Value)> {
    let schema = resolve(schema, document);
    let members = schema["properties"].as_object().cloned().unwrap_or_default();
    let spoil = |(name, schema): (String, Value)| {
        let values = values_of(&schema, document, number);
        values.into_iter().map(move |value| (name.clone(), value)).collect::<Vec<_>>()
    };
    members.into_iter().flat_map(spoil).collect()
}

/// What a member may be, with the number in it.
fn values_of(schema: &Value, document: &Value, number: &str) -> Vec<Value> {
    let schema = resolve(schema, document);
    if let Some(choices) = schema["anyOf"].as_array() {
        return choices.iter().flat_map(|choice| values_of(choice, document, number)).collect();
    }
    match schema["type"].as_str() {
        Some("string") if schema["format"] == "uri" => {
            let path = number.replace([' ', ','], "-");
            vec![number.into(), format!("https://a.example/{path}").into()]
        }
        Some("string") => vec![number.into()],
        Some("array") if schema["items"]["type"] == "string" => vec![json!([number])],
        Some("object") if schema["additionalProperties"]["type"] == "string" => {
            vec![
                json!({"a": number}),
                Value::Object(Map::from_iter([(number.to_owned(), "a".into())])),
            ]
        }
        Some("object") => {
            let texts = texts_of(schema, document, number);
            texts.into_iter().map(|(name, value)| json!({name: value})).collect()
        }
        _ => Vec::new(),
    }
}

fn resolve<'a>(schema: &'a Value, document: &'a Value) -> &'a Value {
    match schema["$ref"].as_str().and_then(|target| target.strip_prefix('#')) {
        Some(target) => document.pointer(target).unwrap(),
        None => schema,
    }
}

#[tokio::test]
async fn a_thousand_in_every_text() {
    let document: Value = serde_json::from_str(include_str!("../../openapi.json")).unwrap();
    let log = Log::default();
    let _recording = log.record();
    let app = App::new().await;
    let ids = Ids::new(&app).await;
    let before = rows(&app);
    let numbers = numbers();
    let mut fields = 0;
    for (n, number) in numbers.iter().enumerate() {
        assert!(contains_card_number(number), "{number}");
        for route in
            protected().filter(|route| [Method::POST, Method::PATCH].contains(route.method()))
        {
            for body in spoiled(route, &document, number) {
                fields += usize::from(n == 0);
                let ask = app.ask(route.method().clone(), &ids.path(route)).json(body.to_string());
                let reply = ask.await_reply().await;
                assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{route:?} {body} {reply:?}");
                let shown = String::from_utf8_lossy(&reply.body);
                assert!(!shown.contains(number.as_str()), "{route:?} {shown}");
            }
        }
        let request_id = number.replace([' ', ','], "-");
        let ask = app.get("/payments").with("x-request-id", &request_id);
        let reply = ask.with("idempotency-key", &request_id).await_reply().await;
        assert_ne!(reply.header("x-request-id"), Some(&*request_id));
        let text = log.take();
        assert!(text.contains("pgw.request"), "{text}");
        for written in [number, &request_id] {
            assert!(!text.contains(written.as_str()), "{number} was logged");
        }
    }
    assert!(fields > 25, "{fields} texts");
    assert!(rows(&app) == before, "something was stored");
}
