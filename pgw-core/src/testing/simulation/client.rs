//! Clients: they ask for this and that, and ask again under the same key when they get no answer.

use std::sync::Arc;
use std::time::Duration;

use crate::access::Caller;
use crate::currency::Currency;
use crate::email::Email;
use crate::error::Error;
use crate::gateway::{Gateway, Receipt};
use crate::id::PaymentId;
use crate::idempotency::IdempotencyKey;
use crate::money::Money;
use crate::page::PageRequest;
use crate::payment::plan::{NewCapture, NewPayment, NewRefund, RequestedAmount};
use crate::payment::{CaptureMethod, Customer, Finality};
use crate::scope::Scope;
use crate::storage::DeliveryFilter;
use crate::testing::random::Random;
use crate::text::{CustomerId, CustomerName, Description, PaymentMethod};

use super::logs::Logs;
use super::tending;
use super::world::{Failed, World};

/// Something asked of a payment.
#[derive(Debug, Clone)]
pub(super) enum Command {
    Create(Box<NewPayment>),
    Capture(PaymentId, NewCapture),
    Cancel(PaymentId, Option<IdempotencyKey>),
    Refund(PaymentId, NewRefund),
}

impl Command {
    pub(super) const fn key(&self) -> Option<&IdempotencyKey> {
        match self {
            Self::Create(new) => new.idempotency_key.as_ref(),
            Self::Capture(_, new) => new.idempotency_key.as_ref(),
            Self::Cancel(_, key) => key.as_ref(),
            Self::Refund(_, new) => new.idempotency_key.as_ref(),
        }
    }

    async fn ask(&self, gateway: &Gateway, scope: &Scope) -> Result<Receipt, Error> {
        let bound = gateway.by(Caller::host(scope.clone()));
        match self.clone() {
            Self::Create(new) => bound.create_payment(*new).await,
            Self::Capture(id, new) => bound.capture_payment(id, new).await,
            Self::Cancel(id, key) => bound.cancel_payment(id, key).await,
            Self::Refund(id, new) => bound.refund_payment(id, new).await,
        }
    }
}

/// The life of a client.
pub(super) async fn live(world: Arc<World>, logs: Logs) {
    let client = Client { dice: world.dice.fork(), world, logs };
    if client.dice.hits(500) {
        client.create_endpoint().await;
    }
    for _ in 0..client.world.chance.actions {
        tokio::time::sleep(client.dice.wait(Duration::from_secs(3))).await;
        client.act().await;
    }
}

struct Client {
    world: Arc<World>,
    logs: Logs,
    dice: Random,
}

impl Client {
    async fn act(&self) {
        let scope = self.scope();
        let payment = self.payment();
        match (self.dice.below(100), payment) {
            (0..=27, _) | (_, None) => {
                let new = self.new_payment();
                self.insist(scope, Command::Create(Box::new(new))).await;
            }
            (28..=39, Some((scope, id))) => {
                let new = NewCapture {
                    amount: self.amount(),
                    finality: if self.dice.hits(300) { Finality::Final } else { Finality::Open },
                    idempotency_key: self.key(),
                };
                self.insist(scope, Command::Capture(id, new)).await;
            }
            (40..=46, Some((scope, id))) => {
                let key = self.key();
                self.insist(scope, Command::Cancel(id, key)).await;
            }
            (47..=68, Some((scope, id))) => {
                let new =
                    NewRefund { amount: self.amount(), reason: None, idempotency_key: self.key() };
                self.insist(scope, Command::Refund(id, new)).await;
            }
            (69..=76, Some((scope, id))) => self.confirm(&scope, id).await,
            (77..=83, _) => self.repeat().await,
            (84 | 85, Some((scope, id))) => self.wait_for(&scope, id).await,
            (86..=88, _) => self.retry_delivery(&scope).await,
            (89, _) => self.erase(&scope).await,
            _ => self.tend_endpoints(&scope).await,
        }
    }

    /// Asks, and with a key asks again until there is an answer that is not worth another try, like a good client.
    async fn insist(&self, scope: Scope, command: Command) {
        if command.key().is_some() {
            self.world.journal().commands.push((scope.clone(), command.clone()));
        }
        self.ask(&scope, &command).await;
    }

    async fn ask(&self, scope: &Scope, command: &Command) {
        for _ in 0..TRIES {
            let asked =
                self.world.call(async |gateway: &Gateway| command.ask(gateway, scope).await);
            // A client's own patience: the call may still be under way when it is asked again.
            let patience = Duration::from_secs(2) + self.dice.wait(Duration::from_secs(30));
            let Ok(asked) = tokio::time::timeout(patience, asked).await else {
                if command.key().is_none() {
                    return;
                }
                continue;
            };
            match asked {
                Ok(receipt) => return self.world.acknowledge(scope, command.key(), &receipt),
                Err(failed) if !self.is_worth_another_try(&failed) => return,
                Err(_) if command.key().is_none() => return,
                Err(_) => tokio::time::sleep(self.dice.wait(Duration::from_secs(2))).await,
            }
        }
    }

