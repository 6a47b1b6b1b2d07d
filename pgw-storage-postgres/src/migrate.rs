//! Migrations: plain SQL, in order, each once, in a table of our own.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};
use sqlx::{Connection as _, PgConnection, Row as _};

use crate::partitions::Partitions;
use crate::schema::Schema;
use crate::sql::{filled, quoted};

/// One step of the schema.
#[derive(Debug, Clone, Copy)]
struct Migration {
    version: i64,
    name: &'static str,
    sql: &'static str,
    /// Whether it is about how tables are stored, which a partitioned table leaves to its partitions: there it is passed over.
    is_storage: bool,
    /// The oldest migration whose processes may start beside this one. They read it in the table, as they do not know this code; `run` never
    /// mends what is noted there.
    serves_from: i64,
}

impl Migration {
    fn label(&self) -> String {
        label(self.version, self.name)
    }
}

/// One beside which only processes start that know it, unless it says otherwise.
const fn migration(version: i64, name: &'static str, sql: &'static str) -> Migration {
    Migration { version, name, sql, is_storage: false, serves_from: version }
}

const MIGRATIONS: &[Migration] = &[
    migration(1, "init", include_str!("../migrations/0001_init.sql")),
    migration(2, "access", include_str!("../migrations/0002_access.sql")),
    migration(3, "audit", include_str!("../migrations/0003_audit.sql")),
    migration(4, "privacy", include_str!("../migrations/0004_privacy.sql")),
    migration(5, "keys", include_str!("../migrations/0005_keys.sql")),
    Migration {
        is_storage: true,
        ..migration(6, "room", include_str!("../migrations/0006_room.sql"))
    },
    migration(7, "unknown", include_str!("../migrations/0007_unknown.sql")),
    migration(8, "answers", include_str!("../migrations/0008_answers.sql")),
    migration(9, "checks", include_str!("../migrations/0009_checks.sql")),
];

const GRANTS: &str = include_str!("../sql/grants.sql");
const PARTITION: &str = include_str!("../sql/partition.sql");
const CITUS: &str = include_str!("../sql/citus.sql");

/// What the schema needs to be up to date with this crate.
///
/// Each migration is one transaction: it is applied whole and noted in `{schema}.migrations` with the checksum of its text, or nothing
/// of it is. Running them again does nothing. Every migration only adds (columns, tables, indexes) or allows more, so that processes of the
/// version before work on with what they know until they are replaced; the changelog says what they do not know.
///
/// Each migration notes the oldest one whose processes may start beside it (`serves_from`); by default that is itself. A process that starts on a
/// schema with migrations it does not know accepts it if every one of them says so: a version can then be started again while it is replaced, and gone
/// back to. A process that runs does not look again.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use pgw_storage_postgres::{Migrator, Schema, sqlx::{Connection, PgConnection}};
///
/// let mut owner = PgConnection::connect("postgres://owner@localhost/shop").await?;
/// let migrator = Migrator::new(Schema::default());
/// for pending in migrator.pending(&mut owner).await? {
///     println!("to do: {pending}");
/// }
/// for applied in migrator.run(&mut owner).await? {
///     println!("done: {applied}");
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Migrator {
    schema: Schema,
    lock: Lock,
}

/// How two migrators at once are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Lock {
    /// An advisory lock that ends with the transaction.
    #[default]
    Advisory,
    /// None: for engines without advisory locks. Two at once may then both try; the second fails and changes nothing.
    None,
}

impl Migrator {
    /// Migrations of this schema.
    pub const fn new(schema: Schema) -> Self {
        Self { schema, lock: Lock::Advisory }
    }

    /// With another lock.
    pub const fn with_lock(mut self, lock: Lock) -> Self {
        self.lock = lock;
        self
    }

