//! The table of routes and what happens around every handler: request id, authentication, permission, rendering of errors.
//! Each handler is in the file of its object.

mod deliveries;
mod endpoints;
mod health;
mod notifications;
mod payments;
mod refunds;
mod table;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{OriginalUri, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use pgw_core::access::{Caller, Permission};
use pgw_core::gateway::{Bound, Gateway};
use pgw_core::id::PaymentId;
use pgw_core::pan::contains_card_number;
use pgw_core::payment::PaymentState;
use tracing::Instrument as _;

use crate::answer::Answer;
use crate::auth::{ApiKeys, Authenticator};
use crate::config::Config;
use crate::extract::Incoming;
use crate::problem::{Problem, ProblemKind};

/// Every route of the API, in the order of its documentation.
///
/// ```
/// use pgw_core::access::Permission;
/// let refund = pgw_http::routes().iter().find(|route| route.path() == "/payments/{id}/refund").unwrap();
/// assert_eq!(refund.permission(), Some(Permission::Refund));
/// ```
#[must_use]
pub fn routes() -> &'static [Route] {
    &table::ROUTES
}

/// One route: a method and a path, and who may use it. There is none without a handler that says so.
#[derive(Debug)]
pub struct Route {
    method: Method,
    path: &'static str,
    handler: Handler,
}

impl Route {
    /// The method.
    #[must_use]
    pub const fn method(&self) -> &Method {
        &self.method
    }

    /// The path below where the router is mounted, parameters in braces.
    #[must_use]
    pub const fn path(&self) -> &'static str {
        self.path
    }

    /// What a caller must be allowed to do; `None` for the few routes that are not for holders of API keys.
    #[must_use]
    pub const fn permission(&self) -> Option<Permission> {
        match self.handler {
            Handler::Protected(permission, _) => Some(permission),
            Handler::Open(_) => None,
        }
    }
}

/// The handler of a route, with what it takes to get there.
#[derive(Clone, Copy)]
enum Handler {
    /// For authenticated callers with this permission.
    Protected(Permission, fn(Call) -> BoxFuture<'static, Outcome>),
    /// For everybody: health, and processors, which prove themselves by their signatures.
    Open(fn(OpenCall) -> BoxFuture<'static, Outcome>),
}

impl std::fmt::Debug for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Protected(permission, _) => f.debug_tuple("Protected").field(permission).finish(),
            Self::Open(_) => f.write_str("Open"),
        }
    }
}

/// What a handler comes to.
type Outcome = Result<Answer, Problem>;

/// A request of an authenticated caller.
struct Call {
    api: Arc<Api>,
    caller: Caller,
    incoming: Incoming,
    preferred_wait: Option<Duration>,
}

impl Call {
    /// Takes the JSON body out; empty when there is none.
    async fn json(mut self) -> Result<(Self, Bytes), Problem> {
        let bytes = self.incoming.json().await?;
        Ok((self, bytes))
    }

    /// A payment in the caller's scope.
    async fn payment(&self, id: PaymentId) -> Result<PaymentState, Problem> {
        self.gateway().payment(id).await?.ok_or_else(Problem::not_found)
    }

    /// The gateway's verbs in the caller's scope.
    fn gateway(&self) -> Bound<'_> {
        self.api.gateway.by(self.caller.clone())
    }

    /// The address of something that this request made, below the address it was sent to.
    fn location(&self, collection: &str, id: &str) -> String {
        if let Some(base) = self.api.config.public_base_url() {
            return format!("{base}/{collection}/{id}");
        }
        let parts = &self.incoming.parts;
        let uri = parts.extensions.get().map_or(&parts.uri, |OriginalUri(uri)| uri);
        format!("{}/{id}", uri.path())
    }
}

/// A request of anybody.
struct OpenCall {
    api: Arc<Api>,
    incoming: Incoming,
}

/// What all routes share.
#[derive(Debug)]
struct Api {
    gateway: Gateway,
    config: Config,
    authenticator: Arc<dyn Authenticator>,
}

