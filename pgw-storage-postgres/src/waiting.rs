//! The commits that wait to be put together, and the committers that they wait for.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher as _, RandomState};

use pgw_core::changes::{Changes, Committed, Guard, Write};
use pgw_core::scope::MerchantId;
use pgw_core::storage::StorageError;
use tokio::sync::oneshot;

use crate::group::One;
use crate::handoff::Reserved;

/// A commit, and who waits for it.
pub(crate) struct Item {
    pub(crate) changes: Changes,
    /// Room of a worker here for the operation it begins.
    pub(crate) held: Option<Reserved>,
    pub(crate) answer: oneshot::Sender<Result<Committed, StorageError>>,
}

impl Item {
    pub(crate) fn as_one(&self) -> One<'_> {
        One { changes: &self.changes, held: self.held.as_ref() }
    }

    pub(crate) fn answer(self, mut result: Result<Committed, StorageError>) {
        // Before anybody hears that there is work. Nobody else is told of one that may have been applied: it would wait for its lease.
        let may_be_there =
            matches!(result, Ok(Committed::Applied { .. }) | Err(StorageError::Indeterminate(_)));
        if let Some(held) = self.held.filter(|_| may_be_there) {
            held.hand(self.changes);
            if let Ok(Committed::Applied { are_claimed, .. }) = &mut result {
                *are_claimed = true;
            }
        }
        // Whoever asked may be gone.
        let _ = self.answer.send(result);
    }
}

/// Commits that wait, a line for each merchant, so that nobody waits behind another's rush.
#[derive(Default)]
pub(crate) struct Waiting {
    lines: HashMap<MerchantId, VecDeque<Item>>,
    /// Merchants with a line, in the order of their turns.
    turns: VecDeque<MerchantId>,
    pub(crate) count: usize,
    /// Commits that were taken and are not done.
    in_flight: usize,
    committers: usize,
    /// Committers that wait for the bell and were not called yet.
    pub(crate) lingering: usize,
    /// Those that were called and did not wake yet. Both together are those that wait for the bell, whichever of them hears it.
    pub(crate) called: usize,
}

/// What a committer is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It commits, answers, or looks for more.
    Works,
    /// It waits for the bell.
    Lingers,
    /// Nothing: it is counted no more.
    Left,
}

/// Who takes care of a commit that just came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// One that lingers.
    Wake,
    /// A new one.
    Start,
    /// One that looks for more anyway, once it is done with what it has.
    Nobody,
}

impl Waiting {
    pub(crate) fn push(&mut self, item: Item) {
        let merchant = &item.changes.scope.merchant;
        let line = self.lines.entry(merchant.clone()).or_default();
        if line.is_empty() {
            self.turns.push_back(merchant.clone());
        }
        line.push_back(item);
        self.count += 1;
    }

    /// Calls somebody for the commit that just came, if anybody is to be called.
    pub(crate) const fn call(&mut self, committers_max: usize) -> Call {
        if self.lingering > 0 {
            self.lingering -= 1;
            self.called += 1;
            Call::Wake
        } else if self.committers < committers_max {
            self.committers += 1;
            Call::Start
        } else {
            Call::Nobody
        }
    }

    /// A committer that lingered wakes, by the bell or because its time is over. The bell may be an old one, or meant for another: whoever wakes
    /// first answers a call. It leaves when its time is over and there is nothing, and is counted no more, under the same lock: the next commit must
    /// not take it for one that will look.
    pub(crate) const fn wakes(&mut self, is_over: bool) -> Stage {
        if self.called > 0 {
            self.called -= 1;
            return Stage::Works;
        }
        self.lingering -= 1;
        if !is_over || self.count > 0 {
            return Stage::Works;
        }
        self.committers -= 1;
        Stage::Left
    }

    /// Committers that work, or were called to.
    pub(crate) const fn at_work(&self) -> usize {
        self.committers - self.lingering
    }

    /// So many commits that were taken are done.
    pub(crate) const fn done(&mut self, commits: usize) {
        self.in_flight -= commits;
    }

    /// How many commits one takes: its share of those that wait and those that the others have, so that all have equally many. Whoever took all that
    /// waits would leave the others a few at a time, and a transaction costs much the same for a few.
    pub(crate) fn share(&self, max: usize) -> usize {
        (self.count + self.in_flight).div_ceil(self.at_work().max(1)).min(max)
    }

