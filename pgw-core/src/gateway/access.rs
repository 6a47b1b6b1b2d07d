//! The verbs about API keys.

use std::time::Duration;

use crate::access::{
    Actor, ApiKey, ApiKeyText, AuditAction, AuditObject, KeyPrefix, Principal, Role,
};
use crate::changes::{Changes, Guard, Write};
use crate::error::Error;
use crate::id::KeyId;
use crate::notifier::Hint;
use crate::secret::Secret;
use crate::storage::StorageError;
use crate::text::Description;
use crate::webhook::plan::audit;

use super::{Bound, CONFLICT_TRIES, Commit, Gateway};

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

/// Why a key does not open anything.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// It is unknown, revoked, expired or malformed: the answer is the same for all.
    #[error("invalid API key")]
    Invalid,
    /// Whether it is valid cannot be told now.
    #[error("API keys cannot be checked now")]
    Storage(#[source] StorageError),
}

impl Gateway {
    /// Who presents this key.
    ///
    /// # Errors
    /// [`AccessError`].
    pub async fn authenticate(&self, presented: &str) -> Result<Principal, AccessError> {
        let text = ApiKeyText::parse(presented).ok_or(AccessError::Invalid)?;
        let key = self.storage().api_key(text.prefix()).await.map_err(AccessError::Storage)?;
        let key = key.ok_or(AccessError::Invalid)?;
        let opens = key.opens(&text, &self.parts.pepper);
        if opens && key.scope.mode == text.mode() && key.is_live(self.parts.env.now()) {
            Ok(Principal { scope: key.scope, actor: Actor::Key(key.id), role: key.role })
        } else {
            Err(AccessError::Invalid)
        }
    }
}

impl Bound<'_> {
    /// Creates an API key. The secret is returned this once and kept nowhere.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub async fn create_api_key(&self, new: NewApiKey) -> Result<(ApiKey, Secret), Error> {
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
                version: 1,
            };
            let row = audit(AuditAction::KeyCreate, AuditObject::Key(key.id), stamp);
            let changes = Changes::new(key.scope.clone())
                .guard(Guard::ApiKey { id: key.id, version: 0 })
                .write(Write::ApiKey(Box::new(key.clone())))
                .write(Write::Audit(Box::new(row)));
            (changes, key)
        });
        self.commit(changes).await?;
        Ok((key, text.secret().clone()))
    }

    /// Revokes an API key of the caller's scope. Revoking it again changes nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Busy`], [`Error::Storage`].
    pub async fn revoke_api_key(&self, prefix: KeyPrefix) -> Result<ApiKey, Error> {
        for _ in 0..CONFLICT_TRIES {
            let key = self.storage.api_key(prefix).await?;
            let key =
                key.filter(|key| key.scope == *self.scope()).ok_or(Error::NotFound("API key"))?;
            if key.revoked_at.is_some() {
                return Ok(key);
            }
            let (changes, next) = self.plan(|stamp| {
                let mut next = key.clone();
                next.revoked_at = Some(stamp.now);
                next.version = next.version.saturating_add(1);
                let row = audit(AuditAction::KeyRevoke, AuditObject::Key(key.id), stamp);
                let changes = Changes::new(key.scope.clone())
                    .guard(Guard::ApiKey { id: key.id, version: key.version })
                    .write(Write::ApiKey(Box::new(next.clone())))
                    .write(Write::Audit(Box::new(row)));
                (changes, next)
            });
            if let Commit::Applied = self.commit(changes).await? {
                let hint = [Hint::KeyRevoked(prefix)];
                if let Err(error) = self.gateway.parts.notifier.publish(&hint).await {
                    tracing::warn!(%error, "a revocation was not announced; caches learn of it in time");
                }
                return Ok(next);
            }
        }
        Err(Error::Busy("API key"))
    }
}
