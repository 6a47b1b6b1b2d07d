//! The relay: what every notifier over a network has in this process.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{broadcast, watch};

use super::{Hint, Outbox, Sending, Subscription};

/// This process's end of a [`Notifier`](super::Notifier) over a network: its own subscribers, who hear a hint at once; what waits to go out to
/// other processes; and the one task that listens to those.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use pgw_core::notifier::{Hint, Relay};
///
/// let (ours, theirs) = (Relay::new(1), Relay::new(2));
/// let mut hints = theirs.subscribe(());
/// let mut sending = ours.publish(&[Hint::Events]).expect("somebody must send");
/// let text = ours.texts(&sending.take(), usize::MAX).remove(0);
/// // … which the network carries to where somebody listens:
/// theirs.listen(|mut ears| async move {
///     ears.begin();
///     ears.hear(&text);
/// });
/// assert_eq!(hints.next().await, Hint::Events);
/// # }
/// ```
pub struct Relay {
    /// Tells what was sent from here from what others sent.
    origin: u64,
    hub: broadcast::Sender<Hint>,
    outbox: Outbox,
    listener: Mutex<Option<Listener>>,
}

/// The task that listens, and whether it does yet.
struct Listener {
    task: tokio::task::JoinHandle<()>,
    listens: watch::Receiver<bool>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Relay {
    /// How many unread hints a subscription keeps.
    pub const UNREAD_MAX: usize = 1_024;

    /// One whose messages are known by this number, which is to be random.
    #[must_use]
    pub fn new(origin: u64) -> Self {
        let (hub, _) = broadcast::channel(Self::UNREAD_MAX);
        Self { origin, hub, outbox: Outbox::default(), listener: Mutex::default() }
    }

    /// Tells the subscribers of this process, and keeps the hints for the others. `Some`: whoever asks is to send until nothing is left, on a
    /// task of its own.
    #[must_use]
    pub fn publish(&self, hints: &[Hint]) -> Option<Sending> {
        if hints.is_empty() {
            return None;
        }
        for hint in hints {
            say(&self.hub, hint.clone());
        }
        self.outbox.put(hints).then(|| self.outbox.sending())
    }

    /// Waits as [`Outbox::sent`] does.
    ///
    /// # Cancel safety
    /// The future may be dropped at any await; nothing is lost by that.
    pub async fn sent(&self) {
        self.outbox.sent().await;
    }

    /// Hints as messages of at most so many bytes, in order: the first line says where they are from, then there is one a line.
    #[must_use]
    pub fn texts(&self, hints: &[Hint], bytes_max: usize) -> Vec<String> {
        texts(&format!("{:016x}", self.origin), hints, bytes_max)
    }

    /// The same from nobody: subscribers of this process hear them, too, when they come back.
    #[must_use]
    pub fn anonymous_texts(hints: &[Hint], bytes_max: usize) -> Vec<String> {
        texts("-", hints, bytes_max)
    }

    /// Starts the task that listens, unless there is one; a view of whether it does. The task is dropped with the relay, so it must not hold it.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn listen<F>(&self, task: impl FnOnce(Ears) -> F) -> watch::Receiver<bool>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listener) = listener.as_ref().filter(|listener| !listener.task.is_finished()) {
            return listener.listens.clone();
        }
        let (tells, listens) = watch::channel(false);
        let hub = self.hub.clone();
        let ears = Ears { origin: self.origin, hub, tells, has_begun: false };
        let task = tokio::spawn(task(ears));
        *listener = Some(Listener { task, listens: listens.clone() });
        listens
    }

    /// Hears what is said from now on. `keeps` is what must live as long as the subscription: the notifier.
    pub fn subscribe(&self, keeps: impl Send + Sync + 'static) -> Box<dyn Subscription> {
        Box::new(Heard { hints: self.hub.subscribe(), _keeps: Arc::new(keeps) })
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").finish_non_exhaustive()
    }
}

/// Waits until listening has begun: a hint published from now on is to be heard. If it takes longer than `most`, there is polling.
pub async fn heard_from_now_on(mut listens: watch::Receiver<bool>, most: Duration) {
    let begun = listens.wait_for(|listens| *listens);
    if tokio::time::timeout(most, begun).await.is_err() {
        tracing::warn!("hints of other processes are not heard yet; polling goes on");
    }
}

/// What the listening task passes hints on with.
#[derive(Debug)]
pub struct Ears {
    origin: u64,
    hub: broadcast::Sender<Hint>,
    tells: watch::Sender<bool>,
    has_begun: bool,
}

