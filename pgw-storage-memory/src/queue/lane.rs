//! The jobs of one lane by when they are due, those of each endpoint together: what waits for an endpoint that has enough out costs no claim
//! a look.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pgw_core::id::EndpointId;
use pgw_core::queue::{Depth, Job, PER_ENDPOINT_MAX};
use pgw_core::scope::Scope;
use pgw_core::timestamp::Timestamp;

/// When something is due or ends, and the number of its job.
pub(super) type Place = (Timestamp, u64);

/// A job that is not buried is either held here or waits in its group.
#[derive(Debug, Default)]
pub(super) struct LaneIndex {
    /// None of them is empty.
    groups: BTreeMap<Owner, Group>,
    /// The first that waits in each group with room.
    open: BTreeSet<Place>,
    /// By when their leases end.
    held: BTreeSet<Place>,
    pub(super) buried: u64,
}

/// Whose deliveries share a bound. All operations are in one group, which has none.
type Owner = Option<(Scope, EndpointId)>;

#[derive(Debug, Default)]
struct Group {
    /// By when they are due; those whose leases ran out too, as due since then.
    waiting: BTreeSet<Place>,
    held: usize,
}

impl LaneIndex {
    /// Adds a job that waits.
    pub(super) fn wait(&mut self, job: &Job, due: Place) {
        self.change(job, |group| {
            group.waiting.insert(due);
        });
    }

    /// Adds a job that is held, whether or not there is room for it.
    pub(super) fn hold(&mut self, job: &Job, until: Place) {
        self.held.insert(until);
        self.change(job, |group| group.held += 1);
    }

    /// Takes out a job that waits since then or is held until then.
    pub(super) fn remove(&mut self, job: &Job, place: Place) {
        let was_held = self.held.remove(&place);
        self.change(job, |group| {
            if was_held {
                group.held -= 1;
            } else {
                group.waiting.remove(&place);
            }
        });
    }

    /// Lets the jobs wait whose leases ran out. Each lease ends once, so that claims together do no more of it than they gave out.
    pub(super) fn end_leases<'j>(&mut self, now: Timestamp, job_of: impl Fn(u64) -> &'j Job) {
        while let Some(ended) = self.held.first().copied().filter(|(until, _)| *until <= now) {
            let job = job_of(ended.1);
            self.remove(job, ended);
            self.wait(job, ended);
        }
    }

    /// Of the jobs for which there is room, the one that has been due for longest.
    pub(super) fn first_due(&self, now: Timestamp) -> Option<Place> {
        self.open.first().copied().filter(|(due_at, _)| *due_at <= now)
    }

    pub(super) fn depth(&self, now: Timestamp) -> Depth {
        let count = |set: &BTreeSet<Place>| set.range(..=(now, u64::MAX)).count();
        let first = |set: &BTreeSet<Place>| set.first().map(|(at, _)| *at);
        let lost = count(&self.held);
        let (mut ready, mut delayed, mut oldest) = (lost, 0, first(&self.held));
        for Group { waiting, .. } in self.groups.values() {
            let due = count(waiting);
            ready += due;
            delayed += waiting.len() - due;
            oldest = earlier(oldest, first(waiting));
        }
        Depth {
            ready: ready as u64,
            delayed: delayed as u64,
            in_flight: (self.held.len() - lost) as u64,
            dead: self.buried,
            oldest: oldest.map_or(Duration::ZERO, |oldest| now.since(oldest)),
        }
    }

    /// Changes the group of a job, and what says of it that it has room.
    fn change(&mut self, job: &Job, change: impl FnOnce(&mut Group)) {
        let (owner, bound) = match job {
            Job::Delivery { scope, delivery } => {
                (Some((scope.clone(), delivery.endpoint())), PER_ENDPOINT_MAX)
            }
            _ => (None, usize::MAX),
        };
        let group = self.groups.entry(owner.clone()).or_default();
        let before = group.first_with_room(bound);
        change(group);
        let after = group.first_with_room(bound);
        if group.waiting.is_empty() && group.held == 0 {
            self.groups.remove(&owner);
        }
        if before != after {
            if let Some(before) = before {
                self.open.remove(&before);
            }
            self.open.extend(after);
        }
    }
}

impl Group {
    fn first_with_room(&self, bound: usize) -> Option<Place> {
        self.waiting.first().copied().filter(|_| self.held < bound)
    }
}

pub(super) fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
