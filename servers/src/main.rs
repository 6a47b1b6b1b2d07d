//! `servers [--durable] -- COMMAND [ARGUMENT…]`: runs a command with a PostgreSQL of its own, two PgBouncers in front of it,
//! a Redis, and a Redis Cluster.

use std::env;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use servers::{PgBouncer, Postgres, PostgresBuilder, Redis, RedisCluster, ServerError};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

fn main() -> ExitCode {
    let arguments = match Arguments::parse(env::args_os().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(argument) => {
            eprint!("servers: {argument}\n\n{HELP}");
            return ExitCode::from(FAILED);
        }
    };
    match run(&arguments) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            report(error.as_ref());
            ExitCode::from(FAILED)
        }
    }
}

#[derive(Debug)]
struct Arguments {
    postgres: PostgresBuilder,
    program: OsString,
    arguments: Vec<OsString>,
}

impl Arguments {
    /// None when help is asked for; an error says what is wrong.
    fn parse(mut given: impl Iterator<Item = OsString>) -> Result<Option<Self>, String> {
        let mut postgres = Postgres::builder();
        loop {
            let argument = given.next().ok_or("there is no command")?;
            match argument.to_str() {
                Some("--durable") => postgres = postgres.durable(),
                Some("--help" | "-h") => return Ok(None),
                Some("--") => break,
                _ => return Err(format!("{} is no option", argument.display())),
            }
        }
        let program = given.next().ok_or("there is no command")?;
        Ok(Some(Self { postgres, program, arguments: given.collect() }))
    }
}

/// Starts the servers, runs the command, and stops the servers. Returns the status to exit with.
fn run(arguments: &Arguments) -> Result<u8, Box<dyn Error>> {
    // From here on a signal does not end this process, which has to stop the servers first.
    let mut signals = Signals::new([SIGCHLD, SIGHUP, SIGINT, SIGTERM])?;
    let servers = Servers::start(arguments.postgres.clone())?;
    if let Some(signal) = signals.pending().find(|&signal| signal != SIGCHLD) {
        return Ok(killed(signal));
    }
    let command = Command::new(&arguments.program)
        .args(&arguments.arguments)
        .env("PGW_TEST_POSTGRES", servers.postgres.url())
        .env("PGW_TEST_PGBOUNCER", servers.pgbouncer.url())
        .env("PGW_TEST_PGBOUNCER_PREPARED", servers.prepared.url())
        .env("PGW_TEST_REDIS", servers.redis.url())
        .env("PGW_TEST_REDIS_CLUSTER", servers.redis_cluster.urls().join(","))
        .spawn();
    match command {
        Ok(command) => Ok(status(wait(command, &mut signals)?)),
        Err(error) => {
            report_start(&arguments.program, &error);
            Ok(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUN })
        }
    }
}

#[derive(Debug)]
struct Servers {
    pgbouncer: PgBouncer,
    prepared: PgBouncer,
    postgres: Postgres,
    redis: Redis,
    redis_cluster: RedisCluster,
}

impl Servers {
    /// All at the same time, since most of it is waiting.
    fn start(postgres: PostgresBuilder) -> Result<Self, ServerError> {
        thread::scope(|scope| {
            // Nobody is to fail here, and a starved machine must not be taken for a failure.
            let redis_cluster =
                RedisCluster::builder().with_setting("cluster-node-timeout", "60000");
            let redis_cluster = scope.spawn(|| redis_cluster.start());
            let postgres = postgres.start()?;
            let pgbouncer = PgBouncer::builder(&postgres).start()?;
            let prepared = PgBouncer::builder(&postgres).keeping_statements();
            let prepared = prepared.with_role(PREPARED_ROLE).start()?;
            let redis = Redis::builder().start()?;
            let redis_cluster = redis_cluster.join().expect("starting servers does not panic")?;
            Ok(Self { pgbouncer, prepared, postgres, redis, redis_cluster })
        })
    }
}

/// Waits for the command, to which it passes on what asks this process to end.
fn wait(mut command: Child, signals: &mut Signals) -> io::Result<ExitStatus> {
    loop {
        // The command has not been waited for at the time of the signal, so its number is still its own.
        if let Some(status) = command.try_wait()? {
            return Ok(status);
        }
        for signal in signals.wait() {
            let passed_on = match signal {
                SIGTERM => Signal::TERM,
                SIGHUP => Signal::HUP,
                // Ctrl-C reaches every process in the foreground, so the command has got its own; and of SIGCHLD the
                // loop makes use.
                _ => continue,
            };
            kill_process(Pid::from_child(&command), passed_on)?;
        }
    }
}

/// As a shell reports it.
fn status(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(FAILED),
        (None, signal) => signal.map_or(FAILED, killed),
    }
}

/// As a shell reports that a signal ended a command.
fn killed(signal: i32) -> u8 {
    u8::try_from(signal).map_or(FAILED, |signal| signal.saturating_add(128))
}

fn report(error: &dyn Error) {
    eprint!("servers: {error}");
    let mut source = error.source();
    while let Some(error) = source {
        eprint!(": {error}");
        source = error.source();
    }
    eprintln!();
}

fn report_start(program: &OsStr, error: &io::Error) {
    eprintln!("servers: cannot start {}: {error}", program.display());
}

/// Who the second PgBouncer is at the server. The command makes the role, as its tests are about the role's settings.
const PREPARED_ROLE: &str = "pgw_prepared";

/// Exit statuses for what is not the command's own, as env(1) and timeout(1) have them.
const FAILED: u8 = 125;
const NOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

const HELP: &str = "\
Runs a command with servers of its own, PostgreSQL, PgBouncer and Redis, and exits with the command's status.

usage: servers [--durable] -- COMMAND [ARGUMENT...]

The command finds their URLs in the environment:
  PGW_TEST_POSTGRES            PostgreSQL
  PGW_TEST_PGBOUNCER           the same server through PgBouncer, in transaction mode
  PGW_TEST_PGBOUNCER_PREPARED  the same through one that keeps prepared statements, as the role pgw_prepared, which is not there yet
  PGW_TEST_REDIS               Redis
  PGW_TEST_REDIS_CLUSTER       the three masters of a Redis Cluster, separated by commas

options:
  --durable  PostgreSQL commits as in production: fsync, synchronous_commit and full_page_writes stay on
  --help     print this

The servers and all their data are gone when this ends, in whatever way.
";
