//! `pgw privacy`: personal data, erased, handed out, and erased again after a restore.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use pgw_core::env::Env;
use pgw_core::gateway::{Export, ExportFormat};
use pgw_core::id::ErasureId;
use pgw_core::page::PageRequest;
use pgw_core::privacy::{Erasure, ErasureState};
use pgw_core::representation;
use pgw_core::scope::{Mode, Scope};
use pgw_core::text::CustomerId;
use serde_json::json;

use crate::cli::Global;
use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::node::Node;
use crate::output::Output;

/// About personal data. A customer is whatever `customer_id` payments were given, in one mode: see --live.
#[derive(Debug, Subcommand)]
pub(crate) enum PrivacyCommand {
    /// Erase a customer: hidden at once, everywhere; rewritten by the workers soon after. Amounts, ids and dates stay.
    Erase {
        /// The customer's id, as payments have it.
        customer: String,
        /// Wait until everything is rewritten.
        #[arg(long)]
        wait: bool,
    },
    /// List erasures, newest first, or show one and how far it is.
    Erasures {
        /// The erasure: era_…
        id: Option<ErasureId>,
    },
    /// Write everything that is held about a customer.
    Export {
        /// The customer's id, as payments have it.
        customer: String,
        /// json has everything, csv the payments.
        #[arg(long, default_value = "json")]
        format: Format,
        /// A file, instead of standard output.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// List a customer's consents, withdrawn ones too.
    Consents {
        /// The customer's id.
        customer: String,
    },
    /// Print the erasure log of both modes, a line each, without anybody's name. Keep it where a restore of the database does not reach.
    Log,
    /// After a restore, erase again who is in an erasure log. Do it before payments are taken.
    Reapply {
        /// The log, as `pgw privacy log` printed it.
        file: PathBuf,
    },
}

/// The form of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// JSON.
    Json,
    /// Comma-separated values (RFC 4180), safe to open in a spreadsheet.
    Csv,
}

/// Does it.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn run(
    config: &Config,
    global: &Global,
    command: &PrivacyCommand,
    out: Output,
) -> Result<(), Failure> {
    let node = Node::open_durable(config, global).await?;
    let operator = node.operator();
    match command {
        PrivacyCommand::Erase { customer, wait } => {
            erase(&node, &parse(customer)?, *wait, out).await
        }
        PrivacyCommand::Erasures { id: Some(id) } => {
            let found = operator.erasure(*id).await?;
            let found = found
                .ok_or_else(|| Failure::new(Exit::NotFound, format!("there is no erasure {id}")))?;
            out.objects([representation::erasure(&found)], &ERASURE)
        }
        PrivacyCommand::Erasures { id: None } => {
            let page = operator.erasures(None, PageRequest::first(PageRequest::LIMIT_MAX)).await?;
            out.objects(page.data.iter().map(representation::erasure), &ERASURE)
        }
        PrivacyCommand::Export { customer, format, output } => {
            export(&node, parse(customer)?, *format, output.as_ref()).await
        }
        PrivacyCommand::Consents { customer } => {
            let consents = operator.consents(&parse(customer)?).await?;
            out.objects(consents.iter().map(representation::consent), &CONSENT)
        }
        PrivacyCommand::Log => log(&node).await,
        PrivacyCommand::Reapply { file } => reapply(&node, file, out).await,
    }
}

fn parse(customer: &str) -> Result<CustomerId, Failure> {
    CustomerId::parse(customer)
        .map_err(|error| Failure::usage(format!("the customer's id {error}")))
}

