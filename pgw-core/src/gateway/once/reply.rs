//! How each verb under an idempotency key is answered, and what of the answer is kept.

use crate::access::{ApiKey, DeniedNetwork};
use crate::gateway::{BulkRetry, BulkRevocation};
use crate::idempotency::{KeyTarget, StoredAnswer};
use crate::payment::PaymentState;
use crate::privacy::Consent;
use crate::representation;
use crate::secret::Secret;
use crate::webhook::{Delivery, Endpoint, EndpointWithSecret};

/// How a verb is answered.
#[derive(Debug)]
pub(in crate::gateway) struct Reply<T> {
    pub(super) status: u16,
    pub(super) keeps: Keeps,
    pub(super) target: fn(&T) -> KeyTarget,
    body: fn(&T) -> Vec<u8>,
}

/// What is kept of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeps {
    /// All of it.
    Answer,
    /// All of it, in an envelope, because it tells a secret.
    Envelope,
    /// Nothing, because it holds personal data, which is not to lie where no erasure looks.
    Nothing,
}

impl<T> Reply<T> {
    pub(super) fn answer(&self, value: &T) -> StoredAnswer {
        StoredAnswer { status: self.status, body: (self.body)(value).into() }
    }
}

pub(in crate::gateway) static ENDPOINT_MADE: Reply<EndpointWithSecret> = Reply {
    status: 201,
    keeps: Keeps::Envelope,
    target: |made| KeyTarget::Endpoint(made.endpoint.id),
    body: representation::endpoint_with_secret,
};

pub(in crate::gateway) static SECRET_ROTATED: Reply<EndpointWithSecret> = Reply {
    status: 200,
    keeps: Keeps::Envelope,
    target: |made| KeyTarget::Endpoint(made.endpoint.id),
    body: representation::endpoint_with_secret,
};

pub(in crate::gateway) static ENDPOINT_CHANGED: Reply<Endpoint> = Reply {
    status: 200,
    keeps: Keeps::Answer,
    target: |endpoint| KeyTarget::Endpoint(endpoint.id),
    body: representation::endpoint,
};

pub(in crate::gateway) static DELIVERY_STARTED: Reply<Delivery> = Reply {
    status: 202,
    keeps: Keeps::Answer,
    target: |delivery| KeyTarget::Delivery(delivery.id),
    body: representation::delivery,
};

pub(in crate::gateway) static RETRIED: Reply<BulkRetry> = Reply {
    status: 202,
    keeps: Keeps::Answer,
    target: |_| KeyTarget::Found,
    body: representation::bulk_retry,
};

pub(in crate::gateway) static API_KEY_MADE: Reply<(ApiKey, Secret)> = Reply {
    status: 201,
    keeps: Keeps::Envelope,
    target: |(key, _)| KeyTarget::ApiKey(key.id),
    body: |(key, secret)| representation::api_key_with_secret(key, secret),
};

pub(in crate::gateway) static REVOKED: Reply<BulkRevocation> = Reply {
    status: 200,
    keeps: Keeps::Answer,
    target: |_| KeyTarget::Found,
    body: representation::bulk_revocation,
};

/// An address may be a person's: it is kept with the answer, and not for ever with the key.
pub(in crate::gateway) static NETWORK_DENIED: Reply<DeniedNetwork> = Reply {
    status: 201,
    keeps: Keeps::Answer,
    target: |_| KeyTarget::Found,
    body: representation::denied_network,
};

pub(in crate::gateway) static CONSENT_GIVEN: Reply<Consent> = Reply {
    status: 201,
    keeps: Keeps::Nothing,
    target: |consent| KeyTarget::Consent(consent.id),
    body: representation::consent,
};

pub(in crate::gateway) static PAYMENT_MOVED: Reply<PaymentState> = Reply {
    status: 200,
    keeps: Keeps::Nothing,
    target: |state| KeyTarget::Payment(state.payment.id),
    body: |state| representation::payment(&state.payment),
};
