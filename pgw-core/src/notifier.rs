//! The notifier: a lossy broadcast of hints. Nothing is correct only because a hint arrived.

mod outbox;
mod relay;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;

use crate::access::KeyPrefix;
use crate::changes::{Changes, Write};
use crate::id::PaymentId;
use crate::processor::Source;
use crate::queue::{Job, Lane};
use crate::scope::{Mode, Scope};

pub use outbox::{Outbox, Sending};
pub use relay::{Ears, Relay, heard_from_now_on};

/// Tells others that it may be worth looking.
///
/// # Contract
/// A hint reaches every subscription that existed when it was published, at most a few times, or is lost. Hints to one
/// subscription arrive in the order they were published. Publishing never waits for a slow subscriber: what it misses
/// shows as one [`Hint::Missed`].
///
/// # Errors
/// [`NotifierError::Unavailable`]; callers log it and go on, because polling finds the work.
///
/// # Cancel safety
/// A dropped `publish` happened or did not. A dropped `next` loses no hint.
///
/// # Limits
/// A subscription buffers a bounded number of hints.
#[async_trait]
pub trait Notifier: fmt::Debug + Send + Sync {
    /// Sends hints to every subscription.
    ///
    /// # Errors
    /// [`NotifierError`].
    async fn publish(&self, hints: &[Hint]) -> Result<(), NotifierError>;

    /// Starts to listen.
    ///
    /// # Errors
    /// [`NotifierError`].
    async fn subscribe(&self) -> Result<Box<dyn Subscription>, NotifierError>;
}

/// Hints as they come.
#[async_trait]
pub trait Subscription: fmt::Debug + Send {
    /// The next hint. Waits for it; never ends while the notifier lives, and waits for ever after.
    ///
    /// # Cancel safety
    /// Dropping the future loses no hint.
    async fn next(&mut self) -> Hint;
}

/// Something that may be worth a look.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Hint {
    /// There may be work in this lane.
    Work(Lane),
    /// This payment changed. That it was created is no change: [`Events`](Self::Events) tells of that.
    Payment {
        /// Merchant and mode.
        scope: Scope,
        /// The payment.
        id: PaymentId,
    },
    /// Events were committed that want their feed position.
    Events,
    /// Events have a feed position now.
    Stamped,
    /// This API key was revoked.
    KeyRevoked(KeyPrefix),
    /// The shield was changed: who is denied, or whether anything may change.
    ShieldChanged,
    /// Hints were lost: look at everything.
    Missed,
}

impl Hint {
    /// What these changes are worth telling once they are committed, but for the work they make due.
    #[must_use]
    pub fn of(changes: &Changes) -> Vec<Self> {
        let mut hints: Vec<Self> = changes
            .writes
            .iter()
            .filter_map(|write| match write {
                // Nobody waits for a change of a payment that was not there.
                Write::Payment(payment) if payment.version > 1 => {
                    Some(Self::Payment { scope: payment.scope.clone(), id: payment.id })
                }
                Write::ApiKey(key) if key.revoked_at.is_some() => {
                    Some(Self::KeyRevoked(key.prefix))
                }
                Write::Shield(_) => Some(Self::ShieldChanged),
                _ => None,
            })
            .collect();
        let is_event = |write: &Write| matches!(write, Write::Event(_) | Write::EventTo { .. });
        if changes.writes.iter().any(is_event) {
            hints.push(Self::Events);
        }
        hints
    }

    /// That there is work, in each lane that a job is due in at once.
    #[must_use]
    pub fn work(due: &[(Job, Duration)]) -> Vec<Self> {
        let is_due =
            |lane: &Lane| due.iter().any(|(job, due_in)| job.lane() == *lane && due_in.is_zero());
        Lane::ALL.into_iter().filter(is_due).map(Self::Work).collect()
    }
}

/// One line: a word for the kind, and what it is about. What [`FromStr`] reads back, in this version and in later ones.
impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Work(lane) => write!(f, "work {}", lane.as_str()),
            Self::Payment { scope, id } => {
                write!(f, "payment {} {} {id}", scope.merchant, scope.mode)
            }
            Self::Events => f.write_str("events"),
            Self::Stamped => f.write_str("stamped"),
            Self::KeyRevoked(prefix) => write!(f, "key {}", prefix.as_str()),
            Self::ShieldChanged => f.write_str("shield"),
            Self::Missed => f.write_str("missed"),
        }
    }
}

impl FromStr for Hint {
    type Err = UnknownHint;

    /// ```
    /// use pgw_core::notifier::Hint;
    /// assert_eq!("stamped".parse(), Ok(Hint::Stamped));
    /// // Of a later version, say: whoever hears it looks at everything.
    /// assert_eq!("news".parse().unwrap_or(Hint::Missed), Hint::Missed);
    /// ```
    fn from_str(line: &str) -> Result<Self, UnknownHint> {
        let mut words = line.split(' ');
        let hint = match (words.next(), words.next(), words.next(), words.next()) {
            (Some("work"), Some(lane), None, None) => {
                Lane::ALL.into_iter().find(|known| known.as_str() == lane).map(Self::Work)
            }
            (Some("payment"), Some(merchant), Some(mode), Some(id)) => {
                let mode = if mode == Mode::Live.as_str() { Mode::Live } else { Mode::Test };
                let scope = merchant.parse().map(|merchant| Scope::new(merchant, mode)).ok();
                scope.zip(id.parse().ok()).map(|(scope, id)| Self::Payment { scope, id })
            }
            (Some("events"), None, None, None) => Some(Self::Events),
            (Some("stamped"), None, None, None) => Some(Self::Stamped),
            (Some("shield"), None, None, None) => Some(Self::ShieldChanged),
            (Some("key"), Some(prefix), None, None) => {
                KeyPrefix::parse(prefix).map(Self::KeyRevoked)
            }
            (Some("missed"), None, None, None) => Some(Self::Missed),
            _ => None,
        };
        hint.ok_or(UnknownHint)
    }
}

/// The line is no hint that this version knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no hint that this version knows")]
pub struct UnknownHint;

/// Why hints could not be sent or heard.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotifierError {
    /// It cannot be reached.
    #[error("the notifier cannot be reached")]
    Unavailable(#[source] Source),
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::testing::sample::Samples;

    #[test]
    fn a_payment_is_told_of_once_it_changes() {
        let samples = Samples::new(1);
        let creation = samples.creation();
        assert_eq!(Hint::of(&creation.changes()), [Hint::Events]);
        let touched = samples.touched(&creation.payment);
        let (scope, id) = (touched.scope.clone(), touched.id);
        let changes = Changes::new(scope.clone()).write(Write::Payment(Box::new(touched)));
        assert_eq!(Hint::of(&changes), [Hint::Payment { scope, id }]);
    }
}
