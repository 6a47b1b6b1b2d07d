//! pgbench, the load generator of PostgreSQL itself: the baseline that is not ours.

use std::error::Error;
use std::fs;
use std::process::Command;
use std::time::Duration;

use servers::Postgres;

use crate::time::quantile;

/// What a run of a load came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Transactions, payments or jobs a second.
    pub per_s: f64,
    /// The time that half of them stay below.
    pub p50: Duration,
    /// The time that 99 of 100 stay below.
    pub p99: Duration,
}

/// Runs a script for some seconds with so many clients, statements prepared; what each transaction took is logged and read back.
///
/// # Errors
/// When pgbench cannot be run, fails, or one of its transactions does.
pub fn pgbench(
    postgres: &Postgres,
    script: &str,
    clients: usize,
    seconds: u64,
) -> Result<Load, Box<dyn Error>> {
    let directory = std::env::temp_dir().join(format!("pgw-bench-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    let file = directory.join("script.sql");
    fs::write(&file, script)?;
    let prefix = directory.join("log");
    let output = Command::new(postgres.bin_directory().join("pgbench"))
        .args(["--no-vacuum", "--protocol=prepared", "--jobs=2", "--log"])
        .arg(format!("--log-prefix={}", prefix.display()))
        .arg(format!("--client={clients}"))
        .arg(format!("--time={seconds}"))
        .arg(format!("--file={}", file.display()))
        .arg(postgres.url())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(format!("pgbench: {text}{}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let per_s = text
        .lines()
        .find_map(|line| line.strip_prefix("tps = "))
        .and_then(|rest| rest.split(' ').next())
        .ok_or("pgbench says no tps")?
        .parse()?;
    let mut latencies = Vec::new();
    for entry in fs::read_dir(&directory)? {
        let path = entry?.path();
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("log.")) {
            continue;
        }
        for line in fs::read_to_string(&path)?.lines() {
            // client, transaction, microseconds, …
            let micros = line.split(' ').nth(2).and_then(|micros| micros.parse().ok());
            latencies.extend(micros.map(Duration::from_micros));
        }
    }
    fs::remove_dir_all(&directory)?;
    let (p50, p99) = (quantile(&mut latencies, 0.5), quantile(&mut latencies, 0.99));
    Ok(Load { per_s, p50, p99 })
}
