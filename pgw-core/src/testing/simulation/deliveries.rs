//! What the witness knows of endpoints and deliveries by the commits it saw, and what must be true of each such commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;

use crate::access::{AuditAction, AuditObject};
use crate::builder::Settings;
use crate::changes::{Changes, Write};
use crate::env::{Env, runtime_now};
use crate::event::{Event, EventType};
use crate::id::{DeliveryId, EndpointId, PaymentId};
use crate::secret::Secret;
use crate::testing::crash::Life;
use crate::testing::invariants::Broken;
use crate::testing::keys::key_rings;
use crate::timestamp::Timestamp;
use crate::webhook::{
    Attempt, AttemptOutcome, Delivery, DeliveryState, Endpoint, EndpointStatus, EndpointWithSecret,
    Vault,
};

use super::arrivals::Look;
use super::logs::SECRETS;

/// The endpoints and deliveries of a world.
#[derive(Debug)]
pub(super) struct Deliveries {
    pub(super) vault: Vault,
    pub(super) settings: Settings,
    pub(super) endpoints: BTreeMap<EndpointId, Known>,
    pub(super) rows: BTreeMap<DeliveryId, Row>,
    /// Each endpoint's deliveries of each payment, by sequence.
    pub(super) places: BTreeMap<(EndpointId, PaymentId), BTreeMap<u64, DeliveryId>>,
    /// Every address that an endpoint ever had; no two have the same.
    pub(super) addresses: BTreeMap<Box<str>, EndpointId>,
    pub(super) looks: BTreeMap<DeliveryId, Vec<Look>>,
    /// Whose webhook is sent next.
    pub(super) sender: Option<Life>,
    /// Counts what happens, to tell what was before what.
    pub(super) moment: u64,
    pub(super) counts: Counts,
}

/// What happened to endpoints and deliveries.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) webhooks: u64,
    pub(super) pauses: u64,
    pub(super) rotations: u64,
    pub(super) disabled: u64,
}

/// An endpoint.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) row: Arc<Endpoint>,
    /// By generation.
    pub(super) secrets: BTreeMap<u64, Secret>,
    /// Until when who rotated last was promised that the secret before signs too; not once that was over by a process's clock.
    pub(super) promised: Option<Timestamp>,
    is_overlap_over: bool,
    pub(super) paused_until: Option<Instant>,
    /// When its ordering last changed.
    pub(super) ordered_since: u64,
    /// The highest sequence of each payment that was taken since then.
    pub(super) highest: BTreeMap<PaymentId, u64>,
}

/// A delivery.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) place: Option<(PaymentId, u64)>,
    pub(super) state: DeliveryState,
    attempts: u32,
    attempts_total: u32,
    /// How many requests were made for it.
    pub(super) sent: u32,
    /// Whether its receiver ever took it.
    pub(super) is_taken: bool,
    /// Whether it was ever given up.
    pub(super) was_given_up: bool,
    pub(super) pending_since: u64,
}

impl Deliveries {
    pub(super) fn new(settings: Settings) -> Self {
        let [keys, _] = key_rings();
        Self {
            // Opening needs neither time nor randomness.
            vault: Vault::new(keys, Env::system()),
            settings,
            endpoints: BTreeMap::new(),
            rows: BTreeMap::new(),
            places: BTreeMap::new(),
            addresses: BTreeMap::new(),
            looks: BTreeMap::new(),
            sender: None,
            moment: 0,
            counts: Counts::default(),
        }
    }

    /// The deliveries that there should be.
    pub(super) fn owed(&self) -> BTreeSet<DeliveryId> {
        self.rows.keys().copied().collect()
    }

    /// Whether a delivery is to an endpoint and about a payment.
    pub(super) fn is_of(&self, id: DeliveryId, endpoint: EndpointId, payment: PaymentId) -> bool {
        let place = self.rows.get(&id).and_then(|row| row.place);
        id.endpoint() == endpoint && place.is_some_and(|(of, _)| of == payment)
    }

    /// Every secret that each endpoint ever had.
    pub(super) fn secrets(&self) -> BTreeMap<EndpointId, Vec<Secret>> {
        let all = |known: &Known| known.secrets.values().cloned().collect();
        self.endpoints.iter().map(|(id, known)| (*id, all(known))).collect()
    }

    /// Something was committed.
    pub(super) fn applied(&mut self, changes: &Changes, broken: &mut Vec<Broken>) {
        self.moment += 1;
        check_plain(changes, broken);
        self.check_told(changes, broken);
        let heard = self.heard(changes);
        for write in &changes.writes {
            if let Write::Endpoint(endpoint) = write {
                self.endpoint(endpoint, broken);
            }
        }
        for write in &changes.writes {
            match write {
                Write::Pause { endpoint, lasts } => {
                    self.counts.pauses += 1;
                    if let Some(known) = self.endpoints.get_mut(endpoint) {
                        known.paused_until = Some(runtime_now() + *lasts);
                    }
                }
                Write::Delivery { delivery, .. } => self.delivery(delivery, changes, broken),
                _ => {}
            }
        }
        for (event, endpoint) in heard {
            let now = self.endpoints.get(&endpoint);
            if now.is_some_and(|now| now.row.status == EndpointStatus::Enabled) {
                self.owe(event, endpoint);
            }
        }
    }

