//! Events in the order of the merchant's feed: as pages, and as they come.

use std::sync::Arc;

use axum::http::HeaderName;
use pgw_core::access::Permission;
use pgw_core::error::Error;
use pgw_core::representation;

use super::{Call, Outcome};
use crate::answer::Answer;
use crate::problem::{FieldError, Location, Problem};
use crate::stream::Listener;

/// Oldest first. The cursor is the position of the last event that was seen, for the stream as well.
pub(super) async fn list(call: Call) -> Outcome {
    let mut query = call.incoming.query()?;
    let limit = query.limit();
    let after = query.number("after", 0, POSITION_MAX).unwrap_or(0);
    query.finish()?;
    // Asked for one more than shown, to know whether there is more.
    let storage = call.api.gateway.storage();
    let feed = storage.feed(&call.caller.scope, after, limit + 1).await;
    let mut events = feed.map_err(Error::Storage)?;
    let has_more = events.len() > limit;
    events.truncate(limit);
    let next = events.last().and_then(|event| event.feed_position).filter(|_| has_more);
    let rows: Vec<_> = events.iter().map(representation::event).collect();
    Ok(Answer::list(&rows, has_more, next.map(|next| next.to_string()).as_deref()))
}

/// From the beginning, or from where the client was: `Last-Event-ID`, which a reconnecting `EventSource` sends, or else
/// `after`.
pub(super) async fn stream(call: Call) -> Outcome {
    let mut query = call.incoming.query()?;
    let after = query.number("after", 0, POSITION_MAX);
    query.finish()?;
    let after = last_event_id(&call)?.or(after).unwrap_or(0);
    let Call { api, principal, caller, incoming, .. } = call;
    let slot = api.streams.open(&principal)?;
    // Listening starts before the first look, so that no event falls between the two.
    let hints = api.gateway.notifier().subscribe().await.map_err(Error::Notifier)?;
    let listener = Listener {
        gateway: api.gateway.clone(),
        authenticator: Arc::clone(&api.authenticator),
        headers: api.authenticator.kept(&incoming.parts.headers),
        principal,
        permission: Permission::ReadDeliveries,
        after,
        origin: caller.origin,
        drain: api.config.drain().clone(),
        _slot: slot,
    };
    // Nginx would keep events until a buffer is full.
    Ok(Answer::events(listener.stream(hints)).with(ACCEL_BUFFERING, "no"))
}

fn last_event_id(call: &Call) -> Result<Option<u64>, Problem> {
    let Some(value) = call.incoming.parts.headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let position = value.to_str().ok().and_then(|text| text.parse().ok());
    match position.filter(|position| *position <= POSITION_MAX) {
        Some(position) => Ok(Some(position)),
        None => Err(Problem::invalid(vec![FieldError::new(
            Location::Header,
            "Last-Event-ID",
            "out_of_range",
            "must be the id of an event of this stream",
        )])),
    }
}

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// The largest position storage can hold.
const POSITION_MAX: u64 = i64::MAX as u64;
