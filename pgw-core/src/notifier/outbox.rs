//! The outbox: hints on their way to other processes, of which one sending takes all there are.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Hint;

/// Hints that wait to be sent to other processes, for those who implement a [`Notifier`](super::Notifier) over a network: what is published while
/// a sending is on its way goes out with the next, so that hints cost a few messages, not one each, and a publisher waits for none.
///
/// ```
/// use pgw_core::notifier::{Hint, Outbox};
///
/// let outbox = Outbox::default();
/// assert!(outbox.put(&[Hint::Events]), "somebody must start to send");
/// assert!(!outbox.put(&[Hint::Events, Hint::Stamped]), "and is doing so");
/// let mut sending = outbox.sending();
/// assert_eq!(sending.take(), [Hint::Events, Hint::Stamped]);
/// assert!(sending.take().is_empty(), "that was all: the sending is over");
/// ```
///
/// Clones are handles on the same.
#[derive(Debug, Clone, Default)]
pub struct Outbox(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Said whenever a sending ends.
    ended: Notify,
}

impl State {
    const fn is_under_way(&self) -> bool {
        self.is_sending && !self.is_stalled
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct State {
    hints: Vec<Hint>,
    is_sending: bool,
    /// Whether the sending has to wait for a server that is away.
    is_stalled: bool,
}

impl Outbox {
    /// Most hints that wait: more are as good as [`Hint::Missed`].
    pub const HINTS_MAX: usize = 512;

    /// Puts hints in; whether somebody must start to send.
    #[must_use]
    pub fn put(&self, hints: &[Hint]) -> bool {
        let mut state = self.0.lock();
        for hint in hints {
            if state.hints.len() >= Self::HINTS_MAX {
                state.hints.clear();
                state.hints.push(Hint::Missed);
            }
            if state.hints.first() == Some(&Hint::Missed) {
                break;
            }
            // One of a kind is enough.
            let is_general = !matches!(hint, Hint::Payment { .. } | Hint::KeyRevoked(_));
            if !is_general || !state.hints.contains(hint) {
                state.hints.push(hint.clone());
            }
        }
        !std::mem::replace(&mut state.is_sending, true)
    }

    /// The sending that [`put`](Self::put) asked for. To be made before the task that sends, and moved into it: a task may be dropped before it
    /// runs.
    #[must_use]
    pub fn sending(&self) -> Sending {
        Sending { outbox: Arc::clone(&self.0), is_over: false }
    }

    /// Waits until nobody sends any more, or whoever does is [stalled](Sending::stall): what was put in before has gone out, or will not soon. For a process that is about to end, and would take
    /// with it what it has told nobody yet.
    ///
    /// # Cancel safety
    /// The future may be dropped at any await; nothing is lost by that.
    pub async fn sent(&self) {
        loop {
            // Listens before it looks, so that an end in between is heard.
            let ended = self.0.ended.notified();
            if !self.0.lock().is_under_way() {
                return;
            }
            ended.await;
        }
    }
}

/// Somebody sends. When it is dropped before it has seen an empty outbox, as with the runtime it runs on, the next [`put`](Outbox::put) asks for
/// another.
#[derive(Debug)]
pub struct Sending {
    outbox: Arc<Shared>,
    is_over: bool,
}

impl Sending {
    /// What is to be sent now; nothing: this sending is over.
    #[must_use]
    pub fn take(&mut self) -> Vec<Hint> {
        let mut state = self.outbox.lock();
        let hints = std::mem::take(&mut state.hints);
        state.is_sending = !hints.is_empty();
        state.is_stalled = false;
        self.is_over = hints.is_empty();
        drop(state);
        if self.is_over {
            self.outbox.ended.notify_waiters();
        }
        hints
    }

    /// Tells those who wait for the [end](Outbox::sent) that this sending has to try again, and again.
    pub fn stall(&mut self) {
        self.outbox.lock().is_stalled = true;
        self.outbox.ended.notify_waiters();
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.is_over {
            self.outbox.lock().is_sending = false;
            self.outbox.ended.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn too_many_hints_are_one_that_says_so() {
        let outbox = Outbox::default();
        let many = vec![
            Hint::Payment {
                scope: Default::default(),
                id: crate::id::PaymentId::from_uuid(uuid::Uuid::nil())
            };
            513
        ];
        assert!(outbox.put(&many));
        assert_eq!(outbox.sending().take(), [Hint::Missed]);
    }

    #[tokio::test]
    async fn whoever_is_about_to_end_waits_for_what_is_on_its_way() {
        let outbox = Outbox::default();
        outbox.sent().await;
        assert!(outbox.put(&[Hint::Events]));
        let mut sending = outbox.sending();
        let mut sent = pin!(outbox.sent());
        let mut waits = || sent.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending();
        assert!(waits(), "nobody has taken it");
        assert_eq!(sending.take(), [Hint::Events]);
        assert!(waits(), "it is on its way");
        assert!(sending.take().is_empty());
        sent.await;
        // Cut short, there is nothing to wait for either.
        assert!(outbox.put(&[Hint::Events]));
        drop(outbox.sending());
        outbox.sent().await;
    }

    #[test]
    fn a_sending_that_was_cut_short_is_followed_by_another() {
        let outbox = Outbox::default();
        assert!(outbox.put(&[Hint::Events]));
        drop(outbox.sending());
        assert!(outbox.put(&[Hint::Events]), "nobody sends");
    }
}
