//! The audit log over HTTP: what it lists, and that refusals are in it.

use std::net::SocketAddr;

use axum::extract::connect_info::MockConnectInfo;
use pgw_core::access::{AuditAction, AuditRow, Refusal, Role};
use pgw_core::page::PageRequest;
use pgw_core::scope::Scope;
use pgw_core::storage::{AuditFilter, Storage as _};
use serde_json::{Value, json};

use crate::harness::{App, new_key, payment, stranger};

/// The rows of refusals, oldest first, once there are so many. They are written after their answers.
async fn refusals(app: &App, scope: &Scope, count: usize) -> Vec<AuditRow> {
    let filter = AuditFilter { action: Some(AuditAction::AccessRefuse), ..AuditFilter::default() };
    loop {
        let page = PageRequest::first(PageRequest::LIMIT_MAX);
        let mut rows = app.storage.audit(&scope.merchant, &filter, page).await.unwrap().data;
        if rows.len() >= count {
            rows.reverse();
            return rows;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn every_refusal_is_in_the_log() {
    let app = App::new().await;
    let peer = SocketAddr::from(([192, 0, 2, 9], 4000));
    let router = || app.router.clone().layer(MockConnectInfo(peer));
    let create = || app.post("/payments", payment("")).with("x-request-id", "rq-7");
    create().without("x-api-key").of(router()).await.problem(401, "API key required");
    create().with("x-api-key", "nonsense").of(router()).await.problem(403, "Invalid API key");
    let foreign = new_key(&app.gateway, stranger(), Role::Readonly).await;
    let reply = create().with("x-api-key", &foreign).of(router()).await;
    reply.problem(403, "Insufficient permissions");

    let mut rows = refusals(&app, &Scope::default(), 2).await;
    rows.extend(refusals(&app, &stranger(), 1).await);
    let said: Vec<_> = rows
        .iter()
        .map(|row| {
            let reason = row.changes[0].after().unwrap().to_owned();
            assert_eq!(row.object.to_string(), "POST /payments");
            assert_eq!(row.origin, Some(peer.ip()));
            assert_eq!(row.request_id.as_deref(), Some("rq-7"));
            assert_eq!(row.outcome.as_str(), "failure");
            (row.actor.parts().0, reason)
        })
        .collect();
    let expected = [
        ("anonymous", "missing_credential".to_owned()),
        ("anonymous", "invalid_credential".to_owned()),
        ("key", "permission".to_owned()),
    ];
    assert_eq!(said, expected);
    assert_eq!(rows[2].scope, stranger());
}

#[tokio::test]
async fn a_flood_of_refusals_fills_nothing() {
    let app = App::new().await;
    let flood = 20 * Refusal::PER_SECOND_MAX as usize;
    for _ in 0..flood {
        let reply = app.get("/payments").without("x-api-key").await_reply().await;
        reply.problem(401, "API key required");
    }
    let rows = refusals(&app, &Scope::default(), Refusal::PER_SECOND_MAX as usize).await;
    assert!(rows.len() < flood / 2, "{} rows of {flood} refusals", rows.len());
}

#[tokio::test]
async fn the_log_is_listed_and_filtered() {
    let app = App::new().await;
    let bearer = app.key(Role::Service).to_owned();
    let create = app.post("/payments", payment("")).with("x-api-key", &bearer);
    let id = create.with("x-request-id", "rq-1").await_reply().await.text("id");
    app.post(&format!("/payments/{id}/cancel"), "{}").await_reply().await;
    let list = async |query: &str| -> Vec<Value> {
        let path = format!("/audit-log?{query}");
        let reply = app.get(&path).with("x-api-key", app.key(Role::Finance)).await_reply().await;
        assert_eq!(reply.status, 200, "{query}: {reply:?}");
        reply.json()["data"].as_array().unwrap().clone()
    };
    let rows = list(&format!("object={id}")).await;
    let actions: Vec<_> = rows.iter().map(|row| row["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["payment.cancel", "payment.create"]);
    // The six facts of PCI DSS 10.2.2 are in each row, whatever is known.
    for row in list("").await {
        for fact in ["actor", "action", "created_at", "outcome", "origin", "target"] {
            assert!(row[fact].as_str().is_some_and(|text| !text.is_empty()), "{fact} of {row}");
        }
        assert_eq!(row["object"], "audit_row");
    }
    let created = &rows[1];
    assert_eq!((&created["request_id"], &created["changes"]), (&json!("rq-1"), &json!([])));
    let status = json!({"field": "status", "old": "pending", "new": "canceled"});
    assert!(rows[0]["changes"].as_array().unwrap().contains(&status), "{}", rows[0]);

    let actor = created["actor"].as_str().unwrap();
    assert_eq!(list(&format!("actor={actor}")).await, std::slice::from_ref(created));
    assert_eq!(list("actor=host&action=key.create").await.len(), 4);
    assert_eq!(list(&format!("outcome=failure&object={id}")).await.len(), 0);
    let at = created["created_at"].as_str().unwrap();
    assert_eq!(list(&format!("created_before={at}&action=payment.create")).await.len(), 0);
    assert_eq!(list(&format!("created_from={at}&action=payment.create")).await.len(), 1);
    for wrong in ["action=payment.steal", "object=x", "outcome=maybe", "actor=a%20b", "who=me"] {
        let reply = app.get(&format!("/audit-log?{wrong}")).await_reply().await;
        reply.problem(400, "Validation failed");
    }
    for role in [Role::Service, Role::Readonly] {
        let reply = app.get("/audit-log").with("x-api-key", app.key(role)).await_reply().await;
        reply.problem(403, "Insufficient permissions");
    }
}