    /// A committer is gone, which was at this. Says who is to take what was left to it: another that lingers, or, when there is none at all, nobody:
    /// those are given back.
    pub(crate) fn ended(&mut self, stage: Stage) -> (Call, Vec<Item>) {
        match stage {
            Stage::Left => return (Call::Nobody, Vec::new()),
            Stage::Works => {}
            // Which of them was called nobody knows; what counts is how many are left of both.
            Stage::Lingers if self.called > 0 => self.called -= 1,
            Stage::Lingers => self.lingering -= 1,
        }
        self.committers -= 1;
        if self.count == 0 {
            return (Call::Nobody, Vec::new());
        }
        if self.lingering > 0 {
            self.lingering -= 1;
            self.called += 1;
        }
        let mut orphans = Vec::new();
        if self.committers == 0 {
            self.turns.clear();
            self.count = 0;
            orphans.extend(self.lines.drain().flat_map(|(_, line)| line));
        }
        (if self.called > 0 { Call::Wake } else { Call::Nobody }, orphans)
    }

    /// The calling committer's share, up to `max` commits, one of each merchant in turn, no two of them about one payment, delivery or key.
    pub(crate) fn take(&mut self, max: usize, hasher: &RandomState) -> Vec<Item> {
        let max = self.share(max);
        let mut batch = Vec::with_capacity(max.min(self.count));
        let mut bytes = 0;
        let mut subjects = HashSet::new();
        let mut aside: Vec<Item> = Vec::new();
        while batch.len() < max && bytes < BATCH_BYTES_MAX && aside.len() < ASIDE_MAX {
            let Some(merchant) = self.turns.pop_front() else { break };
            let Some(line) = self.lines.get_mut(&merchant) else { continue };
            if let Some(item) = line.pop_front() {
                self.count -= 1;
                let about = subjects_of(&item.changes, hasher);
                if about.iter().any(|subject| subjects.contains(subject)) {
                    aside.push(item);
                } else {
                    subjects.extend(about);
                    bytes += bytes_of(&item.changes);
                    batch.push(item);
                }
            }
            if line.is_empty() {
                self.lines.remove(&merchant);
            } else {
                self.turns.push_back(merchant);
            }
        }
        // Back to the front, in the order they came.
        for item in aside.into_iter().rev() {
            let merchant = item.changes.scope.merchant.clone();
            let line = self.lines.entry(merchant.clone()).or_default();
            if line.is_empty() {
                self.turns.push_front(merchant);
            }
            line.push_front(item);
            self.count += 1;
        }
        self.in_flight += batch.len();
        batch
    }
}

/// What a commit is about, hashed: two that seem to be about the same are only done one after the other.
fn subjects_of(changes: &Changes, hasher: &RandomState) -> Vec<u64> {
    let mut subjects = Vec::with_capacity(changes.guards.len() + 2);
    let scope = &changes.scope;
    for guard in &changes.guards {
        match guard {
            Guard::Payment { id, .. } => subjects.push(hasher.hash_one((scope, id))),
            Guard::Delivery { id, .. } => subjects.push(hasher.hash_one((scope, id))),
            _ => {}
        }
    }
    let mut key = |key: &str| subjects.push(hasher.hash_one((scope, key)));
    if let Some(claim) = &changes.claim {
        key(claim.key.as_str());
    }
    for write in &changes.writes {
        if let Write::Answer { key: answered, .. } = write {
            key(answered.as_str());
        }
    }
    subjects
}

fn bytes_of(changes: &Changes) -> usize {
    let bodies = changes.writes.iter().map(|write| match write {
        Write::Event(event) => event.body.len(),
        Write::Answer { answer, .. } => answer.body.len(),
        _ => 0,
    });
    let claimed = changes.claim.as_ref().and_then(|claim| claim.answer.as_ref());
    bodies.sum::<usize>() + claimed.map_or(0, |answer| answer.body.len())
}

