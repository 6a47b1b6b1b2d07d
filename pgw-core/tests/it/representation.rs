//! Bodies are the same bytes after `JSON.parse` and `JSON.stringify`.

use pgw_core::changes::Write;
use pgw_core::id::ErasureId;
use pgw_core::payment::{Failure, PaymentState};
use pgw_core::privacy::Redaction;
use pgw_core::representation;
use pgw_core::secret::Secret;
use pgw_core::text::{CustomerId, Reason};
use pgw_core::webhook::plan::{disable_endpoint, pause_endpoint, test_endpoint};
use pgw_core::webhook::{Endpoint, EndpointWithSecret};
use proptest::prelude::*;

use crate::javascript::restringified;
use crate::sampling::{created, endpoint, new_payment, stamped};

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, max_local_rejects: 10_000_000, ..ProptestConfig::default() })]

    #[test]
    fn bodies_are_stable_under_json_reserialisation(new in new_payment()) {
        let plan = created(new, &mut 0);
        let mut bodies = 0;
        for write in &plan.changes.writes {
            if let Write::Event(event) = write {
                prop_assert_eq!(restringified(&event.body).into_bytes(), &event.body[..]);
                bodies += 1;
            }
        }
        prop_assert_eq!(bodies, 1);
        for body in [
            representation::payment(&plan.state.payment),
            representation::operation(&plan.state.operations[0]),
            representation::payment_with_operation(&plan.state, &plan.state.operations[0]),
            representation::refund(&plan.state.payment.scope, &plan.state.operations[0]),
        ] {
            prop_assert_eq!(restringified(&body).into_bytes(), &body[..]);
        }
    }

    #[test]
    fn a_redacted_body_is_the_body_of_what_was_redacted(new in new_payment(), id in any::<u128>()) {
        let erasure = ErasureId::from_uuid(uuid::Uuid::from_u128(id));
        prop_assume!(CustomerId::of_erasure(erasure).is_some());
        let mut state = created(new, &mut 0).state;
        state.payment.customer.id = CustomerId::parse("cus_1").ok();
        state.payment.failure = Some(Failure::new("card_declined", "The card of somebody"));
        state.operations[0].failure.clone_from(&state.payment.failure);
        state.operations[0].reason = Reason::parse("somebody asked").ok();
        let redaction = Redaction::of(erasure);
        let mut redacted = state.clone();
        redaction.state(&mut redacted);
        prop_assert!(redacted.payment != state.payment);
        let renders: [fn(&PaymentState) -> Vec<u8>; 3] = [
            |state| representation::payment(&state.payment),
            |state| representation::payment_with_operation(state, &state.operations[0]),
            |state| representation::refund(&state.payment.scope, &state.operations[0]),
        ];
        for render in renders {
            let body = redaction.body(&render(&state));
            prop_assert_eq!(&body[..], render(&redacted));
            prop_assert_eq!(restringified(&body).into_bytes(), &body[..]);
        }
    }

    #[test]
    fn endpoints_are_stable_under_json_reserialisation(endpoint in endpoint(), secret in "whsec_[A-Za-z0-9+/]{43}=") {
        let mut ids = 0;
        let (pinged, _) = stamped(&mut ids, |stamp| test_endpoint(&endpoint, stamp));
        let disabled = stamped(&mut ids, |stamp| disable_endpoint(&endpoint, "gone", stamp)).unwrap();
        let paused = stamped(&mut ids, |stamp| pause_endpoint(&endpoint, None, 0, stamp)).unwrap();
        let writes = || pinged.writes.iter().chain(&disabled.writes).chain(&paused.writes);
        let failing: Vec<Endpoint> = writes()
            .filter_map(|write| match write {
                Write::Endpoint(endpoint) => Some((**endpoint).clone()),
                _ => None,
            })
            .collect();
        let events = writes().filter_map(|write| match write {
            Write::Event(event) | Write::EventTo { event, .. } => Some(event.body.to_vec()),
            _ => None,
        });
        let mut bodies: Vec<Vec<u8>> = events.collect();
        prop_assert_eq!((failing.len(), bodies.len()), (3, 2));
        bodies.extend(failing.iter().map(representation::endpoint));
        bodies.push(representation::endpoint(&endpoint));
        let with_secret = EndpointWithSecret { endpoint, secret: Secret::new(secret) };
        bodies.push(representation::endpoint_with_secret(&with_secret));
        for body in bodies {
            prop_assert_eq!(restringified(&body).into_bytes(), &body[..]);
        }
    }
}

