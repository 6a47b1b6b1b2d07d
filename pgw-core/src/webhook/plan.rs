//! The plans of endpoints and deliveries. Pure.

use std::time::Duration;

use crate::access::{AuditAction, AuditObject, AuditOutcome, AuditRow};
use crate::changes::{Changes, Guard, Write};
use crate::event::{Event, EventType};
use crate::id::{AuditId, DeliveryId, EndpointId, EventId};
use crate::payment::plan::Stamp;
use crate::representation::{self, EventHead};
use crate::retry::RetryPolicy;
use crate::secret::Secret;
use crate::text::{Description, Reason};
use crate::timestamp::Timestamp;
use crate::webhook::delivery::FailedBecause;
use crate::webhook::{
    Attempt, AttemptOutcome, Delivery, DeliveryState, DeliveryWork, Endpoint, EndpointStatus,
    EndpointUrl, EventFilter, PreviousSecret, Profiles, TransportErrorKind, WebhookResponse,
};

/// An endpoint to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEndpoint {
    /// Where it is.
    pub url: EndpointUrl,
    /// What it is for.
    pub description: Option<Description>,
    /// Which events it hears. Empty: all.
    pub filters: Vec<EventFilter>,
    /// How its webhooks are signed.
    pub profiles: Profiles,
}

impl NewEndpoint {
    /// An endpoint that hears everything, signed by the default profiles.
    #[must_use]
    pub fn new(url: EndpointUrl) -> Self {
        Self { url, description: None, filters: Vec::new(), profiles: Profiles::default() }
    }
}

/// What to change of an endpoint; `None` leaves a field as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndpointUpdate {
    /// Where it is.
    pub url: Option<EndpointUrl>,
    /// What it is for; `Some(None)` removes it.
    pub description: Option<Option<Description>>,
    /// Which events it hears.
    pub filters: Option<Vec<EventFilter>>,
    /// How its webhooks are signed.
    pub profiles: Option<Profiles>,
    /// Enabled or disabled.
    pub status: Option<EndpointStatus>,
}

/// Plans a new endpoint.
#[must_use]
pub fn create_endpoint(
    new: NewEndpoint,
    secret: Secret,
    stamp: &mut Stamp<'_>,
) -> (Changes, Endpoint) {
    let endpoint = Endpoint {
        id: EndpointId::from_uuid((stamp.ids)()),
        scope: stamp.caller.scope.clone(),
        url: new.url,
        description: new.description,
        filters: new.filters,
        profiles: new.profiles,
        secret,
        previous: None,
        status: EndpointStatus::Enabled,
        version: 1,
        created_at: stamp.now,
        updated_at: stamp.now,
    };
    let changes = write_endpoint(&endpoint, 0, AuditAction::EndpointCreate, stamp);
    (changes, endpoint)
}

/// Plans a change of an endpoint.
#[must_use]
pub fn update_endpoint(
    endpoint: &Endpoint,
    update: EndpointUpdate,
    stamp: &mut Stamp<'_>,
) -> (Changes, Endpoint) {
    let mut next = revised(endpoint, stamp.now);
    if let Some(url) = update.url {
        next.url = url;
    }
    if let Some(description) = update.description {
        next.description = description;
    }
    if let Some(filters) = update.filters {
        next.filters = filters;
    }
    if let Some(profiles) = update.profiles {
        next.profiles = profiles;
    }
    if let Some(status) = update.status {
        next.status = status;
    }
    (write_endpoint(&next, endpoint.version, AuditAction::EndpointUpdate, stamp), next)
}

/// Plans a new secret of an endpoint. The old one signs beside it for `overlap` from now; one that was rotated away earlier
/// stops at once.
#[must_use]
pub fn rotate_secret(
    endpoint: &Endpoint,
    secret: Secret,
    overlap: Duration,
    stamp: &mut Stamp<'_>,
) -> (Changes, Endpoint) {
    let mut next = revised(endpoint, stamp.now);
    let old = std::mem::replace(&mut next.secret, secret);
    next.previous = (!overlap.is_zero())
        .then(|| PreviousSecret { secret: old, until: stamp.now.plus(overlap) });
    (write_endpoint(&next, endpoint.version, AuditAction::EndpointRotateSecret, stamp), next)
}

