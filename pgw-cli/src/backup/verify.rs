//! `pgw verify-backup`: restores into a database of its own, checks what must always hold, and drops it again.

use std::fs;
use std::path::PathBuf;

use clap::Args;
use pgw_core::env::Env;
use pgw_storage_postgres::sqlx::postgres::PgConnectOptions;
use pgw_storage_postgres::sqlx::{
    self, ConnectOptions as _, Connection as _, PgConnection, Row as _,
};
use pgw_storage_postgres::{Migrator, Schema};
use serde_json::json;

use super::tools;
use crate::config::Config;
use crate::database;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::stop::Signals;

/// Which backup.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The backup.
    file: PathBuf,
    /// A shell command that undoes what `pgw backup --through` did, such as `age -d -i key.txt`.
    #[arg(long, value_name = "COMMAND")]
    through: Option<String>,
}

/// Restores it to a scratch database on the configured server, which takes the right to make databases, and checks it.
///
/// # Errors
/// [`Failure`] with [`Exit::CheckFailed`] when it cannot be restored or something in it does not hold.
pub(crate) async fn run(config: &Config, args: &VerifyArgs, out: Output) -> Result<(), Failure> {
    let options = database::required(config)?;
    let name = format!("pgw_verify_{:016x}", Env::system().u64());
    let mut signals = Signals::catch()?;
    tools::create_database(config, &options, &name).await?;
    let scratch = options.clone().database(&name);
    let progress = out.progress("restoring and checking", None);
    // The scratch database holds everybody's payments: it goes, also when this is interrupted.
    let checked = tokio::select! {
        checked = check(config, args, scratch, out) => checked,
        _ = signals.next() => Err(Failure::new(Exit::Failed, "it was interrupted")),
    };
    progress.finish_and_clear();
    // Whatever was found, the scratch database goes.
    let dropped = tools::drop_database(config, &options, &name).await;
    let broken = checked?;
    dropped?;
    if broken > 0 {
        let message = format!("{broken} of {} invariants do not hold", INVARIANTS.len());
        return Err(Failure::new(Exit::CheckFailed, message));
    }
    let mark = super::mark(&args.file);
    fs::write(&mark, "").map_err(Failure::system(format!("cannot write {}", mark.display())))?;
    out.say(format!("{} can be restored, and everything in it holds", args.file.display()));
    Ok(())
}

/// How many invariants do not hold.
async fn check(
    config: &Config,
    args: &VerifyArgs,
    scratch: PgConnectOptions,
    out: Output,
) -> Result<usize, Failure> {
    tools::restore(config, args.through.as_deref(), &args.file, &scratch).await.map_err(
        |failure| Failure::new(Exit::CheckFailed, format!("it cannot be restored: {failure}")),
    )?;
    let schema: Schema = database::schema(config)?;
    let mut connection = connect(scratch).await?;
    let verified = Migrator::new(schema.clone()).verify(&mut connection).await;
    let later = verified.map_err(|error| Failure::new(Exit::CheckFailed, error.to_string()))?;
    if !later.is_empty() {
        // This version works beside them; what must hold in all of it only they know.
        let later = later.join(", ");
        let message =
            format!("it was made by a later version (migrations {later}): let that one verify it");
        return Err(Failure::new(Exit::CheckFailed, message));
    }
    let looked = look(&mut connection, &schema, out).await;
    let _ = connection.close().await;
    looked.map_err(|error| {
        Failure::new(Exit::CheckFailed, "the restored database cannot be read").because(error)
    })?
}

async fn look(
    connection: &mut PgConnection,
    schema: &Schema,
    out: Output,
) -> Result<Result<usize, Failure>, sqlx::Error> {
    sqlx::query("select set_config('search_path', $1, false)")
        .bind(schema.as_str())
        .execute(&mut *connection)
        .await?;
    let mut rows = Vec::new();
    let mut broken = 0;
    for (what, query) in INVARIANTS {
        let row = sqlx::query(*query).fetch_one(&mut *connection).await?;
        let (of, wrong): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        broken += usize::from(wrong > 0);
        rows.push(
            json!({ "object": "invariant", "invariant": what, "rows": of, "broken": wrong })
                .to_string(),
        );
    }
    Ok(out.objects(rows, &["invariant", "rows", "broken"]).map(|()| broken))
}

async fn connect(options: PgConnectOptions) -> Result<PgConnection, Failure> {
    let options = options.application_name("pgw verify-backup").disable_statement_logging();
    options.connect().await.map_err(|error| {
        Failure::new(Exit::Unavailable, "the database cannot be used").because(error)
    })
}

/// What must hold in every state of the tables, and of how many rows it was asked.
const INVARIANTS: &[(&str, &str)] = &[
    (
        "refunds are within captures, and captures within authorizations",
        "select count(*), count(*) filter (where captured_minor + capture_reserved_minor > authorized_minor \
         or refunded_minor + refund_reserved_minor > captured_minor) from payments",
    ),
    (
        "a payment's totals are those of its operations",
        "select count(*), count(*) filter (where p.refunded_minor <> o.refunded) from payments p cross join lateral \
         (select coalesce(sum(amount_minor) filter (where kind = 'refund' and state = 'succeeded'), 0) as refunded \
         from operations o where o.merchant = p.merchant and o.live = p.live and o.payment = p.id) o",
    ),
    (
        "a payment's events are numbered without a gap",
        "select count(*), count(*) filter (where p.sequence <> e.n or e.n <> e.last) from payments p cross join lateral \
         (select count(*) as n, coalesce(max(sequence), 0) as last from events e \
         where e.merchant = p.merchant and e.live = p.live and e.payment = p.id) e",
    ),
    (
        "every operation has its payment",
        "select count(*), count(*) filter (where not exists (select 1 from payments p \
         where p.merchant = o.merchant and p.live = o.live and p.id = o.payment)) from operations o",
    ),
    (
        "every idempotency key has its payment",
        "select count(*), count(*) filter (where k.object is null and not exists (select 1 from payments p \
         where p.merchant = k.merchant and p.live = k.live and p.id = k.payment)) from idempotency_keys k",
    ),
    (
        "every answer that an event tells has that event",
        "select count(*), count(*) filter (where not exists (select 1 from events e where e.merchant = k.merchant and e.live = k.live \
         and e.id = k.answer_event and e.payment = k.payment and length(e.body) >= k.answer_length + 2) \
         or exists (select 1 from erased_payments x where x.merchant = k.merchant and x.live = k.live and x.payment = k.payment \
         and x.redacted_at is not null)) from idempotency_keys k where k.answer_event is not null and k.answer_status is not null",
    ),
    (
        "every delivery has its event and its endpoint",
        "select count(*), count(*) filter (where not exists (select 1 from events e \
         where e.merchant = d.merchant and e.live = d.live and e.id = d.event) or not exists (select 1 from endpoints w \
         where w.merchant = d.merchant and w.live = d.live and w.id = d.endpoint)) from deliveries d",
    ),
    (
        "feeds are dense",
        "select count(*), count(*) filter (where f.position <> e.n) from feeds f cross join lateral \
         (select count(*) as n from events e where e.merchant = f.merchant and e.live = f.live \
         and e.feed_position is not null) e",
    ),
];
