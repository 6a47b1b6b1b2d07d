//! The database that the configuration names: connection options, and what is said of them.

use std::str::FromStr as _;

use pgw_core::secret::Secret;
use pgw_storage_postgres::sqlx::postgres::{PgConnectOptions, PgSslMode};
use pgw_storage_postgres::sqlx::{ConnectOptions as _, PgConnection};
use pgw_storage_postgres::{Engine, Link, PgStorage, PgStorageBuilder, Schema};
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
        .with_connections_max(config.require(&setting::DATABASE_CONNECTIONS)?)
        .with_link(link(config)?);
    match config.text(&setting::DATABASE_ENGINE) {
        Some("distributed") => builder = builder.with_engine(Engine::Distributed),
        Some("single") | None => {}
        Some(_) => {
            let must = "must be single or distributed";
            return Err(config.wrong(&setting::DATABASE_ENGINE, must).into());
        }
    }
    if let Some(url) = config.secret(&setting::DATABASE_LISTEN_URL) {
        builder =
            builder.with_listener(parse(config, &setting::DATABASE_LISTEN_URL, url.expose())?);
    }
    Ok(builder)
}

/// Whether a pooler is in between, and of which kind.
///
/// # Errors
/// [`Failure`].
pub(crate) fn link(config: &Config) -> Result<Link, Failure> {
    if config.text(&setting::DATABASE_POOLER) == Some("prepared") {
        return Ok(Link::PreparedPooler);
    }
    match config.flag(&setting::DATABASE_POOLER) {
        Ok(true) => Ok(Link::Pooler),
        Ok(false) => Ok(Link::Direct),
        Err(_) => {
            Err(config.wrong(&setting::DATABASE_POOLER, "must be true, false or prepared").into())
        }
    }
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
    password_of(&url)
}

/// As our driver reads it: what the query says comes after what stands before the host, and counts.
fn password_of(url: &Url) -> Option<Secret> {
    if let Some(password) = parameter(url, &["password"]) {
        return Some(Secret::new(password));
    }
    let decoded = percent_encoding::percent_decode_str(url.password()?).decode_utf8().ok()?;
    Some(Secret::new(decoded))
}

/// Files of certificates and keys, each under the variable that PostgreSQL's own programs read: of the authority that signed the server's, and
/// of the client.
pub(crate) fn certificates(config: &Config) -> Vec<(&'static str, String)> {
    let Some(url) = url(config) else {
        let root = config.text(&setting::DATABASE_SSLROOTCERT);
        return root.map(|path| ("PGSSLROOTCERT", path.to_owned())).into_iter().collect();
    };
    certificates_of(&url)
}

/// By all the names that our driver reads.
fn certificates_of(url: &Url) -> Vec<(&'static str, String)> {
    let names: [(&str, &[&str]); 3] = [
        ("PGSSLROOTCERT", &["sslrootcert", "ssl-root-cert", "ssl-ca"]),
        ("PGSSLCERT", &["sslcert", "ssl-cert"]),
        ("PGSSLKEY", &["sslkey", "ssl-key"]),
    ];
    let found = names.map(|(variable, names)| Some((variable, parameter(url, names)?)));
    found.into_iter().flatten().collect()
}

/// The value of a parameter by any of its names: the last one, as in our driver.
fn parameter(url: &Url, names: &[&str]) -> Option<String> {
    let named = url.query_pairs().filter(|(name, _)| names.contains(&&**name));
    named.last().map(|(_, value)| value.into_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers_elsewhere_is_to_be_checked() {
        let warns = |url: &str| warning(&url.parse().unwrap()).is_some();
        for url in ["postgres://db.example.com/pgw", "postgres://10.0.0.7/pgw?sslmode=require"] {
            assert!(warns(url), "{url}");
        }
        for url in [
            "postgres://db.example.com/pgw?sslmode=verify-full",
            "postgres://localhost/pgw",
            "postgres://127.0.0.1/pgw",
            "postgres:///pgw?host=/run/postgresql",
        ] {
            assert!(!warns(url), "{url}");
        }
    }

    #[test]
    fn postgresqls_programs_are_told_what_our_driver_reads() {
        let url = |text: &str| Url::parse(text).unwrap();
        let password = |text: &str| password_of(&url(text)).map(|it| it.expose().to_owned());
        assert_eq!(password("postgres://u:a%2Fb@h/d").as_deref(), Some("a/b"));
        assert_eq!(password("postgres://u:a@h/d?password=b%26").as_deref(), Some("b&"));
        assert_eq!(password("postgres://u@h/d?password=b&password=c").as_deref(), Some("c"));
        assert_eq!(password("postgres://u@h/d"), None);
        let files = certificates_of(&url("postgres://h/d?ssl-ca=/a&sslcert=/b%20c&ssl-key=/d"));
        let expected = [("PGSSLROOTCERT", "/a"), ("PGSSLCERT", "/b c"), ("PGSSLKEY", "/d")];
        assert_eq!(files, expected.map(|(name, path)| (name, path.to_owned())));
        for name in ["sslrootcert", "ssl-root-cert"] {
            let files = certificates_of(&url(&format!("postgres://h/d?{name}=/r")));
            assert_eq!(files, [("PGSSLROOTCERT", "/r".to_owned())]);
        }
        assert_eq!(certificates_of(&url("postgres://h/d?sslmode=require")), []);
    }
}
