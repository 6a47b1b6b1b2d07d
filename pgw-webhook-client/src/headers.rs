//! Where header values come from: one small trait, so that any HTTP library's headers can be verified in place.

/// Headers to look values up in. Implemented for `http::HeaderMap` (feature `http`) and for slices, arrays and vectors of name/value
/// pairs.
///
/// ```
/// use pgw_webhook_client::{Headers, Lookup};
///
/// let headers = [("Webhook-Id", "msg_1"), ("webhook-timestamp", "1"), ("Webhook-Timestamp", "2")];
/// assert_eq!(headers.lookup("webhook-id"), Lookup::One(b"msg_1"));
/// assert_eq!(headers.lookup("webhook-timestamp"), Lookup::Many);
/// assert_eq!(headers.lookup("webhook-signature"), Lookup::Absent);
/// ```
pub trait Headers {
    /// The value of the header `name`.
    ///
    /// `name` is in lower case; implementations match names without regard to ASCII case, do not allocate, and answer
    /// [`Lookup::Many`] rather than choose when a header is there more than once: two readers that choose differently is how a
    /// signature gets checked over one value and acted on with another.
    fn lookup(&self, name: &str) -> Lookup<'_>;
}

/// What [`Headers::lookup`] found. Exhaustive: there is no fourth case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// No header of that name.
    Absent,
    /// Exactly one, and its raw value.
    One(&'a [u8]),
    /// Two or more, which a verifier refuses as malformed.
    Many,
}

impl<'a> Lookup<'a> {
    /// The lookup's outcome from the values found.
    ///
    /// ```
    /// # use pgw_webhook_client::Lookup;
    /// assert_eq!(Lookup::from_values([b"1".as_slice()]), Lookup::One(b"1"));
    /// ```
    #[must_use]
    pub fn from_values(values: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut values = values.into_iter();
        match (values.next(), values.next()) {
            (None, _) => Self::Absent,
            (Some(value), None) => Self::One(value),
            (Some(_), Some(_)) => Self::Many,
        }
    }
}

impl<N: AsRef<str>, V: AsRef<[u8]>> Headers for [(N, V)] {
    fn lookup(&self, name: &str) -> Lookup<'_> {
        let named = self.iter().filter(|(given, _)| given.as_ref().eq_ignore_ascii_case(name));
        Lookup::from_values(named.map(|(_, value)| value.as_ref()))
    }
}

impl<N: AsRef<str>, V: AsRef<[u8]>, const LEN: usize> Headers for [(N, V); LEN] {
    fn lookup(&self, name: &str) -> Lookup<'_> {
        self.as_slice().lookup(name)
    }
}

impl<N: AsRef<str>, V: AsRef<[u8]>> Headers for Vec<(N, V)> {
    fn lookup(&self, name: &str) -> Lookup<'_> {
        self.as_slice().lookup(name)
    }
}

impl<H: Headers + ?Sized> Headers for &H {
    fn lookup(&self, name: &str) -> Lookup<'_> {
        (**self).lookup(name)
    }
}

#[cfg(feature = "http")]
impl Headers for http::HeaderMap {
    fn lookup(&self, name: &str) -> Lookup<'_> {
        // A name that is already a `HeaderName` spares the map from parsing the text on every look-up.
        let values = match KNOWN_NAMES.iter().find(|known| known.as_str() == name) {
            Some(known) => self.get_all(known),
            None => self.get_all(name),
        };
        Lookup::from_values(values.iter().map(http::HeaderValue::as_bytes))
    }
}

/// The names the profiles look up.
#[cfg(feature = "http")]
static KNOWN_NAMES: [http::HeaderName; 7] = [
    http::HeaderName::from_static("webhook-id"),
    http::HeaderName::from_static("webhook-timestamp"),
    http::HeaderName::from_static("webhook-signature"),
    http::HeaderName::from_static("stripe-signature"),
    http::HeaderName::from_static("x-webhook-id"),
    http::HeaderName::from_static("x-webhook-timestamp"),
    http::HeaderName::from_static("x-webhook-signature"),
];
