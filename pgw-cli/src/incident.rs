//! `pgw incident`: what to do when something bad happens, in the order it is done in: stop it, keep it out, find out what it touched.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::{Args, Subcommand};
use pgw_core::access::{Actor, AuditAction, AuditObject, AuditOutcome, AuditRow, Caller, Network};
use pgw_core::gateway::NewDeniedNetwork;
use pgw_core::id::PaymentId;
use pgw_core::page::{PageFrom, PageRequest};
use pgw_core::scope::{Mode, Scope};
use pgw_core::storage::AuditFilter;
use pgw_core::text::Reason;
use pgw_core::timestamp::Timestamp;
use serde_json::{Value, json};

use crate::cli::Global;
use crate::config::Config;
use crate::failure::Failure;
use crate::node::Node;
use crate::output::Output;

/// About incidents.
#[derive(Debug, Subcommand)]
pub(crate) enum IncidentCommand {
    /// Let nothing change, for every merchant and in every process: the API answers reads only, and no operation is sent to a
    /// processor. Look-ups, webhooks and revocations go on.
    Freeze {
        /// Why. Everybody who is refused hears that it is frozen, not why.
        #[arg(long)]
        reason: String,
    },
    /// Let things change again.
    Unfreeze,
    /// Deny an address or a network before it is even asked for a key.
    Block(BlockArgs),
    /// Take a network off the denylist.
    Unblock {
        /// The network, as it was denied.
        network: Network,
    },
    /// What happened between two times: keys used, objects touched, people affected, and what GDPR Article 33(3) wants told within 72
    /// hours.
    Report(ReportArgs),
}

/// Whom to keep out.
#[derive(Debug, Args)]
pub(crate) struct BlockArgs {
    /// 203.0.113.7 or 203.0.113.0/24.
    network: Network,
    /// Why.
    #[arg(long)]
    reason: Option<String>,
    /// For how long: 24h. Without it, until it is taken off the list.
    #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION")]
    expires_in: Option<Duration>,
}

/// Which time, and when it became known.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// When it began: 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME")]
    from: Timestamp,
    /// When it ended; now, unless it is given.
    #[arg(long, value_name = "TIME")]
    to: Option<Timestamp>,
    /// When you became aware of it: from then on there are 72 hours (GDPR Article 33(1)). Now, unless it is given.
    #[arg(long, value_name = "TIME")]
    aware: Option<Timestamp>,
    /// By this actor only: key_…
    #[arg(long)]
    actor: Option<Actor>,
}

/// Does it.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn run(
    config: &Config,
    global: &Global,
    command: &IncidentCommand,
    out: Output,
) -> Result<(), Failure> {
    let node = Node::open_durable(config, global).await?;
    act(&node, command, out).await?;
    node.told().await;
    Ok(())
}

async fn act(node: &Node, command: &IncidentCommand, out: Output) -> Result<(), Failure> {
    match command {
        IncidentCommand::Freeze { reason } => {
            let freeze = node.operator().freeze(&parse_reason(reason)?).await?;
            let value =
                json!({ "object": "freeze", "since": freeze.since.to_string(), "by": &*freeze.by });
            out.result(&value, || format!("frozen since {} by {}", freeze.since, freeze.by));
            out.say("`pgw incident unfreeze` ends it. Other processes know within 5 seconds");
            Ok(())
        }
        IncidentCommand::Unfreeze => {
            let ended = node.operator().unfreeze().await?;
            let was_frozen = ended.is_some();
            out.result(
                &json!({ "object": "unfreeze", "was_frozen": was_frozen }),
                || match ended {
                    Some(freeze) => format!("no longer frozen; it was since {}", freeze.since),
                    None => "it was not frozen".to_owned(),
                },
            );
            Ok(())
        }
        IncidentCommand::Block(args) => {
            let reason = args.reason.as_deref().map(parse_reason).transpose()?;
            let new =
                NewDeniedNetwork { network: args.network, reason, expires_in: args.expires_in };
            let denied = node.operator().deny_network(new).await?;
            let value =
                json!({ "object": "denied_network", "network": denied.network.to_string() });
            out.result(&value, || format!("{} is not let in", denied.network));
            Ok(())
        }
        IncidentCommand::Unblock { network } => {
            node.operator().allow_network(*network).await?;
            let value = json!({ "object": "allowed_network", "network": network.to_string() });
            out.result(&value, || format!("{network} is let in again"));
            Ok(())
        }
        IncidentCommand::Report(args) => {
            let report = Report::of(node, args, out).await?;
            let value = report.value(node, args);
            out.result(&value, || text(&value));
            Ok(())
        }
    }
}

fn parse_reason(text: &str) -> Result<Reason, Failure> {
    Reason::parse(text).map_err(|error| Failure::usage(format!("--reason {error}")))
}

/// What the audit log says of a time.
#[derive(Debug, Default)]
struct Report {
    rows: u64,
    refused: u64,
    actors: BTreeMap<String, u64>,
    actions: BTreeMap<&'static str, u64>,
    origins: BTreeMap<String, u64>,
    keys_made: BTreeSet<String>,
    payments: BTreeMap<PaymentId, Mode>,
    others: BTreeSet<String>,
    customers: BTreeSet<String>,
    exported: BTreeSet<String>,
    anonymous: u64,
    is_cut: bool,
}

