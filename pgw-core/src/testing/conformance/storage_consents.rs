//! Consents and customers: who agreed to what, what an erasure takes over, and the walk over all customers.

use super::fixture::StorageFixture;
use super::storage_erasures::{customer, digest, erased};
use super::storage_guards::one_winner;
use super::support::{RACERS, READS, apply, commit_at_once, conflict_on, created};
use crate::changes::{Changes, Guard, Write};
use crate::privacy::{Consent, ConsentHolder};
use crate::scope::Scope;
use crate::storage::Storage;
use crate::testing::sample::Samples;

/// "Consents, oldest first, withdrawn ones too": each as it was written, of its own holder in its own scope.
pub async fn consents_come_back_oldest_first(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(15));
    let mut all = Vec::new();
    for name in ["cust_1", "cust_2", "cust_1", "cust_1"] {
        let mut consent = samples.consent(&customer(name));
        if all.len() == 2 {
            (consent.source, consent.withdrawn_at) = (None, Some(samples.now()));
        }
        apply(&*storage, consenting(&consent)).await;
        all.push(consent);
    }
    let last = &mut all[3];
    (last.withdrawn_at, last.version) = (Some(samples.now()), 2);
    apply(&*storage, consenting(last)).await;
    let own = [all[0].clone(), all[2].clone(), all[3].clone()];
    let of = |name| ConsentHolder::Customer(digest(name));
    assert_eq!(consents(&*storage, samples.scope(), of("cust_1"), 10).await, own);
    assert_eq!(consents(&*storage, samples.scope(), of("cust_1"), 2).await, own[..2]);
    assert_eq!(consents(&*storage, samples.scope(), of("cust_3"), 10).await, []);
    for foreign in samples.foreign() {
        assert_eq!(consents(&*storage, &foreign, of("cust_1"), 10).await, []);
    }
}

/// "The consent has this version; 0: there is no such consent."
pub async fn a_consent_guard_holds_at_its_version(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(16));
    let consent = samples.consent(&customer("cust_1"));
    let guard = |version| Guard::Consent { id: consent.id, version };
    let guarded = |version| Changes::new(samples.scope().clone()).guard(guard(version));
    conflict_on(&*storage, guarded(1), &guard(1)).await;
    apply(&*storage, consenting(&consent)).await;
    conflict_on(&*storage, consenting(&consent), &guard(0)).await;
    apply(&*storage, guarded(1)).await;
    conflict_on(&*storage, guarded(2), &guard(2)).await;
    for foreign in samples.foreign() {
        apply(&*storage, Changes::new(foreign).guard(guard(0))).await;
    }
}

/// "Of concurrent commits with one guard, at most one is applied": also of those that make the consent.
pub async fn of_concurrent_consents_with_one_id_one_is_applied(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(18));
    let consent = samples.consent(&customer("cust_1"));
    let racers = (0..RACERS).map(|_| consenting(&consent));
    let guard = Guard::Consent { id: consent.id, version: 0 };
    one_winner(commit_at_once(&storage, racers).await, &guard);
    let holder = ConsentHolder::Customer(digest("cust_1"));
    assert_eq!(consents(&*storage, samples.scope(), holder, 10).await, [consent]);
}

/// "The customer's consents are the erasure's from the same commit on: kept with their dates, without their source, and a version up."
pub async fn an_erasure_takes_over_the_consents(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(17));
    let mut own = samples.consent(&customer("cust_1"));
    own.withdrawn_at = Some(samples.now());
    let other = samples.consent(&customer("cust_2"));
    apply(&*storage, consenting(&own)).await;
    apply(&*storage, consenting(&other)).await;
    let erasure = erased(&*storage, &samples, "cust_1").await;
    let before = Guard::Consent { id: own.id, version: 1 };
    let late = Changes::new(samples.scope().clone())
        .guard(before.clone())
        .write(Write::Consent(Box::new(own.clone())));
    conflict_on(&*storage, late, &before).await;
    let (scope, of) = (samples.scope(), |name| ConsentHolder::Customer(digest(name)));
    assert_eq!(consents(&*storage, scope, of("cust_1"), 10).await, []);
    assert_eq!(consents(&*storage, scope, of("cust_2"), 10).await, [other]);
    let holder = ConsentHolder::Erased(erasure.id);
    let expected = Consent { holder, source: None, version: 2, ..own };
    assert_eq!(consents(&*storage, scope, holder, 10).await, [expected]);
}

/// "What payments that are not marked name as their customers, each once, from `after` on, at most `limit`."
pub async fn customers_are_walked_in_pages(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(18));
    let names = ["cust_1", "Cust-2", "a@b", "0", "cust_1", "zz", "gone", "a@b"];
    for name in names.map(Some).into_iter().chain([None]) {
        let mut creation = samples.creation();
        creation.payment.customer.id = name.map(customer);
        apply(&*storage, creation.changes()).await;
    }
    for foreign in samples.foreign() {
        created(&*storage, &samples.of(foreign)).await;
    }
    erased(&*storage, &samples, "gone").await;
    let mut expected: Vec<_> = names.into_iter().filter(|name| *name != "gone").collect();
    expected.sort_unstable();
    expected.dedup();
    for limit in [1, 2, 3, 100] {
        let (mut walked, mut after) = (Vec::new(), None);
        loop {
            let found = storage.customers(samples.scope(), after.as_ref(), limit).await;
            let found = found.expect(READS);
            assert!(found.len() <= limit);
            walked.extend(found.iter().map(|name| name.as_str().to_owned()));
            after = found.last().cloned();
            if after.is_none() {
                break;
            }
        }
        walked.sort_unstable();
        assert_eq!(walked, expected, "each once, by pages of {limit}");
    }
}

/// The commit that writes a consent, guarded by the version before.
fn consenting(consent: &Consent) -> Changes {
    Changes::new(consent.scope.clone())
        .guard(Guard::Consent { id: consent.id, version: consent.version - 1 })
        .write(Write::Consent(Box::new(consent.clone())))
}

async fn consents(
    storage: &dyn Storage,
    scope: &Scope,
    holder: ConsentHolder,
    limit: usize,
) -> Vec<Consent> {
    storage.consents(scope, holder, limit).await.expect(READS)
}