    /// What [`run`](Self::run) would do, as `0001 init`; changes nothing. The connection may not be in a transaction, but for one of `sqlx`.
    ///
    /// # Errors
    /// [`MigrateError`].
    ///
    /// # Cancel safety
    /// It changes nothing. Drop its connection too: it may be inside a transaction.
    pub async fn pending(
        &self,
        connection: &mut PgConnection,
    ) -> Result<Vec<String>, MigrateError> {
        // In a transaction, here as below: what a pooler hands on may not go to two servers.
        let mut transaction = connection.begin().await?;
        let applied = self.applied(&mut transaction).await;
        let ended = transaction.rollback().await;
        let applied = applied?;
        ended?;
        check(&applied)?;
        Ok(MIGRATIONS.iter().skip(applied.len()).map(Migration::label).collect())
    }

    /// Applies what is missing; what it did. The connection is the schema's owner's, and may not be in a transaction.
    ///
    /// # Errors
    /// [`MigrateError`]; migrations before the one that failed stay applied.
    ///
    /// # Cancel safety
    /// A dropped future leaves whole migrations only. Drop its connection too: it may be inside a transaction.
    pub async fn run(&self, connection: &mut PgConnection) -> Result<Vec<String>, MigrateError> {
        let mut done = Vec::new();
        loop {
            let mut transaction = connection.begin().await?;
            self.guard(&mut transaction).await?;
            match self.table(&mut transaction).await? {
                Table::Missing => {
                    sqlx::raw_sql(filled(&self.schema, TABLE)).execute(&mut *transaction).await?;
                }
                // In a transaction of its own: until it ends nobody can read the table, who starts meanwhile.
                Table::Silent => {
                    check(&self.applied(&mut transaction).await?)?;
                    sqlx::raw_sql(filled(&self.schema, SERVES)).execute(&mut *transaction).await?;
                    transaction.commit().await?;
                    continue;
                }
                Table::Complete => {}
            }
            let applied = self.applied(&mut transaction).await?;
            check(&applied)?;
            let Some(next) = MIGRATIONS.get(applied.len()) else {
                transaction.commit().await?;
                return Ok(done);
            };
            if !next.is_storage || !self.is_partitioned(&mut transaction).await? {
                sqlx::raw_sql(filled(&self.schema, next.sql)).execute(&mut *transaction).await?;
            }
            sqlx::query(filled(&self.schema, NOTE))
                .persistent(false)
                .bind(next.version)
                .bind(next.name)
                .bind(checksum(next.sql))
                .bind(next.serves_from)
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
            done.push(next.label());
        }
    }

    async fn table(&self, connection: &mut PgConnection) -> Result<Table, MigrateError> {
        const COLUMNS: &str = "select attname::text from pg_attribute \
             where attrelid = to_regclass('{schema}.migrations') and attnum > 0 and not attisdropped";
        let query = sqlx::query(filled(&self.schema, COLUMNS)).persistent(false);
        let rows = query.fetch_all(connection).await?;
        let columns: Vec<String> =
            rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        Ok(match columns.as_slice() {
            [] => Table::Missing,
            columns if columns.iter().any(|column| column == "serves_from") => Table::Complete,
            _ => Table::Silent,
        })
    }

    async fn is_partitioned(&self, connection: &mut PgConnection) -> Result<bool, MigrateError> {
        const ANY: &str = "select exists (select from pg_partitioned_table p join pg_class c on c.oid = p.partrelid \
             where c.relnamespace = '{schema}'::regnamespace and c.relname = 'payments')";
        let query = sqlx::query(filled(&self.schema, ANY)).persistent(false);
        Ok(query.fetch_one(connection).await?.try_get(0)?)
    }

