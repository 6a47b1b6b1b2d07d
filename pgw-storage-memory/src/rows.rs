//! Rows of events, keys, deliveries and the audit log, without what other rows hold already.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use pgw_core::access::{Actor, AuditAction, AuditChange, AuditObject, AuditOutcome, AuditRow};
use pgw_core::event::{Event, EventType};
use pgw_core::id::{AuditId, DeliveryId, EventId, PaymentId};
use pgw_core::idempotency::{Fingerprint, IdempotencyKey, KeyTarget};
use pgw_core::page::Cursor;
use pgw_core::scope::Scope;
use pgw_core::timestamp::Timestamp;
use pgw_core::webhook::{Attempt, Delivery};

use crate::payment_row::{Due, NONE};

/// An event: scope and payment are numbers, and its place in the feed is one.
pub(crate) struct EventRow {
    pub(crate) id: EventId,
    pub(crate) scope: u32,
    /// The payment's row, or [`NONE`].
    pub(crate) payment: u32,
    /// The payment's next event.
    pub(crate) next: u32,
    /// Its place in the feed, 0 as long as it has none.
    pub(crate) position: u32,
    pub(crate) event_type: EventType,
    pub(crate) body: Bytes,
    sequence: u32,
    created_at: Timestamp,
}

impl EventRow {
    pub(crate) fn new(event: Event, scope: u32, payment: u32) -> Self {
        Self {
            id: event.id,
            scope,
            payment,
            next: NONE,
            position: 0,
            event_type: event.event_type,
            body: event.body,
            sequence: event
                .sequence
                .and_then(|sequence| u32::try_from(sequence).ok())
                .unwrap_or(NO_SEQUENCE),
            created_at: event.created_at,
        }
    }

    pub(crate) fn sequence(&self) -> Option<u64> {
        (self.sequence != NO_SEQUENCE).then_some(u64::from(self.sequence))
    }

    pub(crate) fn event(&self, scope: &Scope, payment: Option<PaymentId>) -> Event {
        Event {
            id: self.id,
            scope: scope.clone(),
            event_type: self.event_type,
            payment,
            sequence: self.sequence(),
            created_at: self.created_at,
            body: self.body.clone(),
            feed_position: (self.position != 0).then_some(u64::from(self.position)),
        }
    }
}

/// An idempotency key that was claimed, or that an operation names.
pub(crate) struct KeyRow {
    pub(crate) scope: u32,
    pub(crate) key: IdempotencyKey,
    pub(crate) claim: Option<ClaimRow>,
}

pub(crate) struct ClaimRow {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) target: Target,
    pub(crate) created_at: Timestamp,
    pub(crate) answer: Option<AnswerRow>,
    /// A purge went by it, so an answer that comes now is listed apart.
    pub(crate) is_passed: bool,
}

/// What a key stands for: rows, when they are there.
pub(crate) enum Target {
    Rows {
        /// The payment's row.
        payment: u32,
        /// The operation's row.
        operation: u32,
    },
    Other(Box<KeyTarget>),
}

/// An answer.
pub(crate) enum AnswerRow {
    /// Part of an event's body, as answers made with their event are.
    InEvent {
        status: u16,
        /// The event's row.
        event: u32,
        start: u32,
        len: u32,
    },
    Own {
        status: u16,
        body: Box<Bytes>,
    },
}

impl AnswerRow {
    /// The answer as part of the event's body, when they lie in it.
    pub(crate) fn within(status: u16, body: &Bytes, event: u32, whole: &Bytes) -> Option<Self> {
        let start = body.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
        let end = start.checked_add(body.len())?;
        if body.is_empty() || end > whole.len() {
            return None;
        }
        let (start, len) = (u32::try_from(start).ok()?, u32::try_from(body.len()).ok()?);
        Some(Self::InEvent { status, event, start, len })
    }
}

/// A delivery with the log of its attempts.
#[derive(Debug)]
pub(crate) struct DeliveryRow {
    pub(crate) delivery: Delivery,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) due: Due,
    /// The event's row.
    pub(crate) event: u32,
    /// The endpoint's row.
    pub(crate) endpoint: u32,
}

impl DeliveryRow {
    pub(crate) fn place(&self) -> Cursor {
        let id = self.delivery.id;
        Cursor {
            at: self.delivery.created_at,
            id: id.event().as_uuid(),
            tie: id.endpoint().as_uuid(),
        }
    }
}

