//! A commit step by step: one statement for each thing to check and each row to write, inside a transaction. It takes every kind of
//! change, and every statement is about one row of one merchant, which is what distributed engines route best.

use std::time::Duration;

use pgw_core::access::AuditSeal;
use pgw_core::access::Shield;
use pgw_core::changes::{Changes, Committed, Guard, Write};
use pgw_core::event::Event;
use pgw_core::id::{DeliveryId, EndpointId, EventId, PaymentId};
use pgw_core::queue::Job;
use pgw_core::scope::Scope;
use pgw_core::storage::StorageError;
use pgw_core::text::Reason;
use pgw_core::webhook::EndpointStatus;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use crate::answers::answered;
use crate::columns::{Columns, key_columns, key_record};
use crate::error::corrupt;
use crate::redact::{DETACH, MARK};
use crate::rows::{
    AnswerRow, ApiKeyRow, AttemptRow, AuditLine, ClaimRow, ConflictRow, ConsentRow, DeliveryRow,
    EndpointRow, ErasureRow, EventRow, Form, OperationRow, PaymentRow, is_live,
};
use crate::sql::{Bound, Sql, Statement, Template};
use crate::table::{
    Existing, Inputs, NOW, Target, insert_into, is_the_row, on_existing, update, values,
};
use crate::value::{Time, count, micros, text, version};

/// Why steps ended without writing.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// For a reason the caller of the commit hears.
    Refused(StorageError),
    /// PostgreSQL said no, or could not be heard.
    Failed(sqlx::Error),
}

impl From<StorageError> for Stopped {
    fn from(error: StorageError) -> Self {
        Self::Refused(error)
    }
}

impl From<sqlx::Error> for Stopped {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error)
    }
}

type Step<T> = Result<T, Stopped>;

/// One connection inside a transaction, and what its statements are made of.
pub(crate) struct Steps<'c> {
    pub(crate) connection: &'c mut PgConnection,
    pub(crate) sql: &'c Sql,
    /// Microseconds that the clock is ahead of the server's.
    pub(crate) offset: i64,
    /// Whether the connection keeps prepared statements: not behind every pooler.
    pub(crate) is_persistent: bool,
    /// Whose transaction it is.
    pub(crate) transaction: Whose,
}

/// Whose a transaction is, and so who can undo what was written in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Ours: after an error it is rolled back.
    Ours,
    /// The host's, who may go on after a refusal.
    TheHosts,
}

/// A row was inserted by somebody else between the check that it is not there and our insert, and something was written before that.
#[derive(Debug, thiserror::Error)]
#[error("a row appeared while the change was made: roll the transaction back and run it again")]
struct Appeared;

