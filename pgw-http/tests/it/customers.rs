//! Customers over HTTP: erasing, consents, exports; and the many ways to ask for them wrongly.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{App, payment};

/// An app where a customer has a paid payment, and somebody else too.
async fn with_customer() -> App {
    let app = App::new().await;
    for (id, name) in [("ada@shop", "Ada Marker"), ("bob", "Bob")] {
        let own = format!(",\"customer_id\":\"{id}\",\"customer_name\":\"{name}\"");
        let mut body: Value = serde_json::from_str(&payment("")).unwrap();
        let own: Value = serde_json::from_str(&format!("{{{}}}", &own[1..])).unwrap();
        body.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        let reply = app.post("/payments", body.to_string()).await_reply().await;
        assert_eq!(reply.status, StatusCode::CREATED);
    }
    app
}

#[tokio::test(start_paused = true)]
async fn a_customer_is_erased_and_its_erasure_can_be_followed() {
    let app = with_customer().await;
    let erase = || app.ask(Method::DELETE, "/customers/ada@shop").await_reply();
    let reply = erase().await;
    assert_eq!(reply.status, StatusCode::ACCEPTED);
    let marked = reply.json();
    assert_eq!((&marked["object"], &marked["state"]), (&json!("erasure"), &json!("marked")));
    assert_eq!((&marked["payments"], &marked["payments_redacted"]), (&json!(1), &json!(0)));
    assert_eq!(marked["customer_id"], marked["id"]);
    let id = marked["id"].as_str().unwrap();
    let list = String::from_utf8(app.get("/payments").await_reply().await.body.to_vec()).unwrap();
    assert!(!list.contains("Marker") && !list.contains("ada@shop"), "{list}");
    assert!(list.contains("redacted@example.com") && list.contains(id) && list.contains("Bob"));

    let worker = app.work();
    let path = format!("/erasures/{id}");
    let done = loop {
        let shown = app.get(&path).await_reply().await.json();
        if shown["state"] == "done" {
            break shown;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    worker.shutdown().await;
    assert_eq!((&done["payments_redacted"], done["done_at"].is_string()), (&json!(1), true));
    assert_eq!(erase().await.json(), done, "once is enough");
    let all = app.get("/erasures").await_reply().await.json();
    assert_eq!(all["data"], json!([done]));
    for unknown in ["nobody", "not%20an%20id"] {
        let path = format!("/customers/{unknown}");
        app.ask(Method::DELETE, &path).await_reply().await.problem(404, "Not found");
    }
}

#[tokio::test]
async fn consents_are_given_shown_and_withdrawn() {
    let app = App::new().await;
    let path = "/customers/ada@shop/consents";
    let body = json!({"purpose": "ads", "version": "2026-11", "source": "form", "given_at": "2026-01-02T03:04:05.000000Z"});
    let reply = app.post(path, body.to_string()).await_reply().await;
    assert_eq!(reply.status, StatusCode::CREATED);
    let given = reply.json();
    for (member, value) in body.as_object().unwrap() {
        assert_eq!(given[member], *value);
    }
    assert_eq!(given["withdrawn_at"], Value::Null);
    assert_eq!(app.get(path).await_reply().await.json()["data"], json!([given]));
    let withdraw = || app.ask(Method::DELETE, "/customers/ada@shop/consents/ads").await_reply();
    let withdrawn = withdraw().await.json();
    assert!(withdrawn["data"][0]["withdrawn_at"].is_string());
    assert_eq!(app.get(path).await_reply().await.json()["data"], withdrawn["data"]);
    withdraw().await.problem(404, "Not found");
    for (member, bad) in [
        ("purpose", json!("Ads")),
        ("purpose", json!("4111111111111111")),
        ("version", json!("")),
        ("source", json!("4111 1111 1111 1111")),
        ("given_at", json!("yesterday")),
        ("given_at", json!("2999-01-01T00:00:00Z")),
    ] {
        let mut body = body.clone();
        body[member] = bad;
        let reply = app.post(path, body.to_string()).await_reply().await;
        reply.problem(400, "Validation failed");
        assert_eq!(reply.json()["errors"][0]["path"], member);
    }
}

#[tokio::test]
async fn an_export_is_a_file_of_everything() {
    let app = with_customer().await;
    let reply = app.get("/customers/ada@shop/export").await_reply().await;
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("content-disposition"), Some("attachment; filename=\"customer.json\""));
    let json = reply.json();
    assert_eq!(json["payments"][0]["payment"]["customer_name"], "Ada Marker");
    assert_eq!(json["payments"].as_array().unwrap().len(), 1);
    let reply = app.get("/customers/ada@shop/export?format=csv").await_reply().await;
    assert_eq!(reply.header("content-type"), Some("text/csv; charset=utf-8"));
    let text = String::from_utf8(reply.body.to_vec()).unwrap();
    assert_eq!((text.lines().count(), text.contains("Ada Marker")), (2, true));
    let reply = app.get("/customers/ada@shop/export?format=xml").await_reply().await;
    reply.problem(400, "Validation failed");
    app.get("/customers/nobody/export").await_reply().await.problem(404, "Not found");
}
