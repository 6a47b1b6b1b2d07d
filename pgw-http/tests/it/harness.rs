//! The router over the memory backend, and short ways to ask it things.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use futures_util::StreamExt as _;
use pgw_core::access::{Caller, Role};
use pgw_core::builder::ProcessorSettings;
use pgw_core::crypto::KeyRing;
use pgw_core::env::Env;
use pgw_core::gateway::{Gateway, NewApiKey};
use pgw_core::notifier::Notifier;
use pgw_core::sandbox::Sandbox;
use pgw_core::scope::{MerchantId, Mode, Scope};
use pgw_core::text::Description;
use pgw_core::webhook::egress::EgressPolicy;
use pgw_core::webhook::{
    EndpointUrl, TransportError, TransportErrorKind, WebhookRequest, WebhookResponse,
    WebhookTransport,
};
use pgw_core::worker::{Worker, WorkerHandle};
use pgw_http::Config;
use pgw_storage_memory::{MemoryNotifier, MemoryQueue, MemoryStorage};
use serde_json::Value;
use tower::ServiceExt as _;

/// Takes every webhook but those to `refusing.example`, which is gone, and to `failing.example`.
#[derive(Debug, Default)]
pub(crate) struct Receiver {
    received: Mutex<Vec<WebhookRequest>>,
}

impl Receiver {
    /// What arrived since the last call.
    pub(crate) fn take(&self) -> Vec<WebhookRequest> {
        std::mem::take(&mut self.received.lock().unwrap())
    }
}

#[async_trait::async_trait]
impl WebhookTransport for Receiver {
    fn check(&self, url: &EndpointUrl) -> Result<(), TransportError> {
        EgressPolicy::default().check_url(url).map_err(|error| TransportError {
            kind: TransportErrorKind::Denied,
            source: Some(Arc::new(error)),
        })
    }

    async fn send(&self, request: &WebhookRequest) -> Result<WebhookResponse, TransportError> {
        self.received.lock().unwrap().push(request.clone());
        Ok(WebhookResponse {
            status: match request.url.url().host_str() {
                Some("refusing.example") => 410,
                Some("failing.example") => 500,
                _ => 200,
            },
            body_start: "ok".into(),
            retry_after: None,
        })
    }
}

/// A gateway on memory with its router and a key for each role.
pub(crate) struct App {
    pub(crate) gateway: Gateway,
    pub(crate) storage: MemoryStorage,
    pub(crate) sandbox: Sandbox,
    pub(crate) receiver: Arc<Receiver>,
    pub(crate) router: Router,
    keys: BTreeMap<Role, String>,
}

impl App {
    pub(crate) async fn new() -> Self {
        Self::with(Config::default()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        Self::build(config, Arc::new(MemoryNotifier::new())).await
    }

    pub(crate) async fn build(config: Config, notifier: Arc<dyn Notifier>) -> Self {
        let storage = MemoryStorage::new();
        let sandbox = Sandbox::new(Env::system());
        let receiver = Arc::new(Receiver::default());
        let processor = Arc::new(sandbox.clone());
        let gateway = Gateway::builder()
            .with_processor(Mode::Test, processor, ProcessorSettings::default())
            .with_storage(Arc::new(storage.clone()))
            .with_queue(Arc::new(MemoryQueue::new()))
            .with_notifier(notifier)
            .with_transport(Arc::clone(&receiver) as _, KeyRing::ephemeral(&Env::system()))
            .build()
            .unwrap();
        Self::of(gateway, storage, sandbox, receiver, config).await
    }

    /// Of a gateway that is made of these parts.
    pub(crate) async fn of(
        gateway: Gateway,
        storage: MemoryStorage,
        sandbox: Sandbox,
        receiver: Arc<Receiver>,
        config: Config,
    ) -> Self {
        let router = pgw_http::router(gateway.clone(), config);
        let mut keys = BTreeMap::new();
        for role in Role::ALL {
            keys.insert(role, new_key(&gateway, Scope::default(), role).await);
        }
        Self { gateway, storage, sandbox, receiver, router, keys }
    }

    pub(crate) fn key(&self, role: Role) -> &str {
        &self.keys[&role]
    }

    /// Starts a worker: charges, refunds and deliveries happen from now on.
    pub(crate) fn work(&self) -> WorkerHandle {
        Worker::new(&self.gateway).start()
    }

    /// Asks as an admin.
    pub(crate) fn ask(&self, method: Method, path: &str) -> Ask<'_> {
        let ask = Ask {
            app: self,
            method,
            path: path.to_owned(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        };
        ask.with("x-api-key", self.key(Role::Admin))
    }

    pub(crate) fn get(&self, path: &str) -> Ask<'_> {
        self.ask(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &str, body: impl Into<Bytes>) -> Ask<'_> {
        self.ask(Method::POST, path).json(body)
    }