/// An audit row: its scope is a number, and what a creation by the host itself does not have is apart.
#[derive(Debug)]
pub(crate) struct AuditEntry {
    id: AuditId,
    at: Timestamp,
    scope: u32,
    action: AuditAction,
    outcome: AuditOutcome,
    object: Object,
    who: Option<Box<Who>>,
}

#[derive(Debug)]
struct Who {
    actor: Actor,
    origin: Option<IpAddr>,
    request_id: Option<Arc<str>>,
    changes: Box<[AuditChange]>,
}

/// What was acted on: mostly a payment that is there.
#[derive(Debug)]
enum Object {
    /// The payment's row.
    Payment(u32),
    Other(Box<AuditObject>),
}

impl AuditEntry {
    /// The row of an audit row; `payment` is the row of the payment that it is about, when there is one.
    pub(crate) fn new(row: AuditRow, scope: u32, payment: Option<u32>) -> Self {
        let is_host = row.actor == Actor::Host && row.origin.is_none() && row.request_id.is_none();
        let is_plain = is_host && row.changes.is_empty();
        Self {
            id: row.id,
            at: row.at,
            scope,
            action: row.action,
            outcome: row.outcome,
            object: match payment {
                Some(payment) => Object::Payment(payment),
                None => Object::Other(Box::new(row.object)),
            },
            who: (!is_plain).then(|| {
                Box::new(Who {
                    actor: row.actor,
                    origin: row.origin,
                    request_id: row.request_id,
                    changes: row.changes,
                })
            }),
        }
    }

    pub(crate) const fn scope(&self) -> u32 {
        self.scope
    }

    pub(crate) fn row(&self, scope: &Scope, payment_id: impl Fn(u32) -> PaymentId) -> AuditRow {
        let who = self.who.as_deref();
        AuditRow {
            id: self.id,
            scope: scope.clone(),
            at: self.at,
            actor: who.map_or(Actor::Host, |who| who.actor.clone()),
            action: self.action,
            outcome: self.outcome,
            origin: who.and_then(|who| who.origin),
            object: match &self.object {
                Object::Payment(row) => AuditObject::Payment(payment_id(*row)),
                Object::Other(object) => (**object).clone(),
            },
            request_id: who.and_then(|who| who.request_id.clone()),
            changes: who.map(|who| who.changes.clone()).unwrap_or_default(),
        }
    }

    pub(crate) fn place(&self) -> Cursor {
        Cursor::new(self.at, self.id.as_uuid())
    }
}

/// The key of a delivery's row.
pub(crate) type DeliveryKey = (u32, DeliveryId);

/// Stands for no sequence. Events are counted from 1, and those with a number that gets this far are refused.
pub(crate) const NO_SEQUENCE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payment_row::{OperationRow, PaymentRow};

    #[test]
    fn rows_stay_small() {
        // A million payments are to fit in 2 GiB with their bodies; these are what one costs.
        assert!(size_of::<PaymentRow>() <= 240, "{}", size_of::<PaymentRow>());
        assert!(size_of::<OperationRow>() <= 96, "{}", size_of::<OperationRow>());
        assert!(size_of::<EventRow>() <= 80, "{}", size_of::<EventRow>());
        assert!(size_of::<KeyRow>() <= 104, "{}", size_of::<KeyRow>());
        assert!(size_of::<AuditEntry>() <= 56, "{}", size_of::<AuditEntry>());
    }

    #[test]
    fn an_answer_is_within_the_body_it_was_cut_from_and_no_other() {
        let whole = Bytes::from(b"{\"data\":{\"a\":1}}".to_vec());
        let part = whole.slice(8..15);
        let found = AnswerRow::within(201, &part, 3, &whole);
        assert!(matches!(
            found,
            Some(AnswerRow::InEvent { status: 201, event: 3, start: 8, len: 7 })
        ));
        let copy = Bytes::copy_from_slice(&part);
        assert!(AnswerRow::within(201, &copy, 3, &whole).is_none());
        assert!(AnswerRow::within(201, &whole, 3, &part).is_none(), "larger than the body");
        assert!(AnswerRow::within(201, &Bytes::new(), 3, &whole).is_none());
    }
}
