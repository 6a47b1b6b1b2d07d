//! The verbs about API keys.

use std::time::Duration;

use crate::access::{
    Actor, ApiKey, ApiKeyText, AuditAction, AuditChange, AuditField, AuditObject, Role,
};
use crate::changes::{Changes, Guard, Write};
use crate::error::Error;
use crate::id::KeyId;
use crate::idempotency::KeyTarget;
use crate::page::{Cursor, Page, PageFrom, PageRequest};
use crate::secret::Secret;
use crate::text::{Description, Reason};
use crate::timestamp::Timestamp;
use crate::webhook::plan::audit;

use super::once::{Asked, reply, surely};
use super::{Announce, Bound, CONFLICT_TRIES, Commit};

/// An API key to be made, in the caller's scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewApiKey {
    /// What its holder may do.
    pub role: Role,
    /// What it is for.
    pub name: Description,
    /// How long it works; `None`: until it is revoked.
    pub expires_in: Option<Duration>,
}

/// Which API keys. Every field that is set must match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ApiKeyFilter {
    /// Created at or after.
    pub created_from: Option<Timestamp>,
    /// Created before.
    pub created_before: Option<Timestamp>,
    /// With this role.
    pub role: Option<Role>,
}

impl ApiKeyFilter {
    /// Whether it lets every key through.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it lets this key through.
    #[must_use]
    pub fn matches(&self, key: &ApiKey) -> bool {
        self.created_from.is_none_or(|from| key.created_at >= from)
            && self.created_before.is_none_or(|before| key.created_at < before)
            && self.role.is_none_or(|role| key.role == role)
    }
}

/// Which API keys are revoked together. To mean all of them, one has to say so. The two values are all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevokedKeys {
    /// Those that a filter lets through, which must say something.
    Matching(ApiKeyFilter),
    /// Every key of the caller's scope, the caller's own too.
    All,
}

/// What one call of [`Bound::revoke_api_keys`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BulkRevocation {
    /// How many keys were meant and not revoked before.
    pub matched: usize,
    /// How many of them this call revoked: less than `matched` where somebody else was faster.
    pub revoked: usize,
    /// Where to go on: there are more keys than one call looks at. `None`: that was all.
    pub next: Option<Cursor>,
}

impl BulkRevocation {
    /// Most keys that one call looks at: it ends within a few seconds even where a commit takes milliseconds.
    pub const KEYS_MAX: usize = 1_000;
}

