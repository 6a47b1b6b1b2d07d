//! An order and its payment in one transaction of the host's: both are there, or neither is, even when the process dies between them.
//!
//! `cargo run --example host_transaction`. With `DATABASE_URL` it uses that database (schemas `pgw` and `shop`); without, it starts a
//! private PostgreSQL, which must be installed, and removes it at the end.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use pgw_core::currency::Currency;
use pgw_core::email::Email;
use pgw_core::gateway::Gateway;
use pgw_core::id::PaymentId;
use pgw_core::idempotency::IdempotencyKey;
use pgw_core::money::Money;
use pgw_core::payment::Customer;
use pgw_core::payment::plan::NewPayment;
use pgw_core::scope::Scope;
use pgw_core::storage::Storage as _;
use pgw_core::text::{CustomerName, PaymentMethod};
use pgw_core::worker::Worker;
use pgw_storage_postgres::sqlx::{self, Connection as _, PgConnection};
use pgw_storage_postgres::{Migrator, PgStorage, Schema};
use servers::Postgres;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("--die-before-commit") {
        return die_before_commit(&arguments.next().ok_or("the URL is missing")?).await;
    }
    let (url, _server) = match std::env::var("DATABASE_URL") {
        Ok(url) => (url, None),
        Err(_) => {
            println!("DATABASE_URL is not set: starting a private PostgreSQL");
            let server = Postgres::builder().durable().start()?;
            (server.url(), Some(server))
        }
    };
    prepare(&url).await?;
    let shop = Shop::open(&url).await?;
    let worker = Worker::new(&shop.gateway).start();

    println!("order-1: committed, with payment {}", shop.place("order-1").await?);

    println!("order-2: another process writes order and payment, and dies before its commit …");
    let status = std::process::Command::new(std::env::current_exe()?)
        .args(["--die-before-commit", &url])
        .status()?;
    println!("order-2: it ended with {status}; {}", shop.has("order-2").await?);

    let id = shop.place("order-2").await?;
    println!("order-2: placed again under the same key, payment {id}");
    let again = shop.place("order-2").await?;
    println!("order-2: placed once more by an impatient customer, payment {again}: the same");

    let paid = shop.gateway.host().wait_for(id, None, Duration::from_secs(10)).await?;
    println!("order-2: payment {id} is {}", paid.payment.status);
    worker.shutdown().await;
    Ok(())
}

struct Shop {
    pg: PgStorage,
    gateway: Gateway,
}

impl Shop {
    async fn open(url: &str) -> Result<Self, Box<dyn Error>> {
        let pg = PgStorage::builder().connect(url).await?;
        let gateway = Gateway::builder()
            .with_queue(Arc::new(pg.queue()))
            .with_notifier(Arc::new(pg.notifier()))
            .with_storage(Arc::new(pg.clone()))
            .build()?;
        Ok(Self { pg, gateway })
    }

    /// The order and its payment, in one transaction. The order's name is the payment's idempotency key.
    async fn place(&self, order: &str) -> Result<PaymentId, Box<dyn Error>> {
        let mut transaction = self.pg.pool().begin().await?;
        let insert = "insert into shop.orders (name) values ($1) on conflict (name) do nothing";
        sqlx::query(insert).bind(order).execute(&mut *transaction).await?;
        let storage = self.pg.enlist(&mut transaction);
        let receipt = self.gateway.on(&storage).create_payment(new_payment(order)?).await?;
        drop(storage);
        if std::env::args().any(|argument| argument == "--die-before-commit") {
            println!("order-2: both rows are written in the transaction; now the power fails");
            std::process::abort();
        }
        transaction.commit().await?;
        Ok(receipt.payment().id)
    }

    async fn has(&self, order: &str) -> Result<String, Box<dyn Error>> {
        let orders = sqlx::query("select name from shop.orders where name = $1").bind(order);
        let orders = orders.fetch_all(self.pg.pool()).await?.len();
        let key = IdempotencyKey::parse(order)?;
        let payments = usize::from(self.pg.key(&Scope::default(), &key).await?.is_some());
        Ok(format!("there are {orders} orders and {payments} payments of that name"))
    }
}

async fn die_before_commit(url: &str) -> Result<(), Box<dyn Error>> {
    Shop::open(url).await?.place("order-2").await?;
    Err("it did not die".into())
}

async fn prepare(url: &str) -> Result<(), Box<dyn Error>> {
    let mut owner = PgConnection::connect(url).await?;
    for applied in Migrator::new(Schema::default()).run(&mut owner).await? {
        println!("migrated: {applied}");
    }
    let shop = "create schema if not exists shop; create table if not exists shop.orders (name text primary key)";
    sqlx::raw_sql(shop).execute(&mut owner).await?;
    Ok(owner.close().await?)
}

fn new_payment(order: &str) -> Result<NewPayment, Box<dyn Error>> {
    let customer = Customer {
        email: Email::parse("ada@example.com")?,
        name: CustomerName::parse("Ada Lovelace")?,
        id: None,
    };
    let amount = Money::parse_major("49.99", Currency::USD)?;
    let new = NewPayment::new(amount, customer, PaymentMethod::parse("tok_visa")?);
    Ok(new.with_idempotency_key(IdempotencyKey::parse(order)?))
}
