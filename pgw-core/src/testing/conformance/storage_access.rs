//! Access: API keys by their id, when they were last used, and the shield.

use super::fixture::StorageFixture;
use super::support::{RACERS, READS, apply, commit_at_once, conflict_on, secs};
use crate::access::{ApiKey, DeniedNetwork, Freeze, Shield};
use crate::changes::{Changes, Committed, Guard, Write};
use crate::id::KeyId;
use crate::page::PageRequest;
use crate::storage::{Storage, StorageError};
use crate::testing::sample::{Samples, reason};
use crate::timestamp::Timestamp;

/// "An API key, a revoked one too": found by its id in its own scope, and as it was last written.
pub async fn an_api_key_is_found_by_its_id(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(1));
    let mut key = kept(&*storage, &samples).await;
    key.revoked_at = Some(samples.now());
    key.revoked_because = Some(reason("it's out\u{1f631} \\ '; --"));
    key.version = 2;
    write(&*storage, &key).await;
    assert_eq!(by_id(&*storage, &key).await, Some(key.clone()));
    for scope in samples.foreign() {
        assert_eq!(storage.api_key_by_id(&scope, key.id).await.expect(READS), None);
    }
    let unknown = KeyId::mint(samples.env());
    assert_eq!(storage.api_key_by_id(samples.scope(), unknown).await.expect(READS), None);
}

/// "API keys, newest first, revoked ones too": of this scope alone.
pub async fn revoked_api_keys_are_listed_and_those_of_others_are_not(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(2));
    let older = kept(&*storage, &samples).await;
    let mut newer = kept(&*storage, &samples).await;
    for scope in samples.foreign() {
        kept(&*storage, &samples.of(scope)).await;
    }
    newer.revoked_at = Some(samples.now());
    write(&*storage, &newer).await;
    let listed = storage.api_keys(samples.scope(), PageRequest::default()).await.expect(READS);
    assert_eq!((listed.data, listed.has_more), (vec![newer, older], false));
}

/// "Notes that an API key was used at this time: changes `last_used_at` and nothing else, never back to an earlier time."
pub async fn the_use_of_an_api_key_is_noted_and_never_goes_back(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(3));
    let (mut key, other) = (kept(&*storage, &samples).await, kept(&*storage, &samples).await);
    let start = samples.now();
    for (at, expected) in [(5, 5), (3, 5), (5, 5), (6, 6)] {
        let at = start.plus(secs(at));
        storage.touch_api_key(samples.scope(), key.id, at).await.expect("a healthy storage");
        key.last_used_at = Some(start.plus(secs(expected)));
        assert_eq!(by_id(&*storage, &key).await, Some(key.clone()));
        assert_eq!(storage.api_key(key.prefix).await.expect(READS), Some(key.clone()));
    }
    assert_eq!(by_id(&*storage, &other).await, Some(other), "another key was touched");
}

/// "A key that is not there is passed over": an unknown one, and one of another scope.
pub async fn the_use_of_an_unknown_api_key_is_nothing(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(4));
    let key = kept(&*storage, &samples).await;
    for scope in samples.foreign() {
        storage.touch_api_key(&scope, key.id, samples.now()).await.expect("nothing is no fault");
    }
    let unknown = KeyId::mint(samples.env());
    let touched = storage.touch_api_key(samples.scope(), unknown, samples.now()).await;
    touched.expect("nothing is no fault");
    assert_eq!(by_id(&*storage, &key).await, Some(key));
    let listed = storage.api_keys(samples.scope(), PageRequest::default()).await.expect(READS);
    assert_eq!(listed.data.len(), 1);
}

/// "Inserts or replaces an API key, all but when it was last used: that stays as it is, and is nothing for a new one."
pub async fn a_write_of_an_api_key_leaves_when_it_was_last_used(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(5));
    let mut key = samples.api_key();
    key.last_used_at = Some(Timestamp::MAX);
    write(&*storage, &key).await;
    let found = by_id(&*storage, &key).await.expect("it was written");
    assert_eq!(found.last_used_at, None, "a new key was never used");
    let used_at = samples.now();
    storage.touch_api_key(samples.scope(), key.id, used_at).await.expect("a healthy storage");
    // As it was read before it was used: a revocation in the same moment.
    key.version = 2;
    key.last_used_at = None;
    write(&*storage, &key).await;
    key.last_used_at = Some(used_at);
    assert_eq!(by_id(&*storage, &key).await, Some(key));
}

/// "One that was never written has version 0", and says nothing.
pub async fn a_shield_that_was_never_written_is_empty(fixture: &dyn StorageFixture) {
    let storage = fixture.storage().await;
    assert_eq!(shield(&*storage).await, Shield::default());
    assert_eq!(storage.shield(Some(0)).await.expect(READS), None);
    assert_eq!(storage.shield(Some(1)).await.expect(READS), Some(Shield::default()));
}

