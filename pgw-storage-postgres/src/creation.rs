//! Groups in which each commit creates a payment: one relation for the rows of five tables.
//!
//! A payment, the operation that it begins with, their event, the key and the audit row say much the same: most of what the generic statement
//! of [`crate::group`] is told of one of them it is told of another too, and it must match the rows of each table with the commits that go on. Here
//! each commit is one row, and what goes on is found once.

use uuid::Uuid;

use crate::group::{APPLIED, KEY_NUMBER, MADE_FROM, MADE_INTO};
use crate::rows::{AuditLine, ClaimRow, EventRow, Form, OperationRow, PaymentRow, Row, row};
use crate::sql::{Bound, Template};
use crate::table::{Inputs, NOW, Target, insert_into, single, unnest_some, values};
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
        metadata: &'a str = "text",
        payment_method: &'a str = "text",
        processor: &'a str = "text",
        expires_at: Time = "timestamptz",
        created_at: Time = "timestamptz",
        key: &'a str = "text",
        fingerprint: &'a [u8] = "bytea",
        answer_status: Option<i16> = "smallint",
        answer_length: Option<i32> = "integer",
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
        actor: Option<&'a str> = "text",
        origin: Option<&'a str> = "text",
        object: &'a str = "text",
        request_id: Option<&'a str> = "text",
    }
);

/// The rows of one commit. They are all of its scope.
pub(crate) struct Created<'a> {
    pub(crate) payment: &'a PaymentRow<'a>,
    pub(crate) operation: &'a OperationRow<'a>,
    pub(crate) event: &'a EventRow<'a>,
    pub(crate) claim: &'a ClaimRow<'a>,
    pub(crate) audit: &'a AuditLine<'a>,
}

impl<'a> Created<'a> {
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
            && claim.answer_body.is_none()
            && claim.answer_event == Some(event.id)
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
            metadata: &payment.metadata,
            payment_method: payment.payment_method,
            processor: payment.processor,
            expires_at: payment.expires_at,
            created_at: payment.created_at,
            key: claim.key,
            fingerprint: claim.fingerprint,
            answer_status: claim.answer_status,
            answer_length: claim.answer_length,
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
            actor: audit.actor.as_deref(),
            origin: audit.origin.as_deref(),
            object: &audit.object,
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
const CLAIM: Columns = &[
    ("payment", "u.id"),
    ("object", "null"),
    ("answer_body", "null"),
    ("answer_event", "u.event"),
];
const AUDIT: Columns = &[("id", "u.audit"), ("at", "u.created_at"), ("action", "'payment.create'")];

/// The arguments of the statement.
pub(crate) fn bind(items: &[i32], rows: &[CreationRow<'_>], offset: i64) -> Bound {
    let mut bound = Bound::new().and(offset);
    if let ([item], [row]) = (items, rows) {
        bound.add(*item);
        row.bind(Form::Any, &mut bound);
    } else {
        bound.add(items);
        CreationRow::bind_all(rows, Form::Any, &mut bound);
    }
    bound
}

/// The statement, of one commit or of many. Ids are minted, so that they are not there. Should one be, the insert fails, and each commit is done
/// alone.
pub(crate) fn compose(is_one: bool) -> Template {
    let mut sql = Template::default();
    sql.push("with ");
    if is_one {
        sql.push("creations as not materialized (select * from ");
        single::<CreationRow<'_>>(&mut sql, Form::Any, 2);
        sql.push("), ");
    }
    sql.push("claimed as (");
    insert::<ClaimRow<'_>>(&mut sql, CLAIM, Form::Any, |sql| {
        if is_one {
            sql.push("creations");
        } else {
            unnest_some::<CreationRow<'_>>(sql, Form::Any, 2, is_of_claims);
        }
    });
    // Whoever claims a key holds this lock until the end of its transaction, so a key that is being claimed is known without waiting for it.
    sql.push(" where pg_try_advisory_xact_lock(").push(KEY_NUMBER).push(")");
    if is_one {
        sql.push(" on conflict do nothing returning 1), won as not materialized (select c.* from creations c cross join claimed)");
    } else {
        // In the order of the keys: two statements with the same keys must not wait for each other.
        sql.push(
            " order by i.merchant, i.live, i.key on conflict do nothing returning merchant, live, key)\
             , won as materialized (select c.* from ",
        );
        unnest_some::<CreationRow<'_>>(&mut sql, Form::Any, 2, |_| true);
        sql.push(
            " c join claimed k on k.merchant = c.merchant and k.live = c.live and k.key = c.key)",
        );
    }
    let won = |sql: &mut Template| {
        sql.push("won");
    };
    sql.push(", created as (");
    insert::<PaymentRow<'_>>(&mut sql, PAYMENT, Form::New, won);
    sql.push("), begun as (");
    insert::<OperationRow<'_>>(&mut sql, OPERATION, Form::New, won);
    sql.push("), appended as (");
    insert::<EventRow<'_>>(&mut sql, EVENT, Form::Any, won);
    sql.push("), audited as (");
    insert::<AuditLine<'_>>(&mut sql, AUDIT, Form::Usual, won);
    sql.push("), made as (").push(MADE_INTO).push(NOW).push(" from ");
    rows::<EventRow<'_>>(&mut sql, EVENT, Form::Any, won);
    sql.push(MADE_FROM).push(")").push(APPLIED).push(
        " union all select array[c.item], 2, 0, false, m.event, m.endpoint from made m join won c on c.event = m.event",
    );
    sql
}

