//! kill -9, while it works: PostgreSQL under load, and worker processes with charges and webhooks in flight.
//!
//! Runs without the usual harness, because it is its own worker process: `kill worker <url> <schema> <socket> <number>`. It starts its
//! own servers and needs no environment. `PGW_KILLS=10` does ten times as many kills as CI does.

mod bank;
mod child;
mod clients;
mod postgres;
mod recorder;
mod wire;
mod workers;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// A scenario does this many times what CI does, and says what it saw.
type Scenario = fn(u32) -> String;

const SCENARIOS: [(&str, Scenario); 2] = [
    ("postgres_killed_under_load", postgres::killed_under_load),
    ("worker_killed_mid_flight", workers::killed_mid_flight),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // With all four, so that `worker` alone is a filter like any other.
    if let [what, url, schema, socket, number] = &arguments[..]
        && what == "worker"
    {
        child::work(url, schema, socket, number);
        return ExitCode::SUCCESS;
    }
    let asked = Asked::of(&arguments);
    let chosen: Vec<_> = SCENARIOS.iter().filter(|(name, _)| asked.wants(name)).collect();
    if asked.lists {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", chosen.len());
    let times = times();
    let mut failed = Vec::new();
    for (name, scenario) in &chosen {
        match catch_unwind(AssertUnwindSafe(|| scenario(times))) {
            Ok(saw) => println!("test {name} ... ok\n     {saw}"),
            Err(_) => {
                println!("test {name} ... FAILED");
                failed.push(*name);
            }
        }
    }
    if !failed.is_empty() {
        println!("\nfailures, each with its panic above: {}", failed.join(", "));
    }
    println!(
        "\ntest result: {}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out\n",
        if failed.is_empty() { "ok" } else { "FAILED" },
        chosen.len() - failed.len(),
        failed.len(),
        SCENARIOS.len() - chosen.len(),
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(101) }
}

fn times() -> u32 {
    std::env::var("PGW_KILLS").map_or(1, |times| {
        times.parse().unwrap_or_else(|_| panic!("PGW_KILLS is a factor like 10, not {times:?}"))
    })
}

/// What the arguments of `cargo test` ask for, as far as it means anything here.
#[derive(Debug, Default)]
struct Asked {
    lists: bool,
    is_exact: bool,
    /// Those that are marked as ignored, of which there are none.
    only_ignored: bool,
    filters: Vec<String>,
    skipped: Vec<String>,
}

impl Asked {
    fn of(arguments: &[String]) -> Self {
        let mut asked = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--list" => asked.lists = true,
                "--exact" => asked.is_exact = true,
                "--ignored" => asked.only_ignored = true,
                "--skip" => asked.skipped.extend(arguments.next().cloned()),
                "--test-threads" | "--format" | "--color" | "--logfile" | "--shuffle-seed"
                | "-Z" => {
                    arguments.next();
                }
                option if option.starts_with('-') => {
                    asked.skipped.extend(option.strip_prefix("--skip=").map(str::to_owned));
                }
                filter => asked.filters.push(filter.to_owned()),
            }
        }
        asked
    }

    fn wants(&self, name: &str) -> bool {
        let matches =
            |text: &String| if self.is_exact { name == text } else { name.contains(text.as_str()) };
        let is_chosen = self.filters.is_empty() || self.filters.iter().any(matches);
        is_chosen && !self.only_ignored && !self.skipped.iter().any(matches)
    }
}
