//! Healing: the weather is clear, customers act, a person settles what needs one by the processor's books, and everything that can
//! still move is waited for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::access::{Caller, SealKey};
use crate::env::Clock as _;
use crate::error::Error;
use crate::gateway::Gateway;
use crate::id::OperationId;
use crate::payment::plan::{Resolution, Resolve};
use crate::payment::{OperationState, PaymentState};
use crate::sandbox::EntryState;
use crate::scope::Scope;
use crate::storage::StorageError;
use crate::testing::invariants::{Broken, Rows, unsealed};
use crate::text::Reason;
use crate::webhook::{Delivery, DeliveryState};

use super::process::pepper;
use super::world::World;

/// Waits until nothing moves any more. What is broken if that never is.
pub(super) async fn heal(world: &Arc<World>) -> Option<Broken> {
    let mut restless = String::new();
    for round in 0..ROUNDS_MAX {
        tokio::time::sleep(ROUND).await;
        if !world.witness.broken().is_empty() {
            // There is no rest for what is broken already.
            return None;
        }
        let healed = tokio::time::timeout(PATIENCE, heal_once(world, round)).await;
        restless = match healed {
            Ok(Ok(None)) => return None,
            Ok(Ok(Some(what))) => what,
            Ok(Err(error)) => return Some(("a calm storage can be read", error.to_string())),
            Err(_) => return Some(("a calm gateway answers", "a call took too long".to_owned())),
        };
    }
    Some(("everything comes to rest", restless))
}

/// One round; says what still moves.
async fn heal_once(world: &Arc<World>, round: u32) -> Result<Option<String>, StorageError> {
    let storage = world.backend.storage();
    let mut restless = None;
    for scope in &world.scopes {
        let rows = Rows::read(&*storage, scope).await?;
        for state in &rows.payments {
            restless = restless.or(settle(world, scope, state, round).await?);
        }
        replay(world, scope, &rows).await;
        let heard = world.journal().heard.get(scope).and_then(|heard| heard.last().copied());
        restless = restless.or(rows.restless(heard.map_or(0, |(position, _)| position)));
        if restless.is_none() {
            let (key, now) = (SealKey::of(&pepper()), world.clock.now());
            restless = unsealed(&*storage, &key, &scope.merchant, now).await?;
        }
    }
    let waits =
        |state: &EntryState| matches!(state, EntryState::RequiresAction | EntryState::Pending);
    if let Some(entry) = world.sandbox.ledger().into_iter().find(|entry| waits(&entry.state)) {
        restless.get_or_insert(format!("{} waits at the processor", entry.key));
        if entry.state == EntryState::RequiresAction && round > ROUNDS_FOR_CALLS {
            let _ = world.sandbox.complete_action(entry.key);
        }
    }
    Ok(restless)
}

/// Replays what was given up and holds up a payment's later events: without that, an endpoint that parks them waits for ever.
async fn replay(world: &Arc<World>, scope: &Scope, rows: &Rows) {
    let place = |delivery: &Delivery| Some((delivery.id.endpoint(), delivery.payment?));
    let waiting: BTreeSet<_> = rows
        .deliveries
        .iter()
        .filter(|delivery| delivery.state == DeliveryState::Pending)
        .filter_map(place)
        .collect();
    for delivery in &rows.deliveries {
        let is_given_up = matches!(delivery.state, DeliveryState::Failed(_));
        if is_given_up && place(delivery).is_some_and(|place| waiting.contains(&place)) {
            let caller = Caller::host(scope.clone());
            let retried = async |gateway: &Gateway| {
                gateway.by(caller.clone()).retry_delivery(delivery.id).await.map(|_| ())
            };
            // Refused where somebody else is at it; the next round looks again.
            let _ = world.insist(retried).await;
        }
    }
}

/// Does what a person would about a payment; says what of it still moves.
async fn settle(
    world: &Arc<World>,
    scope: &Scope,
    state: &PaymentState,
    round: u32,
) -> Result<Option<String>, StorageError> {
    let id = state.payment.id;
    let mut moves = None;
    for operation in state.operations.iter().filter(|operation| !operation.state.is_settled()) {
        moves = Some(format!("{} of {id} is {:?}", operation.id, operation.state));
        if operation.state == OperationState::RequiresAction {
            let confirmed = async |gateway: &Gateway| {
                gateway.by(Caller::host(scope.clone())).confirm_payment(id).await
            };
            // Refused when a cancel is under way: then that decides.
            let _ = world.insist(confirmed).await;
        } else if operation.needs_review && round > ROUNDS_FOR_CALLS {
            // No call is under way any more, so the books are complete.
            if let Some(outcome) = truth(world, operation.id) {
                let _ = resolve(world, scope, state, operation.id, outcome).await;
            }
        }
    }
    for conflict in world.backend.storage().conflicts(scope, id).await? {
        if conflict.closed_at.is_none() {
            moves = Some(format!("{} of {id} is open", conflict.id));
            let _ = resolve(world, scope, state, conflict.operation, Resolution::Dismissed).await;
        }
    }
    if moves.is_none() && state.payment.needs_review {
        moves = Some(format!("{id} needs a review of nothing"));
    }
    Ok(moves)
}

async fn resolve(
    world: &World,
    scope: &Scope,
    state: &PaymentState,
    operation: OperationId,
    outcome: Resolution,
) -> Result<PaymentState, Error> {
    let reason = Reason::parse("as the processor's books say").expect("a sentence is a reason");
    let command = Resolve { operation, outcome, reason };
    let resolved = async |gateway: &Gateway| {
        gateway.by(Caller::host(scope.clone())).resolve(state.payment.id, command.clone()).await
    };
    world.insist(resolved).await
}

/// What the processor's books say of an operation; `None` while it is open there.
fn truth(world: &World, operation: OperationId) -> Option<Resolution> {
    let mut truth = Resolution::Failed;
    for entry in world.sandbox.ledger().iter().filter(|entry| entry.key == operation) {
        match entry.state {
            EntryState::Succeeded => truth = Resolution::Succeeded,
            EntryState::Pending | EntryState::RequiresAction => return None,
            EntryState::Failed(_) | EntryState::Undone => {}
        }
    }
    Some(truth)
}

/// Between two looks.
const ROUND: Duration = Duration::from_secs(5);
/// After this many rounds no call of before is under way: 40 s is more than any call or process takes.
const ROUNDS_FOR_CALLS: u32 = 8;
/// After 20 minutes what still moves moves for ever: the longest schedule of a simulated world is a few minutes.
const ROUNDS_MAX: u32 = 240;
/// Longest a round may take: its calls meet no faults any more, only restarts.
const PATIENCE: Duration = Duration::from_secs(300);
