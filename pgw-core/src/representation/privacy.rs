//! The JSON form of erasures and consents.

use serde::Serialize;

use crate::id::{ConsentId, ErasureId};
use crate::privacy::{Consent, ErasureProgress};
use crate::timestamp::Timestamp;

use super::render;

/// An erasure and how far it is. `customer_id` is what its payments name as their customer now.
#[must_use]
pub fn erasure(progress: &ErasureProgress) -> Vec<u8> {
    let erasure = &progress.erasure;
    render(&ErasureView {
        object: "erasure",
        id: erasure.id,
        merchant_id: erasure.scope.merchant.as_str(),
        mode: erasure.scope.mode.as_str(),
        customer_id: erasure.id,
        state: progress.state().as_str(),
        payments: progress.payments,
        payments_redacted: progress.payments_redacted,
        requested_at: erasure.requested_at,
        done_at: progress.done_at,
    })
}

/// A consent. `version` is the wording's.
#[must_use]
pub fn consent(consent: &Consent) -> Vec<u8> {
    render(&ConsentView {
        object: "consent",
        id: consent.id,
        merchant_id: consent.scope.merchant.as_str(),
        mode: consent.scope.mode.as_str(),
        purpose: consent.purpose.as_str(),
        version: consent.terms.as_str(),
        source: consent.source.as_ref().map(|source| source.as_str()),
        given_at: consent.given_at,
        withdrawn_at: consent.withdrawn_at,
    })
}

#[derive(Serialize)]
struct ErasureView<'a> {
    object: &'static str,
    id: ErasureId,
    merchant_id: &'a str,
    mode: &'static str,
    customer_id: ErasureId,
    state: &'static str,
    payments: u64,
    payments_redacted: u64,
    requested_at: Timestamp,
    done_at: Option<Timestamp>,
}

#[derive(Serialize)]
struct ConsentView<'a> {
    object: &'static str,
    id: ConsentId,
    merchant_id: &'a str,
    mode: &'static str,
    purpose: &'a str,
    version: &'a str,
    source: Option<&'a str>,
    given_at: Timestamp,
    withdrawn_at: Option<Timestamp>,
}
