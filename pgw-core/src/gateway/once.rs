//! The verbs under an idempotency key, beyond those that start an operation: what is asked again is done once, and answered as it was.

mod print;
pub(super) mod reply;

use std::time::Duration;

use bytes::Bytes;

use crate::access::{ApiKey, DeniedNetwork, Pepper};
use crate::changes::Changes;
use crate::crypto::{Context, Sealed};
use crate::error::Error;
use crate::id::{DeliveryId, EndpointId, PaymentId};
use crate::idempotency::{
    Fingerprint, IdempotencyKey, KeyClaim, KeyRecord, KeyTarget, StoredAnswer,
};
use crate::page::Cursor;
use crate::payment::PaymentState;
use crate::payment::plan::Resolve;
use crate::privacy::{Consent, NewConsent};
use crate::representation;
use crate::secret::Secret;
use crate::storage::DeliveryFilter;
use crate::text::{CustomerId, Reason};
use crate::timestamp::Timestamp;
use crate::webhook::plan::{EndpointUpdate, NewEndpoint};
use crate::webhook::{Delivery, Endpoint, EndpointWithSecret};

use super::{
    Bound, BulkRetry, BulkRevocation, Commit, NewApiKey, NewDeniedNetwork, Origin, Receipt,
    RevokedKeys, Run,
};
use reply::{Keeps, Reply};

/// Verbs under an idempotency key: see [`Bound::once`].
///
/// The key is claimed in the commit that does what is asked. Asked again under it, nothing is done: the answer is the one of then, byte for
/// byte, while it is kept ([`Storage::purge_answers`](crate::storage::Storage::purge_answers)), and the state of the object after that. An
/// answer that tells a secret is kept in an envelope of the gateway's key ring; where there is none, or its key was destroyed, a replay shows
/// the object without the secret. Answers that hold personal data are not kept: a replay shows the object as it is.
///
/// What changes many objects, in many commits, claims its key with the last of them: until then, another call does again what is still to be
/// done. What fails claims no key. Headers of endpoints and denied networks are compared by digests under the gateway's pepper: under another
/// pepper such a request counts as another. Without a key each verb does what the one of [`Bound`] does.
///
/// # Errors
/// Those of the verb of [`Bound`]; [`Error::KeyReused`] when the key stands for another request, [`Error::AnswerGone`] when there is no
/// object to show any more.
///
/// # Cancel safety
/// As [`Bound`]'s.
#[derive(Debug)]
pub struct Once<'a> {
    bound: Bound<'a>,
    key: Option<IdempotencyKey>,
}

/// What a verb under an idempotency key came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered<T> {
    /// What this call did; `None` when an earlier one with the same key did it.
    pub value: Option<T>,
    /// What it made or changed.
    pub target: KeyTarget,
    /// The answer as the HTTP API gives it: its status and its JSON, the same bytes for every call with the key.
    pub answer: StoredAnswer,
}

impl<T> Answered<T> {
    /// Whether this call did it or an earlier one.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        if self.value.is_some() { Origin::First } else { Origin::Replayed }
    }
}

/// What is asked of a verb beside its parameters: to claim a key with its answer.
#[derive(Debug)]
pub(super) struct Asked<'a, T: 'static> {
    claim: Option<(IdempotencyKey, Fingerprint)>,
    reply: &'static Reply<T>,
    /// Whose consent it is about.
    customer: Option<&'a CustomerId>,
}

impl<T> Asked<'_, T> {
    /// Without a key.
    pub(super) const fn plainly(reply: &'static Reply<T>) -> Self {
        Self { claim: None, reply, customer: None }
    }
}

/// What a verb did that claimed no key: nobody can have claimed it before.
pub(super) fn surely<T>(done: Option<T>) -> T {
    done.expect("only a key that is claimed can have been claimed before")
}

