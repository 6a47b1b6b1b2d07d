//! The audit log: filters, ranges, the chains of seals, and where both end.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use super::StorageFixture;
use super::support::{READS, apply, commit_at_once, conflict_on};
use crate::access::{
    Actor, AuditAction, AuditObject, AuditOutcome, AuditRow, AuditSeal, AuditTail, Pepper,
    RouteName, SealHead, SealKey,
};
use crate::changes::{Changes, ChangesError, Committed, Guard, Write};
use crate::id::{KeyId, PaymentId};
use crate::page::{Cursor, PageFrom, PageRequest};
use crate::scope::{Mode, Scope};
use crate::storage::{AuditFilter, Storage, StorageError};
use crate::testing::sample::Samples;
use crate::timestamp::Timestamp;

/// "Every other part of the filter is judged row by row": by actor, action, object, outcome and time, and by several at once.
pub async fn audit_rows_are_filtered(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(60));
    let merchant = &samples.scope().merchant;
    let key = Actor::Key(KeyId::mint(samples.env()));
    let route = RouteName::parse("GET /payments/{id}").expect("a valid name");
    let objects = [
        AuditObject::Payment(PaymentId::mint(samples.env())),
        AuditObject::Key(KeyId::mint(samples.env())),
        AuditObject::Route(route),
    ];
    let actors = [Actor::Host, key.clone(), Actor::Anonymous, Actor::Other("host-2".into())];
    let actions = [AuditAction::PaymentCreate, AuditAction::KeyRevoke];
    let outcomes = [AuditOutcome::Success, AuditOutcome::Failure];
    let mut rows = Vec::new();
    for n in 0..24 {
        let row = AuditRow {
            actor: actors[n % actors.len()].clone(),
            action: actions[n / 3 % actions.len()],
            outcome: outcomes[n / 5 % outcomes.len()],
            ..samples.audit_row(objects[n % objects.len()].clone())
        };
        rows.insert(0, row);
    }
    append(&*storage, &samples, &rows).await;
    let none = AuditFilter::default;
    let mut filters = vec![none()];
    filters.extend(actors.iter().cloned().map(|it| AuditFilter { actor: Some(it), ..none() }));
    filters.extend(objects.iter().cloned().map(|it| AuditFilter { object: Some(it), ..none() }));
    filters.extend(actions.map(|action| AuditFilter { action: Some(action), ..none() }));
    filters.extend(outcomes.map(|outcome| AuditFilter { outcome: Some(outcome), ..none() }));
    let (from, before) = (Some(rows[20].at), Some(rows[4].at));
    filters.push(AuditFilter { from, ..none() });
    filters.push(AuditFilter { before, ..none() });
    filters.push(AuditFilter { from, before, actor: Some(key.clone()), ..none() });
    let (action, object) = (Some(actions[1]), Some(objects[1].clone()));
    filters.push(AuditFilter { actor: Some(key), action, object, ..none() });
    let stranger = Actor::Key(KeyId::mint(samples.env()));
    filters.push(AuditFilter { actor: Some(stranger), ..none() });
    for filter in filters {
        let is_within = |row: &&AuditRow| {
            filter.from.is_none_or(|from| row.at >= from)
                && filter.before.is_none_or(|before| row.at < before)
                && filter.matches(row)
        };
        let expected: Vec<AuditRow> = rows.iter().filter(is_within).cloned().collect();
        let page = PageRequest::first(PageRequest::LIMIT_MAX);
        let found = storage.audit(merchant, &filter, page).await.expect(READS);
        assert_eq!(found.data, expected, "{filter:?}");
        assert!(!found.has_more && found.next_cursor.is_none());
    }
}