/// A batch ends once its bodies have this many bytes.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// How many commits that must wait for another of the batch are looked past.
const ASIDE_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use pgw_core::scope::{Mode, Scope};

    use super::*;

    /// A commit comes, and nobody waits for its answer.
    fn comes(waiting: &mut Waiting, committers_max: usize) -> Call {
        push(waiting);
        waiting.call(committers_max)
    }

    fn push(waiting: &mut Waiting) {
        let changes = Changes::new(Scope::new(MerchantId::default(), Mode::Test));
        waiting.push(Item { changes, held: None, answer: oneshot::channel().0 });
    }

    /// The commits that came are taken; whoever took them finds no more, and lingers.
    fn lingers(waiting: &mut Waiting) {
        while waiting.count > 0 {
            let taken = waiting.take(100, &RandomState::new()).len();
            waiting.done(taken);
        }
        waiting.lingering += 1;
    }

    #[test]
    fn nobody_is_sent_to_wake_a_committer_that_is_gone() {
        let mut waiting = Waiting::default();
        assert_eq!(comes(&mut waiting, 2), Call::Start);
        lingers(&mut waiting);
        // Its runtime ends while it lingers: it is dropped where it stands.
        assert_eq!(waiting.ended(Stage::Lingers).0, Call::Nobody);
        assert_eq!(comes(&mut waiting, 2), Call::Start);
        lingers(&mut waiting);
        assert_eq!((comes(&mut waiting, 2), comes(&mut waiting, 2)), (Call::Wake, Call::Start));
        assert_eq!(comes(&mut waiting, 2), Call::Nobody);
        assert_eq!(waiting.wakes(true), Stage::Works, "it was called");
    }

    #[test]
    fn a_commit_that_comes_as_the_last_committer_leaves_starts_another() {
        let mut waiting = Waiting::default();
        assert_eq!(comes(&mut waiting, 1), Call::Start);
        lingers(&mut waiting);
        assert_eq!(waiting.wakes(true), Stage::Left);
        // It has left and was not dropped yet.
        assert_eq!(comes(&mut waiting, 1), Call::Start);
        assert!(waiting.ended(Stage::Left).1.is_empty(), "that is for the other");
    }

    #[test]
    fn a_bell_that_rings_late_makes_nobody_linger_twice() {
        let mut waiting = Waiting::default();
        assert_eq!(comes(&mut waiting, 2), Call::Start);
        lingers(&mut waiting);
        // Its time is over as it is called: it takes the commit, and the bell is still to be heard.
        assert_eq!((comes(&mut waiting, 2), waiting.wakes(true)), (Call::Wake, Stage::Works));
        lingers(&mut waiting);
        assert_eq!(waiting.wakes(false), Stage::Works);
        lingers(&mut waiting);
        assert_eq!((waiting.wakes(true), waiting.lingering), (Stage::Left, 0));
        assert_eq!(comes(&mut waiting, 2), Call::Start);
    }

    #[test]
    fn one_that_works_is_not_taken_for_one_that_lingers() {
        let mut waiting = Waiting { committers: 2, lingering: 1, ..Waiting::default() };
        waiting.ended(Stage::Lingers);
        lingers(&mut waiting);
        assert_eq!(waiting.wakes(true), Stage::Left);
        assert_eq!(comes(&mut waiting, 2), Call::Start);
    }

    #[test]
    fn each_committer_has_as_many_commits_as_the_other() {
        let mut waiting = Waiting { committers: 2, ..Waiting::default() };
        let hasher = RandomState::new();
        let takes = |waiting: &mut Waiting, come: usize| {
            for _ in 0..come {
                comes(waiting, 2);
            }
            waiting.take(100, &hasher).len()
        };
        // A rush: the first leaves half of it to the other.
        assert_eq!((takes(&mut waiting, 128), takes(&mut waiting, 0)), (64, 64));
        // Of those of one batch, some are back when it looks, and the rest when the other does: none takes them all.
        waiting.done(64);
        assert_eq!(takes(&mut waiting, 40), 40);
        waiting.done(64);
        assert_eq!(takes(&mut waiting, 24 + 64), 64);
        waiting.done(40);
        assert_eq!(takes(&mut waiting, 40), 64);
        waiting.done(128);
        // The other has nothing to do and was not called: one has all.
        waiting.lingering = 1;
        push(&mut waiting);
        push(&mut waiting);
        assert_eq!(waiting.take(100, &hasher).len(), 2);
    }

    #[test]
    fn what_was_left_to_a_committer_that_is_gone_is_not_forgotten() {
        let mut waiting = Waiting { committers: 3, ..Waiting::default() };
        assert_eq!(comes(&mut waiting, 3), Call::Nobody, "all are at work");
        waiting.lingering = 2;
        assert_eq!(waiting.ended(Stage::Works).0, Call::Wake, "it is for whoever lingers");
        assert_eq!(
            waiting.ended(Stage::Lingers).0,
            Call::Wake,
            "and for the other, if that one is gone too"
        );
        let (_, orphans) = waiting.ended(Stage::Lingers);
        assert_eq!((orphans.len(), waiting.count), (1, 0), "and nobody is left");
        assert_eq!((waiting.lingering, waiting.called), (0, 0));
        assert_eq!(comes(&mut waiting, 1), Call::Start);
    }
}
