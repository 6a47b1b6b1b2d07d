//! Queue with a planted bug.
#![deny(clippy::missing_trait_methods)]

use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;

use super::{Bug, Mutant};
use crate::queue::{Claim, Depth, Job, Lane, Queue, QueueError, Settlement, Verdict};

impl Mutant<dyn Queue> {
    /// The claim that counts: by the bug whichever was given out last.
    fn latest(&self, claim: &Claim) -> Claim {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = given.get(&claim.job).filter(|_| self.bug == Bug::FencesIgnored);
        latest.unwrap_or(claim).clone()
    }
}

#[async_trait]
impl Queue for Mutant<dyn Queue> {
    async fn push(&self, jobs: &[(Job, Duration)]) -> Result<(), QueueError> {
        self.inner.push(jobs).await
    }

    async fn restore(&self, jobs: &[(Job, Duration)]) -> Result<Option<usize>, QueueError> {
        self.inner.restore(jobs).await
    }

    async fn claim(
        &self,
        lane: Lane,
        max: usize,
        lease: Duration,
    ) -> Result<Vec<Claim>, QueueError> {
        let claims = self.inner.claim(lane, max, lease).await?;
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.extend(claims.iter().map(|claim| (claim.job.clone(), claim.clone())));
        Ok(claims)
    }

    async fn extend(&self, claims: &[Claim], lease: Duration) -> Result<Vec<bool>, QueueError> {
        let claims: Vec<Claim> = claims.iter().map(|claim| self.latest(claim)).collect();
        self.inner.extend(&claims, lease).await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<bool>, QueueError> {
        let bent: Vec<Settlement> = settlements
            .iter()
            .map(|settlement| Settlement {
                claim: self.latest(&settlement.claim),
                verdict: match &settlement.verdict {
                    Verdict::Postpone { .. } if self.bug == Bug::PostponedForgotten => {
                        Verdict::Done
                    }
                    verdict => verdict.clone(),
                },
            })
            .collect();
        self.inner.settle(&bent).await
    }

    async fn leave(&self, lane: Lane) -> Result<(), QueueError> {
        self.inner.leave(lane).await
    }

    async fn depth(&self, lane: Lane) -> Result<Depth, QueueError> {
        self.inner.depth(lane).await
    }
}
