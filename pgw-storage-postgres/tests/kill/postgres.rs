//! PostgreSQL is killed while clients create payments: nothing acknowledged is lost, nothing is done twice.

use std::sync::Arc;
use std::time::Duration;

use pgw_core::env::Env;
use pgw_core::gateway::{Gateway, Origin};
use pgw_core::payment::PaymentStatus;
use pgw_core::sandbox::Sandbox;
use pgw_core::testing::invariants::{Acknowledged, Outside};
use pgw_core::worker::Worker;
use pgw_storage_postgres::sqlx::{Connection as _, PgConnection, query_scalar, raw_sql};
use pgw_storage_postgres::{PgStorage, Schema};
use servers::Postgres;
use tokio::task::JoinSet;

use crate::clients::{Clients, Kept, Told};
use crate::recorder::{Recorder, Tally};
use crate::world;

/// Kills in CI, and one more that holds back answers.
const KILLS: u32 = 5;
const CALLERS: u32 = 32;
/// What is not charged by then never will be.
const CHARGED_WITHIN: Duration = Duration::from_secs(120);

/// One look is a round trip.
const LOOKS_MAX: u32 = 100_000;

pub(crate) fn killed_under_load(times: u32) -> String {
    world::runtime().block_on(scenario(KILLS * times))
}

async fn scenario(kills: u32) -> String {
    let mut postgres = start();
    let url = postgres.url();
    let schema = world::migrate(&url).await;
    let pg = world::connect(&url, &schema).await;
    let recorder = Arc::new(Recorder::new(pg.clone()));
    let sandbox = Sandbox::new(Env::system()).with_resolution(world::RESOLUTION);
    let gateway = gateway(&pg, &recorder, &sandbox);
    let worker = Worker::new(&gateway).with_settings(world::worker_settings()).start();

    let clients = Clients::of(&gateway);
    let mut calls = clients.start(CALLERS);
    for kill in 0..kills {
        clients.acknowledged(u64::from(100 + kill * 37 % 100), &mut calls).await;
        kill_and_restart(&mut postgres);
        // The same pool serves a client that comes now.
        clients.create_next(None).await;
    }
    // In good order, so that of what is in flight at the last kill everything is a client's.
    let _ = worker.shutdown().await;
    let by_chance = recorder.tally();
    kill_while_answers_are_held(&mut postgres, &clients, &mut calls).await;
    let kept = clients.stop(calls).await;
    let tally = recorder.tally();
    assert!(
        tally.applied_unheard > by_chance.applied_unheard,
        "commits were waiting for their answers, and none was found applied: {by_chance:?}, {tally:?}"
    );
    let resolved = tally.applied_unheard + tally.not_applied;
    assert_eq!(
        tally.indeterminate, resolved,
        "whoever asks again hears what was in doubt: {tally:?}"
    );

    let worker = Worker::new(&gateway).with_settings(world::worker_settings()).start();
    of_each_merchant(&gateway, &kept, assert_charged).await;
    let _ = worker.shutdown().await;
    of_each_merchant(&gateway, &kept, assert_replays).await;
    world::assert_at_rest(&pg, &schema).await;
    assert_rows(&pg, &schema, kept.len()).await;
    assert_books(&pg, &sandbox, &kept).await;
    report(kills + 1, &by_chance, &tally, &kept)
}

fn start() -> Postgres {
    let durable = Postgres::builder().durable();
    // Before it recovers, a server syncs each file of its own, in case the machine crashed, which takes seconds and did not happen here.
    durable
        .with_setting("recovery_init_sync_method", "syncfs")
        .start()
        .expect("PostgreSQL 14 or later is installed")
}

fn gateway(pg: &PgStorage, recorder: &Arc<Recorder>, sandbox: &Sandbox) -> Gateway {
    Gateway::builder()
        .with_storage(Arc::clone(recorder) as _)
        .with_queue(Arc::new(pg.queue()))
        .with_notifier(Arc::new(pg.notifier()))
        .with_sandbox(sandbox.clone(), world::processor_settings())
        .with_settings(world::settings())
        .build()
        .expect("it has all its parts")
}

/// Blocks the scenario's thread only: clients and worker are on the runtime's own.
fn kill_and_restart(postgres: &mut Postgres) {
    postgres.kill().expect("it can be killed");
    postgres.restart().expect("it recovers");
}

