//! Redaction: what is left of a payment, and of everything said about it, once its customer is erased. Pure, and the same bytes every
//! time: what a read gives before the rows are rewritten is what is stored afterwards.
//!
//! Gone are the customer's address, name and id, the description, the metadata, why a refund was made or an operation settled by hand, what a
//! processor said in words, and what a receiver answered to a webhook. Kept are amounts, currency, states, dates, ids, the codes of failures,
//! the processor's references and its token of the payment method: without them, money under way could neither be settled nor refunded nor
//! accounted for (GDPR Art. 17(3)(b) and (e)). An idempotency key is kept too, with the fingerprint of its request, because forgetting one lets a
//! late retry charge twice; hosts put no personal data in keys. The address of a page that the customer is sent to stays as long as a payment
//! waits for it, and in the event that told it.

use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::email::Email;
use crate::id::ErasureId;
use crate::idempotency::StoredAnswer;
use crate::metadata::Metadata;
use crate::payment::{Customer, Failure, Operation, Payment, PaymentState};
use crate::text::{CustomerId, CustomerName};
use crate::webhook::{Attempt, AttemptOutcome};

/// Takes the person out of what one erasure marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redaction {
    erasure: ErasureId,
}

impl Redaction {
    /// The address that every erased customer has.
    pub const EMAIL: &'static str = "redacted@example.com";
    /// The name that every erased customer has.
    pub const NAME: &'static str = "Redacted";

    /// The redaction of an erasure.
    #[must_use]
    pub const fn of(erasure: ErasureId) -> Self {
        Self { erasure }
    }

    /// The redaction that took the person out of this payment, if one did: its customer is called like an erasure, as nobody else is.
    #[must_use]
    pub fn done_to(payment: &Payment) -> Option<Self> {
        payment.customer.id.as_ref()?.as_str().parse().ok().map(Self::of)
    }

    /// The customer afterwards. The id is the erasure's, so that erased customers are told apart and none can be found again.
    ///
    /// # Panics
    /// Never: erasures have ids that are [texts of a customer's id](CustomerId::of_erasure).
    #[must_use]
    pub fn customer(&self) -> Customer {
        Customer {
            email: Email::parse(Self::EMAIL).expect("a valid address"),
            name: CustomerName::parse(Self::NAME).expect("a valid name"),
            id: CustomerId::of_erasure(self.erasure),
        }
    }

    /// A payment without its person.
    pub fn payment(&self, payment: &mut Payment) {
        payment.customer = self.customer();
        payment.description = None;
        payment.metadata = Metadata::default();
        payment.failure = payment.failure.as_ref().map(Failure::without_message);
    }

    /// An operation without its free text.
    pub fn operation(&self, operation: &mut Operation) {
        operation.reason = None;
        operation.failure = operation.failure.as_ref().map(Failure::without_message);
    }

    /// A payment with its operations.
    pub fn state(&self, state: &mut PaymentState) {
        self.payment(&mut state.payment);
        state.operations.iter_mut().for_each(|operation| self.operation(operation));
    }

    /// The body of an event or of an answer: the same members in the same order, as stable under `JSON.stringify(JSON.parse(body))` as
    /// before. What is not one of our objects is `{}`.
    #[must_use]
    pub fn body(&self, body: &[u8]) -> Bytes {
        let mut to = Vec::with_capacity(body.len());
        let text = std::str::from_utf8(body).unwrap_or_default();
        match self.rewrite(text, Level::Outer, &mut to) {
            Ok(()) => to.into_boxed_slice().into(),
            Err(_) => Bytes::from_static(b"{}"),
        }
    }

    /// A stored answer; its status stays.
    #[must_use]
    pub fn answer(&self, answer: &StoredAnswer) -> StoredAnswer {
        StoredAnswer { status: answer.status, body: self.body(&answer.body) }
    }

    /// An attempt without what the receiver answered: it may echo what it was sent.
    pub fn attempt(&self, attempt: &mut Attempt) {
        if let AttemptOutcome::Answered { body_start, .. } = &mut attempt.outcome {
            *body_start = "".into();
        }
    }

