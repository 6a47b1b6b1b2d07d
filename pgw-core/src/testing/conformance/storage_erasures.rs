//! Erasure: what a mark is about, what reads give of it, and what the rewriting stores.

use std::sync::Arc;

use bytes::Bytes;

use super::fixture::StorageFixture;
use super::support::{
    RACERS, READS, apply, at_once, commit_at_once, conflict_on, created, paid, payment, registered,
    replacing, replayed, secs,
};
use crate::changes::{Changes, Committed, Guard, Write};
use crate::id::DeliveryId;
use crate::idempotency::StoredAnswer;
use crate::page::{PageFrom, PageRequest};
use crate::payment::{Failure, OperationKind, OperationState, PaymentState};
use crate::privacy::{Erasure, ErasureProgress, ErasureState, Redaction};
use crate::queue::Job;
use crate::representation;
use crate::storage::{DueWork, PaymentFilter, Storage, StorageError};
use crate::testing::sample::{Creation, Samples};
use crate::text::{CustomerId, Reason};
use crate::timestamp::Timestamp;
use crate::webhook::{Attempt, AttemptOutcome, DeliveryState};

/// "An erasure and how far it is", in its own scope only.
pub async fn an_erasure_comes_back(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(1));
    let erasure = erased(&*storage, &samples, "cust_1").await;
    let expected = ErasureProgress {
        done_at: Some(erasure.requested_at),
        erasure: erasure.clone(),
        payments: 0,
        payments_redacted: 0,
    };
    assert_eq!(progress(&*storage, &erasure).await, expected, "it marked nothing: it is done");
    assert_eq!(expected.state(), ErasureState::Done);
    for foreign in samples.foreign() {
        assert_eq!(storage.erasure(&foreign, erasure.id).await.expect(READS), None);
        let page = storage.erasures(&foreign, None, PageRequest::default()).await.expect(READS);
        assert_eq!(page.data, [], "another scope lists it");
    }
    let unknown = samples.erasure(&customer("cust_1"), 9).id;
    assert_eq!(storage.erasure(samples.scope(), unknown).await.expect(READS), None);
}

/// "Erasures, newest first, of one customer or of all", in pages that fit together.
pub async fn erasures_are_newest_first(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(2));
    let mut all = Vec::new();
    for name in ["cust_1", "cust_2", "cust_1"] {
        let before = all.iter().filter(|e: &&Erasure| e.customer == digest(name)).count();
        let erasure = samples.erasure(&customer(name), before as u64 + 1);
        apply(&*storage, erasing(&erasure, name)).await;
        all.insert(0, erasure);
    }
    let read = async |of: Option<&str>, page| {
        let page = storage.erasures(samples.scope(), of.map(digest), page).await.expect(READS);
        let ids: Vec<_> = page.data.into_iter().map(|progress| progress.erasure).collect();
        (ids, page.next_cursor)
    };
    assert_eq!(read(None, PageRequest::default()).await.0, all);
    assert_eq!(
        read(Some("cust_1"), PageRequest::default()).await.0,
        [all[0].clone(), all[2].clone()]
    );
    assert_eq!(read(Some("cust_3"), PageRequest::default()).await.0, []);
    let (first, next) = read(None, PageRequest::first(2)).await;
    let next = PageRequest::first(2).with_from(PageFrom::After(next.expect("there is more")));
    let (rest, end) = read(None, next).await;
    assert_eq!(([first, rest].concat(), end), (all, None));
}

/// "The customer was erased this many times": no more, no less, and in its own scope.
pub async fn a_customer_guard_counts_its_erasures(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(3));
    let guard = |erasures| Guard::Customer { customer: digest("cust_1"), erasures };
    let guarded = |erasures| Changes::new(samples.scope().clone()).guard(guard(erasures));
    apply(&*storage, guarded(0)).await;
    conflict_on(&*storage, guarded(1), &guard(1)).await;
    for count in 1..=2 {
        let erasure = samples.erasure(&customer("cust_1"), count);
        apply(&*storage, erasing(&erasure, "cust_1")).await;
        apply(&*storage, guarded(count)).await;
        conflict_on(&*storage, guarded(count - 1), &guard(count - 1)).await;
        conflict_on(&*storage, erasing(&erasure, "cust_1"), &guard(count - 1)).await;
    }
    for foreign in samples.foreign() {
        apply(&*storage, Changes::new(foreign).guard(guard(0))).await;
    }
    let other = Guard::Customer { customer: digest("cust_2"), erasures: 0 };
    apply(&*storage, Changes::new(samples.scope().clone()).guard(other)).await;
}