impl Steps<'_> {
    /// Does a commit. What it answers other than `Applied` wrote nothing; after an error the transaction must be rolled back, unless
    /// the error is a conflict, a reused key or a row that is missing: then nothing was written either.
    pub(crate) async fn commit(&mut self, changes: &Changes) -> Step<Committed> {
        match self.try_commit(changes).await {
            // What the guards said was not there may have been committed before its rows were looked for. Then they say so now.
            Err(Stopped::Refused(StorageError::Unsupported(_) | StorageError::Missing(_))) => {
                self.try_commit(changes).await
            }
            done => done,
        }
    }

    async fn try_commit(&mut self, changes: &Changes) -> Step<Committed> {
        let scope = &changes.scope;
        let failed = self.check_guards(scope, &changes.guards).await?;
        if let Some(claim) = &changes.claim
            && let Some(record) = self.key(scope, claim.key.as_str()).await?
        {
            return Ok(answered(claim, record)?);
        }
        if let Some(failed) = failed {
            return Err(StorageError::Conflict(failed.clone()).into());
        }
        self.check_references(changes).await?;
        if let Some(claim) = &changes.claim {
            let row = ClaimRow::new(changes, claim)?;
            if !self.insert(&row, Existing::Kept).await? {
                // Lost to one that was committed meanwhile: there is a row, and a new statement sees it.
                let record = self.key(scope, claim.key.as_str()).await?;
                let record = record.ok_or(StorageError::Unsupported("keys that are deleted"))?;
                return Ok(answered(claim, record)?);
            }
        }
        self.write_all(changes).await
    }

    async fn fetch(&mut self, statement: &Statement, bound: Bound) -> Step<Vec<PgRow>> {
        let query = statement.with(bound).persistent(self.is_persistent);
        Ok(query.fetch_all(&mut *self.connection).await?)
    }

    async fn exists(&mut self, template: &'static str, bound: Bound) -> Step<bool> {
        let statement = self.sql.text(template);
        Ok(!self.fetch(&statement, bound).await?.is_empty())
    }

    async fn key(
        &mut self,
        scope: &Scope,
        key: &str,
    ) -> Step<Option<pgw_core::idempotency::KeyRecord>> {
        const KEY: &str = concat!(
            "select ",
            key_columns!(),
            " from {schema}.idempotency_keys k ",
            "where k.merchant = $1 and k.live = $2 and k.key = $3"
        );
        let statement = self.sql.text(KEY);
        let bound = scoped(scope).and(key.to_owned());
        let rows = self.fetch(&statement, bound).await?;
        let record = rows.first().map(|row| key_record(&mut Columns::of(row)));
        Ok(record.transpose().map_err(corrupt)?)
    }

    /// Locks what the guards are about; the first that does not hold.
    async fn check_guards<'g>(
        &mut self,
        scope: &Scope,
        guards: &'g [Guard],
    ) -> Step<Option<&'g Guard>> {
        const PAYMENT: &str = "select version from {schema}.payments where merchant = $1 and live = $2 and id = $3 for update";
        const ENDPOINT: &str = "select version from {schema}.endpoints where merchant = $1 and live = $2 and id = $3 for update";
        const API_KEY: &str = "select version from {schema}.api_keys where merchant = $1 and live = $2 and id = $3 for update";
        const DELIVERY: &str = "select version from {schema}.deliveries where merchant = $1 and live = $2 and event = $3 and endpoint = $4 for update";
        const SHIELD: &str = "select version from {schema}.shield where id = 1 for update";
        const CUSTOMER: &str = "select number from {schema}.erasures where merchant = $1 and live = $2 and customer = $3 order by number desc limit 1 for update";
        const CONSENT: &str = "select version from {schema}.consents where merchant = $1 and live = $2 and id = $3 for update";
        const CURSOR: &str = "select position from {schema}.cursors where merchant = $1 and live = $2 and consumer = $3 for update";
        // Not locked, which the application may not do here: the row that a commit adds is what decides.
        const SEALS: &str = "select number from {schema}.audit_seals where merchant = $1 order by number desc limit 1";
        let mut failed = None;
        for guard in guards {
            let bound = scoped(scope);
            let (template, bound, expected) = match guard {
                Guard::Payment { id, version } => (PAYMENT, bound.and(id.as_uuid()), version),
                Guard::Endpoint { id, version } => (ENDPOINT, bound.and(id.as_uuid()), version),
                Guard::ApiKey { id, version } => (API_KEY, bound.and(id.as_uuid()), version),
                Guard::Delivery { id, version } => {
                    let bound = bound.and(id.event().as_uuid()).and(id.endpoint().as_uuid());
                    (DELIVERY, bound, version)
                }
                Guard::Shield { version } => (SHIELD, Bound::new(), version),
                Guard::Customer { customer, erasures } => {
                    (CUSTOMER, bound.and(customer.0.to_vec()), erasures)
                }
                Guard::Consent { id, version } => (CONSENT, bound.and(id.as_uuid()), version),
                Guard::Cursor { consumer, position } => {
                    (CURSOR, bound.and(text(consumer)?.to_owned()), position)
                }
                Guard::Seals { last } => (SEALS, Bound::new().and(scope.merchant.as_str()), last),
                // A guard that this backend does not know cannot be said to hold.
                _ => {
                    failed = failed.or(Some(guard));
                    continue;
                }
            };
            let statement = self.sql.text(template);
            let rows = self.fetch(&statement, bound).await?;
            let found: Option<i64> = rows.first().map(|row| row.try_get(0)).transpose()?;
            let holds = match (found, guard) {
                // There is no version 0 of a delivery: storage makes them with version 1.
                (None, Guard::Delivery { .. }) => false,
                (found, _) => found.unwrap_or(0) == version(*expected),
            };
            if !holds {
                failed = failed.or(Some(guard));
            }
        }
        Ok(failed)
    }

    /// Whether everything is there that the writes refer to.
    async fn check_references(&mut self, changes: &Changes) -> Step<()> {
        let scope = &changes.scope;
        for (position, write) in changes.writes.iter().enumerate() {
            let earlier = &changes.writes[..position];
            match write {
                Write::Operation { operation, .. } => {
                    self.needs_payment(changes, operation.payment.as_uuid()).await?;
                    let id = operation.id.as_uuid();
                    if let Some(owner) = self.owner(scope, id).await? {
                        require(owner == operation.payment.as_uuid(), "operation of this payment")?;
                    }
                }
                Write::Event(event) => self.check_event(changes, earlier, event).await?,
                Write::EventTo { event, endpoint } => {
                    require(self.has_endpoint(scope, *endpoint).await?, "endpoint")?;
                    self.check_event(changes, earlier, event).await?;
                }
                Write::Conflict(conflict) => {
                    self.needs_payment(changes, conflict.payment.as_uuid()).await?;
                    let id = conflict.operation;
                    let written = changes.writes.iter().any(
                        |write| matches!(write, Write::Operation { operation, .. } if operation.id == id),
                    );
                    let found = written || self.owner(scope, id.as_uuid()).await?.is_some();
                    require(found, "operation")?;
                }
                Write::CloseConflict { payment, id, .. } => {
                    const CONFLICT: &str = "select 1 from {schema}.conflicts where merchant = $1 and live = $2 and payment = $3 and id = $4";
                    let written = earlier.iter().any(|other| {
                        matches!(other, Write::Conflict(one) if one.id == *id && one.payment == *payment)
                    });
                    let bound = scoped(scope).and(payment.as_uuid()).and(id.as_uuid());
                    require(written || self.exists(CONFLICT, bound).await?, "conflict")?;
                }
                Write::Answer { key, .. } => {
                    require(self.key(scope, key.as_str()).await?.is_some(), "idempotency key")?;
                }
                Write::Delivery { delivery, .. } => self.needs_delivery(scope, delivery.id).await?,
                Write::Attempt(attempt) => self.needs_delivery(scope, attempt.delivery).await?,
                Write::ApiKey(key) => {
                    let twice = earlier.iter().any(|other| {
                        matches!(other, Write::ApiKey(one) if one.prefix == key.prefix && one.id != key.id)
                    });
                    if twice {
                        return Err(StorageError::Unsupported(ONE_PREFIX).into());
                    }
                }
                Write::Pause { endpoint, .. } => {
                    let written = changes
                        .writes
                        .iter()
                        .any(|other| matches!(other, Write::Endpoint(one) if one.id == *endpoint));
                    let found = written || self.has_endpoint(scope, *endpoint).await?;
                    require(found, "endpoint")?;
                }
                Write::Payment(_)
                | Write::Endpoint(_)
                | Write::Wake { .. }
                | Write::Erase { .. }
                | Write::Consent(_)
                | Write::Cursor { .. }
                | Write::Audit(_)
                | Write::Shield(_)
                | Write::Seal(_) => {}
                _ => return Err(StorageError::Unsupported("this kind of write").into()),
            }
        }
        Ok(())
    }

    async fn owner(&mut self, scope: &Scope, operation: Uuid) -> Step<Option<Uuid>> {
        const OWNER: &str =
            "select payment from {schema}.operations where merchant = $1 and live = $2 and id = $3";
        let statement = self.sql.text(OWNER);
        let bound = scoped(scope).and(operation);
        let rows = self.fetch(&statement, bound).await?;
        Ok(rows.first().map(|row| row.try_get(0)).transpose()?)
    }

    async fn needs_payment(&mut self, changes: &Changes, id: Uuid) -> Step<()> {
        const PAYMENT: &str =
            "select 1 from {schema}.payments where merchant = $1 and live = $2 and id = $3";
        let is_written =
            |write: &Write| matches!(write, Write::Payment(one) if one.id.as_uuid() == id);
        if changes.writes.iter().any(is_written) {
            return Ok(());
        }
        let bound = scoped(&changes.scope).and(id);
        require(self.exists(PAYMENT, bound).await?, "payment")
    }

    async fn has_endpoint(&mut self, scope: &Scope, id: EndpointId) -> Step<bool> {
        const ENDPOINT: &str =
            "select 1 from {schema}.endpoints where merchant = $1 and live = $2 and id = $3";
        self.exists(ENDPOINT, scoped(scope).and(id.as_uuid())).await
    }

    async fn needs_delivery(&mut self, scope: &Scope, id: DeliveryId) -> Step<()> {
        const DELIVERY: &str = "select 1 from {schema}.deliveries where merchant = $1 and live = $2 and event = $3 and endpoint = $4";
        let bound = scoped(scope).and(id.event().as_uuid()).and(id.endpoint().as_uuid());
        require(self.exists(DELIVERY, bound).await?, "delivery")
    }

    async fn check_event(
        &mut self,
        changes: &Changes,
        earlier: &[Write],
        event: &Event,
    ) -> Step<()> {
        const EVENT: &str =
            "select 1 from {schema}.events where merchant = $1 and live = $2 and id = $3";
        if let Some(payment) = event.payment {
            self.needs_payment(changes, payment.as_uuid()).await?;
        }
        let twice = earlier.iter().any(|other| match other {
            Write::Event(other) | Write::EventTo { event: other, .. } => other.id == event.id,
            _ => false,
        });
        let bound = scoped(&changes.scope).and(event.id.as_uuid());
        if twice || self.exists(EVENT, bound).await? {
            return Err(StorageError::Unsupported("an event that is appended twice").into());
        }
        Ok(())
    }

    /// Writes everything. What others refer to comes first, and endpoints last, because events are heard by endpoints as they were
    /// before. Otherwise the order of the writes is kept.
    async fn write_all(&mut self, changes: &Changes) -> Step<Committed> {
        let mut writes: Vec<&Write> = changes.writes.iter().collect();
        writes.sort_by_key(|write| rank(write));
        let silenced = silenced(changes);
        let mut due = Due::default();
        for write in writes {
            self.write(changes, write, &silenced, &mut due).await?;
        }
        Ok(Committed::Applied { due: due.0, are_claimed: false })
    }

    async fn write(
        &mut self,
        changes: &Changes,
        write: &Write,
        silenced: &[Uuid],
        due: &mut Due,
    ) -> Step<()> {
        let scope = &changes.scope;
        match write {
            Write::Payment(payment) => {
                let row = PaymentRow::new(payment)?;
                self.put(&row, creation(changes, write)).await?;
            }
            Write::Operation { operation, due_in } => {
                let place = place(changes, write);
                let row = OperationRow::new(scope, operation, place, *due_in, None)?;
                self.insert(&row, Existing::Replaced).await?;
                due.set(
                    pgw_core::queue::Job::Operation {
                        scope: scope.clone(),
                        payment: operation.payment,
                        operation: operation.id,
                    },
                    *due_in,
                );
            }
            Write::Event(event) => self.append(scope, event, None, silenced, due).await?,
            Write::EventTo { event, endpoint } => {
                self.append(scope, event, Some(*endpoint), silenced, due).await?;
            }
            Write::Conflict(conflict) => {
                self.insert(&ConflictRow::new(scope, conflict), Existing::Replaced).await?;
            }
            Write::CloseConflict { payment, id, at } => {
                const CLOSE: &str = "update {schema}.conflicts set closed_at = $5 where merchant = $1 and live = $2 and payment = $3 and id = $4";
                let bound = scoped(scope).and(payment.as_uuid()).and(id.as_uuid()).and(Time(*at));
                let statement = self.sql.text(CLOSE);
                self.fetch(&statement, bound).await?;
            }
            Write::Answer { key, answer } => {
                self.replace(&AnswerRow::new(scope, key, answer)?).await?
            }
            Write::Endpoint(endpoint) => {
                let row = EndpointRow::new(endpoint)?;
                self.put(&row, creation(changes, write)).await?;
            }
            Write::Pause { endpoint, lasts } => self.pause(scope, *endpoint, *lasts).await?,
            Write::Wake { endpoint, payment } => {
                self.wake(scope, *endpoint, *payment, due).await?;
            }
            Write::Delivery { delivery, due_in } => {
                self.replace(&DeliveryRow::new(delivery, *due_in)?).await?;
                due.set(Job::Delivery { scope: scope.clone(), delivery: delivery.id }, *due_in);
            }
            Write::Attempt(attempt) => {
                self.insert(&AttemptRow::new(scope, attempt)?, Existing::Refused).await?;
            }
            Write::ApiKey(key) => {
                let row = ApiKeyRow::new(key)?;
                self.put(&row, creation(changes, write)).await?;
            }
            Write::Consent(consent) => {
                self.put(&ConsentRow::new(consent)?, creation(changes, write)).await?;
            }
            Write::Erase { erasure, customer } => {
                let row = ErasureRow::new(erasure)?;
                self.put(&row, creation(changes, write)).await?;
                let statement = self.sql.text(MARK);
                let bound = scoped(scope).and(erasure.id.as_uuid());
                self.fetch(&statement, bound.and(customer.as_str().to_owned())).await?;
                let statement = self.sql.text(DETACH);
                let bound = scoped(scope).and(erasure.id.as_uuid());
                self.fetch(&statement, bound.and(erasure.customer.0.to_vec())).await?;
            }
            Write::Cursor { consumer, position } => {
                self.put_cursor(changes, write, consumer, *position).await?;
            }
            Write::Audit(row) => {
                self.insert(&AuditLine::new(row)?, Existing::Refused).await?;
            }
            Write::Shield(shield) => self.put_shield(shield).await?,
            Write::Seal(seal) => self.seal(changes, seal).await?,
            _ => return Err(StorageError::Unsupported("this kind of write").into()),
        }
        Ok(())
    }

    /// Inserts a row that a guard says is not there, or replaces one.
    async fn put<R: Target>(&mut self, row: &R, creation: Option<&Guard>) -> Step<()> {
        let existing = if creation.is_some() { Existing::Kept } else { Existing::Replaced };
        match (self.insert(row, existing).await?, creation) {
            (false, Some(guard)) => Err(self.appeared(guard).into()),
            _ => Ok(()),
        }
    }

    /// Somebody inserted a row after its guard was checked. A conflict promises that nothing was written, which a rollback of ours keeps; the
    /// host has to roll back itself.
    fn appeared(&self, guard: &Guard) -> StorageError {
        match self.transaction {
            Whose::Ours => StorageError::Conflict(guard.clone()),
            Whose::TheHosts => StorageError::Unavailable(std::sync::Arc::new(Appeared)),
        }
    }

    /// Inserts a row; whether there is one now that was not there, or was replaced.
    async fn insert<R: Target>(&mut self, row: &R, existing: Existing) -> Step<bool> {
        let key = shape::<R>(existing as u32);
        let statement = self.sql.shape(key, || {
            let mut text = Template::default();
            insert_into::<R>(&mut text);
            text.push("select ");
            values::<R>(&mut text, Inputs::Arguments(2));
            text.push(USES_THE_CLOCK);
            on_existing::<R>(&mut text, existing);
            text.push(" returning 1");
            text
        });
        let mut bound = Bound::new().and(self.offset);
        row.bind(Form::Any, &mut bound);
        Ok(!self.fetch(&statement, bound).await?.is_empty())
    }

    /// Replaces a row that is there.
    async fn replace<R: Target>(&mut self, row: &R) -> Step<()> {
        let statement = self.sql.shape(shape::<R>(3), || {
            let mut text = Template::default();
            update::<R>(&mut text, Inputs::Arguments(2));
            text.push(USES_THE_CLOCK).push(" and ");
            is_the_row::<R>(&mut text, Inputs::Arguments(2));
            text
        });
        let mut bound = Bound::new().and(self.offset);
        row.bind(Form::Any, &mut bound);
        self.fetch(&statement, bound).await?;
        Ok(())
    }

    async fn put_cursor(
        &mut self,
        changes: &Changes,
        write: &Write,
        consumer: &str,
        position: u64,
    ) -> Step<()> {
        const INSERT: &str = "insert into {schema}.cursors (merchant, live, consumer, position) values ($1, $2, $3, $4) \
             on conflict do nothing returning 1";
        const UPSERT: &str = "insert into {schema}.cursors (merchant, live, consumer, position) values ($1, $2, $3, $4) \
             on conflict (merchant, live, consumer) do update set position = excluded.position returning 1";
        let creation = creation(changes, write);
        let bound = scoped(&changes.scope).and(text(consumer)?.to_owned()).and(count(position)?);
        let template = if creation.is_some() { INSERT } else { UPSERT };
        match (self.exists(template, bound).await?, creation) {
            (false, Some(guard)) => Err(self.appeared(guard).into()),
            _ => Ok(()),
        }
    }

    async fn put_shield(&mut self, shield: &Shield) -> Step<()> {
        const SHIELD: &str = "update {schema}.shield set version = $1, networks = $2, reasons = $3, created_at = $4, created_by = $5, \
             expires_at = $6, frozen_because = $7, frozen_since = $8, frozen_by = $9 where id = 1";
        let (denied, freeze) = (&shield.denied, shield.freeze.as_ref());
        let reason = |reason: &Reason| text(reason.as_str()).map(str::to_owned);
        let reasons = denied.iter().map(|it| it.reason.as_ref().map(reason).transpose());
        let by = denied.iter().map(|it| text(&it.created_by).map(str::to_owned));
        let bound = Bound::new()
            .and(count(shield.version)?)
            .and(denied.iter().map(|it| it.network.to_string()).collect::<Vec<_>>())
            .and(reasons.collect::<Result<Vec<Option<String>>, _>>()?)
            .and(denied.iter().map(|it| Time(it.created_at)).collect::<Vec<_>>())
            .and(by.collect::<Result<Vec<String>, _>>()?)
            .and(denied.iter().map(|it| it.expires_at.map(Time)).collect::<Vec<_>>())
            .and(freeze.map(|freeze| reason(&freeze.reason)).transpose()?)
            .and(freeze.map(|freeze| Time(freeze.since)))
            .and(freeze.map(|freeze| text(&freeze.by).map(str::to_owned)).transpose()?);
        let statement = self.sql.text(SHIELD);
        self.fetch(&statement, bound).await?;
        Ok(())
    }

    /// Appends a seal. That its number is the next one was checked; that nobody else took it meanwhile, its key says.
    async fn seal(&mut self, changes: &Changes, seal: &AuditSeal) -> Step<()> {
        const INSERT: &str = "insert into {schema}.audit_seals (merchant, number, previous, through_at, through_id, sealed_at, rows, mac) \
             values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict do nothing returning 1";
        let rows: Vec<u8> = seal.rows.iter().flat_map(|row| row.to_bytes()).collect();
        let bound = Bound::new()
            .and(seal.merchant.as_str())
            .and(count(seal.number)?)
            .and(seal.previous.to_vec())
            .and(Time(seal.through.at))
            .and(seal.through.id)
            .and(Time(seal.sealed_at))
            .and(rows)
            .and(seal.mac.to_vec());
        if self.exists(INSERT, bound).await? {
            return Ok(());
        }
        let guard = changes.guards.iter().find(|guard| matches!(guard, Guard::Seals { .. }));
        let guard = guard.ok_or(StorageError::Unsupported("a seal without its guard"))?;
        Err(self.appeared(guard).into())
    }

    async fn pause(&mut self, scope: &Scope, endpoint: EndpointId, lasts: Duration) -> Step<()> {
        let statement = self.sql.shape(PAUSE_SHAPE, || {
            let mut text = Template::default();
            text.push("update {schema}.").push("endpoints set paused_until = ").push(NOW);
            text.push(
                " + $2 * interval '1 microsecond' where merchant = $3 and live = $4 and id = $5",
            );
            text
        });
        let bound = Bound::new().and(self.offset).and(micros(lasts));
        let bound = bound.and(scope.merchant.as_str()).and(is_live(scope.mode));
        self.fetch(&statement, bound.and(endpoint.as_uuid())).await?;
        Ok(())
    }

    /// Makes the earliest pending delivery of a payment to an endpoint due.
    async fn wake(
        &mut self,
        scope: &Scope,
        endpoint: EndpointId,
        payment: PaymentId,
        due: &mut Due,
    ) -> Step<()> {
        let statement = self.sql.shape(WAKE_SHAPE, || {
            let mut text = Template::default();
            text.push("update {schema}.").push("deliveries set due_at = ").push(NOW);
            text.push(
                ", claimed_until = null, claim_fence = null, claims = 0 where merchant = $2 and live = $3 and endpoint = $4 \
                 and buried is null and event = (select d.event from {schema}.events y cross join lateral \
                 (select z.event, z.state from {schema}.deliveries z where z.merchant = y.merchant and z.live = y.live \
                 and z.event = y.id and z.endpoint = $4 limit 1) d \
                 where y.merchant = $2 and y.live = $3 and y.payment = $5 and d.state = 'pending' order by y.sequence limit 1) \
                 returning event",
            );
            text
        });
        let bound = Bound::new().and(self.offset).and(scope.merchant.as_str());
        let bound = bound.and(is_live(scope.mode)).and(endpoint.as_uuid()).and(payment.as_uuid());
        for row in self.fetch(&statement, bound).await? {
            let delivery = DeliveryId::new(EventId::from_uuid(row.try_get(0)?), endpoint);
            due.set(Job::Delivery { scope: scope.clone(), delivery }, Some(Duration::ZERO));
        }
        Ok(())
    }

    /// Appends an event and its deliveries.
    async fn append(
        &mut self,
        scope: &Scope,
        event: &Event,
        only: Option<EndpointId>,
        silenced: &[Uuid],
        due: &mut Due,
    ) -> Step<()> {
        self.insert(&EventRow::new(event)?, Existing::Refused).await?;
        let statement = self.sql.shape(DELIVER_SHAPE, || {
            let mut text = Template::default();
            text.push(
                "insert into {schema}.deliveries (merchant, live, event, endpoint, event_type, payment, state, attempts, \
                 attempts_total, version, created_at, updated_at, due_at) \
                 select $2, $3, $4, w.id, $5, $6, 'pending', 0, 0, 1, $7, $7, ",
            )
            .push(NOW)
            .push(
                " from {schema}.endpoints w where w.merchant = $2 and w.live = $3 and w.status = 'enabled' \
                 and not (w.id = any ($8)) and case when $9::uuid is null then cardinality(w.filters) = 0 \
                 or w.filters && array['*', $5, split_part($5, '.', 1) || '.*'] else w.id = $9 end \
                 returning event, endpoint",
            );
            text
        });
        let bound = Bound::new()
            .and(self.offset)
            .and(scope.merchant.as_str())
            .and(is_live(scope.mode))
            .and(event.id.as_uuid())
            .and(event.event_type.as_str())
            .and(event.payment.map(|id| id.as_uuid()))
            .and(Time(event.created_at))
            .and(silenced.to_vec())
            .and(only.map(|id| id.as_uuid()));
        for row in self.fetch(&statement, bound).await? {
            let (event, endpoint): (Uuid, Uuid) = (row.try_get(0)?, row.try_get(1)?);
            let id = DeliveryId::new(EventId::from_uuid(event), EndpointId::from_uuid(endpoint));
            let job = Job::Delivery { scope: scope.clone(), delivery: id };
            due.set(job, Some(Duration::ZERO));
        }
        Ok(())
    }
}

