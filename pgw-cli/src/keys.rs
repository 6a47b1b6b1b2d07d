//! `pgw keys`: API keys.

use std::time::Duration;

use clap::{Args, Subcommand};
use pgw_core::access::Role;
use pgw_core::gateway::{ApiKeyFilter, NewApiKey, RevokedKeys};
use pgw_core::id::KeyId;
use pgw_core::page::PageRequest;
use pgw_core::representation;
use pgw_core::text::{Description, Reason};
use pgw_core::timestamp::Timestamp;
use serde_json::json;

use crate::cli::Global;
use crate::config::Config;
use crate::failure::Failure;
use crate::node::Node;
use crate::output::Output;

/// About API keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Make a key and print it, this once.
    Create(CreateArgs),
    /// List keys, newest first, revoked ones too.
    List {
        /// How many, at most 100.
        #[arg(long, default_value_t = PageRequest::LIMIT_MAX)]
        limit: usize,
    },
    /// Revoke one key. It opens nothing from then on, in every process within a second, or 30 where hints do not flow.
    Revoke {
        /// The key: key_…
        id: KeyId,
    },
    /// Revoke every key made since a time: what an intruder may have made. Keys are never deleted, for they are evidence.
    RevokeSince(RevokeSinceArgs),
}

/// Which keys.
#[derive(Debug, Args)]
pub(crate) struct RevokeSinceArgs {
    /// Since when: 2026-01-31T12:00:00Z.
    since: Timestamp,
    /// Made before this time only.
    #[arg(long, value_name = "TIME")]
    before: Option<Timestamp>,
    /// With this role only.
    #[arg(long)]
    role: Option<Role>,
    /// Why. Goes to the keys' records.
    #[arg(long)]
    reason: String,
}

/// What key.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// admin, finance, service or readonly: see the API's documentation for what each may do.
    #[arg(long)]
    role: Role,
    /// What it is for. Not who holds it: names of people do not belong here.
    #[arg(long)]
    name: String,
    /// How long it works: 90d, 12h. Without it, until it is revoked.
    #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION")]
    expires_in: Option<Duration>,
}

/// Does it.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn run(
    config: &Config,
    global: &Global,
    command: &KeysCommand,
    out: Output,
) -> Result<(), Failure> {
    let node = Node::open_durable(config, global).await?;
    match command {
        KeysCommand::Create(args) => create(&node, args, out).await,
        KeysCommand::List { limit } => {
            let page = node.operator().api_keys(PageRequest::first(*limit)).await?;
            out.objects(page.data.iter().map(representation::api_key), &KEY)?;
            if page.has_more {
                out.note("there are more");
            }
            Ok(())
        }
        KeysCommand::Revoke { id } => {
            let key = node.operator().revoke_api_key(*id).await?;
            node.told().await;
            out.objects([representation::api_key(&key)], &KEY)
        }
        KeysCommand::RevokeSince(args) => {
            let revoked = revoke_since(&node, args, out).await;
            // A part may be revoked, whatever came after it.
            node.told().await;
            revoked
        }
    }
}

async fn create(node: &Node, args: &CreateArgs, out: Output) -> Result<(), Failure> {
    let name = Description::parse(&args.name)
        .map_err(|error| Failure::usage(format!("--name {error}")))?;
    let new = NewApiKey { role: args.role, name, expires_in: args.expires_in };
    let (key, secret) = node.operator().create_api_key(new).await?;
    let value = json!({
        "object": "api_key",
        "id": key.id.to_string(),
        "role": key.role.as_str(),
        "mode": key.scope.mode.as_str(),
        "merchant_id": key.scope.merchant.as_str(),
        "key": secret.expose(),
    });
    out.note(format!("this is the one time that {} is shown whole", key.id));
    out.result(&value, || secret.expose().to_owned());
    Ok(())
}

async fn revoke_since(node: &Node, args: &RevokeSinceArgs, out: Output) -> Result<(), Failure> {
    let reason =
        Reason::parse(&args.reason).map_err(|error| Failure::usage(format!("--reason {error}")))?;
    let which = RevokedKeys::Matching(ApiKeyFilter {
        created_from: Some(args.since),
        created_before: args.before,
        role: args.role,
    });
    let bar = out.progress("keys revoked", None);
    let (mut matched, mut revoked, mut after) = (0, 0, None);
    loop {
        let part = node.operator().revoke_api_keys(which, &reason, after).await?;
        matched += part.matched;
        revoked += part.revoked;
        bar.set_position(revoked as u64);
        after = part.next;
        if after.is_none() {
            break;
        }
    }
    bar.finish_and_clear();
    out.result(
        &json!({ "object": "bulk_revocation", "matched": matched, "revoked": revoked }),
        || format!("{revoked} keys revoked"),
    );
    Ok(())
}

/// What a list shows of a key.
const KEY: [&str; 6] = ["id", "role", "name", "created_at", "last_used_at", "revoked_at"];