impl Report {
    async fn of(node: &Node, args: &ReportArgs, out: Output) -> Result<Self, Failure> {
        let to = args.to.unwrap_or_else(|| node.gateway.env().now());
        let filter = AuditFilter {
            from: Some(args.from),
            before: Some(to),
            actor: args.actor.clone(),
            ..AuditFilter::default()
        };
        let bar = out.progress("audit rows", None);
        let mut report = Self::default();
        let mut after = None;
        loop {
            let mut page = PageRequest::first(PageRequest::LIMIT_MAX);
            if let Some(cursor) = after {
                page = page.with_from(PageFrom::After(cursor));
            }
            let found = node.operator().audit(&filter, page).await?;
            found.data.iter().for_each(|row| report.add(row));
            bar.set_position(report.rows);
            after = found.next_cursor.filter(|_| found.has_more);
            if after.is_none() || report.payments.len() >= OBJECTS_MAX {
                report.is_cut |= after.is_some();
                break;
            }
        }
        bar.finish_and_clear();
        report.find_people(node, out).await?;
        Ok(report)
    }

    fn add(&mut self, row: &AuditRow) {
        self.rows += 1;
        *self.actions.entry(row.action.as_str()).or_default() += 1;
        *self.actors.entry(row.actor.to_string()).or_default() += 1;
        if let Some(origin) = row.origin {
            *self.origins.entry(origin.to_string()).or_default() += 1;
        }
        if row.outcome == AuditOutcome::Failure {
            self.refused += 1;
        }
        match &row.object {
            AuditObject::Payment(id) => {
                self.payments.insert(*id, row.scope.mode);
            }
            AuditObject::Key(id) if row.action == AuditAction::KeyCreate => {
                self.keys_made.insert(id.to_string());
            }
            AuditObject::Customer(digest) => {
                self.exported.insert(digest.to_string());
            }
            object if self.others.len() < OBJECTS_MAX => {
                self.others.insert(object.to_string());
            }
            _ => self.is_cut = true,
        }
    }

    /// Who is behind the payments that were touched: counted, and named only by the host's own ids.
    async fn find_people(&mut self, node: &Node, out: Output) -> Result<(), Failure> {
        let bar = out.progress("payments", Some(self.payments.len() as u64));
        for (id, mode) in self.payments.clone() {
            bar.inc(1);
            let caller = node.operator().caller().clone();
            let scope = Scope::new(caller.scope.merchant.clone(), mode);
            let found = node.gateway.by(Caller { scope, ..caller }).payment(id).await?;
            match found.and_then(|state| state.payment.customer.id) {
                Some(customer) => {
                    self.customers.insert(customer.as_str().to_owned());
                }
                None => self.anonymous += 1,
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn value(&self, node: &Node, args: &ReportArgs) -> Value {
        let now = node.gateway.env().now();
        let aware = args.aware.unwrap_or(now);
        let deadline = aware.plus(TO_NOTIFY);
        json!({
            "object": "incident_report",
            "merchant": node.scope.merchant.as_str(),
            "from": args.from.to_string(),
            "to": args.to.unwrap_or(now).to_string(),
            "audit_rows": self.rows,
            "refused": self.refused,
            "complete": !self.is_cut,
            "reads": "not in the audit log: whoever held a key may have read all that its role may; see the access log",
            "actors": self.actors,
            "origins": self.origins,
            "actions": self.actions,
            "keys_created": self.keys_made,
            "payments_touched": self.payments.keys().map(ToString::to_string).collect::<Vec<_>>(),
            "other_objects_touched": self.others,
            "customers_affected": self.customers,
            "customers_exported": self.exported.len(),
            "payments_without_customer": self.anonymous,
            "gdpr_article_33": {
                "aware_at": aware.to_string(),
                "notify_by": deadline.to_string(),
                "hours_left": i64::try_from(deadline.since(now).as_secs() / 3_600).unwrap_or(0),
                "nature_of_the_breach": "(describe: what was accessed, changed or lost, and how)",
                "categories_of_data": ["identification (name, e-mail, customer id)", "payments (amount, currency, time, status)"],
                "approximate_number_of_people": self.customers.len().max(self.exported.len()),
                "approximate_number_of_records": self.payments.len(),
                "contact_point": "(name and contact details of the data protection officer)",
                "likely_consequences": "(describe)",
                "measures_taken": "(describe: keys revoked, addresses denied, freeze, notification of people concerned)",
                "reasons_for_delay": "(only when later than notify_by)",
            },
        })
    }
}

fn text(report: &Value) -> String {
    let mut lines = Vec::new();
    for (name, value) in report.as_object().into_iter().flatten() {
        match value {
            Value::Object(members) => {
                lines.push(format!("{name}:"));
                lines.extend(
                    members.iter().map(|(name, value)| format!("  {name:<32} {}", plain(value))),
                );
            }
            Value::Array(items) => {
                lines.push(format!("{name}: {}", items.len()));
                lines.extend(items.iter().take(SHOWN_MAX).map(|item| format!("  {}", plain(item))));
                if items.len() > SHOWN_MAX {
                    lines.push("  … (--json has all)".to_owned());
                }
            }
            value => lines.push(format!("{name:<34} {}", plain(value))),
        }
    }
    lines.join("\n")
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// GDPR Article 33(1).
const TO_NOTIFY: Duration = Duration::from_secs(72 * 60 * 60);
/// Objects that a report names. Beyond that it says that it is not complete: narrow its time.
const OBJECTS_MAX: usize = 100_000;
/// Items of a list on a terminal.
const SHOWN_MAX: usize = 20;
