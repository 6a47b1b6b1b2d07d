//! The verbs about endpoints.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::Error;
use crate::id::EndpointId;
use crate::page::{Page, PageRequest};
use crate::secret::Secret;
use crate::webhook::plan::{self, EndpointUpdate, NewEndpoint};
use crate::webhook::{Delivery, Endpoint, EndpointStatus, EndpointUrl, EventFilter};

use super::{Bound, CONFLICT_TRIES, Certainty, Commit};

impl Bound<'_> {
    /// Creates an endpoint with a new secret. Show the secret to its owner now: no other verb tells it.
    ///
    /// # Errors
    /// [`Error::AddressDenied`], [`Error::Invalid`], [`Error::NoTransport`], [`Error::Storage`].
    pub async fn create_endpoint(&self, new: NewEndpoint) -> Result<Endpoint, Error> {
        self.check_url(&new.url)?;
        check_filters(&new.filters)?;
        let page = self
            .storage
            .endpoints(self.scope(), PageRequest::first(PageRequest::LIMIT_MAX))
            .await?;
        if page.data.len() >= Endpoint::PER_SCOPE_MAX {
            return Err(Error::Invalid {
                field: "url",
                code: "too_many_endpoints",
                message: format!(
                    "would be one endpoint more than {}; delete one first",
                    Endpoint::PER_SCOPE_MAX
                ),
            });
        }
        let secret = self.new_secret();
        let (changes, endpoint) = self.plan(|stamp| plan::create_endpoint(new, secret, stamp));
        // The id is new and random: a conflict can only be an earlier try of this very commit.
        self.commit(changes).await?;
        Ok(endpoint)
    }

    /// An endpoint. Its secret is there for signing: do not show it.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub async fn endpoint(&self, id: EndpointId) -> Result<Option<Endpoint>, Error> {
        let endpoint = self.storage.endpoint(self.scope(), id).await?;
        Ok(endpoint.filter(|endpoint| endpoint.status != EndpointStatus::Deleted))
    }

    /// Endpoints, newest first.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub async fn endpoints(&self, page: PageRequest) -> Result<Page<Endpoint>, Error> {
        Ok(self.storage.endpoints(self.scope(), page).await?)
    }

    /// Changes an endpoint.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::AddressDenied`], [`Error::Invalid`], [`Error::Busy`], [`Error::Storage`].
    pub async fn update_endpoint(
        &self,
        id: EndpointId,
        update: EndpointUpdate,
    ) -> Result<Endpoint, Error> {
        if let Some(url) = &update.url {
            self.check_url(url)?;
        }
        check_filters(update.filters.as_deref().unwrap_or_default())?;
        for _ in 0..CONFLICT_TRIES {
            let endpoint = self.endpoint(id).await?.ok_or(Error::NotFound("endpoint"))?;
            let (changes, next) =
                self.plan(|stamp| plan::update_endpoint(&endpoint, update.clone(), stamp));
            match self.commit(changes).await? {
                Commit::Applied | Commit::Known { .. } => return Ok(next),
                // Applying the same update once more is harmless.
                Commit::Conflict(_) => {}
            }
        }
        Err(Error::Busy("endpoint"))
    }

    /// Gives an endpoint a new secret, which the answer holds: show it to its owner now, no other verb tells it. For `overlap` from
    /// now webhooks are signed with the old one too (in the `seed` profile, which has room for one signature, with the old one
    /// only); zero ends the old one at once. A secret from a rotation before ends at once in any case, so do not repeat this
    /// blindly when the answer was lost.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the overlap is longer than [`Endpoint::OVERLAP_MAX`], [`Error::NotFound`], [`Error::Busy`],
    /// [`Error::Storage`].
    pub async fn rotate_secret(
        &self,
        id: EndpointId,
        overlap: Duration,
    ) -> Result<Endpoint, Error> {
        if overlap > Endpoint::OVERLAP_MAX {
            return Err(Error::Invalid {
                field: "expires_in",
                code: "out_of_range",
                message: format!("must be from 0 to {} seconds", Endpoint::OVERLAP_MAX.as_secs()),
            });
        }
        let secret = self.new_secret();
        for _ in 0..CONFLICT_TRIES {
            let endpoint = self.endpoint(id).await?.ok_or(Error::NotFound("endpoint"))?;
            // An earlier try was applied after all. Rotating once more would end the secret that receivers know.
            if endpoint.secret == secret {
                return Ok(endpoint);
            }
            let (changes, next) =
                self.plan(|stamp| plan::rotate_secret(&endpoint, secret.clone(), overlap, stamp));
            match self.commit(changes).await? {
                Commit::Applied | Commit::Known { .. } => return Ok(next),
                Commit::Conflict(_) => {}
            }
        }
        Err(Error::Busy("endpoint"))
    }

    /// Sends a `test.ping` to an endpoint and to no other, whatever its filters; its delivery is retried and logged like any
    /// other. The endpoint's version goes up by one.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::EndpointDisabled`], [`Error::Busy`], [`Error::Storage`].
    pub async fn test_endpoint(&self, id: EndpointId) -> Result<Delivery, Error> {
        // The test whose commit may have been applied although its answer was lost.
        let mut doubtful = None;
        for _ in 0..CONFLICT_TRIES {
            if let Some(sent) = doubtful.take()
                && let Some(work) = self.delivery(sent).await?
            {
                return Ok(work.delivery);
            }
            let endpoint = self.endpoint(id).await?.ok_or(Error::NotFound("endpoint"))?;
            if endpoint.status != EndpointStatus::Enabled {
                return Err(Error::EndpointDisabled);
            }
            let (changes, delivery) = self.plan(|stamp| plan::test_endpoint(&endpoint, stamp));
            match self.commit(changes).await? {
                Commit::Applied | Commit::Known { .. } => return Ok(delivery),
                Commit::Conflict(Certainty::Sure) => {}
                Commit::Conflict(Certainty::MaybeOurs) => doubtful = Some(delivery.id),
            }
        }
        Err(Error::Busy("endpoint"))
    }

    /// Deletes an endpoint. What was not delivered to it is given up.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Busy`], [`Error::Storage`].
    pub async fn delete_endpoint(&self, id: EndpointId) -> Result<(), Error> {
        let mut certainty = Certainty::Sure;
        for _ in 0..CONFLICT_TRIES {
            let Some(endpoint) = self.endpoint(id).await? else {
                return match certainty {
                    Certainty::MaybeOurs => Ok(()),
                    Certainty::Sure => Err(Error::NotFound("endpoint")),
                };
            };
            match self.commit(self.plan(|stamp| plan::delete_endpoint(&endpoint, stamp))).await? {
                Commit::Applied | Commit::Known { .. } => return Ok(()),
                Commit::Conflict(sure) => certainty = sure,
            }
        }
        Err(Error::Busy("endpoint"))
    }

    fn new_secret(&self) -> Secret {
        let bytes = self.gateway.parts.env.bytes::<32>();
        Secret::new(format!("whsec_{}", STANDARD.encode(bytes)))
    }

    fn check_url(&self, url: &EndpointUrl) -> Result<(), Error> {
        let transport = self.gateway.parts.transport.as_ref().ok_or(Error::NoTransport)?;
        transport.check(url).map_err(Error::AddressDenied)
    }
}

fn check_filters(filters: &[EventFilter]) -> Result<(), Error> {
    if filters.len() > Endpoint::FILTERS_MAX {
        return Err(Error::Invalid {
            field: "event_types",
            code: "too_many",
            message: format!("must have at most {} entries", Endpoint::FILTERS_MAX),
        });
    }
    Ok(())
}
