//! Replays by hand: many at once, in bounded calls.

use std::time::Duration;

use pgw_core::gateway::{BulkRetry, Run};
use pgw_core::page::PageRequest;
use pgw_core::storage::DeliveryFilter;
use pgw_core::webhook::delivery::DeliveryStatus;
use pgw_core::webhook::plan::EndpointUpdate;
use pgw_core::webhook::{Endpoint, EndpointStatus};

use crate::world::{World, pass};

/// Payments made below: each has one delivery to each of the most endpoints there may be, less one, so that it is more than one
/// call takes and no multiple of it.
const PAYMENTS: usize = 24;

fn failed() -> DeliveryFilter {
    DeliveryFilter { status: Some(DeliveryStatus::Failed), ..DeliveryFilter::default() }
}

#[tokio::test(start_paused = true)]
async fn a_bulk_retry_goes_on_where_the_last_call_stopped() {
    let world = World::new();
    let verbs = world.verbs();
    let mut endpoints = Vec::new();
    for _ in 1..Endpoint::PER_SCOPE_MAX {
        endpoints.push(world.endpoint().await.id);
    }
    for _ in 0..PAYMENTS {
        world.create("tok_visa").await;
    }
    for id in &endpoints {
        let reason = pgw_core::text::Reason::parse("by hand").unwrap();
        let status = Some(EndpointStatus::Disabled { reason });
        verbs.update_endpoint(*id, EndpointUpdate { status, ..Default::default() }).await.unwrap();
    }
    let worker = world.worker();
    pass(Duration::from_secs(600)).await;
    worker.shutdown().await;
    let all = PAYMENTS * endpoints.len();
    let most = BulkRetry::DELIVERIES_MAX;
    assert!(all > most && all < 2 * most);

    let before = world.storage.dump();
    let dry = verbs.retry_deliveries(&failed(), None, Run::Dry).await.unwrap();
    assert_eq!((dry.matched, dry.retried, dry.next.is_some()), (most, 0, true));
    let rest = verbs.retry_deliveries(&failed(), dry.next, Run::Dry).await.unwrap();
    assert!(rest.matched >= all - most);
    assert!(world.storage.dump() == before);

    let first = verbs.retry_deliveries(&failed(), None, Run::Real).await.unwrap();
    assert_eq!((first.matched, first.retried, first.next), (most, most, dry.next));
    let last = verbs.retry_deliveries(&failed(), first.next, Run::Real).await.unwrap();
    assert_eq!((last.matched, last.retried, last.next), (rest.matched, rest.matched, None));
    let left = verbs.deliveries(&failed(), PageRequest::default()).await.unwrap();
    assert!(left.data.is_empty());
    // The same series once more finds nothing to do.
    let again = verbs.retry_deliveries(&failed(), None, Run::Real).await.unwrap();
    assert_eq!((again.matched, again.retried, again.next), (0, 0, None));
}
