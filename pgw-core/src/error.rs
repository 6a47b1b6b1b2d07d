//! What the gateway's verbs can fail with, by meaning for the caller.

use crate::crypto::CryptoError;
use crate::notifier::NotifierError;
use crate::payment::plan::PlanError;
use crate::processor::{NotificationError, Source};
use crate::scope::Mode;
use crate::storage::StorageError;
use crate::webhook::TransportError;

/// Why a verb did not do what was asked. Nothing changed, unless the source is
/// [`StorageError::Indeterminate`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value that the types let through is wrong here.
    #[error("{field} {message}")]
    Invalid {
        /// The field, as the wire names it.
        field: &'static str,
        /// For programs, `snake_case`.
        code: &'static str,
        /// For people; never holds the value.
        message: String,
    },
    /// There is no such object in the caller's scope.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// The payment's state or amounts do not allow it.
    #[error(transparent)]
    Refused(PlanError),
    /// The idempotency key stands for another request.
    #[error("the idempotency key was used for another request; use a new key for a new request")]
    KeyReused,
    /// What was asked for under the idempotency key was done, and there is nothing left to answer with: its answer is not kept any more, and
    /// what it was about is gone, or was many objects.
    #[error("it was done under this idempotency key before, and its answer is not kept any more")]
    AnswerGone,
    /// Others kept changing the same object. Nothing changed; try again.
    #[error("others kept changing the same {0}; try again")]
    Busy(&'static str),
    /// No processor was given to the builder for this mode.
    #[error("there is no processor for {0} mode; give one to GatewayBuilder::with_processor")]
    NoProcessor(Mode),
    /// No transport was given to the builder.
    #[error("there is no webhook transport; give one to GatewayBuilder::with_transport")]
    NoTransport,
    /// No pepper was given to the builder, so the audit log is not sealed and cannot be verified.
    #[error("the audit log is not sealed; give a pepper to GatewayBuilder::with_key_pepper")]
    NoPepper,
    /// The endpoint is disabled: nothing is delivered to it.
    #[error("the endpoint is disabled; enable it first")]
    EndpointDisabled,
    /// The endpoint's address may not be delivered to.
    #[error("the address may not be delivered to")]
    AddressDenied(#[source] TransportError),
    /// An endpoint's webhooks cannot be signed with its secret.
    #[error("the webhook cannot be signed")]
    Unsigned(#[source] Source),
    /// An endpoint's secret cannot be sealed, or its envelope cannot be opened: its key is not on the ring, or the row was changed.
    #[error("the endpoint's secret cannot be sealed or opened: {0}")]
    Sealing(#[source] CryptoError),
    /// A processor's notification cannot be used.
    #[error("the notification was not accepted")]
    Notification(#[source] NotificationError),
    /// The gateway is frozen: reads go on, nothing may change. See [`Bound::freeze`](crate::gateway::Bound::freeze).
    #[error("the gateway is frozen; nothing was changed")]
    Frozen,
    /// The storage did not do it.
    #[error("the storage did not do it")]
    Storage(#[source] StorageError),
    /// Hints cannot be heard.
    #[error("the notifier did not do it")]
    Notifier(#[source] NotifierError),
}

impl Error {
    /// Whether the same call may work a little later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Busy(_) | Self::Frozen | Self::Notifier(_) => true,
            Self::Storage(error) => error.is_retryable(),
            Self::Invalid { .. }
            | Self::NotFound(_)
            | Self::Refused(_)
            | Self::KeyReused
            | Self::AnswerGone
            | Self::NoProcessor(_)
            | Self::NoTransport
            | Self::NoPepper
            | Self::EndpointDisabled
            | Self::AddressDenied(_)
            | Self::Unsigned(_)
            | Self::Sealing(_)
            | Self::Notification(_) => false,
        }
    }
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::KeyReused => Self::KeyReused,
            error => Self::Storage(error),
        }
    }
}

impl From<PlanError> for Error {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::NoSuchOperation => Self::NotFound("operation"),
            error => Self::Refused(error),
        }
    }
}