/// Plans a `test.ping` to one endpoint, and the delivery that storage makes of it. The endpoint's version counts it, so that it is
/// sent once even when the answer to the commit is lost.
#[must_use]
pub fn test_endpoint(endpoint: &Endpoint, stamp: &mut Stamp<'_>) -> (Changes, Delivery) {
    let mut next = endpoint.clone();
    next.version = next.version.saturating_add(1);
    let event = event_about(&next, EventType::TestPing, stamp);
    let delivery = Delivery {
        id: DeliveryId::new(event.id, endpoint.id),
        scope: event.scope.clone(),
        event_type: event.event_type,
        payment: None,
        state: DeliveryState::Pending,
        attempts: 0,
        attempts_total: 0,
        version: 1,
        created_at: event.created_at,
        updated_at: event.created_at,
    };
    let changes = write_endpoint(&next, endpoint.version, AuditAction::EndpointTest, stamp)
        .write(Write::EventTo { event: Box::new(event), endpoint: endpoint.id });
    (changes, delivery)
}

/// Plans the end of an endpoint. Its row stays, for the history of its deliveries.
#[must_use]
pub fn delete_endpoint(endpoint: &Endpoint, stamp: &mut Stamp<'_>) -> Changes {
    let mut next = revised(endpoint, stamp.now);
    next.status = EndpointStatus::Deleted;
    write_endpoint(&next, endpoint.version, AuditAction::EndpointDelete, stamp)
}

/// How often a delivery is tried, and the randomness of this once.
#[derive(Debug, Clone, Copy)]
pub struct Schedule<'a> {
    /// When it is tried again.
    pub policy: &'a RetryPolicy,
    /// A random number, for jitter.
    pub entropy: u64,
}

/// One attempt, as the transport saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// When it started.
    pub started_at: Timestamp,
    /// How long it took.
    pub latency: Duration,
    /// The answer, or why there is none.
    pub result: Result<WebhookResponse, TransportErrorKind>,
}

/// Plans what an attempt makes of a delivery: delivered, tried again later, or given up; and of its endpoint, when it
/// says that it is gone.
#[must_use]
pub fn attempted(
    work: &DeliveryWork,
    sent: &Sent,
    schedule: Schedule<'_>,
    stamp: &mut Stamp<'_>,
) -> Changes {
    let mut delivery = work.delivery.clone();
    delivery.attempts = delivery.attempts.saturating_add(1);
    delivery.attempts_total = delivery.attempts_total.saturating_add(1);
    let status = sent.result.as_ref().ok().map(|answer| answer.status);
    let delay = schedule.policy.delay(delivery.attempts, schedule.entropy);
    let asked = sent.result.as_ref().ok().and_then(|answer| answer.retry_after);
    let (state, due_in) = match (status, delay) {
        (Some(200..=299), _) => (DeliveryState::Delivered, None),
        (Some(410), _) => (DeliveryState::Failed(FailedBecause::Gone), None),
        (_, None) => (DeliveryState::Failed(FailedBecause::Exhausted), None),
        (_, Some(delay)) => {
            let asked = asked.unwrap_or_default().min(RETRY_AFTER_MAX);
            (DeliveryState::Pending, Some(delay.max(asked)))
        }
    };
    let attempt = Attempt {
        delivery: delivery.id,
        number: delivery.attempts_total,
        started_at: sent.started_at,
        latency_ms: u32::try_from(sent.latency.as_millis()).unwrap_or(u32::MAX),
        outcome: match &sent.result {
            Ok(answer) => AttemptOutcome::Answered {
                status: answer.status,
                body_start: escaped(&answer.body_start),
            },
            Err(kind) => AttemptOutcome::Failed(*kind),
        },
    };
    let mut changes =
        move_delivery(delivery, state, due_in, stamp.now).write(Write::Attempt(Box::new(attempt)));
    if status == Some(410) && work.endpoint.status == EndpointStatus::Enabled {
        changes = disable(changes, &work.endpoint, "the endpoint answered 410 Gone", stamp);
    }
    changes
}

/// Plans that a delivery is given up because its endpoint hears nothing any more. `None`: it does.
#[must_use]
pub fn unheard(work: &DeliveryWork, now: Timestamp) -> Option<Changes> {
    let because = match work.endpoint.status {
        EndpointStatus::Enabled => return None,
        EndpointStatus::Disabled { .. } => FailedBecause::EndpointDisabled,
        EndpointStatus::Deleted => FailedBecause::EndpointDeleted,
    };
    Some(move_delivery(work.delivery.clone(), DeliveryState::Failed(because), None, now))
}

/// Plans a new round of attempts of a delivery, by hand. The webhook id stays the same.
#[must_use]
pub fn retry(delivery: &Delivery, stamp: &mut Stamp<'_>) -> (Changes, Delivery) {
    let mut after = delivery.clone();
    after.attempts = 0;
    after.state = DeliveryState::Pending;
    after.version = after.version.saturating_add(1);
    after.updated_at = stamp.now;
    (retry_all(&[delivery], stamp), after)
}

