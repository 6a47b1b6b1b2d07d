//! The table of routes and what happens around every handler: request id, authentication, permission, rendering of errors.
//! Each handler is in the file of its object.

mod api_keys;
mod audit;
mod customers;
mod deliveries;
mod endpoints;
mod events;
mod ip_denylist;
mod notifications;
mod payments;
mod problems;
mod refunds;
mod table;

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{OriginalUri, Request};
use axum::http::{HeaderName, Method};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter};
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use pgw_core::access::{
    ApiKeyText, Caller, Permission, Principal, Refusal, RefusedBecause, RouteName,
};
use pgw_core::gateway::{Answered, Bound, Gateway, Once};
use pgw_core::id::PaymentId;
use pgw_core::payment::PaymentState;
use tracing::Instrument as _;

use crate::answer::Answer;
use crate::auth::{self, ApiKeys, Authenticator, Denied};
use crate::client_ip::ClientIp;
use crate::config::Config;
use crate::extract::Incoming;
use crate::failures::Failures;
use crate::problem::{Problem, ProblemKind};
use crate::rate_limit::{Class, Count, RateLimitFields, too_many};
use crate::request_id;
use crate::stream::Streams;
use crate::telemetry::{self, InFlight};

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
    /// For processors, which prove themselves by their signatures.
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
    principal: Principal,
    caller: Caller,
    incoming: Incoming,
    preferred_wait: Option<Duration>,
}

impl Call {
    /// Takes the JSON body out; empty when there is none. What is asked for is in the body alone: a query beside it was meant for something,
    /// and would be ignored.
    async fn json(mut self) -> Result<(Self, Bytes), Problem> {
        self.incoming.query()?.finish()?;
        let bytes = self.incoming.json().await?;
        Ok((self, bytes))
    }

    /// A payment in the caller's scope.
    async fn payment(&self, id: PaymentId) -> Result<PaymentState, Problem> {
        self.gateway().payment(id).await?.ok_or_else(Problem::not_found)
    }

    /// Refuses whoever is not of the operator's merchant: what is asked for holds for all merchants.
    fn of_operator(&self) -> Result<(), Problem> {
        if self.caller.scope.merchant == *self.api.config.operator() {
            Ok(())
        } else {
            Err(Problem::insufficient_permissions())
        }
    }

    /// The gateway's verbs in the caller's scope.
    fn gateway(&self) -> Bound<'_> {
        self.api.gateway.by(self.caller.clone())
    }

    /// The verbs that claim the request's idempotency key, if it brings one.
    fn once(&self) -> Result<Once<'_>, Problem> {
        Ok(self.gateway().once(self.incoming.idempotency_key()?))
    }

    /// The address of what a key stands for.
    fn location_of<T>(&self, collection: &str, made: &Answered<T>) -> String {
        self.location(collection, &made.target.object().unwrap_or_default())
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
    failures: Failures,
    streams: Streams,
}

/// The router. See [`crate::router`].
pub(crate) fn build<S: Clone + Send + Sync + 'static>(
    gateway: Gateway,
    config: Config,
) -> Router<S> {
    let own = || Arc::new(ApiKeys::new(gateway.clone())) as Arc<dyn Authenticator>;
    let authenticator = config.authenticator().unwrap_or_else(own);
    let streams = Streams::new(config.stream_limits());
    let failures = Failures::default();
    let api = Arc::new(Api { gateway, config, authenticator, failures, streams });
    let mut router = Router::new();
    let mut done: Vec<&str> = Vec::new();
    for route in routes() {
        if !done.contains(&route.path) {
            done.push(route.path);
            router = router.route(route.path, methods(&api, route.path));
        }
    }
    match api.config.public_base_url() {
        // Types of problems lead here.
        Some(_) => router.route(PROBLEM_PAGES, problem_pages(&api)),
        None => router,
    }
}

fn problem_pages<S: Clone + Send + Sync + 'static>(api: &Arc<Api>) -> MethodRouter<S> {
    let shown = Arc::clone(api);
    let pages = axum::routing::get(move |request: Request| {
        let api = Arc::clone(&shown);
        async move {
            let about = problems::about(request.uri().path());
            answer(&api, PROBLEM_PAGES, request, |_, _| std::future::ready(about)).await
        }
    });
    refusing_others(api, pages, PROBLEM_PAGES)
}

