//! Each route, used as it is meant to be.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use pgw_core::access::Caller;
use pgw_core::id::{OperationId, PaymentId};
use pgw_core::page::PageRequest;
use pgw_core::payment::plan::{Evidence, Plan, Stamp, Timing};
use pgw_core::payment::{Fence, plan};
use pgw_core::scope::Scope;
use pgw_core::storage::AuditFilter;
use pgw_core::timestamp::Timestamp;
use serde_json::{Value, json};

use crate::harness::{App, Ask, Reply, payment};

async fn ok(ask: Ask<'_>) -> Value {
    let reply = ask.await_reply().await;
    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    reply.json()
}

fn ids(list: &Value) -> Vec<&str> {
    list["data"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_payment_is_created_and_read() {
    let app = App::new().await;
    let extra = "\"customer_id\":\"cus_42\",\"description\":\"Order 7\",\"metadata\":{\"a\":\"1\"},\
                 \"payment_method\":\"tok_visa\",\"capture\":\"automatic\",\"expires_in\":3600,";
    let reply = app.post("/payments", payment(extra)).await_reply().await;
    assert_eq!(reply.status, StatusCode::CREATED);
    let body = String::from_utf8(reply.body.to_vec()).unwrap();
    assert!(body.contains("\"amount\":49.99,\"amount_minor\":4999,"), "{body}");
    let created = reply.json();
    for (member, value) in [
        ("object", json!("payment")),
        ("status", json!("pending")),
        ("currency", json!("USD")),
        ("customer_id", json!("cus_42")),
        ("customer_email", json!("ada@example.com")),
        ("description", json!("Order 7")),
        ("metadata", json!({"a": "1"})),
        ("mode", json!("test")),
    ] {
        assert_eq!(created[member], value, "{member}");
    }
    assert_eq!(reply.header("preference-applied"), None);
    let read = app.get(reply.header("location").unwrap()).await_reply().await;
    assert_eq!(read.body, reply.body);
}

#[tokio::test(start_paused = true)]
async fn waiting_gives_the_outcome() {
    let app = App::new().await;
    let _worker = app.work();
    for (token, status) in [
        ("tok_visa", "succeeded"),
        ("tok_decline_insufficient_funds", "failed"),
        ("tok_requires_action", "requires_action"),
    ] {
        let body = payment(&format!("\"payment_method\":\"{token}\","));
        let reply = app.post("/payments", body).with("prefer", "wait=99").await_reply().await;
        assert_eq!((reply.status, reply.text("status")), (StatusCode::CREATED, status.to_owned()));
        assert_eq!(reply.header("preference-applied"), Some("wait=30"));
    }
}

#[tokio::test]
async fn amounts_are_exact_in_every_spelling() {
    let app = App::new().await;
    for (amount, currency, minor) in [
        ("0.1", "USD", 10),
        ("\"0.10\"", "USD", 10),
        ("4.999e1", "USD", 4999),
        ("49.990", "USD", 4999),
        ("500", "JPY", 500),
        ("1.234", "KWD", 1234),
        ("9999999999999.99", "USD", 999_999_999_999_999_i64),
    ] {
        let body = payment("").replace("49.99", amount).replace("USD", currency);
        let reply = app.post("/payments", body).await_reply().await;
        assert_eq!(reply.json()["amount_minor"], minor, "{amount} {currency} {reply:?}");
    }
}

#[tokio::test]
async fn lists_are_newest_first_and_paged() {
    let app = App::new().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(app.post("/payments", payment("")).await_reply().await.text("id"));
    }
    made.reverse();
    let first = ok(app.get("/payments?limit=2")).await;
    assert_eq!((ids(&first), &first["has_more"]), (vec![&*made[0], &*made[1]], &json!(true)));
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = ok(app.get(&format!("/payments?limit=3&after={cursor}"))).await;
    assert_eq!(ids(&second), made[2..]);
    assert_eq!((&second["has_more"], &second["next_cursor"]), (&json!(false), &Value::Null));
}

#[tokio::test]
async fn lists_are_filtered() {
    let app = App::new().await;
    let plain = app.post("/payments", payment("")).await_reply().await.text("id");
    let ask = app.post("/payments", payment("\"customer_id\":\"cus_1\",").replace("USD", "EUR"));
    let keyed = ask.with("idempotency-key", "k-1").await_reply().await.text("id");
    for (query, expected) in [
        ("customer_id=cus_1", vec![&*keyed]),
        ("currency=EUR&status=pending", vec![&*keyed]),
        ("currency=USD", vec![&*plain]),
        ("idempotency_key=k-1", vec![&*keyed]),
        ("status=succeeded", vec![]),
        ("created_from=2020-01-01T00:00:00Z", vec![&*keyed, &*plain]),
        ("created_before=2020-01-01T00:00:00Z", vec![]),
    ] {
        let list = ok(app.get(&format!("/payments?{query}"))).await;
        assert_eq!(ids(&list), expected, "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_timeline_and_the_operations() {
    let app = App::new().await;
    let _worker = app.work();
    let id = app.pay("").await;
    let all = ok(app.get(&format!("/payments/{id}/events"))).await;
    let types: Vec<_> = all["data"].as_array().unwrap().iter().map(|e| e["type"].clone()).collect();
    assert_eq!(types, ["payment.created", "payment.succeeded"]);
    let first = ok(app.get(&format!("/payments/{id}/events?limit=1"))).await;
    assert_eq!((&first["has_more"], &first["next_cursor"]), (&json!(true), &json!("1")));
    let rest = ok(app.get(&format!("/payments/{id}/events?after=1"))).await;
    assert_eq!((ids(&rest), &rest["has_more"]), (vec![ids(&all)[1]], &json!(false)));
    let operations = ok(app.get(&format!("/payments/{id}/operations"))).await;
    assert_eq!(operations["data"][0]["type"], "charge");
    assert_eq!(operations["data"].as_array().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn captures() {
    let app = App::new().await;
    let _worker = app.work();
    let id = app.pay("\"capture\":\"manual\",").await;
    let path = format!("/payments/{id}/capture");
    let part = ok(app.post(&path, "{\"amount\":\"10.5\"}")).await;
    assert_eq!(
        (&part["status"], &part["captured_minor"]),
        (&json!("partially_captured"), &json!(1050))
    );
    assert_eq!(part["operation"]["type"], "capture");
    let rest = ok(app.post(&path, "{\"final\":true}")).await;
    assert_eq!((&rest["status"], &rest["captured_minor"]), (&json!("succeeded"), &json!(4999)));
    let other = app.pay("\"capture\":\"manual\",").await;
    // No body at all is as good as one without members.
    let whole = ok(app.ask(Method::POST, &format!("/payments/{other}/capture"))).await;
    assert_eq!(whole["captured_minor"], 4999);
}

#[tokio::test(start_paused = true)]
async fn cancels() {
    let app = App::new().await;
    let _worker = app.work();
    let id = app.pay("\"capture\":\"manual\",").await;
    let canceled = ok(app.post(&format!("/payments/{id}/cancel"), "{}")).await;
    assert_eq!((&canceled["status"], &canceled["captured_minor"]), (&json!("canceled"), &json!(0)));
}

#[tokio::test(start_paused = true)]
async fn refunds() {
    let app = App::new().await;
    let _worker = app.work();
    let id = app.pay("").await;
    let ask =
        app.patch(&format!("/payments/{id}/refund"), "{\"amount\":9.99,\"reason\":\"broken\"}");
    let part = ok(ask).await;
    assert_eq!((&part["object"], &part["status"]), (&json!("refund"), &json!("succeeded")));
    assert_eq!((&part["amount_minor"], &part["reason"]), (&json!(999), &json!("broken")));
    let rest = ok(app.post(&format!("/payments/{id}/refunds"), "{}")).await;
    assert_eq!(rest["amount_minor"], 4000);
    let one = ok(app.get(&format!("/refunds/{}", part["id"].as_str().unwrap()))).await;
    assert_eq!(one, part);
    let all = ok(app.get(&format!("/refunds?payment_id={id}"))).await;
    assert_eq!(ids(&all), [rest["id"].as_str().unwrap(), part["id"].as_str().unwrap()]);
    assert_eq!(ids(&ok(app.get("/refunds?limit=1")).await).len(), 1);
    assert_eq!(ok(app.get(&format!("/payments/{id}"))).await["status"], "refunded");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_settled_is_202() {
    let app = App::new().await;
    let worker = app.work();
    let id = app.pay("\"payment_method\":\"tok_refund_timeout_after\",").await;
    let path = format!("/payments/{id}/refund");
    let reply = app.patch(&path, "{\"amount\":1}").with("prefer", "wait=1").await_reply().await;
    assert_eq!(reply.status, StatusCode::ACCEPTED, "{reply:?}");
    worker.shutdown().await;
    let reply = app.patch(&path, "{\"amount\":2}").with("prefer", "wait=0").await_reply().await;
    assert_eq!((reply.status, reply.text("status")), (StatusCode::ACCEPTED, "queued".to_owned()));
    assert_eq!(reply.header("preference-applied"), Some("wait=0"));
}

#[tokio::test(start_paused = true)]
async fn confirmations() {
    let app = App::new().await;
    let _worker = app.work();
    let id = app.pay("\"payment_method\":\"tok_requires_action\",").await;
    let before = ok(app.get(&format!("/payments/{id}"))).await;
    assert_eq!(before["next_action"]["type"], "redirect");
    let after = ok(app.post(&format!("/payments/{id}/confirm"), "{}")).await;
    assert_eq!(after["status"], "succeeded");
}

#[tokio::test(start_paused = true)]
async fn notifications_of_the_processor() {
    let app = App::new().await;
    let _worker = app.work();
    let id = app.pay("\"payment_method\":\"tok_requires_action\",").await;
    let operations = ok(app.get(&format!("/payments/{id}/operations"))).await;
    let key: OperationId = ids(&operations)[0].parse().unwrap();
    assert!(app.sandbox.complete_action(key).is_some());
    let notifications = app.sandbox.drain_notifications();
    assert_eq!(notifications.len(), 1);
    for raw in notifications {
        let send = |signature: &str| {
            let ask = app.post("/processors/sandbox/notifications", raw.body.clone());
            ask.without("x-api-key").with("sandbox-signature", signature)
        };
        let forged = send("00").await_reply().await;
        assert_eq!(forged.problem(400, "Validation failed")[0].2, "invalid_signature");
        let (_, signature) =
            raw.headers.iter().find(|(name, _)| name == "sandbox-signature").unwrap();
        let signature = std::str::from_utf8(signature).unwrap();
        assert_eq!(ok(send(signature)).await, json!({"received": true}));
        // Once more changes nothing and is as welcome.
        assert_eq!(ok(send(signature)).await, json!({"received": true}));
    }
    assert_eq!(ok(app.get(&format!("/payments/{id}"))).await["status"], "succeeded");
    let unknown = app.post("/processors/nobody/notifications", "{}").await_reply().await;
    unknown.problem(404, "Not found");
}

/// Commits what a plan says.
async fn commit(app: &App, plan: impl FnOnce(&mut Stamp<'_>) -> Plan) {
    let caller = Caller::worker(Scope::default());
    let env = app.gateway.env();
    let mut ids = || env.uuid();
    let plan = plan(&mut Stamp { now: env.now(), caller: &caller, ids: &mut ids });
    app.gateway.storage().commit(plan.changes).await.unwrap();
}

/// Brings a payment's charge to where a person must settle it.
pub(crate) async fn until_review(app: &App, id: PaymentId) -> OperationId {
    let state = || async { app.gateway.host().payment(id).await.unwrap().unwrap() };
    let now = state().await;
    let key = now.operations[0].id;
    let (deadline, soon) = (now.payment.expires_at, Duration::from_secs(30));
    commit(app, |stamp| plan::dispatch(&now, key, Fence(1), deadline, soon, stamp).unwrap()).await;
    let now = state().await;
    let timing = Timing { retry_in: None, probe_in: soon, probes: 0 };
    commit(app, |stamp| {
        plan::apply(&now, key, &Evidence::Lost, timing, &[], stamp).unwrap().unwrap()
    })
    .await;
    let now = state().await;
    commit(app, |stamp| plan::review(&now, key, stamp).unwrap()).await;
    key
}

#[tokio::test]
async fn reviews_are_settled_by_a_person() {
    let app = App::new().await;
    let id = app.post("/payments", payment("")).await_reply().await.text("id");
    let operation = until_review(&app, id.parse().unwrap()).await;
    assert_eq!(ok(app.get(&format!("/payments/{id}"))).await["needs_review"], true);
    let body =
        json!({"operation": operation, "outcome": "succeeded", "reason": "seen on the statement"});
    let settled = ok(app.post(&format!("/payments/{id}/resolve"), body.to_string())).await;
    assert_eq!(
        (&settled["status"], &settled["needs_review"]),
        (&json!("succeeded"), &json!(false))
    );
}

#[tokio::test]
async fn endpoints() {
    let app = App::new().await;
    let body = json!({
        "url": "https://hooks.example/in",
        "description": "mine",
        "event_types": ["payment.*", "refund.succeeded"],
        "signature_profiles": ["standard", "stripe"],
    });
    let reply = app.post("/webhook-endpoints", body.to_string()).await_reply().await;
    assert_eq!(reply.status, StatusCode::CREATED);
    let mut created = reply.json();
    let secret = created.as_object_mut().unwrap().remove("secret").unwrap();
    assert!(secret.as_str().unwrap().starts_with("whsec_"));
    for (member, value) in body.as_object().unwrap() {
        assert_eq!(&created[member], value);
    }
    let path = reply.header("location").unwrap();
    // The secret is shown once.
    assert_eq!(ok(app.get(path)).await, created);
    assert_eq!(ok(app.get("/webhook-endpoints")).await["data"], json!([created]));

    let change = json!({"description": null, "status": "disabled", "event_types": [], "signature_profiles": ["seed"]});
    let changed = ok(app.patch(path, change.to_string())).await;
    assert_eq!((&changed["description"], &changed["status"]), (&Value::Null, &json!("disabled")));
    assert_eq!(changed["signature_profiles"], json!(["seed"]));
    assert_eq!((&changed["url"], &changed["event_types"]), (&created["url"], &json!([])));
    assert_eq!(ok(app.patch(path, "{\"status\":\"enabled\"}")).await["status"], "enabled");

    let deleted = app.ask(Method::DELETE, path).await_reply().await;
    assert_eq!((deleted.status, deleted.body.len()), (StatusCode::NO_CONTENT, 0));
    app.get(path).await_reply().await.problem(404, "Not found");
    app.ask(Method::DELETE, path).await_reply().await.problem(404, "Not found");
}

#[tokio::test]
async fn deliveries_are_listed_and_retried() {
    let app = App::new().await;
    let endpoint = app.endpoint("https://hooks.example/in").await;
    let payment = app.post("/payments", payment("")).await_reply().await.text("id");
    let list = ok(app.get("/webhook-events?status=pending&event_type=payment.created")).await;
    let [delivery] = &list["data"].as_array().unwrap()[..] else { panic!("{list}") };
    assert_eq!(
        (&delivery["endpoint_id"], &delivery["payment_id"]),
        (&json!(endpoint), &json!(payment))
    );
    for none in ["status=failed", "event_type=test.ping", "created_before=2020-01-01T00:00:00Z"] {
        assert_eq!(
            ok(app.get(&format!("/webhook-events?{none}"))).await["data"],
            json!([]),
            "{none}"
        );
    }
    let by_endpoint = ok(app.get(&format!("/webhook-events?endpoint_id={endpoint}"))).await;
    assert_eq!(&by_endpoint["data"][0], delivery);
    let path = format!("/webhook-events/{}", delivery["id"].as_str().unwrap());
    assert_eq!(&ok(app.get(&path)).await, delivery);
    assert_eq!(ok(app.get(&format!("{path}/attempts"))).await["data"], json!([]));
    let retried: Reply = app.post(&format!("{path}/retry"), "").await_reply().await;
    assert_eq!(
        (retried.status, retried.json()["id"].clone()),
        (StatusCode::ACCEPTED, delivery["id"].clone())
    );
}

#[tokio::test(start_paused = true)]
async fn what_failed_is_retried_in_bulk() {
    let app = App::new().await;
    let worker = app.work();
    let endpoint = app.endpoint("https://refusing.example/in").await;
    app.pay("").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let failed = ok(app.get("/webhook-events?status=failed")).await;
    let failed = failed["data"].as_array().unwrap();
    assert!(failed.len() >= 2, "{failed:?}");
    worker.shutdown().await;

    let retry = async |body: Value| -> Value {
        let reply = app.post("/webhook-events/retry", body.to_string()).await_reply().await;
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{reply:?}");
        reply.json()
    };
    let answer = |dry_run: bool, matched: usize, retried: usize| {
        json!({
            "object": "bulk_retry", "dry_run": dry_run, "matched": matched, "retried": retried,
            "has_more": false, "next_cursor": null,
        })
    };
    let before = app.storage.dump();
    let by_endpoint = json!({"filter": {"endpoint_id": endpoint}, "dry_run": true});
    assert_eq!(retry(by_endpoint).await, answer(true, failed.len(), 0));
    for filter in [
        json!({"status": "delivered"}),
        json!({"event_type": "refund.created"}),
        json!({"created_before": "2020-01-01T00:00:00Z"}),
    ] {
        assert_eq!(retry(json!({"filter": filter})).await, answer(false, 0, 0), "{filter}");
    }
    assert!(app.storage.dump() == before);

    let filter = json!({"event_type": "payment.created", "created_from": "2020-01-01T00:00:00Z"});
    assert_eq!(retry(json!({"filter": filter})).await, answer(false, 1, 1));
    assert_eq!(retry(json!({"filter": filter})).await, answer(false, 0, 0));
    let pending = ok(app.get("/webhook-events?status=pending")).await;
    assert_eq!(pending["data"][0]["event_type"], "payment.created", "{pending}");
    // What is on its way already is found and left alone.
    let filter = json!({"status": "pending"});
    let before = app.storage.dump();
    assert_eq!(retry(json!({"filter": filter})).await, answer(false, 1, 0));
    assert!(app.storage.dump() == before);
    assert_eq!(
        retry(json!({"filter": {}})).await,
        answer(false, failed.len() - 1, failed.len() - 1)
    );
    let merchant = Scope::default().merchant;
    let rows = app
        .gateway
        .storage()
        .audit(&merchant, &AuditFilter::default(), PageRequest::first(100))
        .await
        .unwrap();
    let retries = rows.data.iter().filter(|row| row.action.as_str() == "delivery.retry").count();
    assert_eq!(retries, failed.len());
}

#[tokio::test(start_paused = true)]
async fn what_an_endpoint_missed_is_recovered() {
    let app = App::new().await;
    let worker = app.work();
    let refusing = app.endpoint("https://refusing.example/a").await;
    let other = app.endpoint("https://refusing.example/b").await;
    app.pay("").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    worker.shutdown().await;
    let failed = format!("/webhook-events?status=failed&endpoint_id={refusing}");
    let of_other = format!("/webhook-events?status=failed&endpoint_id={other}");
    let of_other_before = ok(app.get(&of_other)).await;
    let missed = ok(app.get(&failed)).await["data"].as_array().unwrap().len();
    assert!(missed >= 2);
    let recover = async |since: &str| -> Value {
        let path = format!("/webhook-endpoints/{refusing}/recover");
        let body = json!({"since": since});
        let reply = app.post(&path, body.to_string()).await_reply().await;
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{reply:?}");
        reply.json()
    };
    let before = app.storage.dump();
    assert_eq!(recover("2999-01-01T00:00:00Z").await["matched"], 0);
    assert!(app.storage.dump() == before);
    let recovered = recover("2020-01-01T00:00:00Z").await;
    assert_eq!((&recovered["matched"], &recovered["retried"]), (&json!(missed), &json!(missed)));
    assert_eq!(
        (&recovered["object"], &recovered["has_more"]),
        (&json!("bulk_retry"), &json!(false))
    );
    assert_eq!(recover("2020-01-01T00:00:00Z").await["matched"], 0);
    assert_eq!(ok(app.get(&failed)).await["data"], json!([]));
    assert_eq!(ok(app.get(&of_other)).await, of_other_before);
}

#[tokio::test]
async fn a_secret_is_rotated() {
    let app = App::new().await;
    let created = app.post("/webhook-endpoints", "{\"url\":\"https://hooks.example/\"}");
    let created = created.await_reply().await.json();
    assert_eq!(created["previous_secret_expires_at"], Value::Null);
    let path = format!("/webhook-endpoints/{}", created["id"].as_str().unwrap());
    let rotate = async |body: &'static str| -> Value {
        ok(app.post(&format!("{path}/rotate-secret"), body)).await
    };
    let mut secrets = vec![created["secret"].clone()];
    for (body, overlap) in
        [("", 86_400), ("{\"expires_in\":604800}", 604_800), ("{\"expires_in\":1}", 1)]
    {
        let mut rotated = rotate(body).await;
        let secret = rotated.as_object_mut().unwrap().remove("secret").unwrap();
        assert!(secret.as_str().unwrap().starts_with("whsec_") && !secrets.contains(&secret));
        secrets.push(secret);
        let at = |member: &str| rotated[member].as_str().unwrap().parse::<Timestamp>().unwrap();
        let until = at("updated_at").plus(Duration::from_secs(overlap));
        assert_eq!(at("previous_secret_expires_at"), until, "{body}");
        // The new secret is shown once, the old one never again.
        assert_eq!(ok(app.get(&path)).await, rotated);
    }
    let stopped = rotate("{\"expires_in\":0}").await;
    assert_eq!(stopped["previous_secret_expires_at"], Value::Null);
    assert_eq!(stopped["version"], 5);
    let merchant = Scope::default().merchant;
    let rows = app
        .gateway
        .storage()
        .audit(&merchant, &AuditFilter::default(), PageRequest::first(100))
        .await
        .unwrap();
    let rotations = rows.data.iter().filter(|row| row.action.as_str() == "endpoint.rotate_secret");
    assert_eq!(rotations.count(), 4);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_is_tested() {
    let app = App::new().await;
    app.endpoint("https://hooks.example/other").await;
    let body = json!({"url": "https://hooks.example/in", "event_types": ["refund.*"]});
    let created = app.post("/webhook-endpoints", body.to_string()).await_reply().await.json();
    let path = format!("/webhook-endpoints/{}", created["id"].as_str().unwrap());
    let worker = app.work();
    let reply = app.post(&format!("{path}/test"), "").await_reply().await;
    assert_eq!(reply.status, StatusCode::ACCEPTED, "{reply:?}");
    let sent = reply.json();
    assert_eq!(
        (&sent["event_type"], &sent["endpoint_id"], &sent["payment_id"], &sent["status"]),
        (&json!("test.ping"), &created["id"], &Value::Null, &json!("pending"))
    );
    tokio::time::sleep(Duration::from_secs(5)).await;
    // To this endpoint only, though the other hears everything and this one hears refunds.
    let list = ok(app.get("/webhook-events")).await;
    assert_eq!(ids(&list), [sent["id"].as_str().unwrap()]);
    assert_eq!(list["data"][0]["status"], "delivered");
    let id = sent["id"].as_str().unwrap().parse().unwrap();
    let work = app.gateway.host().delivery(id).await.unwrap().unwrap();
    assert_eq!((work.event.payment, work.event.sequence), (None, None));
    let event: Value = serde_json::from_slice(&work.event.body).unwrap();
    let endpoint = ok(app.get(&path)).await;
    assert_eq!((&event["type"], &event["data"]["object"]), (&json!("test.ping"), &endpoint));
    worker.shutdown().await;
}
