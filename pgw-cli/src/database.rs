//! The database that the configuration names: connection options, and what is said of them.

use std::str::FromStr as _;

use pgw_core::secret::Secret;
use pgw_storage_postgres::sqlx::postgres::{PgConnectOptions, PgSslMode};
use pgw_storage_postgres::sqlx::{ConnectOptions as _, PgConnection};
use pgw_storage_postgres::{Link, PgStorage, PgStorageBuilder, Schema};
use url::Url;

use crate::config::{Config, setting};
use crate::failure::{Exit, Failure};

/// How to connect; `None` when everything is to be in memory.
///
/// # Errors
/// [`Failure`] when a setting is wrong. What it says holds no password.
pub(crate) fn options(config: &Config) -> Result<Option<PgConnectOptions>, Failure> {
    if let Some(url) = config.secret(&setting::DATABASE_URL) {
        return Ok(Some(parse(config, &setting::DATABASE_URL, url.expose())?));
    }
    let Some(host) = config.text(&setting::DATABASE_HOST) else {
        return Ok(None);
    };
    let mut options =
        PgConnectOptions::new_without_pgpass().port(config.require(&setting::DATABASE_PORT)?);
    // A directory is that of a Unix socket.
    options = if host.starts_with('/') { options.socket(host) } else { options.host(host) };
    if let Some(name) = config.text(&setting::DATABASE_NAME) {
        options = options.database(name);
    }
    if let Some(user) = config.text(&setting::DATABASE_USER) {
        options = options.username(user);
    }
    if let Some(password) = config.secret(&setting::DATABASE_PASSWORD) {
        options = options.password(password.expose());
    }
    if let Some(path) = config.text(&setting::DATABASE_SSLROOTCERT) {
        options = options.ssl_root_cert(path);
    }
    let mode = config.read(&setting::DATABASE_SSLMODE, |text| {
        PgSslMode::from_str(text)
            .map_err(|_| "must be disable, prefer, require, verify-ca or verify-full".to_owned())
    })?;
    Ok(Some(options.ssl_mode(mode.unwrap_or(PgSslMode::Prefer))))
}

fn parse(
    config: &Config,
    setting: &setting::Setting,
    url: &str,
) -> Result<PgConnectOptions, Failure> {
    let options: Result<PgConnectOptions, _> = url.parse();
    // The error of the parser may quote the URL.
    options.map_err(|_| {
        config.wrong(setting, "must be postgres://user:password@host/name?sslmode=…").into()
    })
}

/// That there is a database at all.
///
/// # Errors
/// [`Failure`].
pub(crate) fn required(config: &Config) -> Result<PgConnectOptions, Failure> {
    options(config)?.ok_or_else(|| {
        Failure::usage("this needs a database: set DATABASE_URL, or DB_HOST and its companions")
    })
}

/// A storage on it.
///
/// # Errors
/// [`Failure`].
pub(crate) fn builder(config: &Config) -> Result<PgStorageBuilder, Failure> {
    let mut builder = PgStorage::builder()
        .with_schema(schema(config)?)
        .with_connections_max(config.require(&setting::DATABASE_CONNECTIONS)?);
    if config.flag(&setting::DATABASE_POOLER)? {
        builder = builder.with_link(Link::Pooler);
    }
    if let Some(url) = config.secret(&setting::DATABASE_LISTEN_URL) {
        builder =
            builder.with_listener(parse(config, &setting::DATABASE_LISTEN_URL, url.expose())?);
    }
    Ok(builder)
}

/// The schema of our tables.
///
/// # Errors
/// [`Failure`].
pub(crate) fn schema(config: &Config) -> Result<Schema, Failure> {
    Ok(config.require(&setting::DATABASE_SCHEMA)?)
}

/// One connection, for what is done once.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn connection(config: &Config) -> Result<PgConnection, Failure> {
    let options = required(config)?.application_name("pgw");
    let connected = options.disable_statement_logging().connect().await;
    connected.map_err(|error| {
        Failure::new(Exit::Unavailable, "the database cannot be used").because(error)
    })
}

/// The password, for PostgreSQL's own programs.
pub(crate) fn password(config: &Config) -> Option<Secret> {
    let Some(url) = url(config) else { return config.secret(&setting::DATABASE_PASSWORD) };
    let decoded = percent_encoding::percent_decode_str(url.password()?).decode_utf8().ok()?;
    Some(Secret::new(decoded))
}

/// The file of the authority that signed the server's certificate.
pub(crate) fn root_certificate(config: &Config) -> Option<String> {
    let Some(url) = url(config) else {
        return config.text(&setting::DATABASE_SSLROOTCERT).map(str::to_owned);
    };
    let mut parameters = url.query_pairs();
    let found = parameters.find(|(name, _)| matches!(&**name, "sslrootcert" | "ssl-root-cert"));
    found.map(|(_, value)| value.into_owned())
}

fn url(config: &Config) -> Option<Url> {
    Url::parse(config.text(&setting::DATABASE_URL)?).ok()
}

/// What is to be said of a connection to a server elsewhere that does not check who answers.
pub(crate) fn warning(options: &PgConnectOptions) -> Option<String> {
    let host = options.get_host();
    let local = options.get_socket().is_some()
        || host.starts_with('/')
        || matches!(host, "localhost" | "127.0.0.1" | "::1");
    let checked = matches!(options.get_ssl_mode(), PgSslMode::VerifyFull);
    (!local && !checked).then(|| {
        "the connection to the database does not check who answers: whoever is in between can read and change payments. Set sslmode=verify-full".to_owned()
    })
}
