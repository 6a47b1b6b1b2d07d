//! The sandbox's notifications: their JSON body and their signature. When one is due is the ledger's business.

use std::str::FromStr;

use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::currency::Currency;
use crate::money::Money;
use crate::payment::{Failure, NextAction, Reference};
use crate::processor::{Answer, News, Notification, NotificationError, RawNotification};
use crate::scope::{Mode, Scope};
use crate::secret::Secret;

use super::account::LedgerEntry;
use super::ledger::Topic;

/// The header that carries the signature: HMAC-SHA256 of the body in lower-case hexadecimal.
pub(super) const SIGNATURE_HEADER: &str = "sandbox-signature";

/// Writes and signs a notification.
pub(super) fn write(topic: Topic, entry: &LedgerEntry, secret: &Secret) -> RawNotification {
    let body = serde_json::to_vec(&Body::of(topic, entry))
        .expect("a struct of strings and numbers is always JSON");
    let signature = hex(&mac(secret, &body).finalize().into_bytes());
    RawNotification {
        headers: vec![
            ("content-type".to_owned(), Bytes::from_static(b"application/json")),
            (SIGNATURE_HEADER.to_owned(), Bytes::from(signature)),
        ],
        body: Bytes::from(body),
    }
}

/// Verifies and reads a notification.
pub(super) fn read(
    headers: &[(&str, &[u8])],
    body: &[u8],
    secret: &Secret,
) -> Result<Notification, NotificationError> {
    if body.len() > BODY_LEN_MAX {
        return Err(NotificationError::Malformed);
    }
    let mut signatures =
        headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(SIGNATURE_HEADER));
    // Two signatures are not ours: which of them other software looked at is anyone's guess.
    let (Some((_, signature)), None) = (signatures.next(), signatures.next()) else {
        return Err(NotificationError::NotAuthentic);
    };
    let signature = unhex(signature).ok_or(NotificationError::NotAuthentic)?;
    mac(secret, body).verify_slice(&signature).map_err(|_| NotificationError::NotAuthentic)?;
    let body: Body = serde_json::from_slice(body).map_err(|_| NotificationError::Malformed)?;
    body.read().ok_or(NotificationError::Malformed)
}

/// The members of a notification's body.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    object: String,
    merchant_id: String,
    mode: String,
    payment: String,
    key: String,
    /// `succeeded`, `failed`, `pending`, `requires_action` or `disputed`.
    status: String,
    reference: String,
    amount_minor: i64,
    currency: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<FailureBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_action_url: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FailureBody {
    code: String,
    message: String,
}

impl Body {
    fn of(topic: Topic, entry: &LedgerEntry) -> Self {
        let mut body = Self {
            object: OBJECT.to_owned(),
            merchant_id: entry.scope.merchant.as_str().to_owned(),
            mode: entry.scope.mode.as_str().to_owned(),
            payment: entry.payment.to_string(),
            key: entry.key.to_string(),
            status: String::new(),
            reference: entry.reference.as_str().to_owned(),
            amount_minor: entry.amount.minor(),
            currency: entry.amount.currency().to_string(),
            failure: None,
            next_action_url: None,
        };
        let status = match (topic, entry.answer()) {
            (Topic::Dispute, _) => "disputed",
            (Topic::Outcome, Answer::Succeeded { .. }) => "succeeded",
            (Topic::Outcome, Answer::Pending { .. }) => "pending",
            (Topic::Outcome, Answer::Failed { failure, .. }) => {
                body.failure = Some(FailureBody {
                    code: failure.code().to_owned(),
                    message: failure.message().to_owned(),
                });
                "failed"
            }
            (Topic::Outcome, Answer::RequiresAction { next_action, .. }) => {
                let NextAction::Redirect(url) = next_action;
                body.next_action_url = Some(url.into());
                "requires_action"
            }
        };
        status.clone_into(&mut body.status);
        body
    }

