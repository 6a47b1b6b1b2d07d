//! `pgw audit`: who did what, and whether anybody changed the answer.

use clap::{Args, Subcommand};
use pgw_core::access::{Actor, AuditAction, AuditObject, AuditOutcome, SealHead};
use pgw_core::page::{Cursor, PageFrom, PageRequest};
use pgw_core::representation;
use pgw_core::storage::AuditFilter;
use pgw_core::timestamp::Timestamp;
use serde_json::json;

use crate::cli::Global;
use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::node::Node;
use crate::output::Output;

/// About the audit log.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// List rows of both modes, newest first.
    Query(QueryArgs),
    /// Check every row against the chain of seals. Says which row was changed, removed or added first.
    Verify {
        /// The head that an earlier verification printed: shows whether the end of the chain was cut off since.
        #[arg(long, value_name = "NUMBER:CODE:PLACE")]
        head: Option<String>,
    },
}

/// Which rows.
#[derive(Debug, Args)]
pub(crate) struct QueryArgs {
    /// At or after: 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME")]
    from: Option<Timestamp>,
    /// Before.
    #[arg(long, value_name = "TIME")]
    before: Option<Timestamp>,
    /// By this actor: key_…, host, worker, processor, cli:…
    #[arg(long)]
    actor: Option<Actor>,
    /// What was done: payment.refund, key.create, access.refuse …
    #[arg(long)]
    action: Option<AuditAction>,
    /// To this object, by its id.
    #[arg(long)]
    object: Option<AuditObject>,
    /// success or failure.
    #[arg(long)]
    outcome: Option<AuditOutcome>,
    /// How many at most.
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

/// Does it.
///
/// # Errors
/// [`Failure`], with [`Exit::CheckFailed`] when a row is not as it was written.
pub(crate) async fn run(
    config: &Config,
    global: &Global,
    command: &AuditCommand,
    out: Output,
) -> Result<(), Failure> {
    let node = Node::open_durable(config, global).await?;
    match command {
        AuditCommand::Query(args) => query(&node, args, out).await,
        AuditCommand::Verify { head } => {
            let kept = head.as_deref().map(parse_head).transpose()?;
            verify(&node, kept, out).await
        }
    }
}

async fn query(node: &Node, args: &QueryArgs, out: Output) -> Result<(), Failure> {
    let filter = AuditFilter {
        from: args.from,
        before: args.before,
        actor: args.actor.clone(),
        action: args.action,
        object: args.object.clone(),
        outcome: args.outcome,
    };
    let mut rows = Vec::new();
    let mut after = None;
    // A page may be short while there is more: only time has an index.
    while rows.len() < args.limit {
        let mut page = PageRequest::first((args.limit - rows.len()).min(PageRequest::LIMIT_MAX));
        if let Some(cursor) = after {
            page = page.with_from(PageFrom::After(cursor));
        }
        let found = node.operator().audit(&filter, page).await?;
        rows.extend(found.data.iter().map(representation::audit_row));
        after = found.next_cursor.filter(|_| found.has_more);
        if after.is_none() {
            break;
        }
    }
    out.objects(
        rows,
        &["created_at", "actor", "action", "outcome", "target", "origin", "request_id"],
    )?;
    if after.is_some() {
        out.note("there are more; narrow the range or raise --limit");
    }
    Ok(())
}

async fn verify(node: &Node, kept: Option<SealHead>, out: Output) -> Result<(), Failure> {
    let bar = out.progress("rows verified", None);
    let merchant = &node.scope.merchant;
    let report =
        node.gateway.verify_audit(merchant, kept, |so_far| bar.set_position(so_far.sealed));
    let report = report.await?;
    bar.finish_and_clear();
    let head = report.head.map(show_head);
    let value = json!({
        "object": "audit_verification",
        "merchant": merchant.as_str(),
        "intact": report.fault.is_none(),
        "fault": report.fault.map(|fault| fault.to_string()),
        "sealed": report.sealed,
        "unsealed": report.unsealed,
        "oldest_unsealed": report.oldest_unsealed.map(|at| at.to_string()),
        "late": report.late,
        "anchor": report.anchor,
        "head": head,
    });
    out.result(&value, || {
        let mut text = format!("{} rows are as they were sealed", report.sealed);
        if report.unsealed + report.late > 0 {
            text += &format!("; {} are not sealed yet", report.unsealed + report.late);
        }
        if let Some(anchor) = report.anchor {
            text += &format!("; the log begins after seal {anchor}, what was before it was purged");
        }
        if let Some(head) = &head {
            text += &format!("\nkeep this elsewhere, for the next verification: --head {head}");
        }
        text
    });
    match report.fault {
        None => Ok(()),
        Some(fault) => Err(Failure::new(Exit::CheckFailed, fault.to_string())),
    }
}

/// `12:6a09…:AAY…`: number, code in hexadecimal, place.
fn show_head(head: SealHead) -> String {
    let code: String = head.mac.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}:{code}:{}", head.number, head.through)
}

fn parse_head(text: &str) -> Result<SealHead, Failure> {
    let read = || {
        let (number, rest) = text.split_once(':')?;
        let (code, place) = rest.split_once(':')?;
        let byte = |at: usize| u8::from_str_radix(code.get(2 * at..2 * at + 2)?, 16).ok();
        let mut mac = [0; 32];
        for (at, slot) in mac.iter_mut().enumerate() {
            *slot = byte(at)?;
        }
        let is_whole = code.len() == 64;
        let through = Cursor::parse(place).ok()?;
        is_whole.then_some(SealHead { number: number.parse().ok()?, mac, through })
    };
    read().ok_or_else(|| Failure::usage("--head is what an earlier `pgw audit verify` printed"))
}
