//! `pgw doctor`: looks at everything the gateway depends on, with the application's own credentials.

mod redis;

use std::time::Duration;

use pgw_core::env::Env;
use pgw_core::queue::Lane;
use pgw_storage_postgres::Migrator;
use pgw_storage_postgres::sqlx::{self, Connection as _, PgConnection, Row as _};
use serde_json::json;

use crate::cli::Global;
use crate::config::Config;
use crate::database;
use crate::failure::{Exit, Failure};
use crate::node::Node;
use crate::output::Output;

/// What was found out about one thing.
#[derive(Debug)]
struct Finding {
    what: &'static str,
    grade: Grade,
    detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grade {
    Ok,
    Warn,
    Fail,
}

impl Grade {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }

    const fn if_above(value: i64, warn: i64, fail: i64) -> Self {
        if value > fail {
            Self::Fail
        } else if value > warn {
            Self::Warn
        } else {
            Self::Ok
        }
    }
}

/// Looks at everything. The exit code says whether something is wrong.
///
/// # Errors
/// [`Failure`] with [`Exit::CheckFailed`] when a check failed.
pub(crate) async fn run(config: &Config, global: &Global, out: Output) -> Result<(), Failure> {
    let mut findings: Vec<Finding> = config
        .warnings
        .iter()
        .map(|warning| Finding {
            what: "configuration",
            grade: Grade::Warn,
            detail: warning.clone(),
        })
        .collect();
    match database::options(config)? {
        None => findings.push(Finding {
            what: "database",
            grade: Grade::Ok,
            detail: "none: everything is in memory, until the process ends".to_owned(),
        }),
        Some(options) => {
            if let Some(warning) = database::warning(&options) {
                findings.push(Finding {
                    what: "database tls",
                    grade: Grade::Warn,
                    detail: warning,
                });
            }
            match database::connection(config).await {
                Ok(mut connection) => look(config, global, &mut connection, &mut findings).await?,
                Err(failure) => findings.push(Finding {
                    what: "database",
                    grade: Grade::Fail,
                    detail: failure.to_string(),
                }),
            }
        }
    }
    findings.extend(redis::look(config).await?);
    let rows = findings.iter().map(|one| {
        json!({ "object": "finding", "check": one.what, "grade": one.grade.as_str(), "detail": one.detail })
            .to_string()
    });
    out.objects(rows, &["grade", "check", "detail"])?;
    let failed = findings.iter().filter(|one| one.grade == Grade::Fail).count();
    match failed {
        0 => Ok(()),
        n => {
            Err(Failure::new(Exit::CheckFailed, format!("{n} of {} checks failed", findings.len())))
        }
    }
}

async fn look(
    config: &Config,
    global: &Global,
    connection: &mut PgConnection,
    findings: &mut Vec<Finding>,
) -> Result<(), Failure> {
    let schema = database::schema(config)?;
    for check in [server, clock, durability, connections, transactions] {
        findings.push(looked(connection, check).await.unwrap_or_else(|error| Finding {
            what: "database",
            grade: Grade::Fail,
            detail: error.to_string(),
        }));
    }
    let migrated = Migrator::new(schema.clone()).verify(connection).await;
    let is_migrated = migrated.is_ok();
    findings.push(match migrated {
        Ok(later) => {
            Finding { what: "schema", grade: Grade::Ok, detail: crate::migrate::state(&later) }
        }
        Err(error) => {
            let detail = Failure::from(error).to_string();
            Finding { what: "schema", grade: Grade::Fail, detail }
        }
    });
    if is_migrated {
        let name = schema.as_str().to_owned();
        let rights =
            looked(connection, |inside| Box::pin(async move { rights(inside, &name).await }));
        let rights = rights.await;
        findings.push(rights.unwrap_or_else(|error| Finding {
            what: "rights",
            grade: Grade::Fail,
            detail: error.to_string(),
        }));
        match Node::open(config, global).await {
            Ok(node) => lanes(&node, findings).await?,
            Err(failure) => findings.push(Finding {
                what: "gateway",
                grade: Grade::Fail,
                detail: failure.to_string(),
            }),
        }
    }
    Ok(())
}

/// A check in a transaction of its own: through a pooler the two halves of a question may go to two servers otherwise.
async fn looked(
    connection: &mut PgConnection,
    check: impl for<'c> FnOnce(&'c mut PgConnection) -> Looked<'c>,
) -> Result<Finding, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let finding = check(&mut transaction).await;
    let ended = transaction.rollback().await;
    let finding = finding?;
    ended?;
    Ok(finding)
}

type Looked<'c> = std::pin::Pin<Box<dyn Future<Output = Result<Finding, sqlx::Error>> + Send + 'c>>;

fn server(connection: &mut PgConnection) -> Looked<'_> {
    Box::pin(async move {
        let row = sqlx::query(
            "select current_setting('server_version'), current_setting('server_version_num')::int, current_user::text, \
             coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false)",
        )
        .persistent(false)
        .fetch_one(connection)
        .await?;
        let (version, number): (String, i32) = (row.try_get(0)?, row.try_get(1)?);
        let (user, is_encrypted): (String, bool) = (row.try_get(2)?, row.try_get(3)?);
        let tls = if is_encrypted { "encrypted" } else { "not encrypted" };
        let grade = if number >= 130_000 { Grade::Ok } else { Grade::Fail };
        let detail = format!("PostgreSQL {version} as {user}, {tls}");
        Ok(Finding { what: "database", grade, detail })
    })
}

