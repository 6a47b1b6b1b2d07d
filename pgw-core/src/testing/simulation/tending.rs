//! What clients do to endpoints: they create them with options of all kinds, change them, rotate their secrets, and delete them.

use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

use crate::access::Caller;
use crate::error::Error;
use crate::gateway::{Bound, Gateway};
use crate::id::EndpointId;
use crate::scope::Scope;
use crate::testing::random::Random;
use crate::text::Reason;
use crate::webhook::plan::{EndpointUpdate, NewEndpoint};
use crate::webhook::{
    CustomHeaders, DeliveryOptions, EndpointStatus, EndpointUrl, EventFilter, Ordering, Profile,
    Profiles, WhenExhausted,
};

use super::world::{Failed, World};

/// Does something to an endpoint of a client's choice, perhaps a new one in this scope.
pub(super) async fn tend(world: &World, dice: &Random, scope: &Scope) -> Result<(), Failed> {
    let known = dice.pick(&world.journal().endpoints).cloned();
    let draw = dice.below(100);
    let Some((scope, id)) = known.filter(|_| draw >= 30) else {
        return create(world, dice, scope).await;
    };
    match draw {
        30..=59 => change(world, dice, &scope, id).await,
        60..=76 => rotate(world, dice, &scope, id).await,
        77..=83 => {
            world
                .call(async |gateway: &Gateway| {
                    gateway.reseal_endpoints(None, 100).await.map(|_| ())
                })
                .await
        }
        84..=92 => {
            let ping = async |host: Bound<'_>| host.test_endpoint(id).await.map(|_| ());
            ask(world, &scope, ping).await
        }
        93..=97 => {
            let update = EndpointUpdate { status: Some(disabled()), ..EndpointUpdate::default() };
            let end = async |host: Bound<'_>| host.update_endpoint(id, update).await.map(|_| ());
            ask(world, &scope, end).await
        }
        _ => ask(world, &scope, async |host: Bound<'_>| host.delete_endpoint(id).await).await,
    }
}

/// Creates an endpoint.
pub(super) async fn create(world: &World, dice: &Random, scope: &Scope) -> Result<(), Failed> {
    let mut new = NewEndpoint::new(address(world));
    new.profiles = profiles(dice);
    new.headers = headers(dice);
    new.options = DeliveryOptions {
        timeout: timeout(dice),
        concurrency: concurrency(dice),
        rate_per_s: rate(dice),
        ordering: ordering(dice),
    };
    if dice.hits(200) {
        new.filters = vec![EventFilter::ALL];
    } else if dice.hits(200) {
        new.filters.extend("payment.*".parse::<EventFilter>());
    }
    let created =
        ask(world, scope, async |host: Bound<'_>| host.create_endpoint(new).await).await?;
    world.witness.shown(&created);
    world.journal().endpoints.push((scope.clone(), created.endpoint.id));
    Ok(())
}

/// Changes this and that, and mostly enables the endpoint again.
async fn change(world: &World, dice: &Random, scope: &Scope, id: EndpointId) -> Result<(), Failed> {
    let update = EndpointUpdate {
        url: dice.hits(150).then(|| address(world)),
        profiles: dice.hits(200).then(|| profiles(dice)),
        headers: dice.hits(200).then(|| headers(dice)),
        timeout: dice.hits(200).then(|| timeout(dice)),
        concurrency: dice.hits(200).then(|| concurrency(dice)),
        rate_per_s: dice.hits(200).then(|| rate(dice)),
        ordering: dice.hits(150).then(|| ordering(dice)),
        status: dice.hits(800).then_some(EndpointStatus::Enabled),
        ..EndpointUpdate::default()
    };
    let changed = async |host: Bound<'_>| host.update_endpoint(id, update).await;
    ask(world, scope, changed).await.map(|_| ())
}

async fn rotate(world: &World, dice: &Random, scope: &Scope, id: EndpointId) -> Result<(), Failed> {
    let overlap = match dice.below(4) {
        0 => Duration::ZERO,
        // Over soon, or by the next jump of a clock.
        1 | 2 => Duration::from_secs(5) + dice.wait(Duration::from_secs(60)),
        _ => Duration::from_secs(24 * 60 * 60),
    };
    let rotate = async |host: Bound<'_>| host.rotate_secret(id, overlap).await;
    let rotated = ask(world, scope, rotate).await?;
    world.witness.shown(&rotated);
    Ok(())
}

async fn ask<T>(
    world: &World,
    scope: &Scope,
    call: impl AsyncFnOnce(Bound<'_>) -> Result<T, Error>,
) -> Result<T, Failed> {
    let caller = Caller::host(scope.clone());
    world.call(async |gateway: &Gateway| call(gateway.by(caller)).await).await
}

/// An address that no other endpoint ever had, so that it tells whose a webhook is.
fn address(world: &World) -> EndpointUrl {
    let mut journal = world.journal();
    journal.addresses = journal.addresses.saturating_add(1);
    let text = format!("https://receiver-{0}.example/hooks/{0}", journal.addresses);
    EndpointUrl::parse(&text).expect("a plain https address")
}

fn profiles(dice: &Random) -> Profiles {
    let drawn = Profiles::new(Profile::ALL.into_iter().filter(|_| dice.hits(600)));
    drawn.unwrap_or_default()
}

fn headers(dice: &Random) -> CustomHeaders {
    if dice.hits(500) {
        return CustomHeaders::default();
    }
    // What must be found in no row and no log begins so.
    let token = format!("canary-header-{}", dice.below(1_000));
    let headers = [("X-Token", token.as_str()), ("x-tenant", "canary-header-blue")];
    CustomHeaders::parse(headers).expect("plain names and values")
}

fn timeout(dice: &Random) -> Option<Duration> {
    let drawn = Duration::from_millis(1_000 + dice.below(7_000));
    dice.hits(400).then_some(drawn)
}

fn concurrency(dice: &Random) -> Option<NonZeroU8> {
    let most = u64::from(DeliveryOptions::CONCURRENCY_MAX);
    let drawn = u8::try_from(1 + dice.below(most)).ok().and_then(NonZeroU8::new);
    drawn.filter(|_| dice.hits(400))
}

fn rate(dice: &Random) -> Option<NonZeroU32> {
    let drawn = NonZeroU32::new(u32::try_from(1 + dice.below(10)).unwrap_or(1));
    drawn.filter(|_| dice.hits(250))
}

fn ordering(dice: &Random) -> Ordering {
    match dice.below(6) {
        0 | 1 => Ordering::ByPayment(WhenExhausted::Skip),
        2 => Ordering::ByPayment(WhenExhausted::Park),
        _ => Ordering::AsDue,
    }
}

fn disabled() -> EndpointStatus {
    let reason = Reason::parse("maintenance").expect("a word is a reason");
    EndpointStatus::Disabled { reason }
}
