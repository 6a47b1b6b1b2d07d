//! Every hot commit, the queue, the sequencer and the reaper.

use std::time::Duration;

use pgw_core::access::AuditObject;
use pgw_core::changes::{Changes, Committed, Guard, Write};
use pgw_core::event::EventType;
use pgw_core::page::PageRequest;
use pgw_core::payment::{OperationKind, OperationState};
use pgw_core::queue::{Claim, Lane, Queue as _, Settlement, Verdict};
use pgw_core::scope::Mode;
use pgw_core::storage::{DeliveryFilter, Storage as _};
use pgw_core::testing::sample::{Creation, Samples, scope};
use pgw_core::text::CustomerId;
use pgw_core::timestamp::Timestamp;
use pgw_core::webhook::delivery::{DeliveryState, DeliveryStatus};
use pgw_storage_postgres::PgStorage;

use super::{Watched, load};

/// As many commits as may go into one transaction.
const MANY: usize = 100;
pub(super) const LEASE: Duration = Duration::from_secs(600);

pub(super) async fn all(watched: &mut Watched, seed: u64, groups: bool) {
    for (n, merchant) in (0..).zip([load::LARGE, load::SMALL]) {
        let samples = Samples::new(1_000 * seed + n).of(scope(merchant, Mode::Live));
        payments(watched, &samples).await;
        if groups {
            many(watched, &samples).await;
        }
        deliveries(watched, &samples).await;
        others(watched, &samples).await;
    }
    for lane in Lane::ALL {
        queue(watched, lane).await;
    }
    let stamp = async |it: &PgStorage| it.stamp_events(100).await.expect("a healthy server");
    watched.watch("stamp_events", stamp).await;
    let purge = async |storage: &PgStorage| {
        storage.purge_answers(Timestamp::MAX, 100).await.expect("a healthy server")
    };
    watched.watch("purge_answers", purge).await;
    for (n, merchant) in (0..).zip([load::LARGE, load::SMALL]) {
        let samples = Samples::new(1_000 * seed + 500 + n).of(scope(merchant, Mode::Live));
        erasures(watched, &samples, seed).await;
    }
}

/// What becomes of payments that are there one by one, and many at once.
pub(super) async fn of_payments(watched: &mut Watched, seed: u64) {
    let samples = Samples::new(seed).of(scope(load::LARGE, Mode::Live));
    payments(watched, &samples).await;
    many(watched, &samples).await;
}

/// Erases customers of a few payments each, and rewrites these.
async fn erasures(watched: &mut Watched, samples: &Samples, seed: u64) {
    let mut number = 0;
    let mut customers = Vec::new();
    for _ in 0..2 * super::ROUNDS {
        number += 1;
        let name = format!("gone_{seed}_{number}");
        let customer = CustomerId::parse(&name).expect("a valid id");
        for _ in 0..3 {
            let (mut creation, _) = creation(samples);
            creation.payment.customer.id = Some(customer.clone());
            apply(&watched.storage, creation.changes()).await;
        }
        customers.push(customer);
    }
    let erase = async |pg: &PgStorage| {
        let mut count = 0;
        for customer in customers.pop().into_iter().chain(customers.pop()) {
            let erasure = Box::new(samples.erasure(&customer, 1));
            let guard = Guard::Customer { customer: erasure.customer, erasures: 0 };
            let id = erasure.id;
            let changes = Changes::new(samples.scope().clone())
                .guard(guard)
                .write(Write::Erase { erasure, customer });
            apply(pg, changes).await;
            let found = pg.erasure(samples.scope(), id).await.expect("a healthy server");
            count += usize::try_from(found.expect("it is there").payments).expect("a few");
        }
        count
    };
    watched.watch("erase", erase).await;
    let redact = async |pg: &PgStorage| {
        pg.redact_payments(samples.now(), 6).await.expect("a healthy server")
    };
    watched.watch("redact_payments", redact).await;
    let list = async |pg: &PgStorage| {
        let customer = CustomerId::parse(&format!("gone_{seed}_1")).expect("a valid id");
        let customer = Some(Samples::digest(&customer));
        let page = pg.erasures(samples.scope(), customer, PageRequest::default()).await;
        page.expect("a healthy server").data.len()
    };
    watched.watch("erasures", list).await;
}

