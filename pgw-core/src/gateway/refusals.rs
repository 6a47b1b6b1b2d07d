//! Refused access, written down: so many rows at most, off the path of those who are answered.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::access::{
    Actor, AuditAction, AuditChange, AuditField, AuditObject, AuditOutcome, AuditRow, Caller,
    Refusal,
};
use crate::changes::{Changes, Write};
use crate::scope::Scope;
use crate::timestamp::Timestamp;
use crate::webhook::plan::audit;

use super::Gateway;

impl Gateway {
    /// Writes an audit row of a refusal, on a task of its own: what becomes of it changes nothing for who was refused.
    ///
    /// The row is of the principal's merchant and mode; of the default merchant in test mode where nobody knows who asked, for there is
    /// no other that it could be. Who asks is no measure of how many rows there are: a process writes [`Refusal::PER_SECOND_MAX`] a
    /// second after a burst of as many, and has as many under way at most. What goes beyond is counted, told to the log once a second at
    /// most, and in the next row that is written.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn record_refusal(&self, refusal: Refusal) {
        let refusals = &self.parts.refusals;
        let Some(unrecorded) = refusals.admit(self.parts.env.now()) else { return };
        let slot = Slot::take(&refusals.under_way);
        let gateway = self.clone();
        tokio::spawn(async move {
            let row = gateway.refusal_row(refusal, unrecorded);
            let changes = Changes::new(row.scope.clone()).write(Write::Audit(Box::new(row)));
            if let Err(error) = gateway.storage().commit(changes).await {
                tracing::warn!(%error, "a refusal was not written to the audit log");
                gateway.parts.refusals.unwritten(unrecorded.saturating_add(1));
            }
            drop(slot);
        });
    }

    fn refusal_row(&self, refusal: Refusal, unrecorded: u64) -> AuditRow {
        let (scope, actor) = match refusal.principal {
            Some(principal) => (principal.scope, principal.actor),
            None => (Scope::default(), Actor::Anonymous),
        };
        let (origin, request_id) = (refusal.origin, refusal.request_id);
        let caller = self.by(Caller { scope, actor, origin, request_id });
        let object = AuditObject::Route(refusal.route);
        let because = refusal.because.as_str();
        let mut changes = vec![AuditChange::new(AuditField::Reason, None, Some(because))];
        if unrecorded > 0 {
            let count = unrecorded.to_string();
            changes.push(AuditChange::new(AuditField::Unrecorded, None, Some(&count)));
        }
        let row = caller.plan(|stamp| audit(AuditAction::AccessRefuse, object, stamp));
        AuditRow { outcome: AuditOutcome::Failure, changes: changes.into(), ..row }
    }
}

/// How many refusals a process has written down of late.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    pace: Mutex<Pace>,
    under_way: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Pace {
    /// When the burst is all there again (GCRA's theoretical arrival time).
    full_at: Timestamp,
    unrecorded: u64,
    told_at: Timestamp,
}

impl Refusals {
    /// So many rows are not there: the next one that is written tells.
    fn unwritten(&self, count: u64) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.unrecorded = pace.unrecorded.saturating_add(count);
    }

    /// Whether one more is written; then how many before it were not.
    fn admit(&self, now: Timestamp) -> Option<u64> {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let step = Duration::from_secs(1) / Refusal::PER_SECOND_MAX;
        // A clock that went back must not shut it for longer than a burst takes.
        let burst = step.saturating_mul(Refusal::PER_SECOND_MAX);
        pace.full_at = pace.full_at.max(now).min(now.plus(burst));
        let full_at = pace.full_at.plus(step);
        let is_busy = self.under_way.load(Ordering::Relaxed) >= Refusal::PER_SECOND_MAX as usize;
        if is_busy || full_at > now.plus(burst) {
            pace.unrecorded = pace.unrecorded.saturating_add(1);
            if pace.told_at > now || now.since(pace.told_at) >= Duration::from_secs(1) {
                pace.told_at = now;
                let unrecorded = pace.unrecorded;
                tracing::warn!(unrecorded, "too many refusals to write each to the audit log");
            }
            return None;
        }
        pace.full_at = full_at;
        Some(std::mem::take(&mut pace.unrecorded))
    }
}

/// One that is under way, until it is dropped.
#[derive(Debug)]
struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_micros(1_768_564_800_000_000).plus(Duration::from_millis(millis))
    }

    #[test]
    fn a_burst_is_written_and_then_so_many_a_second() {
        let refusals = Refusals::default();
        let burst = (0..1_000).filter(|_| refusals.admit(at(0)).is_some()).count();
        assert_eq!(burst, 50);
        assert_eq!(refusals.admit(at(10)), None);
        // The next one tells of those that were left out.
        assert_eq!(refusals.admit(at(20)), Some(951));
        assert_eq!(refusals.admit(at(40)), Some(0));
        let second = (1..=1_000).filter(|n| refusals.admit(at(40 + n)).is_some()).count();
        assert_eq!(second, 50);
    }

    #[test]
    fn a_clock_that_goes_back_shuts_it_no_longer_than_a_burst() {
        let refusals = Refusals::default();
        for _ in 0..100 {
            refusals.admit(at(3_600_000));
        }
        assert_eq!(refusals.admit(at(0)), None);
        assert_eq!(refusals.admit(at(20)), Some(51));
    }

    #[test]
    fn as_many_as_are_under_way_at_most() {
        let refusals = Refusals::default();
        let slots: Vec<Slot> = (0..50).map(|_| Slot::take(&refusals.under_way)).collect();
        assert_eq!(refusals.admit(at(0)), None);
        drop(slots);
        assert_eq!(refusals.admit(at(0)), Some(1));
    }
}
