//! [`Answer`]: what a handler gives back when all went well. Errors are in [`crate::problem`].

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use pgw_core::gateway::{Answered, Origin};
use pgw_core::idempotency::StoredAnswer;
use pgw_core::page::Page;

/// A status, a body and what headers the handler adds.
#[derive(Debug)]
pub(crate) struct Answer {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Option<Body>,
}

impl Answer {
    /// A JSON body.
    pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self::of(status, "application/json", body.into().into())
    }

    /// Plain text.
    pub(crate) fn text(status: StatusCode, body: String) -> Self {
        Self::of(status, "text/plain; charset=utf-8", body.into())
    }

    /// Events as they come (the `text/event-stream` of the HTML standard).
    pub(crate) fn events(body: Body) -> Self {
        Self::of(StatusCode::OK, "text/event-stream", body)
    }

    /// What is made while it is sent.
    pub(crate) fn stream(status: StatusCode, kind: &'static str, body: Body) -> Self {
        Self::of(status, kind, body)
    }

    fn of(status: StatusCode, content_type: &'static str, body: Body) -> Self {
        let headers = vec![(header::CONTENT_TYPE, HeaderValue::from_static(content_type))];
        Self { status, headers, body: Some(body) }
    }

    /// 204.
    pub(crate) const fn empty() -> Self {
        Self { status: StatusCode::NO_CONTENT, headers: Vec::new(), body: None }
    }

    /// The bytes that were kept for a key.
    pub(crate) fn stored(answer: StoredAnswer) -> Self {
        // Plans and verbs store 200 to 202; anything else would be a foreign backend's doing, and is still an answer.
        let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
        Self::json(status, answer.body)
    }

    /// What a verb came to that may have been asked for before.
    pub(crate) fn once<T>(answered: Answered<T>) -> Self {
        let origin = answered.origin();
        Self::stored(answered.answer).by(origin)
    }

    /// With the header that says so when an earlier request did it.
    pub(crate) fn by(self, origin: Origin) -> Self {
        match origin {
            Origin::First => self,
            Origin::Replayed => self.with(IDEMPOTENT_REPLAYED, "true"),
        }
    }

    /// A page of rendered rows.
    pub(crate) fn page(page: &Page<impl AsRef<[u8]>>) -> Self {
        let next = page.next_cursor.as_ref().map(ToString::to_string);
        Self::list(&page.data, page.has_more, next.as_deref())
    }

    /// Rendered rows. The cursor is of a kind that needs no escaping.
    pub(crate) fn list(rows: &[impl AsRef<[u8]>], has_more: bool, next: Option<&str>) -> Self {
        let mut body = b"{\"data\":[".to_vec();
        for (index, row) in rows.iter().enumerate() {
            if index > 0 {
                body.push(b',');
            }
            body.extend_from_slice(row.as_ref());
        }
        let next = next.map_or_else(|| "null".to_owned(), |next| format!("\"{next}\""));
        let tail = format!("],\"has_more\":{has_more},\"next_cursor\":{next}}}");
        body.extend_from_slice(tail.as_bytes());
        Self::json(StatusCode::OK, body)
    }

    /// With another header. A value that cannot be one is left out.
    pub(crate) fn with(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
        self
    }

    pub(crate) fn into_response(self) -> Response {
        let mut response = Response::new(self.body.unwrap_or_default());
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.headers);
        response
    }
}

/// Says that an earlier request with the same key did it.
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
