//! What handlers take from a request: ids, headers, query, bounded body. JSON members are read in [`crate::fields`].

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::{HeaderMap, HeaderValue, header, request::Parts};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use pgw_core::idempotency::IdempotencyKey;
use pgw_core::page::{Cursor, PageFrom, PageRequest};
use pgw_core::pan::contains_card_number;

use crate::client_ip::{ClientIp, TrustedProxies};
use crate::fields::Fault;
use crate::problem::{FieldError, Location, Problem, ProblemKind};

/// The parts of a request, and its body for whoever reads it.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) parts: Parts,
    /// Who it comes from, if the host serves with connect info.
    pub(crate) client: Option<ClientIp>,
    path: Vec<(String, String)>,
    /// In a mutex because a body is not `Sync`, and handlers hold a reference to the call while they wait. It is never
    /// locked.
    body: Mutex<Body>,
}

impl Incoming {
    pub(crate) async fn of(request: axum::extract::Request, proxies: &TrustedProxies) -> Self {
        let (mut parts, body) = request.into_parts();
        // Parameters that are not UTF-8 name nothing of ours; without them every id is unknown.
        let path = RawPathParams::from_request_parts(&mut parts, &()).await.map(|params| {
            params.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        });
        let client = proxies.client_of(&parts.extensions, &parts.headers);
        Self { parts, client, path: path.unwrap_or_default(), body: Mutex::new(body) }
    }

    /// A parameter of the path. What cannot be a name of this kind names nothing: 404.
    pub(crate) fn name<T: std::str::FromStr>(&self, parameter: &str) -> Result<T, Problem> {
        // The last one is ours: a host may nest the router under a path with parameters of its own.
        let value = self.path.iter().rev().find(|(name, _)| name == parameter);
        value.and_then(|(_, value)| value.parse().ok()).ok_or_else(Problem::not_found)
    }

    /// `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header).
    pub(crate) fn idempotency_key(&self) -> Result<Option<IdempotencyKey>, Problem> {
        let refuse = |code, msg: String| {
            Problem::invalid(vec![FieldError::new(Location::Header, "Idempotency-Key", code, msg)])
        };
        let mut values = self.parts.headers.get_all("idempotency-key").iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(refuse("duplicate", "must be given once".to_owned()));
        }
        // What is not ASCII fails like what is not visible.
        let key = IdempotencyKey::parse(value.to_str().unwrap_or_default())
            .map_err(|error| refuse(error.code(), error.to_string()))?;
        if contains_card_number(key.as_str()) {
            return Err(refuse("card_number", "must not contain a card number".to_owned()));
        }
        Ok(Some(key))
    }

    /// How long the caller wants to wait for the outcome (`Prefer: wait=N`, RFC 7240 §4.3), at most [`WAIT_MAX`].
    pub(crate) fn preferred_wait(&self) -> Option<Duration> {
        preferred_wait(&self.parts.headers)
    }

    /// The query.
    pub(crate) fn query(&self) -> Result<Query, Problem> {
        Query::of(self.parts.uri.query().unwrap_or_default())
    }

    /// The bytes of a JSON body; empty when there is none.
    pub(crate) async fn json(&mut self) -> Result<Bytes, Problem> {
        let is_json = self.parts.headers.get(header::CONTENT_TYPE).is_some_and(is_json);
        let bytes = self.bytes().await?;
        if is_json || bytes.is_empty() {
            Ok(bytes)
        } else {
            let detail = "The body must be application/json.";
            Err(Problem::new(ProblemKind::UnsupportedMediaType, detail))
        }
    }

    /// The bytes of the body, whatever they are. It can be taken once.
    pub(crate) async fn bytes(&mut self) -> Result<Bytes, Problem> {
        let body = self.body.get_mut().map(std::mem::take).unwrap_or_default();
        let read = Limited::new(body, BODY_MAX).collect();
        match tokio::time::timeout(BODY_TIMEOUT, read).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                Err(Problem::new(ProblemKind::BodyTooLarge, "The body must be at most 64 KiB."))
            }
            Ok(Err(_)) | Err(_) => Err(incomplete()),
        }
    }
}

/// The parameters of a query, taken one after another; what is left at the end is unknown.
#[derive(Debug)]
pub(crate) struct Query {
    parameters: BTreeMap<String, String>,
    errors: Vec<FieldError>,
}

impl Query {
    fn of(text: &str) -> Result<Self, Problem> {
        let mut query = Self { parameters: BTreeMap::new(), errors: Vec::new() };
        for (name, value) in form_urlencoded::parse(text.as_bytes()).take(PARAMETERS_MAX + 1) {
            if query.parameters.insert(name.into_owned(), value.into_owned()).is_some() {
                return Err(refuse_query("duplicate", "must have each parameter once"));
            }
        }
        if query.parameters.len() > PARAMETERS_MAX {
            return Err(refuse_query("too_many", "has too many parameters"));
        }
        Ok(query)
    }

