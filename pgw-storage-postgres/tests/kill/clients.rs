//! Clients that create payments, each under a key of its own, and ask again under the same key until they are answered.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgw_core::access::Caller;
use pgw_core::error::Error;
use pgw_core::gateway::{Bound, Gateway, Origin, Receipt};
use pgw_core::id::{OperationId, PaymentId};
use pgw_core::idempotency::{IdempotencyKey, StoredAnswer};
use pgw_core::scope::{Mode, Scope};
use pgw_core::storage::StorageError;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::world;

/// Far more than an outage takes: see [`Clients::create`].
const TRIES_MAX: u32 = 200;
/// How long a client that hangs up waits for an answer.
const PATIENCE: Duration = Duration::from_millis(500);
/// Keys of a merchant.
const KEYS_PER_MERCHANT: u64 = 200;

/// Clients of one gateway.
#[derive(Debug)]
pub(crate) struct Clients {
    gateway: Gateway,
    next: AtomicU64,
    /// Whether every other one hangs up when an answer takes long, as clients do.
    hang_up: AtomicBool,
    are_done: AtomicBool,
    kept: Mutex<Vec<Kept>>,
    /// How many creations were acknowledged.
    acknowledged: watch::Sender<u64>,
}

/// What a client was told, and what it took.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) scope: Scope,
    pub(crate) key: IdempotencyKey,
    pub(crate) told: Told,
    pub(crate) origin: Origin,
    /// Tries that ended with an error that leaves the client where it was.
    pub(crate) failed: u32,
    /// Tries that it gave up waiting for.
    pub(crate) hung_up: u32,
}

/// What an acknowledgement says, the same every time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) payment: PaymentId,
    pub(crate) operation: OperationId,
    answer: Option<StoredAnswer>,
}

impl Told {
    pub(crate) fn of(receipt: &Receipt) -> Self {
        Self {
            payment: receipt.payment().id,
            operation: receipt.operation,
            answer: receipt.answer.clone(),
        }
    }
}

impl Kept {
    /// The gateway's verbs in this client's name.
    pub(crate) fn verbs<'a>(&self, gateway: &'a Gateway) -> Bound<'a> {
        gateway.by(Caller::host(self.scope.clone()))
    }
}

impl Clients {
    pub(crate) fn of(gateway: &Gateway) -> Arc<Self> {
        Arc::new(Self {
            gateway: gateway.clone(),
            next: AtomicU64::new(0),
            hang_up: AtomicBool::new(true),
            are_done: AtomicBool::new(false),
            kept: Mutex::default(),
            acknowledged: watch::Sender::new(0),
        })
    }

    /// Starts so many at once.
    pub(crate) fn start(self: &Arc<Self>, callers: u32) -> JoinSet<()> {
        let call = async |clients: Arc<Self>, is_impatient: bool| {
            while !clients.are_done.load(Ordering::Relaxed) {
                let hangs_up = is_impatient && clients.hang_up.load(Ordering::Relaxed);
                clients.create_next(hangs_up.then_some(PATIENCE)).await;
            }
        };
        let mut calls = JoinSet::new();
        for caller in 0..callers {
            calls.spawn(call(Arc::clone(self), caller % 2 == 1));
        }
        calls
    }

    /// From now on nobody hangs up.
    pub(crate) fn be_patient(&self) {
        self.hang_up.store(false, Ordering::Relaxed);
    }

    /// Lets each have the answer that it waits for; what all of them were told, in the order of the keys, a merchant's together.
    pub(crate) async fn stop(&self, mut calls: JoinSet<()>) -> Vec<Kept> {
        self.are_done.store(true, Ordering::Relaxed);
        while let Some(call) = calls.join_next().await {
            call.expect(GAVE_UP);
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        kept.sort_by(|a, b| a.key.as_str().cmp(b.key.as_str()));
        kept
    }

    /// Waits until so many more creations were acknowledged.
    pub(crate) async fn acknowledged(&self, more: u64, calls: &mut JoinSet<()>) {
        let mut acknowledged = self.acknowledged.subscribe();
        let enough = *acknowledged.borrow_and_update() + more;
        tokio::select! {
            reached = acknowledged.wait_for(|count| *count >= enough) => {
                reached.expect("its sender is here");
            }
            Some(call) = calls.join_next() => {
                call.expect(GAVE_UP);
                panic!("a caller ended before it was told to");
            }
        }
    }

    /// Creates a payment that nobody asked for before.
    pub(crate) async fn create_next(&self, patience: Option<Duration>) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let kept = self.create(number, patience).await;
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
        self.acknowledged.send_modify(|count| *count += 1);
    }

    /// Asks under one key until there is an answer. Most tries wait for a connection themselves, five seconds at most; if each is refused
    /// at once, all of them still take more than a minute.
    async fn create(&self, number: u64, patience: Option<Duration>) -> Kept {
        let (scope, key) = named(number);
        let (mut failed, mut hung_up) = (0, 0);
        for tries in 1..=TRIES_MAX {
            let verbs = self.gateway.by(Caller::host(scope.clone()));
            let call = verbs.create_payment(world::order(&key));
            let answered = match patience {
                Some(patience) => tokio::time::timeout(patience, call).await,
                None => Ok(call.await),
            };
            match answered {
                Ok(Ok(receipt)) => {
                    let (told, origin) = (Told::of(&receipt), receipt.origin);
                    return Kept { scope, key, told, origin, failed, hung_up };
                }
                Ok(Err(Error::Storage(
                    StorageError::Indeterminate(_) | StorageError::Unavailable(_),
                ))) => failed += 1,
                Ok(Err(error)) => panic!("{key:?} was refused: {error:?}"),
                Err(_elapsed) => hung_up += 1,
            }
            tokio::time::sleep(Duration::from_millis(50) * tries.min(8)).await;
        }
        panic!("{key:?} was not answered in {TRIES_MAX} tries: {failed} failed, {hung_up} hung up");
    }
}

/// The scope and key of a number. Some merchants, so that each one's history can be read as a whole at the end.
fn named(number: u64) -> (Scope, IdempotencyKey) {
    let merchant = format!("shop-{}", number / KEYS_PER_MERCHANT);
    let scope = Scope::new(merchant.parse().expect("a valid name"), Mode::Test);
    (scope, IdempotencyKey::parse(&format!("order-{number:08}")).expect("a valid key"))
}

const GAVE_UP: &str = "a client gave up; its panic is above";
