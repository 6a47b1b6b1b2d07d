//! [`Drain`]: tells everything that serves that it is time to come to an end.

use std::sync::Arc;

use tokio::sync::watch;

/// The one moment at which a process stops taking new work. Clones share it.
///
/// Given to [`Config`](crate::Config), streams of events end when it begins; given to the router of
/// [`ops`](crate::ops), `/readyz` says no. A host that serves with `axum::serve` begins it when it shuts down, or its
/// graceful shutdown waits for the streams; `serve::Server` has one of its own.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use pgw_http::Drain;
/// let drain = Drain::new();
/// assert!(!drain.has_begun());
/// drain.begin();
/// drain.begun().await;
/// # });
/// ```
#[derive(Debug, Clone)]
pub struct Drain(Arc<watch::Sender<bool>>);

impl Drain {
    /// One that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Begins it, for good.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }

    /// Whether it has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits for its beginning.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn begun(&self) {
        let mut begun = self.0.subscribe();
        // It fails when the sender is gone, which this holds.
        let _ = begun.wait_for(|begun| *begun).await;
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}
