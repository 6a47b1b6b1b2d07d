//! The plans of endpoints and deliveries. Pure.

use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

use crate::access::audit::AuditChanges;
use crate::access::{AuditAction, AuditChange, AuditField, AuditObject, AuditOutcome, AuditRow};
use crate::changes::{Changes, Guard, Write};
use crate::crypto::Sealed;
use crate::event::{Event, EventType};
use crate::id::{AuditId, DeliveryId, EndpointId, EventId};
use crate::payment::plan::Stamp;
use crate::representation::{self, EventHead};
use crate::retry::RetryPolicy;
use crate::text::{Description, Reason};
use crate::timestamp::Timestamp;
use crate::webhook::delivery::{DeliveryStatus, FailedBecause};
use crate::webhook::{
    Attempt, AttemptOutcome, CustomHeaders, Delivery, DeliveryOptions, DeliveryState, DeliveryWork,
    Endpoint, EndpointStatus, EndpointUrl, EventFilter, Health, Ordering, PreviousSecret, Profiles,
    SealedHeaders, TransportErrorKind, WebhookResponse, WhenExhausted,
};

/// An endpoint to be made.
///
/// ```
/// use std::time::Duration;
/// use pgw_core::webhook::plan::NewEndpoint;
/// use pgw_core::webhook::{CustomHeaders, EndpointUrl, Ordering, WhenExhausted};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut new = NewEndpoint::new(EndpointUrl::parse("https://hooks.example/in")?);
/// new.filters = vec!["payment.*".parse()?];
/// new.headers = CustomHeaders::parse([("X-Tenant", "blue")])?;
/// new.options.timeout = Some(Duration::from_secs(5));
/// new.options.ordering = Ordering::ByPayment(WhenExhausted::Park);
/// assert!(new.options.check().is_ok());
/// println!("{new:?}");
/// # Ok(())
/// # }
/// ```
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
    /// How they are delivered.
    pub options: DeliveryOptions,
    /// Headers of the merchant's own that they carry.
    pub headers: CustomHeaders,
}

impl NewEndpoint {
    /// An endpoint that hears everything, signed by the default profiles.
    #[must_use]
    pub fn new(url: EndpointUrl) -> Self {
        Self {
            url,
            description: None,
            filters: Vec::new(),
            profiles: Profiles::default(),
            options: DeliveryOptions::default(),
            headers: CustomHeaders::default(),
        }
    }
}

/// What to change of an endpoint; `None` leaves a field as it is.
///
/// ```
/// use std::time::Duration;
/// use pgw_core::webhook::DeliveryOptions;
/// use pgw_core::webhook::plan::EndpointUpdate;
/// let mut before = DeliveryOptions::default();
/// before.timeout = Some(Duration::from_secs(5));
/// before.concurrency = 4.try_into().ok();
/// let mut update = EndpointUpdate::default();
/// update.timeout = Some(None); // lifted; everything else stays
/// let after = update.options(before);
/// assert_eq!((after.timeout, after.concurrency_max()), (None, 4));
/// ```
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
    /// The deadline of an attempt; `Some(None)`: the gateway's.
    pub timeout: Option<Option<Duration>>,
    /// Most attempts at once; `Some(None)`: as many as may be.
    pub concurrency: Option<Option<NonZeroU8>>,
    /// Most attempts a second; `Some(None)`: no limit.
    pub rate_per_s: Option<Option<NonZeroU32>>,
    /// In which order, and what becomes of the events after one that was given up.
    pub ordering: Option<Ordering>,
    /// Headers of the merchant's own, in place of those before.
    pub headers: Option<CustomHeaders>,
    /// Enabled or disabled.
    pub status: Option<EndpointStatus>,
}

impl EndpointUpdate {
    /// The options after it.
    #[must_use]
    pub fn options(&self, before: DeliveryOptions) -> DeliveryOptions {
        DeliveryOptions {
            timeout: self.timeout.unwrap_or(before.timeout),
            concurrency: self.concurrency.unwrap_or(before.concurrency),
            rate_per_s: self.rate_per_s.unwrap_or(before.rate_per_s),
            ordering: self.ordering.unwrap_or(before.ordering),
        }
    }
}

