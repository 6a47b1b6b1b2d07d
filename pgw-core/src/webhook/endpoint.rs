//! Endpoints: where webhooks go, which events, signed how.

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

use url::{SyntaxViolation, Url};

use crate::crypto::{KeyName, Sealed};
use crate::event::EventType;
use crate::id::EndpointId;
use crate::pan::contains_card_number;
use crate::payment::UnknownName;
use crate::scope::Scope;
use crate::text::{Description, Reason};
use crate::timestamp::Timestamp;
use crate::webhook::{DeliveryOptions, Health, SealedHeaders};

/// A place that webhooks are sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Names the endpoint.
    pub id: EndpointId,
    /// Whose it is; it hears events of its own mode only.
    pub scope: Scope,
    /// Where it is.
    pub url: EndpointUrl,
    /// What it is for, in the merchant's words.
    pub description: Option<Description>,
    /// Which events it hears. Empty: all.
    pub filters: Vec<EventFilter>,
    /// How its webhooks are signed.
    pub profiles: Profiles,
    /// How they are delivered.
    pub options: DeliveryOptions,
    /// The merchant's own headers that they carry.
    pub headers: Option<SealedHeaders>,
    /// What they are signed with, `whsec_` and base64, in its envelope. The gateway's key ring opens it.
    pub secret: Sealed,
    /// Counts the secrets it has had, from 1: part of the place that the envelope is sealed for.
    pub generation: u64,
    /// The secret before the last rotation, while it still signs.
    pub previous: Option<PreviousSecret>,
    /// Whether it hears anything.
    pub status: EndpointStatus,
    /// How it has been doing. A pause is not here: it is a duration that the storage adds to its own clock (see
    /// [`Write::Pause`](crate::changes::Write::Pause)).
    pub health: Health,
    /// Counts its changes, from 1.
    pub version: u64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl Endpoint {
    /// Most endpoints of a merchant and mode: each multiplies every event's deliveries.
    pub const PER_SCOPE_MAX: usize = 50;
    /// Most filters of an endpoint; there are about twenty event types.
    pub const FILTERS_MAX: usize = 32;

    /// How long the old secret signs after a rotation, unless it is said otherwise: a day, for a deployment in office hours.
    pub const OVERLAP_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);
    /// The longest that an old secret may go on signing: a week. A secret is rotated because it should no longer count.
    pub const OVERLAP_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

    /// The secret before the last rotation, if webhooks sent at this time are still signed with it.
    #[must_use]
    pub fn previous_at(&self, at: Timestamp) -> Option<&Sealed> {
        let previous = self.previous.as_ref().filter(|previous| at < previous.until);
        previous.map(|previous| &previous.secret)
    }

    /// The key that its secrets and its own headers are sealed with; `None` when they are not all sealed with one.
    #[must_use]
    pub fn sealed_with(&self) -> Option<&KeyName> {
        let key = self.secret.key();
        let previous = self.previous.as_ref().map(|previous| previous.secret.key());
        let headers = self.headers.as_ref().map(|headers| headers.sealed.key());
        previous.into_iter().chain(headers).all(|other| other == key).then_some(key)
    }

    /// Whether an event of this type becomes a delivery to it.
    #[must_use]
    pub fn hears(&self, event_type: EventType) -> bool {
        self.status == EndpointStatus::Enabled
            && (self.filters.is_empty() || self.filters.iter().any(|f| f.matches(event_type)))
    }
}

/// A secret that was rotated away and still signs for a time, so that receivers can change over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviousSecret {
    /// The secret, in its envelope.
    pub secret: Sealed,
    /// Webhooks sent from then on are not signed with it.
    pub until: Timestamp,
}

/// Whether an endpoint hears anything.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndpointStatus {
    /// It hears.
    Enabled,
    /// It hears nothing; its deliveries are kept.
    Disabled {
        /// Why.
        reason: Reason,
    },
    /// It is gone; kept for the history of its deliveries.
    Deleted,
}

