//! Operations handed to the workers of the process that commits them: the commit that makes an operation due claims it too, for a worker here
//! that has room and found nothing else to do. So most payments are not looked for, claimed and read in statements of their own.
//!
//! In the database it is a claim as any other. What is lost with the process waits for its lease.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgw_core::changes::{Changes, Guard, Write};
use pgw_core::env::{Env, runtime_after, runtime_now};
use pgw_core::id::OperationId;
use pgw_core::payment::{Fence, PaymentState};
use pgw_core::queue::{Claim, Job};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Where claims wait for whoever asked for them.
#[derive(Default)]
pub(crate) struct Handoff {
    desk: Mutex<Desk>,
    /// Rings when a commit that was to hand something over is over.
    arrived: Notify,
}

#[derive(Default)]
struct Desk {
    asked: Option<Asked>,
    /// When it was last looked for what is due in the database.
    looked_at: Option<Instant>,
    /// Claims of commits that are not over.
    on_their_way: usize,
    ready: VecDeque<Handed>,
    /// The payments of claims given out last, as they were committed, until they are read.
    states: HashMap<OperationId, PaymentState>,
}

impl Desk {
    /// Room that is not promised to what is on its way or waits here.
    fn unpromised(&self, room: usize) -> usize {
        room.saturating_sub(self.on_their_way + self.ready.len())
    }
}

/// What a worker said when it last looked and found all there was.
#[derive(Debug, Clone, Copy)]
struct Asked {
    /// How many more it has room for.
    room: usize,
    lease: Duration,
    at: Instant,
}

struct Handed {
    claim: Claim,
    state: PaymentState,
    /// Until when it is surely held.
    until: Instant,
}

/// What a claim is given from here.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) claims: Vec<Claim>,
    /// How many to look for in the database. None when there is no room, or when many were handed over a moment after somebody looked: those
    /// that finish look again.
    pub(crate) look_for: usize,
    /// Claims that waited here for too long to be sure of: others may have them.
    pub(crate) late: Vec<Claim>,
}

impl Handoff {
    /// A claim for the operation of a new payment, if a worker here has room for it.
    pub(crate) fn reserve(self: &Arc<Self>, changes: &Changes, env: &Env) -> Option<Reserved> {
        if !begins(changes) {
            return None;
        }
        let (now, fence) = (runtime_now(), Fence(env.u64()));
        let mut desk = self.desk();
        let asked = desk.asked.as_mut()?;
        let is_there = now.saturating_duration_since(asked.at) < STAYS;
        if !is_there || asked.room == 0 {
            return None;
        }
        asked.room -= 1;
        let lease = asked.lease;
        desk.on_their_way += 1;
        drop(desk);
        // Half of it is for the commit and the way from here to the worker.
        let until = runtime_after(lease / 2);
        Some(Reserved { handoff: Arc::clone(self), lease, fence, until })
    }

    /// Gives out what is ready, up to `max`, oldest first.
    pub(crate) fn take(&self, max: usize) -> Taken {
        let now = runtime_now();
        let mut desk = self.desk();
        desk.states.clear();
        let (mut claims, mut late) = (Vec::new(), Vec::new());
        while claims.len() < max
            && let Some(handed) = desk.ready.pop_front()
        {
            if handed.until <= now {
                late.push(handed.claim);
                continue;
            }
            if let Job::Operation { operation, .. } = &handed.claim.job {
                desk.states.insert(*operation, handed.state);
            }
            claims.push(handed.claim);
        }
        let room = max - claims.len();
        let free = desk.unpromised(room);
        let just_looked =
            desk.looked_at.is_some_and(|at| now.saturating_duration_since(at) < LOOKS_EVERY);
        let look_for = match &mut desk.asked {
            Some(asked) if just_looked && claims.len() >= MANY => {
                *asked = Asked { room: free, at: now, ..*asked };
                0
            }
            // There was nothing else a moment ago: while somebody looks again, half of the room is for what is committed meanwhile.
            Some(asked) if free > 1 => {
                let look_for = free.div_ceil(2);
                *asked = Asked { room: free - look_for, at: now, ..*asked };
                look_for
            }
            _ => {
                desk.asked = None;
                free
            }
        };
        if look_for > 0 {
            desk.looked_at = Some(now);
        }
        Taken { claims, look_for, late }
    }

