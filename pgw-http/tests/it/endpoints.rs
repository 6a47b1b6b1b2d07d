//! How an endpoint is delivered to, over HTTP: what is shown of it and what never is, and every way in which it can be said wrong.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use pgw_core::access::Role;
use pgw_core::gateway::Gateway;
use pgw_core::scope::Scope;
use pgw_core::webhook::{DeliveryOptions, WebhookRequest};
use pgw_http::Config;
use pgw_storage_memory::{MemoryNotifier, MemoryQueue};
use pgw_webhook_client::StandardVerifier;
use serde_json::{Value, json};

use crate::bad_input::Bed;
use crate::harness::{App, Ask, Reply, new_key};

/// What no answer may show: the values of headers.
const HEADER_VALUES: [&str; 2] = ["Bearer s3cr3t-t0ken", "blue-whale"];

/// The end of the range of what may be under way at once, and its default.
const MOST_AT_ONCE: u8 = DeliveryOptions::CONCURRENCY_MAX;
const AT_ONCE: u8 = DeliveryOptions::CONCURRENCY_DEFAULT;

/// The body of an endpoint that says everything there is to say.
fn everything() -> Value {
    json!({
        "url": "https://hooks.example/in",
        "description": "mine",
        "event_types": ["payment.*"],
        "signature_profiles": ["standard"],
        "headers": {"Authorization": HEADER_VALUES[0], "X-Tenant": HEADER_VALUES[1]},
        "timeout_ms": 2_500,
        "concurrency": 3,
        "rate_per_second": 40,
        "ordering": "payment",
        "on_exhausted": "park",
    })
}

/// Sends it; the answer must be a success that shows no header's value.
async fn ok(ask: Ask<'_>) -> Reply {
    let reply = ask.await_reply().await;
    assert!(reply.status.is_success(), "{reply:?}");
    let shown = String::from_utf8(reply.body.to_vec()).unwrap();
    for value in HEADER_VALUES {
        assert!(!shown.contains(value), "{shown}");
    }
    reply
}

/// A new endpoint: its path, the secret of it, and the rest of the answer.
async fn created(app: &App, body: &Value) -> (String, String, Value) {
    let reply = ok(app.post("/webhook-endpoints", body.to_string())).await;
    assert_eq!(reply.status, StatusCode::CREATED);
    let (secret, shown) = secret_of(&reply);
    (reply.header("location").unwrap().to_owned(), secret, shown)
}

fn secret_of(reply: &Reply) -> (String, Value) {
    let mut shown = reply.json();
    let secret = shown.as_object_mut().unwrap().remove("secret").unwrap();
    (secret.as_str().unwrap().to_owned(), shown)
}

/// Asserts that an endpoint has these members.
fn assert_members(endpoint: &Value, members: &Value) {
    for (member, value) in members.as_object().unwrap() {
        assert_eq!(&endpoint[member], value, "{member} of {endpoint}");
    }
}

fn header<'r>(webhook: &'r WebhookRequest, name: &str) -> Option<&'r str> {
    webhook.headers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
}

fn is_signed_with(webhook: &WebhookRequest, secret: &str) -> bool {
    let at = header(webhook, "webhook-timestamp").unwrap().parse().unwrap();
    let verifier = StandardVerifier::new(secret).unwrap();
    verifier.verify_at(Duration::from_secs(at), &webhook.headers[..], &webhook.body).is_ok()
}

#[tokio::test]
async fn what_is_not_said_has_a_default() {
    let app = App::new().await;
    let (_, _, shown) = created(&app, &json!({"url": "https://hooks.example/"})).await;
    let defaults = json!({
        "headers": [], "timeout_ms": null, "concurrency": AT_ONCE, "rate_per_second": null, "ordering": "none",
        "on_exhausted": null, "failing_since": null,
    });
    assert_members(&shown, &defaults);
    // A null says as little as nothing.
    let nulls = json!({
        "url": "https://hooks.example/", "headers": null, "timeout_ms": null, "concurrency": null,
        "rate_per_second": null, "ordering": null, "on_exhausted": null,
    });
    assert_members(&created(&app, &nulls).await.2, &defaults);
}

