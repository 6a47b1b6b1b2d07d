//! Groups in which each commit creates a payment: one relation for the rows of five tables.
//!
//! A payment, the operation that it begins with, their event, the key and the audit row say much the same: most of what the generic statement
//! of [`crate::group`] is told of one of them it is told of another too, and it must match the rows of each table with the commits that go on. Here
//! each commit is one row, and what goes on is found once.

use std::borrow::Cow;

use uuid::Uuid;

use crate::group::{KEY_NUMBER, MADE_FROM, MADE_INTO};
use crate::rows::{AuditLine, ClaimRow, EventRow, Form, OperationRow, PaymentRow, Row, row};
use crate::sql::{Bound, Template};
use crate::table::{Inputs, insert_into};
use crate::table::{NOW, Target, single, unnest, values};
use crate::value::Time;

row!(
    /// All that a commit says which creates a payment.
    CreationRow {
        id: Uuid = "uuid",
        currency: &'a str = "text",
        amount_minor: i64 = "bigint",
        capture: &'a str = "text",
        customer_email: &'a str = "text",
        customer_name: &'a str = "text",
        customer_id: Option<&'a str> = "text",
        description: Option<&'a str> = "text",
        metadata: Cow<'a, str> = "text",
        payment_method: &'a str = "text",
        processor: &'a str = "text",
        expires_at: Time = "timestamptz",
        created_at: Time = "timestamptz",
        key: &'a str = "text",
        fingerprint: &'a [u8] = "bytea",
        answer_status: Option<i16> = "smallint",
        answer_body: Option<&'a [u8]> = "bytea",
        operation: Uuid = "uuid",
        place: Option<i64> = "bigint",
        kind: &'a str = "text",
        due_in: Option<i64> = "bigint",
        held_for: Option<i64> = "bigint",
        held_as: Option<i64> = "bigint",
        event: Uuid = "uuid",
        body: &'a [u8] = "bytea",
        audit: Uuid = "uuid",
        actor_kind: &'a str = "text",
        actor: Option<String> = "text",
        origin: Option<String> = "text",
        object: String = "text",
        request_id: Option<&'a str> = "text",
    }
);

/// The rows of one commit.
pub(crate) struct Created<'r, 'a> {
    pub(crate) payment: &'r PaymentRow<'a>,
    pub(crate) operation: &'r OperationRow<'a>,
    pub(crate) event: &'r EventRow<'a>,
    pub(crate) claim: &'r ClaimRow<'a>,
    pub(crate) audit: &'r AuditLine<'a>,
}

impl<'a> Created<'_, 'a> {
    /// The row that says all of it; `None`: something about it is out of the ordinary.
    pub(crate) fn row(&self) -> Option<CreationRow<'a>> {
        let Self { payment, operation, event, claim, audit } = *self;
        let is_ordinary = payment.has(Form::New)
            && payment.status == "pending"
            && operation.has(Form::New)
            && operation.payment == payment.id
            && operation.currency == payment.currency
            && operation.amount_minor == payment.amount_minor
            && operation.state == "queued"
            && !operation.is_final
            && operation.idempotency_key == Some(claim.key)
            && operation.created_at == payment.created_at
            && event.payment == Some(payment.id)
            && event.event_type == "payment.created"
            && event.sequence == Some(1)
            && event.created_at == payment.created_at
            && claim.payment == Some(payment.id)
            && claim.operation == Some(operation.id)
            && claim.object.is_none()
            && audit.has(Form::Usual)
            && audit.action == "payment.create"
            && audit.at == payment.created_at;
        is_ordinary.then(|| CreationRow {
            merchant: payment.merchant,
            live: payment.live,
            id: payment.id,
            currency: payment.currency,
            amount_minor: payment.amount_minor,
            capture: payment.capture,
            customer_email: payment.customer_email,
            customer_name: payment.customer_name,
            customer_id: payment.customer_id,
            description: payment.description,
            metadata: payment.metadata.clone(),
            payment_method: payment.payment_method,
            processor: payment.processor,
            expires_at: payment.expires_at,
            created_at: payment.created_at,
            key: claim.key,
            fingerprint: claim.fingerprint,
            answer_status: claim.answer_status,
            answer_body: claim.answer_body,
            operation: operation.id,
            place: operation.place,
            kind: operation.kind,
            due_in: operation.due_in,
            held_for: operation.held_for,
            held_as: operation.held_as,
            event: event.id,
            body: event.body,
            audit: audit.id,
            actor_kind: audit.actor_kind,
            actor: audit.actor.clone(),
            origin: audit.origin.clone(),
            object: audit.object.clone(),
            request_id: audit.request_id,
        })
    }
}