/// The first two arguments of a statement that asks for no time: merchant and mode.
pub(crate) fn scoped(scope: &Scope) -> Bound {
    Bound::new().and(scope.merchant.as_str()).and(is_live(scope.mode))
}

/// The jobs a commit made due; of several writes of one row the last counts.
#[derive(Debug, Default)]
struct Due(Vec<(Job, Duration)>);

impl Due {
    fn set(&mut self, job: Job, due_in: Option<Duration>) {
        self.0.retain(|(earlier, _)| *earlier != job);
        if let Some(due_in) = due_in {
            self.0.push((job, due_in));
        }
    }
}

/// The guard that says the row of a write is not there yet.
fn creation<'c>(changes: &'c Changes, write: &Write) -> Option<&'c Guard> {
    changes.guards.iter().find(|guard| match (guard, write) {
        (Guard::Payment { id, version: 0 }, Write::Payment(payment)) => payment.id == *id,
        (Guard::Endpoint { id, version: 0 }, Write::Endpoint(endpoint)) => endpoint.id == *id,
        (Guard::ApiKey { id, version: 0 }, Write::ApiKey(key)) => key.id == *id,
        (Guard::Consent { id, version: 0 }, Write::Consent(consent)) => consent.id == *id,
        (Guard::Customer { customer, erasures }, Write::Erase { erasure, .. }) => {
            erasure.customer == *customer && erasure.number == erasures.saturating_add(1)
        }
        (Guard::Cursor { consumer, position: 0 }, Write::Cursor { consumer: moved, .. }) => {
            consumer == moved
        }
        _ => false,
    })
}

