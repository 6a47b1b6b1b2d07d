//! Idempotency keys: one claim for ever, replays with and without an answer, retention of answers.

use std::time::Duration;

use bytes::Bytes;

use super::fixture::StorageFixture;
use super::support::{
    RACERS, READS, apply, commit_at_once, conflict_on, created, in_flight, replacing, replayed,
    reused, untouched, whole,
};
use crate::changes::{Changes, ChangesError, Committed, Guard, Write};
use crate::id::{ConsentId, DeliveryId, EndpointId, EventId, KeyId, PaymentId};
use crate::idempotency::{Fingerprint, IdempotencyKey, KeyClaim, KeyTarget, StoredAnswer};
use crate::storage::{Storage, StorageError};
use crate::testing::sample::{Creation, Samples};
use crate::timestamp::Timestamp;

/// "What a key was claimed for": nothing, before it is claimed.
pub async fn a_key_that_was_never_claimed_is_not_found(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(1));
    assert_eq!(storage.key(samples.scope(), &samples.key()).await.expect(READS), None);
}

/// A claim is "written like a write": with its fingerprint, its target and no answer yet.
pub async fn a_claim_is_recorded(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(2));
    let (creation, claim) = claimed(&*storage, &samples, None).await;
    whole(&*storage, &creation).await;
    assert_eq!(record(&*storage, &samples, &claim.key).await, claim);
}

/// "The answer, when it is known at once", is recorded with the claim.
pub async fn a_claim_is_recorded_with_its_answer(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(3));
    let (_, claim) = claimed(&*storage, &samples, Some(samples.answer())).await;
    assert_eq!(record(&*storage, &samples, &claim.key).await, claim);
}

/// "What a key stands for": an operation, or any other object, alone or beside other writes, and for ever.
pub async fn a_key_stands_for_an_object_of_any_kind(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(30));
    let env = samples.env();
    let targets = [
        KeyTarget::Payment(PaymentId::mint(env)),
        KeyTarget::Endpoint(EndpointId::mint(env)),
        KeyTarget::Delivery(DeliveryId::new(EventId::mint(env), EndpointId::mint(env))),
        KeyTarget::ApiKey(KeyId::mint(env)),
        KeyTarget::Consent(ConsentId::from_uuid(env.uuid())),
        KeyTarget::Found,
    ];
    for (number, target) in targets.into_iter().enumerate() {
        let answer = Some(samples.answer()).filter(|_| number % 2 == 0);
        let claim = KeyClaim { answer, ..samples.claim(target) };
        // Alone, and beside other rows.
        let changes = match number % 3 {
            0 => Changes::new(samples.scope().clone()).claim(Some(claim.clone())),
            _ => samples.creation().changes().claim(Some(claim.clone())),
        };
        apply(&*storage, changes).await;
        assert_eq!(record(&*storage, &samples, &claim.key).await, claim);
        let again = Changes::new(samples.scope().clone()).claim(Some(claim.clone()));
        match &claim.answer {
            Some(answer) => replayed(&*storage, again, target, answer).await,
            None => in_flight(&*storage, again, target).await,
        }
        let other = KeyClaim { fingerprint: bent(claim.fingerprint), ..claim };
        reused(&*storage, Changes::new(samples.scope().clone()).claim(Some(other))).await;
    }
}

/// "A key that was claimed before answers `Replayed`": the answer byte for byte, and nothing is written.
pub async fn the_same_request_again_is_replayed_and_writes_nothing(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(4));
    let answer = samples.answer();
    let (_, claim) = claimed(&*storage, &samples, Some(answer.clone())).await;
    for _ in 0..3 {
        let mut again = samples.creation();
        let changes = again.keyed(KeyClaim { answer: Some(samples.answer()), ..claim.clone() });
        replayed(&*storage, changes, claim.target, &answer).await;
        untouched(&*storage, &again).await;
    }
}

