//! The same histories on memory and on PostgreSQL give the same answers and the same data.

use std::time::Duration;

use pgw_core::access::AuditObject;
use pgw_core::changes::{Changes, Committed, Guard, Write};
use pgw_core::event::EventType;
use pgw_core::id::DeliveryId;
use pgw_core::idempotency::KeyClaim;
use pgw_core::page::{PageFrom, PageRequest};
use pgw_core::payment::{OperationKind, OperationState, Payment, PaymentStatus};
use pgw_core::scope::Mode;
use pgw_core::storage::{AuditFilter, DeliveryFilter, PaymentFilter, Storage, StorageError};
use pgw_core::testing::sample::{Creation, Samples, reason, scope};
use pgw_core::timestamp::Timestamp;
use pgw_core::webhook::{Delivery, DeliveryState, Endpoint, EndpointStatus};
use pgw_storage_memory::MemoryStorage;

use crate::fixtures::{Leg, Under};
use crate::world::HEALTHY;

/// How many histories a leg gets, and how long each is.
const HISTORIES: u64 = 250;
const OPERATIONS: usize = 60;

/// What a history has made so far, to be referred to later, rightly or wrongly.
struct History {
    samples: Samples,
    creations: Vec<Creation>,
    payments: Vec<Payment>,
    claims: Vec<KeyClaim>,
    endpoints: Vec<Endpoint>,
    deliveries: Vec<Delivery>,
    cursor: u64,
}