async fn apply(storage: &PgStorage, changes: Changes) -> usize {
    let committed = storage.commit(changes).await.expect("a healthy server");
    usize::from(matches!(committed, Committed::Applied { .. }))
}

/// Makes the next version of a payment.
type Step = fn(&Samples, &mut Creation) -> Changes;

/// What becomes of a payment, in this order.
const STEPS: [(&str, Step); 3] =
    [("dispatch", dispatched), ("settle", settled), ("refund", refunded)];

/// A payment that was created under a key.
fn creation(samples: &Samples) -> (Creation, Changes) {
    let mut creation = samples.creation();
    let claim = samples.claim(creation.target());
    let audit = samples.audit_row(AuditObject::Payment(creation.payment.id));
    let changes = creation.keyed(claim).write(Write::Audit(Box::new(audit)));
    (creation, changes)
}

/// The next version of a payment: its charge is sent.
fn dispatched(samples: &Samples, creation: &mut Creation) -> Changes {
    let guard = Guard::Payment { id: creation.payment.id, version: creation.payment.version };
    creation.payment = samples.touched(&creation.payment);
    creation.charge.state = OperationState::Dispatched;
    Changes::new(samples.scope().clone())
        .guard(guard)
        .write(Write::Payment(Box::new(creation.payment.clone())))
        .write(Write::Operation {
            operation: Box::new(creation.charge.clone()),
            due_in: Some(LEASE),
        })
}

/// The next version of a payment: its charge succeeded, and its key has an answer.
fn settled(samples: &Samples, creation: &mut Creation) -> Changes {
    let guard = Guard::Payment { id: creation.payment.id, version: creation.payment.version };
    let (payment, event) = samples.moved(&creation.payment, EventType::PaymentSucceeded);
    creation.payment = payment;
    creation.charge.state = OperationState::Succeeded;
    let key = creation.charge.idempotency_key.clone().expect("it was created under a key");
    let audit = samples.audit_row(AuditObject::Payment(creation.payment.id));
    Changes::new(samples.scope().clone())
        .guard(guard)
        .write(Write::Payment(Box::new(creation.payment.clone())))
        .write(Write::Operation { operation: Box::new(creation.charge.clone()), due_in: None })
        .write(Write::Event(Box::new(event)))
        .write(Write::Answer { key, answer: samples.answer() })
        .write(Write::Audit(Box::new(audit)))
}

/// The next version of a payment: a refund was asked for, under a key.
fn refunded(samples: &Samples, creation: &mut Creation) -> Changes {
    let guard = Guard::Payment { id: creation.payment.id, version: creation.payment.version };
    let (payment, event) = samples.moved(&creation.payment, EventType::RefundCreated);
    let refund = samples.operation(&payment, OperationKind::Refund);
    creation.payment = payment;
    let target = pgw_core::idempotency::KeyTarget::Operation {
        payment: refund.payment,
        operation: refund.id,
    };
    Changes::new(samples.scope().clone())
        .claim(Some(samples.claim(target)))
        .guard(guard)
        .write(Write::Payment(Box::new(creation.payment.clone())))
        .write(Write::Operation { operation: Box::new(refund), due_in: Some(Duration::ZERO) })
        .write(Write::Event(Box::new(event)))
}