    fn read(&self) -> Option<Notification> {
        let reference = Some(Reference::new(&self.reference)?);
        let amount = Money::from_minor(self.amount_minor, Currency::from_str(&self.currency).ok()?);
        let amount = amount.ok()?;
        let news = match self.status.as_str() {
            "disputed" => News::Disputed,
            "succeeded" => News::Outcome(Answer::Succeeded { reference, amount }),
            "pending" => News::Outcome(Answer::Pending { reference }),
            "failed" => {
                let FailureBody { code, message } = self.failure.as_ref()?;
                let failure = Failure::new(code, message);
                News::Outcome(Answer::Failed { reference, failure })
            }
            "requires_action" => {
                let next_action = NextAction::redirect(self.next_action_url.as_deref()?)?;
                News::Outcome(Answer::RequiresAction { reference, next_action })
            }
            _ => return None,
        };
        let mode = [Mode::Test, Mode::Live].into_iter().find(|mode| mode.as_str() == self.mode)?;
        (self.object == OBJECT).then_some(Notification {
            scope: Scope::new(self.merchant_id.parse().ok()?, mode),
            payment: self.payment.parse().ok()?,
            key: self.key.parse().ok()?,
            news,
        })
    }
}

fn mac(secret: &Secret, body: &[u8]) -> Hmac<Sha256> {
    let mut mac = <Hmac<Sha256>>::new_from_slice(secret.expose().as_bytes())
        .expect("HMAC takes keys of any length (RFC 2104)");
    mac.update(body);
    mac
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(HEX[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

fn unhex(text: &[u8]) -> Option<[u8; 32]> {
    let text: &[u8; 64] = text.try_into().ok()?;
    let digit = |c: u8| HEX.iter().position(|d| *d == c).and_then(|at| u8::try_from(at).ok());
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = (digit(pair[0])? << 4) | digit(pair[1])?;
    }
    Some(bytes)
}

const OBJECT: &str = "sandbox.notification";
const HEX: &[u8; 16] = b"0123456789abcdef";
/// Our own bodies have some 500 bytes; this leaves room for members to come.
const BODY_LEN_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn sign(secret: &Secret, body: &[u8]) -> String {
        hex(&mac(secret, body).finalize().into_bytes())
    }

    #[test]
    fn hexadecimal_round_trips() {
        let bytes: [u8; 32] = std::array::from_fn(|at| u8::try_from(at * 8 + 1).expect("a byte"));
        assert_eq!(unhex(hex(&bytes).as_bytes()), Some(bytes));
        assert_eq!(unhex(b"00"), None);
        assert_eq!(unhex(&[b'F'; 64]), None, "upper case");
        assert_eq!(hex(&[0x00, 0x0f, 0xa9, 0xff]), "000fa9ff");
    }

    #[test]
    fn what_is_not_authentic_is_told_from_what_cannot_be_read() {
        let secret = Secret::new("shared");
        let check = |body: &[u8], signature: &str| {
            read(&[("sandbox-signature", signature.as_bytes())], body, &secret)
        };
        for body in
            [&b""[..], b"{}", b"null", b"[", b"\xff", br#"{"object":"sandbox.notification"}"#]
        {
            assert_eq!(check(body, &sign(&secret, body)), Err(NotificationError::Malformed));
            let other = sign(&Secret::new("other"), body);
            assert_eq!(check(body, &other), Err(NotificationError::NotAuthentic));
        }
        let long = vec![b' '; BODY_LEN_MAX + 1];
        assert_eq!(check(&long, &sign(&secret, &long)), Err(NotificationError::Malformed));
        assert_eq!(read(&[], b"{}", &secret), Err(NotificationError::NotAuthentic));
        let good = sign(&secret, b"{}");
        let header = ("sandbox-signature", good.as_bytes());
        let twice = read(&[header, header], b"{}", &secret);
        assert_eq!(twice, Err(NotificationError::NotAuthentic));
    }

    #[test]
    fn any_bytes_are_read_without_a_panic() {
        let secret = Secret::new("shared");
        bolero::check!().for_each(|bytes: &[u8]| {
            let signature = sign(&secret, bytes);
            let headers = [("sandbox-signature", signature.as_bytes())];
            assert_ne!(read(&headers, bytes, &secret), Err(NotificationError::NotAuthentic));
            assert!(read(&[("sandbox-signature", bytes)], bytes, &secret).is_err());
        });
    }
}