/// "Of concurrent commits with one guard, at most one is applied": one customer is erased once.
pub async fn of_concurrent_erasures_one_is_applied(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(4));
    created(&*storage, &samples).await;
    let racers = (0..RACERS).map(|_| erasing(&samples.erasure(&customer("cust_1"), 1), "cust_1"));
    let racers: Vec<Changes> = racers.collect();
    let results = commit_at_once(&storage, racers).await;
    let applied = results.iter().filter(|it| matches!(it, Ok(Committed::Applied { .. })));
    assert_eq!(applied.count(), 1, "{results:?}");
    let others = results.iter().filter(|it| matches!(it, Err(StorageError::Conflict(_))));
    assert_eq!(others.count(), RACERS - 1, "{results:?}");
    let page = storage.erasures(samples.scope(), None, PageRequest::default()).await;
    let all = page.expect(READS).data;
    assert_eq!((all.len(), all[0].payments), (1, 1));
}

/// "Whatever a read, a replay or `due` gives of a marked payment is what `Redaction` makes of it."
pub async fn a_marked_payment_is_read_redacted(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(5));
    let person = Person::new(&*storage, &samples).await;
    person.is_shown(&*storage, &samples, None).await;
    let erasure = erased(&*storage, &samples, "cust_1").await;
    person.is_shown(&*storage, &samples, Some(Redaction::of(erasure.id))).await;
}

/// "`redact_payments` stores what reads give already."
pub async fn a_rewritten_payment_is_read_as_before(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(6));
    let mut person = Person::new(&*storage, &samples).await;
    let erasure = erased(&*storage, &samples, "cust_1").await;
    assert_eq!(redact(&*storage, &samples, 10).await, 1);
    person.state.payment.version += 1;
    person.is_shown(&*storage, &samples, Some(Redaction::of(erasure.id))).await;
    assert_eq!(redact(&*storage, &samples, 10).await, 0, "it is done");
    person.is_shown(&*storage, &samples, Some(Redaction::of(erasure.id))).await;
}

/// "Marks every payment that names the customer": not those of others, of nobody, or of another scope.
pub async fn a_mark_is_about_one_customer_of_one_scope(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(7));
    let mut others = Vec::new();
    for name in [Some("cust_2"), Some("cust_11"), None] {
        let mut other = samples.creation();
        other.payment.customer.id = name.map(customer);
        apply(&*storage, other.changes()).await;
        others.push(other);
    }
    for foreign in samples.foreign() {
        others.push(created(&*storage, &samples.of(foreign)).await);
    }
    let own = created(&*storage, &samples).await;
    let erasure = erased(&*storage, &samples, "cust_1").await;
    assert_eq!(redact(&*storage, &samples, 10).await, 1);
    for other in others {
        assert_eq!(payment(&*storage, &other).await, other.payment);
    }
    let found = payment(&*storage, &own).await.customer;
    assert_eq!(found, Redaction::of(erasure.id).customer());
}

/// "What is committed later under the same name is not marked."
pub async fn a_payment_created_after_the_mark_is_not_marked(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(8));
    created(&*storage, &samples).await;
    erased(&*storage, &samples, "cust_1").await;
    let later = created(&*storage, &samples).await;
    assert_eq!(payment(&*storage, &later).await, later.payment);
    assert_eq!(redact(&*storage, &samples, 10).await, 1);
    assert_eq!(payment(&*storage, &later).await, later.payment);
    let again = samples.erasure(&customer("cust_1"), 2);
    apply(&*storage, erasing(&again, "cust_1")).await;
    assert_eq!(progress(&*storage, &again).await.payments, 1, "what was new since");
    let found = payment(&*storage, &later).await.customer;
    assert_eq!(found, Redaction::of(again.id).customer());
}

/// "A filter by its customer does not find it"; the name it is given finds it once it is rewritten.
pub async fn a_marked_payment_is_not_found_by_its_customer(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(9));
    let own = created(&*storage, &samples).await;
    let found = async |customer| {
        let filter = PaymentFilter { customer: Some(customer), ..PaymentFilter::default() };
        let page = storage.payments(samples.scope(), &filter, PageRequest::default()).await;
        page.expect(READS).data.into_iter().map(|payment| payment.id).collect::<Vec<_>>()
    };
    assert_eq!(found(customer("cust_1")).await, [own.payment.id]);
    let erasure = erased(&*storage, &samples, "cust_1").await;
    assert_eq!(found(customer("cust_1")).await, []);
    redact(&*storage, &samples, 10).await;
    assert_eq!(found(customer("cust_1")).await, []);
    let pseudonym = CustomerId::of_erasure(erasure.id).expect("ids of erasures are such texts");
    assert_eq!(found(pseudonym).await, [own.payment.id]);
}