/// The router. See [`crate::router`].
pub(crate) fn build<S: Clone + Send + Sync + 'static>(
    gateway: Gateway,
    config: Config,
) -> Router<S> {
    let own = || Arc::new(ApiKeys::new(gateway.clone())) as Arc<dyn Authenticator>;
    let authenticator = config.authenticator().unwrap_or_else(own);
    let api = Arc::new(Api { gateway, config, authenticator });
    let mut router = Router::new();
    let mut done: Vec<&str> = Vec::new();
    for route in routes() {
        if !done.contains(&route.path) {
            done.push(route.path);
            router = router.route(route.path, methods(&api, route.path));
        }
    }
    router
}

/// Every method of one path, and the refusal of all others. The refusal belongs to the path, so a host's own fallbacks
/// stay as they are.
fn methods<S: Clone + Send + Sync + 'static>(api: &Arc<Api>, path: &str) -> MethodRouter<S> {
    let mut methods = MethodRouter::new();
    for route in routes().iter().filter(|route| route.path == path) {
        let filter = MethodFilter::try_from(route.method.clone())
            .expect("the table holds GET, POST, PATCH and DELETE only");
        let api = Arc::clone(api);
        methods =
            methods.on(filter, move |request: Request| serve(Arc::clone(&api), route, request));
    }
    let api = Arc::clone(api);
    methods.fallback(move |request: Request| {
        let detail = "This address does not answer to that method; see Allow.";
        let problem = Problem::new(ProblemKind::MethodNotAllowed, detail);
        let response = finish(&api, &api.request_id(request.headers()), Err(problem));
        std::future::ready(response)
    })
}

async fn serve(api: Arc<Api>, route: &'static Route, request: Request) -> Response {
    let request_id = api.request_id(request.headers());
    let span = tracing::info_span!(
        "pgw.request",
        request_id = &*request_id,
        method = route.method.as_str(),
        route = route.path,
    );
    let outcome = handle(&api, route, request, &request_id).instrument(span).await;
    finish(&api, &request_id, outcome)
}

async fn handle(api: &Arc<Api>, route: &Route, request: Request, request_id: &Arc<str>) -> Outcome {
    let incoming = Incoming::of(request).await;
    let api = Arc::clone(api);
    let (permission, handler) = match route.handler {
        Handler::Open(handler) => return handler(OpenCall { api, incoming }).await,
        Handler::Protected(permission, handler) => (permission, handler),
    };
    let principal = api.authenticator.authenticate(&incoming.parts.headers).await?;
    if !principal.role.may(permission) {
        let detail = "The role of this API key may not do this.";
        return Err(Problem::new(ProblemKind::InsufficientPermissions, detail));
    }
    let caller = Caller {
        scope: principal.scope,
        actor: principal.actor,
        origin: incoming.peer,
        request_id: Some(Arc::clone(request_id)),
    };
    // A key that is none is refused on every route that could take one, not only where it is used.
    if matches!(route.method, Method::POST | Method::PATCH) {
        incoming.idempotency_key()?;
    }
    let preferred_wait = incoming.preferred_wait();
    handler(Call { api, caller, incoming, preferred_wait }).await
}

fn finish(api: &Api, request_id: &str, outcome: Outcome) -> Response {
    let mut response = match outcome {
        Ok(answer) => answer.into_response(),
        Err(problem) => problem.into_response(api.config.type_base(), request_id),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let id = HeaderValue::from_str(request_id).expect("a request id is checked or minted as ASCII");
    headers.insert(REQUEST_ID, id);
    response
}

impl Api {
    /// The caller's `X-Request-Id` if it is well-formed, else a new one. It goes to logs, so what looks like a card number is
    /// not well-formed.
    fn request_id(&self, headers: &HeaderMap) -> Arc<str> {
        let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(|id| {
            let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
            plain && (1..=REQUEST_ID_MAX).contains(&id.len()) && !contains_card_number(id)
        });
        match given {
            Some(id) => id.into(),
            None => format!("req_{}", self.config.env().uuid().simple()).into(),
        }
    }
}

/// Says that an earlier request with the same key did it.
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// Says which preference was heeded (RFC 7240 §3).
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id taken from a caller: fits UUIDs and trace ids, and keeps log lines short.
const REQUEST_ID_MAX: usize = 64;