impl<'a> Bound<'a> {
    /// The verbs under an idempotency key, which makes another try of the same call safe.
    ///
    /// ```
    /// # use pgw_core::{access::Role, gateway::{Gateway, NewApiKey}, idempotency::IdempotencyKey, text::Description};
    /// # async fn f(gateway: &Gateway) -> Result<(), Box<dyn std::error::Error>> {
    /// let key = IdempotencyKey::parse("checkout-key-2026")?;
    /// let new = NewApiKey { role: Role::Service, name: Description::parse("checkout")?, expires_in: None };
    /// let made = gateway.host().once(key.clone()).create_api_key(new.clone()).await?;
    /// let again = gateway.host().once(key).create_api_key(new).await?;
    /// assert_eq!(again.answer, made.answer); // one key, and its secret told twice
    /// # Ok(()) }
    /// ```
    pub fn once(self, key: impl Into<Option<IdempotencyKey>>) -> Once<'a> {
        Once { bound: self, key: key.into() }
    }

    /// The changes with the claim of the key, if they are asked for under one.
    pub(super) fn under<T>(
        &self,
        asked: &Asked<'_, T>,
        changes: Changes,
        value: &T,
    ) -> Result<Changes, Error> {
        let Some((key, fingerprint)) = &asked.claim else { return Ok(changes) };
        let reply = asked.reply;
        let answer = match reply.keeps {
            Keeps::Answer => Some(reply.answer(value)),
            Keeps::Envelope => self.sealed(key, &reply.answer(value))?,
            Keeps::Nothing => None,
        };
        let (key, fingerprint) = (key.clone(), *fingerprint);
        let target = (reply.target)(value);
        Ok(changes.claim(Some(KeyClaim { key, fingerprint, target, answer })))
    }

    /// Claims the key of a verb that has nothing to commit, or nothing more; `None` when it was claimed meanwhile. Works while the gateway is
    /// frozen: a key alone changes nothing.
    pub(super) async fn conclude<T: Sync>(
        &self,
        asked: &Asked<'_, T>,
        value: T,
    ) -> Result<Option<T>, Error> {
        if asked.claim.is_none() {
            return Ok(Some(value));
        }
        let changes = self.under(asked, Changes::new(self.scope().clone()), &value)?;
        Ok(match self.commit_even_if_frozen(changes).await? {
            Commit::Known { .. } => None,
            Commit::Applied | Commit::Conflict(_) => Some(value),
        })
    }

    /// An answer in an envelope; nothing where there is no key ring.
    fn sealed(
        &self,
        key: &IdempotencyKey,
        answer: &StoredAnswer,
    ) -> Result<Option<StoredAnswer>, Error> {
        let parts = &self.gateway.parts;
        let Some(webhooks) = &parts.webhooks else { return Ok(None) };
        let keys = webhooks.vault.keys();
        let sealed =
            keys.seal(&parts.env, &self.place(key), &answer.body).map_err(Error::Sealing)?;
        let body = Bytes::copy_from_slice(sealed.as_str().as_bytes());
        Ok(Some(StoredAnswer { status: answer.status, body }))
    }

    /// What [`sealed`](Self::sealed) made; nothing when it cannot be opened any more.
    fn opened(&self, key: &IdempotencyKey, answer: &StoredAnswer) -> Option<StoredAnswer> {
        let keys = self.gateway.parts.webhooks.as_ref()?.vault.keys();
        let text = std::str::from_utf8(&answer.body).ok()?;
        let secret =
            Sealed::parse(text).and_then(|sealed| keys.open_secret(&self.place(key), &sealed));
        match secret {
            Ok(secret) => {
                let body = Bytes::copy_from_slice(secret.expose().as_bytes());
                Some(StoredAnswer { status: answer.status, body })
            }
            Err(error) => {
                tracing::warn!(%error, "an answer is replayed without its secret");
                None
            }
        }
    }

    /// Where an answer's envelope belongs.
    fn place(&self, key: &IdempotencyKey) -> Context {
        let scope = self.scope();
        Context::new("idempotent-answer")
            .with(scope.merchant.as_str())
            .with(scope.mode.as_str())
            .with(key.as_str())
    }
}

