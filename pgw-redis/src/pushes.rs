//! Pushes of several callers at once, as one: what comes while one is on its way goes with the next, and when idle nobody waits for company.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgw_core::queue::{Job, QueueError};
use tokio::sync::oneshot;

use crate::error::RedisError;

/// Pushes that wait for the one that is on its way. Clones are handles on the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pushes(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    is_sending: bool,
    pushes: Vec<Push>,
}

/// What somebody pushes, and where they wait for what comes of it.
#[derive(Debug)]
pub(crate) struct Push {
    pub(crate) jobs: Vec<(Job, Duration)>,
    answer: oneshot::Sender<Result<(), QueueError>>,
}

/// Why a job was not taken.
#[derive(Debug, Clone)]
pub(crate) enum Untaken {
    /// There is no room for it.
    Full {
        /// Most jobs there may be.
        max: usize,
    },
    /// Nobody said that it was.
    Failed(RedisError),
}

impl From<Untaken> for QueueError {
    fn from(untaken: Untaken) -> Self {
        match untaken {
            Untaken::Full { max } => Self::Full { max },
            Untaken::Failed(error) => Self::Unavailable(error.into_source()),
        }
    }
}

/// The runtime that pushed has ended.
#[derive(Debug, thiserror::Error)]
#[error("whoever pushed the jobs was stopped")]
struct Stopped;

impl Pushes {
    /// Puts jobs in, to be pushed by the sending that is under way or by the one that this begins.
    pub(crate) fn put(
        &self,
        jobs: &[(Job, Duration)],
    ) -> (Option<Sending>, impl Future<Output = Result<(), QueueError>> + Send + use<>) {
        let (answer, answered) = oneshot::channel();
        let begins = {
            let mut waiting = self.lock();
            waiting.pushes.push(Push { jobs: jobs.to_vec(), answer });
            !std::mem::replace(&mut waiting.is_sending, true)
        };
        let sending = begins.then(|| Sending { pushes: self.clone(), is_over: false });
        let told =
            async { answered.await.unwrap_or(Err(QueueError::Unavailable(Arc::new(Stopped)))) };
        (sending, told)
    }

    /// Nobody counts on the sending under way: the next push begins another, for what waits too.
    pub(crate) fn abandon(&self) {
        self.lock().is_sending = false;
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody pushes for all who wait. Dropped before nobody did, as with the runtime it runs on, it leaves those without an answer; the next push
/// begins another.
#[derive(Debug)]
pub(crate) struct Sending {
    pushes: Pushes,
    is_over: bool,
}

impl Sending {
    /// What waits now; nothing: this sending is over.
    pub(crate) fn take(&mut self) -> Vec<Push> {
        let mut waiting = self.pushes.lock();
        let taken = std::mem::take(&mut waiting.pushes);
        self.is_over = taken.is_empty();
        waiting.is_sending = !self.is_over;
        taken
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.is_over {
            let mut waiting = self.pushes.lock();
            waiting.is_sending = false;
            waiting.pushes.clear();
        }
    }
}

/// Tells each what became of its jobs, of which all lie in a row as they were taken.
pub(crate) fn tell(pushes: Vec<Push>, untaken: &[Option<Untaken>]) {
    let mut place = 0;
    for Push { jobs, answer } in pushes {
        let mine = untaken.iter().skip(place).take(jobs.len());
        place += jobs.len();
        let first = mine.flatten().next();
        // Whoever asked may be gone.
        let _ = answer.send(first.map_or(Ok(()), |why| Err(why.clone().into())));
    }
}

#[cfg(test)]
mod tests {
    use pgw_core::id::{OperationId, PaymentId};
    use pgw_core::scope::Scope;
    use uuid::Uuid;

    use super::*;

    fn job(number: u128) -> (Job, Duration) {
        let id = Uuid::from_u128(number);
        let (payment, operation) = (PaymentId::from_uuid(id), OperationId::from_uuid(id));
        (Job::Operation { scope: Scope::default(), payment, operation }, Duration::ZERO)
    }

    #[tokio::test]
    async fn what_comes_meanwhile_goes_together_and_each_hears_of_its_own() {
        let pushes = Pushes::default();
        let (sending, first) = pushes.put(&[job(1)]);
        let mut sending = sending.expect("nobody pushes yet");
        let taken = sending.take();
        let (another, second) = pushes.put(&[job(2), job(3)]);
        assert!(another.is_none(), "one is under way");
        let (_, third) = pushes.put(&[job(4)]);
        tell(taken, &[None]);
        first.await.unwrap();
        let taken = sending.take();
        let jobs: Vec<usize> = taken.iter().map(|push| push.jobs.len()).collect();
        assert_eq!(jobs, [2, 1]);
        tell(taken, &[None, Some(Untaken::Full { max: 7 }), None]);
        assert!(matches!(second.await, Err(QueueError::Full { max: 7 })));
        third.await.unwrap();
        assert!(sending.take().is_empty());
        drop(sending);
        assert!(pushes.put(&[job(5)]).0.is_some(), "that one is over");
    }

    #[tokio::test]
    async fn an_abandoned_sending_keeps_nobody_from_another() {
        let pushes = Pushes::default();
        let (stuck, _) = pushes.put(&[job(1)]);
        let mut stuck = stuck.expect("nobody pushes yet");
        assert_eq!(stuck.take().len(), 1);
        let (none, _) = pushes.put(&[job(2)]);
        assert!(none.is_none());
        pushes.abandon();
        let (other, third) = pushes.put(&[job(3)]);
        let mut other = other.expect("the first is abandoned");
        let taken = other.take();
        assert_eq!(taken.len(), 2, "what waited goes too");
        tell(taken, &[None, None]);
        third.await.unwrap();
        assert!(stuck.take().is_empty() && other.take().is_empty());
    }

    #[tokio::test]
    async fn nobody_waits_for_a_sending_that_was_stopped() {
        let pushes = Pushes::default();
        let (sending, first) = pushes.put(&[job(1)]);
        let (_, second) = pushes.put(&[job(2)]);
        let mut sending = sending.expect("nobody pushes yet");
        let taken = sending.take();
        let (_, third) = pushes.put(&[job(3)]);
        drop((taken, sending));
        for told in [first.await, second.await, third.await] {
            assert!(matches!(told, Err(QueueError::Unavailable(_))));
        }
        assert!(pushes.put(&[job(4)]).0.is_some(), "nobody pushes");
    }
}
