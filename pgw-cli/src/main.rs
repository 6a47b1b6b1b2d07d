//! `pgw`: serves the payment gateway, and runs and operates it. A thin skin over the library: what a command does is a verb of
//! [`pgw_core::gateway`], said aloud.

mod audit;
mod backup;
mod cache;
mod cli;
mod config;
mod crypto;
mod database;
mod doctor;
mod failure;
mod incident;
mod keys;
mod logs;
mod metrics;
mod migrate;
mod node;
#[cfg(feature = "otel")]
mod otel;
mod output;
mod panics;
mod payments;
mod privacy;
mod purge;
mod redis;
#[cfg(feature = "sentry")]
mod sentry;
mod serve;
mod settings;
mod status;
mod stop;
#[cfg(any(feature = "otel", feature = "sentry"))]
mod tls;
mod unknown;
mod webhooks;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command};
use config::{Config, Sources};
use failure::Failure;
use logs::Logs;
use output::{Format, Output};

/// Under load the system's allocator takes a third of the server's own time, and with musl more.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let out = Output { format: if cli.global.json { Format::Json } else { Format::Text } };
    match run(&cli, out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            out.note(failure.to_string());
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn run(cli: &Cli, out: Output) -> Result<(), Failure> {
    let file = cli.global.config.clone();
    let file = file.or_else(|| std::env::var_os("PGW_CONFIG").map(PathBuf::from));
    let sources = Sources { flags: cli.global.set.clone(), file };
    let config = config::load(&sources, |name| std::env::var(name))?;
    if !matches!(cli.command, Command::Config(_) | Command::Doctor) {
        config.warnings.iter().for_each(|warning| out.note(warning));
    }
    let program = match cli.command {
        Command::Serve(_) | Command::Worker(_) => logs::Program::Server,
        _ => logs::Program::Command,
    };
    let logs = logs::start(&config, program)?;
    panics::log();
    let runtime = tokio::runtime::Runtime::new()
        .map_err(Failure::system("cannot start the asynchronous runtime"))?;
    let done = runtime.block_on(act(cli, &config, &logs, out));
    // Tasks end first, for they still log; the logs last, outside any runtime.
    drop(runtime);
    drop(logs);
    done
}

async fn act(cli: &Cli, config: &Config, logs: &Logs, out: Output) -> Result<(), Failure> {
    let global = &cli.global;
    match &cli.command {
        Command::Serve(args) => serve::run(config, global, args, logs, out).await,
        Command::Worker(args) => worker::run(config, global, args, logs).await,
        Command::Keys(command) => keys::run(config, global, command, out).await,
        Command::Migrate(args) => migrate::run(config, args, out).await,
        Command::Webhooks(command) => webhooks::run(config, global, command, out).await,
        Command::Payments(command) => payments::run(config, global, command, out).await,
        Command::Privacy(command) => privacy::run(config, global, command, out).await,
        Command::Crypto(command) => crypto::run(config, global, command, out).await,
        Command::Audit(command) => audit::run(config, global, command, out).await,
        Command::Incident(command) => incident::run(config, global, command, out).await,
        Command::Backup(args) => backup::run(config, args, out).await,
        Command::VerifyBackup(args) => backup::verify(config, args, out).await,
        Command::Purge(args) => purge::run(config, args, out).await,
        Command::Cache(command) => cache::run(config, global, command, out).await,
        Command::Doctor => doctor::run(config, global, out).await,
        Command::Status => status::run(config, global, out).await,
        Command::Config(command) => settings::run(config, command, out),
    }
}