impl Bound<'_> {
    /// Creates an API key. The secret is returned this once and kept nowhere ([`Once`](super::Once) keeps its answer for a while, in an envelope).
    ///
    /// # Errors
    /// [`Error::Frozen`], [`Error::Storage`].
    pub async fn create_api_key(&self, new: NewApiKey) -> Result<(ApiKey, Secret), Error> {
        let asked = Asked::plainly(&reply::API_KEY_MADE);
        self.create_api_key_as(new, &asked).await.map(surely)
    }

    pub(super) async fn create_api_key_as(
        &self,
        new: NewApiKey,
        asked: &Asked<'_, (ApiKey, Secret)>,
    ) -> Result<Option<(ApiKey, Secret)>, Error> {
        let parts = &self.gateway.parts;
        let text = ApiKeyText::mint(&parts.env, self.scope().mode);
        let (changes, key) = self.plan(|stamp| {
            let key = ApiKey {
                id: KeyId::from_uuid((stamp.ids)()),
                scope: self.scope().clone(),
                role: new.role,
                name: new.name,
                prefix: text.prefix(),
                digest: parts.pepper.digest(&text),
                created_at: stamp.now,
                expires_at: new.expires_in.map(|wait| stamp.now.plus(wait)),
                revoked_at: None,
                revoked_because: None,
                last_used_at: None,
                version: 1,
            };
            let row = audit(AuditAction::KeyCreate, AuditObject::Key(key.id), stamp);
            let changes = Changes::new(key.scope.clone())
                .guard(Guard::ApiKey { id: key.id, version: 0 })
                .write(Write::ApiKey(Box::new(key.clone())))
                .write(Write::Audit(Box::new(row)));
            (changes, key)
        });
        let made = (key, text.secret().clone());
        let changes = self.under(asked, changes, &made)?;
        Ok(match self.commit(changes).await? {
            Commit::Known { target, .. } if target != KeyTarget::ApiKey(made.0.id) => None,
            // The id is new and random: whatever else it is can only be an earlier try of this very commit.
            Commit::Applied | Commit::Known { .. } | Commit::Conflict(_) => Some(made),
        })
    }

    /// An API key of the caller's scope, a revoked one too.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub async fn api_key(&self, id: KeyId) -> Result<Option<ApiKey>, Error> {
        Ok(self.storage.api_key_by_id(self.scope(), id).await?)
    }

    /// API keys of the caller's scope, newest first, revoked ones too.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub async fn api_keys(&self, page: PageRequest) -> Result<Page<ApiKey>, Error> {
        Ok(self.storage.api_keys(self.scope(), page).await?)
    }

    /// Revokes an API key of the caller's scope, also while the gateway is frozen. Revoking it again changes nothing.
    ///
    /// ```
    /// # async fn f(gateway: &pgw_core::gateway::Gateway, id: pgw_core::id::KeyId) -> Result<(), pgw_core::error::Error> {
    /// let key = gateway.host().revoke_api_key(id).await?;
    /// println!("{} opens nothing since {:?}", key.id, key.revoked_at);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Busy`], [`Error::Storage`].
    pub async fn revoke_api_key(&self, id: KeyId) -> Result<ApiKey, Error> {
        let (Revocation::Done(key) | Revocation::Before(key)) = self.revoke(id, None).await?;
        Ok(key)
    }

    /// Revokes API keys of the caller's scope, newest first, each in a commit of its own, also while the gateway is frozen. At most
    /// [`BulkRevocation::KEYS_MAX`] are looked at in one call: call again with `after` set to [`BulkRevocation::next`] until there is none. The
    /// caller's own key, if it is meant too, comes last of all, so that the caller gets to the end.
    ///
    /// ```
    /// # use pgw_core::{gateway::{ApiKeyFilter, RevokedKeys}, text::Reason};
    /// # async fn f(gateway: &pgw_core::gateway::Gateway, since: pgw_core::timestamp::Timestamp) -> Result<(), Box<dyn std::error::Error>> {
    /// let leaked = RevokedKeys::Matching(ApiKeyFilter { created_from: Some(since), ..Default::default() });
    /// let reason = Reason::parse("the laptop of an administrator was stolen")?;
    /// let mut after = None;
    /// loop {
    ///     let revocation = gateway.host().revoke_api_keys(leaked, &reason, after).await?;
    ///     println!("{} keys revoked", revocation.revoked);
    ///     after = revocation.next;
    ///     if after.is_none() {
    ///         break;
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for a filter that says nothing; [`Error::Busy`], [`Error::Storage`]: what was revoked until then stays so, and
    /// revoking it again changes nothing.
    pub async fn revoke_api_keys(
        &self,
        which: RevokedKeys,
        reason: &Reason,
        after: Option<Cursor>,
    ) -> Result<BulkRevocation, Error> {
        let filter = match which {
            RevokedKeys::All => ApiKeyFilter::default(),
            RevokedKeys::Matching(filter) if filter.is_empty() => return Err(says_nothing()),
            RevokedKeys::Matching(filter) => filter,
        };
        let own = match &self.caller.actor {
            Actor::Key(id) => Some(*id),
            _ => None,
        };
        let mut result = BulkRevocation { next: after, ..BulkRevocation::default() };
        let mut looked_at = 0;
        while looked_at < BulkRevocation::KEYS_MAX {
            let mut page = PageRequest::first(PageRequest::LIMIT_MAX);
            if let Some(cursor) = result.next {
                page = page.with_from(PageFrom::After(cursor));
            }
            let found = self.storage.api_keys(self.scope(), page).await?;
            looked_at += found.data.len();
            for key in found.data.iter().filter(|key| Some(key.id) != own) {
                self.revoke_if_meant(key, &filter, reason, &mut result).await?;
            }
            result.next = found.next_cursor.filter(|_| found.has_more);
            if result.next.is_none() {
                if let Some(own) = own
                    && let Some(key) = self.api_key(own).await?
                {
                    self.revoke_if_meant(&key, &filter, reason, &mut result).await?;
                }
                break;
            }
        }
        Ok(result)
    }

    async fn revoke_if_meant(
        &self,
        key: &ApiKey,
        filter: &ApiKeyFilter,
        reason: &Reason,
        result: &mut BulkRevocation,
    ) -> Result<(), Error> {
        if key.revoked_at.is_some() || !filter.matches(key) {
            return Ok(());
        }
        result.matched += 1;
        if let Revocation::Done(_) = self.revoke(key.id, Some(reason)).await? {
            result.revoked += 1;
        }
        Ok(())
    }

    async fn revoke(&self, id: KeyId, reason: Option<&Reason>) -> Result<Revocation, Error> {
        // What an earlier try of this call may have committed.
        let mut tried: Option<Timestamp> = None;
        for _ in 0..CONFLICT_TRIES {
            let key = self.api_key(id).await?.ok_or(Error::NotFound("API key"))?;
            if key.revoked_at.is_some() {
                self.forget(&key);
                return Ok(match tried == key.revoked_at {
                    true => Revocation::Done(key),
                    false => Revocation::Before(key),
                });
            }
            let (changes, next) = self.plan(|stamp| {
                let mut next = key.clone();
                next.revoked_at = Some(stamp.now);
                next.revoked_because = reason.cloned();
                next.version = next.version.saturating_add(1);
                let mut row = audit(AuditAction::KeyRevoke, AuditObject::Key(key.id), stamp);
                let at = stamp.now.to_string();
                row.changes = [AuditChange::new(AuditField::RevokedAt, None, Some(&at))].into();
                let changes = Changes::new(key.scope.clone())
                    .guard(Guard::ApiKey { id: key.id, version: key.version })
                    .write(Write::ApiKey(Box::new(next.clone())))
                    .write(Write::Audit(Box::new(row)));
                (changes, next)
            });
            tried = next.revoked_at;
            if let Commit::Applied = self.commit_even_if_frozen(changes).await? {
                self.forget(&next);
                return Ok(Revocation::Done(next));
            }
        }
        Err(Error::Busy("API key"))
    }

    /// Ends what this process knows of a key, whether or not its hints flow. In the host's own transaction nothing has changed yet: there the hint
    /// goes out with the host's commit.
    fn forget(&self, key: &ApiKey) {
        if self.announce == Announce::Now {
            self.gateway.parts.access.forget_key(key.prefix);
        }
    }
}

/// What became of one key.
enum Revocation {
    /// This call revoked it.
    Done(ApiKey),
    /// It was revoked before.
    Before(ApiKey),
}

fn says_nothing() -> Error {
    Error::Invalid {
        field: "",
        code: "empty_filter",
        message: "must say which keys are meant, or that all are".to_owned(),
    }
}
