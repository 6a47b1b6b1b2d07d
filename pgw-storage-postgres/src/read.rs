//! Reads of single objects and short logs: one statement each, so that each sees whole commits only.

use pgw_core::access::{ApiKey, KeyPrefix, Shield};
use pgw_core::crypto::KeyName;
use pgw_core::event::Event;
use pgw_core::id::{DeliveryId, EndpointId, ErasureId, KeyId, OperationId, PaymentId};
use pgw_core::idempotency::{IdempotencyKey, KeyRecord};
use pgw_core::payment::{Conflict, PaymentState};
use pgw_core::privacy::{Consent, ConsentHolder, ErasureProgress};
use pgw_core::scope::Scope;
use pgw_core::storage::StorageError;
use pgw_core::text::CustomerId;
use pgw_core::timestamp::Timestamp;
use pgw_core::webhook::{Attempt, DeliveryWork, Endpoint};
use sqlx::postgres::PgRow;

use crate::columns::{self, *};
use crate::database::Session;
use crate::error::corrupt;
use crate::redact::mark;
use crate::sql::Bound;
use crate::steps::scoped;
use crate::value::{Time, text};

pub(crate) type Found<T> = Result<T, StorageError>;

/// A delivery with its event and its endpoint.
macro_rules! delivery_tables {
    () => {
        " from {schema}.deliveries d \
         join {schema}.events e on e.merchant = d.merchant and e.live = d.live and e.id = d.event \
         join {schema}.endpoints w on w.merchant = d.merchant and w.live = d.live and w.id = d.endpoint "
    };
}

pub(crate) use delivery_tables;

/// A payment with its operations, in one row for each of these.
macro_rules! payment_state {
    () => {
        concat!(
            "select ", payment_columns!(), ", ", operation_columns!(), " from {schema}.payments p ",
            "left join {schema}.operations o on o.merchant = p.merchant and o.live = p.live and o.payment = p.id "
        )
    };
}

pub(crate) async fn payment(
    session: &impl Session,
    scope: &Scope,
    id: PaymentId,
) -> Found<Option<PaymentState>> {
    const PAYMENT: &str = concat!(
        payment_state!(),
        "where p.merchant = $1 and p.live = $2 and p.id = $3 order by o.place, o.id"
    );
    let bound = scoped(scope).and(id.as_uuid());
    state(&session.rows(session.sql().text(PAYMENT), bound).await?, scope)
}

pub(crate) async fn payment_of(
    session: &impl Session,
    scope: &Scope,
    operation: OperationId,
) -> Found<Option<PaymentState>> {
    const PAYMENT: &str = concat!(
        payment_state!(),
        "where p.merchant = $1 and p.live = $2 and p.id = (select x.payment from {schema}.operations x ",
        "where x.merchant = $1 and x.live = $2 and x.id = $3) order by o.place, o.id"
    );
    let bound = scoped(scope).and(operation.as_uuid());
    state(&session.rows(session.sql().text(PAYMENT), bound).await?, scope)
}

pub(crate) fn state(rows: &[PgRow], scope: &Scope) -> Found<Option<PaymentState>> {
    let Some(first) = rows.first() else { return Ok(None) };
    let payment = columns::payment(&mut Columns::of(first), scope).map_err(corrupt)?;
    let mut operations = Vec::with_capacity(rows.len());
    for row in rows {
        let mut from = Columns::after(row, PAYMENT_COLUMNS);
        if from.is_absent().map_err(corrupt)? {
            continue;
        }
        operations.push(columns::operation(&mut from).map_err(corrupt)?);
    }
    Ok(Some(PaymentState { payment, operations }))
}

pub(crate) async fn key(
    session: &impl Session,
    scope: &Scope,
    key: &IdempotencyKey,
) -> Found<Option<KeyRecord>> {
    const KEY: &str = concat!(
        "select ",
        key_columns!(),
        " from {schema}.idempotency_keys k where k.merchant = $1 and k.live = $2 and k.key = $3"
    );
    let bound = scoped(scope).and(key.as_str());
    one(&session.rows(session.sql().text(KEY), bound).await?, key_record)
}

