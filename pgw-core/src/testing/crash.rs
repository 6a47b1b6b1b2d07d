//! Crashes: the life of one simulated process, which everything it does depends on.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::id::OperationId;

/// The life of a simulated process. Clones share it.
///
/// Once it [ends](Self::end), every [`Faulty`](super::faults::Faulty) part of the process waits for ever in its
/// next call, before anything takes effect: from that instant the process does nothing more, whatever its
/// tasks are in the middle of. Whoever started the process then drops it.
#[derive(Debug, Clone, Default)]
pub struct Life(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    over: AtomicBool,
    ended: Notify,
    under_way: Mutex<BTreeSet<OperationId>>,
}

impl Life {
    /// The life of a process that was just started.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Kills the process.
    pub fn end(&self) {
        self.0.over.store(true, Ordering::Relaxed);
        self.0.ended.notify_waiters();
    }

    /// Whether this is the life of the same process.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether the process was killed.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.over.load(Ordering::Relaxed)
    }

    /// Waits until the process is killed.
    ///
    /// # Cancel safety
    /// Only waits.
    pub async fn over(&self) {
        loop {
            let ended = self.0.ended.notified();
            tokio::pin!(ended);
            // Listening starts before the look, so that no end falls between the two.
            ended.as_mut().enable();
            if self.is_over() {
                return;
            }
            ended.await;
        }
    }

    /// Waits for ever if the process was killed.
    pub(super) async fn go_on(&self) {
        if self.is_over() {
            std::future::pending::<()>().await;
        }
    }

    /// Notes that the write-ahead of a call is committed, and its outcome is not.
    pub(super) fn dispatched(&self, operation: OperationId) {
        self.lock().insert(operation);
    }

    /// Notes that a call's outcome is committed.
    pub(super) fn learned(&self, operation: OperationId) {
        self.lock().remove(&operation);
    }

    /// How many calls had their write-ahead committed and their outcome not.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<OperationId>> {
        self.0.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
