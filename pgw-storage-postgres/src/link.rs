//! What connections lead to, and whether it is as it has to be.

use sqlx::postgres::PgConnectOptions;
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
    const ASKED: &str = "select 'what is this called at the server?'";
    const NAME: &str = "select name from pg_prepared_statements where statement = $1";
    // sqlx calls a connection's statements `sqlx_s_1` and so on.
    const OURS: &str = "sqlx";
    let mut connection = PgConnection::connect_with(options).await?;
    // One transaction is on one server.
    let mut transaction = connection.begin().await?;
    let names: Result<Vec<String>, Error> = async {
        sqlx::query(ASKED).fetch_one(&mut *transaction).await?;
        let query = sqlx::query(NAME).persistent(false).bind(ASKED);
        query.fetch_all(&mut *transaction).await?.iter().map(|row| row.try_get(0)).collect()
    }
    .await;
    let names = match names {
        // Another client has a statement of this name there.
        Err(Error::Database(error)) if error.code().as_deref() == Some(DUPLICATE_STATEMENT) => {
            return Ok(false);
        }
        names => names?,
    };
    if names.iter().any(|name| name.starts_with(OURS)) {
        // It would be in the way of the next client that is given this connection of the pooler's.
        sqlx::raw_sql("deallocate sqlx_s_1").execute(&mut *transaction).await?;
        return Ok(false);
    }
    transaction.rollback().await?;
    connection.close().await?;
    Ok(!names.is_empty())
}

/// Which of the settings that a pooler does not pass on are missing, as `jit = on`.
pub(crate) async fn missing_settings(
    connection: &mut PgConnection,
    timeouts: &Timeouts,
) -> Result<Vec<String>, Error> {
    const SETTINGS: &str = "select name, setting from pg_settings where name = any ($1) and setting in ('0', 'on') order by name";
    let names: Vec<_> = timeouts.settings().into_iter().map(|(name, _)| name).collect();
    let query = sqlx::query(SETTINGS).persistent(false).bind(names);
    let rows = query.fetch_all(connection).await?;
    rows.iter()
        .map(|row| Ok(format!("{} = {}", row.try_get::<&str, _>(0)?, row.try_get::<&str, _>(1)?)))
        .collect()
}

/// The SQLSTATE `duplicate_prepared_statement`.
const DUPLICATE_STATEMENT: &str = "42P05";