/// "… or `InFlight`": the key was claimed by the same request and there is no answer; nothing is written.
pub async fn the_same_request_again_without_an_answer_is_in_flight(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(5));
    let (_, claim) = claimed(&*storage, &samples, None).await;
    let mut again = samples.creation();
    let changes = again.keyed(KeyClaim { answer: Some(samples.answer()), ..claim.clone() });
    in_flight(&*storage, changes, claim.target).await;
    untouched(&*storage, &again).await;
    assert_eq!(
        record(&*storage, &samples, &claim.key).await,
        claim,
        "the loser changed the record"
    );
}

/// "… and `KeyReused` when it is not" the same fingerprint; nothing is written.
pub async fn another_request_under_the_key_is_refused_and_writes_nothing(
    fixture: &dyn StorageFixture,
) {
    let (storage, samples) = (fixture.storage().await, Samples::new(6));
    let (_, claim) = claimed(&*storage, &samples, Some(samples.answer())).await;
    let mut other = samples.creation();
    let changes = other.keyed(KeyClaim { fingerprint: bent(claim.fingerprint), ..claim.clone() });
    reused(&*storage, changes).await;
    untouched(&*storage, &other).await;
    assert_eq!(
        record(&*storage, &samples, &claim.key).await,
        claim,
        "the loser changed the record"
    );
}

/// "Even when a guard fails too: a replay is a replay whatever has become of the payment since."
pub async fn a_replay_wins_over_a_failed_guard(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(7));
    let answer = samples.answer();
    let (creation, claim) = claimed(&*storage, &samples, Some(answer.clone())).await;
    let same = creation.changes().claim(Some(claim.clone()));
    replayed(&*storage, same.clone(), claim.target, &answer).await;
    apply(&*storage, replacing(&samples.touched(&creation.payment))).await;
    replayed(&*storage, same, claim.target, &answer).await;
}

/// "Even when a guard fails too": a request under way stays so.
pub async fn a_claim_in_flight_wins_over_a_failed_guard(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(8));
    let (creation, claim) = claimed(&*storage, &samples, None).await;
    in_flight(&*storage, creation.changes().claim(Some(claim.clone())), claim.target).await;
}

/// "Even when a guard fails too": another request under the key is told so first.
pub async fn a_reused_key_wins_over_a_failed_guard(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(9));
    let (creation, claim) = claimed(&*storage, &samples, None).await;
    let other = KeyClaim { fingerprint: bent(claim.fingerprint), ..claim };
    reused(&*storage, creation.changes().claim(Some(other))).await;
}

/// "In this order: the guards …; the claim": a commit that fails a guard does not claim its key.
pub async fn a_failed_guard_leaves_the_key_free(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(10));
    let existing = created(&*storage, &samples).await;
    let claim = samples.claim(existing.target());
    let guard = Guard::Payment { id: existing.payment.id, version: 0 };
    conflict_on(&*storage, existing.changes().claim(Some(claim.clone())), &guard).await;
    assert_eq!(
        storage.key(samples.scope(), &claim.key).await.expect(READS),
        None,
        "it was claimed"
    );
    let mut next = samples.creation();
    let changes = next.keyed(KeyClaim { fingerprint: bent(claim.fingerprint), ..claim });
    apply(&*storage, changes).await;
}

/// "In this order: `Changes::check`": a mistake is a mistake even under a key with an answer.
pub async fn a_refused_change_is_not_replayed(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(11));
    let (mut creation, claim) = claimed(&*storage, &samples, Some(samples.answer())).await;
    creation.event.body = Bytes::from(vec![b'x'; Changes::BYTES_MAX + 1]);
    match storage.commit(creation.changes().claim(Some(claim))).await {
        Err(StorageError::Invalid(ChangesError::TooLarge)) => {}
        other => panic!("the changes are too large, got {other:?}"),
    }
}

