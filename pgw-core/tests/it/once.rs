//! Verbs under an idempotency key, where the storage loses answers and where nothing new may be done.

use pgw_core::access::{Network, Role};
use pgw_core::error::Error;
use pgw_core::gateway::{NewApiKey, NewDeniedNetwork, Once, Origin};
use pgw_core::idempotency::{IdempotencyKey, StoredAnswer};
use pgw_core::page::PageRequest;
use pgw_core::testing::faults::Rates;
use pgw_core::text::{Description, Reason};
use pgw_core::webhook::EndpointUrl;
use pgw_core::webhook::plan::{EndpointUpdate, NewEndpoint};

use crate::world::World;

fn endpoint() -> NewEndpoint {
    NewEndpoint::new(EndpointUrl::parse("https://hooks.example.com/in").expect("a valid address"))
}

fn api_key() -> NewApiKey {
    let name = Description::parse("checkout").expect("a valid name");
    NewApiKey { role: Role::Service, name, expires_in: None }
}

fn denied() -> NewDeniedNetwork {
    let network: Network = "192.0.2.0/24".parse().expect("a valid network");
    NewDeniedNetwork { network, reason: None, expires_in: None }
}

/// What makes one more of something each time it is done.
#[derive(Debug, Clone, Copy)]
enum Verb {
    Endpoint,
    ApiKey,
    Denial,
    Ping,
}

impl Verb {
    const ALL: [Self; 4] = [Self::Endpoint, Self::ApiKey, Self::Denial, Self::Ping];

    /// Does it on a world with one endpoint.
    async fn ask(self, world: &World, key: &str) -> Result<(Origin, StoredAnswer), Error> {
        let key = IdempotencyKey::parse(key).expect("a valid key");
        let once: Once<'_> = world.verbs().once(key);
        Ok(match self {
            Self::Endpoint => {
                let done = once.create_endpoint(endpoint()).await?;
                (done.origin(), done.answer)
            }
            Self::ApiKey => {
                let done = once.create_api_key(api_key()).await?;
                (done.origin(), done.answer)
            }
            Self::Denial => {
                let done = once.deny_network(denied()).await?;
                (done.origin(), done.answer)
            }
            Self::Ping => {
                let all = world.verbs().endpoints(PageRequest::default()).await?;
                let first = all.data.last().expect("the world has one");
                let done = once.test_endpoint(first.id).await?;
                (done.origin(), done.answer)
            }
        })
    }

    /// How many there are.
    async fn count(self, world: &World) -> usize {
        let (verbs, page) = (world.verbs(), PageRequest::first(PageRequest::LIMIT_MAX));
        match self {
            Self::Endpoint => verbs.endpoints(page).await.unwrap().data.len(),
            Self::ApiKey => verbs.api_keys(page).await.unwrap().data.len(),
            Self::Denial => verbs.denied_networks(page).await.unwrap().data.len(),
            Self::Ping => verbs.deliveries(&Default::default(), page).await.unwrap().data.len(),
        }
    }
}

async fn with_endpoint() -> World {
    let world = World::new();
    world.verbs().create_endpoint(endpoint()).await.unwrap();
    world
}

#[tokio::test(start_paused = true)]
async fn a_commit_whose_answer_was_lost_is_found_done() {
    for verb in Verb::ALL {
        let world = with_endpoint().await;
        let before = verb.count(&world).await;
        world.faults.set(Rates { commit_applied_unheard: 1_000, ..Rates::default() });
        // Whether it says that this call did it or an earlier one depends on the guard that finds it done; both are true.
        let (_, answer) = verb.ask(&world, "k").await.unwrap();
        world.faults.set(Rates::default());
        let again = verb.ask(&world, "k").await.unwrap();
        assert_eq!(again, (Origin::Replayed, answer), "{verb:?}");
        assert_eq!(verb.count(&world).await, before + 1, "{verb:?}");
    }
}

/// A client that comes again under its key until it is heard.
#[tokio::test(start_paused = true)]
async fn however_often_storage_fails_a_key_is_done_once() {
    for verb in Verb::ALL {
        let world = with_endpoint().await;
        let before = verb.count(&world).await;
        for round in 0..20 {
            let key = format!("k-{round}");
            world.faults.set(Rates {
                read_fails: 200,
                commit_fails: 200,
                commit_lost: 200,
                commit_applied_unheard: 200,
                ..Rates::default()
            });
            let mut answer = None;
            for _ in 0..100 {
                answer = verb.ask(&world, &key).await.ok().map(|(_, answer)| answer);
                if answer.is_some() {
                    break;
                }
            }
            world.faults.set(Rates::default());
            let answer = answer.expect("one of so many tries is heard");
            assert_eq!(verb.ask(&world, &key).await.unwrap(), (Origin::Replayed, answer));
            // A network is denied once, however many ask for it.
            let expected = if matches!(verb, Verb::Denial) { 1 } else { round + 1 };
            assert_eq!(verb.count(&world).await, before + expected, "{verb:?} {round}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_done_is_answered_while_the_gateway_is_frozen() {
    let world = with_endpoint().await;
    for verb in [Verb::Endpoint, Verb::ApiKey, Verb::Ping] {
        let (origin, answer) = verb.ask(&world, &format!("{verb:?}")).await.unwrap();
        assert_eq!(origin, Origin::First);
        world.verbs().freeze(&Reason::parse("an incident").unwrap()).await.unwrap();
        let before = verb.count(&world).await;
        let again = verb.ask(&world, &format!("{verb:?}")).await.unwrap();
        assert_eq!(again, (Origin::Replayed, answer), "{verb:?}");
        // Under another key it would be done, and is not.
        let refused = verb.ask(&world, &format!("{verb:?}-2")).await.unwrap_err();
        assert!(matches!(refused, Error::Frozen), "{verb:?}: {refused}");
        assert_eq!(verb.count(&world).await, before);
        world.verbs().unfreeze().await.unwrap();
        assert_eq!(verb.ask(&world, &format!("{verb:?}-2")).await.unwrap().0, Origin::First);
    }
}

/// Whose version of a row it was asked about matters to whoever asks, not to whoever asks again.
#[tokio::test(start_paused = true)]
async fn a_change_is_answered_as_it_was_though_more_changed_since() {
    let world = with_endpoint().await;
    let id = world.verbs().endpoints(PageRequest::default()).await.unwrap().data[0].id;
    let to = |text: &str| EndpointUpdate {
        description: Some(Some(Description::parse(text).unwrap())),
        ..EndpointUpdate::default()
    };
    let key = IdempotencyKey::parse("k").unwrap();
    let first = world.verbs().once(key.clone()).update_endpoint(id, to("one")).await.unwrap();
    world.verbs().update_endpoint(id, to("two")).await.unwrap();
    let again = world.verbs().once(key).update_endpoint(id, to("one")).await.unwrap();
    assert_eq!((again.origin(), &again.answer), (Origin::Replayed, &first.answer));
    let now = world.verbs().endpoint(id).await.unwrap().unwrap();
    assert_eq!(
        now.description.as_ref().map(Description::as_str),
        Some("two"),
        "a replay changes nothing"
    );
}
