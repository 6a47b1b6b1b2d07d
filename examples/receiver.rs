//! A webhook receiver: verifies each signature on the raw body, and handles each webhook once.
//!
//! `PGW_WEBHOOK_SECRET=whsec_… cargo run --example receiver`, then create an endpoint for
//! `http://127.0.0.1:3001/webhooks`. Receivers in other languages are in `pgw-webhook-client/docs/receivers.md`.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRef, State};
use axum::http::StatusCode;
use axum::routing::post;
use pgw_webhook_client::StandardVerifier;
use pgw_webhook_client::axum::VerifiedWebhook;
use pgw_webhook_client::replay::{MemoryReplayStore, Once};

#[derive(Clone)]
struct App {
    verifier: StandardVerifier,
    /// In memory, so a restart forgets what was handled. Where that is too soon, implement `ReplayStore` on your database.
    seen: Arc<MemoryReplayStore>,
}

impl FromRef<App> for StandardVerifier {
    fn from_ref(app: &App) -> Self {
        app.verifier.clone()
    }
}

/// A webhook gets here only with a good signature; `once` runs the handler for the first attempt that succeeds.
async fn receive(State(app): State<App>, webhook: VerifiedWebhook<StandardVerifier>) -> StatusCode {
    let handled = webhook.once(&*app.seen, async || {
        let event: serde_json::Value = serde_json::from_slice(webhook.body()).unwrap_or_default();
        println!("{} {}", event["type"], webhook.id().unwrap_or_default());
        Ok::<(), Infallible>(())
    });
    match handled.await {
        Ok(Once::Done(()) | Once::HandledBefore) => StatusCode::NO_CONTENT,
        Ok(Once::InProgress) => StatusCode::CONFLICT,
        Ok(Once::Failed(never)) => match never {},
        // Not handled: the sender comes back.
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let secret = std::env::var("PGW_WEBHOOK_SECRET")
        .map_err(|_| "set PGW_WEBHOOK_SECRET to the secret that creating the endpoint showed")?;
    let app =
        App { verifier: StandardVerifier::new(&secret)?, seen: Arc::new(MemoryReplayStore::new()) };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3001").await?;
    println!("listening on http://{}/webhooks", listener.local_addr()?);
    axum::serve(listener, Router::new().route("/webhooks", post(receive)).with_state(app)).await?;
    Ok(())
}
