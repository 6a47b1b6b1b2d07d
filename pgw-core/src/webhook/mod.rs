//! Webhooks, the sending side: endpoints, deliveries, the transport and the egress policy.

pub mod delivery;
pub mod egress;
pub mod endpoint;
pub mod plan;
pub mod transport;

pub use delivery::{Attempt, AttemptOutcome, Delivery, DeliveryState, DeliveryWork};
pub use endpoint::{
    Endpoint, EndpointStatus, EndpointUrl, EndpointUrlError, EventFilter, PreviousSecret, Profile,
    Profiles,
};
pub use transport::{
    TransportError, TransportErrorKind, WebhookRequest, WebhookResponse, WebhookTransport,
};
