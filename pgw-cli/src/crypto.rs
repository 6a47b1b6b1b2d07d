//! `pgw crypto`: the keys that secrets at rest are sealed with.

use std::io::{BufRead, Read as _};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use pgw_core::crypto::{self, KEY_BYTES, PLAINTEXT_BYTES_MAX, Zeroizing};
use pgw_core::env::Env;
use serde_json::json;

use crate::cli::Global;
use crate::config::{Config, setting};
use crate::failure::{Exit, Failure};
use crate::node::Node;
use crate::output::Output;

/// About keys.
#[derive(Debug, Subcommand)]
pub(crate) enum CryptoCommand {
    /// Print new secrets as lines for an environment file: a pepper for API keys and a key for webhook secrets.
    Generate,
    /// Seal every webhook secret with the active key, while webhooks go on. Afterwards the old key may leave the ring.
    ///
    /// To rotate: add a new key behind the active one on every node, and restart each; then put it first on every node, and restart each;
    /// run this; then replace the old key by `<id>:destroyed`.
    Rotate,
    /// Open secrets of the seed system, one `iv:ciphertext:tag` a line on standard input, to move them here. Prints them: into a pipe, not onto a screen.
    OpenSeed {
        /// A file with the key: 32 bytes, and perhaps the end of a line.
        #[arg(long, value_name = "FILE")]
        key_file: PathBuf,
    },
}

/// Does it.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn run(
    config: &Config,
    global: &Global,
    command: &CryptoCommand,
    out: Output,
) -> Result<(), Failure> {
    match command {
        CryptoCommand::Generate => {
            generate(out);
            Ok(())
        }
        CryptoCommand::OpenSeed { key_file } => open_seed(key_file, std::io::stdin().lock(), out),
        CryptoCommand::Rotate => rotate(&Node::open_durable(config, global).await?, out).await,
    }
}

fn generate(out: Output) {
    let env = Env::system();
    let pepper = base64(&env.bytes());
    // Named after the day, so that a ring tells which key is how old.
    let day =
        env.now().to_string().chars().filter(char::is_ascii_digit).take(8).collect::<String>();
    let keys = format!("k{day}:{}", base64(&env.bytes()));
    let names = [&setting::KEY_PEPPER, &setting::SEALING_KEYS].map(|one| one.env[0]);
    out.result(&json!({ names[0]: pepper, names[1]: keys }), || {
        format!("{}={pepper}\n{}={keys}", names[0], names[1])
    });
}

fn open_seed(key_file: &Path, mut lines: impl BufRead, out: Output) -> Result<(), Failure> {
    let key = std::fs::read(key_file)
        .map(Zeroizing::new)
        .map_err(Failure::system(format!("cannot read {}", key_file.display())))?;
    let key: &[u8; KEY_BYTES] = key
        .trim_ascii_end()
        .try_into()
        .map_err(|_| Failure::usage(format!("{} does not hold 32 bytes", key_file.display())))?;
    for number in 1_u64.. {
        let mut line = Vec::new();
        (&mut lines)
            .take(SEED_LINE_MAX)
            .read_until(b'\n', &mut line)
            .map_err(Failure::system("standard input cannot be read"))?;
        if line.is_empty() {
            break;
        }
        // What is no text is no envelope either.
        let text = str::from_utf8(&line).unwrap_or_default().trim();
        let secret = crypto::open_seed(key, text).map_err(|error| {
            Failure::new(Exit::Failed, format!("line {number} cannot be opened")).because(error)
        })?;
        out.result(&json!({ "line": number, "secret": secret.expose() }), || {
            secret.expose().to_owned()
        });
    }
    Ok(())
}

fn base64(bytes: &[u8; 32]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

async fn rotate(node: &Node, out: Output) -> Result<(), Failure> {
    let bar = out.progress("sealing anew", None);
    let (mut done, mut lost, mut after) = (0_usize, 0_usize, None);
    loop {
        let resealed = node.gateway.reseal_endpoints(after, BATCH).await?;
        done += resealed.done;
        lost += resealed.lost;
        bar.set_position((done + lost) as u64);
        after = resealed.next;
        if after.is_none() {
            break;
        }
    }
    bar.finish_and_clear();
    out.result(&json!({ "resealed": done, "lost": lost }), || {
        format!("{done} endpoints sealed with the active key, {lost} cannot be opened")
    });
    if lost > 0 {
        return Err(Failure::new(
            Exit::CheckFailed,
            format!(
                "the secrets of {lost} endpoints cannot be opened: rotate them, with POST /webhook-endpoints/{{id}}/rotate-secret"
            ),
        ));
    }
    Ok(())
}

/// Endpoints sealed in one step.
const BATCH: usize = 100;
/// The longest line that may be a secret of the seed system: nonce, ciphertext and tag in hexadecimal, and what is between and behind them.
const SEED_LINE_MAX: u64 = 2 * (16 + PLAINTEXT_BYTES_MAX as u64 + 16) + 4;
