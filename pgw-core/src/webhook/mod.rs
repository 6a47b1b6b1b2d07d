//! Webhooks, the sending side: endpoints, deliveries, the transport and the egress policy.

pub mod delivery;
pub mod egress;
pub mod endpoint;
mod headers;
mod health;
mod options;
pub mod plan;
pub mod transport;
mod vault;

pub use delivery::{Attempt, AttemptOutcome, Delivery, DeliveryState, DeliveryWork};
pub use endpoint::{
    Endpoint, EndpointStatus, EndpointUrl, EndpointUrlError, EventFilter, PreviousSecret, Profile,
    Profiles,
};
pub use headers::{CustomHeaderError, CustomHeaders};
pub use health::Health;
pub use options::{DeliveryOptions, OptionsError, Ordering, WhenExhausted};
pub use transport::{
    TransportError, TransportErrorKind, WebhookRequest, WebhookResponse, WebhookTransport,
};
pub use vault::{EndpointWithSecret, SealedHeaders};
pub(crate) use vault::{Signing, Vault};