pub(crate) async fn conflicts(
    session: &impl Session,
    scope: &Scope,
    payment: PaymentId,
) -> Found<Vec<Conflict>> {
    const CONFLICTS: &str = concat!(
        "select ",
        conflict_columns!(),
        " from {schema}.conflicts ",
        "where merchant = $1 and live = $2 and payment = $3 order by created_at, id"
    );
    let bound = scoped(scope).and(payment.as_uuid());
    all(&session.rows(session.sql().text(CONFLICTS), bound).await?, conflict)
}

pub(crate) async fn payment_events(
    session: &impl Session,
    scope: &Scope,
    payment: PaymentId,
    after: u64,
    limit: usize,
) -> Found<Vec<Event>> {
    const EVENTS: &str = concat!(
        "select * from (select ",
        event_columns!(),
        " from {schema}.events e ",
        "where e.merchant = $1 and e.live = $2 and e.payment = $3 and e.sequence > $4 order by e.sequence limit 1000) page limit $5"
    );
    let bound = scoped(scope).and(payment.as_uuid()).and(beyond(after)).and(rows_of(limit));
    all(&session.rows(session.sql().text(EVENTS), bound).await?, |from| event(from, scope))
}

pub(crate) async fn feed(
    session: &impl Session,
    scope: &Scope,
    after: u64,
    limit: usize,
) -> Found<Vec<Event>> {
    const FEED: &str = concat!(
        "select * from (select ",
        event_columns!(),
        " from {schema}.events e ",
        "where e.merchant = $1 and e.live = $2 and e.feed_position > $3 order by e.feed_position limit 1000) page limit $4"
    );
    let bound = scoped(scope).and(beyond(after)).and(rows_of(limit));
    all(&session.rows(session.sql().text(FEED), bound).await?, |from| event(from, scope))
}

pub(crate) async fn cursor(session: &impl Session, scope: &Scope, consumer: &str) -> Found<u64> {
    const CURSOR: &str =
        "select position from {schema}.cursors where merchant = $1 and live = $2 and consumer = $3";
    let bound = scoped(scope).and(text(consumer)?);
    let found = one(&session.rows(session.sql().text(CURSOR), bound).await?, |from| from.count())?;
    Ok(found.unwrap_or(0))
}

pub(crate) async fn endpoint(
    session: &impl Session,
    scope: &Scope,
    id: EndpointId,
) -> Found<Option<Endpoint>> {
    const ENDPOINT: &str = concat!(
        "select ",
        endpoint_columns!(),
        " from {schema}.endpoints w where w.merchant = $1 and w.live = $2 and w.id = $3"
    );
    let bound = scoped(scope).and(id.as_uuid());
    one(&session.rows(session.sql().text(ENDPOINT), bound).await?, |from| {
        columns::endpoint(from, scope)
    })
}

pub(crate) async fn endpoints_sealed_otherwise(
    session: &impl Session,
    active: &KeyName,
    after: Option<EndpointId>,
    limit: usize,
) -> Found<Vec<Endpoint>> {
    // Two ranges, because an index finds no "other than".
    const SEALED: &str = concat!(
        "select * from (select w.merchant, w.live, ",
        endpoint_columns!(),
        " from {schema}.endpoints w where (w.sealed_with < $1 or w.sealed_with > $1) and ($2::uuid is null or w.id > $2) \
         order by w.id limit 1000) page limit $3"
    );
    let bound =
        Bound::new().and(active.as_str()).and(after.map(|id| id.as_uuid())).and(rows_of(limit));
    all(&session.rows(session.sql().text(SEALED), bound).await?, |from| {
        let scope = from.scope()?;
        columns::endpoint(from, &scope)
    })
}

