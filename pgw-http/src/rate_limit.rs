//! Rate limits: how many requests whom, and the headers that say so. The counting itself is a
//! [`RateLimiter`]'s, which the host brings.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Request};
use axum::response::{IntoResponse, Response};
use pgw_core::access::Principal;
use pgw_core::rate_limit::{Admission, Decision, Limit, RateLimitError, RateLimiter};
use sfv::{KeyRef, ListSerializer, StringRef};
use tower::{Layer, Service};

use crate::client_ip::{ClientIp, TrustedProxies};
use crate::config::Config;
use crate::problem::{Problem, ProblemKind};
use crate::refusal::Refusals;

/// Whose requests are counted together, and under which limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Class {
    /// Requests without a valid credential, by the client's address: 100 in 15 minutes.
    Anonymous,
    /// Requests with one, by its holder: 6,000 a minute.
    Authenticated,
    /// Notifications of processors, which hold no key, by the client's address: 6,000 a minute.
    Processor,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 3] = [Self::Anonymous, Self::Authenticated, Self::Processor];

    /// The name of its policy in `RateLimit-Policy`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Authenticated => "authenticated",
            Self::Processor => "processor",
        }
    }

    /// The limit unless another is set.
    #[must_use]
    pub const fn default_limit(self) -> Limit {
        match self {
            Self::Anonymous => limit(100, 15 * 60),
            Self::Authenticated | Self::Processor => limit(6_000, 60),
        }
    }
}

/// What becomes of requests that cannot be counted. The two values are all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenUnavailable {
    /// They are served.
    Admit,
    /// They are answered 503.
    Refuse,
}

/// The limits of the router.
///
/// Requests of [`Class::Anonymous`] never reach a handler; counting them slows down who guesses keys. Without connect info
/// they are all counted as one.
///
/// When the limiter cannot be reached, holders of valid keys and processors are served, for they have to prove themselves
/// anyway, and others are refused (ASVS 16.5.3: no failing open).
///
/// ```
/// use std::sync::Arc;
/// use pgw_http::Config;
/// use pgw_http::rate_limit::{Class, RateLimits};
/// use pgw_storage_memory::MemoryRateLimiter;
///
/// let limits = RateLimits::new(Arc::new(MemoryRateLimiter::new())).without(Class::Processor);
/// let config = Config::default().with_rate_limits(limits);
/// ```
#[derive(Debug, Clone)]
pub struct RateLimits {
    limiter: Arc<dyn RateLimiter>,
    classes: [(Option<Limit>, WhenUnavailable); Class::ALL.len()],
}

impl RateLimits {
    /// The default limit for each class.
    #[must_use]
    pub fn new(limiter: Arc<dyn RateLimiter>) -> Self {
        let classes = Class::ALL.map(|class| {
            let when_unavailable = match class {
                Class::Anonymous => WhenUnavailable::Refuse,
                Class::Authenticated | Class::Processor => WhenUnavailable::Admit,
            };
            (Some(class.default_limit()), when_unavailable)
        });
        Self { limiter, classes }
    }

    /// With another limit for a class.
    #[must_use]
    pub fn with(mut self, class: Class, limit: Limit) -> Self {
        self.classes[class as usize].0 = Some(limit);
        self
    }

    /// Without a limit for a class.
    #[must_use]
    pub fn without(mut self, class: Class) -> Self {
        self.classes[class as usize].0 = None;
        self
    }

    /// With another answer for a class when the limiter cannot be reached.
    #[must_use]
    pub fn when_unavailable(mut self, class: Class, then: WhenUnavailable) -> Self {
        self.classes[class as usize].1 = then;
        self
    }

    /// The limit of a class, if it has one.
    #[must_use]
    pub fn limit(&self, class: Class) -> Option<Limit> {
        self.classes[class as usize].0
    }

    /// Counts a request by its client's address.
    pub(crate) async fn count_client(&self, class: Class, client: Option<ClientIp>) -> Count {
        self.count(class, client_key(class.as_str(), client)).await
    }

    /// Counts a request by who is authenticated.
    pub(crate) async fn count_principal(&self, principal: &Principal) -> Count {
        let class = Class::Authenticated;
        let Principal { scope, actor, .. } = principal;
        let key = format!("{}:{}:{}:{actor}", class.as_str(), scope.merchant.as_str(), scope.mode);
        self.count(class, key).await
    }

    async fn count(&self, class: Class, key: String) -> Count {
        let (limit, when_unavailable) = self.classes[class as usize];
        let Some(limit) = limit else { return Count::default() };
        match self.limiter.check(&key, limit).await {
            Ok(decision) => Count::of(class.as_str(), limit, decision),
            Err(error) => Count::uncounted(&error, when_unavailable),
        }
    }
}