/// Every method of one path, and what is around them: everything belongs to the path, so a host's own fallbacks stay as they
/// are.
fn methods<S: Clone + Send + Sync + 'static>(
    api: &Arc<Api>,
    path: &'static str,
) -> MethodRouter<S> {
    let mut methods = MethodRouter::new();
    for route in routes().iter().filter(|route| route.path == path) {
        let filter = MethodFilter::try_from(route.method.clone())
            .expect("the table holds GET, POST, PATCH and DELETE only");
        let api = Arc::clone(api);
        methods =
            methods.on(filter, move |request: Request| serve(Arc::clone(&api), route, request));
    }
    let methods = refusing_others(api, methods, path);
    let Some(cors) = api.config.cors() else { return methods };
    let allowed = routes().iter().filter(|route| route.path == path);
    let cors = cors.layer(allowed.map(|route| route.method.clone()));
    // Preflights are answered by the layer, and get their headers from outside it.
    methods.layer::<_, Infallible>(cors).layer(api.config.security_headers().clone())
}

fn refusing_others<S: Clone + Send + Sync + 'static>(
    api: &Arc<Api>,
    methods: MethodRouter<S>,
    path: &'static str,
) -> MethodRouter<S> {
    let api = Arc::clone(api);
    methods.fallback(move |request: Request| {
        let api = Arc::clone(&api);
        async move { answer(&api, path, request, |request, _| refuse_method(&api, request)).await }
    })
}

async fn refuse_method(api: &Arc<Api>, request: Request) -> Outcome {
    let detail = "This address does not answer to that method; see Allow.";
    let incoming = Incoming::of(request, api.config.trusted_proxies()).await;
    api.let_in(&incoming).await?;
    Err(Problem::new(ProblemKind::MethodNotAllowed, detail))
}

async fn serve(api: Arc<Api>, route: &'static Route, request: Request) -> Response {
    let mut limits = RateLimitFields::default();
    let handled = answer(&api, route.path, request, |request, id| {
        handle(&api, route, request, id, &mut limits)
    });
    let mut response = handled.await;
    limits.apply(response.headers_mut());
    response
}

/// What is around everything that a path of ours answers: an id, a span, the count; and that it does answer.
async fn answer<F: Future<Output = Outcome>>(
    api: &Api,
    path: &'static str,
    request: Request,
    handle: impl FnOnce(Request, Arc<str>) -> F,
) -> Response {
    let env = api.config.env();
    let began = env.now();
    let id = request_id::of(request.headers(), env);
    let span = telemetry::span(&id, request.method(), path);
    let in_flight = InFlight::begin(request.method(), path);
    // What is shared outlives a panic whole: its locks are held for single steps, and storage commits all or nothing.
    let handled = AssertUnwindSafe(handle(request, Arc::clone(&id))).catch_unwind();
    let outcome = handled.instrument(span.clone()).await;
    span.in_scope(|| {
        let response = finish(api, &id, outcome.unwrap_or_else(|_panic| Err(Problem::panicked())));
        in_flight.answered(response.status(), env.now().since(began));
        response
    })
}

async fn handle(
    api: &Arc<Api>,
    route: &Route,
    request: Request,
    request_id: Arc<str>,
    limits: &mut RateLimitFields,
) -> Outcome {
    let incoming = Incoming::of(request, api.config.trusted_proxies()).await;
    api.let_in(&incoming).await?;
    let (permission, handler) = match route.handler {
        Handler::Open(handler) => {
            api.count_client(Class::Processor, incoming.client, limits).await?;
            return handler(OpenCall { api: Arc::clone(api), incoming }).await;
        }
        Handler::Protected(permission, handler) => (permission, handler),
    };
    let refuse =
        |because, principal| api.record_refusal(route, &incoming, &request_id, because, principal);
    let principal = api.admit(&incoming, limits, |because| refuse(because, None)).await?;
    telemetry::is_of(&principal.scope);
    if !principal.role.may(permission) {
        refuse(RefusedBecause::Permission, Some(principal));
        return Err(Problem::insufficient_permissions());
    }
    let caller = Caller {
        scope: principal.scope.clone(),
        actor: principal.actor.clone(),
        origin: incoming.client.map(|ClientIp(address)| address),
        request_id: Some(request_id),
    };
    if let Ok(payment) = incoming.name("id") {
        telemetry::is_about_payment(payment);
    } else if let Ok(delivery) = incoming.name("id") {
        telemetry::is_about_delivery(delivery);
    }
    // A key that is none is refused on every route that could take one, not only where it is used.
    if matches!(route.method, Method::POST | Method::PATCH) {
        incoming.idempotency_key()?;
    }
    let preferred_wait = incoming.preferred_wait();
    handler(Call { api: Arc::clone(api), principal, caller, incoming, preferred_wait }).await
}

