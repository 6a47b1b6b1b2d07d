//! Canaries: every secret and every personal field holds a text of its own, every route is asked in every way that goes well or
//! wrong, and none of the texts is in a log at its most talkative, in an error, in `Debug`, or in a metric.

use std::fmt::Debug;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use metrics_exporter_prometheus::PrometheusBuilder;
use pgw_core::access::{Pepper, Role};
use pgw_core::builder::{ProcessorSettings, Settings};
use pgw_core::crypto::KeyRing;
use pgw_core::email::Email;
use pgw_core::env::Env;
use pgw_core::gateway::Gateway;
use pgw_core::page::PageRequest;
use pgw_core::sandbox::Sandbox;
use pgw_core::scope::Mode;
use pgw_core::secret::Secret;
use pgw_core::storage::{AuditFilter, DeliveryFilter, Storage};
use pgw_core::testing::crash::Life;
use pgw_core::testing::faults::{Faults, Faulty, Rates};
use pgw_core::text::{CustomerId, CustomerName, Description, Reason};
use pgw_core::webhook::EndpointUrl;
use pgw_core::webhook::egress::{EgressPolicy, HttpScheme};
use pgw_http::ops::Ops;
use pgw_http::testing::{Behaviour, HostileReceiver};
use pgw_http::transport::{HttpTransport, Resolver};
use pgw_http::{Config, Route};
use pgw_storage_memory::{MemoryNotifier, MemoryQueue, MemoryStorage};

use crate::harness::{App, Ask, Receiver, Reply};
use crate::logging::Log;
use crate::permissions::{Ids, body};

const EMAIL: &str = "canary1email@example.com";
const NAME: &str = "canary2name";
const CUSTOMER: &str = "canary3customer";
const DESCRIPTION: &str = "canary4description";
const METADATA_KEY: &str = "canary5key";
const METADATA: &str = "canary6value";
const REASON: &str = "canary7reason";
const HEADER: &str = "canary8header";
const URL: &str = "canary9url";
const PEPPER: &str = "canary10pepper-of-32-bytes-and-more";
/// In base64, as it is configured.
const SEALING_KEY: &str = "Y2FuYXJ5MTFzZWFsaW5na2V5b2YzMmJ5dGVzISEhISE=";
const GUESS: &str = "canary12guess";
/// A name, which a problem names.
const UNKNOWN: &str = "unknown";

/// Texts that must not show.
struct Canaries {
    /// Their owner may see them in answers.
    personal: Vec<String>,
    /// Nobody may, but who makes one.
    secrets: Vec<String>,
}

impl Canaries {
    fn new() -> Self {
        let personal = [
            "canary1email",
            NAME,
            CUSTOMER,
            DESCRIPTION,
            METADATA_KEY,
            METADATA,
            REASON,
            URL,
            GUESS,
        ];
        let secrets = [HEADER, "canary10pepper", SEALING_KEY, "canary11sealing"];
        Self {
            personal: personal.map(str::to_owned).into(),
            secrets: secrets.map(str::to_owned).into(),
        }
    }

    /// A secret that was made on the way: its last part, for the first tells keys apart, and may be shown.
    fn add(&mut self, secret: &str) {
        self.secrets.push(secret[secret.len() - 32..].to_owned());
    }

    fn assert_none(&self, place: &str, text: &str) {
        none_of(self.personal.iter().chain(&self.secrets), place, text);
    }
}

fn none_of<'a>(canaries: impl IntoIterator<Item = &'a String>, place: &str, text: &str) {
    for canary in canaries {
        if let Some(at) = text.find(canary.as_str()) {
            let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
            let rest = text[at..].find('\n').map_or(text.len(), |end| at + end);
            panic!("{canary} is in {place}: {}", &text[line..rest]);
        }
    }
}

/// Knows nobody.
#[derive(Debug)]
struct Nowhere;

