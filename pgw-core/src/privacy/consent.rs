//! Consents (GDPR Art. 7): that a customer agreed to something, to which wording, when and where, and when it was withdrawn. Nothing is ever
//! overwritten, so that a consent can be demonstrated.

use sha2::{Digest as _, Sha256};

use crate::id::{ConsentId, ErasureId};
use crate::scope::Scope;
use crate::text::{ConsentSource, Purpose, TermsVersion};
use crate::timestamp::Timestamp;

use super::CustomerDigest;

/// That somebody agreed to something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consent {
    /// Names the consent.
    pub id: ConsentId,
    /// Merchant and mode.
    pub scope: Scope,
    /// Who.
    pub holder: ConsentHolder,
    /// To what.
    pub purpose: Purpose,
    /// To which wording of it.
    pub terms: TermsVersion,
    /// Where it was given, as the host says; gone once the customer is erased.
    pub source: Option<ConsentSource>,
    /// When it was given.
    pub given_at: Timestamp,
    /// When it was withdrawn.
    pub withdrawn_at: Option<Timestamp>,
    /// Counts its changes, from 1.
    pub version: u64,
}

impl Consent {
    /// Most consents of one customer, withdrawn ones too: decades of changes of mind, and few enough to be read at once.
    pub const PER_CUSTOMER_MAX: usize = 1_000;

    /// The id of the consent that a customer, erased so often, gives to this wording after `before` others to the same, all withdrawn. Who
    /// gives it twice at once gives one: the second finds its id taken.
    #[must_use]
    pub fn id_of(
        customer: CustomerDigest,
        erasures: u64,
        purpose: &Purpose,
        terms: &TermsVersion,
        before: u64,
    ) -> ConsentId {
        let mut hash = Sha256::new_with_prefix(b"pgw consent 1");
        hash.update(customer.0);
        for number in [erasures, before, purpose.as_str().len() as u64] {
            hash.update(number.to_be_bytes());
        }
        hash.update(purpose.as_str());
        hash.update(terms.as_str());
        let hash: [u8; 32] = hash.finalize().into();
        let bytes = std::array::from_fn(|at| hash[at]);
        ConsentId::from_uuid(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }
}

/// Whose a consent is. The two values are all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConsentHolder {
    /// A customer's.
    Customer(CustomerDigest),
    /// That of a customer who was erased. That there was a consent can still be shown, by who has the erasure.
    Erased(ErasureId),
}

/// A consent to be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewConsent {
    /// To what.
    pub purpose: Purpose,
    /// To which wording of it.
    pub terms: TermsVersion,
    /// Where it was given.
    pub source: Option<ConsentSource>,
    /// When it was given; `None`: now.
    pub given_at: Option<Timestamp>,
}
