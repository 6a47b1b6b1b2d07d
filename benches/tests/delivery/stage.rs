//! What a scenario runs on: a private server, a gateway on it that only asks, worker processes that do the rest, and receivers.

use std::time::Duration;

use benches::worker::Spec;
use benches::workers::Workers;
use pgw_core::currency::Currency;
use pgw_core::email::Email;
use pgw_core::gateway::Gateway;
use pgw_core::money::Money;
use pgw_core::payment::plan::{NewPayment, NewRefund, RequestedAmount};
use pgw_core::payment::{Customer, PaymentStatus};
use pgw_core::queue::Lane;
use pgw_core::testing::random::Random;
use pgw_core::text::{CustomerName, PaymentMethod};
use pgw_core::webhook::plan::NewEndpoint;
use pgw_core::webhook::{Endpoint, EndpointUrl};
use pgw_storage_postgres::sqlx::{Connection as _, PgConnection, query_scalar};
use pgw_storage_postgres::{Migrator, PgStorage, Schema};
use servers::Postgres;
use tokio::task::JoinSet;

use crate::sink::{Manners, Sink};

/// In this order it is dropped: the workers before their server.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) workers: Workers,
    pub(crate) gateway: Gateway,
    pub(crate) pg: PgStorage,
    pub(crate) sink: Sink,
    /// The endpoints by their numbers.
    pub(crate) endpoints: Vec<Endpoint>,
    /// What does not come by then never will.
    patience: Duration,
    _postgres: Postgres,
}

impl Stage {
    pub(crate) async fn set(webhook_timeout: Duration, patience: Duration) -> Self {
        let postgres = Postgres::builder().start().expect("PostgreSQL is installed");
        let url = postgres.url();
        let mut owner = PgConnection::connect(&url).await.expect("it was just started");
        Migrator::new(Schema::default()).run(&mut owner).await.expect("the database is empty");
        owner.close().await.expect(HEALTHY);
        let spec = Spec::on(url, webhook_timeout);
        let backends = spec.connect().await.expect("the schema is migrated");
        let gateway = spec.gateway(&backends, backends.queue());
        Self {
            workers: Workers::new(env!("CARGO_BIN_EXE_worker"), spec),
            gateway: gateway.expect("it has all its parts"),
            pg: backends.pg,
            sink: Sink::new(),
            endpoints: Vec::new(),
            patience,
            _postgres: postgres,
        }
    }

    /// Starts a worker for this lane.
    pub(crate) fn work(&mut self, lane: Lane) {
        self.workers.start(Some(lane)).expect("the system gives processes");
    }

    /// Opens an endpoint, with what is to be set of it.
    pub(crate) async fn open(
        &mut self,
        manners: Manners,
        dice: Random,
        set: impl FnOnce(&mut NewEndpoint),
    ) {
        let (number, url) = self.sink.open(manners, dice).await;
        let mut new = NewEndpoint::new(EndpointUrl::parse(&url).expect("a valid address"));
        set(&mut new);
        let made = self.gateway.host().create_endpoint(new).await.expect(HEALTHY);
        self.sink.trust(number, made.secret.expose());
        self.endpoints.push(made.endpoint);
    }

    /// Lets payments live, some at a time. Of each there are [`EVENTS`].
    pub(crate) fn pay(&self, payments: usize) -> JoinSet<()> {
        let mut payers = JoinSet::new();
        for payer in 0..PAYERS {
            let (gateway, patience) = (self.gateway.clone(), self.patience);
            payers.spawn(async move {
                for _ in (payer..payments).step_by(PAYERS) {
                    live(&gateway, patience).await;
                }
            });
        }
        payers
    }

    /// Waits until so many webhooks have come in all.
    pub(crate) async fn until_came(&self, count: usize) {
        let came = tokio::time::timeout(self.patience, self.sink.until_came(count)).await;
        came.expect("workers that live deliver what is due");
    }

    /// Waits until there are no such rows: looks whenever a worker finds nothing to do.
    pub(crate) async fn until_none(&self, count: &'static str) {
        let none = async {
            while self.count(count).await > 0 {
                self.workers.idle.notified().await;
            }
        };
        if tokio::time::timeout(self.patience, none).await.is_err() {
            panic!("work is left that nobody does: {} of {count}", self.count(count).await);
        }
    }

    /// What such a statement counts.
    pub(crate) async fn count(&self, sql: &'static str) -> u64 {
        let count: i64 = query_scalar(sql).fetch_one(self.pg.pool()).await.expect(HEALTHY);
        u64::try_from(count).expect("a count is not negative")
    }
}

/// Created, charged, and half of it given back.
async fn live(gateway: &Gateway, patience: Duration) {
    let verbs = gateway.host();
    let customer = Customer {
        email: Email::parse("ada@example.com").expect("a valid address"),
        name: CustomerName::parse("Ada Lovelace").expect("a valid name"),
        id: None,
    };
    let card = PaymentMethod::parse("tok_visa").expect("a valid token");
    let made = verbs.create_payment(NewPayment::new(usd(4_998), customer, card)).await;
    let payment = made.expect(HEALTHY).payment().id;
    let charged = verbs.wait_for(payment, None, patience).await.expect(HEALTHY);
    assert_eq!(charged.payment.status, PaymentStatus::Succeeded, "{charged:?}");
    let half = RequestedAmount::Exactly(usd(2_499));
    let refund = NewRefund { amount: half, reason: None, idempotency_key: None };
    verbs.refund_payment(payment, refund).await.expect(HEALTHY);
}

fn usd(minor: i64) -> Money {
    Money::from_minor(minor, Currency::USD).expect("a valid amount")
}

/// What a storage answers when nothing is wrong.
pub(crate) const HEALTHY: &str = "a healthy storage answers";
/// The events of a payment: created, succeeded; refund created, succeeded.
pub(crate) const EVENTS: usize = 4;
/// Payments that live at the same time.
const PAYERS: usize = 16;
