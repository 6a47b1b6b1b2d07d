//! API keys and denied networks.

use serde::Serialize;

use crate::access::{ApiKey, DeniedNetwork, Network};
use crate::gateway::BulkRevocation;
use crate::id::KeyId;
use crate::secret::Secret;
use crate::timestamp::Timestamp;

use super::render;

/// An API key, without what opens anything.
#[must_use]
pub fn api_key(key: &ApiKey) -> Vec<u8> {
    render(&ApiKeyView::of(key, None))
}

/// A new API key with its text: the one time it is shown.
#[must_use]
pub fn api_key_with_secret(key: &ApiKey, secret: &Secret) -> Vec<u8> {
    render(&ApiKeyView::of(key, Some(secret.expose())))
}

/// What a bulk revocation came to. `next_cursor` goes into the `after` of the next request.
#[must_use]
pub fn bulk_revocation(revocation: &BulkRevocation) -> Vec<u8> {
    render(&BulkRevocationView {
        object: "bulk_revocation",
        matched: revocation.matched,
        revoked: revocation.revoked,
        has_more: revocation.next.is_some(),
        next_cursor: revocation.next.map(|cursor| cursor.to_string()),
    })
}

/// An entry of the denylist.
#[must_use]
pub fn denied_network(entry: &DeniedNetwork) -> Vec<u8> {
    render(&DeniedNetworkView {
        object: "denied_network",
        network: entry.network,
        reason: entry.reason.as_ref().map(|reason| reason.as_str()),
        created_by: &entry.created_by,
        created_at: entry.created_at,
        expires_at: entry.expires_at,
    })
}

#[derive(Serialize)]
struct ApiKeyView<'a> {
    object: &'static str,
    id: KeyId,
    merchant_id: &'a str,
    mode: &'static str,
    role: &'static str,
    name: &'a str,
    prefix: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    last_used_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
    revoked_because: Option<&'a str>,
}

impl<'a> ApiKeyView<'a> {
    fn of(key: &'a ApiKey, text: Option<&'a str>) -> Self {
        Self {
            object: "api_key",
            id: key.id,
            merchant_id: key.scope.merchant.as_str(),
            mode: key.scope.mode.as_str(),
            role: key.role.as_str(),
            name: key.name.as_str(),
            prefix: key.prefix.as_str(),
            key: text,
            created_at: key.created_at,
            expires_at: key.expires_at,
            last_used_at: key.last_used_at,
            revoked_at: key.revoked_at,
            revoked_because: key.revoked_because.as_ref().map(|reason| reason.as_str()),
        }
    }
}

#[derive(Serialize)]
struct BulkRevocationView {
    object: &'static str,
    matched: usize,
    revoked: usize,
    has_more: bool,
    next_cursor: Option<String>,
}

#[derive(Serialize)]
struct DeniedNetworkView<'a> {
    object: &'static str,
    network: Network,
    reason: Option<&'a str>,
    created_by: &'a str,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
}