#[tokio::test]
async fn everything_is_shown_but_secrets_and_the_values_of_headers() {
    let app = App::new().await;
    let (path, secret, shown) = created(&app, &everything()).await;
    let mut expected = everything();
    expected["headers"] = json!(["authorization", "x-tenant"]);
    assert_members(&shown, &expected);
    assert!(secret.starts_with("whsec_"));
    for reply in [
        ok(app.get(&path)).await,
        ok(app.get("/webhook-endpoints")).await,
        ok(app.patch(&path, "{\"description\":\"ours\"}")).await,
        ok(app.post(&format!("{path}/test"), "")).await,
        ok(app.get("/webhook-events")).await,
    ] {
        let body = String::from_utf8(reply.body.to_vec()).unwrap();
        assert!(!body.contains("secret\"") && !body.contains("whsec_"), "{body}");
    }
    let event = app.get("/webhook-events").await_reply().await.json()["data"][0]["id"].clone();
    let id = event.as_str().unwrap().parse().unwrap();
    let work = app.gateway.host().delivery(id).await.unwrap().unwrap();
    let body = String::from_utf8(work.event.body.to_vec()).unwrap();
    assert!(body.contains("\"headers\":[\"authorization\",\"x-tenant\"]"), "{body}");
    assert!(!HEADER_VALUES.iter().any(|value| body.contains(value)), "{body}");
}

#[tokio::test]
async fn the_ends_of_every_range() {
    let app = App::new().await;
    let (path, _, _) = created(&app, &everything()).await;
    let header = |n: usize| (format!("x-{n}{}", "n".repeat(60)), json!("v".repeat(1_024)));
    let most: serde_json::Map<_, _> = (10..30).map(header).collect();
    for options in [
        json!({"timeout_ms": 1_000, "concurrency": 1, "rate_per_second": 1}),
        json!({"timeout_ms": 60_000, "concurrency": MOST_AT_ONCE, "rate_per_second": 10_000}),
        json!({"ordering": "none", "on_exhausted": null}),
        json!({"ordering": "payment", "on_exhausted": "skip"}),
        json!({"ordering": "payment", "on_exhausted": "park"}),
    ] {
        let mut body = options.clone();
        body["url"] = "https://hooks.example/".into();
        assert_members(&created(&app, &body).await.2, &options);
        assert_members(&ok(app.patch(&path, options.to_string())).await.json(), &options);
    }
    let full = ok(app.patch(&path, json!({"headers": most}).to_string())).await.json();
    assert_eq!(full["headers"].as_array().unwrap().len(), 20);
    let odd = "{\"headers\":{\"!#$%&'*+-.^_`|~1\":\"a\\tb c; d=\\\"e\\\", \\\\\"}}";
    assert_eq!(ok(app.patch(&path, odd)).await.json()["headers"], json!(["!#$%&'*+-.^_`|~1"]));
}

#[tokio::test]
async fn a_change_leaves_what_it_does_not_name() {
    let app = App::new().await;
    let (path, _, mut before) = created(&app, &everything()).await;
    for (change, shown) in [
        (json!({"timeout_ms": null}), json!({"timeout_ms": null})),
        (json!({"concurrency": null}), json!({"concurrency": AT_ONCE})),
        (json!({"rate_per_second": null}), json!({"rate_per_second": null})),
        (json!({"rate_per_second": 7}), json!({"rate_per_second": 7})),
        (json!({"concurrency": 2}), json!({"concurrency": 2})),
        (json!({"timeout_ms": 1_234}), json!({"timeout_ms": 1_234})),
        // Only the description and the limits can be lifted.
        (json!({"headers": null, "ordering": null, "on_exhausted": null}), json!({})),
        (json!({"url": null, "event_types": null, "signature_profiles": null}), json!({})),
        // The order and what becomes of the exhausted are one setting.
        (json!({"ordering": "payment"}), json!({"on_exhausted": "skip"})),
        (json!({"ordering": "payment", "on_exhausted": "park"}), json!({"on_exhausted": "park"})),
        (json!({"ordering": "none"}), json!({"ordering": "none", "on_exhausted": null})),
        (json!({"headers": {"X-B": "1", "x-a": "2"}}), json!({"headers": ["x-b", "x-a"]})),
        (json!({"headers": {}}), json!({"headers": []})),
        (json!({}), json!({})),
    ] {
        let after = ok(app.patch(&path, change.to_string())).await.json();
        for (member, value) in shown.as_object().unwrap() {
            before[member] = value.clone();
        }
        before["version"] = (before["version"].as_u64().unwrap() + 1).into();
        before["updated_at"] = after["updated_at"].clone();
        assert_eq!(after, before, "{change}");
        assert_eq!(ok(app.get(&path)).await.json(), after);
    }
}

