//! Every setting there is: what it is called in a file and in the environment, what it is without either, and what it does.

/// One setting.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// `section.name`, as in a file and after `--set`.
    pub(crate) key: &'static str,
    /// The variables it is read from, the first that is set. Each also with `_FILE` at its end: the path of a file that holds it.
    pub(crate) env: &'static [&'static str],
    /// A variable's misspelt name that is read too, with a warning.
    pub(crate) misspelt: Option<&'static str>,
    /// What it is when nobody says.
    pub(crate) default: Option<&'static str>,
    /// Whether it is shown.
    pub(crate) sight: Sight,
    /// What it does, in a line.
    pub(crate) about: &'static str,
}

/// Whether a setting may be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// On a terminal, in a log.
    Plain,
    /// Nowhere: neither shown nor taken from the command line, where every user of the machine sees it.
    Secret,
}

macro_rules! settings {
    ($($(#[misspelt = $misspelt:literal])? $sight:ident $name:ident: $key:literal $env:expr, $default:expr, $about:literal;)*) => {
        $(pub(crate) const $name: Setting = Setting {
            key: $key,
            env: &$env,
            misspelt: settings!(@misspelt $($misspelt)?),
            default: $default,
            sight: Sight::$sight,
            about: $about,
        };)*

        /// Every setting, in the order it is explained in.
        pub(crate) const ALL: &[Setting] = &[$($name,)*];
    };
    (@misspelt) => { None };
    (@misspelt $name:literal) => { Some($name) };
}

settings! {
    Plain BIND: "server.bind" ["PGW_BIND"], Some("127.0.0.1"), "The address to listen on; 0.0.0.0 in a container.";
    Plain PORT: "server.port" ["PORT"], Some("3000"), "The port to listen on; 0 takes a free one.";
    Plain PUBLIC_URL: "server.public_url" ["API_URL"], None, "Where callers reach the server, for Location headers and problem types: https://pay.example.com";
    Plain TRUSTED_PROXIES: "server.trusted_proxies" ["PGW_TRUSTED_PROXIES"], None, "Networks whose X-Forwarded-For is believed: 10.0.0.0/8,fd00::/8";
    Plain CONNECTIONS_MAX: "server.connections_max" ["PGW_CONNECTIONS_MAX"], Some("10000"), "Most connections at once.";
    Plain REQUESTS_MAX: "server.requests_max" ["PGW_REQUESTS_MAX"], Some("1024"), "Most requests at once; beyond that 503 with Retry-After.";
    Plain REQUEST_TIMEOUT: "server.request_timeout" ["PGW_REQUEST_TIMEOUT"], Some("60s"), "The deadline of a request.";
    Plain DRAIN: "server.drain" ["PGW_DRAIN"], Some("35s"), "How long a stop waits for what is under way.";
    Plain TLS_CERT: "server.tls_cert" ["PGW_TLS_CERT"], None, "A PEM file with the certificate chain; with tls_key, the server speaks TLS. SIGHUP reads it anew.";
    Plain TLS_KEY: "server.tls_key" ["PGW_TLS_KEY"], None, "A PEM file with the certificate's key.";

    Secret DATABASE_URL: "database.url" ["DATABASE_URL"], None, "postgres://user:password@host/name?sslmode=verify-full; without it and database.host, everything is in memory.";
    Plain DATABASE_HOST: "database.host" ["DB_HOST"], None, "The host of PostgreSQL, or the directory of its socket.";
    Plain DATABASE_PORT: "database.port" ["DB_PORT"], Some("5432"), "Its port.";
    Plain DATABASE_NAME: "database.name" ["DB_NAME"], None, "The database.";
    Plain DATABASE_USER: "database.user" ["DB_USER"], None, "The role to connect as.";
    Secret DATABASE_PASSWORD: "database.password" ["DB_PASSWORD"], None, "Its password.";
    Plain DATABASE_SSLMODE: "database.sslmode" ["DB_SSLMODE"], Some("prefer"), "disable, prefer, require, verify-ca or verify-full; the last one in production.";
    Plain DATABASE_SSLROOTCERT: "database.sslrootcert" ["DB_SSLROOTCERT"], None, "A PEM file with the authority that signed the server's certificate.";
    Plain DATABASE_SCHEMA: "database.schema" ["PGW_SCHEMA"], Some("pgw"), "The schema of pgw's tables.";
    Plain DATABASE_CONNECTIONS: "database.connections_max" ["PGW_DB_CONNECTIONS"], Some("16"), "Most connections of the pool.";
    Plain DATABASE_POOLER: "database.pooler" ["PGW_DB_POOLER"], Some("false"), "Behind a pooler in transaction mode: prepared where it keeps prepared statements (PgBouncer 1.21 and later with max_prepared_statements), true for every other; false without one.";
    Plain DATABASE_ENGINE: "database.engine" ["PGW_DB_ENGINE"], Some("single"), "single: PostgreSQL or what is like one; distributed: Citus and other engines that spread a table over machines, where each statement is to be about one merchant.";
    Secret DATABASE_LISTEN_URL: "database.listen_url" ["PGW_DB_LISTEN_URL"], None, "Past a pooler: where hints are heard by LISTEN. Without it, work is found by polling.";

    Secret KEY_PEPPER: "secrets.api_key_pepper" ["PGW_API_KEY_PEPPER"], None, "At least 32 bytes that API keys are digested with; `pgw crypto generate` makes one. Losing it ends every key.";
    Secret SEALING_KEYS: "secrets.encryption_keys" ["PGW_ENCRYPTION_KEYS"], None, "The keys that webhook secrets are sealed with, <id>:<base64>, the active one first; `pgw crypto generate` makes one.";

    Plain MERCHANT: "merchant" ["PGW_MERCHANT"], Some("default"), "The merchant that commands are about, and that the first key of `pgw serve` is for.";

    Plain RETRY_MAX: "webhook.retry_max" ["WEBHOOK_RETRY_MAX"], None, "When set: so many retries, 2^n seconds apart. Unset: ten attempts over 75 hours.";
    Plain WEBHOOK_TIMEOUT: "webhook.timeout_ms" ["WEBHOOK_TIMEOUT"], Some("15000"), "The deadline of a webhook, in milliseconds.";
    Plain SIGNATURE_VERSION: "webhook.signature_version" ["WEBHOOK_SIGNATURE_VERSION"], Some("sha256"), "sha256: new endpoints sign by the profiles standard and seed.";
    Plain WEBHOOK_HTTP: "webhook.allow_http" ["PGW_WEBHOOK_ALLOW_HTTP"], Some("false"), "Whether webhooks may go over plain http.";
    Plain WEBHOOK_NETWORKS: "webhook.allow_networks" ["PGW_WEBHOOK_ALLOW_NETWORKS"], None, "Private networks that webhooks may go to: 10.1.0.0/16";

    Plain CORS_ORIGINS: "cors.origins" ["CORS_ORIGINS"], None, "Exact origins that browsers may call from, separated by commas. None: CORS is off.";

    #[misspelt = "RATIONALE_LIMIT"]
    Plain RATE_LIMIT: "rate_limit.requests" ["RATE_LIMIT"], Some("100"), "Requests of one address without a valid key in a window; 0 switches every limit off.";
    #[misspelt = "RATIONALE_WINDOW"]
    Plain RATE_WINDOW: "rate_limit.window_ms" ["RATE_LIMIT_WINDOW"], Some("900000"), "The window, in milliseconds.";
    Plain RATE_PER_KEY: "rate_limit.key_per_minute" ["RATE_LIMIT_PER_KEY"], Some("6000"), "Requests of one API key in a minute.";
    Plain RATE_FAIL_OPEN: "rate_limit.fail_open" ["RATE_LIMIT_FAIL_OPEN"], Some("authenticated,processor"), "Who is served while Redis cannot count them: anonymous, authenticated, processor, or none; the others get 503.";

    Plain WORKER_PORT: "worker.port" ["PGW_WORKER_PORT"], Some("3001"), "The port of `pgw worker` for /metrics, /livez and /readyz, at server.bind; 0 takes a free one.";
    Plain WORKER_OPERATIONS: "worker.operations_max" ["PGW_WORKER_OPERATIONS"], Some("64"), "Most calls to processors at once.";
    Plain WORKER_DELIVERIES: "worker.deliveries_max" ["PGW_WORKER_DELIVERIES"], Some("512"), "Most webhooks under way at once.";

    Plain RETENTION_ANSWERS: "retention.answers" ["PGW_RETENTION_ANSWERS"], Some("24h"), "How long the answer of an idempotency key is repeated byte for byte, at least 24h.";
    Plain RETENTION_AUDIT_DAYS: "retention.audit_days" ["PGW_RETENTION_AUDIT_DAYS"], Some("366"), "How long `pgw purge` leaves the audit log, in days, at least 365.";

    Plain LOG_LEVEL: "log.level" ["LOG_LEVEL"], Some("info"), "error, warn, info, debug or trace; or a filter such as info,pgw_core=debug.";
    Plain LOG_FILE: "log.file" ["LOG_FILE"], None, "A file to log to instead of standard output. SIGHUP opens it anew, for logrotate.";
    Plain LOG_FORMAT: "log.format" ["LOG_FORMAT"], Some("json"), "json or text.";
    Plain OTEL_ENDPOINT: "otel.endpoint" ["OTEL_EXPORTER_OTLP_ENDPOINT"], None, "An OpenTelemetry collector that speaks OTLP over HTTP: http://127.0.0.1:4318. Needs a build with the feature otel.";
    Plain OTEL_SAMPLE_RATE: "otel.sample_rate" ["PGW_OTEL_SAMPLE_RATE"], Some("0.05"), "Which share of requests and jobs is traced, from 0 to 1.";
    Secret SENTRY_DSN: "sentry.dsn" ["SENTRY_DSN"], None, "Where errors are reported, by Sentry's own address. Needs a build with the feature sentry.";
    Plain SENTRY_SAMPLE_RATE: "sentry.traces_sample_rate" ["PGW_SENTRY_TRACES_SAMPLE_RATE"], Some("0.05"), "Which share of requests and jobs Sentry is told about, from 0 to 1. Errors are reported each.";
    Plain ENVIRONMENT: "environment" ["NODE_ENV"], None, "A name for this deployment, such as production. Nothing about security hangs on it.";

    Secret REDIS_URL: "redis.url" ["REDIS_URL"], None, "redis://user:password@host:6379/0, or rediss:// with TLS; several, separated by commas, are nodes of a Cluster, or Sentinels. Without it and redis.host there is no Redis.";
    Plain REDIS_HOST: "redis.host" ["REDIS_HOST"], None, "The host of Redis, instead of redis.url.";
    Plain REDIS_PORT: "redis.port" ["REDIS_PORT"], Some("6379"), "Its port.";
    Plain REDIS_TLS: "redis.tls" ["REDIS_TLS"], Some("false"), "true: redis.host speaks TLS. In redis.url, rediss:// says so.";
    Plain REDIS_CA_FILE: "redis.ca_file" ["REDIS_CA_FILE"], None, "A PEM file with the authority that signed the server's certificate, instead of the system's.";
    Plain REDIS_USER: "redis.user" ["REDIS_USER"], None, "The ACL user to connect as.";
    Secret REDIS_PASSWORD: "redis.password" ["REDIS_PASSWORD"], None, "Its password, or that of requirepass.";
    Plain REDIS_CLUSTER: "redis.cluster" ["REDIS_CLUSTER"], Some("false"), "true: the one address leads to a Cluster. Several URLs do so by themselves.";
    Plain REDIS_SENTINEL_MASTER: "redis.sentinel_master" ["REDIS_SENTINEL_MASTER"], None, "The name of the master that the Sentinels of redis.url watch; user and password are then those of the master, the ones in the URLs the Sentinels' own.";
    Plain REDIS_NAMESPACE: "redis.namespace" ["REDIS_NAMESPACE"], Some("default"), "What this installation's keys begin with, pgw:{<namespace>:…}. Installations that share a Redis must differ in it.";
}

/// The setting of this key.
pub(crate) fn by_key(key: &str) -> Option<&'static Setting> {
    ALL.iter().find(|setting| setting.key == key)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_settings_share_a_name() {
        let keys: BTreeSet<_> = ALL.iter().map(|setting| setting.key).collect();
        assert_eq!(keys.len(), ALL.len());
        let names = || ALL.iter().flat_map(|one| one.env.iter().copied().chain(one.misspelt));
        assert_eq!(names().collect::<BTreeSet<_>>().len(), names().count());
    }

    #[test]
    fn every_name_of_the_deployment_guide_is_read() {
        let names: BTreeSet<_> =
            ALL.iter().flat_map(|one| one.env.iter().copied().chain(one.misspelt)).collect();
        for name in [
            "DB_HOST",
            "DB_PORT",
            "DB_NAME",
            "DB_USER",
            "DB_PASSWORD",
            "REDIS_HOST",
            "REDIS_PORT",
            "REDIS_PASSWORD",
            "NODE_ENV",
            "PORT",
            "API_URL",
            "LOG_LEVEL",
            "LOG_FILE",
            "WEBHOOK_RETRY_MAX",
            "WEBHOOK_TIMEOUT",
            "WEBHOOK_SIGNATURE_VERSION",
            "CORS_ORIGINS",
            "RATIONALE_LIMIT",
            "RATIONALE_WINDOW",
        ] {
            assert!(names.contains(name), "{name}");
        }
    }
}
