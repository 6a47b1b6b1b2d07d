//! What can go wrong in a run.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use pgw_webhook_client::{SecretError, SignError};

/// Why a pair was not tried to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A message of which somebody thinks otherwise than they should.
    #[error(
        "MISMATCH in {pair}, seed {seed}, message {number}: {what}\n\
         replay: scripts/interop --seed {seed} --pair {pair} --message {number}"
    )]
    Mismatch {
        /// The pair's name.
        pair: String,
        /// The run's seed.
        seed: u64,
        /// The message's number.
        number: u64,
        /// Who thinks what.
        what: String,
    },
    /// A peer's program cannot be started, or waited for.
    #[error("cannot run {program}")]
    Run {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A peer is gone.
    #[error("the peer {program} ended ({status}) while it was asked; its own words are above")]
    Ended {
        /// The program.
        program: String,
        /// What it ended with.
        status: ExitStatus,
    },
    /// A peer does not answer.
    #[error("the peer {program} did not answer within {patience:?} and was stopped")]
    Silent {
        /// The program.
        program: String,
        /// How long it was waited for.
        patience: Duration,
    },
    /// A peer's answer is not one.
    #[error("the answer of the peer {program} cannot be read")]
    Answer {
        /// The program.
        program: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A library failed in another way than by refusing, or was asked for what it cannot do.
    #[error("the peer failed: {0}")]
    Fault(String),
    /// pgw does not take a secret that was made for it.
    #[error("pgw does not take the secret")]
    Secret(#[from] SecretError),
    /// pgw does not sign a message that was made for it.
    #[error("pgw does not sign the message")]
    Sign(#[from] SignError),
}