/// Where a new operation stands among its payment's: by the version that brings it, and by the order within the commit. `None` when
/// the commit does not say the version.
pub(crate) fn place(changes: &Changes, write: &Write) -> Option<i64> {
    let Write::Operation { operation, .. } = write else { return None };
    let brings = changes.writes.iter().find_map(|other| match other {
        Write::Payment(payment) if payment.id == operation.payment => Some(payment.version),
        _ => None,
    })?;
    let within = changes.writes.iter().position(|other| std::ptr::eq(other, write))?;
    let within = i64::try_from(within).ok()?;
    i64::try_from(brings).ok()?.checked_mul(PLACES)?.checked_add(within)
}

/// Endpoints that a commit disables or deletes.
fn silenced(changes: &Changes) -> Vec<Uuid> {
    let silenced = changes.writes.iter().filter_map(|write| match write {
        Write::Endpoint(endpoint) if endpoint.status != EndpointStatus::Enabled => {
            Some(endpoint.id.as_uuid())
        }
        _ => None,
    });
    silenced.collect()
}

const fn rank(write: &Write) -> u8 {
    match write {
        Write::Payment(_) => 0,
        Write::Answer { .. } | Write::Wake { .. } => 2,
        Write::Endpoint(_) => 3,
        Write::Pause { .. } => 4,
        _ => 1,
    }
}

