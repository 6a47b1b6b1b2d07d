//! `MemoryNotifier`: hints over a broadcast channel of this process.

use async_trait::async_trait;
use pgw_core::notifier::{Hint, Notifier, NotifierError, Subscription};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// Hints within this process. Clones publish to the same subscriptions.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use pgw_core::notifier::{Hint, Notifier as _};
/// use pgw_storage_memory::MemoryNotifier;
///
/// let notifier = MemoryNotifier::new();
/// let mut hints = notifier.subscribe().await?;
/// notifier.publish(&[Hint::Events]).await?;
/// assert_eq!(hints.next().await, Hint::Events);
/// # Ok::<(), pgw_core::notifier::NotifierError>(()) }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct MemoryNotifier(broadcast::Sender<Hint>);

impl MemoryNotifier {
    /// How many unread hints are kept: a subscription that is further behind is told [`Hint::Missed`]. A few thousand commits
    /// of a busy process, about 100 KB in all.
    pub const UNREAD_MAX: usize = 1_024;

    /// A notifier without subscriptions.
    #[must_use]
    pub fn new() -> Self {
        Self(broadcast::Sender::new(Self::UNREAD_MAX))
    }
}

impl Default for MemoryNotifier {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Notifier for MemoryNotifier {
    async fn publish(&self, hints: &[Hint]) -> Result<(), NotifierError> {
        for hint in hints {
            // It fails when nobody listens, which is nobody's loss.
            let _ = self.0.send(hint.clone());
        }
        Ok(())
    }

    async fn subscribe(&self) -> Result<Box<dyn Subscription>, NotifierError> {
        Ok(Box::new(MemorySubscription(self.0.subscribe())))
    }
}

/// What one subscriber has not heard yet.
#[derive(Debug)]
struct MemorySubscription(broadcast::Receiver<Hint>);

#[async_trait]
impl Subscription for MemorySubscription {
    async fn next(&mut self) -> Hint {
        match self.0.recv().await {
            Ok(hint) => hint,
            Err(RecvError::Lagged(_)) => Hint::Missed,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[tokio::test]
    async fn a_subscription_waits_for_ever_once_the_notifier_is_gone() {
        let notifier = MemoryNotifier::new();
        let mut hints = notifier.subscribe().await.expect("it never fails");
        notifier.publish(&[Hint::Events]).await.expect("it never fails");
        drop(notifier);
        assert_eq!(hints.next().await, Hint::Events, "what was published is heard");
        let mut next = pin!(hints.next());
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            assert_eq!(next.as_mut().poll(&mut context), Poll::Pending);
        }
    }
}