/// Which events an endpoint hears: one type (`payment.succeeded`) or a family (`payment.*`, `*`).
///
/// ```
/// use pgw_core::event::EventType;
/// use pgw_core::webhook::EventFilter;
/// let family: EventFilter = "payment.*".parse().unwrap();
/// assert!(family.matches(EventType::PaymentSucceeded));
/// assert!(!family.matches(EventType::RefundSucceeded));
/// assert!("paymant.*".parse::<EventFilter>().is_err());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventFilter(Filter);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Filter {
    All,
    Family(&'static str),
    Exact(EventType),
}

impl EventFilter {
    /// Hears every event.
    pub const ALL: Self = Self(Filter::All);

    /// Hears one type.
    #[must_use]
    pub const fn exactly(event_type: EventType) -> Self {
        Self(Filter::Exact(event_type))
    }

    /// Whether it lets this type through.
    #[must_use]
    pub fn matches(self, event_type: EventType) -> bool {
        match self.0 {
            Filter::All => true,
            Filter::Family(prefix) => event_type.as_str().starts_with(prefix),
            Filter::Exact(exact) => exact == event_type,
        }
    }
}

impl fmt::Display for EventFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Filter::All => f.write_str("*"),
            Filter::Family(prefix) => write!(f, "{prefix}*"),
            Filter::Exact(event_type) => f.write_str(event_type.as_str()),
        }
    }
}

impl fmt::Debug for EventFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for EventFilter {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        if text == "*" {
            return Ok(Self(Filter::All));
        }
        if let Some(prefix) = text.strip_suffix('*') {
            let family = ["payment.", "refund.", "endpoint.", "test."];
            return family
                .into_iter()
                .find(|known| *known == prefix)
                .map(|known| Self(Filter::Family(known)))
                .ok_or(UnknownName);
        }
        text.parse().map(|exact| Self(Filter::Exact(exact)))
    }
}

/// An address that may be delivered to: absolute `https` or `http`, with a host, without user information or
/// fragment, at most 2,000 bytes, and no card number in it. Whether `http` or a private network is allowed is the egress policy's business,
/// not the address's.
#[derive(Clone, PartialEq, Eq)]
pub struct EndpointUrl(Url);

impl EndpointUrl {
    /// Longest address in bytes.
    pub const LEN_MAX: usize = 2_000;

    /// Reads an address.
    ///
    /// # Errors
    /// [`EndpointUrlError`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, EndpointUrlError> {
        if text.len() > Self::LEN_MAX {
            return Err(EndpointUrlError::TooLong);
        }
        // The parser drops user information that is empty (`https://@host/`), but tells that it was there.
        let at_sign = Cell::new(false);
        let note = |fault| {
            if fault == SyntaxViolation::EmbeddedCredentials {
                at_sign.set(true);
            }
        };
        let url = Url::options()
            .syntax_violation_callback(Some(&note))
            .parse(text)
            .map_err(|_| EndpointUrlError::Malformed)?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err(EndpointUrlError::Scheme);
        }
        if at_sign.get() || !url.username().is_empty() || url.password().is_some() {
            return Err(EndpointUrlError::UserInformation);
        }
        if url.fragment().is_some() {
            return Err(EndpointUrlError::Fragment);
        }
        if url.host().is_none() || url.port() == Some(0) {
            return Err(EndpointUrlError::Malformed);
        }
        // As given and as kept: the parser encodes spaces, and drops line breaks.
        if contains_card_number(text) || contains_card_number(url.as_str()) {
            return Err(EndpointUrlError::CardNumber);
        }
        Ok(Self(url))
    }

    /// The address.
    #[must_use]
    pub const fn url(&self) -> &Url {
        &self.0
    }

    /// The address as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Debug for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Paths and queries of webhook addresses often hold tokens; the host is enough to recognise it by.
        write!(f, "{}://{}/…", self.0.scheme(), self.0.host_str().unwrap_or_default())
    }
}