fn finish(api: &Api, request_id: &str, outcome: Outcome) -> Response {
    let mut response = match outcome {
        Ok(answer) => answer.into_response(),
        Err(problem) => problem.into_response(api.config.type_base(), request_id),
    };
    let headers = response.headers_mut();
    api.config.security_headers().apply(headers);
    request_id::mark(headers, request_id);
    response
}

impl Api {
    /// Refuses whoever calls from an address that is denied, before anything else is looked at.
    async fn let_in(&self, incoming: &Incoming) -> Result<(), Problem> {
        match incoming.client {
            Some(ClientIp(address)) if self.gateway.is_denied(address).await => {
                let detail = "Nobody is let in from the address that you call from.";
                Err(Problem::new(ProblemKind::AddressDenied, detail))
            }
            _ => Ok(()),
        }
    }

    /// Leaves a row of a refusal in the audit log; what becomes of it changes nothing for who is refused.
    fn record_refusal(
        &self,
        route: &Route,
        incoming: &Incoming,
        request_id: &Arc<str>,
        because: RefusedBecause,
        principal: Option<Principal>,
    ) {
        let name = RouteName::parse(&format!("{} {}", route.method, route.path));
        let route = name.expect("the table holds methods and plain paths");
        let origin = incoming.client.map(|ClientIp(address)| address);
        let request_id = Some(Arc::clone(request_id));
        self.gateway.record_refusal(Refusal { because, route, principal, origin, request_id });
    }

    /// Who calls, if they may: known, and within their limits.
    async fn admit(
        &self,
        incoming: &Incoming,
        limits: &mut RateLimitFields,
        refuse: impl Fn(RefusedBecause),
    ) -> Result<Principal, Problem> {
        let headers = &incoming.parts.headers;
        let key = auth::credential(headers).ok().and_then(ApiKeyText::parse);
        // Without an address all clients would share the failures of one, and whoever knows a prefix could shut its key out.
        let tried = key.zip(incoming.client).map(|(key, client)| (key.prefix(), client.counted()));
        let now = self.config.env().now();
        if let Some(wait) = tried.and_then(|tried| self.failures.wait(&tried, now)) {
            return Err(too_many(wait));
        }
        match self.authenticator.authenticate(headers).await {
            Ok(principal) => {
                if let Some(counted) = self.config.rate_limits() {
                    take(counted.count_principal(&principal).await, limits)?;
                }
                Ok(principal)
            }
            Err(denied @ Denied::Unavailable(_)) => Err(denied.into()),
            Err(denied) => {
                if let Some(tried) = tried {
                    self.failures.record(tried, now);
                }
                // Those beyond the limit leave no row: that would make the log a lever.
                self.count_client(Class::Anonymous, incoming.client, limits).await?;
                refuse(match denied {
                    Denied::Missing => RefusedBecause::MissingCredential,
                    Denied::Invalid | Denied::Unavailable(_) => RefusedBecause::InvalidCredential,
                });
                Err(denied.into())
            }
        }
    }

    async fn count_client(
        &self,
        class: Class,
        client: Option<ClientIp>,
        limits: &mut RateLimitFields,
    ) -> Result<(), Problem> {
        match self.config.rate_limits() {
            Some(counted) => take(counted.count_client(class, client).await, limits),
            None => Ok(()),
        }
    }
}

fn take(count: Count, limits: &mut RateLimitFields) -> Result<(), Problem> {
    *limits = count.fields;
    count.refusal.map_or(Ok(()), Err)
}

/// Where types of problems lead.
const PROBLEM_PAGES: &str = "/problems/{slug}";
/// Says which preference was heeded (RFC 7240 §3).
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