    /// A worker found all that is due, and has room for so many more.
    pub(crate) fn ask(&self, room: usize, lease: Duration) {
        let mut desk = self.desk();
        let room = desk.unpromised(room);
        desk.asked = Some(Asked { room, lease, at: runtime_now() });
    }

    /// A worker found as many as it looked for: what is committed now waits for its turn behind those that may be left. How many more to look
    /// for, with room for so many.
    pub(crate) fn found_more(&self, room: usize) -> usize {
        let mut desk = self.desk();
        desk.asked = None;
        desk.unpromised(room)
    }

    /// The payments of claims that were given out just now, for these jobs in their order. They are from the commit that made them, which a
    /// guard on their version finds out when it is no longer so.
    pub(crate) fn states(&self, jobs: &[Job]) -> Vec<Option<PaymentState>> {
        let mut desk = self.desk();
        let state = |job: &Job| match job {
            Job::Operation { operation, .. } => desk.states.remove(operation),
            _ => None,
        };
        jobs.iter().map(state).collect()
    }

    /// Nobody takes anything from here any more: what waits goes back, once the commits that have reserved are over.
    pub(crate) async fn close(&self) -> Vec<Claim> {
        self.desk().asked = None;
        let over = async {
            loop {
                let arrived = self.arrived.notified();
                if self.desk().on_their_way == 0 {
                    return;
                }
                arrived.await;
            }
        };
        // A commit that takes longer than this leaves its claim to its lease.
        let _ = tokio::time::timeout(CLOSES_IN, over).await;
        let mut desk = self.desk();
        desk.states.clear();
        desk.ready.drain(..).map(|handed| handed.claim).collect()
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Handoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the payments that wait here.
        f.debug_struct("Handoff").finish_non_exhaustive()
    }
}

/// A worker's room, held for the operation of one commit.
#[derive(Debug)]
pub(crate) struct Reserved {
    handoff: Arc<Handoff>,
    pub(crate) lease: Duration,
    pub(crate) fence: Fence,
    until: Instant,
}

impl Reserved {
    /// Hands over the operation that was committed, or may have been: of one that was not, the worker finds nothing.
    pub(crate) fn hand(self, changes: Changes) {
        let Changes { scope, writes, .. } = changes;
        let (mut payment, mut operation) = (None, None);
        for write in writes {
            match write {
                Write::Payment(row) => payment = Some(*row),
                Write::Operation { operation: row, .. } => operation = Some(*row),
                _ => {}
            }
        }
        let Some((payment, operation)) = payment.zip(operation) else { return };
        let job = Job::Operation { scope, payment: payment.id, operation: operation.id };
        let claim = Claim { job, fence: self.fence, claims: 1 };
        let state = PaymentState { payment, operations: vec![operation] };
        self.handoff.desk().ready.push_back(Handed { claim, state, until: self.until });
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.handoff.desk().on_their_way -= 1;
        self.handoff.arrived.notify_waiters();
    }
}

/// Whether it creates a payment with one operation that is due now: then all there is to know about it is in the changes.
fn begins(changes: &Changes) -> bool {
    let [Guard::Payment { id: created, version: 0 }] = &changes.guards[..] else { return false };
    let mut operations = changes.writes.iter().filter_map(|write| match write {
        Write::Operation { operation, due_in } => Some((operation, *due_in)),
        _ => None,
    });
    let first = operations.next();
    first.is_some_and(|(first, due_in)| first.payment == *created && due_in == Some(Duration::ZERO))
        && operations.next().is_none()
}

/// How long a worker that asked is taken to be there. One that has nothing to do asks once a second unless it is told otherwise.
const STAYS: Duration = Duration::from_secs(3);
/// How often the database is looked at although there is work at hand: others commit work too, and retries become due.
const LOOKS_EVERY: Duration = Duration::from_millis(10);
/// As many handed over at once are work for a while: that others have some may wait until one of them is done.
const MANY: usize = 16;
/// How long commits are waited for when nobody takes from here any more.
const CLOSES_IN: Duration = Duration::from_secs(1);