/// What counting a request came to.
#[derive(Debug, Default)]
pub(crate) struct Count {
    /// What its answer says about the limit.
    pub(crate) fields: RateLimitFields,
    pub(crate) refusal: Option<Problem>,
}

impl Count {
    fn of(policy: &str, limit: Limit, decision: Decision) -> Self {
        let fields = RateLimitFields::of(policy, limit, decision);
        let refusal = match decision.verdict {
            Admission::Admitted => None,
            Admission::Refused { retry_in } => Some(too_many(retry_in)),
        };
        Self { fields, refusal }
    }

    fn uncounted(error: &RateLimitError, then: WhenUnavailable) -> Self {
        let cause: &(dyn std::error::Error + 'static) = error;
        tracing::warn!(error = cause, "a request was not counted");
        let detail = "Requests cannot be counted now; try again.";
        let refusal = (then == WhenUnavailable::Refuse)
            .then(|| Problem::new(ProblemKind::Unavailable, detail).retry_after(RETRY_SOON_SECS));
        Self { fields: RateLimitFields::default(), refusal }
    }
}

/// Refuses one more request, for this long.
pub(crate) fn too_many(retry_in: Duration) -> Problem {
    let detail = "There were too many requests; try again after Retry-After.";
    let seconds = u32::try_from(whole_secs(retry_in).max(1)).unwrap_or(u32::MAX);
    Problem::new(ProblemKind::TooManyRequests, detail).retry_after(seconds)
}

/// `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10), and the three fields of its older form that the
/// common middleware sends.
#[derive(Debug, Default)]
pub(crate) struct RateLimitFields(Vec<(HeaderName, HeaderValue)>);

impl RateLimitFields {
    fn of(policy: &str, limit: Limit, decision: Decision) -> Self {
        let quota = limit.quota.get();
        // How long until there is more: what `Retry-After` says too, which must not be earlier (§4).
        let reset = whole_secs(match decision.verdict {
            Admission::Admitted => decision.reset_in,
            Admission::Refused { retry_in } => retry_in,
        });
        let remaining = decision.remaining;
        let window = whole_secs(limit.window).max(1);
        let fields = [
            (POLICY, structured(policy, [("q", quota.into()), ("w", window)])),
            (STATE, structured(policy, [("r", remaining.into()), ("t", reset)])),
            (LIMIT, Some(quota.to_string())),
            (REMAINING, Some(remaining.to_string())),
            (RESET, Some(reset.to_string())),
        ];
        let value = |text: Option<String>| HeaderValue::try_from(text?).ok();
        Self(fields.into_iter().filter_map(|(name, text)| Some((name, value(text)?))).collect())
    }

    pub(crate) fn apply(self, headers: &mut HeaderMap) {
        headers.extend(self.0);
    }
}

/// A list of one string with parameters (RFC 9651). What does not fit there is left out.
fn structured(policy: &str, parameters: [(&str, u64); 2]) -> Option<String> {
    let mut list = ListSerializer::new();
    let mut item = list.bare_item(StringRef::from_str(policy).ok()?);
    for (name, value) in parameters {
        let value = i64::try_from(value).unwrap_or(INTEGER_MAX).min(INTEGER_MAX);
        item = item.parameter(KeyRef::from_str(name).ok()?, sfv::Integer::try_from(value).ok()?);
    }
    list.finish()
}

fn client_key(policy: &str, client: Option<ClientIp>) -> String {
    match client.map(ClientIp::counted) {
        Some(address) => format!("{policy}:{address}"),
        None => format!("{policy}:?"),
    }
}

/// Limits requests by their client's address, for a host's own routes: the address is [`ClientIpLayer`]'s, if that is around
/// it, or else the peer's.
///
/// [`ClientIpLayer`]: crate::client_ip::ClientIpLayer
///
/// ```
/// use std::{num::NonZeroU32, sync::Arc, time::Duration};
/// use axum::{Router, routing::get};
/// use pgw_core::rate_limit::Limit;
/// use pgw_http::rate_limit::RateLimitLayer;
/// use pgw_storage_memory::MemoryRateLimiter;
///
/// let limit = Limit { quota: NonZeroU32::new(5).ok_or("zero")?, window: Duration::from_secs(60) };
/// let layer = RateLimitLayer::new(Arc::new(MemoryRateLimiter::new()), "sign-in", limit);
/// let app: Router = Router::new().route("/sign-in", get(|| async { "hello" })).layer(layer);
/// # Ok::<(), &str>(())
/// ```
#[derive(Debug, Clone)]
pub struct RateLimitLayer {
    limiter: Arc<dyn RateLimiter>,
    policy: Arc<str>,
    limit: Limit,
    when_unavailable: WhenUnavailable,
    refusals: Refusals,
}

impl RateLimitLayer {
    /// A limit with a name, which its policy has in the headers and its counters have in the limiter: visible ASCII.
    #[must_use]
    pub fn new(limiter: Arc<dyn RateLimiter>, policy: &str, limit: Limit) -> Self {
        let when_unavailable = WhenUnavailable::Refuse;
        let refusals = Refusals::default();
        Self { limiter, policy: policy.into(), limit, when_unavailable, refusals }
    }