/// Plans new rounds of attempts of several deliveries of the caller's scope, in one commit.
#[must_use]
pub fn retry_all(deliveries: &[&Delivery], stamp: &mut Stamp<'_>) -> Changes {
    let mut all = Changes::new(stamp.caller.scope.clone());
    for delivery in deliveries {
        let mut next = (*delivery).clone();
        next.attempts = 0;
        let one = move_delivery(next, DeliveryState::Pending, Some(Duration::ZERO), stamp.now);
        all.guards.extend(one.guards);
        all.writes.extend(one.writes);
        let object = AuditObject::Delivery(delivery.id);
        all.writes.push(Write::Audit(Box::new(audit(AuditAction::DeliveryRetry, object, stamp))));
    }
    all
}

fn move_delivery(
    mut delivery: Delivery,
    state: DeliveryState,
    due_in: Option<Duration>,
    now: Timestamp,
) -> Changes {
    let guard = Guard::Delivery { id: delivery.id, version: delivery.version };
    delivery.state = state;
    delivery.version = delivery.version.saturating_add(1);
    delivery.updated_at = now;
    Changes::new(delivery.scope.clone())
        .guard(guard)
        .write(Write::Delivery { delivery: Box::new(delivery), due_in })
}

fn disable(
    changes: Changes,
    endpoint: &Endpoint,
    why: &'static str,
    stamp: &mut Stamp<'_>,
) -> Changes {
    let mut next = revised(endpoint, stamp.now);
    let reason = Reason::parse(why).expect("the reasons written here are short plain text");
    next.status = EndpointStatus::Disabled { reason };
    let event = event_about(&next, EventType::EndpointDisabled, stamp);
    let row = audit(AuditAction::EndpointDisable, AuditObject::Endpoint(next.id), stamp);
    changes
        .guard(Guard::Endpoint { id: endpoint.id, version: endpoint.version })
        .write(Write::Endpoint(Box::new(next)))
        .write(Write::Event(Box::new(event)))
        .write(Write::Audit(Box::new(row)))
}

/// An event without a payment, whose object is the endpoint.
fn event_about(endpoint: &Endpoint, event_type: EventType, stamp: &mut Stamp<'_>) -> Event {
    let id = EventId::from_uuid((stamp.ids)());
    let head = EventHead {
        id,
        api_version: representation::API_VERSION,
        event_type,
        timestamp: stamp.now,
        sequence: None,
        merchant_id: endpoint.scope.merchant.as_str(),
    };
    Event {
        id,
        scope: endpoint.scope.clone(),
        event_type,
        payment: None,
        sequence: None,
        created_at: stamp.now,
        body: representation::event_body(&head, &representation::endpoint(endpoint)).bytes,
        feed_position: None,
    }
}

fn revised(endpoint: &Endpoint, now: Timestamp) -> Endpoint {
    let mut next = endpoint.clone();
    next.version = next.version.saturating_add(1);
    next.updated_at = now;
    // A secret that no longer signs is not kept.
    next.previous = next.previous.filter(|previous| now < previous.until);
    next
}

fn write_endpoint(
    endpoint: &Endpoint,
    version: u64,
    action: AuditAction,
    stamp: &mut Stamp<'_>,
) -> Changes {
    Changes::new(endpoint.scope.clone())
        .guard(Guard::Endpoint { id: endpoint.id, version })
        .write(Write::Endpoint(Box::new(endpoint.clone())))
        .write(Write::Audit(Box::new(audit(action, AuditObject::Endpoint(endpoint.id), stamp))))
}

pub(crate) fn audit(action: AuditAction, object: AuditObject, stamp: &mut Stamp<'_>) -> AuditRow {
    AuditRow {
        id: AuditId::from_uuid((stamp.ids)()),
        scope: stamp.caller.scope.clone(),
        at: stamp.now,
        actor: stamp.caller.actor.clone(),
        action,
        outcome: AuditOutcome::Success,
        origin: stamp.caller.origin,
        object,
        request_id: stamp.caller.request_id.clone(),
    }
}

/// The start of an answer as harmless text: what is not printable is escaped, and it stays within its size.
fn escaped(bytes: &[u8]) -> Box<str> {
    let mut text = String::new();
    for c in String::from_utf8_lossy(bytes).chars() {
        let before = text.len();
        if c.is_control() {
            text.extend(c.escape_unicode())
        } else {
            text.push(c)
        }
        if text.len() > Attempt::BODY_START_MAX {
            text.truncate(before);
            break;
        }
    }
    if crate::pan::contains_card_number(&text) {
        return "(withheld: it looks like a card number)".into();
    }
    text.into()
}

/// The longest wait an endpoint may ask for: a day. Longer ones would outlast the retry schedule.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);
