//! [`Answer`]: what a handler gives back when all went well. Errors are in [`crate::problem`].

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use pgw_core::idempotency::StoredAnswer;
use pgw_core::page::Page;

/// A status, a JSON body and what headers the handler adds.
#[derive(Debug)]
pub(crate) struct Answer {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Option<Bytes>,
}

impl Answer {
    /// A JSON body.
    pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self { status, headers: Vec::new(), body: Some(body.into()) }
    }

    /// 204.
    pub(crate) const fn empty() -> Self {
        Self { status: StatusCode::NO_CONTENT, headers: Vec::new(), body: None }
    }

    /// The bytes that were kept for a key.
    pub(crate) fn stored(answer: StoredAnswer) -> Self {
        // Plans store 200 and 201; anything else would be a foreign backend's doing, and is still an answer.
        let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
        Self::json(status, answer.body)
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
        let mut response = Response::new(axum::body::Body::empty());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if self.body.is_some() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        headers.extend(self.headers);
        if let Some(body) = self.body {
            *response.body_mut() = body.into();
        }
        response
    }
}