/// Plans a new endpoint, whose secret and headers were sealed for its id and generation 1.
#[must_use]
pub fn create_endpoint(
    id: EndpointId,
    new: NewEndpoint,
    secret: Sealed,
    headers: Option<SealedHeaders>,
    stamp: &mut Stamp<'_>,
) -> (Changes, Endpoint) {
    let endpoint = Endpoint {
        id,
        scope: stamp.caller.scope.clone(),
        url: new.url,
        description: new.description,
        filters: new.filters,
        profiles: new.profiles,
        options: new.options,
        headers,
        secret,
        generation: 1,
        previous: None,
        status: EndpointStatus::Enabled,
        health: Health::Healthy,
        version: 1,
        created_at: stamp.now,
        updated_at: stamp.now,
    };
    let changes = write_endpoint(None, &endpoint, AuditAction::EndpointCreate, stamp);
    (changes, endpoint)
}

/// Plans a change of an endpoint; `headers` are the update's, sealed. A new address, or being enabled again, is a new start: what failed
/// before no longer counts.
#[must_use]
pub fn update_endpoint(
    endpoint: &Endpoint,
    update: EndpointUpdate,
    headers: Option<SealedHeaders>,
    stamp: &mut Stamp<'_>,
) -> (Changes, Endpoint) {
    let mut next = revised(endpoint, stamp.now);
    next.options = update.options(endpoint.options);
    if update.headers.is_some() {
        next.headers = headers;
    }
    if let Some(url) = update.url {
        next.url = url;
        next.health = Health::Healthy;
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
        next.health = Health::Healthy;
    }
    (write_endpoint(Some(endpoint), &next, AuditAction::EndpointUpdate, stamp), next)
}

/// Plans a new secret of an endpoint, sealed for the generation after its own. The old one signs beside it for `overlap` from now; one that
/// was rotated away earlier stops at once.
#[must_use]
pub fn rotate_secret(
    endpoint: &Endpoint,
    secret: Sealed,
    overlap: Duration,
    stamp: &mut Stamp<'_>,
) -> (Changes, Endpoint) {
    let mut next = revised(endpoint, stamp.now);
    let old = std::mem::replace(&mut next.secret, secret);
    next.generation = next.generation.saturating_add(1);
    next.previous = (!overlap.is_zero())
        .then(|| PreviousSecret { secret: old, until: stamp.now.plus(overlap) });
    (write_endpoint(Some(endpoint), &next, AuditAction::EndpointRotateSecret, stamp), next)
}

/// Plans that an endpoint's secrets are sealed anew: `renewed` is the endpoint with its new envelopes.
#[must_use]
pub fn reseal_endpoint(
    endpoint: &Endpoint,
    mut renewed: Endpoint,
    stamp: &mut Stamp<'_>,
) -> Changes {
    renewed.version = endpoint.version.saturating_add(1);
    write_endpoint(Some(endpoint), &renewed, AuditAction::EndpointReseal, stamp)
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
    let changes = write_endpoint(Some(endpoint), &next, AuditAction::EndpointTest, stamp)
        .write(Write::EventTo { event: Box::new(event), endpoint: endpoint.id });
    (changes, delivery)
}

/// Plans the end of an endpoint. Its row stays, for the history of its deliveries.
#[must_use]
pub fn delete_endpoint(endpoint: &Endpoint, stamp: &mut Stamp<'_>) -> Changes {
    let mut next = revised(endpoint, stamp.now);
    next.status = EndpointStatus::Deleted;
    write_endpoint(Some(endpoint), &next, AuditAction::EndpointDelete, stamp)
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

/// What an attempt tells about its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// It took the webhook (2xx).
    Took,
    /// It is gone for good (410).
    Gone,
    /// It did not take it.
    Failed {
        /// It has too much to do (429, 502, 503, 504).
        is_overloaded: bool,
        /// How long it asks us to wait.
        asked: Option<Duration>,
    },
}

impl Sent {
    /// What it tells about the endpoint.
    #[must_use]
    pub fn reaction(&self) -> Reaction {
        match &self.result {
            Ok(answer) => match answer.status {
                200..=299 => Reaction::Took,
                410 => Reaction::Gone,
                status => Reaction::Failed {
                    is_overloaded: matches!(status, 429 | 502..=504),
                    asked: answer.retry_after,
                },
            },
            Err(_) => Reaction::Failed { is_overloaded: false, asked: None },
        }
    }
}