/// "… whatever is written of it": a commit that was planned from older rows.
pub async fn what_is_written_of_a_marked_payment_is_read_redacted(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(10));
    let mut person = Person::new(&*storage, &samples).await;
    let erasure = erased(&*storage, &samples, "cust_1").await;
    person.state.payment = samples.touched(&person.state.payment);
    apply(&*storage, replacing(&person.state.payment)).await;
    person.is_shown(&*storage, &samples, Some(Redaction::of(erasure.id))).await;
    assert_eq!(redact(&*storage, &samples, 10).await, 1);
    person.state.payment.version += 1;
    person.is_shown(&*storage, &samples, Some(Redaction::of(erasure.id))).await;
}

/// "The payment's version and those of its pending deliveries go up by one, so that nothing which was planned from older rows can be
/// committed."
pub async fn what_was_planned_before_the_rewriting_conflicts(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(11));
    let ends = [samples.endpoint(), samples.endpoint()];
    let [waiting, heard] = ends.map(|endpoint| {
        let storage = Arc::clone(&storage);
        async move { registered(&*storage, endpoint).await }
    });
    let (waiting, heard) = (waiting.await, heard.await);
    let own = created(&*storage, &samples).await;
    let id = |endpoint| DeliveryId::new(own.event.id, endpoint);
    let read = async |id| {
        let work = storage.delivery(samples.scope(), id).await.expect(READS);
        work.expect("it was made with its event").delivery
    };
    let mut done = read(id(heard.id)).await;
    (done.state, done.version) = (DeliveryState::Delivered, 2);
    let delivered = Changes::new(samples.scope().clone())
        .write(Write::Delivery { delivery: Box::new(done.clone()), due_in: None });
    apply(&*storage, delivered).await;
    let pending = read(id(waiting.id)).await;
    erased(&*storage, &samples, "cust_1").await;
    redact(&*storage, &samples, 10).await;
    let older = Guard::Payment { id: own.payment.id, version: 1 };
    conflict_on(&*storage, replacing(&samples.touched(&own.payment)), &older).await;
    let older = Guard::Delivery { id: pending.id, version: pending.version };
    let attempted = Changes::new(samples.scope().clone())
        .guard(older.clone())
        .write(Write::Attempt(Box::new(samples.attempt(pending.id, 1))));
    conflict_on(&*storage, attempted, &older).await;
    assert_eq!(read(pending.id).await.version, pending.version + 1);
    assert_eq!(read(done.id).await, done, "nothing can be under way for it");
}

/// "Nothing becomes due by it, and no claim ends": what was due is due, what was not is not, when it was.
pub async fn rewriting_moves_no_due_time(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(12));
    let endpoint = registered(&*storage, samples.endpoint()).await;
    let mut later = samples.creation();
    later.due_in = Some(secs(60));
    apply(&*storage, later.changes()).await;
    let settled = paid(&*storage, &samples).await;
    erased(&*storage, &samples, "cust_1").await;
    assert_eq!(redact(&*storage, &samples, 10).await, 2);
    let is_due = async |job: Job| storage.due(&job).await.expect(READS).is_some();
    assert!(!is_due(later.job()).await, "its delay is not over");
    assert!(!is_due(settled.job()).await, "it has none");
    let delivery = DeliveryId::new(later.event.id, endpoint.id);
    assert!(is_due(Job::Delivery { scope: samples.scope().clone(), delivery }).await);
    fixture.advance(secs(61)).await;
    assert!(is_due(later.job()).await, "its delay is over");
    assert!(!is_due(settled.job()).await, "it has none");
}

