//! `pgw payments`: looking at one, and settling what needs a person.

use clap::{Args, Subcommand, ValueEnum};
use pgw_core::id::{OperationId, PaymentId, RefundId};
use pgw_core::page::PageRequest;
use pgw_core::payment::PaymentStatus;
use pgw_core::payment::plan::{Resolution, Resolve};
use pgw_core::representation;
use pgw_core::storage::PaymentFilter;
use pgw_core::text::Reason;
use serde_json::Value;

use crate::cli::Global;
use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::node::Node;
use crate::output::{Format, Output};

/// About payments.
#[derive(Debug, Subcommand)]
pub(crate) enum PaymentsCommand {
    /// List payments, newest first.
    List {
        /// Only those with this status.
        #[arg(long)]
        status: Option<PaymentStatus>,
        /// Only those with an outcome that is unknown, be it a refund's.
        #[arg(long)]
        unknown: bool,
        /// How many, at most 100.
        #[arg(long, default_value_t = PageRequest::LIMIT_DEFAULT)]
        limit: usize,
    },
    /// Show a payment, its operations and its timeline.
    Show {
        /// The payment: pay_…
        id: PaymentId,
    },
    /// Settle an operation whose outcome could not be learned, by what a person found out.
    Resolve(ResolveArgs),
}

/// What was found out.
#[derive(Debug, Args)]
pub(crate) struct ResolveArgs {
    /// The payment: pay_…
    id: PaymentId,
    /// The operation: op_… or ref_…
    #[arg(long)]
    operation: String,
    /// What became of it.
    #[arg(long)]
    outcome: Outcome,
    /// How it was found out. Goes to the payment's record.
    #[arg(long)]
    reason: String,
}

/// What became of an operation.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Outcome {
    /// The processor did it.
    Succeeded,
    /// The processor did not do it.
    Failed,
    /// The contradiction means nothing.
    Dismissed,
}

/// Does it.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn run(
    config: &Config,
    global: &Global,
    command: &PaymentsCommand,
    out: Output,
) -> Result<(), Failure> {
    let node = Node::open_durable(config, global).await?;
    match command {
        PaymentsCommand::List { status, unknown, limit } => {
            let (status, has_unknown) = (*status, *unknown);
            let filter = PaymentFilter { status, has_unknown, ..PaymentFilter::default() };
            let page = node.operator().payments(&filter, PageRequest::first(*limit)).await?;
            out.objects(page.data.iter().map(representation::payment), &PAYMENT)?;
            if page.has_more {
                out.note("there are more; --limit shows up to 100");
            }
            Ok(())
        }
        PaymentsCommand::Show { id } => show(&node, *id, out).await,
        PaymentsCommand::Resolve(args) => resolve(&node, args, out).await,
    }
}

async fn show(node: &Node, id: PaymentId, out: Output) -> Result<(), Failure> {
    let operator = node.operator();
    let state = operator.payment(id).await?.ok_or_else(|| unknown(node, id))?;
    let events = operator.payment_events(id, 0, EVENTS_MAX).await?;
    if out.format == Format::Json {
        let all = [representation::payment(&state.payment)]
            .into_iter()
            .chain(state.operations.iter().map(representation::operation))
            .chain(events.iter().map(|event| representation::event(event).to_vec()));
        return out.objects(all, &[]);
    }
    let payment: Value = serde_json::from_slice(&representation::payment(&state.payment))
        .map_err(|error| Failure::new(Exit::Failed, "an object is not JSON").because(error))?;
    for (name, value) in payment.as_object().into_iter().flatten() {
        // What says who paid is for those who ask the API for it.
        if !PERSONAL.contains(&name.as_str()) && !value.is_null() {
            out.say(format!(
                "{name:<20} {}",
                value.as_str().map_or_else(|| value.to_string(), str::to_owned)
            ));
        }
    }
    out.say("\noperations");
    out.objects(
        state.operations.iter().map(representation::operation),
        &["id", "type", "status", "amount_minor", "attempts", "processor_reference", "updated_at"],
    )?;
    out.say("\nevents");
    out.objects(events.iter().map(representation::event), &["sequence", "type", "timestamp", "id"])
}

async fn resolve(node: &Node, args: &ResolveArgs, out: Output) -> Result<(), Failure> {
    let text = &args.operation;
    let operation = text
        .parse::<RefundId>()
        .map(OperationId::from)
        .or_else(|_| text.parse())
        .map_err(|_| Failure::usage("--operation must be op_… or ref_…"))?;
    let reason =
        Reason::parse(&args.reason).map_err(|error| Failure::usage(format!("--reason {error}")))?;
    let outcome = match args.outcome {
        Outcome::Succeeded => Resolution::Succeeded,
        Outcome::Failed => Resolution::Failed,
        Outcome::Dismissed => Resolution::Dismissed,
    };
    let command = Resolve { operation, outcome, reason };
    let resolved = node.operator().resolve(args.id, command).await?;
    out.objects([representation::payment(&resolved.payment)], &PAYMENT)
}

fn unknown(node: &Node, id: PaymentId) -> Failure {
    let (merchant, mode) = (&node.scope.merchant, node.scope.mode);
    Failure::new(
        Exit::NotFound,
        format!(
            "merchant {merchant} has no payment {id} in {mode} mode; see --merchant and --live"
        ),
    )
}

/// What a list shows of a payment.
const PAYMENT: [&str; 6] = ["id", "status", "amount", "currency", "needs_review", "created_at"];
/// What `show` leaves out on a terminal.
const PERSONAL: [&str; 5] =
    ["customer_email", "customer_name", "customer_id", "description", "metadata"];
/// As many events as a payment with all of its operations can have, and more.
const EVENTS_MAX: usize = 1_000;