/// "A write refers to a row that is not there": such a commit does not claim its key either.
pub async fn a_commit_with_a_missing_row_leaves_the_key_free(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(12));
    let mut creation = samples.creation();
    let claim = samples.claim(creation.target());
    let stray = Write::Answer { key: samples.key(), answer: samples.answer() };
    super::support::missing(&*storage, creation.keyed(claim.clone()).write(stray)).await;
    assert_eq!(
        storage.key(samples.scope(), &claim.key).await.expect(READS),
        None,
        "it was claimed"
    );
    apply(&*storage, creation.keyed(claim)).await;
}

/// "Stores the answer of a key that an earlier commit claimed": from then on it is replayed.
pub async fn an_answer_stored_later_is_replayed(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(13));
    let (creation, claim) = claimed(&*storage, &samples, None).await;
    let answer = samples.answer();
    apply(&*storage, answering(&samples, &claim.key, &answer)).await;
    let stored = KeyClaim { answer: Some(answer.clone()), ..claim.clone() };
    assert_eq!(record(&*storage, &samples, &claim.key).await, stored);
    replayed(&*storage, creation.changes().claim(Some(claim.clone())), claim.target, &answer).await;
}

/// "Its scope is merchant and mode": the same key of another merchant or in the other mode is another key.
pub async fn the_same_key_in_another_scope_is_another_key(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(14));
    let (_, claim) = claimed(&*storage, &samples, Some(samples.answer())).await;
    for scope in samples.foreign() {
        let there = samples.of(scope);
        assert_eq!(storage.key(there.scope(), &claim.key).await.expect(READS), None, "it leaks");
        let mut creation = there.creation();
        let target = creation.target();
        let changes = creation.keyed(KeyClaim { target, answer: None, ..claim.clone() });
        apply(&*storage, changes.clone()).await;
        in_flight(&*storage, changes, target).await;
    }
    assert_eq!(record(&*storage, &samples, &claim.key).await, claim, "the first key changed");
}

/// An answer stored in one scope is not the answer of the same key in another.
pub async fn an_answer_is_stored_in_its_own_scope(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(15));
    let (_, claim) = claimed(&*storage, &samples, None).await;
    for scope in samples.foreign() {
        let there = samples.of(scope);
        super::support::missing(&*storage, answering(&there, &claim.key, &there.answer())).await;
    }
    assert_eq!(record(&*storage, &samples, &claim.key).await.answer, None);
}

/// "1–255 visible ASCII characters": every such key is kept as it is, and case matters.
pub async fn every_key_is_kept_as_it_is(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(16));
    let every: String = ('!'..='~').filter(|c| *c != '"').collect();
    let longest = "k".repeat(IdempotencyKey::LEN_MAX);
    for text in ["a", "A", "a'", "a\\", "%", "_", "a%", every.as_str(), longest.as_str()] {
        let key = IdempotencyKey::parse(text).expect("a valid key");
        assert_eq!(storage.key(samples.scope(), &key).await.expect(READS), None, "{text} is taken");
        let mut creation = samples.creation();
        let claim = KeyClaim { key, ..samples.claim(creation.target()) };
        apply(&*storage, creation.keyed(claim.clone())).await;
        assert_eq!(record(&*storage, &samples, &claim.key).await, claim);
    }
}

/// "Of concurrent commits with one key, exactly one": the rest hear of the winner's object.
pub async fn of_concurrent_commits_with_one_key_one_is_applied(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(17));
    let first = samples.loose_claim();
    let creations: Vec<Creation> = (0..RACERS).map(|_| samples.creation()).collect();
    let changes = creations.iter().cloned().map(|mut creation| {
        let target = creation.target();
        creation.keyed(KeyClaim { target, answer: Some(samples.answer()), ..first.clone() })
    });
    let outcomes = commit_at_once(&storage, changes).await;
    let winner = record(&*storage, &samples, &first.key).await;
    let mut applied = 0;
    for outcome in outcomes {
        match outcome {
            Ok(Committed::Applied { .. }) => applied += 1,
            Ok(Committed::Replayed { target, answer }) => {
                assert_eq!(target, winner.target, "a loser hears of another object");
                assert_eq!(Some(answer), winner.answer, "a loser hears another answer");
            }
            other => panic!("a loser must be given the winner's answer, got {other:?}"),
        }
    }
    assert_eq!(applied, 1, "exactly one commit under a key is applied");
    for mut creation in creations {
        if creation.target() == winner.target {
            creation.charge.idempotency_key = Some(first.key.clone());
            whole(&*storage, &creation).await;
        } else {
            untouched(&*storage, &creation).await;
        }
    }
}