    /// Every migration as plain SQL, for those who run their own: with psql, or in a pipeline with other migrations. Run once, on a
    /// database without the schema; [`run`](Self::run) then finds everything applied.
    #[must_use]
    pub fn export(&self) -> String {
        let mut sql = String::from("begin;\n");
        sql.push_str(&self.filled(TABLE));
        for migration in MIGRATIONS {
            // Writing to a String cannot fail.
            let _ = writeln!(sql, "\n-- {}", migration.label());
            sql.push_str(&self.filled(migration.sql));
            let _ = writeln!(
                sql,
                "\ninsert into {}.migrations (version, name, checksum, serves_from) values ({}, '{}', '{}', {});",
                self.schema,
                migration.version,
                migration.name,
                checksum(migration.sql),
                migration.serves_from
            );
        }
        sql.push_str("\ncommit;\n");
        sql
    }

    /// What the owner grants to the role that the application connects as: rows, no DDL, and an audit log that can only be added to.
    /// The names are put in as they are: they are the caller's own.
    #[must_use]
    pub fn grants(&self, owner: &str, app: &str) -> String {
        self.filled(GRANTS).replace("{owner}", &quoted(owner)).replace("{app}", &quoted(app))
    }

    /// What the owner runs once, after the migrations and before the grants, to have the tables that grow with the payments partitioned by a hash of
    /// the merchant. One transaction; optional, and everything works the same without it. Rows that are there are copied under a lock.
    ///
    /// ```
    /// use pgw_storage_postgres::{Migrator, Partitions, Schema};
    /// let sixteen = Partitions::new(16).expect("a power of two");
    /// let sql = Migrator::new(Schema::default()).partition(sixteen);
    /// assert!(sql.contains("partition of pgw.payments for values with (modulus 16, remainder 15)"));
    /// ```
    #[must_use]
    pub fn partition(&self, partitions: Partitions) -> String {
        partitions.fill(&self.filled(PARTITION))
    }

    /// What the owner runs once on the coordinator of a Citus cluster, after the migrations and the grants: which tables are distributed, by merchant and
    /// lying together, and which are the same everywhere. The storage then wants [`Engine::Distributed`](crate::Engine::Distributed).
    ///
    /// ```
    /// use pgw_storage_postgres::{Migrator, Schema};
    /// let sql = Migrator::new(Schema::default()).citus();
    /// assert!(sql.contains("select create_distributed_table('pgw.payments', 'merchant'"));
    /// ```
    #[must_use]
    pub fn citus(&self) -> String {
        self.filled(CITUS)
    }

    /// Whether the schema has what this crate needs; what it has besides, of later versions that this one works beside, as `0010 later`. The
    /// connection may not be in a transaction, but for one of `sqlx`.
    ///
    /// # Errors
    /// [`MigrateError::Behind`] when migrations are missing, and the others.
    ///
    /// # Cancel safety
    /// It changes nothing. Drop its connection too: it may be inside a transaction.
    pub async fn verify(&self, connection: &mut PgConnection) -> Result<Vec<String>, MigrateError> {
        let mut transaction = connection.begin().await?;
        let applied = self.applied(&mut transaction).await;
        let ended = transaction.rollback().await;
        let applied = applied?;
        ended?;
        check(&applied)?;
        if applied.len() < MIGRATIONS.len() {
            return Err(MigrateError::Behind { applied: applied.len(), wanted: MIGRATIONS.len() });
        }
        let later = applied.iter().skip(MIGRATIONS.len());
        Ok(later.map(|one| label(one.version, &one.name)).collect())
    }

    async fn guard(&self, connection: &mut PgConnection) -> Result<(), MigrateError> {
        const WAIT: &str =
            "select pg_advisory_xact_lock(hashtextextended('pgw migrations ' || $1, 0))";
        if self.lock == Lock::Advisory {
            sqlx::query(WAIT)
                .persistent(false)
                .bind(self.schema.as_str())
                .execute(connection)
                .await?;
        }
        Ok(())
    }