/// What a column of a table is, over the row of a commit, `u`; a column that is not listed is the same in all rows of its form, or is that row's of
/// the same name.
type Columns = &'static [(&'static str, &'static str)];

const PAYMENT: Columns = &[("status", "'pending'")];
const OPERATION: Columns = &[
    ("id", "u.operation"),
    ("payment", "u.id"),
    ("state", "'queued'"),
    ("is_final", "false"),
    ("idempotency_key", "u.key"),
];
const EVENT: Columns = &[
    ("id", "u.event"),
    ("event_type", "'payment.created'"),
    ("payment", "u.id"),
    ("sequence", "1"),
];
const CLAIM: Columns = &[("payment", "u.id"), ("object", "null")];
const AUDIT: Columns = &[("id", "u.audit"), ("at", "u.created_at"), ("action", "'payment.create'")];

/// The arguments of the statement.
pub(crate) fn bind(items: Vec<i32>, mut rows: Vec<CreationRow<'_>>, offset: i64) -> Bound {
    let mut bound = Bound::new().and(offset);
    match (items.as_slice(), rows.pop()) {
        ([item], Some(row)) => {
            bound.add(*item);
            row.bind(Form::Any, &mut bound);
        }
        (_, last) => {
            rows.extend(last);
            bound.add(items);
            CreationRow::bind_all(&rows, Form::Any, &mut bound);
        }
    }
    bound
}

/// The statement, of one commit or of many. Ids are minted, so that they are not there. Should one be, the insert fails, and each commit is done
/// alone.
pub(crate) fn compose(is_one: bool) -> Template {
    let mut sql = Template::default();
    sql.push("with creations as ").push(if is_one { "not " } else { "" });
    sql.push("materialized (select * from ");
    if is_one {
        single::<CreationRow<'_>>(&mut sql, Form::Any, 2);
    } else {
        unnest::<CreationRow<'_>>(&mut sql, Form::Any, 2);
    }
    sql.push("), claimed as (");
    insert::<ClaimRow<'_>>(&mut sql, CLAIM, Form::Any, "creations");
    // Whoever claims a key holds this lock until the end of its transaction, so a key that is being claimed is known without waiting for it.
    sql.push(" where pg_try_advisory_xact_lock(").push(KEY_NUMBER).push(")");
    if is_one {
        sql.push(" on conflict do nothing returning 1), won as not materialized (select c.* from creations c cross join claimed)");
    } else {
        // In the order of the keys: two statements with the same keys must not wait for each other.
        sql.push(
            " order by i.merchant, i.live, i.key on conflict do nothing returning merchant, live, key)\
             , won as materialized (select c.* from creations c join claimed k \
             on k.merchant = c.merchant and k.live = c.live and k.key = c.key)",
        );
    }
    sql.push(", created as (");
    insert::<PaymentRow<'_>>(&mut sql, PAYMENT, Form::New, "won");
    sql.push("), begun as (");
    insert::<OperationRow<'_>>(&mut sql, OPERATION, Form::New, "won");
    sql.push("), appended as (");
    insert::<EventRow<'_>>(&mut sql, EVENT, Form::Any, "won");
    sql.push("), audited as (");
    insert::<AuditLine<'_>>(&mut sql, AUDIT, Form::Usual, "won");
    sql.push("), made as (").push(MADE_INTO).push(NOW).push(" from ");
    rows::<EventRow<'_>>(&mut sql, EVENT, Form::Any, "won");
    sql.push(MADE_FROM).push(
        ") select item, 0, 0, false, null::uuid, null::uuid from won where $1::bigint is not null \
         union all select w.item, 2, 0, false, m.event, m.endpoint from made m join won w on w.event = m.event",
    );
    sql
}

fn insert<R: Target>(to: &mut Template, columns: Columns, form: Form, from: &'static str) {
    insert_into::<R>(to);
    to.push("select ");
    values::<R>(to, Inputs::Relation);
    to.push(" from ");
    rows::<R>(to, columns, form, from);
}

/// `(select …) as i`: a table's rows of these commits.
fn rows<R: Row>(to: &mut Template, columns: Columns, form: Form, from: &'static str) {
    to.push("(select u.item");
    for (column, sql) in R::COLUMNS {
        to.push(", (");
        let named = columns.iter().find(|(named, _)| named == column);
        let same =
            || R::SAME.iter().find(|(same, forms, _)| same == column && forms.contains(&form));
        match named.map(|named| named.1).or_else(|| same().map(|same| same.2)) {
            Some(known) => to.push(known),
            None => to.push("u.").push(column),
        };
        to.push(")::").push(sql).push(" as ").push(column);
    }
    to.push(" from ").push(from).push(" u) as i");
}