/// Of concurrent commits with one key for different requests, one is applied and the rest are refused.
pub async fn of_concurrent_requests_under_one_key_one_is_applied(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(18));
    let key = samples.key();
    let changes: Vec<Changes> = (0..RACERS)
        .map(|_| {
            let mut creation = samples.creation();
            let claim = KeyClaim { key: key.clone(), ..samples.claim(creation.target()) };
            creation.keyed(claim)
        })
        .collect();
    let mut applied = 0;
    for outcome in commit_at_once(&storage, changes).await {
        match outcome {
            Ok(Committed::Applied { .. }) => applied += 1,
            Err(StorageError::KeyReused) => {}
            other => panic!("a loser asked for something else: KeyReused, got {other:?}"),
        }
    }
    assert_eq!(applied, 1, "exactly one commit under a key is applied");
}

/// "The body, byte for byte": any bytes, none and many.
pub async fn an_answer_is_kept_byte_for_byte(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(19));
    let all: Vec<u8> = (0..=255).collect();
    for body in [Vec::new(), b"{ \"b\" : 1,\n\"a\":1.0}".to_vec(), all, vec![b'x'; 300_000]] {
        let answer = StoredAnswer { status: 599, body: Bytes::from(body) };
        let (creation, claim) = claimed(&*storage, &samples, Some(answer.clone())).await;
        let same = creation.changes().claim(Some(claim.clone()));
        replayed(&*storage, same, claim.target, &answer).await;
    }
}