impl Ears {
    /// Listening has begun. When it had before, hints may be lost: subscribers hear [`Hint::Missed`].
    pub fn begin(&mut self) {
        if std::mem::replace(&mut self.has_begun, true) {
            self.say(Hint::Missed);
        }
        self.tells.send_replace(true);
    }

    /// Listening has ended: whoever subscribes waits until it begins again.
    pub fn end(&self) {
        self.tells.send_replace(false);
    }

    /// Passes a hint on.
    pub fn say(&self, hint: Hint) {
        say(&self.hub, hint);
    }

    /// Passes on the hints of a message. Those of our own, which our subscribers heard before they were sent, are none; what is not understood
    /// is [`Hint::Missed`].
    pub fn hear(&self, text: &str) {
        let mut lines = text.lines();
        if lines.next() == Some(&format!("{:016x}", self.origin)) {
            return;
        }
        lines.for_each(|line| self.say(line.parse().unwrap_or(Hint::Missed)));
    }
}

fn say(hub: &broadcast::Sender<Hint>, hint: Hint) {
    // An error means that nobody listens just now.
    let _ = hub.send(hint);
}

fn texts(origin: &str, hints: &[Hint], bytes_max: usize) -> Vec<String> {
    let mut texts = Vec::new();
    let mut text = origin.to_owned();
    for hint in hints {
        let line = hint.to_string();
        if text.len() > origin.len() && text.len() + 1 + line.len() > bytes_max {
            texts.push(std::mem::replace(&mut text, origin.to_owned()));
        }
        text.push('\n');
        text.push_str(&line);
    }
    if text.len() > origin.len() {
        texts.push(text);
    }
    texts
}

/// What a subscriber hears.
struct Heard {
    hints: broadcast::Receiver<Hint>,
    _keeps: Arc<dyn Send + Sync>,
}

#[async_trait]
impl Subscription for Heard {
    async fn next(&mut self) -> Hint {
        match self.hints.recv().await {
            Ok(hint) => hint,
            Err(broadcast::error::RecvError::Lagged(_)) => Hint::Missed,
            // The notifier that holds the hub is gone although it was to be kept.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

impl fmt::Debug for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heard").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::PaymentId;
    use crate::queue::Lane;
    use crate::scope::Scope;

    async fn heard(texts: &[String], by: &Relay) -> Vec<Hint> {
        let mut hints = by.subscribe(());
        let texts = texts.to_vec();
        by.listen(|mut ears| async move {
            ears.begin();
            texts.iter().for_each(|text| ears.hear(text));
            ears.say(Hint::Stamped);
        });
        let mut heard = Vec::new();
        loop {
            match hints.next().await {
                Hint::Stamped => return heard,
                hint => heard.push(hint),
            }
        }
    }

    #[tokio::test]
    async fn hints_come_back_in_order_and_ours_do_not() {
        let mut hints: Vec<Hint> = Lane::ALL.map(Hint::Work).to_vec();
        hints.extend([Hint::Events, Hint::ShieldChanged, Hint::Missed]);
        let payment = |n: u128| PaymentId::from_uuid(uuid::Uuid::from_u128(n));
        hints.extend((0..300).map(|n| Hint::Payment { scope: Scope::default(), id: payment(n) }));
        let ours = Relay::new(7);
        let texts = ours.texts(&hints, 2_000);
        assert!(texts.len() > 1 && texts.iter().all(|text| text.len() <= 2_000));
        assert_eq!(heard(&texts, &Relay::new(8)).await, hints);
        assert_eq!(heard(&texts, &ours).await, []);
        assert_eq!(ours.texts(&hints, usize::MAX).len(), 1);
        assert_eq!(ours.texts(&[], 10), [""; 0]);
    }

    #[tokio::test]
    async fn what_nobody_sent_is_heard_and_what_nobody_understands_is_missed() {
        let texts = Relay::anonymous_texts(&[Hint::Events], 10);
        assert_eq!(heard(&texts, &Relay::new(7)).await, [Hint::Events]);
        assert_eq!(heard(&["x\nnonsense".to_owned()], &Relay::new(7)).await, [Hint::Missed]);
    }

    #[tokio::test]
    async fn a_listener_that_begins_anew_says_so() {
        let relay = Relay::new(7);
        let mut hints = relay.subscribe(());
        let listens = relay.listen(|mut ears| async move {
            ears.begin();
            ears.end();
            ears.begin();
            std::future::pending().await
        });
        heard_from_now_on(listens, Duration::from_secs(1)).await;
        assert_eq!(hints.next().await, Hint::Missed);
        let second = relay.listen(|_| async { panic!("there is one") });
        assert!(*second.borrow());
    }
}