#[async_trait::async_trait]
impl Resolver for Nowhere {
    async fn resolve(&self, _host: &str) -> io::Result<Vec<IpAddr>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// A gateway that delivers over HTTP, and a storage that can be lost.
struct Bed {
    app: App,
    ids: Ids,
    faults: Arc<Faults>,
    canaries: Canaries,
}

impl Bed {
    async fn new() -> Self {
        let env = Env::system();
        let storage = MemoryStorage::new();
        let faults = Faults::off();
        let inner: Arc<dyn Storage> = Arc::new(storage.clone());
        let faulty: Arc<Faulty<dyn Storage>> =
            Arc::new(Faulty::new(inner, Arc::clone(&faults), Life::new()));
        let sandbox = Sandbox::new(env.clone());
        let policy = EgressPolicy::default()
            .with_http(HttpScheme::Allowed)
            .with_allowed("127.0.0.1/32".parse().unwrap());
        let transport =
            HttpTransport::builder(env.clone(), policy).with_resolver(Arc::new(Nowhere));
        let keys = KeyRing::parse(&format!("k1:{SEALING_KEY}")).unwrap();
        // Keys are looked up each time, so that a lost storage is met at the door too.
        let settings = Settings { api_keys_cached: Duration::ZERO, ..Settings::default() };
        let gateway = Gateway::builder()
            .with_processor(Mode::Test, Arc::new(sandbox.clone()), ProcessorSettings::default())
            .with_storage(faulty)
            .with_queue(Arc::new(MemoryQueue::new()))
            .with_notifier(Arc::new(MemoryNotifier::new()))
            .with_transport(Arc::new(transport.build().unwrap()), keys)
            .with_key_pepper(Pepper::new(Secret::new(PEPPER)).unwrap())
            .with_settings(settings)
            .build()
            .unwrap();
        let receiver = Arc::new(Receiver::default());
        let app = App::of(gateway, storage, sandbox, receiver, Config::default()).await;
        let ids = Ids::new(&app).await;
        let mut canaries = Canaries::new();
        for role in Role::ALL {
            canaries.add(app.key(role));
        }
        Self { app, ids, faults, canaries }
    }

    /// The request of a route, with a canary in every text that it takes.
    fn ask(&self, route: &Route) -> Ask<'_> {
        let ask = self.app.ask(route.method().clone(), &self.ids.path(route)).json(filled(route));
        ask.with("prefer", "wait=0")
    }

    /// Asks for nothing good.
    async fn refused(&self, ask: Ask<'_>) {
        self.heard(ask, false).await;
    }

    /// Asks, and looks through what is answered: a problem shows nothing, and nobody but who makes a secret sees it.
    async fn heard(&self, ask: Ask<'_>, is_maker: bool) -> Reply {
        let reply = ask.await_reply().await;
        let shown = format!("{:?} {}", reply.headers, String::from_utf8_lossy(&reply.body));
        if !reply.status.is_success() {
            self.canaries.assert_none("a problem", &shown);
        } else if !is_maker {
            none_of(&self.canaries.secrets, "an answer", &shown);
        }
        reply
    }
}

/// A valid body with a canary in every text.
fn filled(route: &Route) -> String {
    let text = match (route.method().clone(), route.path()) {
        (Method::POST, "/payments") => format!(
            "{{\"amount\":49.99,\"currency\":\"USD\",\"customer_email\":\"{EMAIL}\",\"customer_name\":\"{NAME}\",\
             \"customer_id\":\"{CUSTOMER}\",\"description\":\"{DESCRIPTION}\",\
             \"metadata\":{{\"{METADATA_KEY}\":\"{METADATA}\"}}}}"
        ),
        (_, "/payments/{id}/refund" | "/payments/{id}/refunds") => {
            format!("{{\"amount\":0.01,\"reason\":\"{REASON}\"}}")
        }
        (Method::POST, "/webhook-endpoints") => format!(
            "{{\"url\":\"https://hooks.example/?t={URL}\",\"description\":\"{DESCRIPTION}\",\
             \"headers\":{{\"X-Custom\":\"{HEADER}\"}}}}"
        ),
        (Method::PATCH, "/webhook-endpoints/{id}") => {
            format!(
                "{{\"description\":\"{DESCRIPTION}\",\"headers\":{{\"X-Custom\":\"{HEADER}\"}}}}"
            )
        }
        (Method::POST, "/ip-denylist") => {
            format!("{{\"network\":\"192.0.2.1\",\"reason\":\"{REASON}\"}}")
        }
        _ => body(route),
    };
    text.replace("\"name\":\"x\"", &format!("\"name\":\"{NAME}\""))
        .replace("\"reason\":\"x\"", &format!("\"reason\":\"{REASON}\""))
}

