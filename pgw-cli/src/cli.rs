//! The command line: what there is to say and what each word means.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use pgw_core::scope::{MerchantId, Mode};

use crate::{
    audit, backup, cache, crypto, incident, keys, migrate, payments, privacy, purge, serve,
    webhooks, worker,
};

/// Runs and operates a payment gateway.
#[derive(Debug, Parser)]
#[command(name = "pgw", version, about, long_about = LONG_ABOUT, after_long_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// A configuration file (TOML). Also read from PGW_CONFIG.
    #[arg(long, short, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A setting, before what file and environment say; `pgw config explain` lists them.
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Print JSON, one value on a line.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// The merchant, instead of the configured one.
    #[arg(long, global = true, value_name = "ID")]
    pub(crate) merchant: Option<MerchantId>,
    /// Live mode: real money. Without it, test mode.
    #[arg(long, global = true)]
    live: bool,
}

impl Global {
    pub(crate) const fn mode(&self) -> Mode {
        if self.live { Mode::Live } else { Mode::Test }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the HTTP API, and do the work behind it.
    Serve(serve::ServeArgs),
    /// Do the work without serving: call processors, send webhooks, expire, seal.
    Worker(worker::WorkerArgs),
    /// Bring the database's schema up to date, as its owner.
    Migrate(migrate::MigrateArgs),
    /// API keys.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Webhook endpoints and deliveries.
    #[command(subcommand)]
    Webhooks(webhooks::WebhooksCommand),
    /// Payments.
    #[command(subcommand)]
    Payments(payments::PaymentsCommand),
    /// The audit log: who did what, and whether anybody changed it since.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Personal data: erase it, hand it out, erase it again after a restore.
    #[command(subcommand)]
    Privacy(privacy::PrivacyCommand),
    /// Keys for secrets at rest.
    #[command(subcommand)]
    Crypto(crypto::CryptoCommand),
    /// What to do when something bad happens.
    #[command(subcommand)]
    Incident(incident::IncidentCommand),
    /// Write a backup of the database, and delete old ones.
    Backup(backup::BackupArgs),
    /// Restore a backup to a scratch database and check what is in it.
    VerifyBackup(backup::VerifyArgs),
    /// Drop what was kept as long as it is to be: stored answers, and the audit log's oldest rows. As the schema's owner.
    Purge(purge::PurgeArgs),
    /// What processes and Redis keep beside the database.
    #[command(subcommand)]
    Cache(cache::CacheCommand),
    /// Look at everything the gateway depends on and say what is wrong.
    Doctor,
    /// How much there is to do, and how old it is.
    Status,
    /// The configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// About the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show each value, where it is from, and whether it can be used. Secrets are masked.
    Check {
        /// Also what nobody has set.
        #[arg(long)]
        all: bool,
    },
    /// List every setting with its variables, its default and what it does.
    Explain,
}

const LONG_ABOUT: &str = "\
Runs and operates a payment gateway.

  pgw serve                      in memory, with nothing installed: prints a key and where it listens
  DATABASE_URL=… pgw migrate     makes the tables
  DATABASE_URL=… pgw serve       on PostgreSQL
  REDIS_URL=… DATABASE_URL=… …   with a Redis beside it, for speed and for limits over several processes

Settings come from the command line (--set), then the environment, then a file (--config), then defaults.
Every variable can be given as NAME_FILE, the path of a file that holds its value.";

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  refused, or it did not work
  2  the command line or the configuration is wrong
  3  a server cannot be reached: try again
  4  there is no such object
  5  a check found something wrong";
