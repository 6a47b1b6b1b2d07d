//! What only `MemoryQueue` promises: that it can be made to lose everything.

use std::time::Duration;

use pgw_core::queue::{Depth, Lane, Queue as _};
use pgw_core::testing::sample::Samples;
use pgw_storage_memory::MemoryQueue;

#[tokio::test]
async fn clearing_loses_everything_but_the_uniqueness_of_fences() {
    let (samples, queue) = (Samples::new(5), MemoryQueue::new());
    let job = samples.job(Lane::Operations);
    let lease = Duration::from_secs(60);
    let push = [(job, Duration::ZERO)];
    queue.push(&push).await.expect("there is room");
    let lost = queue.claim(Lane::Operations, 1, lease).await.expect("it works");
    queue.clear();
    assert_eq!(queue.depth(Lane::Operations).await.expect("it works"), Depth::default());
    queue.push(&push).await.expect("there is room");
    let held = queue.claim(Lane::Operations, 1, lease).await.expect("it works");
    assert_eq!(held[0].claims, 1);
    assert_ne!(held[0].fence, lost[0].fence);
    assert_eq!(queue.extend(&lost, lease).await.expect("it works"), [false]);
}
