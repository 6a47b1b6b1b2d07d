//! An endpoint's secrets and their envelopes: sealed before they are stored, opened to sign and to be shown once.

use crate::crypto::{Context, CryptoError, KeyRing, Sealed};
use crate::env::Env;
use crate::id::EndpointId;
use crate::scope::Scope;
use crate::secret::Secret;
use crate::timestamp::Timestamp;
use crate::webhook::{CustomHeaders, Endpoint};

/// An endpoint with the secret it has just been given: the one time that it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointWithSecret {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Its secret: show it to its owner.
    pub secret: Secret,
}

/// An endpoint's own headers as they are stored: names to be listed, names and values in an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedHeaders {
    /// The names, in lower case.
    pub names: Vec<Box<str>>,
    /// Names and values.
    pub sealed: Sealed,
}

/// Seals and opens what endpoints keep.
#[derive(Debug)]
pub(crate) struct Vault {
    keys: KeyRing,
    env: Env,
}

/// What signs at a time, the newest first.
#[derive(Debug)]
pub(crate) struct Signing {
    pub(crate) secret: Secret,
    pub(crate) previous: Option<Secret>,
}

impl Vault {
    pub(crate) const fn new(keys: KeyRing, env: Env) -> Self {
        Self { keys, env }
    }

    pub(crate) const fn keys(&self) -> &KeyRing {
        &self.keys
    }

    /// Seals a secret for its place: merchant, mode, endpoint and generation.
    pub(crate) fn seal(
        &self,
        scope: &Scope,
        id: EndpointId,
        generation: u64,
        secret: &Secret,
    ) -> Result<Sealed, CryptoError> {
        self.keys.seal(&self.env, &place(scope, id, generation), secret.expose().as_bytes())
    }

    /// Seals an endpoint's own headers; `None` when there are none.
    pub(crate) fn seal_headers(
        &self,
        scope: &Scope,
        id: EndpointId,
        headers: &CustomHeaders,
    ) -> Result<Option<SealedHeaders>, CryptoError> {
        if headers.is_empty() {
            return Ok(None);
        }
        let plain = headers.to_secret();
        let context = headers_place(scope, id);
        let sealed = self.keys.seal(&self.env, &context, plain.expose().as_bytes())?;
        Ok(Some(SealedHeaders { names: headers.names().map(Into::into).collect(), sealed }))
    }

    /// The endpoint's secret.
    pub(crate) fn secret(&self, endpoint: &Endpoint) -> Result<Secret, CryptoError> {
        let context = place(&endpoint.scope, endpoint.id, endpoint.generation);
        self.keys.open_secret(&context, &endpoint.secret)
    }

    /// What signs webhooks that are sent at a time.
    pub(crate) fn signing(
        &self,
        endpoint: &Endpoint,
        at: Timestamp,
    ) -> Result<Signing, CryptoError> {
        // A rotation is how a secret that cannot be opened is replaced, so the one before may be such a one: it signs nothing any more.
        let previous =
            endpoint.previous_at(at).and_then(|sealed| self.previous(endpoint, sealed).ok());
        Ok(Signing { secret: self.secret(endpoint)?, previous })
    }

    /// The endpoint's own headers.
    pub(crate) fn headers(&self, endpoint: &Endpoint) -> Result<CustomHeaders, CryptoError> {
        let Some(headers) = &endpoint.headers else { return Ok(CustomHeaders::default()) };
        let context = headers_place(&endpoint.scope, endpoint.id);
        let plain = self.keys.open_secret(&context, &headers.sealed)?;
        // Only what was parsed is sealed, so what opens and cannot be read was sealed by something else.
        CustomHeaders::from_secret(&plain).map_err(|_| CryptoError::Forged)
    }

    /// Seals everything of an endpoint with the active key that is not yet; whether there was anything.
    pub(crate) fn renew(&self, endpoint: &mut Endpoint) -> Result<bool, CryptoError> {
        let is_old = |sealed: &Sealed| !self.keys.is_current(sealed);
        let mut renewed = false;
        if is_old(&endpoint.secret) {
            let secret = self.secret(endpoint)?;
            endpoint.secret =
                self.seal(&endpoint.scope, endpoint.id, endpoint.generation, &secret)?;
            renewed = true;
        }
        if let Some(mut previous) = endpoint.previous.take_if(|previous| is_old(&previous.secret)) {
            // One that cannot be opened signs nothing, so nothing is lost with it.
            if let Ok(secret) = self.previous(endpoint, &previous.secret) {
                let generation = endpoint.generation.saturating_sub(1);
                previous.secret = self.seal(&endpoint.scope, endpoint.id, generation, &secret)?;
                endpoint.previous = Some(previous);
            }
            renewed = true;
        }
        if endpoint.headers.as_ref().is_some_and(|headers| is_old(&headers.sealed)) {
            let headers = self.headers(endpoint)?;
            endpoint.headers = self.seal_headers(&endpoint.scope, endpoint.id, &headers)?;
            renewed = true;
        }
        Ok(renewed)
    }

    fn previous(&self, endpoint: &Endpoint, sealed: &Sealed) -> Result<Secret, CryptoError> {
        let generation = endpoint.generation.saturating_sub(1);
        self.keys.open_secret(&place(&endpoint.scope, endpoint.id, generation), sealed)
    }
}

fn place(scope: &Scope, id: EndpointId, generation: u64) -> Context {
    of_endpoint("endpoint-secret", scope, id).with(generation.to_be_bytes())
}

fn headers_place(scope: &Scope, id: EndpointId) -> Context {
    of_endpoint("endpoint-headers", scope, id)
}

fn of_endpoint(kind: &'static str, scope: &Scope, id: EndpointId) -> Context {
    Context::new(kind)
        .with(scope.merchant.as_str())
        .with(scope.mode.as_str())
        .with(id.as_uuid().as_bytes())
}
