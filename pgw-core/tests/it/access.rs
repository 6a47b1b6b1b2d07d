//! API keys: how they open, what that costs, and how they end.

use std::sync::Arc;
use std::time::Duration;

use pgw_core::access::{Actor, ApiKey, ApiKeyText, AuditAction, AuditObject, Caller, Role};
use pgw_core::error::Error;
use pgw_core::gateway::{
    AccessError, ApiKeyFilter, BulkRevocation, Gateway, NewApiKey, RevokedKeys,
};
use pgw_core::id::KeyId;
use pgw_core::notifier::Notifier;
use pgw_core::page::PageRequest;
use pgw_core::scope::{Mode, Scope};
use pgw_core::storage::{AuditFilter, Storage};
use pgw_core::testing::faults::Rates;
use pgw_core::text::{Description, Reason};
use pgw_storage_memory::{MemoryNotifier, MemoryQueue, MemoryStorage};

use crate::world::{World, pass};

async fn new_key(gateway: &Gateway, role: Role) -> (ApiKey, String) {
    new_key_of(gateway, role, Scope::default()).await
}

async fn new_key_of(gateway: &Gateway, role: Role, scope: Scope) -> (ApiKey, String) {
    let new = NewApiKey { role, name: Description::parse("test").unwrap(), expires_in: None };
    let (key, secret) = gateway.by(Caller::host(scope)).create_api_key(new).await.unwrap();
    (key, secret.expose().to_owned())
}

async fn opens(gateway: &Gateway, text: &str) -> bool {
    match gateway.authenticate(text).await {
        Ok(_) => true,
        Err(AccessError::Invalid) => false,
        Err(error) => panic!("a healthy storage: {error:?}"),
    }
}

fn reason() -> Reason {
    Reason::parse("it leaked").unwrap()
}

/// Another text with the prefix of a key.
fn altered(text: &str) -> String {
    let last = if text.ends_with('A') { "B" } else { "A" };
    format!("{}{last}", &text[..text.len() - 1])
}