fn clock(connection: &mut PgConnection) -> Looked<'_> {
    Box::pin(async move {
        let env = Env::system();
        let before = env.now();
        let row = sqlx::query("select (extract(epoch from clock_timestamp()) * 1000000)::bigint")
            .persistent(false)
            .fetch_one(connection)
            .await?;
        let theirs: i64 = row.try_get(0)?;
        let after = env.now();
        // Ours in the middle of the round trip; what that leaves open is half of it.
        let ours = before.as_micros().midpoint(after.as_micros());
        let skew = (theirs - ours) / 1_000;
        let grade = Grade::if_above(skew.abs(), 1_000, 60_000);
        Ok(Finding {
            what: "clock",
            grade,
            detail: format!("the database is {skew} ms ahead of this machine"),
        })
    })
}

fn durability(connection: &mut PgConnection) -> Looked<'_> {
    Box::pin(async move {
        let row = sqlx::query(
            "select current_setting('fsync'), current_setting('synchronous_commit'), current_setting('full_page_writes')",
        )
        .persistent(false)
        .fetch_one(connection)
        .await?;
        let (fsync, commit, pages): (String, String, String) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let is_safe = fsync == "on" && commit != "off" && pages == "on";
        let grade = if is_safe { Grade::Ok } else { Grade::Fail };
        let detail = format!("fsync={fsync} synchronous_commit={commit} full_page_writes={pages}");
        Ok(Finding { what: "durability", grade, detail })
    })
}

fn connections(connection: &mut PgConnection) -> Looked<'_> {
    Box::pin(async move {
        let row = sqlx::query(
            "select count(*) filter (where datname = current_database()), count(*), current_setting('max_connections')::bigint \
             from pg_stat_activity where backend_type = 'client backend'",
        )
        .persistent(false)
        .fetch_one(connection)
        .await?;
        let (here, all, most): (i64, i64, i64) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let grade = Grade::if_above(all * 100, most * 80, most * 95);
        let detail = format!("{here} to this database, {all} of {most} in all");
        Ok(Finding { what: "connections", grade, detail })
    })
}

fn transactions(connection: &mut PgConnection) -> Looked<'_> {
    Box::pin(async move {
        let row = sqlx::query(
            "select count(*) filter (where wait_event_type = 'Lock'), \
             coalesce(extract(epoch from max(clock_timestamp() - xact_start)), 0)::bigint, \
             count(*) filter (where state = 'idle in transaction') \
             from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() \
             and backend_type = 'client backend'",
        )
        .persistent(false)
        .fetch_one(connection)
        .await?;
        let (waiting, oldest, idle): (i64, i64, i64) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let grade = Grade::if_above(oldest, 60, 600);
        let age = humantime::format_duration(Duration::from_secs(oldest.unsigned_abs()));
        let detail = format!(
            "the oldest transaction is {age} old, {waiting} sessions wait for locks, {idle} are idle in a transaction"
        );
        Ok(Finding { what: "transactions", grade, detail })
    })
}

/// What the application's role may do beyond what it needs.
async fn rights(connection: &mut PgConnection, schema: &str) -> Result<Finding, sqlx::Error> {
    let row = sqlx::query(
        "select has_schema_privilege($1, 'create'), has_table_privilege($1 || '.audit', 'update') \
         or has_table_privilege($1 || '.audit', 'delete')",
    )
    .persistent(false)
    .bind(schema)
    .fetch_one(connection)
    .await?;
    let (makes, rewrites): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
    let detail = match (makes, rewrites) {
        (false, false) => "the role can neither change tables nor rewrite the audit log".to_owned(),
        (_, true) => {
            "the role can rewrite the audit log: connect as an application role, see `pgw migrate --export --grants OWNER APP`".to_owned()
        }
        (true, false) => "the role can make tables: connect as an application role".to_owned(),
    };
    let grade = if makes || rewrites { Grade::Warn } else { Grade::Ok };
    Ok(Finding { what: "rights", grade, detail })
}

async fn lanes(node: &Node, findings: &mut Vec<Finding>) -> Result<(), Failure> {
    let pool = node.postgres()?.pool();
    findings.push(Finding {
        what: "pool",
        grade: Grade::Ok,
        detail: format!(
            "{} of {} connections made",
            pool.size(),
            pool.options().get_max_connections()
        ),
    });
    for lane in Lane::ALL {
        let what = match lane {
            Lane::Operations => "queue of operations",
            _ => "queue of deliveries",
        };
        findings.push(match node.queue.depth(lane).await {
            Ok(depth) => {
                let age = i64::try_from(depth.oldest.as_secs()).unwrap_or(i64::MAX);
                let grade = match Grade::if_above(age, 60, 900) {
                    Grade::Ok if depth.dead > 0 => Grade::Warn,
                    grade => grade,
                };
                let oldest =
                    humantime::format_duration(Duration::from_secs(depth.oldest.as_secs()));
                let detail = format!(
                    "{} ready (oldest {oldest}), {} later, {} in flight, {} set aside",
                    depth.ready, depth.delayed, depth.in_flight, depth.dead
                );
                Finding { what, grade, detail }
            }
            Err(error) => Finding { what, grade: Grade::Fail, detail: error.to_string() },
        });
    }
    Ok(())
}