    /// Somebody was shown the secret of an endpoint that they created or rotated: it is the one that signs, and the one before does
    /// for as long as they were told.
    pub(super) fn shown(&mut self, shown: &EndpointWithSecret, broken: &mut Vec<Broken>) {
        let EndpointWithSecret { endpoint, secret } = shown;
        let Some(known) = self.endpoints.get_mut(&endpoint.id) else {
            let what = format!("{} was shown and never committed", endpoint.id);
            return broken.push((SHOWN, what));
        };
        if known.secrets.get(&endpoint.generation) != Some(secret) {
            broken.push((SHOWN, format!("{} of {}", endpoint.generation, endpoint.id)));
        }
        if known.row.generation == endpoint.generation && !known.is_overlap_over {
            known.promised = endpoint.previous.as_ref().map(|previous| previous.until);
        }
    }

    /// Who hears the events of a commit: endpoints as they were before it. It may still disable or delete them.
    fn heard<'c>(&self, changes: &'c Changes) -> Vec<(&'c Event, EndpointId)> {
        let mut heard = Vec::new();
        for write in &changes.writes {
            let (event, only) = match write {
                Write::Event(event) => (event, None),
                Write::EventTo { event, endpoint } => (event, Some(*endpoint)),
                _ => continue,
            };
            for (id, known) in &self.endpoints {
                let hears = match only {
                    None => known.row.hears(event.event_type),
                    Some(only) => only == *id && known.row.status == EndpointStatus::Enabled,
                };
                if known.row.scope == event.scope && hears {
                    heard.push((&**event, *id));
                }
            }
        }
        heard
    }

    fn owe(&mut self, event: &Event, endpoint: EndpointId) {
        let id = DeliveryId::new(event.id, endpoint);
        let place = event.payment.zip(event.sequence);
        if let Some((payment, sequence)) = place {
            self.places.entry((endpoint, payment)).or_default().insert(sequence, id);
        }
        self.rows.insert(
            id,
            Row {
                place,
                state: DeliveryState::Pending,
                attempts: 0,
                attempts_total: 0,
                sent: 0,
                is_taken: false,
                was_given_up: false,
                pending_since: self.moment,
            },
        );
    }

    fn endpoint(&mut self, row: &Endpoint, broken: &mut Vec<Broken>) {
        let id = row.id;
        self.addresses.insert(row.url.as_str().into(), id);
        let known = self.endpoints.entry(id).or_insert_with(|| Known::new(row));
        let before = std::mem::replace(&mut known.row, Arc::new(row.clone()));
        // A pause ends with the next write of its endpoint.
        known.paused_until = None;
        if before.options.ordering != row.options.ordering {
            known.ordered_since = self.moment;
            known.highest.clear();
        }
        if before.generation != row.generation {
            self.counts.rotations += 1;
            (known.promised, known.is_overlap_over) = (None, false);
        } else if let (Some(previous), None) = (&before.previous, &row.previous) {
            if row.updated_at < previous.until {
                broken.push((OVERLAP, format!("{id} forgot it before its time")));
            }
            (known.promised, known.is_overlap_over) = (None, true);
        }
        let Ok(secret) = self.vault.secret(row) else {
            return broken.push((OPENS, format!("that of {id} does not")));
        };
        if known.secrets.entry(row.generation).or_insert_with(|| secret.clone()) != &secret {
            broken.push(("a secret changes by rotation only", id.to_string()));
        }
        if let Some(previous) = &row.previous {
            let generation = row.generation.saturating_sub(1);
            let older = Endpoint { secret: previous.secret.clone(), generation, ..row.clone() };
            let is_right = self
                .vault
                .secret(&older)
                .is_ok_and(|old| known.secrets.get(&generation) == Some(&old));
            if !is_right {
                broken.push((OPENS, format!("the one before that of {id} does not")));
            }
        }
    }

    /// A delivery moves: it spends attempts only by making them, no more in a round than there are, and logs each.
    fn delivery(&mut self, delivery: &Delivery, changes: &Changes, broken: &mut Vec<Broken>) {
        let id = delivery.id;
        // One that nobody is owed is found in the end.
        let Some(row) = self.rows.get_mut(&id) else { return };
        let logged: Vec<&Attempt> = changes
            .writes
            .iter()
            .filter_map(|write| match write {
                Write::Attempt(attempt) if attempt.delivery == id => Some(&**attempt),
                _ => None,
            })
            .collect();
        let is_replay = changes.writes.iter().any(|write| {
            matches!(write, Write::Audit(audit) if audit.action == AuditAction::DeliveryRetry
                && audit.object == AuditObject::Delivery(id))
        });
        let made = u32::try_from(logged.len()).unwrap_or(u32::MAX);
        let earlier = if is_replay { 0 } else { row.attempts };
        let counts = (delivery.attempts, delivery.attempts_total);
        let expected = (earlier.saturating_add(made), row.attempts_total.saturating_add(made));
        let is_numbered = logged.iter().all(|attempt| attempt.number == delivery.attempts_total);
        if counts != expected || made > 1 || !is_numbered {
            broken.push((LOG, format!("{id} has {counts:?}, not {expected:?}, {made} logged")));
        }
        if delivery.attempts_total > row.sent {
            broken.push((SPENT, format!("{id} counts {counts:?} and sent {}", row.sent)));
        }
        if delivery.attempts > self.settings.deliver_again.attempts_max() {
            broken.push((SPENT, format!("{id} counts {counts:?}")));
        }
        if delivery.state == DeliveryState::Delivered && !row.is_taken {
            broken.push(("delivered means taken", format!("{id} was not taken")));
        }
        if delivery.state == DeliveryState::Pending && row.state != DeliveryState::Pending {
            row.pending_since = self.moment;
        }
        row.was_given_up |= matches!(delivery.state, DeliveryState::Failed(_));
        (row.attempts, row.attempts_total) = counts;
        row.state = delivery.state;
    }

    /// When the gateway disables an endpoint, there is one event about it in the same commit, and otherwise none.
    fn check_told(&mut self, changes: &Changes, broken: &mut Vec<Broken>) {
        let (mut disabled, mut told) = (Vec::new(), 0);
        for write in &changes.writes {
            match write {
                Write::Audit(row) if row.action == AuditAction::EndpointDisable => {
                    disabled.push(row.object.clone());
                }
                Write::Event(event) if event.event_type == EventType::EndpointDisabled => told += 1,
                _ => {}
            }
        }
        let ends = |write: &&Write| {
            let Write::Endpoint(after) = write else { return false };
            let before = self.endpoints.get(&after.id);
            before.is_some_and(|before| before.row.status == EndpointStatus::Enabled)
                && matches!(after.status, EndpointStatus::Disabled { .. })
                && disabled.contains(&AuditObject::Endpoint(after.id))
        };
        let ended = changes.writes.iter().filter(ends).count();
        self.counts.disabled += ended as u64;
        if told != ended || disabled.len() != ended {
            broken.push((
                "an endpoint's end is told once",
                format!("{ended} ended, {} audited, {told} told", disabled.len()),
            ));
        }
    }
}