pub(crate) async fn delivery(
    session: &impl Session,
    scope: &Scope,
    id: DeliveryId,
) -> Found<Option<DeliveryWork>> {
    const DELIVERY: &str = concat!(
        "select ",
        delivery_columns!(),
        ", ",
        event_columns!(),
        ", ",
        endpoint_columns!(),
        delivery_tables!(),
        "where d.merchant = $1 and d.live = $2 and d.event = $3 and d.endpoint = $4"
    );
    let bound = scoped(scope).and(id.event().as_uuid()).and(id.endpoint().as_uuid());
    one(&session.rows(session.sql().text(DELIVERY), bound).await?, |from| work(from, scope))
}

pub(crate) fn work(from: &mut Columns<'_>, scope: &Scope) -> Read<DeliveryWork> {
    Ok(DeliveryWork {
        delivery: columns::delivery(from, scope)?,
        event: event(from, scope)?,
        endpoint: columns::endpoint(from, scope)?,
    })
}

pub(crate) async fn attempts(
    session: &impl Session,
    scope: &Scope,
    delivery: DeliveryId,
    limit: usize,
) -> Found<Vec<Attempt>> {
    const ATTEMPTS: &str = concat!(
        "select * from (select ",
        attempt_columns!(),
        " from {schema}.attempts a join {schema}.events e on e.merchant = a.merchant and e.live = a.live and e.id = a.event ",
        "where a.merchant = $1 and a.live = $2 and a.event = $3 and a.endpoint = $4 order by a.number desc limit 1000) page limit $5"
    );
    let bound = scoped(scope).and(delivery.event().as_uuid()).and(delivery.endpoint().as_uuid());
    let rows = session.rows(session.sql().text(ATTEMPTS), bound.and(rows_of(limit))).await?;
    let mut log = all(&rows, |from| attempt(from, delivery))?;
    log.reverse();
    Ok(log)
}

pub(crate) async fn expired_payments(
    session: &impl Session,
    now: Timestamp,
    limit: usize,
) -> Found<Vec<(Scope, PaymentId)>> {
    const EXPIRED: &str = "select * from (select p.merchant, p.live, p.id from {schema}.payments p \
         where p.status in ('pending', 'requires_action', 'authorized') and p.expires_at < $1 \
         and not exists (select 1 from {schema}.operations o where o.merchant = p.merchant and o.live = p.live and o.payment = p.id \
         and o.kind = 'cancel' and o.state not in ('succeeded', 'failed')) order by p.expires_at limit 1000) page limit $2";
    let bound = Bound::new().and(Time(now)).and(rows_of(limit));
    all(&session.rows(session.sql().text(EXPIRED), bound).await?, |from| {
        Ok((from.scope()?, PaymentId::from_uuid(from.next()?)))
    })
}

pub(crate) async fn api_key(session: &impl Session, prefix: KeyPrefix) -> Found<Option<ApiKey>> {
    const KEY: &str =
        concat!("select ", api_key_columns!(), " from {schema}.api_keys where prefix = $1");
    let bound = Bound::new().and(prefix.as_str());
    one(&session.rows(session.sql().text(KEY), bound).await?, columns::api_key)
}

pub(crate) async fn api_key_by_id(
    session: &impl Session,
    scope: &Scope,
    id: KeyId,
) -> Found<Option<ApiKey>> {
    const KEY: &str = concat!(
        "select ",
        api_key_columns!(),
        " from {schema}.api_keys where merchant = $1 and live = $2 and id = $3"
    );
    let bound = scoped(scope).and(id.as_uuid());
    one(&session.rows(session.sql().text(KEY), bound).await?, columns::api_key)
}

pub(crate) async fn shield(session: &impl Session, known: Option<u64>) -> Found<Option<Shield>> {
    const SHIELD: &str = concat!(
        "select ",
        shield_columns!(),
        " from {schema}.shield where id = 1 and version is distinct from $1"
    );
    let bound = Bound::new().and(known.map(crate::value::version));
    one(&session.rows(session.sql().text(SHIELD), bound).await?, shield_of)
}