/// Why an address cannot be an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointUrlError {
    /// Not an absolute URL with a host.
    #[error("must be an absolute URL with a host")]
    Malformed,
    /// Neither https nor http.
    #[error("must start with https://")]
    Scheme,
    /// It carries a user name or password, or the `@` that ends them.
    #[error("must not carry a user name or password")]
    UserInformation,
    /// It carries a fragment.
    #[error("must not carry a fragment (#…)")]
    Fragment,
    /// It is too long.
    #[error("must be at most 2000 bytes")]
    TooLong,
    /// There is a card number in it.
    #[error("must not contain a card number")]
    CardNumber,
}

/// One way to sign a webhook (`pgw-webhook-client` verifies each).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Profile {
    /// Standard Webhooks 1.0.
    Standard,
    /// Milliseconds and hex in `X-Webhook-*` headers.
    Seed,
    /// Stripe's `Stripe-Signature`.
    Stripe,
}

impl Profile {
    /// Every profile.
    pub const ALL: [Self; 3] = [Self::Standard, Self::Seed, Self::Stripe];

    /// `standard`, `seed` or `stripe`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Seed => "seed",
            Self::Stripe => "stripe",
        }
    }
}

impl std::str::FromStr for Profile {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|profile| profile.as_str() == text).ok_or(UnknownName)
    }
}

/// A non-empty set of profiles; all of them sign each webhook.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Profiles(u8);

impl Profiles {
    /// The set of these; `None` when there is none.
    #[must_use]
    pub fn new(profiles: impl IntoIterator<Item = Profile>) -> Option<Self> {
        let bits = profiles.into_iter().fold(0, |bits, profile| bits | bit(profile));
        (bits != 0).then_some(Self(bits))
    }

    /// Whether it holds this one.
    #[must_use]
    pub const fn contains(self, profile: Profile) -> bool {
        self.0 & bit(profile) != 0
    }

    /// The profiles in a fixed order.
    pub fn iter(self) -> impl Iterator<Item = Profile> {
        Profile::ALL.into_iter().filter(move |profile| self.contains(*profile))
    }
}

impl Default for Profiles {
    /// `standard` and `seed`.
    fn default() -> Self {
        Self(bit(Profile::Standard) | bit(Profile::Seed))
    }
}

impl fmt::Debug for Profiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

const fn bit(profile: Profile) -> u8 {
    match profile {
        Profile::Standard => 1,
        Profile::Seed => 2,
        Profile::Stripe => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_cannot_be_endpoints() {
        use EndpointUrlError::{CardNumber, Fragment, Malformed, Scheme, TooLong, UserInformation};
        for (text, error) in [
            ("", Malformed),
            ("hooks", Malformed),
            ("https://", Malformed),
            ("https://a.example:0/", Malformed),
            ("ftp://a.example/", Scheme),
            ("file:///etc/passwd", Scheme),
            ("https://u@a.example/", UserInformation),
            ("https://u:p@a.example/", UserInformation),
            ("https://@a.example/", UserInformation),
            ("https://a.example/#x", Fragment),
            (&format!("https://a.example/{}", "x".repeat(2_000)), TooLong),
            ("https://a.example/4111111111111111", CardNumber),
            ("https://a.example/?n=4111 1111 1111 1111", CardNumber),
            ("https://a.example/4111\n111111111111", CardNumber),
        ] {
            assert_eq!(EndpointUrl::parse(text).unwrap_err(), error, "{text}");
        }
        assert!(EndpointUrl::parse("https://hooks.example.com:8443/in?x=1").is_ok());
    }

    #[test]
    fn every_type_and_family_has_a_filter() {
        for event_type in EventType::ALL {
            let exact: EventFilter = event_type.as_str().parse().unwrap();
            assert_eq!(exact, EventFilter::exactly(*event_type));
            assert_eq!(exact.to_string(), event_type.as_str());
            let family = format!("{}.*", event_type.as_str().split_once('.').unwrap().0);
            assert!(family.parse::<EventFilter>().unwrap().matches(*event_type));
            assert!(EventFilter::ALL.matches(*event_type));
        }
    }
}