    fn rewrite(
        &self,
        object: &str,
        level: Level,
        to: &mut Vec<u8>,
    ) -> Result<(), serde_json::Error> {
        let members: Members<'_> = serde_json::from_str(object)?;
        to.push(b'{');
        for (at, (name, value)) in members.0.iter().enumerate() {
            if at > 0 {
                to.push(b',');
            }
            serde_json::to_writer(&mut *to, name)?;
            to.push(b':');
            self.member(name, value.get(), level, to)?;
        }
        to.push(b'}');
        Ok(())
    }

    fn member(
        &self,
        name: &str,
        value: &str,
        level: Level,
        to: &mut Vec<u8>,
    ) -> Result<(), serde_json::Error> {
        match (level, name) {
            (Level::Failure, "message") => to.extend_from_slice(b"\"\""),
            (Level::Outer, "customer_id") if value != "null" => {
                serde_json::to_writer(&mut *to, &self.erasure)?;
            }
            (Level::Outer, "customer_email") => serde_json::to_writer(&mut *to, Self::EMAIL)?,
            (Level::Outer, "customer_name") => serde_json::to_writer(&mut *to, Self::NAME)?,
            (Level::Outer, "description" | "reason") => to.extend_from_slice(b"null"),
            (Level::Outer, "metadata") => to.extend_from_slice(b"{}"),
            (Level::Outer, "failure") if value.starts_with('{') => {
                self.rewrite(value, Level::Failure, to)?;
            }
            // Our bodies nest no deeper than these, and serde_json reads none that nests deeper than 128.
            (Level::Outer, "data" | "object" | "operation") if value.starts_with('{') => {
                self.rewrite(value, Level::Outer, to)?;
            }
            _ => to.extend_from_slice(value.as_bytes()),
        }
        Ok(())
    }
}

/// What an object is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// An event, its data, a payment, a refund or an operation.
    Outer,
    /// A failure.
    Failure,
}

/// An object's members as they stand.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::with_capacity(32);
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Env;

    fn redaction() -> Redaction {
        Redaction::of(ErasureId::mint(&Env::system()))
    }

    fn redacted(redaction: &Redaction, body: &str) -> String {
        String::from_utf8(redaction.body(body.as_bytes()).to_vec()).expect("it was a text")
    }

    #[test]
    fn an_event_keeps_its_members_their_order_and_its_numbers() {
        let redaction = redaction();
        let body = concat!(
            r#"{"id":"evt_1","type":"payment.failed","sequence":2,"data":{"object":{"object":"payment","amount":9999999999999.99,"#,
            r#""customer_id":"m1","customer_email":"m2@m.example","customer_name":"m\"3","description":"m4","metadata":{"7":"m5","m6":"}"},"#,
            r#""failure":{"code":"card_declined","message":"m7"},"operation":{"failure":{"code":"x","message":"m8"},"attempts":1}}}}"#
        );
        let expected = format!(
            concat!(
                r#"{{"id":"evt_1","type":"payment.failed","sequence":2,"data":{{"object":{{"object":"payment","amount":9999999999999.99,"#,
                r#""customer_id":"{}","customer_email":"redacted@example.com","customer_name":"Redacted","description":null,"metadata":{{}},"#,
                r#""failure":{{"code":"card_declined","message":""}},"operation":{{"failure":{{"code":"x","message":""}},"attempts":1}}}}}}}}"#
            ),
            redaction.erasure
        );
        assert_eq!(redacted(&redaction, body), expected);
        assert_eq!(redacted(&redaction, &expected), expected, "once is enough");
    }

    #[test]
    fn what_is_no_object_of_ours_is_nothing() {
        for body in ["", "m", "[\"m\"]", "\"m\"", "{\"m\":", "{\"m\":1}m"] {
            assert_eq!(redacted(&redaction(), body), "{}", "{body}");
        }
        assert_eq!(redaction().body(b"\xff{}"), "{}");
    }

    #[test]
    fn nothing_that_was_not_there_is_made_up() {
        let body = r#"{"customer_id":null,"failure":null,"reason":null,"message":"kept outside of failures"}"#;
        assert_eq!(redacted(&redaction(), body), body);
    }

    #[test]
    fn any_body_is_safe_to_redact() {
        let redaction = redaction();
        bolero::check!().for_each(|body: &[u8]| {
            let once = redaction.body(body);
            assert_eq!(redaction.body(&once), once);
        });
    }
}