/// "No page looks at more than [`AuditFilter::LOOK_MAX`] rows", and one that ends for that reason says that there is more and where: in
/// both directions a walk of such pages meets every row that matches, once.
pub async fn a_page_of_the_log_looks_at_so_many_rows_and_says_where_it_got(
    fixture: &dyn StorageFixture,
) {
    let (storage, samples) = (fixture.storage().await, Samples::new(61));
    let merchant = &samples.scope().merchant;
    let object = AuditObject::Payment(PaymentId::mint(samples.env()));
    let mut rows =
        vec![AuditRow { outcome: AuditOutcome::Failure, ..samples.audit_row(object.clone()) }];
    for _ in 0..AuditFilter::LOOK_MAX + 50 {
        rows.push(samples.audit_row(object.clone()));
    }
    append(&*storage, &samples, &rows).await;
    let filter = AuditFilter { outcome: Some(AuditOutcome::Failure), ..AuditFilter::default() };
    let first = storage.audit(merchant, &filter, PageRequest::first(1)).await.expect(READS);
    assert_eq!((first.data.len(), first.has_more), (0, true));
    let place = first.next_cursor.expect("there is more, so it says where");
    // The last that was looked at: so many from the newest.
    let last = &rows[rows.len() - AuditFilter::LOOK_MAX];
    assert_eq!(place, place_of(last));
    let next = PageRequest::first(1).with_from(PageFrom::After(place));
    let next = storage.audit(merchant, &filter, next).await.expect(READS);
    assert_eq!((next.data, next.has_more), (vec![rows[0].clone()], false));

    // And back, from the oldest: the first is the only one that matches.
    let back = PageRequest::first(1).with_from(PageFrom::Before(place_of(&rows[0])));
    let back = storage.audit(merchant, &filter, back).await.expect(READS);
    assert_eq!((back.data.len(), back.has_more), (0, true));
    assert_eq!(back.next_cursor, Some(place_of(&rows[AuditFilter::LOOK_MAX])));
}

/// `audit_rows` gives "those after `after`, up to `through` itself, at most `limit`", oldest first, of both modes and one merchant.
pub async fn audit_rows_are_read_by_place(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(62));
    let merchant = &samples.scope().merchant;
    let [foreign, other_mode] = samples.foreign();
    let object = AuditObject::Payment(PaymentId::mint(samples.env()));
    let mut rows: Vec<AuditRow> = (0..10).map(|_| samples.audit_row(object.clone())).collect();
    // Two of one instant, in the order of their ids, and one of the other mode.
    rows[4].at = rows[3].at;
    rows[6].scope = other_mode.clone();
    append(&*storage, &samples, &rows[..6]).await;
    append(&*storage, &samples.of(other_mode), &rows[6..7]).await;
    append(&*storage, &samples, &rows[7..]).await;
    let stranger = samples.of(foreign.clone());
    append(&*storage, &stranger, &[stranger.audit_row(object)]).await;
    rows.sort_by_key(place_of);
    let read = async |after: Option<usize>, through: usize, limit: usize| {
        let after = after.map(|n| place_of(&rows[n]));
        let through = place_of(&rows[through]);
        storage.audit_rows(merchant, after, through, limit).await.expect(READS)
    };
    for (after, through, limit, expected) in [
        (None, 9, 100, 0..10),
        (None, 9, 4, 0..4),
        (None, 0, 100, 0..1),
        (Some(0), 9, 100, 1..10),
        (Some(3), 4, 100, 4..5),
        (Some(2), 3, 100, 3..4),
        (Some(5), 5, 100, 5..5),
        (Some(8), 9, 1, 9..10),
    ] {
        let found = read(after, through, limit).await;
        let found: Vec<_> =
            found.into_iter().map(|logged| (logged.place, logged.row.expect("readable"))).collect();
        let expected: Vec<_> =
            rows[expected].iter().map(|row| (place_of(row), row.clone())).collect();
        assert_eq!(found, expected, "{after:?} {through} {limit}");
    }
    // A place need not be a row's.
    let end = Cursor::new(Timestamp::MAX, Uuid::max());
    assert_eq!(storage.audit_rows(merchant, None, end, 100).await.expect(READS).len(), 10);
}