impl Known {
    fn new(row: &Endpoint) -> Self {
        Self {
            row: Arc::new(row.clone()),
            secrets: BTreeMap::new(),
            promised: None,
            is_overlap_over: false,
            paused_until: None,
            ordered_since: 0,
            highest: BTreeMap::new(),
        }
    }
}

/// No secret of an endpoint is in any row, nor the value of a header of its own, except in an envelope.
fn check_plain(changes: &Changes, broken: &mut Vec<Broken>) {
    let mut look = |text: &[u8]| {
        let has = |canary: &str| text.windows(canary.len()).any(|part| part == canary.as_bytes());
        if let Some(canary) = SECRETS.iter().find(|canary| has(canary)) {
            broken.push(("no secret is stored in the clear", format!("{canary} is")));
        }
    };
    for write in &changes.writes {
        match write {
            Write::Endpoint(endpoint) => {
                look(endpoint.secret.as_str().as_bytes());
                for sealed in [
                    endpoint.previous.as_ref().map(|previous| &previous.secret),
                    endpoint.headers.as_ref().map(|headers| &headers.sealed),
                ] {
                    look(sealed.map_or("", |sealed| sealed.as_str()).as_bytes());
                }
                look(format!("{endpoint:?} {}", endpoint.url.as_str()).as_bytes());
            }
            Write::Event(event) | Write::EventTo { event, .. } => look(&event.body),
            Write::Attempt(attempt) => {
                if let AttemptOutcome::Answered { body_start, .. } = &attempt.outcome {
                    look(body_start.as_bytes());
                }
            }
            Write::Audit(row) => look(format!("{row:?}").as_bytes()),
            _ => {}
        }
    }
}

const SHOWN: &str = "the secret that is shown is the one that signs";
pub(super) const OVERLAP: &str = "an old secret signs until its overlap is over";
const OPENS: &str = "every stored secret opens in its place";
const LOG: &str = "each attempt has its row in the log";
const SPENT: &str = "only what is sent spends an attempt";
