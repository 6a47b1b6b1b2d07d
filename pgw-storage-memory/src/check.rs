//! What must hold before a commit is applied. Reads the tables and changes nothing.

use pgw_core::changes::{Changes, Committed, Guard, Write};
use pgw_core::event::Event;
use pgw_core::id::{OperationId, PaymentId};
use pgw_core::idempotency::KeyClaim;
use pgw_core::storage::StorageError;

use crate::rows::NO_SEQUENCE;
use crate::tables::{ROWS_MAX, Tables, at};

/// What becomes of a commit that is no mistake.
#[derive(Debug)]
pub(crate) enum Check {
    /// Everything holds: it is to be applied, and nothing can go wrong any more.
    Apply,
    /// Its key was claimed before: this is its answer.
    Answered(Committed),
}

impl Tables {
    /// Judges a commit: its key first, if that was claimed before; then its guards; then what its writes refer to; then the
    /// room there is.
    ///
    /// # Errors
    /// The [`StorageError`] the commit ends with.
    pub(crate) fn check_all(&self, changes: &Changes) -> Result<Check, StorageError> {
        let scope = self.scope_number(&changes.scope);
        if let Some(answer) = self.check_claim(scope, changes.claim.as_ref())? {
            return Ok(Check::Answered(answer));
        }
        if let Some(failed) = changes.guards.iter().find(|guard| !self.holds(scope, changes, guard))
        {
            return Err(StorageError::Conflict(failed.clone()));
        }
        for (position, write) in changes.writes.iter().enumerate() {
            self.check_write(scope, changes, position, write)?;
        }
        self.check_room(scope, changes)?;
        Ok(Check::Apply)
    }

    fn check_claim(
        &self,
        scope: Option<u32>,
        claim: Option<&KeyClaim>,
    ) -> Result<Option<Committed>, StorageError> {
        let (Some(scope), Some(claim)) = (scope, claim) else { return Ok(None) };
        let Some(earlier) = self.claim(scope, &claim.key) else { return Ok(None) };
        if earlier.fingerprint != claim.fingerprint {
            return Err(StorageError::KeyReused);
        }
        let target = self.target(&earlier.target);
        Ok(Some(match self.answer_of(earlier) {
            Some(answer) => Committed::Replayed { target, answer },
            None => Committed::InFlight { target },
        }))
    }

    fn holds(&self, scope: Option<u32>, changes: &Changes, guard: &Guard) -> bool {
        let found = |version: Option<u64>| version.unwrap_or(0);
        match guard {
            Guard::Payment { id, version } => {
                let row = scope.and_then(|scope| self.find_payment(scope, *id));
                found(row.map(|row| self.payments[at(row)].version)) == *version
            }
            Guard::Delivery { id, version } => {
                let row = scope.and_then(|scope| self.find_delivery(scope, *id));
                row.is_some_and(|row| self.deliveries[at(row)].delivery.version == *version)
            }
            Guard::Endpoint { id, version } => {
                let row = scope.and_then(|scope| self.endpoint_ids.get(&(scope, *id)));
                found(row.map(|row| self.endpoints[at(*row)].version)) == *version
            }
            Guard::ApiKey { id, version } => {
                let row = scope.and_then(|scope| self.api_keys.get(&(scope, *id)));
                found(row.map(|row| row.version)) == *version
            }
            Guard::Customer { customer, erasures } => {
                scope.map_or(0, |scope| self.erasures.count(scope, *customer)) == *erasures
            }
            Guard::Consent { id, version } => {
                let row = scope.and_then(|scope| self.erasures.consents.get(&(scope, *id)));
                found(row.map(|row| row.version)) == *version
            }
            Guard::Cursor { consumer, position } => {
                let cursors = scope.map(|scope| &self.scopes[at(scope)].cursors);
                found(cursors.and_then(|cursors| cursors.get(consumer)).copied()) == *position
            }
            Guard::Shield { version } => self.shield.version == *version,
            Guard::Seals { last } => {
                let chain = self.seals.get(&changes.scope.merchant);
                chain.map_or(0, Vec::len) as u64 == *last
            }
            // A guard that this backend does not know cannot be said to hold.
            _ => false,
        }
    }

