//! Simulates worlds from seeds, on all cores: `simulate --seeds 2000`, `simulate --seed 17 --bug due-time-lost`.
//!
//! The last line on standard output is the result. Exits with 1 when an invariant does not hold, or when a long run did not
//! meet what it is there to meet; with 2 when it does not understand its arguments.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use benches::simulated;
use pgw_core::testing::mutants::Bug;
use pgw_core::testing::simulation::{Report, Simulation, Violation};

fn main() -> ExitCode {
    let plan = match Plan::parse(std::env::args().skip(1)) {
        Ok(plan) => plan,
        Err(message) => {
            eprintln!("{message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let (report, done, violation) = plan.run();
    if let Some(violation) = violation {
        let bug = plan.bug.map(|bug| format!(" --bug {bug}")).unwrap_or_default();
        eprintln!("\nseed {}: this does not hold: {}", violation.seed, violation.invariant);
        eprintln!("  {}", violation.detail);
        violation.history.iter().for_each(|line| eprintln!("  {line}"));
        eprintln!("see it again with: {COMMAND} --seed {}{bug}", violation.seed);
        print_result(&report, done, 1);
        return ExitCode::FAILURE;
    }
    let missed = plan.missed(&report);
    if let Some(missed) = missed {
        eprintln!("\nnone of {done} worlds met {missed}: this run proves nothing about it");
    }
    print_result(&report, done, 0);
    if missed.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
struct Plan {
    first: u64,
    seeds: u64,
    bug: Option<Bug>,
}

impl Plan {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut seed, mut seeds, mut bug) = (None, None, None);
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value."))?;
            let number = || -> Result<u64, String> {
                value.parse().map_err(|_| format!("{name} needs a whole number, not {value:?}."))
            };
            match name.as_str() {
                "--seed" => seed = Some(number()?),
                "--seeds" => seeds = Some(number()?),
                "--bug" => {
                    let known =
                        || Bug::ALL.iter().map(|bug| bug.as_str()).collect::<Vec<_>>().join(", ");
                    bug = Some(value.parse().map_err(|_| {
                        format!("There is no planted bug {value:?}. There are: {}.", known())
                    })?);
                }
                _ => return Err(format!("There is no option {name}.")),
            }
        }
        // A seed alone is that one; a number of seeds alone starts at 1.
        let seeds = seeds.unwrap_or(if seed.is_some() { 1 } else { SEEDS_DEFAULT });
        Ok(Self { first: seed.unwrap_or(1), seeds, bug })
    }

    /// Runs the worlds; stops at the first violation. Of several at once, the one of the lowest seed.
    fn run(&self) -> (Report, u64, Option<Violation>) {
        let next = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let shared = Mutex::new((Report::default(), 0_u64, None::<Violation>));
        let step = if std::io::stderr().is_terminal() { 1 } else { (self.seeds / 20).max(1) };
        let work = || {
            while !stop.load(Ordering::Relaxed) {
                let nth = next.fetch_add(1, Ordering::Relaxed);
                if nth >= self.seeds {
                    return;
                }
                let mut simulation = Simulation::new(self.first.wrapping_add(nth));
                if let Some(bug) = self.bug {
                    simulation = simulation.with_bug(bug);
                }
                let result = simulation.run(&simulated::in_memory);
                let mut shared = shared.lock().expect("no thread panics while it holds the lock");
                match result {
                    Ok(report) => shared.0 = shared.0.and(&report),
                    Err(violation) => {
                        stop.store(true, Ordering::Relaxed);
                        if shared.2.as_ref().is_none_or(|known| violation.seed < known.seed) {
                            shared.2 = Some(violation);
                        }
                    }
                }
                shared.1 += 1;
                if shared.1 % step == 0 {
                    progress(shared.1, self.seeds);
                }
            }
        };
        let cores = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            for _ in 0..cores {
                scope.spawn(work);
            }
        });
        shared.into_inner().expect("no thread panicked")
    }

    /// What a run of this length must have met to be worth anything, and did not.
    fn missed(&self, report: &Report) -> Option<&'static str> {
        let wanted = [
            (report.ambiguous_commits, "a commit nobody could tell the outcome of"),
            (report.unknown, "an operation whose outcome was unknown"),
            (report.queues_lost, "the loss of a queue"),
            (report.crashes, "a crash"),
            (report.crashes_under_way, "a crash between a dispatch and its outcome"),
            (report.webhooks, "a webhook that came to its receiver"),
            (report.pauses, "an endpoint that was paused"),
            (report.rotations, "an endpoint that was given another secret"),
            (report.disabled, "an endpoint that was gone"),
            (report.erasures, "a customer who was erased"),
        ];
        let missed = wanted.into_iter().find(|(count, _)| *count == 0).map(|(_, what)| what);
        missed.filter(|_| self.seeds >= LONG)
    }
}

fn progress(done: u64, of: u64) {
    let mut out = std::io::stderr().lock();
    let end = if out.is_terminal() { '\r' } else { '\n' };
    // A terminal that is gone is no reason to stop.
    let _ = write!(out, "{done} of {of} seeds{end}");
}

fn print_result(report: &Report, seeds: u64, violations: u32) {
    if std::io::stderr().is_terminal() {
        eprintln!();
    }
    println!(
        "result: seeds={seeds} operations={} crashes={} crashes_under_way={} ambiguous={} unknown={} queues_lost={} webhooks={} pauses={} rotations={} disabled={} erasures={} trace={:016x} violations={violations}",
        report.operations,
        report.crashes,
        report.crashes_under_way,
        report.ambiguous_commits,
        report.unknown,
        report.queues_lost,
        report.webhooks,
        report.pauses,
        report.rotations,
        report.disabled,
        report.erasures,
        report.trace,
    );
}

const COMMAND: &str = "cargo run --release -p benches --bin simulate --";
const USAGE: &str = "usage: simulate [--seeds N] [--seed FIRST] [--bug NAME]";
/// As many as fit into a few seconds.
const SEEDS_DEFAULT: u64 = 100;
/// A run of this many worlds must have met everything that worlds are made for.
const LONG: u64 = 200;