/// "May share memory with an event's body": an answer that is the object of an event of its commit, as a creation's is, is kept, replayed,
/// replaced and purged like any other; and one that an event only begins or ends like is no less.
pub async fn an_answer_that_an_event_tells_is_kept_like_any_other(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(31));
    let told = |body: &str, answer: &str| (body.to_owned(), answer.to_owned());
    for (body, answer) in [
        told(r#"{"data":{"object":{"a":"ä"}}}"#, r#"{"a":"ä"}"#),
        told(r#"{"data":{"object":{"a":"ä"}}}"#, r#"{"a":"ä"}}}"#),
        told(r#"{"data":{"object":{}}}"#, ""),
        told("}}", ""),
        told("", ""),
        told(r#"{"data":{"object":{"a":1}}} "#, r#"{"a":1}"#),
    ] {
        let mut creation = samples.creation();
        creation.event.body = Bytes::from(body.clone());
        let answer = StoredAnswer { status: 201, body: Bytes::from(answer) };
        let claim = KeyClaim { answer: Some(answer.clone()), ..samples.claim(creation.target()) };
        // The operation names its key, and does not.
        let named = creation.keyed(claim.clone());
        apply(&*storage, named.clone()).await;
        assert_eq!(record(&*storage, &samples, &claim.key).await, claim, "{body}");
        replayed(&*storage, named.clone(), claim.target, &answer).await;
        let other = samples.answer();
        apply(&*storage, answering(&samples, &claim.key, &other)).await;
        replayed(&*storage, named, claim.target, &other).await;
        let mut nameless = samples.creation();
        nameless.event.body = Bytes::from(body.clone());
        let claim = KeyClaim { answer: Some(answer), ..samples.claim(nameless.target()) };
        apply(&*storage, nameless.changes().claim(Some(claim.clone()))).await;
        assert_eq!(record(&*storage, &samples, &claim.key).await, claim, "{body}");
        let events = storage.payment_events(samples.scope(), creation.payment.id, 0, 10).await;
        assert_eq!(events.expect(READS)[0].body, body, "the event is as it was");
        assert_eq!(storage.purge_answers(Timestamp::MAX, 10).await.expect(READS), 2);
        assert_eq!(record(&*storage, &samples, &claim.key).await.answer, None);
    }
}

/// "Drops stored answers …; says how many. Claims stay for ever": in flight for the same request, refused for another.
pub async fn a_purged_answer_leaves_its_claim(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(20));
    let (creation, claim) = claimed(&*storage, &samples, Some(samples.answer())).await;
    assert_eq!(storage.purge_answers(Timestamp::MAX, 10).await.expect(READS), 1);
    let bare = KeyClaim { answer: None, ..claim.clone() };
    assert_eq!(record(&*storage, &samples, &claim.key).await, bare);
    in_flight(&*storage, creation.changes().claim(Some(claim.clone())), claim.target).await;
    let other = KeyClaim { fingerprint: bent(claim.fingerprint), ..claim };
    reused(&*storage, creation.changes().claim(Some(other))).await;
    assert_eq!(storage.purge_answers(Timestamp::MAX, 10).await.expect(READS), 0, "counted twice");
}

/// "Of keys claimed before `before`": later ones keep their answers.
pub async fn a_purge_spares_keys_claimed_later(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(21));
    let answer = samples.answer();
    let (_, claim) = claimed(&*storage, &samples, Some(answer.clone())).await;
    let found =
        storage.key(samples.scope(), &claim.key).await.expect(READS).expect("it is claimed");
    assert_eq!(storage.purge_answers(found.created_at, 10).await.expect(READS), 0, "not before");
    assert_eq!(record(&*storage, &samples, &claim.key).await.answer, Some(answer));
    let later = found.created_at.plus(Duration::from_micros(1));
    assert_eq!(storage.purge_answers(later, 10).await.expect(READS), 1);
}

/// "Up to `limit`": keys without an answer do not count, and repeated purges reach every answer.
pub async fn a_purge_drops_up_to_its_limit(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(22));
    for _ in 0..3 {
        claimed(&*storage, &samples, None).await;
    }
    for scope in samples.foreign() {
        let there = samples.of(scope);
        claimed(&*storage, &there, Some(there.answer())).await;
    }
    for _ in 0..3 {
        claimed(&*storage, &samples, Some(samples.answer())).await;
    }
    let mut dropped = Vec::new();
    for limit in [0, 2, 2, 2, 2] {
        dropped.push(storage.purge_answers(Timestamp::MAX, limit).await.expect(READS));
    }
    assert_eq!(dropped, [0, 2, 2, 1, 0], "five answers of three scopes, two at a time");
}

/// Creates a payment under a new key.
async fn claimed(
    storage: &dyn Storage,
    samples: &Samples,
    answer: Option<StoredAnswer>,
) -> (Creation, KeyClaim) {
    let mut creation = samples.creation();
    let claim = KeyClaim { answer, ..samples.claim(creation.target()) };
    apply(storage, creation.keyed(claim.clone())).await;
    (creation, claim)
}

async fn record(storage: &dyn Storage, samples: &Samples, key: &IdempotencyKey) -> KeyClaim {
    storage.key(samples.scope(), key).await.expect(READS).expect("the key must be claimed").claim
}

fn answering(samples: &Samples, key: &IdempotencyKey, answer: &StoredAnswer) -> Changes {
    Changes::new(samples.scope().clone())
        .write(Write::Answer { key: key.clone(), answer: answer.clone() })
}

/// Another fingerprint, one bit away.
const fn bent(mut fingerprint: Fingerprint) -> Fingerprint {
    fingerprint.0[31] ^= 1;
    fingerprint
}
