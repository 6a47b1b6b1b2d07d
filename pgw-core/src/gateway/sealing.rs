//! The verb of the operator that seals endpoints' secrets anew, after the key ring was given another active key.

use crate::access::Caller;
use crate::error::Error;
use crate::id::EndpointId;
use crate::storage::StorageError;
use crate::webhook::{Endpoint, plan};

use super::{Gateway, commit_surely};

/// What one call of [`Gateway::reseal_endpoints`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resealed {
    /// Endpoints whose secrets are sealed with the active key now, or were changed by somebody else at that moment.
    pub done: usize,
    /// Endpoints whose secrets could not be opened: their key is not on the ring, or was destroyed. Rotate their secrets.
    pub lost: usize,
    /// Where to go on. `None`: that was all.
    pub next: Option<EndpointId>,
}

impl Gateway {
    /// Seals the secrets of endpoints of all merchants with the active key of the ring, those that are sealed with another; at most `limit` in
    /// one call, from 1 to 1,000, in the order of their ids after `after`. Webhooks go on meanwhile: the ring opens both. Once a whole round
    /// finds nothing to do, the old key may leave the ring.
    ///
    /// ```
    /// # async fn f(gateway: &pgw_core::gateway::Gateway) -> Result<(), pgw_core::error::Error> {
    /// let mut after = None;
    /// loop {
    ///     let resealed = gateway.reseal_endpoints(after, 100).await?;
    ///     println!("{} endpoints sealed anew, {} cannot be opened", resealed.done, resealed.lost);
    ///     after = resealed.next;
    ///     if after.is_none() {
    ///         break;
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::NoTransport`] when the gateway has no key ring, [`Error::Storage`]; what was sealed until then stays so.
    ///
    /// # Cancel safety
    /// Each endpoint is sealed anew or is as it was.
    pub async fn reseal_endpoints(
        &self,
        after: Option<EndpointId>,
        limit: usize,
    ) -> Result<Resealed, Error> {
        let webhooks = self.parts.webhooks.as_ref().ok_or(Error::NoTransport)?;
        let limit = limit.clamp(1, 1_000);
        let active = webhooks.vault.keys().active();
        let old = self.storage().endpoints_sealed_otherwise(active, after, limit).await?;
        let last = old.last().map(|endpoint| endpoint.id);
        let next = last.filter(|_| old.len() >= limit);
        let mut resealed = Resealed { next, ..Resealed::default() };
        for endpoint in old {
            match self.reseal(endpoint).await {
                Ok(()) => resealed.done += 1,
                Err(Error::Sealing(error)) => {
                    tracing::error!(%error, "an endpoint's secret cannot be opened; rotate it");
                    resealed.lost += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(resealed)
    }

    async fn reseal(&self, endpoint: Endpoint) -> Result<(), Error> {
        let webhooks = self.parts.webhooks.as_ref().ok_or(Error::NoTransport)?;
        let mut renewed = endpoint.clone();
        if !webhooks.vault.renew(&mut renewed).map_err(Error::Sealing)? {
            return Ok(());
        }
        let own = self.by(Caller::host(endpoint.scope.clone()));
        let changes = own.plan(|stamp| plan::reseal_endpoint(&endpoint, renewed, stamp));
        match commit_surely(self.storage(), changes, self.env()).await? {
            // Somebody else changed it, perhaps sealing it anew: the next call sees.
            (Ok(_) | Err(StorageError::Conflict(_)), _) => Ok(()),
            (Err(error), _) => Err(error.into()),
        }
    }
}
