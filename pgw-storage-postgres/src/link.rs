//! What connections lead to, and whether it is as it has to be.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{Connection as _, Error, PgConnection, Row as _};

use crate::database::Timeouts;

/// What connections lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Link {
    /// The server itself: statements are prepared once a connection, and a commit is one round trip.
    #[default]
    Direct,
    /// A pooler in transaction mode (PgBouncer 1.18 and later, RDS Proxy, Supavisor): nothing outlives a transaction, so no
    /// statement stays prepared and each call is an explicit transaction.
    Pooler,
    /// A pooler in transaction mode that keeps the prepared statements of its clients apart (PgBouncer 1.21 and later with
    /// [`max_prepared_statements`](https://www.pgbouncer.org/config.html#max_prepared_statements), 200 by default from 1.24): statements are
    /// planned once, and a commit is one round trip, as on a direct connection. The role has the settings that a pooler does not pass on, see
    /// [`Timeouts::for_role`]. Both are checked when a storage is made.
    ///
    /// Do not take the support away from under running processes (`max_prepared_statements = 0`): two of them may then name different
    /// statements alike.
    PreparedPooler,
}

impl Link {
    /// Whether what is prepared on a connection stays prepared.
    pub(crate) const fn keeps_statements(self) -> bool {
        match self {
            Self::Direct | Self::PreparedPooler => true,
            Self::Pooler => false,
        }
    }
}

/// Whether the pooler there keeps the prepared statements of its clients apart: each of them calls its first one alike, so it has to call them
/// something else at the server. Where it does not, one client's arguments would go to another's statement.
pub(crate) async fn keeps_statements_apart(options: &PgConnectOptions) -> Result<bool, Error> {
    let asked = async {
        let mut connection = PgConnection::connect_with(options).await?;
        // One transaction is on one server.
        let mut transaction = connection.begin().await?;
        let are_apart = are_apart(&mut transaction).await?;
        // Ended in good order, or the pooler takes its connection to the server for broken.
        transaction.rollback().await?;
        connection.close().await?;
        Ok(are_apart)
    };
    tokio::time::timeout(ASKED_FOR, asked).await.unwrap_or(Err(Error::PoolTimedOut))
}

async fn are_apart(connection: &mut PgConnection) -> Result<bool, Error> {
    const ASKED: &str = "select 'what is this called at the server?'";
    const NAMES: &str = "select name from pg_prepared_statements where statement = $1";
    // sqlx calls a connection's statements `sqlx_s_1` and so on.
    const OURS: &str = "sqlx";
    match sqlx::query(ASKED).fetch_one(&mut *connection).await {
        // Another client has a statement of this name there.
        Err(Error::Database(error)) if error.code().as_deref() == Some(DUPLICATE_STATEMENT) => {
            return Ok(false);
        }
        asked => drop(asked?),
    }
    if connection.cached_statements_size() == 0 {
        let why = "the pool's connections keep no statements: give it a statement_cache_capacity";
        return Err(Error::Configuration(why.into()));
    }
    let names =
        sqlx::query(NAMES).persistent(false).bind(ASKED).fetch_all(&mut *connection).await?;
    let is_ours = |row: &PgRow| Ok(row.try_get::<&str, _>(0)?.starts_with(OURS));
    let are_ours = names.iter().map(is_ours).collect::<Result<Vec<bool>, Error>>()?;
    if are_ours.contains(&true) {
        // It would be in the way of the next client that is given this connection of the pooler's.
        sqlx::raw_sql("deallocate sqlx_s_1").execute(connection).await?;
    }
    Ok(!are_ours.is_empty() && !are_ours.contains(&true))
}

/// Which of the settings that a pooler does not pass on are others, as `jit = on`.
pub(crate) async fn other_settings(
    connection: &mut PgConnection,
    timeouts: &Timeouts,
) -> Result<Vec<String>, Error> {
    const OTHERS: &str = "select s.name, s.setting from unnest($1::text[], $2::text[]) as wanted(name, setting) \
         join pg_settings s on s.name = wanted.name where s.setting <> wanted.setting order by s.name";
    let (names, values): (Vec<_>, Vec<_>) = timeouts.settings().into_iter().unzip();
    let query = sqlx::query(OTHERS).persistent(false).bind(names).bind(values);
    let rows = query.fetch_all(connection).await?;
    let shown = |row: &PgRow| {
        Ok(format!("{} = {}", row.try_get::<&str, _>(0)?, row.try_get::<&str, _>(1)?))
    };
    rows.iter().map(shown).collect()
}

/// The SQLSTATE `duplicate_prepared_statement`.
const DUPLICATE_STATEMENT: &str = "42P05";
/// How long the pooler may take to answer.
const ASKED_FOR: Duration = Duration::from_secs(10);