async fn payments(watched: &mut Watched, samples: &Samples) {
    let merchant = samples.scope().merchant.clone();
    let mut made = Vec::new();
    let create = async |storage: &PgStorage| {
        let (creation, changes) = creation(samples);
        made.push((creation, changes.clone()));
        apply(storage, changes).await
    };
    watched.watch(&format!("commit of {merchant}: create"), create).await;
    let replays = made.iter().map(|(_, changes)| changes.clone()).collect::<Vec<_>>();
    let mut replays = replays.into_iter().cycle();
    let replay = async |storage: &PgStorage| {
        let again = replays.next().expect("it never ends");
        usize::from(matches!(storage.commit(again).await, Ok(Committed::InFlight { .. })))
    };
    watched.watch(&format!("commit of {merchant}: replay"), replay).await;
    for (what, step) in STEPS {
        let mut n = 0;
        let call = async |storage: &PgStorage| {
            n += 1;
            apply(storage, step(samples, &mut made[n - 1].0)).await
        };
        watched.watch(&format!("commit of {merchant}: {what}"), call).await;
    }
    let lost = async |storage: &PgStorage| {
        let stale = Guard::Payment { id: made[0].0.payment.id, version: 1 };
        let changes = Changes::new(samples.scope().clone()).guard(stale);
        usize::from(storage.commit(changes).await.is_err())
    };
    watched.watch(&format!("commit of {merchant}: conflict"), lost).await;
}

/// All of them at once, so that most are put into one transaction where they are put together.
async fn at_once(storage: &PgStorage, all: Vec<Changes>) -> usize {
    let mut tasks = tokio::task::JoinSet::new();
    for changes in all {
        let storage = storage.clone();
        tasks.spawn(async move { apply(&storage, changes).await });
    }
    tasks.join_all().await.into_iter().sum()
}

async fn many(watched: &mut Watched, samples: &Samples) {
    let merchant = samples.scope().merchant.clone();
    let mut made: Vec<Vec<Creation>> = Vec::new();
    let create = async |storage: &PgStorage| {
        let (creations, changes) = (0..MANY).map(|_| creation(samples)).unzip();
        made.push(creations);
        at_once(storage, changes).await
    };
    watched.watch(&format!("commits of {merchant}: create"), create).await;
    for (what, step) in STEPS {
        let mut n = 0;
        let call = async |storage: &PgStorage| {
            n += 1;
            let changes = made[n - 1].iter_mut().map(|creation| step(samples, creation)).collect();
            at_once(storage, changes).await
        };
        watched.watch(&format!("commits of {merchant}: {what}"), call).await;
    }
}

async fn deliveries(watched: &mut Watched, samples: &Samples) {
    let scope = samples.scope();
    let filter =
        DeliveryFilter { status: Some(DeliveryStatus::Pending), ..DeliveryFilter::default() };
    let pending = watched.storage.deliveries(scope, &filter, PageRequest::first(100)).await;
    let mut pending = pending.expect("a healthy server").data.into_iter();
    let call = async |storage: &PgStorage| {
        let mut delivery = pending.next().expect("more than there are rounds");
        let guard = Guard::Delivery { id: delivery.id, version: delivery.version };
        delivery.version += 1;
        delivery.state = DeliveryState::Delivered;
        delivery.attempts_total += 1;
        let attempt = samples.attempt(delivery.id, delivery.attempts_total);
        let changes = Changes::new(scope.clone())
            .guard(guard)
            .write(Write::Delivery { delivery: Box::new(delivery), due_in: None })
            .write(Write::Attempt(Box::new(attempt)));
        apply(storage, changes).await
    };
    watched.watch(&format!("commit of {}: delivered", scope.merchant), call).await;
}

