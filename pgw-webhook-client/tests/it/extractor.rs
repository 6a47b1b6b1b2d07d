//! The axum extractor: what reaches the handler, and the answer to what does not.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRef, State};
use axum::http::{Request, StatusCode};
use axum::response::Response;
use axum::routing::post;
use axum::{Extension, Router};
use futures_util::stream;
use http_body_util::BodyExt;
use pgw_webhook_client::axum::{BODY_BYTES_MAX_DEFAULT, VerifiedWebhook, WebhookBodyLimit};
use pgw_webhook_client::replay::{MemoryReplayStore, Once, ReplayStore};
use pgw_webhook_client::{
    Headers, SeedVerifier, SignedHeaders, StandardVerifier, StripeVerifier, Verified, Verify,
    VerifyError,
};
use tower::ServiceExt;

use crate::{NOW, PROFILES, Profile, SECRET};

/// A verifier whose clock stands still, which is also how a host brings its own.
#[derive(Clone)]
struct At<V>(V);

impl<V: Verify> Verify for At<V> {
    fn verify_at<'a, H: Headers + ?Sized>(
        &self,
        now: Duration,
        headers: &'a H,
        body: &'a [u8],
    ) -> Result<Verified<'a>, VerifyError> {
        self.0.verify_at(now, headers, body)
    }

    fn verify<'a, H: Headers + ?Sized>(
        &self,
        headers: &'a H,
        body: &'a [u8],
    ) -> Result<Verified<'a>, VerifyError> {
        self.verify_at(NOW, headers, body)
    }
}

#[derive(Clone)]
struct App {
    standard: StandardVerifier,
    seed: SeedVerifier,
    stripe: StripeVerifier,
}

impl FromRef<App> for At<StandardVerifier> {
    fn from_ref(app: &App) -> Self {
        Self(app.standard.clone())
    }
}

impl FromRef<App> for At<SeedVerifier> {
    fn from_ref(app: &App) -> Self {
        Self(app.seed.clone())
    }
}

impl FromRef<App> for At<StripeVerifier> {
    fn from_ref(app: &App) -> Self {
        Self(app.stripe.clone())
    }
}

async fn echo<V>(webhook: VerifiedWebhook<V>) -> Bytes {
    assert!(!webhook.replay_key().to_string().is_empty());
    webhook.into_body()
}

fn router() -> Router {
    let app = App {
        standard: StandardVerifier::new(SECRET).unwrap(),
        seed: SeedVerifier::new(SECRET).unwrap(),
        stripe: StripeVerifier::new(SECRET).unwrap(),
    };
    Router::new()
        .route("/standard", post(echo::<At<StandardVerifier>>))
        .route("/seed", post(echo::<At<SeedVerifier>>))
        .route("/stripe", post(echo::<At<StripeVerifier>>))
        .with_state(app)
}

async fn send(
    router: Router,
    path: &str,
    headers: &SignedHeaders,
    body: Body,
) -> (StatusCode, Bytes) {
    let mut request = Request::post(path);
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let response: Response = router.oneshot(request.body(body).unwrap()).await.unwrap();
    let status = response.status();
    (status, response.into_body().collect().await.unwrap().to_bytes())
}

fn path(profile: Profile) -> &'static str {
    match profile {
        Profile::Standard => "/standard",
        Profile::Seed => "/seed",
        Profile::Stripe => "/stripe",
    }
}

#[tokio::test]
async fn a_signed_body_reaches_the_handler_as_it_was_sent() {
    let body: &[u8] = b"{ \"a\" : 1.0 }\xff\x00";
    for profile in PROFILES {
        let headers = profile.sign(SECRET, "evt_1", NOW, body);
        let (status, answer) = send(router(), path(profile), &headers, Body::from(body)).await;
        assert_eq!((status, answer.as_ref()), (StatusCode::OK, body));
    }
}