    async fn applied(&self, connection: &mut PgConnection) -> Result<Vec<Applied>, MigrateError> {
        const COMPLETE: &str =
            "select version, name, checksum, serves_from from {schema}.migrations order by version";
        const SILENT: &str = "select version, name, checksum, null::bigint from {schema}.migrations order by version";
        let query = match self.table(connection).await? {
            Table::Missing => return Ok(Vec::new()),
            Table::Silent => SILENT,
            Table::Complete => COMPLETE,
        };
        let query = sqlx::query(filled(&self.schema, query)).persistent(false);
        let rows = query.fetch_all(connection).await?;
        rows.iter()
            .map(|row| {
                let (version, name) = (row.try_get(0)?, row.try_get(1)?);
                let (checksum, serves_from) = (row.try_get(2)?, row.try_get(3)?);
                Ok(Applied { version, name, checksum, serves_from })
            })
            .collect::<Result<_, sqlx::Error>>()
            .map_err(MigrateError::from)
    }

    fn filled(&self, template: &str) -> String {
        template.replace("{schema}", self.schema.as_str())
    }
}

/// The table of migrations.
enum Table {
    Missing,
    /// As versions made it that did not note whom a migration serves.
    Silent,
    Complete,
}

/// A migration that the database has.
struct Applied {
    version: i64,
    name: String,
    checksum: String,
    serves_from: Option<i64>,
}

/// Whether what was applied is the beginning of what there is, or all of it and what lets this version work beside it.
fn check(applied: &[Applied]) -> Result<(), MigrateError> {
    let latest = MIGRATIONS.last().map_or(0, |last| last.version);
    for (n, one) in applied.iter().enumerate() {
        let Some(known) = MIGRATIONS.get(n) else {
            if one.serves_from.is_some_and(|from| (1..=latest).contains(&from)) {
                continue;
            }
            return Err(MigrateError::Ahead { version: one.version });
        };
        if known.version != one.version {
            return Err(MigrateError::Gap { version: known.version });
        }
        if checksum(known.sql) != one.checksum {
            return Err(MigrateError::Changed { version: one.version });
        }
    }
    Ok(())
}

fn checksum(sql: &str) -> String {
    Sha256::digest(sql.as_bytes()).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn label(version: i64, name: &str) -> String {
    format!("{version:04} {name}")
}

/// Why the schema is not up to date.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// Migrations are missing.
    #[error("the schema has {applied} of {wanted} migrations: run them, as the schema's owner")]
    Behind {
        /// How many there are.
        applied: usize,
        /// How many this version needs.
        wanted: usize,
    },
    /// The schema was migrated by a later version, and that migration does not say that this one works beside it.
    #[error(
        "the schema has migration {version}, which this version neither knows nor works beside: update pgw"
    )]
    Ahead {
        /// The unknown migration.
        version: i64,
    },
    /// A migration is missing before one that was applied.
    #[error(
        "the schema has no migration {version}, but later ones: somebody took it out of the table"
    )]
    Gap {
        /// The missing migration.
        version: i64,
    },
    /// The text of an applied migration is not the one that was applied.
    #[error("migration {version} was applied with another text than this version has")]
    Changed {
        /// The migration.
        version: i64,
    },
    /// The database did not do it.
    #[error("the database did not run the migrations")]
    Database(#[from] sqlx::Error),
}

const TABLE: &str = "create schema if not exists {schema};
create table if not exists {schema}.migrations (
    version bigint primary key,
    name text not null,
    checksum text not null,
    applied_at timestamptz not null default now(),
    serves_from bigint
);
";
const SERVES: &str = "alter table {schema}.migrations add column serves_from bigint";
const NOTE: &str = "insert into {schema}.migrations (version, name, checksum, serves_from) values ($1, $2, $3, $4)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_numbered_and_serve_no_later_one() {
        for (number, migration) in (1..).zip(MIGRATIONS) {
            assert_eq!(migration.version, number, "{}", migration.name);
            assert!((1..=number).contains(&migration.serves_from), "{}", migration.name);
        }
    }
}