    /// With another answer than 503 when the limiter cannot be reached.
    #[must_use]
    pub const fn when_unavailable(mut self, then: WhenUnavailable) -> Self {
        self.when_unavailable = then;
        self
    }

    /// With refusals like those of the router of this configuration: where types of problems lead, security headers, request ids.
    #[must_use]
    pub fn with_config(mut self, config: &Config) -> Self {
        self.refusals = Refusals::of(config);
        self
    }

    async fn count(&self, client: Option<ClientIp>) -> Count {
        match self.limiter.check(&client_key(&self.policy, client), self.limit).await {
            Ok(decision) => Count::of(&self.policy, self.limit, decision),
            Err(error) => Count::uncounted(&error, self.when_unavailable),
        }
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimitService<S>;

    fn layer(&self, inner: S) -> RateLimitService<S> {
        RateLimitService { limits: self.clone(), inner }
    }
}

/// What [`RateLimitLayer`] makes of a service.
#[derive(Clone)]
pub struct RateLimitService<S> {
    limits: RateLimitLayer,
    inner: S,
}

impl<S> fmt::Debug for RateLimitService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitService").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl<S, B> Service<Request<B>> for RateLimitService<S>
where
    S: Service<Request<B>, Error = Infallible> + Clone + Send + 'static,
    S::Response: IntoResponse,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let limits = self.limits.clone();
        // The one that is ready is the one to call; a clone need not be.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            let proxies = TrustedProxies::default();
            let client = proxies.client_of(request.extensions(), request.headers());
            let Count { fields, refusal } = limits.count(client).await;
            let mut response = match refusal {
                Some(problem) => limits.refusals.refuse(problem, request.headers()),
                None => inner.call(request).await.into_response(),
            };
            fields.apply(response.headers_mut());
            Ok(response)
        })
    }
}

/// Rounded up, so that nobody comes back too early.
const fn whole_secs(time: Duration) -> u64 {
    time.as_secs().saturating_add((time.subsec_nanos() > 0) as u64)
}

const fn limit(quota: u32, window_secs: u64) -> Limit {
    let quota = NonZeroU32::new(quota).expect("the quotas of the classes are not zero");
    Limit { quota, window: Duration::from_secs(window_secs) }
}

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STATE: HeaderName = HeaderName::from_static("ratelimit");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");
/// The largest integer of a structured field (RFC 9651 §3.3.1).
const INTEGER_MAX: i64 = 999_999_999_999_999;
/// When to come again once the limiter was lost: most often it is back in a second.
const RETRY_SOON_SECS: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::TYPE_BASE;

    fn shown(fields: &RateLimitFields) -> Vec<String> {
        fields
            .0
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect()
    }

    #[test]
    fn fields_are_structured_and_agree_with_retry_after() {
        let limit = Class::Anonymous.default_limit();
        let decision = Decision {
            verdict: Admission::Refused { retry_in: Duration::from_millis(8_001) },
            remaining: 0,
            reset_in: Duration::from_secs(900),
        };
        let count = Count::of("anonymous", limit, decision);
        let expected = [
            "ratelimit-policy: \"anonymous\";q=100;w=900",
            "ratelimit: \"anonymous\";r=0;t=9",
            "ratelimit-limit: 100",
            "ratelimit-remaining: 0",
            "ratelimit-reset: 9",
        ];
        assert_eq!(shown(&count.fields), expected);
        let answer = count.refusal.unwrap().into_response(TYPE_BASE, "req_1");
        assert_eq!(answer.headers()["retry-after"], "9");
    }

    #[test]
    fn a_name_that_is_no_string_shows_only_the_plain_fields() {
        let decision = Decision {
            verdict: Admission::Admitted,
            remaining: 4,
            reset_in: Duration::from_secs(1),
        };
        let shown = shown(&RateLimitFields::of("é", Class::Processor.default_limit(), decision));
        assert_eq!(shown[0], "ratelimit-limit: 6000");
        assert_eq!(shown.len(), 3);
    }
}