#[tokio::test(start_paused = true)]
async fn limits_out_of_range_or_of_another_type() {
    let bed = Bed::new().await;
    let fits_none =
        ["0", "77777", "4294967295", "4294967296", "4294967297", "18446744073709551615"];
    let is_none = [
        "-7777",
        "-0",
        "7777.5",
        "7777.0",
        "7e3",
        "\"7777\"",
        "\"\"",
        "true",
        "[7777]",
        "{\"a\":7777}",
        "18446744073709551616",
        "77777777777777777777777777",
    ];
    let too_many = (u64::from(MOST_AT_ONCE) + 1).to_string();
    for (member, others) in [
        ("timeout_ms", &["1", "999", "60001"][..]),
        // Above 255 a number must not be taken for its last byte.
        ("concurrency", &[&*too_many, "255", "256", "257", "272"]),
        ("rate_per_second", &["10001", "65536"]),
    ] {
        for number in fits_none.iter().chain(others) {
            faulty(&bed, &format!("\"{member}\":{number}"), member, "out_of_range").await;
        }
        for value in is_none {
            faulty(&bed, &format!("\"{member}\":{value}"), member, "invalid_type").await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn orders_that_are_none() {
    let bed = Bed::new().await;
    for (members, path, code) in [
        ("\"ordering\":\"7777\"", "ordering", "unknown_value"),
        ("\"ordering\":\"Payment\"", "ordering", "unknown_value"),
        // The names that storage has for them.
        ("\"ordering\":\"skip\"", "ordering", "unknown_value"),
        ("\"ordering\":\"park\"", "ordering", "unknown_value"),
        ("\"ordering\":7777", "ordering", "invalid_type"),
        ("\"ordering\":true", "ordering", "invalid_type"),
        ("\"ordering\":\"payment\",\"on_exhausted\":\"7777\"", "on_exhausted", "unknown_value"),
        ("\"ordering\":\"payment\",\"on_exhausted\":7777", "on_exhausted", "invalid_type"),
        ("\"ordering\":\"payment\",\"on_exhausted\":false", "on_exhausted", "invalid_type"),
        ("\"on_exhausted\":\"7777\"", "on_exhausted", "unknown_value"),
        ("\"on_exhausted\":\"skip\"", "on_exhausted", "out_of_place"),
        ("\"on_exhausted\":\"park\",\"ordering\":null", "on_exhausted", "out_of_place"),
        ("\"on_exhausted\":\"park\",\"ordering\":\"none\"", "on_exhausted", "out_of_place"),
        // An order that cannot be read is one fault, not two.
        ("\"on_exhausted\":\"park\",\"ordering\":\"7777\"", "ordering", "unknown_value"),
        ("\"on_exhausted\":\"park\",\"ordering\":7777", "ordering", "invalid_type"),
        ("\"on_exhaust\":\"park\"", "on_exhaust", "unknown"),
        ("\"timeout\":7777", "timeout", "unknown"),
        ("\"failing_since\":null", "failing_since", "unknown"),
        ("\"secret\":\"whsec_7777\"", "secret", "unknown"),
    ] {
        faulty(&bed, members, path, code).await;
    }
    // Nor does it count that the endpoint is of that order already.
    let path = format!("/webhook-endpoints/{}", bed.endpoint);
    ok(bed.app.patch(&path, "{\"ordering\":\"payment\",\"on_exhausted\":\"park\"}")).await;
    bed.fault(bed.app.patch(&path, "{\"on_exhausted\":\"skip\"}"), "on_exhausted", "out_of_place")
        .await;
}

#[tokio::test(start_paused = true)]
async fn headers_that_cannot_be_sent() {
    let bed = Bed::new().await;
    let headers = |value: &str| format!("\"headers\":{value}");
    for value in [
        "7777",
        "\"7777\"",
        "true",
        "[]",
        "[[\"X-A\",\"7777\"]]",
        "{\"X-A\":7777}",
        "{\"X-A\":null}",
        "{\"X-A\":[\"7777\"]}",
        "{\"X-A\":\"\\ud800 7777\"}",
        "{\"X-\\udfff\":\"7777\"}",
    ] {
        faulty(&bed, &headers(value), "headers", "invalid_type").await;
    }
    for name in ["", "X 7777", "X:7777", "X-\\r\\n7777", "X-\\u00007777", "\u{e4}7777", "(7777)"] {
        faulty(&bed, &headers(&format!("{{\"{name}\":\"v\"}}")), "headers", "invalid_name").await;
    }
    let long_name = format!("{{\"x-{}\":\"v\"}}", "7".repeat(63));
    faulty(&bed, &headers(&long_name), "headers", "invalid_name").await;
    for value in [
        "",
        " 7777",
        "7777 ",
        "7777\\t",
        "a\\r\\nX-B: 7777",
        "a\\n7777",
        "a\\r7777",
        "\\u00007777",
        "\\u007f7777",
        "\u{e4}7777",
        "7777\u{2028}",
    ] {
        faulty(&bed, &headers(&format!("{{\"X-A\":\"{value}\"}}")), "headers", "invalid_value")
            .await;
    }
    let long = format!("{{\"X-A\":\"{}\"}}", "7".repeat(1_025));
    faulty(&bed, &headers(&long), "headers", "invalid_value").await;
    for name in [
        "Webhook-Id",
        "webhook-signature",
        "X-Webhook-Signature",
        "Stripe-Signature",
        "HOST",
        "Content-Type",
        "Content-Length",
        "Transfer-Encoding",
        "Connection",
        "Keep-Alive",
        "TE",
        "Trailer",
        "Upgrade",
        "Proxy-Authorization",
        "Expect",
        "Date",
        "User-Agent",
        "Accept-Encoding",
    ] {
        let value = format!("{{\"X-A\":\"v\",\"{name}\":\"7777\"}}");
        faulty(&bed, &headers(&value), "headers", "reserved").await;
    }
    for twice in ["{\"X-A\":\"1\",\"x-a\":\"7777\"}", "{\"X-A\":\"1\",\"X-A\":\"7777\"}"] {
        faulty(&bed, &headers(twice), "headers", "duplicate").await;
    }
    for card in ["{\"X-A\":\"4111 1111 1111 1111\"}", "{\"X-4111111111111111\":\"a\"}"] {
        faulty(&bed, &headers(card), "headers", "card_number").await;
    }
    for count in [21, 1_000] {
        let many: Vec<_> = (0..count).map(|n| format!("\"x-{n}\":\"7777\"")).collect();
        faulty(&bed, &headers(&format!("{{{}}}", many.join(","))), "headers", "too_many").await;
    }
}

/// Asserts that these members are refused for this one fault, of a new endpoint and of one that is there.
async fn faulty(bed: &Bed, members: &str, path: &str, code: &str) {
    let new = format!("{{\"url\":\"https://a.example/\",{members}}}");
    bed.fault(bed.app.post("/webhook-endpoints", new), path, code).await;
    let of_one = format!("/webhook-endpoints/{}", bed.endpoint);
    bed.fault(bed.app.patch(&of_one, format!("{{{members}}}")), path, code).await;
}

#[tokio::test(start_paused = true)]
async fn every_fault_is_named_at_once() {
    let bed = Bed::new().await;
    let body = "{\"url\":\"7777\",\"timeout_ms\":\"7777\",\"concurrency\":0,\"rate_per_second\":-7777,\
                \"ordering\":\"none\",\"on_exhausted\":\"park\",\"headers\":{\"Host\":\"7777\"},\"zzz\":1}";
    for ask in [
        bed.app.post("/webhook-endpoints", body),
        bed.app.patch(&format!("/webhook-endpoints/{}", bed.endpoint), body),
    ] {
        let errors = bed.refused(ask).await.problem(400, "Validation failed");
        let mut named: Vec<_> = errors.iter().map(|(path, _, code)| (&**path, &**code)).collect();
        named.sort_unstable();
        let expected = [
            ("concurrency", "out_of_range"),
            ("headers", "reserved"),
            ("on_exhausted", "out_of_place"),
            ("rate_per_second", "invalid_type"),
            ("timeout_ms", "invalid_type"),
            ("url", "invalid_url"),
            ("zzz", "unknown"),
        ];
        assert_eq!(named, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn tests_carry_the_headers_and_both_secrets_while_they_count() {
    let app = App::new().await;
    let (path, old, _) = created(&app, &everything()).await;
    let _worker = app.work();
    let ping = async || -> WebhookRequest {
        let reply = ok(app.post(&format!("{path}/test"), "")).await;
        assert_eq!(reply.status, StatusCode::ACCEPTED);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let mut received = app.receiver.take();
        assert_eq!(received.len(), 1);
        received.remove(0)
    };
    let webhook = ping().await;
    assert_eq!(header(&webhook, "authorization"), Some(HEADER_VALUES[0]));
    assert_eq!(header(&webhook, "x-tenant"), Some(HEADER_VALUES[1]));
    assert_eq!(webhook.timeout, Duration::from_millis(2_500));
    assert!(is_signed_with(&webhook, &old));

    let rotated = ok(app.post(&format!("{path}/rotate-secret"), "")).await;
    let (new, shown) = secret_of(&rotated);
    assert_ne!(new, old);
    assert!(shown["previous_secret_expires_at"].is_string());
    assert_eq!(ok(app.get(&path)).await.json(), shown);
    let webhook = ping().await;
    assert!(is_signed_with(&webhook, &old) && is_signed_with(&webhook, &new));
    assert_eq!(header(&webhook, "x-tenant"), Some(HEADER_VALUES[1]));

    let body = "{\"expires_in\":0}";
    let (newest, _) = secret_of(&ok(app.post(&format!("{path}/rotate-secret"), body)).await);
    ok(app.patch(&path, "{\"headers\":{\"x-tenant\":\"red\"},\"timeout_ms\":null}")).await;
    let webhook = ping().await;
    assert!(is_signed_with(&webhook, &newest));
    assert!(!is_signed_with(&webhook, &new) && !is_signed_with(&webhook, &old));
    assert_eq!(
        (header(&webhook, "x-tenant"), header(&webhook, "authorization")),
        (Some("red"), None)
    );
    assert_eq!(webhook.timeout, Duration::from_secs(15));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_says_since_when() {
    let app = App::new().await;
    let id = app.endpoint("https://failing.example/in").await;
    let path = format!("/webhook-endpoints/{id}");
    let _worker = app.work();
    for _ in 0..10 {
        ok(app.post(&format!("{path}/test"), "")).await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let failing = ok(app.get(&path)).await.json();
    assert!(failing["failing_since"].is_string(), "{failing}");
    assert_eq!(failing["status"], "enabled");
    let anew = ok(app.patch(&path, "{\"status\":\"enabled\"}")).await.json();
    assert_eq!(anew["failing_since"], Value::Null);
}

#[tokio::test]
async fn a_node_that_sends_nothing_changes_what_needs_no_keys() {
    let app = App::new().await;
    let (path, _, shown) = created(&app, &everything()).await;
    let gateway = Gateway::builder()
        .with_storage(Arc::new(app.storage.clone()))
        .with_queue(Arc::new(MemoryQueue::new()))
        .with_notifier(Arc::new(MemoryNotifier::new()))
        .build()
        .unwrap();
    let key = new_key(&gateway, Scope::default(), Role::Admin).await;
    let router = pgw_http::router(gateway, Config::default());
    let ask = async |ask: Ask<'_>| ask.with("x-api-key", &key).of(router.clone()).await;
    let change = "{\"status\":\"disabled\",\"timeout_ms\":null,\"ordering\":\"none\"}";
    let changed = ask(app.patch(&path, change)).await;
    assert_eq!(changed.status, StatusCode::OK, "{changed:?}");
    assert_eq!(
        (&changed.json()["status"], &changed.json()["headers"]),
        (&json!("disabled"), &shown["headers"])
    );
    for change in ["{\"headers\":{\"x-a\":\"b\"}}", "{\"url\":\"https://a.example/\"}"] {
        ask(app.patch(&path, change)).await.problem(409, "Conflict");
    }
    let rotation = ask(app.post(&format!("{path}/rotate-secret"), "")).await;
    rotation.problem(409, "Conflict");
    let deleted = ask(app.ask(Method::DELETE, &path)).await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT);
}
