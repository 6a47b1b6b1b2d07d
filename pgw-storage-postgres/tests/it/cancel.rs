//! Every future of this crate may be dropped at any await: nothing half, and no connection left inside a transaction.

use std::time::Duration;

use pgw_core::changes::{Changes, Committed, Guard, Write};
use pgw_core::id::DeliveryId;
use pgw_core::notifier::{Hint, Notifier as _};
use pgw_core::page::{Cursor, PageRequest};
use pgw_core::queue::{Lane, Queue as _, Settlement, Verdict};
use pgw_core::storage::{AuditFilter, DeliveryFilter, PaymentFilter, Storage, StorageError};
use pgw_core::testing::sample::{Creation, Samples};
use pgw_core::text::CustomerId;
use pgw_core::timestamp::Timestamp;
use pgw_storage_postgres::sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use pgw_storage_postgres::sqlx::{self, Row as _};
use pgw_storage_postgres::{PgStorage, Schema};

use crate::fixtures::{Leg, connection, prepared_role, schema};
use crate::world::{HEALTHY, dropped_after};

const CONNECTIONS: u32 = 6;

struct Watched {
    pg: PgStorage,
    schema: Schema,
}

impl Watched {
    /// A storage whose connections can be told from all others.
    async fn new(leg: Leg) -> Self {
        let schema = schema().await;
        if leg == Leg::PreparedPooler {
            prepared_role().await;
        }
        let options: PgConnectOptions = leg.url().parse().expect("a valid URL");
        let options = options.application_name(schema.as_str());
        let options =
            if leg == Leg::Pooler { options.statement_cache_capacity(0) } else { options };
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS);
        let pool = pool.connect_with(options).await.expect(HEALTHY);
        let pg = leg.builder(&schema).build(pool).await.expect("the schema was just migrated");
        Self { pg, schema }
    }

    /// Asserts that nothing is left behind: every connection can be had again, and none of them is inside a transaction.
    async fn is_clean(&self) {
        const OPEN: &str =
            "select count(*) from pg_stat_activity where application_name = $1 and state <> 'idle'";
        let mut all = Vec::new();
        for _ in 0..CONNECTIONS {
            all.push(self.pg.pool().acquire().await.expect("a connection was lost"));
        }
        let mut connection = connection().await;
        let open = sqlx::query(OPEN).bind(self.schema.as_str()).fetch_one(&mut connection).await;
        let open: i64 = open.expect(HEALTHY).get(0);
        assert_eq!(open, 0, "a connection was left inside a transaction");
    }
}

/// Polls what `make` makes once, twice, … and drops it, until it ends by itself.
macro_rules! at_every_await {
    ($make:expr) => {{
        let mut polls = 0;
        while dropped_after(polls, $make).await.is_none() {
            polls += 1;
            assert!(polls < 10_000, "it never ends");
        }
        polls
    }};
}

async fn a_dropped_commit_is_whole_or_not_at_all(leg: Leg) {
    let (watched, samples) = (Watched::new(leg).await, Samples::new(1));
    let pg = &watched.pg;
    let endpoint = samples.endpoint();
    let write = Write::Endpoint(Box::new(endpoint.clone()));
    pg.commit(Changes::new(samples.scope().clone()).write(write)).await.expect(HEALTHY);
    let mut polls = 0;
    loop {
        // One of the kind that groups take, and one that is done step by step.
        let (creation, odd) = (samples.creation(), samples.creation());
        let slow = odd.changes().write(Write::Cursor { consumer: "mail".into(), position: 1 });
        let done = dropped_after(polls, pg.commit(creation.changes())).await.is_some();
        let done = dropped_after(polls, pg.commit(slow.clone())).await.is_some() && done;
        for (creation, changes) in [(&creation, creation.changes()), (&odd, slow)] {
            // The server may still be at it, so the only way to know is to ask again.
            match pg.commit(changes).await {
                Ok(Committed::Applied { .. }) | Err(StorageError::Conflict(_)) => {}
                other => panic!("after {polls} polls: {other:?}"),
            }
            is_whole(pg, &samples, creation, DeliveryId::new(creation.event.id, endpoint.id)).await;
        }
        if done {
            break;
        }
        polls += 1;
    }
    watched.is_clean().await;
}

