//! The verbs about endpoints.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::Error;
use crate::id::EndpointId;
use crate::idempotency::KeyTarget;
use crate::page::{Page, PageRequest};
use crate::secret::Secret;
use crate::webhook::plan::{self, EndpointUpdate, NewEndpoint};
use crate::webhook::{
    Delivery, DeliveryOptions, Endpoint, EndpointStatus, EndpointUrl, EndpointWithSecret,
    EventFilter,
};

use super::once::{Asked, reply, surely};
use super::{Bound, CONFLICT_TRIES, Certainty, Commit, Webhooks};

impl Bound<'_> {
    /// Creates an endpoint with a new secret. Show the secret to its owner now: no other verb tells it.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use pgw_core::{crypto::KeyRing, env::Env, gateway::Gateway, testing::transport::RecordingTransport};
    /// # use pgw_storage_memory::{MemoryNotifier, MemoryQueue, MemoryStorage};
    /// use pgw_core::representation;
    /// use pgw_core::webhook::EndpointUrl;
    /// use pgw_core::webhook::plan::NewEndpoint;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let gateway = Gateway::builder()
    /// #     .with_storage(Arc::new(MemoryStorage::new()))
    /// #     .with_queue(Arc::new(MemoryQueue::new()))
    /// #     .with_notifier(Arc::new(MemoryNotifier::new()))
    /// #     .with_transport(Arc::new(RecordingTransport::new()), KeyRing::ephemeral(&Env::system()))
    /// #     .build()?;
    /// let url = EndpointUrl::parse("https://hooks.example/in")?;
    /// let created = gateway.host().create_endpoint(NewEndpoint::new(url)).await?;
    /// println!("{} signs with {}", created.endpoint.id, created.secret.expose()); // now or never
    /// let read = gateway.host().endpoint(created.endpoint.id).await?.expect("it was just created");
    /// let shown = String::from_utf8(representation::endpoint(&read))?;
    /// assert!(!shown.contains(created.secret.expose()));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::AddressDenied`], [`Error::Invalid`], [`Error::NoTransport`], [`Error::Sealing`], [`Error::Storage`].
    pub async fn create_endpoint(&self, new: NewEndpoint) -> Result<EndpointWithSecret, Error> {
        let asked = Asked::plainly(&reply::ENDPOINT_MADE);
        self.create_endpoint_as(new, &asked).await.map(surely)
    }

    pub(super) async fn create_endpoint_as(
        &self,
        new: NewEndpoint,
        asked: &Asked<'_, EndpointWithSecret>,
    ) -> Result<Option<EndpointWithSecret>, Error> {
        let webhooks = self.webhooks(&new.url)?;
        check_filters(&new.filters)?;
        check_options(&new.options)?;
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
        let (secret, id) = (self.new_secret(), EndpointId::mint(self.gateway.env()));
        let sealed = webhooks.vault.seal(self.scope(), id, 1, &secret).map_err(Error::Sealing)?;
        let headers = webhooks.vault.seal_headers(self.scope(), id, &new.headers);
        let headers = headers.map_err(Error::Sealing)?;
        let (changes, endpoint) =
            self.plan(|stamp| plan::create_endpoint(id, new, sealed, headers, stamp));
        let made = EndpointWithSecret { endpoint, secret };
        let changes = self.under(asked, changes, &made)?;
        Ok(match self.commit(changes).await? {
            Commit::Known { target, .. } if target != KeyTarget::Endpoint(made.endpoint.id) => None,
            // The id is new and random: whatever else it is can only be an earlier try of this very commit.
            Commit::Applied | Commit::Known { .. } | Commit::Conflict(_) => Some(made),
        })
    }

    /// An endpoint.
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

    /// Changes an endpoint. Only an address and headers need the transport and its key ring.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::AddressDenied`], [`Error::Invalid`], [`Error::NoTransport`], [`Error::Sealing`], [`Error::Busy`],
    /// [`Error::Storage`].
    pub async fn update_endpoint(
        &self,
        id: EndpointId,
        update: EndpointUpdate,
    ) -> Result<Endpoint, Error> {
        let asked = Asked::plainly(&reply::ENDPOINT_CHANGED);
        self.update_endpoint_as(id, update, &asked).await.map(surely)
    }

    pub(super) async fn update_endpoint_as(
        &self,
        id: EndpointId,
        update: EndpointUpdate,
        asked: &Asked<'_, Endpoint>,
    ) -> Result<Option<Endpoint>, Error> {
        if let Some(url) = &update.url {
            self.webhooks(url)?;
        }
        check_filters(update.filters.as_deref().unwrap_or_default())?;
        check_options(&update.options(DeliveryOptions::default()))?;
        let headers = match &update.headers {
            Some(headers) => {
                let webhooks = self.gateway.parts.webhooks.as_ref().ok_or(Error::NoTransport)?;
                let sealed = webhooks.vault.seal_headers(self.scope(), id, headers);
                sealed.map_err(Error::Sealing)?
            }
            None => None,
        };
        for _ in 0..CONFLICT_TRIES {
            let endpoint = self.endpoint(id).await?.ok_or(Error::NotFound("endpoint"))?;
            let (update, headers) = (update.clone(), headers.clone());
            let (changes, next) =
                self.plan(|stamp| plan::update_endpoint(&endpoint, update, headers, stamp));
            match self.commit(self.under(asked, changes, &next)?).await? {
                Commit::Applied => return Ok(Some(next)),
                Commit::Known { .. } => return Ok(None),
                // Applying the same update once more is harmless.
                Commit::Conflict(_) => {}
            }
        }
        Err(Error::Busy("endpoint"))
    }

    /// Gives an endpoint a new secret, which the answer holds: show it to its owner now, no other verb tells it. For `overlap` from
    /// now webhooks are signed with the old one too (in the `seed` profile, which has room for one signature, with the old one
    /// only); zero ends the old one at once. A secret from a rotation before ends at once in any case, so do not repeat this
    /// blindly when the answer was lost: [under a key](super::Once::rotate_secret) it can be repeated.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the overlap is longer than [`Endpoint::OVERLAP_MAX`], [`Error::NotFound`],
    /// [`Error::NoTransport`], [`Error::Sealing`], [`Error::Busy`], [`Error::Storage`].
    pub async fn rotate_secret(
        &self,
        id: EndpointId,
        overlap: Duration,
    ) -> Result<EndpointWithSecret, Error> {
        let asked = Asked::plainly(&reply::SECRET_ROTATED);
        self.rotate_secret_as(id, overlap, &asked).await.map(surely)
    }

    pub(super) async fn rotate_secret_as(
        &self,
        id: EndpointId,
        overlap: Duration,
        asked: &Asked<'_, EndpointWithSecret>,
    ) -> Result<Option<EndpointWithSecret>, Error> {
        if overlap > Endpoint::OVERLAP_MAX {
            return Err(Error::Invalid {
                field: "expires_in",
                code: "out_of_range",
                message: format!("must be from 0 to {} seconds", Endpoint::OVERLAP_MAX.as_secs()),
            });
        }
        let webhooks = self.gateway.parts.webhooks.as_ref().ok_or(Error::NoTransport)?;
        let secret = self.new_secret();
        // What an earlier try of this call may have committed.
        let mut sealed = None;
        for _ in 0..CONFLICT_TRIES {
            let endpoint = self.endpoint(id).await?.ok_or(Error::NotFound("endpoint"))?;
            // An earlier try was applied after all. Rotating once more would end the secret that receivers know.
            if sealed.as_ref() == Some(&endpoint.secret) {
                return Ok(Some(EndpointWithSecret { endpoint, secret }));
            }
            let generation = endpoint.generation.saturating_add(1);
            let next = webhooks.vault.seal(self.scope(), id, generation, &secret);
            let next = next.map_err(Error::Sealing)?;
            sealed = Some(next.clone());
            let (changes, endpoint) =
                self.plan(|stamp| plan::rotate_secret(&endpoint, next, overlap, stamp));
            let rotated = EndpointWithSecret { endpoint, secret: secret.clone() };
            match self.commit(self.under(asked, changes, &rotated)?).await? {
                Commit::Applied => return Ok(Some(rotated)),
                Commit::Known { .. } => return Ok(None),
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
        let asked = Asked::plainly(&reply::DELIVERY_STARTED);
        self.test_endpoint_as(id, &asked).await.map(surely)
    }

    pub(super) async fn test_endpoint_as(
        &self,
        id: EndpointId,
        asked: &Asked<'_, Delivery>,
    ) -> Result<Option<Delivery>, Error> {
        // The test whose commit may have been applied although its answer was lost.
        let mut doubtful = None;
        for _ in 0..CONFLICT_TRIES {
            if let Some(sent) = doubtful.take()
                && let Some(work) = self.delivery(sent).await?
            {
                return Ok(Some(work.delivery));
            }
            let endpoint = self.endpoint(id).await?.ok_or(Error::NotFound("endpoint"))?;
            if endpoint.status != EndpointStatus::Enabled {
                return Err(Error::EndpointDisabled);
            }
            let (changes, delivery) = self.plan(|stamp| plan::test_endpoint(&endpoint, stamp));
            match self.commit(self.under(asked, changes, &delivery)?).await? {
                Commit::Applied => return Ok(Some(delivery)),
                Commit::Known { .. } => return Ok(None),
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

    /// What sends webhooks, if they may be sent to this address.
    fn webhooks(&self, url: &EndpointUrl) -> Result<&Webhooks, Error> {
        let webhooks = self.gateway.parts.webhooks.as_ref().ok_or(Error::NoTransport)?;
        webhooks.transport.check(url).map_err(Error::AddressDenied)?;
        Ok(webhooks)
    }
}

fn check_options(options: &DeliveryOptions) -> Result<(), Error> {
    options.check().map_err(|error| Error::Invalid {
        field: error.field(),
        code: "out_of_range",
        message: error.to_string(),
    })
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
