//! `pgw purge`: what was kept as long as it is to be, and may go.

use std::time::Duration;

use clap::Args;
use pgw_core::env::Env;
use pgw_core::storage::Storage as _;
use pgw_core::timestamp::Timestamp;
use pgw_storage_postgres::{Link, Overdue, Retention, RetentionError};
use serde_json::{Value, json};

use crate::config::{Config, setting};
use crate::database;
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// How to purge.
#[derive(Debug, Args)]
pub(crate) struct PurgeArgs {
    /// Count what would go, and leave it.
    #[arg(long, conflicts_with = "verify")]
    dry_run: bool,
    /// Count what should be gone already, and fail when that is anything.
    #[arg(long)]
    verify: bool,
}

/// Does it. Deleting from the audit log takes the schema's owner: the application may not.
///
/// # Errors
/// [`Failure`], with [`Exit::CheckFailed`] when something is left that should not be.
pub(crate) async fn run(config: &Config, args: &PurgeArgs, out: Output) -> Result<(), Failure> {
    let before = Before::now(config)?;
    let retention = Retention::new(database::schema(config)?);
    let mut connection = database::connection(config).await?;
    let overdue = retention.overdue(&mut connection, before.answers, before.audit).await?;
    if args.dry_run {
        out.result(&value("purge_dry_run", overdue, &before), || {
            let Overdue { answers, audit_rows } = overdue;
            format!("{answers} stored answers and {audit_rows} audit rows would go")
        });
        return Ok(());
    }
    if args.verify {
        return verify(overdue, &before, out);
    }
    let mut builder = database::builder(config)?;
    if database::link(config)? == Link::PreparedPooler {
        // Only the application's role has the settings for it, and this is the owner. Explicit transactions go through every pooler, and without one.
        builder = builder.with_link(Link::Pooler);
    }
    let storage = builder.connect_with(database::required(config)?).await?;
    let mut done = Overdue::default();
    let bar = out.progress("stored answers", Some(overdue.answers));
    loop {
        let dropped = storage.purge_answers(before.answers, BATCH).await?;
        done.answers += dropped as u64;
        bar.set_position(done.answers);
        if dropped < BATCH {
            break;
        }
    }
    bar.finish_and_clear();
    let bar = out.progress("audit rows", Some(overdue.audit_rows));
    while let Some(purged) = retention.purge_audit(&mut connection, before.audit).await? {
        done.audit_rows += purged.rows;
        bar.set_position(done.audit_rows);
    }
    bar.finish_and_clear();
    out.result(&value("purge", done, &before), || {
        let Overdue { answers, audit_rows } = done;
        format!("{answers} stored answers and {audit_rows} audit rows are gone")
    });
    Ok(())
}

fn verify(overdue: Overdue, before: &Before, out: Output) -> Result<(), Failure> {
    let rows = overdue.answers + overdue.audit_rows;
    out.result(&value("purge_verification", overdue, before), || format!("{rows} overdue rows"));
    if rows == 0 {
        return Ok(());
    }
    let message = "something was kept longer than it is to be: `pgw purge` drops it";
    Err(Failure::new(Exit::CheckFailed, message))
}

fn value(object: &str, rows: Overdue, before: &Before) -> Value {
    json!({
        "object": object,
        "answers": rows.answers,
        "answers_before": before.answers.to_string(),
        "audit_rows": rows.audit_rows,
        "audit_before": before.audit.to_string(),
    })
}

/// What is older than this may go.
#[derive(Debug, Clone, Copy)]
struct Before {
    answers: Timestamp,
    audit: Timestamp,
}

impl Before {
    fn now(config: &Config) -> Result<Self, Failure> {
        let days = config.require::<u32>(&setting::RETENTION_AUDIT_DAYS)?;
        if !(AUDIT_DAYS_MIN..=AUDIT_DAYS_MAX).contains(&days) {
            let message = format!("must be from {AUDIT_DAYS_MIN} to {AUDIT_DAYS_MAX} days");
            return Err(config.wrong(&setting::RETENTION_AUDIT_DAYS, message).into());
        }
        let now = Env::system().now();
        let kept = Duration::from_secs(u64::from(days) * 24 * 60 * 60);
        Ok(Self { answers: now.minus(answers_kept(config)?), audit: now.minus(kept) })
    }
}

/// How long answers of idempotency keys are kept.
///
/// # Errors
/// [`Failure`] when that is less than clients rely on.
pub(crate) fn answers_kept(config: &Config) -> Result<Duration, Failure> {
    let kept = config.duration(&setting::RETENTION_ANSWERS)?.unwrap_or(ANSWERS_KEPT_MIN);
    if kept < ANSWERS_KEPT_MIN {
        return Err(config.wrong(&setting::RETENTION_ANSWERS, "must be at least 24h").into());
    }
    Ok(kept)
}

impl From<RetentionError> for Failure {
    fn from(error: RetentionError) -> Self {
        let message = error.to_string();
        match error {
            RetentionError::Database(error) if is_forbidden(&error) => Self::new(
                Exit::Failed,
                "this role may not do it: run `pgw purge` as the schema's owner, as `pgw migrate`",
            )
            .because(error),
            RetentionError::Database(error) => Self::new(Exit::Unavailable, message).because(error),
            error => Self::new(Exit::Failed, error.to_string()),
        }
    }
}

/// `insufficient_privilege`.
fn is_forbidden(error: &pgw_storage_postgres::sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "42501")
}

/// Rows dropped in one commit: a moment's work, so that nobody waits for it.
const BATCH: usize = 500;
/// What the API promises (`Idempotency-Key`).
const ANSWERS_KEPT_MIN: Duration = Duration::from_secs(24 * 60 * 60);
/// PCI DSS 10.5.1.
const AUDIT_DAYS_MIN: u32 = 365;
/// A hundred years: far above what any law asks for, and far below what a time can hold.
const AUDIT_DAYS_MAX: u32 = 36_500;
