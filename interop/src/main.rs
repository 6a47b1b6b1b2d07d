//! `interop`: pgw signs and other people's libraries verify, they sign and pgw verifies, over random messages of which some must be
//! refused. Meant to be run by `scripts/interop`, which installs the libraries.

mod arguments;
mod error;
mod event;
mod library;
mod message;
mod object;
mod pair;
mod peer;
mod process;
mod profile;
mod reference;
mod words;

use std::process::ExitCode;
use std::thread;

use crate::arguments::{Arguments, HELP};
use crate::error::Error;
use crate::library::Host;
use crate::pair::Pair;
use crate::peer::Peer;
use crate::process::Process;
use crate::reference::Reference;

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            eprint!("interop: {why}\n\n{HELP}");
            return ExitCode::from(USAGE);
        }
    };
    let Tally { pairs, messages, mismatches, faults } = run(&arguments);
    if faults > 0 {
        eprintln!("interop: no result, since {faults} of the peers failed");
        return ExitCode::FAILURE;
    }
    println!("result: pairs={pairs} messages={messages} mismatches={mismatches}");
    if mismatches == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What a run came to.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    /// Pairs that were tried.
    pairs: u64,
    /// Messages on which all agreed.
    messages: u64,
    /// Pairs that ended with a mismatch; the rest of their messages was not tried.
    mismatches: u64,
    /// Peers that did not start, or failed in another way than by a mismatch.
    faults: u64,
}

impl Tally {
    fn plus(self, other: Self) -> Self {
        Self {
            pairs: self.pairs + other.pairs,
            messages: self.messages + other.messages,
            mismatches: self.mismatches + other.mismatches,
            faults: self.faults + other.faults,
        }
    }
}

/// Tries all pairs, each host's on a thread of its own: while a peer works, another's messages are made.
fn run(arguments: &Arguments) -> Tally {
    thread::scope(|scope| {
        let hosts = Host::ALL.map(|host| scope.spawn(move || run_host(host, arguments)));
        hosts.into_iter().fold(Tally::default(), |tally, host| {
            tally.plus(host.join().expect("a thread that panicked has said why; so does this one"))
        })
    })
}

fn run_host(host: Host, arguments: &Arguments) -> Tally {
    let mut tally = Tally::default();
    let pairs: Vec<Pair> = Pair::all()
        .filter(|pair| pair.library.host == host && arguments.selects(&pair.to_string()))
        .collect();
    if pairs.is_empty() {
        return tally;
    }
    let mut peer = match start(host, arguments) {
        Ok(peer) => peer,
        Err(error) => {
            report(&error);
            tally.faults += 1;
            return tally;
        }
    };
    for pair in pairs {
        tally.pairs += 1;
        let outcome = arguments.numbers().try_for_each(|number| {
            pair.exchange(peer.as_mut(), arguments.seed, number)?;
            tally.messages += 1;
            Ok(())
        });
        match outcome {
            Ok(()) => println!("agrees    {pair}"),
            Err(error @ Error::Mismatch { .. }) => {
                report(&error);
                tally.mismatches += 1;
            }
            // A peer that did not answer once will not answer again.
            Err(error) => {
                report(&error);
                tally.faults += 1;
                break;
            }
        }
    }
    tally
}

fn start(host: Host, arguments: &Arguments) -> Result<Box<dyn Peer>, Error> {
    Ok(match host {
        Host::Node => Box::new(Process::start(&arguments.node, "peer.js")?),
        Host::Python => Box::new(Process::start(&arguments.python, "peer.py")?),
        Host::Rust => Box::new(Reference),
    })
}

fn report(error: &Error) {
    eprint!("interop: {error}");
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        eprint!(": {error}");
        source = error.source();
    }
    eprintln!();
}

/// The exit status for arguments that are none.
const USAGE: u8 = 2;
