//! The feed: a merchant's events in one order, and the in-process consumer that follows it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::changes::{Changes, Committed, Guard, Write};
use crate::error::Error;
use crate::event::Event;
use crate::gateway::{Gateway, commit_surely};
use crate::notifier::Hint;
use crate::scope::Scope;
use crate::storage::StorageError;

/// Follows a scope's events in order, from a durable cursor: the way for a Rust host to hear its own gateway.
///
/// At least once: an event is given again until it is acknowledged, here or after a restart. One consumer of a name at a
/// time; a second one hears the same events, and each acknowledgement counts for both.
///
/// ```
/// # use pgw_core::gateway::Gateway;
/// # async fn f(gateway: &Gateway) -> Result<(), Box<dyn std::error::Error>> {
/// let mut orders = gateway.events(Default::default(), "orders")?;
/// loop {
///     let event = orders.next().await?;
///     println!("{} {}", event.event_type, event.id); // do what it means for the host
///     orders.acknowledge(&event).await?;
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Consumer {
    gateway: Gateway,
    scope: Scope,
    name: Box<str>,
    cursor: Option<u64>,
    ahead: VecDeque<Event>,
}

impl Consumer {
    /// Longest name in bytes.
    pub const NAME_LEN_MAX: usize = 64;

    pub(crate) fn new(
        gateway: Gateway,
        scope: Scope,
        name: &str,
    ) -> Result<Self, ConsumerNameError> {
        let fits = (1..=Self::NAME_LEN_MAX).contains(&name.len());
        let plain = name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b));
        if !fits || !plain {
            return Err(ConsumerNameError);
        }
        Ok(Self { gateway, scope, name: name.into(), cursor: None, ahead: VecDeque::new() })
    }

    /// The first event that is not acknowledged. Waits for it; the same one again until it is acknowledged.
    ///
    /// # Errors
    /// [`Error::Storage`], [`Error::Notifier`].
    ///
    /// # Cancel safety
    /// Dropping the future loses no event.
    pub async fn next(&mut self) -> Result<Event, Error> {
        // Listening starts before the first look, so that no event falls between the two.
        let mut hints = None;
        loop {
            if let Some(event) = self.ahead.front() {
                return Ok(event.clone());
            }
            let cursor = self.position().await?;
            let storage = self.gateway.storage();
            self.ahead.extend(storage.feed(&self.scope, cursor, BATCH).await?);
            if !self.ahead.is_empty() {
                continue;
            }
            let notifier = &self.gateway.parts().notifier;
            let Some(hints) = &mut hints else {
                hints = Some(notifier.subscribe().await.map_err(Error::Notifier)?);
                continue;
            };
            let look_again = tokio::time::sleep(POLL_PERIOD);
            tokio::pin!(look_again);
            loop {
                tokio::select! {
                    // In a fixed order, so that a run can be replayed from its seed.
                    biased;
                    () = &mut look_again => break,
                    hint = hints.next() => {
                        if matches!(hint, Hint::Stamped | Hint::Missed) {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Says that an event, and every one before it, is done with. Saying it of an older event changes nothing.
    ///
    /// # Errors
    /// [`Error::Storage`]; [`Error::Busy`] when another consumer of the same name is faster all the time.
    ///
    /// # Cancel safety
    /// The cursor moved or did not; asking again is harmless.
    pub async fn acknowledge(&mut self, event: &Event) -> Result<(), Error> {
        let Some(to) = event.feed_position else { return Ok(()) };
        for _ in 0..TRIES {
            let position = self.position().await?;
            if position < to {
                let consumer = self.name.clone();
                let changes = Changes::new(self.scope.clone())
                    .guard(Guard::Cursor { consumer: consumer.clone(), position })
                    .write(Write::Cursor { consumer, position: to });
                let storage = self.gateway.storage();
                match commit_surely(storage, changes, self.gateway.env()).await? {
                    (Ok(Committed::Applied { .. }), _) => self.cursor = Some(to),
                    (Err(StorageError::Conflict(_)), _) => {
                        self.cursor = None;
                        continue;
                    }
                    (Ok(_), _) => {}
                    (Err(error), _) => return Err(error.into()),
                }
            }
            while self.ahead.front().is_some_and(|next| next.feed_position <= Some(to)) {
                self.ahead.pop_front();
            }
            return Ok(());
        }
        Err(Error::Busy("consumer"))
    }

    async fn position(&mut self) -> Result<u64, Error> {
        if let Some(cursor) = self.cursor {
            return Ok(cursor);
        }
        let cursor = self.gateway.storage().cursor(&self.scope, &self.name).await?;
        self.cursor = Some(cursor);
        Ok(cursor)
    }
}

/// The text cannot name a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 64 characters of a-z, 0-9, '_' and '-'")]
pub struct ConsumerNameError;

/// Events read at once.
const BATCH: usize = 100;
/// How often it looks without a hint: hints may be lost.
const POLL_PERIOD: Duration = Duration::from_secs(1);
/// How often an acknowledgement is tried against another consumer of the same name.
const TRIES: u32 = 8;