/// "Rewrites up to `limit` marked payments of any merchant; says how many", and the erasure says how far it is.
pub async fn rewriting_is_limited_and_counted(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(13));
    let mut erasures = Vec::new();
    let mut scopes = samples.foreign().to_vec();
    scopes.push(samples.scope().clone());
    for scope in scopes {
        let samples = samples.of(scope);
        for _ in 0..3 {
            created(&*storage, &samples).await;
        }
        erasures.push(erased(&*storage, &samples, "cust_1").await);
    }
    for erasure in &erasures {
        let progress = progress(&*storage, erasure).await;
        assert_eq!((progress.payments, progress.payments_redacted), (3, 0));
        assert_eq!((progress.state(), progress.done_at), (ErasureState::Marked, None));
    }
    assert_eq!(redact(&*storage, &samples, 0).await, 0);
    let mut last = samples.now();
    for (limit, expected, left) in [(4, 4, 5), (4, 4, 1), (4, 1, 0), (4, 0, 0)] {
        let now = samples.now();
        let count = storage.redact_payments(now, limit).await.expect(READS);
        assert_eq!(count, expected);
        if count > 0 {
            last = now;
        }
        let mut waiting = 0;
        for erasure in &erasures {
            let progress = progress(&*storage, erasure).await;
            waiting += progress.payments - progress.payments_redacted;
            let is_done = progress.payments == progress.payments_redacted;
            assert_eq!(progress.state() == ErasureState::Done, is_done);
        }
        assert_eq!(waiting, left);
    }
    let mut ends = Vec::new();
    for erasure in &erasures {
        ends.push(progress(&*storage, erasure).await.done_at.expect("all of them are done"));
    }
    assert_eq!(ends.into_iter().max(), Some(last), "the last one was done at the last call");
}

/// "Any number of callers at once": each payment is rewritten by one of them.
pub async fn concurrent_rewriters_share_the_work(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(14));
    let mut all = Vec::new();
    for _ in 0..12 {
        all.push(created(&*storage, &samples).await);
    }
    let erasure = erased(&*storage, &samples, "cust_1").await;
    let at = samples.now();
    let counts = at_once((0..6).map(|_| {
        let storage = Arc::clone(&storage);
        async move {
            let mut count = 0;
            loop {
                match storage.redact_payments(at, 2).await.expect(READS) {
                    0 => return count,
                    some => count += some,
                }
            }
        }
    }))
    .await;
    // One that finds nothing but what others are at goes home, so the rest may be theirs.
    let rest = storage.redact_payments(at, 100).await.expect(READS);
    assert_eq!(counts.into_iter().sum::<usize>() + rest, all.len());
    assert_eq!(progress(&*storage, &erasure).await.done_at, Some(at));
    for own in all {
        assert_eq!(payment(&*storage, &own).await.version, 2, "once");
    }
}

/// A payment with something personal wherever there can be, and every way to read it.
struct Person {
    creation: Creation,
    state: PaymentState,
    claim: Changes,
    answer: StoredAnswer,
    delivery: DeliveryId,
    attempt: Attempt,
    body: Bytes,
}