    /// Sends a known command again, perhaps while somebody else does too.
    async fn repeat(&self) {
        let known = self.dice.pick(&self.world.journal().commands).cloned();
        if let Some((scope, command)) = known {
            self.ask(&scope, &command).await;
        }
    }

    async fn confirm(&self, scope: &Scope, id: PaymentId) {
        let caller = Caller::host(scope.clone());
        let asked = async |gateway: &Gateway| gateway.by(caller).confirm_payment(id).await;
        if let Err(failed) = self.world.call(asked).await {
            self.is_worth_another_try(&failed);
        }
    }

    async fn wait_for(&self, scope: &Scope, id: PaymentId) {
        let caller = Caller::host(scope.clone());
        let wait = self.dice.wait(Duration::from_secs(5));
        let asked = async |gateway: &Gateway| gateway.by(caller).wait_for(id, None, wait).await;
        if let Err(failed) = self.world.call(asked).await {
            self.is_worth_another_try(&failed);
        }
    }

    async fn retry_delivery(&self, scope: &Scope) {
        let caller = Caller::host(scope.clone());
        let asked = async |gateway: &Gateway| {
            let bound = gateway.by(caller);
            let page = bound.deliveries(&DeliveryFilter::default(), PageRequest::first(50)).await?;
            match self.dice.pick(&page.data) {
                Some(delivery) => bound.retry_delivery(delivery.id).await.map(|_| ()),
                None => Ok(()),
            }
        };
        if let Err(failed) = self.world.call(asked).await {
            self.is_worth_another_try(&failed);
        }
    }

    /// A customer asks to be forgotten.
    async fn erase(&self, scope: &Scope) {
        let caller = Caller::host(scope.clone());
        let customer = self.customer();
        let asked = async |gateway: &Gateway| gateway.by(caller).erase_customer(&customer).await;
        if let Err(failed) = self.world.call(asked).await {
            self.is_worth_another_try(&failed);
        }
    }

    fn customer(&self) -> CustomerId {
        let name = format!("canary-{}", self.dice.below(3));
        CustomerId::parse(&name).expect("a plain id")
    }

    /// From the beginning, so that there is somebody who hears most of what happens.
    async fn create_endpoint(&self) {
        tokio::time::sleep(self.dice.wait(Duration::from_secs(1))).await;
        if let Err(failed) = tending::create(&self.world, &self.dice, &self.scope()).await {
            self.is_worth_another_try(&failed);
        }
    }

    async fn tend_endpoints(&self, scope: &Scope) {
        if let Err(failed) = tending::tend(&self.world, &self.dice, scope).await {
            self.is_worth_another_try(&failed);
        }
    }

    fn is_worth_another_try(&self, failed: &Failed) -> bool {
        match failed {
            Failed::Gone => true,
            Failed::With(error) => {
                self.logs.read(&format!("{error} {error:?}"));
                error.is_retryable()
            }
        }
    }

    fn scope(&self) -> Scope {
        self.dice.pick(&self.world.scopes).cloned().unwrap_or_default()
    }

    fn payment(&self) -> Option<(Scope, PaymentId)> {
        let journal = self.world.journal();
        // Mostly one of the latest: that is where things are under way.
        let recent = journal.payments.len().saturating_sub(4);
        let from = if self.dice.hits(700) { recent } else { 0 };
        self.dice.pick(journal.payments.get(from..).unwrap_or_default()).cloned()
    }

    fn key(&self) -> Option<IdempotencyKey> {
        let keyed = self.dice.hits(800);
        let mut journal = self.world.journal();
        journal.keys = journal.keys.saturating_add(1);
        let text = format!("key-{}", journal.keys);
        keyed.then(|| IdempotencyKey::parse(&text).expect("letters and digits are a key"))
    }

    fn amount(&self) -> RequestedAmount {
        if self.dice.hits(300) {
            return RequestedAmount::Rest;
        }
        let minor = i64::try_from(100 + self.dice.below(3_000)).unwrap_or(100);
        RequestedAmount::Exactly(Money::from_minor(minor, Currency::USD).expect("a small amount"))
    }

    fn new_payment(&self) -> NewPayment {
        let minor = i64::try_from(1_000 + self.dice.below(9_000)).unwrap_or(1_000);
        let token = match self.dice.below(20) {
            0 => "tok_dispute",
            1 | 2 => "tok_requires_action",
            _ => "tok_visa",
        };
        let customer = Customer {
            email: Email::parse("canary@shop.example").expect("a plain address"),
            name: CustomerName::parse("Canary Bird").expect("a plain name"),
            id: self.dice.hits(800).then(|| self.customer()),
        };
        let mut new = NewPayment::new(
            Money::from_minor(minor, Currency::USD).expect("a small amount"),
            customer,
            PaymentMethod::parse(token).expect("a token of the sandbox"),
        );
        new.description = Some(Description::parse("A canary for the shop").expect("plain text"));
        if self.dice.hits(500) {
            new.capture = CaptureMethod::Manual;
        }
        if self.dice.hits(300) {
            new.expires_in = Some(Duration::from_secs(60 + self.dice.below(120)));
        }
        new.idempotency_key = self.key();
        new
    }
}

/// How often a client asks before it gives up for good.
const TRIES: u32 = 12;
