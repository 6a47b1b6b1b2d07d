//! Verify webhooks before acting on them: three signature formats over raw bytes, several keys, a two-sided window, no allocation, no
//! panic, few dependencies. The sending side of each format is here too, so that both ends share one definition.
//!
//! # Receive
//! A verifier is made once, from the secret the sender showed you, and shared. It takes the headers and the **raw** body: verify first,
//! parse after, and never verify what a JSON library wrote again.
//!
//! ```
//! use pgw_webhook_client::{StandardVerifier, VerifyError};
//!
//! fn receive(verifier: &StandardVerifier, request: &http::Request<Vec<u8>>) -> http::StatusCode {
//!     match verifier.verify(request.headers(), request.body()) {
//!         Ok(webhook) => {
//!             println!("webhook {:?}: {} bytes", webhook.id(), webhook.body().len());
//!             http::StatusCode::NO_CONTENT
//!         }
//!         Err(VerifyError::Missing { .. } | VerifyError::Malformed { .. }) => http::StatusCode::BAD_REQUEST,
//!         Err(_) => http::StatusCode::UNAUTHORIZED,
//!     }
//! }
//!
//! let verifier = StandardVerifier::new("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")?;
//! let request = http::Request::post("/webhooks").body(b"{}".to_vec())?;
//! assert_eq!(receive(&verifier, &request), http::StatusCode::BAD_REQUEST);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Any header source will do: [`Headers`] is implemented for `http::HeaderMap` and for pairs, and is one method. Where you have a clock
//! of your own, use `verify_at`.
//!
//! # Receive with axum
//! With the feature `axum` the extractor does it, and each webhook is handled once:
//!
//! ```
//! # #[cfg(feature = "axum")] {
//! use std::sync::Arc;
//! use axum::{Router, extract::{FromRef, State}, http::StatusCode, routing::post};
//! use pgw_webhook_client::{StandardVerifier, axum::VerifiedWebhook};
//! use pgw_webhook_client::replay::{MemoryReplayStore, Once, ReplayStore};
//!
//! #[derive(Clone)]
//! struct App { verifier: StandardVerifier, seen: Arc<dyn ReplayStore> }
//!
//! impl FromRef<App> for StandardVerifier {
//!     fn from_ref(app: &App) -> Self { app.verifier.clone() }
//! }
//!
//! async fn webhook(State(app): State<App>, webhook: VerifiedWebhook) -> StatusCode {
//!     let ship = async || -> Result<(), std::io::Error> {
//!         println!("{:?}", webhook.body()); // the effects go here
//!         Ok(())
//!     };
//!     match webhook.once(&*app.seen, ship).await {
//!         Ok(Once::Done(()) | Once::HandledBefore) => StatusCode::NO_CONTENT,
//!         Ok(Once::InProgress) => StatusCode::CONFLICT,
//!         Ok(Once::Failed(_)) | Err(_) => StatusCode::SERVICE_UNAVAILABLE,
//!     }
//! }
//!
//! let app = App {
//!     verifier: StandardVerifier::new("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")?,
//!     seen: Arc::new(MemoryReplayStore::new()),
//! };
//! let router: Router = Router::new().route("/webhooks", post(webhook)).with_state(app);
//! # }
//! # Ok::<(), pgw_webhook_client::SecretError>(())
//! ```
//!
//! # Profiles
//! | profile | headers | signed bytes | key | replay key |
//! |---|---|---|---|---|
//! | [`standard`](profile::standard) | `webhook-id`, `webhook-timestamp` (s), `webhook-signature: v1,<base64> …` | `{id}.{timestamp}.{body}` | the bytes after `whsec_`, base64, 24–64 of them | the id |
//! | [`seed`](profile::seed) | `x-webhook-id`, `x-webhook-timestamp` (**ms**), `x-webhook-signature: <hex>`, `x-webhook-event` | `{timestamp}.{body}` | the whole secret text | the body |
//! | [`stripe`](profile::stripe) | `stripe-signature: t=<s>,v1=<hex>[,v1=<hex>…]` | `{timestamp}.{body}` | the whole secret text | the body |
//!
//! All are HMAC-SHA256. Each has its own verifier type and nothing is detected: which format is accepted is the receiver's decision, not
//! the sender's. Choose `standard` where you can: it is the only one that signs the id.
//!
//! # Handle each webhook once
//! A sender repeats a webhook until it is answered 2xx, so the same one arrives twice sooner or later, and within the tolerance
//! anybody who saw it can send it again. [`Verified::replay_key`] is the same for every attempt; a [`replay::ReplayStore`] remembers it.
//! `seed` and `stripe` do not sign an id, so there the key is the body's hash and never the id from a header. If the handler fails,
//! release the claim (as [`replay::once`] does) and answer 5xx, and the next attempt is handled. Best of all, write the key in the same
//! database transaction as the effects.
//!
//! # Rotate a secret
//! Accept both secrets while the sender changes over; [`Verified::key_index`] tells when the old one has gone quiet.
//!
//! ```
//! # use std::time::Duration;
//! use pgw_webhook_client::{StandardSigner, StandardVerifier};
//!
//! let (new, old) = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD");
//! let verifier = StandardVerifier::new(new)?.with_secret(old)?;
//!
//! let now = Duration::from_secs(1_700_000_000);
//! let before = StandardSigner::new(old)?.sign("evt_1", now, b"{}")?;
//! assert_eq!(verifier.verify_at(now, &before, b"{}")?.key_index(), 1);
//! let during = StandardSigner::new(new)?.with_secret(old)?.sign("evt_2", now, b"{}")?;
//! assert_eq!(verifier.verify_at(now, &during, b"{}")?.key_index(), 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Receive without Rust
//! The [`guide`] has receivers in Node, Python, Go, PHP, Ruby and Java, and what every receiver must do. The example `check_receiver`
//! sends a running one, in whatever language, what it must accept and what it must refuse.
//!
//! # Features
//! - `http` (default): [`Headers`] for `http::HeaderMap`.
//! - `axum`: the [`axum`](https://docs.rs/axum) extractor, `pgw_webhook_client::axum::VerifiedWebhook`.
//!
//! Without features there is no async runtime, no procedural macro and no HTTP type in the tree.

#[cfg(feature = "axum")]
pub mod axum;
mod clock;
mod error;
#[doc = include_str!("../docs/receivers.md")]
pub mod guide {}
mod headers;
mod mac;
pub mod profile;
pub mod replay;
mod verified;

pub use error::{SecretError, SignError, VerifyError};
pub use headers::{Headers, Lookup};
pub use mac::{KEYS_MAX, SIGNATURES_MAX};
pub use profile::seed::{Signer as SeedSigner, Verifier as SeedVerifier};
pub use profile::standard::{Signer as StandardSigner, Verifier as StandardVerifier};
pub use profile::stripe::{Signer as StripeSigner, Verifier as StripeVerifier};
pub use profile::{
    ID_BYTES_MAX, SECRET_BYTES_MAX, SIGNATURE_HEADER_BYTES_MAX, SignedHeaders, TOLERANCE_DEFAULT,
    Verify,
};
pub use verified::{ReplayKey, Verified};