fn require(is_there: bool, what: &'static str) -> Step<()> {
    if is_there { Ok(()) } else { Err(StorageError::Missing(what).into()) }
}

/// Tells the statements of different tables apart.
fn shape<R: Target>(variant: u32) -> u32 {
    // FNV-1a over the table's name and the number of its inputs: a handful of names, checked by a test to be distinct.
    let mut hash = 0x811c_9dc5_u32;
    for byte in R::TABLE.bytes().chain([u8::try_from(R::COLUMNS.len()).unwrap_or(u8::MAX)]) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    STEP_SHAPES | (hash & 0x0fff_fff0) | variant
}

/// Some of these statements have no use for the clock's offset, but an argument that is nowhere in its statement is refused.
const USES_THE_CLOCK: &str = " where $1::bigint is not null";
/// More than the writes of a commit.
const PLACES: i64 = 128;
const ONE_PREFIX: &str = "two API keys with one prefix";
/// Statements of this file have this bit.
const STEP_SHAPES: u32 = 0x8000_0000;
const DELIVER_SHAPE: u32 = 0x8000_0005;
const PAUSE_SHAPE: u32 = 0x8000_0006;
const WAKE_SHAPE: u32 = 0x8000_0007;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_statement_has_a_shape_of_its_own() {
        let tables = [
            shape::<PaymentRow<'_>>(0),
            shape::<OperationRow<'_>>(0),
            shape::<EventRow<'_>>(0),
            shape::<ClaimRow<'_>>(0),
            shape::<AnswerRow<'_>>(0),
            shape::<ConflictRow<'_>>(0),
            shape::<EndpointRow<'_>>(0),
            shape::<DeliveryRow<'_>>(0),
            shape::<AttemptRow<'_>>(0),
            shape::<ApiKeyRow<'_>>(0),
            shape::<AuditLine<'_>>(0),
            shape::<ErasureRow<'_>>(0),
            shape::<ConsentRow<'_>>(0),
            DELIVER_SHAPE & !0xf,
        ];
        assert_eq!(tables.iter().collect::<BTreeSet<_>>().len(), tables.len());
        assert!(tables.iter().all(|shape| shape & 0xf == 0), "room for what is done to the row");
    }
}
