//! Headers of the merchant's own that go out with each webhook of an endpoint.

use crate::pan::contains_card_number;
use crate::secret::Secret;

/// Headers that an endpoint's webhooks carry besides pgw's: a token of the receiver's gateway, a tenant. Values are treated as secrets:
/// no verb and no route tells them again.
///
/// ```
/// use pgw_core::webhook::CustomHeaders;
/// let headers = CustomHeaders::parse([("X-Tenant", "blue"), ("Authorization", "Bearer t0ken")]).unwrap();
/// assert_eq!(headers.names().collect::<Vec<_>>(), ["x-tenant", "authorization"]);
/// assert!(CustomHeaders::parse([("Webhook-Signature", "v1,forged")]).is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CustomHeaders(Vec<(Box<str>, Secret)>);

impl CustomHeaders {
    /// Most headers of an endpoint.
    pub const COUNT_MAX: usize = 20;
    /// Longest name in bytes.
    pub const NAME_LEN_MAX: usize = 64;
    /// Longest value in bytes.
    pub const VALUE_LEN_MAX: usize = 1_024;

    /// Reads names and values. Names are compared without regard to case and kept in lower case (RFC 9110 §5.1).
    ///
    /// # Errors
    /// [`CustomHeaderError`] says what is wrong with the first that cannot be sent.
    pub fn parse<N: AsRef<str>, V: AsRef<str>>(
        headers: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, CustomHeaderError> {
        let parsed = Self::read(headers)?;
        if parsed.expose().any(|pair| contains_card_number(pair.0) || contains_card_number(pair.1))
        {
            return Err(CustomHeaderError::CardNumber);
        }
        Ok(parsed)
    }

    /// Reads what can be sent, card numbers or not.
    fn read<N: AsRef<str>, V: AsRef<str>>(
        headers: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, CustomHeaderError> {
        let mut parsed: Vec<(Box<str>, Secret)> = Vec::new();
        for (name, value) in headers {
            let (name, value) = (name.as_ref().to_ascii_lowercase(), value.as_ref());
            if name.is_empty() || name.len() > Self::NAME_LEN_MAX || !name.bytes().all(is_token) {
                return Err(CustomHeaderError::Name);
            }
            if is_reserved(&name) {
                return Err(CustomHeaderError::Reserved);
            }
            if value.is_empty() || value.len() > Self::VALUE_LEN_MAX || !is_sendable(value) {
                return Err(CustomHeaderError::Value);
            }
            if parsed.iter().any(|(other, _)| **other == *name) {
                return Err(CustomHeaderError::Twice);
            }
            if parsed.len() >= Self::COUNT_MAX {
                return Err(CustomHeaderError::TooMany);
            }
            parsed.push((name.into(), Secret::new(value)));
        }
        Ok(Self(parsed))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Their names, in lower case, in the order they were given.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| &**name)
    }

    /// Names and values. Every call is a place where a value could leak; look twice.
    pub fn expose(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, value.expose()))
    }

    /// All of them as one secret text, to be sealed: a line each, as values have no line breaks.
    pub(crate) fn to_secret(&self) -> Secret {
        let lines = self.expose().map(|(name, value)| format!("{name}:{value}\n"));
        Secret::new(lines.collect::<String>())
    }

    /// What [`to_secret`](Self::to_secret) made. Card numbers were looked for before it was sealed.
    pub(crate) fn from_secret(secret: &Secret) -> Result<Self, CustomHeaderError> {
        let pairs = secret.expose().lines().map(|line| line.split_once(':').unwrap_or((line, "")));
        Self::read(pairs)
    }
}