/// Kills it when commits are durable whose answers have not been sent. By chance that takes many kills on a fast disk, and is never sure
/// to happen; so the server is told to wait for a standby that there is not, as one does whose standby is just lost.
async fn kill_while_answers_are_held(
    postgres: &mut Postgres,
    clients: &Clients,
    calls: &mut JoinSet<()>,
) {
    const HOLD: &str = "alter system set synchronous_standby_names = 'lost'";
    const HELD: &str = "select exists (select from pg_stat_activity where wait_event = 'SyncRep')";
    clients.be_patient();
    clients.acknowledged(100, calls).await;
    let mut owner = PgConnection::connect(&postgres.url()).await.expect(world::HEALTHY);
    raw_sql(HOLD).execute(&mut owner).await.expect(world::HEALTHY);
    raw_sql("select pg_reload_conf()").execute(&mut owner).await.expect(world::HEALTHY);
    // It cannot but come: clients ask all the time, and nothing gets through.
    let mut looks = 0;
    while !query_scalar::<_, bool>(HELD).fetch_one(&mut owner).await.expect(world::HEALTHY) {
        looks += 1;
        assert!(looks < LOOKS_MAX, "no commit waits for the standby");
    }
    postgres.kill().expect("it can be killed");
    // Where the server keeps what it was told; nobody is to wait for a standby any more.
    let settings = postgres.data_directory().join("postgresql.auto.conf");
    std::fs::write(settings, "").expect("the directory is ours");
    postgres.restart().expect("it recovers");
    clients.create_next(None).await;
}

/// Asserts of each merchant's payments, of all merchants at a time.
async fn of_each_merchant<F: Future<Output = ()> + Send + 'static>(
    gateway: &Gateway,
    kept: &[Kept],
    assert: fn(Gateway, Vec<Kept>) -> F,
) {
    let mut merchants = JoinSet::new();
    for merchant in kept.chunk_by(|a, b| a.scope == b.scope) {
        merchants.spawn(assert(gateway.clone(), merchant.to_vec()));
    }
    merchants.join_all().await;
}

async fn assert_charged(gateway: Gateway, kept: Vec<Kept>) {
    for kept in kept {
        let charged = kept.verbs(&gateway).wait_for(kept.told.payment, None, CHARGED_WITHIN).await;
        let state = charged.expect("what was acknowledged is there");
        assert_eq!(state.payment.status, PaymentStatus::Succeeded, "{:?}: {state:?}", kept.key);
    }
}

/// Every key answers with what it answered first, byte for byte, and does nothing.
async fn assert_replays(gateway: Gateway, kept: Vec<Kept>) {
    for kept in kept {
        let again = kept.verbs(&gateway).create_payment(world::order(&kept.key)).await;
        let again = again.expect(world::HEALTHY);
        let says = (again.origin, Told::of(&again));
        assert_eq!(says, (Origin::Replayed, kept.told), "{:?}", kept.key);
    }
}

/// A payment, a charge and a key for each that was acknowledged, and for none that was not.
async fn assert_rows(pg: &PgStorage, schema: &Schema, acknowledged: usize) {
    for table in ["payments", "operations", "idempotency_keys"] {
        let rows = world::count(pg, schema, table).await;
        assert_eq!(rows, acknowledged as u64, "rows of {table}, one for each key");
    }
}

/// One charge of each key, and rows and books that tell the same story.
async fn assert_books(pg: &PgStorage, sandbox: &Sandbox, kept: &[Kept]) {
    world::stamp(pg).await;
    let ledger = sandbox.ledger();
    assert_eq!(ledger.len(), kept.len(), "one charge of each key");
    for merchant in kept.chunk_by(|a, b| a.scope == b.scope) {
        let Some(Kept { scope, .. }) = merchant.first() else { continue };
        let acknowledged = |kept: &Kept| Acknowledged {
            scope: scope.clone(),
            key: Some(kept.key.clone()),
            payment: kept.told.payment,
            operation: kept.told.operation,
        };
        let outside = Outside {
            acknowledged: merchant.iter().map(acknowledged).collect(),
            ledger: ledger.iter().filter(|entry| entry.scope == *scope).cloned().collect(),
            ..Outside::default()
        };
        world::assert_invariants(pg, scope, &outside).await;
    }
}

fn report(kills: u32, by_chance: &Tally, tally: &Tally, kept: &[Kept]) -> String {
    let replayed = |silent: fn(&Kept) -> bool| {
        kept.iter().filter(|kept| kept.origin == Origin::Replayed && silent(kept)).count()
    };
    format!(
        "{kills} kills, {} payments, each charged once; commits without an answer: {}, of which {} had been applied ({} of them by chance) \
         and {} had not; refused while down: {}; clients: {} failed tries ({} keys then replayed), {} hung up ({} keys then replayed)",
        kept.len(),
        tally.indeterminate,
        tally.applied_unheard,
        by_chance.applied_unheard,
        tally.not_applied,
        tally.unavailable,
        kept.iter().map(|kept| kept.failed).sum::<u32>(),
        replayed(|kept| kept.failed > 0),
        kept.iter().map(|kept| kept.hung_up).sum::<u32>(),
        replayed(|kept| kept.failed == 0),
    )
}