/// Plans what an attempt makes of a delivery: delivered, tried again later, or given up. What it makes of the endpoint is planned
/// apart, so that endpoints are no place where deliveries wait for each other.
#[must_use]
pub fn attempted(
    work: &DeliveryWork,
    sent: &Sent,
    schedule: Schedule<'_>,
    now: Timestamp,
) -> Changes {
    let mut delivery = work.delivery.clone();
    delivery.attempts = delivery.attempts.saturating_add(1);
    delivery.attempts_total = delivery.attempts_total.saturating_add(1);
    let delay = schedule.policy.delay(delivery.attempts, schedule.entropy);
    let (state, due_in) = match (sent.reaction(), delay) {
        (Reaction::Took, _) => (DeliveryState::Delivered, None),
        (Reaction::Gone, _) => (DeliveryState::Failed(FailedBecause::Gone), None),
        (Reaction::Failed { .. }, None) => (DeliveryState::Failed(FailedBecause::Exhausted), None),
        (Reaction::Failed { .. }, Some(delay)) => (DeliveryState::Pending, Some(delay)),
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
    let changes =
        move_delivery(delivery, state, due_in, now).write(Write::Attempt(Box::new(attempt)));
    wake(changes, work, state)
}

/// With the next event of the payment woken, where the endpoint orders and this one no longer stands before it.
fn wake(changes: Changes, work: &DeliveryWork, state: DeliveryState) -> Changes {
    let is_out_of_the_way = match (work.endpoint.options.ordering, state) {
        (Ordering::AsDue, _) | (_, DeliveryState::Pending) => false,
        (Ordering::ByPayment(WhenExhausted::Park), DeliveryState::Failed(_)) => false,
        (Ordering::ByPayment(_), _) => true,
    };
    match work.delivery.payment.filter(|_| is_out_of_the_way) {
        Some(payment) => changes.write(Write::Wake { endpoint: work.endpoint.id, payment }),
        None => changes,
    }
}

/// Plans a pause of an endpoint that does not take webhooks, or its end when that has gone on for [`Health::FAILING_MAX`]. `None`: it
/// hears nothing anyway.
#[must_use]
pub fn pause_endpoint(
    endpoint: &Endpoint,
    asked: Option<Duration>,
    entropy: u64,
    stamp: &mut Stamp<'_>,
) -> Option<Changes> {
    if endpoint.status != EndpointStatus::Enabled {
        return None;
    }
    let Some((health, lasts)) = endpoint.health.paused(stamp.now, asked, entropy) else {
        return disable_endpoint(endpoint, "it took no webhook for five days", stamp);
    };
    let changes = write_health(endpoint, health);
    Some(changes.write(Write::Pause { endpoint: endpoint.id, lasts }))
}

/// Plans that an endpoint takes webhooks again. `None`: nothing else was known.
#[must_use]
pub fn restore_endpoint(endpoint: &Endpoint) -> Option<Changes> {
    (endpoint.health != Health::Healthy).then(|| write_health(endpoint, Health::Healthy))
}

/// Plans that an endpoint is disabled by the gateway itself, with the event about it. `None`: it hears nothing already.
#[must_use]
pub fn disable_endpoint(
    endpoint: &Endpoint,
    why: &'static str,
    stamp: &mut Stamp<'_>,
) -> Option<Changes> {
    if endpoint.status != EndpointStatus::Enabled {
        return None;
    }
    let mut next = revised(endpoint, stamp.now);
    let reason = Reason::parse(why).expect("the reasons written here are short plain text");
    next.status = EndpointStatus::Disabled { reason };
    let event = event_about(&next, EventType::EndpointDisabled, stamp);
    let changes = write_endpoint(Some(endpoint), &next, AuditAction::EndpointDisable, stamp);
    Some(changes.write(Write::Event(Box::new(event))))
}

/// Why an endpoint is disabled that answered 410.
pub const GONE: &str = "the endpoint answered 410 Gone";

/// Plans that a delivery is given up because its endpoint hears nothing any more. `None`: it does.
#[must_use]
pub fn unheard(work: &DeliveryWork, now: Timestamp) -> Option<Changes> {
    let because = match work.endpoint.status {
        EndpointStatus::Enabled => return None,
        EndpointStatus::Disabled { .. } => FailedBecause::EndpointDisabled,
        EndpointStatus::Deleted => FailedBecause::EndpointDeleted,
    };
    let state = DeliveryState::Failed(because);
    Some(wake(move_delivery(work.delivery.clone(), state, None, now), work, state))
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
        let mut row = audit(AuditAction::DeliveryRetry, object, stamp);
        let status = |state| DeliveryStatus::from(state).as_str().to_owned();
        let mut changes = AuditChanges::default();
        let states = (&delivery.state, &DeliveryState::Pending);
        changes.told(AuditField::Status, states, |state| Some(status(*state)));
        changes.told(AuditField::Attempts, (&delivery.attempts, &0), |n| Some(n.to_string()));
        row.changes = changes.finish();
        all.writes.push(Write::Audit(Box::new(row)));
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

/// An endpoint's health is no change that its owner made: it is neither audited nor an update.
fn write_health(endpoint: &Endpoint, health: Health) -> Changes {
    let mut next = endpoint.clone();
    next.version = next.version.saturating_add(1);
    next.health = health;
    Changes::new(endpoint.scope.clone())
        .guard(Guard::Endpoint { id: endpoint.id, version: endpoint.version })
        .write(Write::Endpoint(Box::new(next)))
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

/// Writes an endpoint in place of the one before, or a new one, and what that changed.
fn write_endpoint(
    before: Option<&Endpoint>,
    after: &Endpoint,
    action: AuditAction,
    stamp: &mut Stamp<'_>,
) -> Changes {
    let mut row = audit(action, AuditObject::Endpoint(after.id), stamp);
    if let Some(before) = before {
        row.changes = audited_changes(before, after, action);
    }
    let version = before.map_or(0, |before| before.version);
    Changes::new(after.scope.clone())
        .guard(Guard::Endpoint { id: after.id, version })
        .write(Write::Endpoint(Box::new(after.clone())))
        .write(Write::Audit(Box::new(row)))
}

/// What became of an endpoint, for the audit log. Its address, description, headers and secrets are not told.
fn audited_changes(before: &Endpoint, after: &Endpoint, action: AuditAction) -> Box<[AuditChange]> {
    let mut changes = AuditChanges::default();
    let status = |endpoint: &Endpoint| match endpoint.status {
        EndpointStatus::Enabled => "enabled",
        EndpointStatus::Disabled { .. } => "disabled",
        EndpointStatus::Deleted => "deleted",
    };
    let statuses = (&status(before), &status(after));
    changes.told(AuditField::Status, statuses, |status| Some((*status).to_owned()));
    changes.untold(AuditField::Url, before.url.as_str(), after.url.as_str());
    changes.untold(AuditField::Description, &before.description, &after.description);
    changes.told(AuditField::EventTypes, (&before.filters, &after.filters), |filters| {
        Some(filters.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
    });
    changes.told(AuditField::SignatureProfiles, (&before.profiles, &after.profiles), |profiles| {
        Some(profiles.iter().map(|profile| profile.as_str()).collect::<Vec<_>>().join(","))
    });
    let (old, new) = (&before.options, &after.options);
    changes.told(AuditField::TimeoutMs, (&old.timeout, &new.timeout), |timeout| {
        timeout.map(|timeout| timeout.as_millis().to_string())
    });
    changes.told(AuditField::Concurrency, (&old.concurrency, &new.concurrency), |most| {
        most.map(|most| most.to_string())
    });
    changes.told(AuditField::RatePerSecond, (&old.rate_per_s, &new.rate_per_s), |rate| {
        rate.map(|rate| rate.to_string())
    });
    changes.told(AuditField::Ordering, (&old.ordering, &new.ordering), |ordering| {
        Some(match ordering {
            Ordering::AsDue => "none".to_owned(),
            Ordering::ByPayment(WhenExhausted::Skip) => "payment, skip".to_owned(),
            Ordering::ByPayment(WhenExhausted::Park) => "payment, park".to_owned(),
        })
    });
    let sealed_with = |endpoint: &Endpoint| endpoint.sealed_with().cloned();
    let keys = (&sealed_with(before), &sealed_with(after));
    changes.told(AuditField::SealedWith, keys, |key| key.as_ref().map(ToString::to_string));
    // Sealed anew they are other bytes and the same headers.
    if action != AuditAction::EndpointReseal {
        changes.untold(AuditField::Headers, &before.headers, &after.headers);
    }
    let generations = (&before.generation, &after.generation);
    changes.told(AuditField::SecretGeneration, generations, |number| Some(number.to_string()));
    changes.finish()
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
        changes: Box::default(),
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