#[cfg(test)]
mod tests {
    use pgw_core::access::Caller;
    use pgw_core::changes::{Changes, Write};
    use pgw_core::currency::Currency;
    use pgw_core::email::Email;
    use pgw_core::idempotency::IdempotencyKey;
    use pgw_core::money::Money;
    use pgw_core::payment::plan::{NewPayment, Stamp, create};
    use pgw_core::payment::{CaptureMethod, Customer, ProcessorName};
    use pgw_core::scope::{MerchantId, Mode, Scope};
    use pgw_core::text::{CustomerName, PaymentMethod};
    use pgw_core::timestamp::Timestamp;

    use super::*;
    use crate::group::{Group, One, Wait};

    fn creation(number: u128, capture: CaptureMethod) -> Changes {
        let customer = Customer {
            email: Email::parse("ada@example.com").expect("an address"),
            name: CustomerName::parse("Ada Lovelace").expect("a name"),
            id: None,
        };
        let amount = Money::parse_major("49.99", Currency::USD).expect("an amount");
        let method = PaymentMethod::parse("tok_visa").expect("a method");
        let key = IdempotencyKey::parse(&format!("order-{number}")).expect("a key");
        let mut new = NewPayment::new(amount, customer, method).with_idempotency_key(key);
        new.capture = capture;
        let mut last = number << 64;
        let mut ids = || {
            last += 1;
            Uuid::from_u128(last)
        };
        let caller = Caller::host(Scope::new(MerchantId::default(), Mode::Test));
        let mut stamp = Stamp { now: Timestamp::EPOCH, caller: &caller, ids: &mut ids };
        let processor = ProcessorName::parse("sandbox").expect("a name");
        create(new, &processor, &mut stamp).expect("a plan").changes
    }

    fn is_one_relation(all: &[Changes], wait: Wait) -> bool {
        let mut group = Group::default();
        for (item, changes) in (0..).zip(all) {
            group.add(item, One { changes, held: None }).expect("it can be stored");
        }
        let text = format!("{:?}", crate::group::compose(group.bind(wait, 0).0));
        text.contains("with creations")
    }

    #[test]
    fn what_a_gateway_plans_is_told_once() {
        let all = [
            creation(1, CaptureMethod::Automatic),
            creation(2, CaptureMethod::Manual),
            creation(3, CaptureMethod::Automatic),
        ];
        assert!(is_one_relation(&all, Wait::Never));
        assert!(is_one_relation(&all[..1], Wait::Never));
        assert!(!is_one_relation(&all, Wait::ForLocks), "it looks for creations first");
    }

    #[test]
    fn what_differs_in_anything_is_told_in_full() {
        let differ: [fn(&mut Write); 4] = [
            |write| {
                if let Write::Payment(payment) = write {
                    payment.version += 1;
                }
            },
            |write| {
                if let Write::Operation { operation, .. } = write {
                    operation.attempts += 1;
                }
            },
            |write| {
                if let Write::Event(event) = write {
                    event.body = b"{}".as_slice().into();
                    event.sequence = None;
                }
            },
            |write| {
                if let Write::Audit(row) = write {
                    row.at = Timestamp::MAX;
                }
            },
        ];
        for differs in differ {
            let mut all =
                [creation(1, CaptureMethod::Automatic), creation(2, CaptureMethod::Automatic)];
            all[1].writes.iter_mut().for_each(differs);
            assert!(!is_one_relation(&all, Wait::Never));
        }
        let mut keyless = creation(1, CaptureMethod::Automatic);
        keyless.claim = None;
        assert!(!is_one_relation(&[creation(2, CaptureMethod::Automatic), keyless], Wait::Never));
    }

    /// A column is either named for its table, or the same in all rows of its form, or one of the relation's.
    #[test]
    fn every_column_is_known() {
        fn check<R: Row>(columns: Columns, form: Form) {
            for (named, _) in columns {
                assert!(R::COLUMNS.iter().any(|(column, _)| column == named), "{named}");
            }
            for (column, _) in R::told(form) {
                let is_named = columns.iter().any(|(named, _)| named == column);
                let is_own = CreationRow::COLUMNS.iter().any(|(own, _)| own == column);
                assert!(is_named || is_own, "{column}");
            }
        }
        check::<PaymentRow<'_>>(PAYMENT, Form::New);
        check::<OperationRow<'_>>(OPERATION, Form::New);
        check::<EventRow<'_>>(EVENT, Form::Any);
        check::<ClaimRow<'_>>(CLAIM, Form::Any);
        check::<AuditLine<'_>>(AUDIT, Form::Usual);
    }
}