    fn check_write(
        &self,
        scope: Option<u32>,
        changes: &Changes,
        position: usize,
        write: &Write,
    ) -> Result<(), StorageError> {
        match write {
            Write::Payment(payment) if payment.sequence >= u64::from(NO_SEQUENCE) => {
                Err(StorageError::Unsupported("a payment with billions of events"))
            }
            Write::Payment(_)
            | Write::Endpoint(_)
            | Write::Wake { .. }
            | Write::Erase { .. }
            | Write::Consent(_)
            | Write::Cursor { .. }
            | Write::Audit(_)
            | Write::Shield(_)
            | Write::Seal(_) => Ok(()),
            Write::Pause { endpoint, .. } => {
                let stored = scope.and_then(|scope| self.endpoint_ids.get(&(scope, *endpoint)));
                let written = changes
                    .writes
                    .iter()
                    .any(|other| matches!(other, Write::Endpoint(one) if one.id == *endpoint));
                require(stored.is_some() || written, "endpoint")
            }
            Write::Operation { operation, .. } => {
                self.check_payment(scope, changes, operation.payment)?;
                let row = scope.and_then(|scope| self.find_operation(scope, operation.id));
                let owner = row.map(|row| self.payments[at(self.operations[at(row)].payment)].id);
                let is_its_own = owner.is_none_or(|owner| owner == operation.payment);
                require(is_its_own, "operation of this payment")
            }
            Write::Event(event) => self.check_event(scope, changes, position, event),
            Write::EventTo { event, endpoint } => {
                let row = scope.and_then(|scope| self.endpoint_ids.get(&(scope, *endpoint)));
                require(row.is_some(), "endpoint")?;
                self.check_event(scope, changes, position, event)
            }
            Write::Conflict(conflict) => {
                self.check_payment(scope, changes, conflict.payment)?;
                self.check_operation(scope, changes, conflict.operation)
            }
            Write::CloseConflict { payment, id, .. } => {
                let row = scope.and_then(|scope| self.find_payment(scope, *payment));
                let stored = row.is_some_and(|row| self.has_conflict(row, *id));
                let written = changes.writes[..position].iter().any(|other| {
                    matches!(other, Write::Conflict(one) if one.id == *id && one.payment == *payment)
                });
                require(stored || written, "conflict")
            }
            Write::Answer { key, .. } => {
                let claim = scope.and_then(|scope| self.claim(scope, key));
                require(claim.is_some(), "idempotency key")
            }
            Write::Delivery { delivery, .. } => {
                let row = scope.and_then(|scope| self.find_delivery(scope, delivery.id));
                require(row.is_some(), "delivery")
            }
            Write::Attempt(attempt) => {
                let row = scope.and_then(|scope| self.find_delivery(scope, attempt.delivery));
                require(row.is_some(), "delivery")
            }
            Write::ApiKey(key) => {
                let taken = self.api_key_prefixes.get(&key.prefix);
                let own = taken.is_none_or(|owner| Some(owner.0) == scope && owner.1 == key.id);
                let twice = changes.writes[..position].iter().any(|other| {
                    matches!(other, Write::ApiKey(one) if one.prefix == key.prefix && one.id != key.id)
                });
                if own && !twice {
                    return Ok(());
                }
                Err(StorageError::Unsupported("two API keys cannot have one prefix"))
            }
            _ => Err(StorageError::Unsupported("this kind of write")),
        }
    }

    fn check_event(
        &self,
        scope: Option<u32>,
        changes: &Changes,
        position: usize,
        event: &Event,
    ) -> Result<(), StorageError> {
        if let Some(payment) = event.payment {
            self.check_payment(scope, changes, payment)?;
        }
        if event.sequence.is_some_and(|sequence| sequence >= u64::from(NO_SEQUENCE)) {
            return Err(StorageError::Unsupported("a payment with billions of events"));
        }
        let twice = changes.writes[..position].iter().any(|other| match other {
            Write::Event(other) | Write::EventTo { event: other, .. } => other.id == event.id,
            _ => false,
        });
        if twice || scope.and_then(|scope| self.find_event(scope, event.id)).is_some() {
            return Err(StorageError::Unsupported("an event is appended once"));
        }
        Ok(())
    }

    fn check_payment(
        &self,
        scope: Option<u32>,
        changes: &Changes,
        id: PaymentId,
    ) -> Result<(), StorageError> {
        let stored = || scope.and_then(|scope| self.find_payment(scope, id)).is_some();
        let written = changes
            .writes
            .iter()
            .any(|write| matches!(write, Write::Payment(payment) if payment.id == id));
        require(written || stored(), "payment")
    }

    fn check_operation(
        &self,
        scope: Option<u32>,
        changes: &Changes,
        id: OperationId,
    ) -> Result<(), StorageError> {
        let stored = || scope.and_then(|scope| self.find_operation(scope, id)).is_some();
        let written = changes
            .writes
            .iter()
            .any(|write| matches!(write, Write::Operation { operation, .. } if operation.id == id));
        require(written || stored(), "operation")
    }

    fn check_room(&self, scope: Option<u32>, changes: &Changes) -> Result<(), StorageError> {
        let is_new = |id| scope.is_none_or(|scope| self.find_payment(scope, id).is_none());
        let new = changes
            .writes
            .iter()
            .filter(|write| matches!(write, Write::Payment(payment) if is_new(payment.id)));
        let new = new.count();
        if new > 0 && self.payments.len().saturating_add(new) > self.payments_max {
            return Err(StorageError::Full { what: "payments", max: self.payments_max });
        }
        let tables = [
            ("operations", self.operations.len()),
            ("events", self.events.len()),
            ("deliveries", self.deliveries.len()),
            ("idempotency keys", self.keys.len()),
            ("endpoints", self.endpoints.len()),
            ("audit rows", self.audit.len()),
            ("erasures", self.erasures.rows.len()),
            ("merchants", self.scopes.len()),
        ];
        match tables.into_iter().find(|(_, rows)| *rows >= ROWS_MAX) {
            Some((what, _)) => Err(StorageError::Full { what, max: ROWS_MAX }),
            None => Ok(()),
        }
    }
}

const fn require(there: bool, what: &'static str) -> Result<(), StorageError> {
    if there { Ok(()) } else { Err(StorageError::Missing(what)) }
}
