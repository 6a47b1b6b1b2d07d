//! Claims: who holds which job, by what the queue told its claimers.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::env::runtime_now;
use crate::payment::Fence;
use crate::queue::{Claim, Job};
use crate::testing::invariants::Broken;

/// The claims of a world that were not settled yet.
#[derive(Debug, Default)]
pub(super) struct Claims(BTreeMap<Job, Held>);

#[derive(Debug, Clone, Copy)]
struct Held {
    fence: Fence,
    until: Instant,
    /// Whether the job's row was written since, which ends the claim where the rows are the queue.
    is_ended: bool,
}

impl Claims {
    /// Somebody was given a claim.
    pub(super) fn given(&mut self, claim: &Claim, lease: Duration) -> Result<(), Broken> {
        let now = runtime_now();
        let held = Held { fence: claim.fence, until: now + lease, is_ended: false };
        match self.0.insert(claim.job.clone(), held) {
            Some(before) if now < before.until && !before.is_ended => Err((
                "a job has one holder at a time",
                format!("{:?} was given out while it was held", claim.job),
            )),
            _ => Ok(()),
        }
    }

    /// A claim was extended, if the queue said so.
    pub(super) fn extended(
        &mut self,
        claim: &Claim,
        lease: Duration,
        was_held: bool,
    ) -> Result<(), Broken> {
        self.check(claim, was_held)?;
        if was_held && let Some(held) = self.0.get_mut(&claim.job) {
            held.until = runtime_now() + lease;
        }
        Ok(())
    }

    /// A claim was settled, if the queue said so.
    pub(super) fn settled(&mut self, claim: &Claim, was_held: bool) -> Result<(), Broken> {
        self.check(claim, was_held)?;
        if was_held {
            self.0.remove(&claim.job);
        }
        Ok(())
    }

    /// The rows of these jobs were written.
    pub(super) fn ended(&mut self, is_written: impl Fn(&Job) -> bool) {
        for (_, held) in self.0.iter_mut().filter(|(job, _)| is_written(job)) {
            held.is_ended = true;
        }
    }

    /// The queue forgot them all.
    pub(super) fn lost(&mut self) {
        self.0.clear();
    }

    fn check(&self, claim: &Claim, was_held: bool) -> Result<(), Broken> {
        let is_holder = self.0.get(&claim.job).is_some_and(|held| held.fence == claim.fence);
        if is_holder || !was_held {
            return Ok(());
        }
        Err((
            "who lost a claim can do nothing to it",
            format!("{:?} moved for somebody who holds it no more", claim.job),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Lane;
    use crate::testing::sample::Samples;

    const LEASE: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_claim_is_its_holders_until_it_is_settled_or_given_to_another() {
        let (samples, mut claims) = (Samples::new(1), Claims::default());
        let claim = |fence| Claim { job: samples.job(Lane::Deliveries), fence, claims: 1 };
        let first = claim(Fence(1));
        let second = Claim { fence: Fence(2), ..first.clone() };
        assert_eq!(claims.given(&first, LEASE), Ok(()));
        tokio::time::advance(LEASE).await;
        assert_eq!(claims.extended(&first, LEASE, true), Ok(()), "it ran out, and nobody took it");
        assert!(claims.given(&second, LEASE).is_err(), "it is held");
        assert_eq!(claims.settled(&first, false), Ok(()), "it was told that it lost it");
        assert!(claims.settled(&first, true).is_err(), "it moved what is another's");
        assert_eq!(claims.settled(&second, true), Ok(()));
        assert_eq!(claims.given(&first, LEASE), Ok(()), "it was settled");
        claims.ended(|job| *job == first.job);
        assert_eq!(claims.given(&second, LEASE), Ok(()), "a write ended it");
        claims.lost();
        assert_eq!(claims.given(&first, LEASE), Ok(()), "it was forgotten");
    }
}