/// "Replaces the shield": whole, and it comes back as it was written, every kind of network, reason and time.
pub async fn every_shield_comes_back(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(6));
    let longest = reason(&"\u{1f980}".repeat(500));
    let denied: Vec<DeniedNetwork> = [
        ("203.0.113.0/24", None, None),
        ("192.0.2.7/32", Some(reason("\"{,}\" \\ NULL, null")), Some(Timestamp::MAX)),
        ("10.0.0.0/8", Some(longest.clone()), Some(samples.now())),
        ("2001:db8::/32", None, None),
        ("2001:db8::ffff:7/128", Some(reason("NULL")), None),
    ]
    .into_iter()
    .map(|(network, reason, expires_at)| DeniedNetwork {
        network: network.parse().expect("a valid network"),
        reason,
        created_at: samples.now(),
        created_by: "o'neill\\\",{}~".into(),
        expires_at,
    })
    .collect();
    let freeze = Freeze { reason: longest, since: samples.now(), by: "host".into() };
    let shields = [
        Shield { version: 1, denied: denied.clone(), freeze: None },
        Shield { version: 2, denied: denied[1..].to_vec(), freeze: Some(freeze.clone()) },
        Shield { version: 3, denied: Vec::new(), freeze: Some(freeze) },
        Shield { version: u64::from(u32::MAX) + 1, denied, freeze: None },
        Shield { version: u64::from(u32::MAX) + 2, ..Shield::default() },
    ];
    let mut before = 0;
    for shield in shields {
        apply(&*storage, changing(&samples, before, &shield)).await;
        assert_eq!(self::shield(&*storage).await, shield);
        assert_eq!(storage.shield(Some(before)).await.expect(READS), Some(shield.clone()));
        assert_eq!(storage.shield(Some(shield.version)).await.expect(READS), None);
        before = shield.version;
    }
}

/// As many networks as there may be come back.
pub async fn a_full_shield_comes_back(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(7));
    let network = |n: usize| DeniedNetwork {
        network: format!("10.{}.{}.0/24", n / 250, n % 250).parse().expect("a valid network"),
        reason: None,
        created_at: samples.now(),
        created_by: "host".into(),
        expires_at: None,
    };
    let denied = (0..Shield::NETWORKS_MAX).map(network).collect();
    let full = Shield { version: 1, denied, freeze: None };
    apply(&*storage, changing(&samples, 0, &full)).await;
    assert!(shield(&*storage).await == full);
}

/// "The shield, which is of no scope": committed in any scope, it is seen by all, and guarded for all.
pub async fn there_is_one_shield_for_all_scopes(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(8));
    let mut version = 0;
    for scope in samples.foreign() {
        let of_another = samples.of(scope);
        let next = Shield { version: version + 1, ..Shield::default() };
        apply(&*storage, changing(&of_another, version, &next)).await;
        let guard = Guard::Shield { version };
        conflict_on(&*storage, changing(&samples, version, &next), &guard).await;
        version += 1;
        assert_eq!(shield(&*storage).await.version, version);
    }
}

/// "The shield has this version": the guard holds at that version and fails at any other; then nothing is written.
pub async fn a_shield_guard_holds_at_its_version_only(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(9));
    for version in [1, 2, u64::MAX] {
        let next = Shield { version: 7, ..Shield::default() };
        let changes = changing(&samples, version, &next);
        let key = samples.api_key();
        let changes = changes.write(Write::ApiKey(Box::new(key.clone())));
        conflict_on(&*storage, changes, &Guard::Shield { version }).await;
        assert_eq!(shield(&*storage).await, Shield::default());
        assert_eq!(by_id(&*storage, &key).await, None);
    }
    let next = Shield { version: 7, ..Shield::default() };
    apply(&*storage, changing(&samples, 0, &next)).await;
    conflict_on(&*storage, changing(&samples, 0, &next), &Guard::Shield { version: 0 }).await;
    apply(&*storage, changing(&samples, 7, &next)).await;
}

/// "Of concurrent commits with one guard, at most one is applied": also of the first ones there ever are.
pub async fn of_concurrent_changes_of_the_shield_one_is_applied(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(10));
    for version in 0..3 {
        let next = Shield { version: version + 1, ..Shield::default() };
        let racers = (0..RACERS).map(|_| changing(&samples, version, &next));
        let outcomes = commit_at_once(&storage, racers).await;
        let mut applied = 0;
        for outcome in outcomes {
            match outcome {
                Ok(Committed::Applied { .. }) => applied += 1,
                Err(StorageError::Conflict(Guard::Shield { .. })) => {}
                other => panic!("a racer wins or conflicts, got {other:?}"),
            }
        }
        assert_eq!(applied, 1);
    }
}

/// The commit that gives the shield its next version.
fn changing(samples: &Samples, before: u64, next: &Shield) -> Changes {
    Changes::new(samples.scope().clone())
        .guard(Guard::Shield { version: before })
        .write(Write::Shield(Box::new(next.clone())))
}

async fn shield(storage: &dyn Storage) -> Shield {
    storage.shield(None).await.expect(READS).expect("nothing is known, so there is news")
}

async fn by_id(storage: &dyn Storage, key: &ApiKey) -> Option<ApiKey> {
    storage.api_key_by_id(&key.scope, key.id).await.expect(READS)
}

async fn write(storage: &dyn Storage, key: &ApiKey) {
    let write = Write::ApiKey(Box::new(key.clone()));
    apply(storage, Changes::new(key.scope.clone()).write(write)).await;
}

async fn kept(storage: &dyn Storage, samples: &Samples) -> ApiKey {
    let key = samples.api_key();
    write(storage, &key).await;
    key
}