/// Whether a claim is made of this column.
fn is_of_claims(column: &str) -> bool {
    ClaimRow::told(Form::Any).any(|(claimed, _)| {
        let named = CLAIM.iter().find(|(named, _)| named == claimed);
        named.map_or(*claimed == column, |(_, value)| value.strip_prefix("u.") == Some(column))
    })
}

fn insert<R: Target>(
    to: &mut Template,
    columns: Columns,
    form: Form,
    from: impl Fn(&mut Template),
) {
    insert_into::<R>(to);
    to.push("select ");
    values::<R>(to, Inputs::Relation);
    to.push(" from ");
    rows::<R>(to, columns, form, from);
}

/// `(select …) as i`: a table's rows of these commits.
fn rows<R: Row>(to: &mut Template, columns: Columns, form: Form, from: impl Fn(&mut Template)) {
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
    to.push(" from ");
    from(to);
    to.push(" u) as i");
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use pgw_core::access::{AuditAction, AuditOutcome, AuditRow, Caller};
    use pgw_core::changes::{Changes, Write};
    use pgw_core::currency::Currency;
    use pgw_core::email::Email;
    use pgw_core::event::{Event, EventType};
    use pgw_core::idempotency::IdempotencyKey;
    use pgw_core::money::Money;
    use pgw_core::payment::plan::{NewPayment, Stamp, create};
    use pgw_core::payment::{
        CaptureMethod, Customer, Finality, Operation, OperationState, Payment, PaymentStatus,
        ProcessorName,
    };
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
        !text.contains("with items as")
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

    fn payment(changes: &mut Changes) -> &mut Payment {
        let found = changes.writes.iter_mut().find_map(|write| match write {
            Write::Payment(payment) => Some(payment),
            _ => None,
        });
        found.expect("it creates one")
    }

    fn operation(changes: &mut Changes) -> &mut Operation {
        let found = changes.writes.iter_mut().find_map(|write| match write {
            Write::Operation { operation, .. } => Some(operation),
            _ => None,
        });
        found.expect("it begins one")
    }

    fn event(changes: &mut Changes) -> &mut Event {
        let found = changes.writes.iter_mut().find_map(|write| match write {
            Write::Event(event) => Some(event),
            _ => None,
        });
        found.expect("it has one")
    }

    fn audit(changes: &mut Changes) -> &mut AuditRow {
        let found = changes.writes.iter_mut().find_map(|write| match write {
            Write::Audit(row) => Some(row),
            _ => None,
        });
        found.expect("it has one")
    }

    type Difference = fn(&mut Changes);

    #[test]
    fn what_differs_in_anything_is_told_in_full() {
        let differ: [(&str, Difference); 24] = [
            ("version", |it| payment(it).version += 1),
            ("status", |it| payment(it).status = PaymentStatus::Failed),
            ("authorized", |it| payment(it).authorized_minor += 1),
            ("created later", |it| payment(it).created_at = Timestamp::MAX),
            ("attempts", |it| operation(it).attempts += 1),
            ("state", |it| operation(it).state = OperationState::Pending),
            ("finality", |it| operation(it).finality = Finality::Final),
            ("amount", |it| operation(it).amount = Money::zero(Currency::USD)),
            ("currency", |it| operation(it).amount = Money::zero(Currency::EUR)),
            ("another's key", |it| operation(it).idempotency_key = None),
            ("begun later", |it| {
                operation(it).created_at = Timestamp::MAX;
                operation(it).updated_at = Timestamp::MAX;
            }),
            ("nobody's event", |it| event(it).payment = None),
            ("event type", |it| event(it).event_type = EventType::PaymentFailed),
            ("sequence", |it| event(it).sequence = Some(2)),
            ("told later", |it| event(it).created_at = Timestamp::MAX),
            ("action", |it| audit(it).action = AuditAction::PaymentCancel),
            ("outcome", |it| audit(it).outcome = AuditOutcome::Failure),
            ("audited later", |it| audit(it).at = Timestamp::MAX),
            ("no claim", |it| it.claim = None),
            ("claimed for another", |it| {
                let other = creation(9, CaptureMethod::Automatic).claim.expect("it has a key");
                it.claim.as_mut().expect("it has a key").target = other.target;
            }),
            ("no answer", |it| it.claim.as_mut().expect("it has a key").answer = None),
            ("another answer", |it| {
                let answer = it.claim.as_mut().expect("it has a key").answer.as_mut();
                answer.expect("it is known at once").body = Bytes::from_static(b"{}");
            }),
            ("told otherwise", |it| event(it).body = Bytes::from_static(b"{}")),
            ("two audit rows", |it| {
                let mut other = creation(9, CaptureMethod::Automatic);
                it.writes.push(Write::Audit(Box::new(audit(&mut other).clone())));
            }),
        ];
        for (what, differs) in differ {
            let mut all =
                [creation(1, CaptureMethod::Automatic), creation(2, CaptureMethod::Automatic)];
            differs(&mut all[1]);
            assert!(!is_one_relation(&all, Wait::Never), "{what}");
        }
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
