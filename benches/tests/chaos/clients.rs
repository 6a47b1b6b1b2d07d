//! Clients that order one thing after the other: each order has a key, is asked for under it until there is an answer, and is over when every
//! endpoint knows that it is paid.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgw_core::currency::Currency;
use pgw_core::email::Email;
use pgw_core::error::Error;
use pgw_core::gateway::{Gateway, Origin, Receipt};
use pgw_core::id::{OperationId, PaymentId};
use pgw_core::idempotency::{IdempotencyKey, StoredAnswer};
use pgw_core::money::Money;
use pgw_core::payment::Customer;
use pgw_core::payment::plan::NewPayment;
use pgw_core::storage::StorageError;
use pgw_core::text::{CustomerName, PaymentMethod};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::receiver::Receiver;

#[derive(Debug)]
pub(crate) struct Clients {
    gateway: Gateway,
    receiver: Receiver,
    endpoints: usize,
    manners: Manners,
    next: AtomicU64,
    are_done: AtomicBool,
    kept: Mutex<Vec<Kept>>,
    /// How many orders are over.
    over: watch::Sender<u64>,
}

/// Whether a client waits for as long as an answer takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manners {
    /// All of them do.
    Patient,
    /// Every other one hangs up when it takes long, and asks again.
    Mixed,
}

/// What a client was told, and what it took.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) key: IdempotencyKey,
    pub(crate) told: Told,
    pub(crate) origin: Origin,
    pub(crate) tries: Tries,
}

/// What became of a client's tries before the one that was answered.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tries {
    /// It was told that nobody knows whether it was done.
    pub(crate) in_doubt: u32,
    /// It was told that nothing was done.
    pub(crate) refused: u32,
    /// It gave up waiting.
    pub(crate) hung_up: u32,
    /// Somebody else asked under the same key at the same time.
    pub(crate) is_doubled: bool,
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
        let (payment, answer) = (receipt.payment().id, receipt.answer.clone());
        Self { payment, operation: receipt.operation, answer }
    }
}

impl Clients {
    pub(crate) fn of(
        gateway: &Gateway,
        receiver: &Receiver,
        endpoints: usize,
        manners: Manners,
    ) -> Arc<Self> {
        Arc::new(Self {
            gateway: gateway.clone(),
            receiver: receiver.clone(),
            endpoints,
            manners,
            next: AtomicU64::new(0),
            are_done: AtomicBool::new(false),
            kept: Mutex::default(),
            over: watch::Sender::new(0),
        })
    }

    /// Starts one more.
    pub(crate) fn start(self: &Arc<Self>, calls: &mut JoinSet<()>) {
        let hangs_up = self.manners == Manners::Mixed && calls.len() % 2 == 1;
        let clients = Arc::clone(self);
        calls.spawn(async move {
            while !clients.are_done.load(Ordering::Relaxed) {
                clients.order(hangs_up.then_some(PATIENCE)).await;
            }
        });
    }

    /// Waits until so many more orders are over.
    pub(crate) async fn progress(&self, more: u64, calls: &mut JoinSet<()>) {
        let mut over = self.over.subscribe();
        let enough = *over.borrow_and_update() + more;
        tokio::select! {
            reached = over.wait_for(|count| *count >= enough) => {
                reached.expect("its sender is here");
            }
            Some(call) = calls.join_next() => {
                call.expect(GAVE_UP);
                panic!("a client ended before it was told to");
            }
        }
    }

    /// Lets each end its order; all that was kept, in the order of the keys.
    pub(crate) async fn stop(&self, calls: &mut JoinSet<()>) -> Vec<Kept> {
        self.are_done.store(true, Ordering::Relaxed);
        while let Some(call) = calls.join_next().await {
            call.expect(GAVE_UP);
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        kept.sort_by(|a, b| a.key.as_str().cmp(b.key.as_str()));
        kept
    }

    /// Every fourth order is sent twice at once, as by a proxy that was too eager.
    async fn order(&self, patience: Option<Duration>) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let key = IdempotencyKey::parse(&format!("order-{number:08}")).expect("a valid key");
        let kept = if number.is_multiple_of(4) {
            let (mut one, other) =
                tokio::join!(self.create(&key, patience), self.create(&key, patience));
            assert_eq!(one.told, other.told, "one key, one answer");
            one.tries.is_doubled = true;
            one
        } else {
            self.create(&key, patience).await
        };
        let payment = kept.told.payment.to_string();
        let paid = self.receiver.until_paid(&payment, self.endpoints);
        if tokio::time::timeout(COMES_WITHIN, paid).await.is_err() {
            panic!("not every endpoint was told that {payment} is paid: {kept:?}");
        }
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
        self.over.send_modify(|count| *count += 1);
    }

    /// Asks under one key until there is an answer.
    async fn create(&self, key: &IdempotencyKey, patience: Option<Duration>) -> Kept {
        let mut tries = Tries::default();
        for number in 1..=TRIES_MAX {
            let verbs = self.gateway.host();
            let call = verbs.create_payment(order(key));
            let answered = match patience {
                Some(patience) => tokio::time::timeout(patience * number, call).await,
                None => Ok(call.await),
            };
            match answered {
                Ok(Ok(receipt)) => {
                    let (told, origin) = (Told::of(&receipt), receipt.origin);
                    return Kept { key: key.clone(), told, origin, tries };
                }
                Ok(Err(Error::Storage(StorageError::Indeterminate(_)))) => tries.in_doubt += 1,
                Ok(Err(Error::Storage(StorageError::Unavailable(_)))) => tries.refused += 1,
                Ok(Err(error)) => panic!("{key:?} was refused: {error:?}"),
                Err(_elapsed) => tries.hung_up += 1,
            }
            // As clients do.
            tokio::time::sleep(Duration::from_millis(50) * number.min(8)).await;
        }
        panic!("{key:?} was not answered in {TRIES_MAX} tries: {tries:?}");
    }
}

/// A payment of 49.99 USD.
pub(crate) fn order(key: &IdempotencyKey) -> NewPayment {
    let customer = Customer {
        email: Email::parse("ada@example.com").expect("a valid address"),
        name: CustomerName::parse("Ada Lovelace").expect("a valid name"),
        id: None,
    };
    let amount = Money::from_minor(4_999, Currency::USD).expect("a valid amount");
    let card = PaymentMethod::parse("tok_visa").expect("a valid token");
    NewPayment::new(amount, customer, card).with_idempotency_key(key.clone())
}

const GAVE_UP: &str = "a client gave up; its panic is above";
/// Far more than an outage takes: with their pauses more than a minute if each is refused at once.
const TRIES_MAX: u32 = 200;
/// How long a client that hangs up waits for its first answer; for each further one as much longer. About what an answer takes, so that many a
/// key is asked again while nobody knows how far the first try has come.
const PATIENCE: Duration = Duration::from_millis(20);
/// What does not come by then never will.
pub(crate) const COMES_WITHIN: Duration = Duration::from_secs(120);
