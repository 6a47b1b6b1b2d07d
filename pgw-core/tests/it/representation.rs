//! Bodies are the same bytes after `JSON.parse` and `JSON.stringify`.

use pgw_core::changes::Write;
use pgw_core::representation;
use proptest::prelude::*;

use crate::javascript::restringified;
use crate::sampling::{created, new_payment};

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
