//! Ids: TypeID text (`pay_01h455vb4pex5vsknk084sn02q`) over a 128-bit UUID, typed in Rust.
//!
//! The text form follows the TypeID specification 0.3: a prefix, `_`, and the UUID in 26 characters of
//! lower-case Crockford base32. An id is an address, never a secret.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::env::Env;

/// The text is not an id of this type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be an id that starts with {prefix}_")]
pub struct IdError {
    /// The prefix the id should have had, without its underscore.
    pub prefix: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// The prefix of the text form, without its underscore.
            pub const PREFIX: &'static str = $prefix;

            /// A new id.
            #[must_use]
            pub fn mint(env: &Env) -> Self {
                Self(env.uuid())
            }

            /// Wraps a UUID that was an id of this type before.
            #[must_use]
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID, as storage keeps it.
            #[must_use]
            pub const fn as_uuid(&self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!($prefix, "_"))?;
                f.write_str(Suffix::of(self.0).as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(decode)
                    .map(Self)
                    .ok_or(IdError { prefix: $prefix })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

id!(
    /// Names a payment.
    ///
    /// ```
    /// use pgw_core::{env::Env, id::PaymentId};
    /// let id = PaymentId::mint(&Env::system());
    /// assert!(id.to_string().starts_with("pay_"));
    /// assert_eq!(id.to_string().parse::<PaymentId>(), Ok(id));
    /// assert!("pay_!".parse::<PaymentId>().is_err());
    /// ```
    PaymentId, "pay"
);
id!(
    /// Names one step of a payment: a charge, authorization, capture, cancel or refund. Its text is also
    /// the key that the processor sees, the same on every attempt.
    OperationId, "op"
);
id!(
    /// Names a refund on the wire. It is the [`OperationId`] of the refund under another prefix.
    RefundId, "ref"
);
id!(
    /// Names an event, and is the webhook id of each of its deliveries.
    EventId, "evt"
);
id!(
    /// Names a webhook endpoint.
    EndpointId, "we"
);
id!(
    /// Names an API key.
    KeyId, "key"
);
id!(
    /// Names a row of the audit log.
    AuditId, "aud"
);
id!(
    /// Names an erasure of a customer, and stands for that customer afterwards.
    ErasureId, "era"
);
id!(
    /// Names a consent of a customer.
    ConsentId, "cns"
);
id!(
    /// Names a conflict: evidence that contradicts a settled operation.
    ConflictId, "cfl"
);

impl From<OperationId> for RefundId {
    fn from(id: OperationId) -> Self {
        Self(id.0)
    }
}

impl From<RefundId> for OperationId {
    fn from(id: RefundId) -> Self {
        Self(id.0)
    }
}

/// Names the delivery of one event to one endpoint: both ids in one text, so nothing needs to mint it.
///
/// ```
/// use pgw_core::{env::Env, id::{DeliveryId, EndpointId, EventId}};
/// let env = Env::system();
/// let id = DeliveryId::new(EventId::mint(&env), EndpointId::mint(&env));
/// assert_eq!(id.to_string().parse::<DeliveryId>(), Ok(id));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId {
    event: EventId,
    endpoint: EndpointId,
}

impl DeliveryId {
    /// The prefix of the text form, without its underscore.
    pub const PREFIX: &'static str = "whd";

    /// The delivery of `event` to `endpoint`.
    #[must_use]
    pub const fn new(event: EventId, endpoint: EndpointId) -> Self {
        Self { event, endpoint }
    }

    /// The event that is delivered.
    #[must_use]
    pub const fn event(&self) -> EventId {
        self.event
    }

    /// The endpoint it is delivered to.
    #[must_use]
    pub const fn endpoint(&self) -> EndpointId {
        self.endpoint
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("whd_")?;
        f.write_str(Suffix::of(self.event.0).as_str())?;
        f.write_str(Suffix::of(self.endpoint.0).as_str())
    }
}

impl fmt::Debug for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for DeliveryId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        text.strip_prefix("whd_")
            .and_then(|pair| pair.split_at_checked(SUFFIX_LEN))
            .and_then(|(event, endpoint)| Some((decode(event)?, decode(endpoint)?)))
            .map(|(event, endpoint)| Self::new(EventId(event), EndpointId(endpoint)))
            .ok_or(IdError { prefix: Self::PREFIX })
    }
}

impl serde::Serialize for DeliveryId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The 26 base32 characters of a UUID, on the stack.
struct Suffix([u8; SUFFIX_LEN]);

impl Suffix {
    fn of(uuid: Uuid) -> Self {
        let mut rest = uuid.as_u128();
        let mut text = [0; SUFFIX_LEN];
        for slot in text.iter_mut().rev() {
            *slot = ALPHABET[(rest & 31) as usize];
            rest >>= 5;
        }
        Self(text)
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("every character of the alphabet is ASCII")
    }
}

fn decode(text: &str) -> Option<Uuid> {
    // 26 characters carry 130 bits; the first may only use three of its five.
    if text.len() != SUFFIX_LEN || text.as_bytes()[0] > b'7' {
        return None;
    }
    let mut value: u128 = 0;
    for byte in text.bytes() {
        let digit = ALPHABET.iter().position(|&c| c == byte)?;
        value = (value << 5) | digit as u128;
    }
    Some(Uuid::from_u128(value))
}

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const SUFFIX_LEN: usize = 26;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_vectors_of_the_typeid_specification() {
        for (uuid, suffix) in [
            ("00000000-0000-0000-0000-000000000000", "00000000000000000000000000"),
            ("00000000-0000-0000-0000-00000000000a", "0000000000000000000000000a"),
            ("00000000-0000-0000-0000-000000000020", "00000000000000000000000010"),
            ("ffffffff-ffff-ffff-ffff-ffffffffffff", "7zzzzzzzzzzzzzzzzzzzzzzzzz"),
            ("0110c853-1d09-52d8-d73e-1194e95b5f19", "0123456789abcdefghjkmnpqrs"),
            ("01890a5d-ac96-774b-bcce-b302099a8057", "01h455vb4pex5vsknk084sn02q"),
        ] {
            let id = PaymentId::from_uuid(uuid.parse().unwrap());
            assert_eq!(id.to_string(), format!("pay_{suffix}"));
            assert_eq!(format!("pay_{suffix}").parse(), Ok(id));
        }
    }

    #[test]
    fn refuses_every_other_spelling() {
        for bad in [
            "",
            "pay",
            "pay_",
            "01h455vb4pex5vsknk084sn02q",
            "ref_01h455vb4pex5vsknk084sn02q",
            "pay_01h455vb4pex5vsknk084sn02",
            "pay_01h455vb4pex5vsknk084sn02qq",
            "pay_01H455VB4PEX5VSKNK084SN02Q",
            "pay_81h455vb4pex5vsknk084sn02q",
            "pay_01h455vb4pex5vsknk084sn02u",
            "pay_01h455vb4pex5vsknk084sn0é",
        ] {
            assert_eq!(bad.parse::<PaymentId>(), Err(IdError { prefix: "pay" }), "{bad}");
        }
        assert!("whd_01h455vb4pex5vsknk084sn02q".parse::<DeliveryId>().is_err());
        assert!(format!("whd_{}", "é".repeat(26)).parse::<DeliveryId>().is_err());
    }
}