/// What is done step by step: endpoints, keys, cursors, conflicts.
async fn others(watched: &mut Watched, samples: &Samples) {
    let scope = samples.scope();
    let (of, charge) = {
        let (creation, changes) = creation(samples);
        assert_eq!(apply(&watched.storage, changes).await, 1);
        (creation.payment, creation.charge)
    };
    let changes = || Changes::new(scope.clone());
    let conflict = async |storage: &PgStorage| {
        let conflict = samples.conflict(&charge);
        let close = Write::CloseConflict { payment: of.id, id: conflict.id, at: samples.now() };
        apply(storage, changes().write(Write::Conflict(Box::new(conflict))).write(close)).await
    };
    watched.watch("commit: conflict", conflict).await;
    let key = async |storage: &PgStorage| {
        let key = samples.api_key();
        let guard = Guard::ApiKey { id: key.id, version: 0 };
        apply(storage, changes().guard(guard).write(Write::ApiKey(Box::new(key)))).await
    };
    watched.watch("commit: API key", key).await;
    let key = samples.api_key();
    apply(&watched.storage, changes().write(Write::ApiKey(Box::new(key.clone())))).await;
    let touch = async |storage: &PgStorage| {
        let used_at = samples.now();
        storage.touch_api_key(scope, key.id, used_at).await.expect("a healthy server");
        let touched = storage.api_key_by_id(scope, key.id).await.expect("a healthy server");
        usize::from(touched.is_some_and(|key| key.last_used_at == Some(used_at)))
    };
    watched.watch("touch_api_key", touch).await;
    let shield = async |storage: &PgStorage| {
        let mut shield = storage.shield(None).await.expect("a healthy server").unwrap_or_default();
        let guard = Guard::Shield { version: shield.version };
        shield.version += 1;
        apply(storage, changes().guard(guard).write(Write::Shield(Box::new(shield)))).await
    };
    watched.watch("commit: shield", shield).await;
    let mut position = watched.storage.cursor(scope, "books").await.expect("a healthy server");
    let cursor = async |storage: &PgStorage| {
        let guard = Guard::Cursor { consumer: "books".into(), position };
        position += 1;
        apply(
            storage,
            changes().guard(guard).write(Write::Cursor { consumer: "books".into(), position }),
        )
        .await
    };
    watched.watch("commit: cursor", cursor).await;
    let endpoint = async |storage: &PgStorage| {
        let endpoint = samples.endpoint_for(&["test.ping"]);
        let guard = Guard::Endpoint { id: endpoint.id, version: 0 };
        let ping = Write::EventTo {
            event: Box::new(samples.event(EventType::TestPing)),
            endpoint: endpoint.id,
        };
        apply(storage, changes().guard(guard).write(Write::Endpoint(Box::new(endpoint)))).await
            * apply(storage, changes().write(ping)).await
    };
    watched.watch("commit: endpoint", endpoint).await;
}

async fn queue(watched: &mut Watched, lane: Lane) {
    let mut claims: Vec<Claim> = Vec::new();
    let claim = async |storage: &PgStorage| {
        let more = storage.queue().claim(lane, 6, LEASE).await.expect("a healthy server");
        claims.extend(more.iter().cloned());
        more.len()
    };
    watched.watch(&format!("claim of {lane:?}"), claim).await;
    let extend = async |storage: &PgStorage| {
        let held = storage.queue().extend(&claims, LEASE).await.expect("a healthy server");
        held.into_iter().filter(|held| *held).count()
    };
    watched.watch(&format!("extend of {lane:?}"), extend).await;
    // When there are none left that may be had, every place is looked at where there could be, past all that are out.
    let mut out = claims.len();
    loop {
        let more = watched.storage.queue().claim(lane, 100, LEASE).await;
        match more.expect("a healthy server").len() {
            0 => break,
            more => out += more,
        }
    }
    let none = async |storage: &PgStorage| {
        let more = storage.queue().claim(lane, 6, LEASE).await.expect("a healthy server");
        if more.is_empty() { out } else { 0 }
    };
    watched.watch(&format!("claim of none of {lane:?}"), none).await;
    let verdicts = [
        Verdict::Done,
        Verdict::Release { due_in: LEASE },
        Verdict::Bury { reason: "poison".into() },
    ];
    let mut verdicts = verdicts.into_iter().cycle();
    let settle = async |storage: &PgStorage| {
        let verdict = verdicts.next().expect("it never ends");
        let of_this = claims.split_off(claims.len().saturating_sub(5));
        let settlement = |claim| Settlement { claim, verdict: verdict.clone() };
        let settlements: Vec<_> = of_this.into_iter().map(settlement).collect();
        let held = storage.queue().settle(&settlements).await.expect("a healthy server");
        held.into_iter().filter(|held| *held).count()
    };
    watched.watch(&format!("settle of {lane:?}"), settle).await;
    let buried = async |storage: &PgStorage| {
        storage.queue().buried(lane, 100).await.expect("a healthy server").len()
    };
    watched.watch(&format!("buried of {lane:?}"), buried).await;
}