/// Seals come back as they were written, in the order of their numbers, those above `after`, at most `limit`; "a chain is a merchant's,
/// whichever the mode".
pub async fn seals_come_back(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(63));
    let chain = Chain::new(&samples);
    let mut seals: Vec<AuditSeal> = Vec::new();
    for (n, rows) in [1, 0, 3, AuditSeal::ROWS_MAX].into_iter().enumerate() {
        let seal = chain.seal(seals.last().map(AuditSeal::head), rows);
        let mode = if n % 2 == 0 { Mode::Test } else { Mode::Live };
        apply(&*storage, appending(&seal, mode)).await;
        seals.push(seal);
    }
    let merchant = &samples.scope().merchant;
    for (after, limit, expected) in [(0, 10, 0..4), (0, 2, 0..2), (2, 10, 2..4), (4, 10, 4..4)] {
        let found = storage.audit_seals(merchant, after, limit).await.expect(READS);
        assert!(found == seals[expected.clone()], "{after} {limit}: {found:?}");
    }
    assert_eq!(storage.audit_seals(merchant, u64::MAX, 10).await.expect(READS), []);
    let [foreign, _] = samples.foreign();
    assert_eq!(storage.audit_seals(&foreign.merchant, 0, 10).await.expect(READS), []);
}

/// "The last seal of the merchant's audit log has this number": a guard elsewhere fails, whatever is written.
pub async fn a_chain_of_seals_goes_on_where_it_ends(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(64));
    let chain = Chain::new(&samples);
    let (first, other) = (chain.seal(None, 1), chain.seal(None, 2));
    let second = chain.seal(Some(first.head()), 1);
    let third = chain.seal(Some(second.head()), 1);
    conflict_on(&*storage, appending(&second, Mode::Test), &Guard::Seals { last: 1 }).await;
    apply(&*storage, appending(&first, Mode::Test)).await;
    conflict_on(&*storage, appending(&other, Mode::Test), &Guard::Seals { last: 0 }).await;
    conflict_on(&*storage, appending(&first, Mode::Live), &Guard::Seals { last: 0 }).await;
    conflict_on(&*storage, appending(&third, Mode::Test), &Guard::Seals { last: 2 }).await;
    apply(&*storage, appending(&second, Mode::Test)).await;
    let found = storage.audit_seals(&samples.scope().merchant, 0, 10).await.expect(READS);
    assert_eq!(found, [first, second]);
    // The guard alone, and another merchant's chain.
    let guard = |last| Changes::new(samples.scope().clone()).guard(Guard::Seals { last });
    apply(&*storage, guard(2)).await;
    conflict_on(&*storage, guard(1), &Guard::Seals { last: 1 }).await;
    let [foreign, _] = samples.foreign();
    apply(&*storage, Changes::new(foreign).guard(Guard::Seals { last: 0 })).await;
}

/// "The commit is guarded by the number before", and is of the seal's merchant; otherwise it is refused and writes nothing.
pub async fn a_seal_without_its_guard_is_refused(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(65));
    let seal = Chain::new(&samples).seal(None, 1);
    let write = || Write::Seal(Box::new(seal.clone()));
    let own = Changes::new(samples.scope().clone());
    let [foreign, _] = samples.foreign();
    let of_another = Changes::new(foreign).guard(Guard::Seals { last: 0 });
    for (changes, expected) in [
        (own.clone().write(write()), ChangesError::UnguardedSeal),
        (own.guard(Guard::Seals { last: 1 }).write(write()), ChangesError::UnguardedSeal),
        (of_another.write(write()), ChangesError::ForeignScope),
    ] {
        match storage.commit(changes).await {
            Err(StorageError::Invalid(error)) => assert_eq!(error, expected),
            other => panic!("{expected:?} was expected, got {other:?}"),
        }
    }
    let found = storage.audit_seals(&samples.scope().merchant, 0, 10).await.expect(READS);
    assert_eq!(found, []);
}

/// "Of concurrent commits with one guard, at most one is applied": of many sealers at once one appends, and the others are told that
/// the chain went on.
pub async fn of_concurrent_seals_one_is_applied(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(66));
    let chain = Chain::new(&samples);
    let mut head = None;
    for round in 1..=3 {
        let seals: Vec<AuditSeal> = (0..8).map(|n| chain.seal(head, n)).collect();
        let changes = seals.iter().map(|seal| appending(seal, Mode::Test));
        let (mut applied, mut lost) = (0, 0);
        for result in commit_at_once(&storage, changes).await {
            match result {
                Ok(Committed::Applied { .. }) => applied += 1,
                Err(StorageError::Conflict(Guard::Seals { .. })) => lost += 1,
                other => panic!("a seal is appended or loses, got {other:?}"),
            }
        }
        assert_eq!((applied, lost), (1, 7));
        let found = storage.audit_seals(&samples.scope().merchant, 0, 10).await.expect(READS);
        let last = found.last().expect("one was appended");
        assert!(found.len() == round && seals.contains(last));
        head = Some(last.head());
    }
}

