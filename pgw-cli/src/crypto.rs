//! `pgw crypto`: the keys that secrets at rest are sealed with.

use clap::Subcommand;
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
