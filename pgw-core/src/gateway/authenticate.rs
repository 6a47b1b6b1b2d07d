//! Who presents an API key. On the path of every request: the storage is asked only for keys that did not open lately.

use crate::access::{Actor, ApiKey, ApiKeyText, Opened, Principal};
use crate::storage::StorageError;
use crate::timestamp::Timestamp;

use super::Gateway;

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
    /// A key that opened opens again for [`Settings::api_keys_cached`](crate::builder::Settings::api_keys_cached) without a look into the
    /// storage. Its revocation ends that at once in the process that revokes it, with the hint of it in others, and with that time where
    /// no hints flow. Its expiry is judged at every use.
    ///
    /// Whatever opens nothing, unknown, revoked, expired, malformed or with a wrong secret, costs one digest and one read of the storage, so the
    /// time it takes does not tell which it was.
    ///
    /// When the key was last used is noted to the minute, beside the call.
    ///
    /// # Errors
    /// [`AccessError`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    ///
    /// # Cancel safety
    /// Changes nothing but when the key was last used.
    pub async fn authenticate(&self, presented: &str) -> Result<Principal, AccessError> {
        let (parts, now) = (&self.parts, self.parts.env.now());
        parts.access.listen(&*parts.notifier).await;
        let parsed = ApiKeyText::parse(presented);
        let text = parsed.as_ref().unwrap_or(&parts.nobodys_key);
        let digest = parts.pepper.digest(text);
        let opened = match parts.access.open(text.prefix(), &digest, now) {
            Ok(opened) => opened,
            Err(before) => {
                let key = self.storage().api_key(text.prefix()).await;
                let key = key.map_err(AccessError::Storage)?;
                let opens = |key: &ApiKey| {
                    key.has_digest(&digest) && key.scope.mode == text.mode() && key.is_live(now)
                };
                let key = key.filter(|key| opens(key) && parsed.is_some());
                let key = key.ok_or(AccessError::Invalid)?;
                let principal = Principal {
                    scope: key.scope.clone(),
                    actor: Actor::Key(key.id),
                    role: key.role,
                };
                let is_worth_noting = parts.access.keep(&key, &principal, before, now);
                Opened { principal, is_worth_noting }
            }
        };
        if opened.is_worth_noting {
            self.note_use(&opened.principal, now);
        }
        Ok(opened.principal)
    }

    /// On a task of its own: nobody waits for it. When as many as there may be are under way, it is left to the next minute's use.
    fn note_use(&self, principal: &Principal, at: Timestamp) {
        let Actor::Key(id) = principal.actor else { return };
        let Some(slot) = self.parts.access.note() else { return };
        let (gateway, scope) = (self.clone(), principal.scope.clone());
        tokio::spawn(async move {
            if let Err(error) = gateway.storage().touch_api_key(&scope, id, at).await {
                tracing::warn!(%error, key = %id, "the use of an API key was not noted");
            }
            drop(slot);
        });
    }
}