#[test]
fn an_endpoint_reads_as_documented() {
    use std::num::{NonZeroU8, NonZeroU32};
    use std::time::Duration;

    use pgw_core::webhook::{CustomHeaders, DeliveryOptions, Ordering, WhenExhausted};

    let options = DeliveryOptions {
        timeout: Some(Duration::from_millis(2_500)),
        concurrency: NonZeroU8::new(3),
        rate_per_s: NonZeroU32::new(40),
        ordering: Ordering::ByPayment(WhenExhausted::Park),
    };
    let headers = CustomHeaders::parse([("X-Tenant", "blue")]).unwrap();
    let endpoint = crate::sampling::endpoint_of(None, options, &headers);
    let secret = Secret::new("whsec_c2VjcmV0");
    let body = representation::endpoint_with_secret(&EndpointWithSecret { endpoint, secret });
    assert_eq!(
        String::from_utf8(body).unwrap(),
        concat!(
            r#"{"object":"webhook_endpoint","id":"we_00000000000000000000000007","merchant_id":"default","mode":"test","#,
            r#""url":"https://hooks.example/in","description":null,"event_types":[],"#,
            r#""signature_profiles":["standard","seed"],"headers":["x-tenant"],"timeout_ms":2500,"concurrency":3,"#,
            r#""rate_per_second":40,"ordering":"payment","on_exhausted":"park","status":"enabled","#,
            r#""disabled_reason":null,"failing_since":null,"previous_secret_expires_at":null,"version":1,"#,
            r#""created_at":"2026-09-21T14:13:20.000000Z","updated_at":"2026-09-21T14:13:20.000000Z","#,
            r#""secret":"whsec_c2VjcmV0"}"#,
        )
    );
}

#[test]
fn a_payment_reads_as_documented() {
    use pgw_core::currency::Currency;
    use pgw_core::email::Email;
    use pgw_core::idempotency::IdempotencyKey;
    use pgw_core::money::Money;
    use pgw_core::payment::Customer;
    use pgw_core::payment::plan::NewPayment;
    use pgw_core::text::{CustomerId, CustomerName, PaymentMethod};

    let customer = Customer {
        email: Email::parse("ada@example.com").unwrap(),
        name: CustomerName::parse("Ada Lovelace").unwrap(),
        id: Some(CustomerId::parse("cus_42").unwrap()),
    };
    let amount = Money::parse_major("49.9", Currency::USD).unwrap();
    let new = NewPayment::new(amount, customer, PaymentMethod::parse("tok_visa").unwrap())
        .with_idempotency_key(IdempotencyKey::parse("k1").unwrap());
    let plan = created(new, &mut 0);
    let body = String::from_utf8(representation::payment(&plan.state.payment)).unwrap();
    assert_eq!(
        body,
        concat!(
            r#"{"object":"payment","id":"pay_00000000000000000000000001","merchant_id":"default","mode":"test","#,
            r#""status":"pending","amount":49.9,"amount_minor":4990,"currency":"USD","authorized_minor":0,"#,
            r#""captured_minor":0,"refunded_minor":0,"refundable_minor":0,"capture":"automatic","#,
            r#""customer_id":"cus_42","customer_email":"ada@example.com","customer_name":"Ada Lovelace","#,
            r#""description":null,"metadata":{},"payment_method":"tok_visa","processor":"sandbox","#,
            r#""processor_reference":null,"failure":null,"next_action":null,"unknown_operations":0,"#,
            r#""needs_review":false,"disputed":false,"expires_at":"2026-09-28T14:13:20.000000Z","version":1,"#,
            r#""created_at":"2026-09-21T14:13:20.000000Z","updated_at":"2026-09-21T14:13:20.000000Z"}"#,
        )
    );
    // The answer kept for the key is the event's object, in the same memory.
    let answer = plan.changes.claim.unwrap().answer.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (201, body.as_bytes()));
}
