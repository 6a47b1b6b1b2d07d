//! API keys and the denylist over HTTP, and what a frozen gateway answers.

use std::net::SocketAddr;

use axum::extract::connect_info::MockConnectInfo;
use axum::http::{Method, StatusCode};
use pgw_core::access::Role;
use pgw_core::scope::{Mode, Scope};
use pgw_core::text::Reason;
use pgw_http::Config;
use serde_json::{Value, json};

use crate::bad_input::Bed;
use crate::harness::{App, Ask, Reply, new_key, payment, stranger};

async fn ok(ask: Ask<'_>, status: StatusCode) -> Reply {
    let reply = ask.await_reply().await;
    assert_eq!(reply.status, status, "{reply:?}");
    reply
}

async fn created(app: &App, body: &Value) -> Reply {
    ok(app.post("/api-keys", body.to_string()), StatusCode::CREATED).await
}

fn ids(list: &Value) -> Vec<&str> {
    list["data"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect()
}

/// A router that sees its callers come from this address.
fn from(app: &App, address: &str) -> axum::Router {
    let peer = SocketAddr::new(address.parse().unwrap(), 4_000);
    app.router.clone().layer(MockConnectInfo(peer))
}

#[tokio::test]
async fn a_key_is_shown_once_and_opens() {
    let app = App::new().await;
    let body = json!({"role": "service", "name": "checkout", "expires_in": 3_600});
    let reply = created(&app, &body).await;
    let mut shown = reply.json();
    let text = shown["key"].take();
    let text = text.as_str().unwrap();
    assert!(text.starts_with("pgw_test_"));
    shown.as_object_mut().unwrap().remove("key");
    for (member, value) in [
        ("object", json!("api_key")),
        ("merchant_id", json!("default")),
        ("mode", json!("test")),
        ("role", json!("service")),
        ("name", json!("checkout")),
        ("prefix", json!(&text[9..21])),
        ("last_used_at", Value::Null),
        ("revoked_at", Value::Null),
        ("revoked_because", Value::Null),
    ] {
        assert_eq!(shown[member], value, "{member}");
    }
    assert!(shown["expires_at"].is_string() && shown["created_at"].is_string());
    let path = reply.header("location").unwrap();
    assert_eq!(path, format!("/api-keys/{}", reply.text("id")));
    assert_eq!(ok(app.get(path), StatusCode::OK).await.json(), shown);
    let listed = ok(app.get("/api-keys"), StatusCode::OK).await;
    assert!(!String::from_utf8_lossy(&listed.body).contains(&text[21..]));
    assert!(ids(&listed.json()).contains(&shown["id"].as_str().unwrap()));

    let pay = app.post("/payments", payment("")).with("x-api-key", text);
    ok(pay, StatusCode::CREATED).await;
    app.get("/api-keys")
        .with("x-api-key", text)
        .await_reply()
        .await
        .problem(403, "Insufficient permissions");
    // Its use is noted on a task of its own, which was ready before this one is again.
    tokio::task::yield_now().await;
    let used = ok(app.get(path), StatusCode::OK).await.json();
    assert!(used["last_used_at"].is_string(), "{used}");
}

#[tokio::test]
async fn a_revoked_key_stays_and_opens_nothing() {
    let app = App::new().await;
    let reply = created(&app, &json!({"role": "readonly", "name": "reports"})).await;
    let (path, text) = (reply.header("location").unwrap().to_owned(), reply.text("key"));
    ok(app.get("/payments").with("x-api-key", &text), StatusCode::OK).await;
    let revoked = ok(app.ask(Method::DELETE, &path), StatusCode::OK).await.json();
    assert!(revoked["revoked_at"].is_string() && revoked.get("key").is_none(), "{revoked}");
    let used = app.get("/payments").with("x-api-key", &text).await_reply().await;
    used.problem(403, "Invalid API key");
    assert_eq!(ok(app.ask(Method::DELETE, &path), StatusCode::OK).await.json(), revoked);
    assert_eq!(ok(app.get(&path), StatusCode::OK).await.json(), revoked);
}

#[tokio::test]
async fn keys_are_listed_in_pages_newest_first() {
    let app = App::new().await;
    for n in 0..3 {
        created(&app, &json!({"role": "readonly", "name": format!("n{n}")})).await;
    }
    let all = ok(app.get("/api-keys"), StatusCode::OK).await.json();
    let all: Vec<String> = ids(&all).into_iter().map(str::to_owned).collect();
    assert_eq!(all.len(), 3 + Role::ALL.len());
    let (mut found, mut path) = (Vec::new(), "/api-keys?limit=2".to_owned());
    loop {
        let page = ok(app.get(&path), StatusCode::OK).await.json();
        found.extend(ids(&page).into_iter().map(str::to_owned));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/api-keys?limit=2&after={cursor}");
    }
    assert_eq!(found, all);
    let foreign = new_key(&app.gateway, stranger(), Role::Admin).await;
    let own = ok(app.get("/api-keys").with("x-api-key", &foreign), StatusCode::OK).await.json();
    assert_eq!(ids(&own).len(), 1);
}

#[tokio::test]
async fn keys_are_revoked_by_a_filter_the_callers_own_last() {
    let app = App::new().await;
    let revoke = |body: Value| app.post("/api-keys/revoke", body.to_string());
    let services = ok(revoke(json!({"role": "service", "reason": "leaked"})), StatusCode::OK).await;
    let expected = json!({
        "object": "bulk_revocation", "matched": 1, "revoked": 1, "has_more": false, "next_cursor": null,
    });
    assert_eq!(services.json(), expected);
    let service =
        app.get("/payments").with("x-api-key", app.key(Role::Service)).await_reply().await;
    service.problem(403, "Invalid API key");
    let none = json!({"created_before": "2020-01-01T00:00:00Z", "reason": "leaked"});
    assert_eq!(ok(revoke(none), StatusCode::OK).await.json()["matched"], 0);
    let since = json!({"created_after": "2020-01-01T00:00:00Z", "reason": "leaked"});
    assert_eq!(ok(revoke(since), StatusCode::OK).await.json()["revoked"], 3);
    // The caller was among them.
    app.get("/api-keys").await_reply().await.problem(403, "Invalid API key");
    let key = new_key(&app.gateway, Scope::default(), Role::Admin).await;
    let all = revoke(json!({"all": true, "reason": "leaked"})).with("x-api-key", &key);
    assert_eq!(ok(all, StatusCode::OK).await.json()["revoked"], 1);
}

#[tokio::test(start_paused = true)]
async fn bodies_about_access_that_are_wrong() {
    let bed = Bed::new().await;
    let (keys, revoke, networks) = ("/api-keys", "/api-keys/revoke", "/ip-denylist");
    for (path, body, member, code) in [
        (keys, json!({"name": "a"}), "role", "required"),
        (keys, json!({"role": "7777", "name": "a"}), "role", "unknown_value"),
        (keys, json!({"role": "admin"}), "name", "required"),
        (keys, json!({"role": "admin", "name": ""}), "name", "empty"),
        (keys, json!({"role": "admin", "name": "4111 1111 1111 1111"}), "name", "card_number"),
        (
            keys,
            json!({"role": "admin", "name": "a", "expires_in": 0}),
            "expires_in",
            "out_of_range",
        ),
        (
            keys,
            json!({"role": "admin", "name": "a", "expires_in": 315_360_001}),
            "expires_in",
            "out_of_range",
        ),
        (
            keys,
            json!({"role": "admin", "name": "a", "expires_in": -7777}),
            "expires_in",
            "invalid_type",
        ),
        (revoke, json!({"reason": "x"}), "", "empty_filter"),
        (revoke, json!({"all": false, "reason": "x"}), "", "empty_filter"),
        (revoke, json!({"all": true, "role": "admin", "reason": "x"}), "all", "conflict"),
        (revoke, json!({"all": true}), "reason", "required"),
        (
            revoke,
            json!({"role": "admin", "reason": "4111-1111-1111-1111"}),
            "reason",
            "card_number",
        ),
        (
            revoke,
            json!({"created_after": "7777", "all": true, "reason": "x"}),
            "created_after",
            "invalid_time",
        ),
        (
            revoke,
            json!({"role": "admin", "reason": "x", "after": "7777"}),
            "after",
            "invalid_cursor",
        ),
        (networks, json!({}), "network", "required"),
        (networks, json!({"network": "7777"}), "network", "invalid_network"),
        (networks, json!({"network": "0.0.0.0/0"}), "network", "too_wide"),
        (networks, json!({"network": "2001::/18"}), "network", "too_wide"),
        (
            networks,
            json!({"network": "192.0.2.1", "reason": "4111 1111 1111 1111"}),
            "reason",
            "card_number",
        ),
        (networks, json!({"network": "192.0.2.1", "expires_in": 0}), "expires_in", "out_of_range"),
    ] {
        bed.fault(bed.app.post(path, body.to_string()), member, code).await;
    }
    for (query, member, code) in [
        ("", "network", "required"),
        ("?network=7777", "network", "invalid_network"),
        ("?network=192.0.2.1&zzz=7777", "", "unknown"),
    ] {
        let ask = bed.app.ask(Method::DELETE, &format!("/ip-denylist{query}"));
        let errors = bed.refused(ask).await.problem(400, "Validation failed");
        assert_eq!(errors, [(member.to_owned(), "query".to_owned(), code.to_owned())], "{query}");
    }
    let ask = bed.app.ask(Method::DELETE, "/ip-denylist?network=192.0.2.1");
    bed.refused(ask).await.problem(404, "Not found");
    for id in ["7777", "key_00000000000000000000000000"] {
        for method in [Method::GET, Method::DELETE] {
            let ask = bed.app.ask(method, &format!("/api-keys/{id}"));
            bed.refused(ask).await.problem(404, "Not found");
        }
    }
    // All faults at once.
    let wrong = json!({"role": "7777", "expires_in": 0, "zzz": 1}).to_string();
    let reply = bed.refused(bed.app.post(keys, wrong)).await;
    let codes: Vec<_> =
        reply.problem(400, "Validation failed").into_iter().map(|it| it.2).collect();
    assert_eq!(codes, ["unknown_value", "required", "out_of_range", "unknown"]);
}

#[tokio::test]
async fn a_denied_address_is_let_in_nowhere() {
    let app = App::new().await;
    let body = json!({"network": "203.0.113.0/24", "reason": "probes", "expires_in": 600});
    let reply = ok(app.post("/ip-denylist", body.to_string()), StatusCode::CREATED).await;
    let entry = reply.json();
    for (member, value) in [
        ("object", json!("denied_network")),
        ("network", json!("203.0.113.0/24")),
        ("reason", json!("probes")),
    ] {
        assert_eq!(entry[member], value, "{member}");
    }
    assert!(entry["created_by"].as_str().unwrap().starts_with("key_"), "{entry}");
    assert_eq!(ok(app.get("/ip-denylist"), StatusCode::OK).await.json()["data"], json!([entry]));

    for address in ["203.0.113.7", "::ffff:203.0.113.7"] {
        for route in pgw_http::routes() {
            let path = route.path().replace("{id}", "none").replace("{name}", "none");
            // Neither a key nor its absence is looked at.
            for key in [app.key(Role::Admin), "nonsense", ""] {
                let ask = app.ask(route.method().clone(), &path).with("x-api-key", key);
                let reply = ask.of(from(&app, address)).await;
                assert_eq!(reply.problem(403, "Address denied"), []);
            }
        }
        let wrong_method = app.ask(Method::PUT, "/payments").of(from(&app, address)).await;
        wrong_method.problem(403, "Address denied");
    }
    for address in ["203.0.112.7", "2001:db8::7"] {
        assert_eq!(app.get("/payments").of(from(&app, address)).await.status, StatusCode::OK);
    }
    let path = "/ip-denylist?network=203.0.113.0/24";
    ok(app.ask(Method::DELETE, path), StatusCode::NO_CONTENT).await;
    assert_eq!(app.get("/payments").of(from(&app, "203.0.113.7")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn nobody_denies_the_address_they_call_from() {
    let app = App::new().await;
    let ask = app.post("/ip-denylist", "{\"network\":\"203.0.113.0/24\"}");
    let errors = ask.of(from(&app, "203.0.113.7")).await.problem(400, "Validation failed");
    assert_eq!(errors, [("network".to_owned(), "body".to_owned(), "own_address".to_owned())]);
    assert_eq!(app.get("/payments").of(from(&app, "203.0.113.7")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_denylist_is_the_operators_alone() {
    let app = App::new().await;
    let foreign = new_key(&app.gateway, stranger(), Role::Admin).await;
    for (method, path) in [
        (Method::POST, "/ip-denylist"),
        (Method::GET, "/ip-denylist"),
        (Method::DELETE, "/ip-denylist?network=192.0.2.1"),
    ] {
        let ask = app.ask(method, path).json("{\"network\":\"192.0.2.1\"}");
        let reply = ask.with("x-api-key", &foreign).await_reply().await;
        reply.problem(403, "Insufficient permissions");
    }
    // In either mode, whoever the operator is.
    let operator = stranger().merchant;
    let app = App::with(Config::default().with_operator(operator.clone())).await;
    for mode in [Mode::Test, Mode::Live] {
        let key = new_key(&app.gateway, Scope::new(operator.clone(), mode), Role::Admin).await;
        ok(app.get("/ip-denylist").with("x-api-key", &key), StatusCode::OK).await;
    }
    app.get("/ip-denylist").await_reply().await.problem(403, "Insufficient permissions");
}

#[tokio::test]
async fn a_frozen_gateway_answers_with_when_to_come_again() {
    let app = App::new().await;
    let reason = Reason::parse("keys leaked").unwrap();
    app.gateway.host().freeze(&reason).await.unwrap();
    let reply = app.post("/payments", payment("")).await_reply().await;
    reply.problem(503, "Frozen");
    assert_eq!(reply.header("retry-after"), Some("60"));
    app.post("/api-keys", "{\"role\":\"admin\",\"name\":\"a\"}")
        .await_reply()
        .await
        .problem(503, "Frozen");
    ok(app.get("/payments"), StatusCode::OK).await;
    ok(app.post("/ip-denylist", "{\"network\":\"192.0.2.1\"}"), StatusCode::CREATED).await;
    let revoke = app.post("/api-keys/revoke", "{\"role\":\"service\",\"reason\":\"leaked\"}");
    assert_eq!(ok(revoke, StatusCode::OK).await.json()["revoked"], 1);
    app.gateway.host().unfreeze().await.unwrap();
    ok(app.post("/payments", payment("")), StatusCode::CREATED).await;
}