    pub(crate) fn patch(&self, path: &str, body: impl Into<Bytes>) -> Ask<'_> {
        self.ask(Method::PATCH, path).json(body)
    }

    /// A new payment, charged or held when a worker runs.
    pub(crate) async fn pay(&self, extra: &str) -> String {
        let reply =
            self.post("/payments", payment(extra)).with("prefer", "wait=30").await_reply().await;
        assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");
        reply.text("id")
    }

    /// A new endpoint.
    pub(crate) async fn endpoint(&self, url: &str) -> String {
        let reply =
            self.post("/webhook-endpoints", format!("{{\"url\":\"{url}\"}}")).await_reply().await;
        assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");
        reply.text("id")
    }
}

/// The body of a payment, with more members before it (`"capture":"manual",`).
pub(crate) fn payment(extra: &str) -> String {
    format!(
        "{{{extra}\"amount\":49.99,\"currency\":\"USD\",\"customer_email\":\"ada@example.com\",\
         \"customer_name\":\"Ada Lovelace\"}}"
    )
}

pub(crate) async fn new_key(gateway: &Gateway, scope: Scope, role: Role) -> String {
    let new = NewApiKey { role, name: Description::parse("test").unwrap(), expires_in: None };
    let (_, secret) = gateway.by(Caller::host(scope)).create_api_key(new).await.unwrap();
    secret.expose().to_owned()
}

/// Another merchant than the default one.
pub(crate) fn stranger() -> Scope {
    Scope::new("stranger".parse::<MerchantId>().unwrap(), Mode::Test)
}

/// A request to be sent.
#[derive(Clone)]
pub(crate) struct Ask<'a> {
    app: &'a App,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Ask<'_> {
    pub(crate) fn json(self, body: impl Into<Bytes>) -> Self {
        let mut ask = self.with("content-type", "application/json");
        ask.body = body.into();
        ask
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value.parse().unwrap());
        self
    }

    pub(crate) fn also(mut self, name: &'static str, value: &str) -> Self {
        self.headers.append(name, value.parse().unwrap());
        self
    }

    pub(crate) fn without(mut self, name: &'static str) -> Self {
        self.headers.remove(name);
        self
    }

    pub(crate) async fn await_reply(self) -> Reply {
        let router = self.app.router.clone();
        self.of(router).await
    }

    /// Sends it to another router. The answer has to be as documented.
    pub(crate) async fn of(self, router: Router) -> Reply {
        let mut request = Request::new(Body::from(self.body.clone()));
        let method = self.method.clone();
        *request.method_mut() = self.method;
        *request.uri_mut() = self.path.parse().unwrap();
        *request.headers_mut() = self.headers;
        let (parts, body) = router.oneshot(request).await.unwrap().into_parts();
        // A stream of events has no end; its beginning is an answer.
        let body = if parts
            .headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|it| it == "text/event-stream")
        {
            body.into_data_stream().next().await.unwrap().unwrap()
        } else {
            axum::body::to_bytes(body, usize::MAX).await.unwrap()
        };
        let reply = Reply { status: parts.status, headers: parts.headers, body };
        crate::contract::check(&method, &self.path, &self.body, &reply);
        reply
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// A member that is a string.
    pub(crate) fn text(&self, member: &str) -> String {
        self.json()[member].as_str().unwrap_or_else(|| panic!("no {member}: {self:?}")).to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Asserts that it is a problem of the documented form; gives its error codes.
    pub(crate) fn problem(&self, status: u16, error: &str) -> Vec<(String, String, String)> {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(self.header("cache-control"), Some("no-store"));
        let body = self.json();
        assert_eq!(body["status"], status, "{body}");
        assert_eq!((&body["title"], &body["error"]), (&error.into(), &error.into()), "{body}");
        assert!(body["type"].as_str().unwrap().starts_with("https://"), "{body}");
        assert!(!body["detail"].as_str().unwrap().is_empty());
        assert_eq!(body["request_id"].as_str(), self.header("x-request-id"));
        assert_eq!(self.headers.contains_key(header::WWW_AUTHENTICATE), status == 401);
        let errors = body["errors"].as_array().cloned().unwrap_or_default();
        assert!(errors.is_empty() || status == 400 || status == 422, "{body}");
        let text = |error: &Value, member: &str| error[member].as_str().unwrap().to_owned();
        errors
            .iter()
            .map(|error| {
                assert!(!text(error, "msg").is_empty());
                (text(error, "path"), text(error, "location"), text(error, "code"))
            })
            .collect()
    }
}
