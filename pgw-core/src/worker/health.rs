//! What attempts tell about endpoints, committed so that every worker knows it: pauses, their end, and the end of an endpoint.

use std::time::Duration;

use crate::access::Caller;
use crate::changes::{Changes, Committed, Write};
use crate::env::Env;
use crate::error::Error;
use crate::gateway::{Gateway, commit_surely};
use crate::notifier::Hint;
use crate::payment::plan::Stamp;
use crate::scope::Scope;
use crate::storage::StorageError;
use crate::webhook::{Endpoint, plan};

use super::breakers::Turn;

/// Commits what was learned from an attempt. What cannot be committed now is learned again from the next one.
pub(super) async fn turn(gateway: &Gateway, scope: &Scope, seen: &Endpoint, turn: Turn) {
    if let Err(error) = commit(gateway, scope, seen, turn).await {
        tracing::warn!(endpoint = %seen.id, %error, "an endpoint's health was not recorded");
    }
}

async fn commit(
    gateway: &Gateway,
    scope: &Scope,
    seen: &Endpoint,
    turn: Turn,
) -> Result<(), Error> {
    let env = gateway.env();
    for _ in 0..TRIES {
        let Some(endpoint) = gateway.storage().endpoint(scope, seen.id).await? else {
            return Ok(());
        };
        let Some(changes) = planned(env, scope, seen, &endpoint, turn) else { return Ok(()) };
        let announcement = Hint::of(&changes);
        let pause = changes.writes.iter().find_map(|write| match write {
            Write::Pause { lasts, .. } => Some(*lasts),
            _ => None,
        });
        match commit_surely(gateway.storage(), changes, env).await? {
            (Ok(Committed::Applied { due, .. }), _) => {
                if let Some(lasts) = pause {
                    // The commit counted the version up by one.
                    let version = endpoint.version.saturating_add(1);
                    gateway.parts().breakers.paused(seen.id, version, lasts);
                }
                tell(seen, pause, turn);
                gateway.announce(announcement, &due).await;
                return Ok(());
            }
            (Err(StorageError::Conflict(_)), _) => {}
            (Ok(_), _) => return Ok(()),
            (Err(error), _) => return Err(error.into()),
        }
    }
    Ok(())
}

fn tell(seen: &Endpoint, pause: Option<Duration>, turn: Turn) {
    let endpoint = seen.id;
    match (pause, turn) {
        (Some(lasts), _) => {
            tracing::warn!(%endpoint, pause = ?lasts, "an endpoint takes no webhooks; it is paused");
        }
        (None, Turn::Restore) => tracing::info!(%endpoint, "an endpoint takes webhooks again"),
        (None, Turn::Disable) => tracing::warn!(%endpoint, "an endpoint is gone; it was disabled"),
        (None, Turn::Pause { .. }) => {
            tracing::warn!(%endpoint, "an endpoint took no webhook for days; it was disabled");
        }
    }
}

fn planned(
    env: &Env,
    scope: &Scope,
    seen: &Endpoint,
    endpoint: &Endpoint,
    turn: Turn,
) -> Option<Changes> {
    let caller = Caller::worker(scope.clone());
    let mut ids = || env.uuid();
    let mut stamp = Stamp { now: env.now(), caller: &caller, ids: &mut ids };
    match turn {
        // Somebody else has paused it already, or it was given a new start.
        Turn::Pause { .. } if endpoint.health != seen.health => None,
        Turn::Pause { asked } => plan::pause_endpoint(endpoint, asked, env.u64(), &mut stamp),
        Turn::Restore => plan::restore_endpoint(endpoint),
        Turn::Disable => plan::disable_endpoint(endpoint, plan::GONE, &mut stamp),
    }
}

/// How often it is planned anew because somebody else changed the endpoint meanwhile.
const TRIES: u32 = 8;
