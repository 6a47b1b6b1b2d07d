//! The shield: who is not let in, and what a frozen gateway does and does not do.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use pgw_core::access::{AuditAction, AuditObject, Caller, Network, Role, Shield};
use pgw_core::error::Error;
use pgw_core::gateway::{Gateway, NewApiKey, NewDeniedNetwork};
use pgw_core::notifier::Notifier;
use pgw_core::page::{PageFrom, PageRequest};
use pgw_core::payment::plan::{NewCapture, NewRefund, RequestedAmount};
use pgw_core::payment::{Finality, OperationState, PaymentStatus};
use pgw_core::processor::Resolution;
use pgw_core::scope::{MerchantId, Mode, Scope};
use pgw_core::storage::{AuditFilter, Storage, StorageError};
use pgw_core::testing::faults::Rates;
use pgw_core::text::{Description, Reason};
use pgw_storage_memory::{MemoryNotifier, MemoryQueue, MemoryStorage};

use crate::world::{World, new, pass};

fn network(text: &str) -> Network {
    text.parse().unwrap()
}

fn denial(text: &str) -> NewDeniedNetwork {
    NewDeniedNetwork { network: network(text), reason: None, expires_in: None }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn reason() -> Reason {
    Reason::parse("keys leaked").unwrap()
}

async fn actions(storage: &MemoryStorage) -> Vec<(AuditAction, AuditObject)> {
    let page = PageRequest::first(PageRequest::LIMIT_MAX);
    let rows =
        storage.audit(&MerchantId::default(), &AuditFilter::default(), page).await.unwrap().data;
    rows.iter().map(|row| (row.action, row.object.clone())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_denied_network_is_shut_out_at_once_until_it_is_let_in_again() {
    let world = World::new();
    let (gateway, verbs) = (&world.gateway, world.verbs());
    assert!(!gateway.is_denied(address("203.0.113.7")).await);
    let entry = verbs.deny_network(denial("203.0.113.0/24")).await.unwrap();
    assert_eq!((&*entry.created_by, entry.expires_at), ("host", None));
    assert!(gateway.is_denied(address("203.0.113.7")).await);
    assert!(gateway.is_denied(address("::ffff:203.0.113.7")).await);
    assert!(!gateway.is_denied(address("203.0.114.7")).await);
    // What lies within it is another entry.
    let within = verbs.allow_network(network("203.0.113.7")).await;
    assert!(matches!(within, Err(Error::NotFound(_))));
    pass(Duration::from_secs(1)).await;
    verbs.allow_network(network("203.0.113.0/24")).await.unwrap();
    assert!(!gateway.is_denied(address("203.0.113.7")).await);
    let again = verbs.allow_network(network("203.0.113.0/24")).await;
    assert!(matches!(again, Err(Error::NotFound(_))));
    let object = AuditObject::Network(network("203.0.113.0/24"));
    let expected =
        [(AuditAction::NetworkAllow, object.clone()), (AuditAction::NetworkDeny, object)];
    assert_eq!(actions(&world.storage).await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_denial_ends_by_itself_and_a_new_one_replaces_it() {
    let world = World::new();
    let minute = Duration::from_secs(60);
    let short = NewDeniedNetwork { expires_in: Some(minute), ..denial("203.0.113.7") };
    world.verbs().deny_network(short.clone()).await.unwrap();
    pass(minute / 2).await;
    let renewed = world.verbs().deny_network(short).await.unwrap();
    pass(minute - Duration::from_millis(1)).await;
    assert!(world.gateway.is_denied(address("203.0.113.7")).await);
    let listed = world.verbs().denied_networks(PageRequest::default()).await.unwrap();
    assert_eq!(listed.data, [renewed]);
    pass(Duration::from_millis(1)).await;
    assert!(!world.gateway.is_denied(address("203.0.113.7")).await);
    let listed = world.verbs().denied_networks(PageRequest::default()).await.unwrap();
    assert_eq!(listed.data, []);
}

#[tokio::test(start_paused = true)]
async fn nobody_shuts_themselves_out() {
    let world = World::new();
    let mut caller = Caller::host(Scope::default());
    caller.origin = Some(address("::ffff:203.0.113.7"));
    let refused = world.gateway.by(caller).deny_network(denial("203.0.113.0/24")).await;
    assert!(matches!(refused, Err(Error::Invalid { field: "network", code: "own_address", .. })));
    assert_eq!(actions(&world.storage).await, []);
}

#[tokio::test(start_paused = true)]
async fn the_list_is_newest_first_in_pages_that_fit_together() {
    let world = World::new();
    let mut expected = Vec::new();
    for n in 0..7 {
        let text = if n % 2 == 0 { format!("203.0.113.{n}") } else { format!("2001:db8::{n}") };
        expected.insert(0, world.verbs().deny_network(denial(&text)).await.unwrap());
        // Some of one instant.
        if n % 3 == 0 {
            pass(Duration::from_secs(1)).await;
        }
    }
    for limit in 1..=8 {
        let (mut found, mut page) = (Vec::new(), PageRequest::first(limit));
        loop {
            let part = world.verbs().denied_networks(page).await.unwrap();
            assert!(part.data.len() <= limit && part.has_more == part.next_cursor.is_some());
            found.extend(part.data);
            let Some(cursor) = part.next_cursor else { break };
            page = PageRequest::first(limit).with_from(PageFrom::After(cursor));
            let back = PageRequest::first(100).with_from(PageFrom::Before(cursor));
            let newer = world.verbs().denied_networks(back).await.unwrap().data;
            assert_eq!(newer, found[..found.len() - 1]);
        }
        let key = |entry: &pgw_core::access::DeniedNetwork| (entry.created_at, entry.network);
        assert!(found.windows(2).all(|pair| pair[0].created_at >= pair[1].created_at));
        let (mut found, mut all) = (found, expected.clone());
        found.sort_by_key(key);
        all.sort_by_key(key);
        assert_eq!(found, all);
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_list_says_so() {
    let world = World::new();
    let entry = world.verbs().deny_network(denial("10.0.0.1")).await.unwrap();
    let mut shield = world.storage.shield(None).await.unwrap().unwrap();
    let guard = pgw_core::changes::Guard::Shield { version: shield.version };
    shield.version += 1;
    shield.denied = (0..Shield::NETWORKS_MAX as u32)
        .map(|n| pgw_core::access::DeniedNetwork {
            network: network(&std::net::Ipv4Addr::from(0x0b00_0000 + n).to_string()),
            ..entry.clone()
        })
        .collect();
    let changes = pgw_core::changes::Changes::new(Scope::default())
        .guard(guard)
        .write(pgw_core::changes::Write::Shield(Box::new(shield)));
    world.storage.commit(changes).await.unwrap();
    let full = world.verbs().deny_network(denial("192.0.2.1")).await;
    let Err(Error::Storage(StorageError::Full { max: Shield::NETWORKS_MAX, .. })) = full else {
        panic!("{full:?}");
    };
    world.verbs().allow_network(network("11.0.0.0/32")).await.unwrap();
    world.verbs().deny_network(denial("192.0.2.1")).await.unwrap();
}

/// Two processes on one storage.
fn two_gateways(notifiers: [&MemoryNotifier; 2]) -> [Gateway; 2] {
    let storage = MemoryStorage::new();
    notifiers.map(|notifier| {
        Gateway::builder()
            .with_storage(Arc::new(storage.clone()) as Arc<dyn Storage>)
            .with_queue(Arc::new(MemoryQueue::new()))
            .with_notifier(Arc::new(notifier.clone()) as Arc<dyn Notifier>)
            .build()
            .unwrap()
    })
}

#[tokio::test(start_paused = true)]
async fn a_change_reaches_other_processes_with_its_hint_or_in_five_seconds() {
    let (one, other) = (MemoryNotifier::new(), MemoryNotifier::new());
    for (notifiers, hints_flow) in [([&one, &one], true), ([&one, &other], false)] {
        let [here, there] = two_gateways(notifiers);
        let peer = address("203.0.113.7");
        assert!(!there.is_denied(peer).await);
        there.host().create_payment(new("tok_visa")).await.unwrap();
        here.host().deny_network(denial("203.0.113.7")).await.unwrap();
        here.host().freeze(&reason()).await.unwrap();
        assert!(here.is_denied(peer).await);
        assert_eq!(there.is_denied(peer).await, hints_flow);
        assert_eq!(there.host().create_payment(new("tok_visa")).await.is_err(), hints_flow);
        pass(Duration::from_secs(5)).await;
        assert!(there.is_denied(peer).await);
        let frozen = there.host().create_payment(new("tok_visa")).await;
        assert!(matches!(frozen, Err(Error::Frozen)));
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_storage_is_away_the_last_known_shield_stays_in_use() {
    let world = World::new();
    let peer = address("203.0.113.7");
    world.verbs().deny_network(denial("203.0.113.7")).await.unwrap();
    world.faults.set(Rates { read_fails: 1_000, ..Rates::default() });
    for _ in 0..10 {
        pass(Duration::from_secs(60)).await;
        assert!(world.gateway.is_denied(peer).await);
    }
    // One that never knew the shield denies nobody and changes nothing.
    let world = World::new();
    world.faults.set(Rates { read_fails: 1_000, ..Rates::default() });
    assert!(!world.gateway.is_denied(peer).await);
    let unclear = world.verbs().create_payment(new("tok_visa")).await;
    assert!(matches!(unclear, Err(Error::Storage(StorageError::Unavailable(_)))), "{unclear:?}");
    world.faults.set(Rates::default());
    world.verbs().create_payment(new("tok_visa")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_shield_is_read_once_in_five_seconds_however_many_ask() {
    let world = World::new();
    assert!(!world.gateway.is_denied(address("192.0.2.1")).await);
    let before = world.faults.calls();
    for _ in 0..100 {
        assert!(!world.gateway.is_denied(address("192.0.2.1")).await);
    }
    assert_eq!(world.faults.calls(), before);
    pass(Duration::from_secs(5)).await;
    for _ in 0..100 {
        assert!(!world.gateway.is_denied(address("192.0.2.1")).await);
    }
    assert_eq!(world.faults.calls(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn a_frozen_gateway_reads_and_changes_nothing_for_callers() {
    let world = World::new();
    let worker = world.worker();
    let held = world.authorize("tok_visa").await;
    let paid = world.create("tok_visa").await.payment().id;
    world.settled(paid, None).await;
    let endpoint = world.endpoint().await;
    let name = || Description::parse("x").unwrap();
    let new_key = || NewApiKey { role: Role::Admin, name: name(), expires_in: None };
    let (key, _) = world.verbs().create_api_key(new_key()).await.unwrap();
    worker.shutdown().await;

    let freeze = world.verbs().freeze(&reason()).await.unwrap();
    assert_eq!(world.verbs().frozen().await.unwrap(), Some(freeze.clone()));
    let other = Reason::parse("another").unwrap();
    assert_eq!(world.verbs().freeze(&other).await.unwrap(), freeze, "it stays as it is");

    let verbs = world.verbs();
    let before = world.storage.dump();
    let amount = || RequestedAmount::Rest;
    let capture = NewCapture { amount: amount(), finality: Finality::Final, idempotency_key: None };
    let refund = NewRefund { amount: amount(), reason: None, idempotency_key: None };
    let outcomes = [
        verbs.create_payment(new("tok_visa")).await.err(),
        verbs.capture_payment(held, capture).await.err(),
        verbs.cancel_payment(held, None).await.err(),
        verbs.refund_payment(paid, refund).await.err(),
        verbs.test_endpoint(endpoint.id).await.err(),
        verbs.rotate_secret(endpoint.id, Duration::ZERO).await.err(),
        verbs.delete_endpoint(endpoint.id).await.err(),
        verbs.create_api_key(new_key()).await.err(),
    ];
    for (n, outcome) in outcomes.into_iter().enumerate() {
        assert!(matches!(outcome, Some(Error::Frozen)), "{n}: {outcome:?}");
    }
    let foreign = Scope::new("stranger".parse().unwrap(), Mode::Live);
    let elsewhere = world.gateway.by(Caller::host(foreign)).create_api_key(new_key()).await;
    assert!(matches!(elsewhere, Err(Error::Frozen)));
    assert!(world.storage.dump() == before, "something was changed");
    assert_eq!(world.state(paid).await.payment.status, PaymentStatus::Succeeded);

    // What one does in an incident.
    verbs.revoke_api_key(key.id).await.unwrap();
    verbs.deny_network(denial("203.0.113.7")).await.unwrap();
    verbs.allow_network(network("203.0.113.7")).await.unwrap();
    assert_eq!(verbs.unfreeze().await.unwrap(), Some(freeze));
    assert_eq!(verbs.unfreeze().await.unwrap(), None);
    verbs.create_payment(new("tok_visa")).await.unwrap();
    let log = actions(&world.storage).await;
    let of = |action| log.iter().filter(|row| **row == (action, AuditObject::Gateway)).count();
    assert_eq!((of(AuditAction::GatewayFreeze), of(AuditAction::GatewayUnfreeze)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_frozen_worker_sends_nothing_new_to_the_processor_and_spends_no_attempt() {
    let world = World::new();
    let id = world.create("tok_visa").await.payment().id;
    world.verbs().freeze(&reason()).await.unwrap();
    let worker = world.worker();
    pass(Duration::from_secs(300)).await;
    let state = world.state(id).await;
    assert_eq!(
        (state.operations[0].state, state.operations[0].attempts),
        (OperationState::Queued, 0)
    );
    assert_eq!(state.payment.status, PaymentStatus::Pending);
    world.verbs().unfreeze().await.unwrap();
    let state = world.settled(id, None).await;
    assert_eq!((state.payment.status, state.operations[0].attempts), (PaymentStatus::Succeeded, 1));
    worker.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_is_found_out_and_told_while_frozen() {
    let world = World::deaf(Resolution::Lookup { lag: Duration::from_secs(1) });
    world.endpoint().await;
    let worker = world.worker();
    let id = world.create("tok_timeout_after_charge").await.payment().id;
    world.until(id, |state| state.operations[0].state == OperationState::Dispatched).await;
    world.verbs().freeze(&reason()).await.unwrap();
    world.until(id, |state| state.payment.status == PaymentStatus::Succeeded).await;
    pass(Duration::from_secs(5)).await;
    assert!(world.transport.received().len() > 1, "webhooks go on");
    worker.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_could_move_money_waits_for_the_end_of_the_freeze() {
    let world = World::deaf(Resolution::Replay { window: Duration::from_secs(24 * 60 * 60) });
    let worker = world.worker();
    let id = world.create("tok_timeout_before_charge").await.payment().id;
    world.until(id, |state| state.operations[0].state == OperationState::Unknown).await;
    world.verbs().freeze(&reason()).await.unwrap();
    let attempts = world.state(id).await.operations[0].attempts;
    pass(Duration::from_secs(600)).await;
    let frozen = world.state(id).await;
    assert_eq!(frozen.operations[0].state, OperationState::Unknown);
    assert_eq!(frozen.operations[0].attempts, attempts);
    world.verbs().unfreeze().await.unwrap();
    let settled = world.settled(id, None).await;
    assert!(settled.payment.status.is_answered());
    worker.shutdown().await;
}