pub(crate) async fn erasure(
    session: &impl Session,
    scope: &Scope,
    id: ErasureId,
) -> Found<Option<ErasureProgress>> {
    const ERASURE: &str = concat!(
        "select ",
        erasure_columns!(),
        erasure_tables!(),
        "where y.merchant = $1 and y.live = $2 and y.id = $3"
    );
    let bound = scoped(scope).and(id.as_uuid());
    one(&session.rows(session.sql().text(ERASURE), bound).await?, |from| {
        columns::erasure(from, scope)
    })
}

pub(crate) async fn consents(
    session: &impl Session,
    scope: &Scope,
    holder: ConsentHolder,
    limit: usize,
) -> Found<Vec<Consent>> {
    const OF_CUSTOMER: &str = concat!(
        "select * from (select ",
        consent_columns!(),
        " from {schema}.consents where merchant = $1 and live = $2 and customer = $3 order by given_at, id limit 1000) page limit $4"
    );
    const OF_ERASURE: &str = concat!(
        "select * from (select ",
        consent_columns!(),
        " from {schema}.consents where merchant = $1 and live = $2 and erasure = $3 order by given_at, id limit 1000) page limit $4"
    );
    let (template, bound) = match holder {
        ConsentHolder::Customer(customer) => (OF_CUSTOMER, scoped(scope).and(customer.0.to_vec())),
        ConsentHolder::Erased(erasure) => (OF_ERASURE, scoped(scope).and(erasure.as_uuid())),
    };
    let bound = bound.and(rows_of(limit));
    all(&session.rows(session.sql().text(template), bound).await?, |from| {
        columns::consent(from, scope)
    })
}

pub(crate) async fn customers(
    session: &impl Session,
    scope: &Scope,
    after: Option<&CustomerId>,
    limit: usize,
) -> Found<Vec<CustomerId>> {
    // From one customer to the next along the index, so that one with very many payments costs no more than another.
    const CUSTOMERS: &str = concat!(
        "with recursive names(name) as ( \
             (select p.customer_id from {schema}.payments p where p.merchant = $1 and p.live = $2 and p.customer_id > $3 and ",
        mark!("p", "p.id"),
        " is null order by p.customer_id limit 1) \
             union all select (select p.customer_id from {schema}.payments p where p.merchant = $1 and p.live = $2 \
             and p.customer_id > n.name and ",
        mark!("p", "p.id"),
        " is null order by p.customer_id limit 1) from names n where n.name is not null \
         ) select name from names where name is not null limit $4"
    );
    let after = after.map_or("", CustomerId::as_str).to_owned();
    let bound = scoped(scope).and(after).and(rows_of(limit));
    all(&session.rows(session.sql().text(CUSTOMERS), bound).await?, columns::customer)
}

pub(crate) fn one<T>(
    rows: &[PgRow],
    read: impl FnOnce(&mut Columns<'_>) -> Read<T>,
) -> Found<Option<T>> {
    rows.first().map(|row| read(&mut Columns::of(row))).transpose().map_err(corrupt)
}

pub(crate) fn all<T>(
    rows: &[PgRow],
    mut read: impl FnMut(&mut Columns<'_>) -> Read<T>,
) -> Found<Vec<T>> {
    rows.iter().map(|row| read(&mut Columns::of(row))).collect::<Read<_>>().map_err(corrupt)
}

/// A number of rows to stop at.
pub(crate) fn rows_of(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// A position to start after; one above all that there can be is after all of them.
pub(crate) fn beyond(after: u64) -> i64 {
    i64::try_from(after).unwrap_or(i64::MAX)
}

/// How many columns `payment_columns!` has; a test counts them.
pub(crate) const PAYMENT_COLUMNS: usize = 31;

#[cfg(test)]
mod tests {
    use super::PAYMENT_COLUMNS;
    use crate::columns::payment_columns;

    #[test]
    fn the_operation_starts_behind_the_payment() {
        assert_eq!(payment_columns!().split(',').count(), PAYMENT_COLUMNS);
    }
}