async fn erase(node: &Node, customer: &CustomerId, wait: bool, out: Output) -> Result<(), Failure> {
    let operator = node.operator();
    let mut erasure = operator.erase_customer(customer).await?;
    if wait {
        let bar = out.progress("payments rewritten", Some(erasure.payments));
        while erasure.state() != ErasureState::Done {
            bar.set_position(erasure.payments_redacted);
            tokio::time::sleep(LOOK_AGAIN).await;
            let id = erasure.erasure.id;
            let found = operator.erasure(id).await?;
            erasure = found
                .ok_or_else(|| Failure::new(Exit::Failed, format!("the erasure {id} is gone")))?;
        }
        bar.finish_and_clear();
    }
    out.objects([representation::erasure(&erasure)], &ERASURE)?;
    if erasure.state() != ErasureState::Done {
        out.say("nobody reads anything of them any more; workers rewrite what is stored: `pgw privacy erasures ID`");
    }
    Ok(())
}

async fn export(
    node: &Node,
    customer: CustomerId,
    format: Format,
    output: Option<&PathBuf>,
) -> Result<(), Failure> {
    let format = match format {
        Format::Json => ExportFormat::Json,
        Format::Csv => ExportFormat::Csv,
    };
    if let Some(path) = output.filter(|path| path.exists()) {
        return Err(Failure::usage(format!("{} is there already", path.display())));
    }
    let caller = node.operator().caller().clone();
    let export = node.gateway.export_customer(caller, customer, format).await?;
    let Some(path) = output else { return write(export, std::io::stdout()).await };
    // It has its name once it is whole: half of what is held must not pass for all of it.
    let part = beside(path);
    let file = private(&part)?;
    let written = write(export, &file).await.and_then(|()| {
        let synced = file.sync_all().and_then(|()| std::fs::rename(&part, path));
        synced.map_err(Failure::system(format!("cannot make {}", path.display())))
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    written
}

async fn write(mut export: Export, mut to: impl std::io::Write) -> Result<(), Failure> {
    while let Some(chunk) = export.next().await? {
        to.write_all(&chunk).map_err(Failure::system("the export cannot be written"))?;
    }
    to.flush().map_err(Failure::system("the export cannot be written"))
}

/// A name in the same directory that nobody else has.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{:016x}.part", Env::system().u64()))
}

/// A new file for its owner only: somebody's whole history is in it.
fn private(path: &Path) -> Result<std::fs::File, Failure> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(path).map_err(Failure::system(format!("cannot make {}", path.display())))
}

async fn log(node: &Node) -> Result<(), Failure> {
    let mut lines = std::io::stdout();
    for mode in [Mode::Test, Mode::Live] {
        let scope = Scope::new(node.scope.merchant.clone(), mode);
        let mut after = None;
        loop {
            let part = node.gateway.erasure_log(&scope, after).await?;
            for erasure in &part.erasures {
                writeln!(lines, "{}", erasure.to_line())
                    .map_err(Failure::system("the log cannot be written"))?;
            }
            after = part.next;
            if after.is_none() {
                break;
            }
        }
    }
    Ok(())
}

async fn reapply(node: &Node, file: &PathBuf, out: Output) -> Result<(), Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(Failure::system(format!("cannot read {}", file.display())))?;
    let mut log = Vec::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let unreadable =
            || Failure::usage(format!("{} line {number} is no erasure", file.display()));
        log.push(Erasure::from_line(line).ok_or_else(unreadable)?);
    }
    let progress = out.progress("customers", None);
    let reapplied = node.gateway.reapply_erasures(&log).await?;
    progress.finish_and_clear();
    let value = json!({
        "object": "reapplied",
        "lines": log.len(),
        "erasures": reapplied.erasures,
        "payments": reapplied.payments,
        "known": reapplied.known,
    });
    out.result(&value, || {
        format!(
            "{} erased again, with {} payments; {} were known to be",
            reapplied.erasures, reapplied.payments, reapplied.known
        )
    });
    Ok(())
}

const ERASURE: [&str; 6] =
    ["id", "state", "payments", "payments_redacted", "requested_at", "done_at"];
const CONSENT: [&str; 6] = ["id", "purpose", "version", "given_at", "withdrawn_at", "source"];
/// How often a waiting command looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