impl History {
    fn new(seed: u64) -> Self {
        let samples = Samples::new(seed);
        let mode = if seed.is_multiple_of(2) { Mode::Test } else { Mode::Live };
        let samples = samples.of(scope(&format!("m{seed}"), mode));
        let (creations, payments, claims) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            samples,
            creations,
            payments,
            claims,
            endpoints: Vec::new(),
            deliveries: Vec::new(),
            cursor: 0,
        }
    }

    fn chance(&self, of: u64) -> u64 {
        self.samples.env().u64() % of
    }

    fn any<'a, T>(&self, from: &'a [T]) -> Option<&'a T> {
        let count = u64::try_from(from.len()).ok().filter(|count| *count > 0)?;
        from.get(usize::try_from(self.chance(count)).ok()?)
    }

    /// The next commit: mostly one that works, often one that must be refused.
    fn next(&mut self) -> Changes {
        match self.chance(12) {
            0 | 1 => self.creation(),
            2 | 3 => self.keyed_creation(),
            4 | 5 => self.revision(),
            6 => self.endpoint(),
            7 => self.delivery(),
            8 => self.answer(),
            9 => self.conflict(),
            10 => self.cursor(),
            _ => self.again(),
        }
    }

    fn empty(&self) -> Changes {
        Changes::new(self.samples.scope().clone())
    }

    fn creation(&mut self) -> Changes {
        let mut creation = self.samples.creation();
        creation.due_in = [None, Some(Duration::ZERO), Some(Duration::from_secs(3_600))]
            [usize::try_from(self.chance(3)).unwrap_or(0)];
        let row = self.samples.audit_row(AuditObject::Payment(creation.payment.id));
        let changes = creation.changes().write(Write::Audit(Box::new(row)));
        self.payments.push(creation.payment.clone());
        self.creations.push(creation);
        changes
    }

    fn keyed_creation(&mut self) -> Changes {
        let mut creation = self.samples.creation();
        let known = if self.chance(2) == 0 { self.any(&self.claims).cloned() } else { None };
        let claim = match known {
            // The same request again, or another one under its key.
            Some(mut claim) => {
                claim.fingerprint.0[0] ^= u8::try_from(self.chance(2)).unwrap_or(0);
                claim
            }
            None => {
                let answer = (self.chance(2) == 0).then(|| self.samples.answer());
                KeyClaim { answer, ..self.samples.claim(creation.target()) }
            }
        };
        let changes = creation.keyed(claim.clone());
        self.claims.push(claim);
        self.payments.push(creation.payment.clone());
        self.creations.push(creation);
        changes
    }

    fn revision(&mut self) -> Changes {
        let Some(before) = self.any(&self.payments).cloned() else { return self.creation() };
        let (mut next, event) = self.samples.moved(&before, EventType::PaymentProcessing);
        next.status = PaymentStatus::ALL[usize::try_from(self.chance(12)).unwrap_or(0)];
        let kind = OperationKind::ALL[usize::try_from(self.chance(5)).unwrap_or(0)];
        let mut operation = self.samples.operation(&next, kind);
        operation.state = OperationState::ALL[usize::try_from(self.chance(7)).unwrap_or(0)];
        let changes = self
            .empty()
            .guard(Guard::Payment { id: before.id, version: before.version })
            .write(Write::Payment(Box::new(next.clone())))
            .write(Write::Operation { operation: Box::new(operation), due_in: None })
            .write(Write::Event(Box::new(event)));
        self.payments.push(next);
        changes
    }

    fn endpoint(&mut self) -> Changes {
        if self.chance(2) == 0 || self.endpoints.is_empty() {
            let filters: [&[&str]; 4] =
                [&[], &["*"], &["payment.*"], &["refund.*", "payment.created"]];
            let filters = filters[usize::try_from(self.chance(4)).unwrap_or(0)];
            let endpoint = self.samples.endpoint_for(filters);
            let guard = Guard::Endpoint { id: endpoint.id, version: 0 };
            self.endpoints.push(endpoint.clone());
            return self.empty().guard(guard).write(Write::Endpoint(Box::new(endpoint)));
        }
        let before = self.any(&self.endpoints).cloned().unwrap_or_else(|| self.samples.endpoint());
        let status = [
            EndpointStatus::Enabled,
            EndpointStatus::Disabled { reason: reason("gone") },
            EndpointStatus::Deleted,
        ][usize::try_from(self.chance(3)).unwrap_or(0)]
        .clone();
        let next = Endpoint { status, version: before.version + 1, ..before.clone() };
        let event = Box::new(self.samples.event(EventType::TestPing));
        let guard = Guard::Endpoint { id: before.id, version: before.version };
        let changes = self.empty().guard(guard).write(Write::Endpoint(Box::new(next.clone())));
        self.endpoints.push(next);
        match self.chance(3) {
            0 => changes.write(Write::EventTo { event, endpoint: before.id }),
            1 => changes.write(Write::Event(event)),
            _ => changes,
        }
    }

    fn delivery(&mut self) -> Changes {
        let Some(before) = self.any(&self.deliveries).cloned() else { return self.creation() };
        let mut next = before.clone();
        next.version += 1;
        next.attempts += 1;
        next.attempts_total += 1;
        if self.chance(2) == 0 {
            next.state = DeliveryState::Delivered;
        }
        let attempt = self.samples.attempt(next.id, next.attempts_total);
        self.deliveries.push(next.clone());
        self.empty()
            .guard(Guard::Delivery { id: before.id, version: before.version })
            .write(Write::Delivery {
                delivery: Box::new(next),
                due_in: Some(Duration::from_secs(60)),
            })
            .write(Write::Attempt(Box::new(attempt)))
    }

    fn answer(&self) -> Changes {
        let unknown = self.samples.key();
        let key = self.any(&self.claims).map_or(unknown, |claim| claim.key.clone());
        self.empty().write(Write::Answer { key, answer: self.samples.answer() })
    }

    fn conflict(&self) -> Changes {
        let Some(creation) = self.any(&self.creations) else { return self.empty() };
        let conflict = self.samples.conflict(&creation.charge);
        let close = Write::CloseConflict {
            payment: conflict.payment,
            id: conflict.id,
            at: self.samples.now(),
        };
        let changes = self.empty().write(Write::Conflict(Box::new(conflict)));
        if self.chance(2) == 0 { changes.write(close) } else { changes }
    }

    fn cursor(&mut self) -> Changes {
        let position = if self.chance(3) == 0 { 99 } else { self.cursor };
        let changes = self
            .empty()
            .guard(Guard::Cursor { consumer: "mail".into(), position })
            .write(Write::Cursor { consumer: "mail".into(), position: position + 1 });
        if position == self.cursor {
            self.cursor += 1;
        }
        changes
    }

    /// Something that was committed before, once more.
    fn again(&self) -> Changes {
        self.any(&self.creations).map_or_else(|| self.empty(), Creation::changes)
    }
}

/// An outcome as text, without the parts in which backends may differ.
fn shown(outcome: &Result<Committed, StorageError>) -> String {
    match outcome {
        Ok(Committed::Applied { due, .. }) => {
            let mut due = due.clone();
            due.sort();
            format!("applied {due:?}")
        }
        Ok(Committed::Replayed { target, answer }) => {
            format!("replayed {target:?} {} {:?}", answer.status, answer.body)
        }
        Ok(Committed::InFlight { target }) => format!("in flight {target:?}"),
        Err(StorageError::Unsupported(_)) => "unsupported".to_owned(),
        Err(error) => format!("{error:?}"),
    }
}