/// Spoils a valid request in every way there is.
async fn spoil(bed: &Bed, route: &Route) {
    let (method, path) = (route.method().clone(), bed.ids.path(route));
    let valid = filled(route);
    let key = bed.app.key(Role::Admin);
    let wrong = format!("{}{GUESS:A<43}", &key[..key.len() - 43]);
    for bad in [GUESS, &wrong, &format!("{key}{GUESS}"), bed.app.key(Role::Readonly)] {
        if route.permission().is_some_and(|permission| !Role::Readonly.may(permission)) {
            bed.refused(bed.ask(route).with("x-api-key", bad)).await;
        }
    }
    let basic = format!("Basic {GUESS}");
    bed.refused(bed.ask(route).without("x-api-key").with("authorization", &basic)).await;
    bed.refused(bed.ask(route).with("content-type", GUESS)).await;
    bed.refused(bed.ask(route).with("idempotency-key", &format!("a b {GUESS}"))).await;
    let ask = |path: String| bed.app.ask(method.clone(), &path).json(valid.clone());
    bed.refused(ask(format!("{path}?{UNKNOWN}={GUESS}&customer_id={CUSTOMER}"))).await;
    bed.refused(ask(format!("{path}?status={GUESS}&after={GUESS}&network={GUESS}"))).await;
    let named = route.path().replace("{id}", GUESS).replace("{name}", GUESS);
    bed.refused(ask(named)).await;
    let cut = &valid[..valid.len().saturating_sub(2)];
    let member =
        format!("{{\"{UNKNOWN}\":\"{GUESS}\",\"description\":{{\"{UNKNOWN}\":\"{GUESS}\"}}}}");
    let texts =
        valid.replace("canary", "\\u0000canary").replace("{\"", &format!("{{\"{UNKNOWN}\":1,\""));
    for body in [cut, &member, &texts, GUESS] {
        bed.refused(bed.app.ask(method.clone(), &path).json(body.to_owned())).await;
    }
    let put = bed.app.ask(Method::PUT, &path).json(valid.clone());
    bed.refused(put).await;
    let lost = [
        Rates { read_fails: 1_000, ..Rates::default() },
        Rates { commit_fails: 1_000, ..Rates::default() },
        Rates { commit_lost: 1_000, ..Rates::default() },
        Rates { commit_applied_unheard: 1_000, ..Rates::default() },
    ];
    for rates in lost {
        bed.faults.set(rates);
        bed.heard(bed.ask(route), true).await;
        bed.faults.set(Rates::default());
    }
}