#[tokio::test]
async fn what_is_refused_gets_a_status_and_a_few_words() {
    let body = b"{}";
    for profile in PROFILES {
        let good = profile.sign(SECRET, "evt_1", NOW, body);
        let header = profile.signature_header();
        let old = profile.sign(SECRET, "evt_1", NOW - Duration::from_secs(301), body);
        let ahead = profile.sign(SECRET, "evt_1", NOW + Duration::from_secs(301), body);
        let forged = profile.sign("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "evt_1", NOW, body);
        let cases = [
            (
                Vec::new(),
                StatusCode::BAD_REQUEST,
                format!("the {} header is missing", profile.required()[0]),
            ),
            (
                crate::with_value(&good, header, "v1,"),
                StatusCode::BAD_REQUEST,
                format!("the {header} header is malformed"),
            ),
            (old, StatusCode::UNAUTHORIZED, "the message is too old".to_owned()),
            (ahead, StatusCode::UNAUTHORIZED, "the message is from the future".to_owned()),
            (forged, StatusCode::UNAUTHORIZED, "the signature does not match".to_owned()),
        ];
        for (headers, status, text) in cases {
            let answer = send(router(), path(profile), &headers, Body::from(&body[..])).await;
            assert_eq!(answer, (status, Bytes::from(text)), "{profile:?}");
        }
    }
}

#[tokio::test]
async fn a_webhook_that_is_sent_again_is_handled_once() {
    async fn count(
        State(handled): State<Arc<AtomicU32>>,
        Extension(seen): Extension<Arc<dyn ReplayStore>>,
        webhook: VerifiedWebhook<At<StandardVerifier>>,
    ) -> StatusCode {
        // The first attempt fails, as when a database is away.
        let handle = async || match handled.fetch_add(1, Ordering::SeqCst) {
            0 => Err(()),
            _ => Ok(()),
        };
        match webhook.once(&*seen, handle).await {
            Ok(Once::Done(())) => StatusCode::CREATED,
            Ok(Once::HandledBefore) => StatusCode::OK,
            Ok(Once::InProgress) => StatusCode::CONFLICT,
            Ok(Once::Failed(())) | Err(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    #[derive(Clone)]
    struct Counting {
        verifier: StandardVerifier,
        handled: Arc<AtomicU32>,
    }

    impl FromRef<Counting> for At<StandardVerifier> {
        fn from_ref(app: &Counting) -> Self {
            Self(app.verifier.clone())
        }
    }

    impl FromRef<Counting> for Arc<AtomicU32> {
        fn from_ref(app: &Counting) -> Self {
            Self::clone(&app.handled)
        }
    }

    let app =
        Counting { verifier: StandardVerifier::new(SECRET).unwrap(), handled: Arc::default() };
    let seen: Arc<dyn ReplayStore> = Arc::new(MemoryReplayStore::new());
    let router =
        Router::new().route("/", post(count)).layer(Extension(seen)).with_state(app.clone());
    for (attempt, expected) in
        [StatusCode::SERVICE_UNAVAILABLE, StatusCode::CREATED, StatusCode::OK].iter().enumerate()
    {
        let at = NOW + Duration::from_secs(attempt as u64);
        let headers = Profile::Standard.sign(SECRET, "evt_1", at, b"{}");
        let (status, _) = send(router.clone(), "/", &headers, Body::from("{}")).await;
        assert_eq!(status, *expected);
    }
    assert_eq!(app.handled.load(Ordering::SeqCst), 2);
}

/// A body of unknown length, so that only counting it as it comes can stop it.
fn streamed(len: usize) -> Body {
    let chunks = [vec![b'x'; len / 4], vec![b'x'; len - len / 4]];
    Body::from_stream(stream::iter(chunks.map(Ok::<_, Infallible>)))
}

#[tokio::test]
async fn a_body_over_the_limit_is_413() {
    let limited = || router().layer(Extension(WebhookBodyLimit(100)));
    for (router, limit) in [(router(), BODY_BYTES_MAX_DEFAULT), (limited(), 100)] {
        let body = vec![b'x'; limit];
        let headers = Profile::Standard.sign(SECRET, "evt_1", NOW, &body);
        for (sent, status) in [
            (Body::from(body.clone()), StatusCode::OK),
            (streamed(limit), StatusCode::OK),
            (Body::from(vec![b'x'; limit + 1]), StatusCode::PAYLOAD_TOO_LARGE),
            (streamed(limit + 1), StatusCode::PAYLOAD_TOO_LARGE),
        ] {
            assert_eq!(
                send(router.clone(), "/standard", &headers, sent).await.0,
                status,
                "{limit}"
            );
        }
    }
    let mut announced = Profile::Standard.sign(SECRET, "evt_1", NOW, b"");
    announced.push(("content-length", "101".to_owned()));
    let (status, answer) = send(limited(), "/standard", &announced, Body::empty()).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(answer, "the body is too large");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_400() {
    let frames =
        [Ok(Bytes::from_static(b"{")), Err(std::io::Error::other("connection reset at 10.0.0.7"))];
    let body = Body::from_stream(stream::iter(frames));
    let headers = Profile::Standard.sign(SECRET, "evt_1", NOW, b"{}");
    let answer = send(router(), "/standard", &headers, body).await;
    assert_eq!(
        answer,
        (StatusCode::BAD_REQUEST, Bytes::from_static(b"the body could not be read"))
    );
}