/// What the audit log says, the latest first.
async fn audit_rows(world: &World) -> Vec<(AuditAction, AuditObject)> {
    let merchant = Scope::default().merchant;
    let page = PageRequest::first(PageRequest::LIMIT_MAX);
    let rows = world.storage.audit(&merchant, &AuditFilter::default(), page).await.unwrap().data;
    rows.iter().map(|row| (row.action, row.object.clone())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_key_that_opened_opens_again_without_the_storage() {
    let world = World::new();
    let (key, text) = new_key(&world.gateway, Role::Service).await;
    let principal = world.gateway.authenticate(&text).await.unwrap();
    assert_eq!((principal.actor.clone(), principal.role), (Actor::Key(key.id), Role::Service));
    // Its use is noted beside the call.
    pass(Duration::from_millis(1)).await;
    let before = world.faults.calls();
    for _ in 0..100 {
        assert_eq!(world.gateway.authenticate(&text).await.unwrap(), principal);
    }
    assert_eq!(world.faults.calls(), before, "the storage was asked");
    // It is asked again when its time is over, and not before.
    pass(Duration::from_secs(30)).await;
    assert!(opens(&world.gateway, &text).await);
    assert_eq!(world.faults.calls(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn whatever_opens_nothing_costs_one_read() {
    let world = World::new();
    let gateway = &world.gateway;
    let (_, good) = new_key(gateway, Role::Admin).await;
    let (revoked, revoked_text) = new_key(gateway, Role::Admin).await;
    assert!(opens(gateway, &good).await && opens(gateway, &revoked_text).await);
    gateway.host().revoke_api_key(revoked.id).await.unwrap();
    let expiring = NewApiKey {
        role: Role::Admin,
        name: Description::parse("short").unwrap(),
        expires_in: Some(Duration::from_secs(1)),
    };
    let (_, expired) = gateway.host().create_api_key(expiring).await.unwrap();
    assert!(opens(gateway, expired.expose()).await);
    pass(Duration::from_secs(1)).await;
    let unknown = ApiKeyText::mint(gateway.env(), Mode::Test);
    let other_mode = good.replace("pgw_test_", "pgw_live_");
    for text in [
        unknown.secret().expose(),
        &revoked_text,
        expired.expose(),
        &altered(&good),
        &other_mode,
        "nonsense",
        "",
        &"x".repeat(10_000),
        // What stands in for texts that are no keys is no key either.
        &format!("pgw_test_{}", "_".repeat(55)),
    ] {
        for _ in 0..2 {
            let before = world.faults.calls();
            assert!(!opens(gateway, text).await, "{text}");
            assert_eq!(world.faults.calls(), before + 1, "{text}");
        }
    }
    assert!(opens(gateway, &good).await);
}

#[tokio::test(start_paused = true)]
async fn a_revoked_key_is_shut_at_once() {
    let world = World::new();
    let gateway = &world.gateway;
    let (key, text) = new_key(gateway, Role::Admin).await;
    assert!(opens(gateway, &text).await);
    let revoked = gateway.host().revoke_api_key(key.id).await.unwrap();
    assert!(!opens(gateway, &text).await);
    assert!(revoked.revoked_at.is_some() && revoked.revoked_because.is_none());
    // Again, nothing happens.
    assert_eq!(gateway.host().revoke_api_key(key.id).await.unwrap().version, revoked.version);
    let rows = audit_rows(&world).await;
    let revocations =
        rows.iter().filter(|row| **row == (AuditAction::KeyRevoke, AuditObject::Key(key.id)));
    assert_eq!(revocations.count(), 1);
    let missing = gateway.host().revoke_api_key(KeyId::mint(gateway.env())).await;
    assert!(matches!(missing, Err(Error::NotFound(_))));
    let live = Scope::new(Scope::default().merchant, Mode::Live);
    let foreign = gateway.by(Caller::host(live)).revoke_api_key(key.id).await;
    assert!(matches!(foreign, Err(Error::NotFound(_))));
}

/// Two processes on one storage, with or without one notifier.
fn two_gateways(notifiers: [&MemoryNotifier; 2]) -> [Gateway; 2] {
    let storage = MemoryStorage::new();
    let pepper = pgw_core::access::Pepper::mint(&pgw_core::env::Env::system());
    notifiers.map(|notifier| {
        Gateway::builder()
            .with_storage(Arc::new(storage.clone()) as Arc<dyn Storage>)
            .with_queue(Arc::new(MemoryQueue::new()))
            .with_notifier(Arc::new(notifier.clone()) as Arc<dyn Notifier>)
            .with_key_pepper(pepper.clone())
            .build()
            .unwrap()
    })
}

#[tokio::test(start_paused = true)]
async fn a_revocation_reaches_other_processes_with_its_hint_or_in_time() {
    let (one, other) = (MemoryNotifier::new(), MemoryNotifier::new());
    for (notifiers, hints_flow) in [([&one, &one], true), ([&one, &other], false)] {
        let [here, there] = two_gateways(notifiers);
        let (key, text) = new_key(&here, Role::Admin).await;
        assert!(opens(&there, &text).await);
        here.host().revoke_api_key(key.id).await.unwrap();
        assert!(!opens(&here, &text).await);
        assert_eq!(opens(&there, &text).await, !hints_flow);
        pass(Duration::from_secs(30)).await;
        assert!(!opens(&there, &text).await);
    }
}

#[tokio::test(start_paused = true)]
async fn the_use_of_a_key_is_noted_at_most_once_a_minute() {
    let world = World::new();
    let (key, text) = new_key(&world.gateway, Role::Admin).await;
    let used_at = async || world.verbs().api_key(key.id).await.unwrap().unwrap().last_used_at;
    assert_eq!(used_at().await, None);
    let mut noted = Vec::new();
    for _ in 0..13 {
        assert!(opens(&world.gateway, &text).await);
        // It is noted beside the call.
        pass(Duration::from_secs(10)).await;
        noted.push(used_at().await.unwrap());
    }
    noted.dedup();
    assert_eq!(noted.len(), 3, "{noted:?}");
    assert!(noted.windows(2).all(|pair| pair[1].since(pair[0]) == Duration::from_secs(60)));
    assert_eq!(world.verbs().api_key(key.id).await.unwrap().unwrap().version, 1);
}

#[tokio::test(start_paused = true)]
async fn a_storage_that_is_away_shuts_no_key_that_opened_and_opens_no_other() {
    let world = World::new();
    let (_, text) = new_key(&world.gateway, Role::Admin).await;
    let (_, other) = new_key(&world.gateway, Role::Admin).await;
    assert!(opens(&world.gateway, &text).await);
    // When its use is due to be noted, that fails without harm.
    world.faults.set(Rates { read_fails: 1_000, ..Rates::default() });
    assert!(opens(&world.gateway, &text).await);
    let unclear = world.gateway.authenticate(&other).await;
    assert!(matches!(unclear, Err(AccessError::Storage(_))));
    pass(Duration::from_secs(30)).await;
    let unclear = world.gateway.authenticate(&text).await;
    assert!(matches!(unclear, Err(AccessError::Storage(_))));
}

/// Keys of every role, an hour apart; the oldest first.
async fn hourly(world: &World, count: usize) -> Vec<ApiKey> {
    let mut keys = Vec::new();
    for n in 0..count {
        keys.push(new_key(&world.gateway, Role::ALL[n % 4]).await.0);
        pass(Duration::from_secs(3_600)).await;
    }
    keys
}

async fn live(world: &World) -> Vec<KeyId> {
    let mut live = Vec::new();
    let mut page = PageRequest::first(100);
    loop {
        let found = world.verbs().api_keys(page).await.unwrap();
        live.extend(found.data.iter().filter(|key| key.revoked_at.is_none()).map(|key| key.id));
        let Some(cursor) = found.next_cursor else { break };
        page = page.with_from(pgw_core::page::PageFrom::After(cursor));
    }
    live.sort_unstable();
    live
}

#[tokio::test(start_paused = true)]
async fn many_keys_are_revoked_by_a_filter() {
    let world = World::new();
    let keys = hourly(&world, 12).await;
    new_key_of(&world.gateway, Role::Admin, Scope::new(Scope::default().merchant, Mode::Live))
        .await;
    let revoke = async |filter: ApiKeyFilter| {
        world.verbs().revoke_api_keys(RevokedKeys::Matching(filter), &reason(), None).await.unwrap()
    };
    let all = |revoked| BulkRevocation { matched: revoked, revoked, next: None };
    // From the fourth on, before the ninth: five keys, of which one is a service's.
    let (from, before) = (keys[3].created_at, keys[8].created_at);
    let range = ApiKeyFilter {
        created_from: Some(from),
        created_before: Some(before),
        ..ApiKeyFilter::default()
    };
    assert_eq!(revoke(ApiKeyFilter { role: Some(Role::Service), ..range }).await, all(1));
    assert_eq!(revoke(range).await, all(4));
    assert_eq!(revoke(range).await, all(0));
    let expected: Vec<KeyId> = keys[..3].iter().chain(&keys[8..]).map(|key| key.id).collect();
    assert_eq!(live(&world).await, expected);
    let one = world.verbs().api_key(keys[5].id).await.unwrap().unwrap();
    assert_eq!(one.revoked_because, Some(reason()));
    assert_eq!(
        audit_rows(&world).await.iter().filter(|row| row.0 == AuditAction::KeyRevoke).count(),
        5
    );
}

#[tokio::test(start_paused = true)]
async fn nobody_revokes_all_keys_by_mistake() {
    let world = World::new();
    hourly(&world, 3).await;
    let nothing = RevokedKeys::Matching(ApiKeyFilter::default());
    let refused = world.verbs().revoke_api_keys(nothing, &reason(), None).await;
    assert!(matches!(refused, Err(Error::Invalid { code: "empty_filter", .. })));
    assert_eq!(live(&world).await.len(), 3);
    let done = world.verbs().revoke_api_keys(RevokedKeys::All, &reason(), None).await.unwrap();
    assert_eq!((done.revoked, done.next), (3, None));
    assert_eq!(live(&world).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_long_revocation_goes_on_where_it_stopped_and_ends_with_the_callers_own_key() {
    let world = World::new();
    for _ in 0..BulkRevocation::KEYS_MAX + 50 {
        new_key(&world.gateway, Role::Service).await;
    }
    // The newest, so that it would come first: keys of one millisecond come in no order.
    pass(Duration::from_millis(1)).await;
    let (own, text) = new_key(&world.gateway, Role::Admin).await;
    let principal = world.gateway.authenticate(&text).await.unwrap();
    let caller = Caller { actor: principal.actor, ..Caller::host(principal.scope) };
    let bound = world.gateway.by(caller);
    let first = bound.revoke_api_keys(RevokedKeys::All, &reason(), None).await.unwrap();
    assert_eq!(first.revoked, BulkRevocation::KEYS_MAX - 1);
    assert!(first.next.is_some() && opens(&world.gateway, &text).await);
    let rest = bound.revoke_api_keys(RevokedKeys::All, &reason(), first.next).await.unwrap();
    assert_eq!((rest.matched, rest.revoked, rest.next), (52, 52, None));
    assert!(!opens(&world.gateway, &text).await);
    assert_eq!(live(&world).await, []);
    assert!(world.verbs().api_key(own.id).await.unwrap().unwrap().revoked_at.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_revocation_whose_answer_was_lost_is_done_once() {
    let world = World::new();
    let (key, text) = new_key(&world.gateway, Role::Admin).await;
    assert!(opens(&world.gateway, &text).await);
    world.faults.set(Rates { commit_applied_unheard: 1_000, ..Rates::default() });
    let revoked = world.verbs().revoke_api_key(key.id).await;
    world.faults.set(Rates::default());
    // The first try was applied; asking again finds that out.
    assert!(revoked.unwrap().revoked_at.is_some());
    assert!(!opens(&world.gateway, &text).await);
    let rows = audit_rows(&world).await;
    assert_eq!(rows.iter().filter(|row| row.0 == AuditAction::KeyRevoke).count(), 1);
}