/// What a host would print of what it gets from the gateway.
async fn debugged(gateway: &Gateway, endpoint: &str) -> Vec<String> {
    let host = gateway.host();
    let page = PageRequest::default;
    let mut shown = vec![show(gateway), show(&host)];
    for payment in host.payments(&Default::default(), page()).await.unwrap().data {
        shown.push(show(&host.payment(payment.id).await.unwrap()));
        shown.push(show(&host.payment_events(payment.id, 0, 100).await.unwrap()));
        shown.push(show(&payment));
    }
    shown.push(show(&host.refunds(None, page()).await.unwrap()));
    shown.push(show(&host.endpoint(endpoint.parse().unwrap()).await.unwrap()));
    shown.push(show(&host.endpoints(page()).await.unwrap()));
    for delivery in host.deliveries(&DeliveryFilter::default(), page()).await.unwrap().data {
        shown.push(show(&host.delivery(delivery.id).await.unwrap()));
        shown.push(show(&host.attempts(delivery.id, 10).await.unwrap()));
    }
    shown.push(show(&host.api_keys(page()).await.unwrap()));
    shown.push(show(&host.audit(&AuditFilter::default(), page()).await.unwrap()));
    // And of what cannot be read.
    let bad = format!("{GUESS}\u{0}");
    shown.push(format!("{:?}", Email::parse(&bad).map_err(|error| error.to_string())));
    shown.push(format!("{:?}", CustomerName::parse(&bad).map_err(|error| error.to_string())));
    shown.push(format!("{:?}", CustomerId::parse(&bad).map_err(|error| error.to_string())));
    shown.push(format!("{:?}", Description::parse(&bad).map_err(|error| error.to_string())));
    shown.push(format!("{:?}", Reason::parse(&bad).map_err(|error| error.to_string())));
    shown.push(format!("{:?}", EndpointUrl::parse(&bad).map_err(|error| error.to_string())));
    shown.push(format!("{:?}", KeyRing::parse(&bad).map_err(|error| error.to_string())));
    shown
}

fn show(value: &impl Debug) -> String {
    format!("{value:#?}")
}

#[tokio::test]
async fn none_shows_in_logs_errors_debug_or_metrics() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    let _counting = metrics::set_default_local_recorder(&recorder);
    let log = Log::default();
    let _recording = log.record();
    let mut bed = Bed::new().await;
    let worker = bed.app.work();
    let mut receivers = Vec::new();
    for behaviour in
        [Behaviour::WellBehaved, Behaviour::Gone, Behaviour::Garbage, Behaviour::ResetAfterRequest]
    {
        let receiver = HostileReceiver::start(behaviour).await.unwrap();
        let body = format!(
            "{{\"url\":\"{}?t={URL}\",\"headers\":{{\"X-Custom\":\"{HEADER}\"}}}}",
            receiver.url().url()
        );
        let reply = bed.app.post("/webhook-endpoints", body).await_reply().await;
        bed.canaries.add(&reply.text("secret"));
        receivers.push(receiver);
    }
    for route in pgw_http::routes() {
        spoil(&bed, route).await;
        if route.path() == "/events/stream" {
            continue;
        }
        let reply = bed.heard(bed.ask(route), true).await;
        assert!(reply.status.is_success() || reply.status.is_client_error(), "{route:?} {reply:?}");
        let made = serde_json::from_slice::<serde_json::Value>(&reply.body).unwrap_or_default();
        if let Some(secret) = made["secret"].as_str() {
            bed.canaries.add(secret);
        } else {
            bed.heard(bed.ask(route), false).await;
        }
    }
    // Each kind of answer has come; the others of a failing endpoint are put off.
    while receivers.iter().any(|receiver| receiver.requests() == 0) {
        tokio::task::yield_now().await;
    }
    worker.shutdown().await;
    let ops = Ops::new(bed.app.gateway.clone(), &Config::default()).router();
    for path in ["/health", "/readyz", "/openapi.json", "/docs"] {
        let reply = bed.app.get(path).of(ops.clone()).await;
        assert_eq!(reply.status, StatusCode::OK, "{path}");
        bed.canaries.assert_none(path, &String::from_utf8_lossy(&reply.body));
    }
    let text = log.take();
    // They would be there if anybody had logged them.
    assert!(text.contains("TRACE") && text.contains("pgw.request"), "{text}");
    bed.canaries.assert_none("the log", &text);
    let counted = metrics.render();
    assert!(counted.contains("pgw_webhook_attempts_total"), "{counted}");
    bed.canaries.assert_none("the metrics", &counted);
    for shown in debugged(&bed.app.gateway, &bed.ids.endpoint).await {
        bed.canaries.assert_none("Debug", &shown);
    }
}
