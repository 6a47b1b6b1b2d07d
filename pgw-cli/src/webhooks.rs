//! `pgw webhooks`: endpoints, deliveries, and sending again.

use clap::{Args, Subcommand};
use pgw_core::event::EventType;
use pgw_core::gateway::{BulkRetry, Run};
use pgw_core::id::{DeliveryId, EndpointId};
use pgw_core::page::PageRequest;
use pgw_core::representation;
use pgw_core::storage::DeliveryFilter;
use pgw_core::timestamp::Timestamp;
use pgw_core::webhook::delivery::DeliveryStatus;
use serde_json::json;

use crate::cli::Global;
use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::node::Node;
use crate::output::Output;

/// About webhooks.
#[derive(Debug, Subcommand)]
pub(crate) enum WebhooksCommand {
    /// List endpoints, newest first.
    Endpoints,
    /// List deliveries, newest first.
    List(ListArgs),
    /// Show what came of each attempt of a delivery.
    Attempts {
        /// The delivery: whd_…
        id: DeliveryId,
    },
    /// Send again: one delivery, or all that match. The webhook's id stays the same.
    Retry(RetryArgs),
    /// Send again what an endpoint missed since a time.
    Recover {
        /// The endpoint: we_…
        endpoint: EndpointId,
        /// Since when: 2026-01-31T12:00:00Z.
        #[arg(long)]
        since: Timestamp,
    },
    /// Send a test.ping to an endpoint.
    Test {
        /// The endpoint: we_…
        endpoint: EndpointId,
    },
}

/// Which deliveries.
#[derive(Debug, Clone, Args)]
pub(crate) struct Filter {
    /// pending, delivered or failed.
    #[arg(long)]
    status: Option<DeliveryStatus>,
    /// To this endpoint.
    #[arg(long)]
    endpoint: Option<EndpointId>,
    /// Of this type of event: payment.succeeded.
    #[arg(long = "type")]
    event_type: Option<EventType>,
    /// Created at or after.
    #[arg(long, value_name = "TIME")]
    from: Option<Timestamp>,
    /// Created before.
    #[arg(long, value_name = "TIME")]
    before: Option<Timestamp>,
}

/// What to list.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    filter: Filter,
    /// How many, at most 100.
    #[arg(long, default_value_t = PageRequest::LIMIT_DEFAULT)]
    limit: usize,
}

/// What to send again.
#[derive(Debug, Args)]
pub(crate) struct RetryArgs {
    /// One delivery: whd_…
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    id: Option<DeliveryId>,
    /// All that the filter finds; failed ones, unless --status says otherwise.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: Filter,
    /// Count, and send nothing.
    #[arg(long, requires = "all")]
    dry_run: bool,
}

/// Does it.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn run(
    config: &Config,
    global: &Global,
    command: &WebhooksCommand,
    out: Output,
) -> Result<(), Failure> {
    let node = Node::open_durable(config, global).await?;
    let operator = node.operator();
    match command {
        WebhooksCommand::Endpoints => {
            let page = operator.endpoints(PageRequest::first(PageRequest::LIMIT_MAX)).await?;
            out.objects(page.data.iter().map(representation::endpoint), &ENDPOINT)
        }
        WebhooksCommand::List(args) => {
            let page = PageRequest::first(args.limit);
            let page = operator.deliveries(&args.filter.clone().into(), page).await?;
            out.objects(page.data.iter().map(representation::delivery), &DELIVERY)
        }
        WebhooksCommand::Attempts { id } => {
            let known = operator.delivery(*id).await?;
            known.ok_or_else(|| {
                Failure::new(Exit::NotFound, format!("there is no delivery {id}"))
            })?;
            let attempts = operator.attempts(*id, PageRequest::LIMIT_MAX).await?;
            out.objects(attempts.iter().map(representation::attempt), &ATTEMPT)
        }
        WebhooksCommand::Retry(RetryArgs { id: Some(id), .. }) => {
            let delivery = operator.retry_delivery(*id).await?;
            out.objects([representation::delivery(&delivery)], &DELIVERY)
        }
        WebhooksCommand::Retry(args) => {
            let mut filter = DeliveryFilter::from(args.filter.clone());
            filter.status = filter.status.or(Some(DeliveryStatus::Failed));
            let run = if args.dry_run { Run::Dry } else { Run::Real };
            let bar = out.progress("deliveries", None);
            let mut total = Total::default();
            loop {
                let part = operator.retry_deliveries(&filter, total.after, run).await?;
                if !total.add(&part, &bar) {
                    break;
                }
            }
            bar.finish_and_clear();
            total.tell(run, out);
            Ok(())
        }
        WebhooksCommand::Recover { endpoint, since } => {
            let bar = out.progress("deliveries", None);
            let mut total = Total::default();
            loop {
                let part = operator.recover_endpoint(*endpoint, *since, total.after).await?;
                if !total.add(&part, &bar) {
                    break;
                }
            }
            bar.finish_and_clear();
            total.tell(Run::Real, out);
            Ok(())
        }
        WebhooksCommand::Test { endpoint } => {
            let delivery = operator.test_endpoint(*endpoint).await?;
            out.objects([representation::delivery(&delivery)], &DELIVERY)
        }
    }
}

/// What several calls came to together.
#[derive(Debug, Default)]
struct Total {
    matched: usize,
    retried: usize,
    after: Option<pgw_core::page::Cursor>,
}

impl Total {
    /// Whether there is more.
    fn add(&mut self, part: &BulkRetry, bar: &indicatif::ProgressBar) -> bool {
        self.matched += part.matched;
        self.retried += part.retried;
        self.after = part.next;
        bar.set_position(self.matched as u64);
        self.after.is_some()
    }

    fn tell(&self, run: Run, out: Output) {
        let (matched, retried) = (self.matched, self.retried);
        let is_dry = run == Run::Dry;
        let object = json!({ "matched": matched, "retried": retried, "dry_run": is_dry });
        out.result(&object, || match run {
            Run::Dry => format!("{matched} deliveries would be sent again"),
            Run::Real => format!("{retried} of {matched} deliveries are sent again"),
        });
    }
}

impl From<Filter> for DeliveryFilter {
    fn from(filter: Filter) -> Self {
        Self {
            status: filter.status,
            endpoint: filter.endpoint,
            event_type: filter.event_type,
            created_from: filter.from,
            created_before: filter.before,
        }
    }
}

const ENDPOINT: [&str; 5] = ["id", "status", "url", "event_types", "created_at"];
const DELIVERY: [&str; 6] =
    ["id", "status", "retry_count", "event_type", "endpoint_id", "created_at"];
const ATTEMPT: [&str; 5] = ["number", "started_at", "status_code", "latency_ms", "error"];