    /// A parameter that parses as a `T`; `None` when it is absent or at fault.
    pub(crate) fn parse<T, E: Fault>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        match parse(&self.parameters.remove(name)?) {
            Ok(value) => Some(value),
            Err(fault) => self.fault(name, fault.code(), fault.to_string()),
        }
    }

    /// As [`Self::parse`], of a parameter that must be there: after [`Self::finish`] it was.
    pub(crate) fn require<T, E: Fault>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        if !self.parameters.contains_key(name) {
            return self.fault(name, "required", "is required");
        }
        self.parse(name, parse)
    }

    /// A whole number within bounds.
    pub(crate) fn number(&mut self, name: &'static str, from: u64, to: u64) -> Option<u64> {
        match self.parameters.remove(name)?.parse() {
            Ok(number) if (from..=to).contains(&number) => Some(number),
            _ => {
                self.fault(name, "out_of_range", format!("must be a whole number, {from} to {to}"))
            }
        }
    }

    /// `limit`, 1 to 100.
    pub(crate) fn limit(&mut self) -> usize {
        let limit = self.number("limit", 1, PageRequest::LIMIT_MAX as u64);
        limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(PageRequest::LIMIT_DEFAULT)
    }

    /// `limit`, `after` and `before`.
    pub(crate) fn page(&mut self) -> PageRequest {
        let page = PageRequest::first(self.limit());
        let after = self.parse("after", Cursor::parse).map(PageFrom::After);
        let before = self.parse("before", Cursor::parse).map(PageFrom::Before);
        if after.is_some() && before.is_some() {
            self.fault::<()>("before", "conflict", "does not go with after");
        }
        match after.or(before) {
            Some(from) => page.with_from(from),
            None => page,
        }
    }

    /// Unless something is at fault. A parameter that was not taken is unknown; its name is not echoed, for it could be
    /// anything.
    pub(crate) fn finish(mut self) -> Result<(), Problem> {
        if !self.parameters.is_empty() {
            self.fault::<()>("", "unknown", "has a parameter that this address does not know");
        }
        if self.errors.is_empty() { Ok(()) } else { Err(Problem::invalid(self.errors)) }
    }

    fn fault<T>(
        &mut self,
        name: &'static str,
        code: &'static str,
        msg: impl Into<std::borrow::Cow<'static, str>>,
    ) -> Option<T> {
        self.errors.push(FieldError::new(Location::Query, name, code, msg));
        None
    }
}

fn refuse_query(code: &'static str, msg: &'static str) -> Problem {
    Problem::invalid(vec![FieldError::new(Location::Query, "", code, msg)])
}

fn incomplete() -> Problem {
    Problem::invalid(vec![FieldError::new(Location::Body, "", "incomplete", "must be sent whole")])
}

/// `application/json`, whatever its parameters.
fn is_json(value: &HeaderValue) -> bool {
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

fn preferred_wait(headers: &HeaderMap) -> Option<Duration> {
    let texts = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    // The first of a name counts, and what cannot be read is ignored (RFC 7240 §2).
    let wait = texts.flat_map(|text| text.split(',')).find_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        name.trim().eq_ignore_ascii_case("wait").then(|| value.trim().trim_matches('"'))
    })?;
    let plain = !wait.is_empty() && wait.bytes().all(|b| b.is_ascii_digit());
    let seconds = plain.then(|| wait.parse().unwrap_or(u64::MAX))?;
    Some(Duration::from_secs(seconds).min(WAIT_MAX))
}

/// Longest wait in one request: shorter than the 60 s after which common proxies give up.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// How long a body may take: it is small, and who drips it holds a place among the requests, without a key where processors write to.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest body: twice that of a payment with the most metadata it may have, in ASCII.
const BODY_MAX: usize = 64 * 1024;
/// Most parameters of a query: twice as many as any list has.
const PARAMETERS_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(values: &[&'static str]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("prefer", HeaderValue::from_static(value));
        }
        preferred_wait(&headers).map(|wait| wait.as_secs())
    }

    #[test]
    fn reads_the_preference_and_ignores_what_is_none() {
        assert_eq!(wait(&["wait=5"]), Some(5));
        assert_eq!(wait(&["respond-async, Wait = \"7\";x=1"]), Some(7));
        assert_eq!(wait(&["handling=lenient", "wait=0"]), Some(0));
        assert_eq!(wait(&["wait=1, wait=2"]), Some(1));
        assert_eq!(wait(&["wait=99999999999999999999999"]), Some(30));
        for none in ["", "wait", "wait=", "wait=-1", "wait=1.5", "waits=3"] {
            assert_eq!(wait(&[none]), None, "{none}");
        }
    }

    #[test]
    fn content_types() {
        let is = |text| is_json(&HeaderValue::from_static(text));
        assert!(is("application/json") && is("Application/JSON; charset=utf-8"));
        assert!(!is("text/plain") && !is("application/jsonp") && !is(""));
    }

    #[test]
    fn queries_name_each_fault() {
        let mut query = Query::of("limit=0&after=x&zzz=1").unwrap();
        query.page();
        let shown = serde_json::to_string(query.finish().unwrap_err().errors()).unwrap();
        for code in ["out_of_range", "invalid_cursor", "unknown"] {
            assert!(shown.contains(code), "{code} in {shown}");
        }
        assert!(Query::of("a=1&a=2").is_err());
        let many: String = (0..30).map(|n| format!("p{n}=1&")).collect();
        assert!(Query::of(&many).is_err());
    }
}