impl Once<'_> {
    /// [`Bound::create_endpoint`].
    ///
    /// # Errors
    /// Those of [`Once`].
    pub async fn create_endpoint(
        &self,
        new: NewEndpoint,
    ) -> Result<Answered<EndpointWithSecret>, Error> {
        let asked = self.asked(&reply::ENDPOINT_MADE, || print::new_endpoint(&new, self.pepper()));
        self.run(&asked, self.bound.create_endpoint_as(new, &asked)).await
    }

    /// [`Bound::update_endpoint`].
    ///
    /// # Errors
    /// Those of [`Once`].
    pub async fn update_endpoint(
        &self,
        id: EndpointId,
        update: EndpointUpdate,
    ) -> Result<Answered<Endpoint>, Error> {
        let asked = self
            .asked(&reply::ENDPOINT_CHANGED, || print::update_endpoint(id, &update, self.pepper()));
        self.run(&asked, self.bound.update_endpoint_as(id, update, &asked)).await
    }

    /// [`Bound::rotate_secret`].
    ///
    /// # Errors
    /// Those of [`Once`].
    pub async fn rotate_secret(
        &self,
        id: EndpointId,
        overlap: Duration,
    ) -> Result<Answered<EndpointWithSecret>, Error> {
        let asked = self.asked(&reply::SECRET_ROTATED, || print::rotate_secret(id, overlap));
        self.run(&asked, self.bound.rotate_secret_as(id, overlap, &asked)).await
    }

    /// [`Bound::test_endpoint`].
    ///
    /// # Errors
    /// Those of [`Once`].
    pub async fn test_endpoint(&self, id: EndpointId) -> Result<Answered<Delivery>, Error> {
        let asked = self.asked(&reply::DELIVERY_STARTED, || print::test_endpoint(id));
        self.run(&asked, self.bound.test_endpoint_as(id, &asked)).await
    }

    /// [`Bound::retry_delivery`].
    ///
    /// # Errors
    /// Those of [`Once`].
    pub async fn retry_delivery(&self, id: DeliveryId) -> Result<Answered<Delivery>, Error> {
        let asked = self.asked(&reply::DELIVERY_STARTED, || print::retry_delivery(id));
        self.run(&asked, self.bound.retry_delivery_as(id, &asked)).await
    }

    /// [`Bound::create_api_key`].
    ///
    /// # Errors
    /// Those of [`Once`].
    pub async fn create_api_key(
        &self,
        new: NewApiKey,
    ) -> Result<Answered<(ApiKey, Secret)>, Error> {
        let asked = self.asked(&reply::API_KEY_MADE, || print::new_api_key(&new));
        self.run(&asked, self.bound.create_api_key_as(new, &asked)).await
    }

    /// [`Bound::deny_network`].
    ///
    /// # Errors
    /// Those of [`Once`].
    pub async fn deny_network(
        &self,
        new: NewDeniedNetwork,
    ) -> Result<Answered<DeniedNetwork>, Error> {
        let asked = self.asked(&reply::NETWORK_DENIED, || print::deny_network(&new, self.pepper()));
        self.run(&asked, self.bound.deny_network_as(new, &asked)).await
    }

    /// [`Bound::resolve`].
    ///
    /// # Errors
    /// Those of [`Once`].
    pub async fn resolve(
        &self,
        id: PaymentId,
        command: Resolve,
    ) -> Result<Answered<PaymentState>, Error> {
        let asked = self.asked(&reply::PAYMENT_MOVED, || print::resolve(id, &command));
        self.run(&asked, self.bound.resolve_as(id, command, &asked)).await
    }

    /// [`Bound::give_consent`].
    ///
    /// # Errors
    /// Those of [`Once`].
    pub async fn give_consent(
        &self,
        customer: &CustomerId,
        new: NewConsent,
    ) -> Result<Answered<Consent>, Error> {
        let print = || print::give_consent(self.bound.customer_digest(customer), &new);
        let asked = Asked { customer: Some(customer), ..self.asked(&reply::CONSENT_GIVEN, print) };
        self.run(&asked, self.bound.give_consent_as(customer, new.clone(), &asked)).await
    }

    /// [`Bound::confirm_payment`]. Its answer is the operation as it is.
    ///
    /// # Errors
    /// Those of [`Once`].
    pub async fn confirm_payment(&self, id: PaymentId) -> Result<Receipt, Error> {
        let asked = self.asked(&reply::PAYMENT_MOVED, || print::confirm_payment(id));
        if self.earlier(&asked).await?.is_none() {
            let confirmed = self.bound.confirm_payment_as(id, &asked).await;
            if let Some(state) = self.unless_done(&asked, confirmed).await? {
                return Ok(Receipt::of_first(state, Origin::First));
            }
        }
        let state = self.bound.payment(id).await?.ok_or(Error::NotFound("payment"))?;
        Ok(Receipt::of_first(state, Origin::Replayed))
    }

    /// [`Bound::retry_deliveries`]. The key is claimed at the end: a call that broke off goes on when it is made again.
    ///
    /// # Errors
    /// Those of [`Once`].
    pub async fn retry_deliveries(
        &self,
        filter: &DeliveryFilter,
        after: Option<Cursor>,
        run: Run,
    ) -> Result<Answered<BulkRetry>, Error> {
        let asked = self.asked(&reply::RETRIED, || print::retry_deliveries(filter, after, run));
        let verb = async {
            let retried = self.bound.retry_deliveries(filter, after, run).await?;
            self.bound.conclude(&asked, retried).await
        };
        self.run(&asked, verb).await
    }

    /// [`Bound::recover_endpoint`]. The key is claimed at the end: a call that broke off goes on when it is made again.
    ///
    /// # Errors
    /// Those of [`Once`].
    pub async fn recover_endpoint(
        &self,
        id: EndpointId,
        since: Timestamp,
        after: Option<Cursor>,
    ) -> Result<Answered<BulkRetry>, Error> {
        let asked = self.asked(&reply::RETRIED, || print::recover_endpoint(id, since, after));
        let verb = async {
            let retried = self.bound.recover_endpoint(id, since, after).await?;
            self.bound.conclude(&asked, retried).await
        };
        self.run(&asked, verb).await
    }

    /// [`Bound::revoke_api_keys`]. The key is claimed at the end: a call that broke off goes on when it is made again.
    ///
    /// # Errors
    /// Those of [`Once`].
    pub async fn revoke_api_keys(
        &self,
        which: RevokedKeys,
        reason: &Reason,
        after: Option<Cursor>,
    ) -> Result<Answered<BulkRevocation>, Error> {
        let asked = self.asked(&reply::REVOKED, || print::revoke_api_keys(which, reason, after));
        let verb = async {
            let revoked = self.bound.revoke_api_keys(which, reason, after).await?;
            self.bound.conclude(&asked, revoked).await
        };
        self.run(&asked, verb).await
    }

    fn pepper(&self) -> &Pepper {
        &self.bound.gateway.parts.pepper
    }

    fn asked<T>(
        &self,
        reply: &'static Reply<T>,
        print: impl FnOnce() -> Fingerprint,
    ) -> Asked<'_, T> {
        Asked { claim: self.key.clone().map(|key| (key, print())), reply, customer: None }
    }

    /// Answers from before, or with what the verb does.
    async fn run<T>(
        &self,
        asked: &Asked<'_, T>,
        verb: impl Future<Output = Result<Option<T>, Error>>,
    ) -> Result<Answered<T>, Error> {
        if let Some(earlier) = self.earlier(asked).await? {
            return self.replay(asked, earlier).await;
        }
        let done = verb.await;
        if let Some(value) = self.unless_done(asked, done).await? {
            let (target, answer) = ((asked.reply.target)(&value), asked.reply.answer(&value));
            return Ok(Answered { value: Some(value), target, answer });
        }
        // Somebody else was faster, or a try of this call that got no answer.
        let earlier = self.earlier(asked).await?.ok_or(Error::Busy("idempotency key"))?;
        self.replay(asked, earlier).await
    }

    /// What a verb found that failed may be what somebody else did under this very key, a moment ago: then it did nothing, and did not fail.
    async fn unless_done<T>(
        &self,
        asked: &Asked<'_, T>,
        done: Result<Option<T>, Error>,
    ) -> Result<Option<T>, Error> {
        match done {
            Err(error) if !matches!(self.earlier(asked).await, Ok(Some(_))) => Err(error),
            done => Ok(done.unwrap_or(None)),
        }
    }

    async fn earlier<T>(&self, asked: &Asked<'_, T>) -> Result<Option<KeyRecord>, Error> {
        let Some((key, print)) = &asked.claim else { return Ok(None) };
        let record = self.bound.storage.key(self.bound.scope(), key).await?;
        if record.as_ref().is_some_and(|record| record.claim.fingerprint != *print) {
            return Err(Error::KeyReused);
        }
        Ok(record)
    }

    async fn replay<T>(
        &self,
        asked: &Asked<'_, T>,
        earlier: KeyRecord,
    ) -> Result<Answered<T>, Error> {
        let KeyClaim { key, target, answer, .. } = earlier.claim;
        let kept = answer.and_then(|answer| match asked.reply.keeps {
            Keeps::Envelope => self.bound.opened(&key, &answer),
            Keeps::Answer | Keeps::Nothing => Some(answer),
        });
        let answer = match kept {
            Some(answer) => answer,
            None => {
                let body = self.shown(target, asked.customer).await?.into();
                StoredAnswer { status: asked.reply.status, body }
            }
        };
        Ok(Answered { value: None, target, answer })
    }

    /// The object as it is.
    async fn shown(
        &self,
        target: KeyTarget,
        customer: Option<&CustomerId>,
    ) -> Result<Vec<u8>, Error> {
        let bound = &self.bound;
        let shown = match target {
            KeyTarget::Operation { payment: id, .. } | KeyTarget::Payment(id) => {
                bound.payment(id).await?.map(|state| representation::payment(&state.payment))
            }
            KeyTarget::Endpoint(id) => {
                bound.endpoint(id).await?.map(|endpoint| representation::endpoint(&endpoint))
            }
            KeyTarget::Delivery(id) => {
                bound.delivery(id).await?.map(|work| representation::delivery(&work.delivery))
            }
            KeyTarget::ApiKey(id) => {
                bound.api_key(id).await?.map(|key| representation::api_key(&key))
            }
            KeyTarget::Consent(id) => {
                let Some(customer) = customer else { return Err(Error::AnswerGone) };
                bound
                    .consent_of(customer, id)
                    .await?
                    .map(|consent| representation::consent(&consent))
            }
            KeyTarget::Found => None,
        };
        shown.ok_or(Error::AnswerGone)
    }
}