/// Everything there is of a history's scope, read through the trait.
async fn dump(storage: &dyn Storage, history: &History) -> String {
    let scope = history.samples.scope();
    let mut text = String::new();
    let mut line = |parts: std::fmt::Arguments<'_>| {
        use std::fmt::Write as _;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{parts}");
    };
    let mut page = PageRequest::first(7);
    loop {
        let filter = PaymentFilter::default();
        let listed = storage.payments(scope, &filter, page).await.expect(HEALTHY);
        for payment in listed.data {
            let id = payment.id;
            let state = storage.payment(scope, id).await.expect(HEALTHY).expect("it is listed");
            assert_eq!(state.payment, payment, "the list and the payment differ");
            line(format_args!("{state:?}"));
            let events = storage.payment_events(scope, id, 0, 1_000).await.expect(HEALTHY);
            for event in events {
                line(format_args!(
                    "{:?} {} {:?} {:?}",
                    event.id, event.event_type, event.sequence, event.body
                ));
            }
            line(format_args!("{:?}", storage.conflicts(scope, id).await.expect(HEALTHY)));
        }
        let Some(cursor) = listed.next_cursor else { break };
        page = PageRequest::first(7).with_from(PageFrom::After(cursor));
    }
    for claim in &history.claims {
        let record = storage.key(scope, &claim.key).await.expect(HEALTHY);
        let claim = record.map(|record| record.claim);
        let body = claim
            .as_ref()
            .and_then(|claim| claim.answer.as_ref())
            .map(|answer| answer.body.clone());
        line(format_args!("{claim:?} {body:?}"));
    }
    let most = PageRequest::first(PageRequest::LIMIT_MAX);
    line(format_args!("{:?}", storage.endpoints(scope, most).await.expect(HEALTHY)));
    for endpoint in &history.endpoints {
        line(format_args!("{:?}", storage.endpoint(scope, endpoint.id).await.expect(HEALTHY)));
    }
    let deliveries =
        storage.deliveries(scope, &DeliveryFilter::default(), most).await.expect(HEALTHY);
    for delivery in &deliveries.data {
        line(format_args!("{delivery:?}"));
        line(format_args!("{:?}", storage.attempts(scope, delivery.id, 99).await.expect(HEALTHY)));
    }
    line(format_args!("{:?}", storage.refunds(scope, None, most).await.expect(HEALTHY)));
    line(format_args!(
        "{:?}",
        storage.audit(&scope.merchant, &AuditFilter::default(), most).await.expect(HEALTHY)
    ));
    line(format_args!("{}", storage.cursor(scope, "mail").await.expect(HEALTHY)));
    text
}

async fn same_on_both(leg: Leg, histories: std::ops::Range<u64>) {
    let under = Under::test(leg).await;
    let (pg, memory) = (&under.storage, MemoryStorage::new());
    let mut applied = 0;
    for seed in histories {
        let mut history = History::new(seed);
        for step in 0..OPERATIONS {
            let changes = history.next();
            let expected = memory.commit(changes.clone()).await;
            let found = pg.commit(changes.clone()).await;
            let at = format!("history {seed}, step {step}: {changes:?}");
            assert_eq!(shown(&found), shown(&expected), "{at}");
            applied += usize::from(matches!(found, Ok(Committed::Applied { .. })));
            if matches!(found, Ok(Committed::Applied { .. })) {
                remember(&mut history, &changes, &memory).await;
            }
        }
        assert_eq!(dump(pg, &history).await, dump(&memory, &history).await, "history {seed}");
    }
    // A check of the histories: most of what they ask for is done, and much is refused.
    let asked = OPERATIONS * usize::try_from(HISTORIES).unwrap_or(0);
    assert!(applied * 10 > asked * 3 && applied < asked, "{applied} of {asked} were applied");
    stamped_alike(pg, &memory).await;
}

/// Keeps the deliveries that a commit made, so that later ones can be about them.
async fn remember(history: &mut History, changes: &Changes, memory: &MemoryStorage) {
    let scope = changes.scope.clone();
    for write in &changes.writes {
        let (Write::Event(event) | Write::EventTo { event, .. }) = write else { continue };
        for endpoint in history.endpoints.clone() {
            let id = DeliveryId::new(event.id, endpoint.id);
            let made = memory.delivery(&scope, id).await.expect(HEALTHY);
            history.deliveries.extend(made.map(|work| work.delivery));
        }
    }
}

/// Both stamp the same number of events, densely, and agree on answers to be purged.
async fn stamped_alike(pg: &dyn Storage, memory: &dyn Storage) {
    let mut counts = [0, 0];
    for (count, storage) in counts.iter_mut().zip([pg, memory]) {
        loop {
            match storage.stamp_events(500).await.expect(HEALTHY) {
                0 => break,
                stamped => *count += stamped,
            }
        }
    }
    assert_eq!(counts[0], counts[1], "events were stamped");
    let purged = |storage: &'static str, count| format!("{storage} purged {count}");
    let (first, second) = (
        pg.purge_answers(Timestamp::MAX, 1_000_000).await,
        memory.purge_answers(Timestamp::MAX, 1_000_000).await,
    );
    assert_eq!(purged("it", first.expect(HEALTHY)), purged("it", second.expect(HEALTHY)));
}

#[tokio::test]
async fn groups_do_what_memory_does() {
    same_on_both(Leg::Pool, 0..HISTORIES).await;
}

#[tokio::test]
async fn steps_do_what_memory_does() {
    same_on_both(Leg::Distributed, HISTORIES..2 * HISTORIES).await;
}