/// Why a header cannot be one of an endpoint's own. Values are not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CustomHeaderError {
    /// The name is empty, too long, or has characters that names may not have.
    #[error("must have names of 1 to 64 letters, digits and -_.!#$%&'*+^`|~")]
    Name,
    /// The name is one that pgw or HTTP itself uses.
    #[error(
        "must not name a header that signs webhooks (webhook-*, x-webhook-*, stripe-*), frames the request (host, content-*, \
         transfer-encoding, …) or manages the connection"
    )]
    Reserved,
    /// The value is empty, too long, or has control characters or characters beyond ASCII.
    #[error("must have values of 1 to 1024 visible ASCII characters, with spaces only inside")]
    Value,
    /// A name comes twice.
    #[error("must not have a name twice")]
    Twice,
    /// There are too many.
    #[error("must be at most 20 headers")]
    TooMany,
    /// There is a card number in them.
    #[error("must not contain a card number")]
    CardNumber,
}

/// `token` of RFC 9110 §5.6.2.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// `field-value` of RFC 9110 §5.5, without what only old servers send.
fn is_sendable(value: &str) -> bool {
    value.bytes().all(|byte| byte == b' ' || byte == b'\t' || byte.is_ascii_graphic())
        && value.trim() == value
}

/// Signatures must be pgw's; framing and hop-by-hop headers (RFC 9110 §7.6.1) are the transport's.
fn is_reserved(name: &str) -> bool {
    const STARTS: [&str; 6] = ["webhook-", "x-webhook-", "stripe-", "content-", "proxy-", "sec-"];
    const NAMES: [&str; 13] = [
        "host",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "expect",
        "date",
        "accept-encoding",
        "http2-settings",
        "user-agent",
        "forwarded",
    ];
    STARTS.iter().any(|start| name.starts_with(start)) || NAMES.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pgw_or_http_uses_is_refused() {
        for name in [
            "Webhook-Id",
            "WEBHOOK-SIGNATURE",
            "x-webhook-event",
            "Stripe-Signature",
            "Host",
            "Content-Type",
            "content-length",
            "Transfer-Encoding",
            "Connection",
            "Keep-Alive",
            "TE",
            "Trailer",
            "Upgrade",
            "Proxy-Authorization",
            "Expect",
        ] {
            assert_eq!(
                CustomHeaders::parse([(name, "x")]),
                Err(CustomHeaderError::Reserved),
                "{name}"
            );
        }
    }

    #[test]
    fn what_would_break_the_request_is_refused() {
        for name in ["", "a b", "a:b", "a\r\nb", "ä", &"n".repeat(65)] {
            assert_eq!(
                CustomHeaders::parse([(name, "x")]),
                Err(CustomHeaderError::Name),
                "{name:?}"
            );
        }
        for value in ["", " x", "x ", "a\r\nb: c", "a\nb", "a\0b", "ä", &"v".repeat(1_025)] {
            assert_eq!(
                CustomHeaders::parse([("x", value)]),
                Err(CustomHeaderError::Value),
                "{value:?}"
            );
        }
        assert_eq!(CustomHeaders::parse([("A", "1"), ("a", "2")]), Err(CustomHeaderError::Twice));
        for (name, value) in [("x-4111111111111111", "v"), ("x", "card 4111-1111-1111-1111")] {
            let card = CustomHeaders::parse([(name, value)]);
            assert_eq!(card, Err(CustomHeaderError::CardNumber), "{name}");
        }
        let many = (0..21).map(|n| (format!("x-{n}"), "v"));
        assert_eq!(CustomHeaders::parse(many), Err(CustomHeaderError::TooMany));
    }

    #[test]
    fn they_survive_being_sealed() {
        let headers = CustomHeaders::parse([("a", "1: 2:3"), ("b", "x\ty")]).unwrap();
        assert_eq!(CustomHeaders::from_secret(&headers.to_secret()), Ok(headers.clone()));
        let none = CustomHeaders::default();
        assert_eq!(CustomHeaders::from_secret(&none.to_secret()), Ok(none));
        assert!(!format!("{headers:?}").contains("1: 2:3"), "values are not shown");
    }
}