/// `audit_tails` names each merchant that has rows once, "those behind `after`, at most `limit`", with its newest row and the end of its
/// chain.
pub async fn every_log_ends_somewhere(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(67));
    assert_eq!(storage.audit_tails(None, 10).await.expect(READS), []);
    let mut expected: BTreeMap<_, AuditTail> = BTreeMap::new();
    for (n, name) in ["b", "A", "a-1", "a.1", "z"].into_iter().enumerate() {
        let merchant: crate::scope::MerchantId = name.parse().expect("a valid id");
        let own = samples.of(Scope::new(merchant.clone(), Mode::Live));
        let object = AuditObject::Payment(PaymentId::mint(samples.env()));
        let mut rows: Vec<_> = (0..3).map(|_| own.audit_row(object.clone())).collect();
        // The newest is not the last that was written.
        rows[2].at = rows[2].at.minus(Duration::from_secs(3_600));
        append(&*storage, &own, &rows).await;
        let mut head: Option<SealHead> = None;
        for _ in 0..n {
            let seal = Chain::new(&own).seal(head, 1);
            apply(&*storage, appending(&seal, Mode::Test)).await;
            head = Some(seal.head());
        }
        let newest = place_of(&rows[1]);
        expected.insert(merchant.clone(), AuditTail { merchant, head, newest });
    }
    for limit in [1, 2, 5, 10] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let tails = storage.audit_tails(after.as_ref(), limit).await.expect(READS);
            assert!(tails.len() <= limit);
            let Some(last) = tails.last() else { break };
            after = Some(last.merchant.clone());
            found.extend(tails);
        }
        let count = found.len();
        let by_merchant: BTreeMap<_, _> =
            found.into_iter().map(|tail| (tail.merchant.clone(), tail)).collect();
        assert_eq!((count, by_merchant), (5, expected.clone()), "by {limit}");
    }
}

/// Makes seals of a merchant.
struct Chain<'a> {
    samples: &'a Samples,
    key: SealKey,
}

impl<'a> Chain<'a> {
    fn new(samples: &'a Samples) -> Self {
        Self { samples, key: SealKey::of(&Pepper::mint(samples.env())) }
    }

    fn seal(&self, head: Option<SealHead>, rows: usize) -> AuditSeal {
        let object = AuditObject::Payment(PaymentId::mint(self.samples.env()));
        let rows: Vec<AuditRow> =
            (0..rows).map(|_| self.samples.audit_row(object.clone())).collect();
        let place = || Cursor::new(self.samples.now(), self.samples.env().uuid());
        let through = rows.last().map_or_else(place, place_of);
        let sealed = rows.into_iter().map(|row| {
            let logged = crate::access::LoggedRow { place: place_of(&row), row: Some(row) };
            logged.sealed().expect("it can be read")
        });
        let merchant = self.samples.scope().merchant.clone();
        let now = self.samples.now();
        AuditSeal::new(&self.key, merchant, head.as_ref(), through, now, sealed.collect())
    }
}

/// The commit that appends a seal.
fn appending(seal: &AuditSeal, mode: Mode) -> Changes {
    Changes::new(Scope::new(seal.merchant.clone(), mode))
        .guard(Guard::Seals { last: seal.number.saturating_sub(1) })
        .write(Write::Seal(Box::new(seal.clone())))
}

/// Appends rows, as many in a commit as may be.
async fn append(storage: &dyn Storage, samples: &Samples, rows: &[AuditRow]) {
    for rows in rows.chunks(Changes::PARTS_MAX) {
        let mut changes = Changes::new(samples.scope().clone());
        changes.writes = rows.iter().map(|row| Write::Audit(Box::new(row.clone()))).collect();
        apply(storage, changes).await;
    }
}

fn place_of(row: &AuditRow) -> Cursor {
    Cursor::new(row.at, row.id.as_uuid())
}