async fn is_whole(pg: &dyn Storage, samples: &Samples, creation: &Creation, delivery: DeliveryId) {
    let (scope, id) = (samples.scope(), creation.payment.id);
    let state = pg.payment(scope, id).await.expect(HEALTHY).expect("it is there");
    assert_eq!(state.operations, std::slice::from_ref(&creation.charge));
    let events = pg.payment_events(scope, id, 0, 10).await.expect(HEALTHY);
    assert_eq!(events.len(), 1);
    assert!(pg.delivery(scope, delivery).await.expect(HEALTHY).is_some());
}

#[tokio::test]
async fn a_dropped_commit_is_whole_or_not_at_all_in_groups() {
    a_dropped_commit_is_whole_or_not_at_all(Leg::Pool).await;
}

#[tokio::test]
async fn a_dropped_commit_is_whole_or_not_at_all_alone() {
    a_dropped_commit_is_whole_or_not_at_all(Leg::Alone).await;
}

#[tokio::test]
async fn a_dropped_commit_is_whole_or_not_at_all_step_by_step() {
    a_dropped_commit_is_whole_or_not_at_all(Leg::Distributed).await;
}

#[tokio::test]
async fn a_dropped_commit_is_whole_or_not_at_all_behind_a_pooler() {
    a_dropped_commit_is_whole_or_not_at_all(Leg::Pooler).await;
}

#[tokio::test]
async fn a_dropped_commit_is_whole_or_not_at_all_behind_a_pooler_that_keeps_statements() {
    a_dropped_commit_is_whole_or_not_at_all(Leg::PreparedPooler).await;
}

async fn dropped_reads_and_sweeps_leave_nothing(leg: Leg) {
    let (watched, samples) = (Watched::new(leg).await, Samples::new(2));
    let (pg, scope) = (&watched.pg, samples.scope());
    let creation = samples.creation();
    pg.commit(creation.changes()).await.expect(HEALTHY);
    let (id, page) = (creation.payment.id, PageRequest::default());
    let claim = samples.loose_claim();
    let delivery = DeliveryId::new(creation.event.id, samples.endpoint().id);
    at_every_await!(pg.payment(scope, id));
    at_every_await!(pg.payment_of(scope, creation.charge.id));
    at_every_await!(pg.payments(scope, &PaymentFilter::default(), page));
    at_every_await!(pg.refunds(scope, None, page));
    at_every_await!(pg.key(scope, &claim.key));
    at_every_await!(pg.conflicts(scope, id));
    at_every_await!(pg.payment_events(scope, id, 0, 9));
    at_every_await!(pg.feed(scope, 0, 9));
    at_every_await!(pg.cursor(scope, "mail"));
    at_every_await!(pg.endpoint(scope, delivery.endpoint()));
    at_every_await!(pg.endpoints(scope, page));
    at_every_await!(pg.delivery(scope, delivery));
    at_every_await!(pg.deliveries(scope, &DeliveryFilter::default(), page));
    at_every_await!(pg.attempts(scope, delivery, 9));
    at_every_await!(pg.due(&creation.job()));
    at_every_await!(pg.due_jobs(Lane::Operations, 9));
    at_every_await!(pg.expired_payments(Timestamp::MAX, 9));
    at_every_await!(pg.api_key(samples.api_key().prefix));
    at_every_await!(pg.api_key_by_id(scope, samples.api_key().id));
    at_every_await!(pg.api_keys(scope, page));
    at_every_await!(pg.touch_api_key(scope, samples.api_key().id, samples.now()));
    at_every_await!(pg.shield(None));
    at_every_await!(pg.audit(&scope.merchant, &AuditFilter::default(), page));
    let end = Cursor::new(Timestamp::MAX, samples.env().uuid());
    at_every_await!(pg.audit_rows(&scope.merchant, None, end, 9));
    at_every_await!(pg.audit_seals(&scope.merchant, 0, 9));
    at_every_await!(pg.audit_tails(None, 9));
    let customer = CustomerId::parse("cust_1").expect("a valid id");
    let erasure = Box::new(samples.erasure(&customer, 1));
    let mark = Changes::new(scope.clone()).write(Write::Erase { erasure, customer });
    at_every_await!(pg.commit(mark.clone()));
    at_every_await!(pg.redact_payments(samples.now(), 1));
    at_every_await!(pg.erasures(scope, None, page));
    at_every_await!(pg.purge_answers(Timestamp::MAX, 9));
    at_every_await!(pg.stamp_events(9));
    let feed = pg.feed(scope, 0, 9).await.expect(HEALTHY);
    assert_eq!(feed.iter().map(|event| event.feed_position).collect::<Vec<_>>(), [Some(1)]);
    watched.is_clean().await;
}