impl Person {
    async fn new(storage: &dyn Storage, samples: &Samples) -> Self {
        let endpoint = registered(storage, samples.endpoint()).await;
        let mut creation = samples.paid();
        creation.due_in = Some(secs(0));
        creation.payment.failure = Some(Failure::new("card_declined", "Lovelace's card"));
        creation.charge.failure = Some(Failure::new("card_declined", "Lovelace's card"));
        let shown = String::from_utf8(representation::payment(&creation.payment));
        let shown = shown.expect("JSON is UTF-8");
        let body = format!(r#"{{"id":"{}","data":{{"object":{shown}}}}}"#, creation.event.id);
        creation.event.body = body.clone().into();
        let answer = StoredAnswer { status: 201, body: shown.into() };
        let mut claim = samples.claim(creation.target());
        claim.answer = Some(answer.clone());
        let claim = creation.keyed(claim);
        apply(storage, claim.clone()).await;
        let mut refund = samples.operation(&creation.payment, OperationKind::Refund);
        refund.state = OperationState::Failed;
        refund.reason = Some(Reason::parse("Lovelace asked").expect("a valid text"));
        let delivery = DeliveryId::new(creation.event.id, endpoint.id);
        let mut attempt = samples.attempt(delivery, 1);
        let echo = "hello Lovelace".into();
        attempt.outcome = AttemptOutcome::Answered { status: 500, body_start: echo };
        let payment = samples.touched(&creation.payment);
        let changes = replacing(&payment)
            .write(Write::Operation { operation: Box::new(refund.clone()), due_in: None })
            .write(Write::Attempt(Box::new(attempt.clone())));
        apply(storage, changes).await;
        let operations = vec![creation.charge.clone(), refund];
        storage.stamp_events(10).await.expect(READS);
        let state = PaymentState { payment, operations };
        Self { creation, state, claim, answer, delivery, attempt, body: body.into() }
    }

    /// Asserts what every read gives: the rows as they are, or what a redaction makes of them.
    async fn is_shown(
        &self,
        storage: &dyn Storage,
        samples: &Samples,
        redaction: Option<Redaction>,
    ) {
        let (scope, id) = (samples.scope(), self.state.payment.id);
        let (mut state, mut attempt) = (self.state.clone(), self.attempt.clone());
        let (mut body, mut answer) = (self.body.clone(), self.answer.clone());
        if let Some(redaction) = redaction {
            redaction.state(&mut state);
            redaction.attempt(&mut attempt);
            (body, answer) = (redaction.body(&body), redaction.answer(&answer));
            let shown = [
                representation::payment(&state.payment),
                representation::refund(scope, &state.operations[1]),
                representation::attempt(&attempt),
                body.to_vec(),
                answer.body.to_vec(),
            ];
            let shown = String::from_utf8_lossy(&shown.concat()).to_lowercase();
            assert!(
                !shown.contains("lovelace") && !shown.contains("ada@") && !shown.contains("cust_1"),
                "{shown}"
            );
        }
        let page = PageRequest::default();
        assert_eq!(storage.payment(scope, id).await.expect(READS), Some(state.clone()));
        let of = storage.payment_of(scope, self.creation.charge.id).await.expect(READS);
        assert_eq!(of, Some(state.clone()));
        let listed = storage.payments(scope, &PaymentFilter::default(), page).await.expect(READS);
        assert_eq!(listed.data, [state.payment.clone()]);
        let refunds = storage.refunds(scope, None, page).await.expect(READS).data;
        assert_eq!(refunds, state.operations[1..]);
        let refunds = storage.refunds(scope, Some(id), page).await.expect(READS).data;
        assert_eq!(refunds, state.operations[1..]);
        let events = storage.payment_events(scope, id, 0, 10).await.expect(READS);
        assert_eq!(events.into_iter().map(|event| event.body).collect::<Vec<_>>(), [body.clone()]);
        let feed = storage.feed(scope, 0, 10).await.expect(READS);
        assert_eq!(feed.into_iter().map(|event| event.body).collect::<Vec<_>>(), [body.clone()]);
        let attempts = storage.attempts(scope, self.delivery, 10).await.expect(READS);
        assert_eq!(attempts, [attempt]);
        let work = storage.delivery(scope, self.delivery).await.expect(READS);
        assert_eq!(work.expect("it is there").event.body, body);
        self.is_due(storage, &state, &body).await;
        self.is_replayed(storage, &answer).await;
    }

    async fn is_due(&self, storage: &dyn Storage, state: &PaymentState, body: &Bytes) {
        let scope = self.state.payment.scope.clone();
        let jobs = [self.creation.job(), Job::Delivery { scope, delivery: self.delivery }];
        let together = storage.due_all(&jobs).await.expect(READS);
        for (job, found) in jobs.iter().zip(together) {
            for found in [storage.due(job).await.expect(READS), found] {
                match found {
                    Some(DueWork::Operation(found)) => assert_eq!(*found, *state),
                    Some(DueWork::Delivery(work)) => assert_eq!(work.event.body, *body),
                    other => panic!("it is due and not parked, got {other:?}"),
                }
            }
        }
    }

    async fn is_replayed(&self, storage: &dyn Storage, answer: &StoredAnswer) {
        let claim = self.claim.claim.clone().expect("it was created under a key");
        let record = storage.key(&self.state.payment.scope, &claim.key).await.expect(READS);
        let record = record.expect("it is claimed").claim;
        assert_eq!(record.answer.as_ref(), Some(answer));
        assert_eq!(record.fingerprint, claim.fingerprint, "the same request is told apart still");
        replayed(storage, self.claim.clone(), claim.target, answer).await;
    }
}

pub(super) fn customer(name: &str) -> CustomerId {
    CustomerId::parse(name).expect("a valid id")
}

pub(super) fn digest(name: &str) -> crate::privacy::CustomerDigest {
    Samples::digest(&customer(name))
}

/// The commit that erases a customer, guarded by how often it was erased before.
fn erasing(erasure: &Erasure, name: &str) -> Changes {
    let erasures = erasure.number - 1;
    Changes::new(erasure.scope.clone())
        .guard(Guard::Customer { customer: erasure.customer, erasures })
        .write(Write::Erase { erasure: Box::new(erasure.clone()), customer: customer(name) })
}

pub(super) async fn erased(storage: &dyn Storage, samples: &Samples, name: &str) -> Erasure {
    let erasure = samples.erasure(&customer(name), 1);
    apply(storage, erasing(&erasure, name)).await;
    erasure
}

async fn progress(storage: &dyn Storage, erasure: &Erasure) -> ErasureProgress {
    let found = storage.erasure(&erasure.scope, erasure.id).await.expect(READS);
    found.expect("the erasure must be there")
}

async fn redact(storage: &dyn Storage, samples: &Samples, limit: usize) -> usize {
    let at: Timestamp = samples.now();
    storage.redact_payments(at, limit).await.expect(READS)
}