#[tokio::test]
async fn dropped_reads_and_sweeps_leave_nothing_behind() {
    dropped_reads_and_sweeps_leave_nothing(Leg::Pool).await;
}

#[tokio::test]
async fn dropped_reads_and_sweeps_leave_nothing_behind_a_pooler() {
    dropped_reads_and_sweeps_leave_nothing(Leg::Pooler).await;
}

#[tokio::test]
async fn dropped_reads_and_sweeps_leave_nothing_behind_a_pooler_that_keeps_statements() {
    dropped_reads_and_sweeps_leave_nothing(Leg::PreparedPooler).await;
}

#[tokio::test]
async fn dropped_calls_of_the_queue_and_the_notifier_leave_nothing_behind() {
    let (watched, samples) = (Watched::new(Leg::Pool).await, Samples::new(3));
    let (pg, queue, notifier) = (&watched.pg, watched.pg.queue(), watched.pg.notifier());
    pg.commit(samples.creation().changes()).await.expect(HEALTHY);
    let lease = Duration::from_millis(1);
    at_every_await!(queue.claim(Lane::Operations, 9, lease));
    at_every_await!(queue.claim(Lane::Deliveries, 9, lease));
    at_every_await!(queue.depth(Lane::Operations));
    at_every_await!(queue.buried(Lane::Deliveries, 9));
    let held = loop {
        let held = queue.claim(Lane::Operations, 9, Duration::from_secs(60)).await.expect(HEALTHY);
        if !held.is_empty() {
            break held;
        }
    };
    at_every_await!(queue.extend(&held, Duration::from_secs(60)));
    let done = [Settlement { claim: held[0].clone(), verdict: Verdict::Done }];
    at_every_await!(queue.settle(&done));
    assert_eq!(queue.extend(&held, lease).await.expect(HEALTHY), [false], "it was settled");
    at_every_await!(notifier.publish(&[Hint::Events]));
    at_every_await!(notifier.subscribe());
    watched.is_clean().await;
}

/// A host that drops a call inside its transaction rolls back, and nothing of it was ever there.
#[tokio::test]
async fn a_call_dropped_inside_a_hosts_transaction_is_undone_with_it() {
    let (watched, samples) = (Watched::new(Leg::Pool).await, Samples::new(4));
    let pg = &watched.pg;
    let mut polls = 0;
    loop {
        let creation = samples.creation();
        let mut transaction = pg.pool().begin().await.expect(HEALTHY);
        let done = {
            let storage = pg.enlist(&mut transaction);
            dropped_after(polls, storage.commit(creation.changes())).await.is_some()
        };
        transaction.rollback().await.expect("a rollback always works");
        let found = pg.payment(samples.scope(), creation.payment.id).await.expect(HEALTHY);
        assert_eq!(found, None, "after {polls} polls");
        let guard = Guard::Payment { id: creation.payment.id, version: 0 };
        pg.commit(Changes::new(samples.scope().clone()).guard(guard)).await.expect("it is free");
        if done {
            break;
        }
        polls += 1;
    }
    watched.is_clean().await;
}
