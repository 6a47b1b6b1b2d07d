//! The load: payments created over HTTP, as fast as so many connections can or at a fixed rate.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};

use crate::message::Connection;
use crate::time::{Moment, quantile};

/// A client of a node's API that keeps its connections. Clones share them, and the numbers of the orders.
#[derive(Debug, Clone)]
pub struct Load(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    address: SocketAddr,
    idle: Mutex<Vec<Connection>>,
    orders: AtomicU64,
}

/// When a load ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// After this time.
    Time(Duration),
    /// After so many payments.
    Count(u64),
}

impl Until {
    fn is_over(self, start: Moment, number: u64) -> bool {
        match self {
            Self::Time(time) => start.ago() >= time,
            Self::Count(count) => number >= count,
        }
    }
}

impl Load {
    /// On the node at this address.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self::from(address, 0)
    }

    /// The same, its orders numbered from this one on: two loads of one merchant have no order, and no key, in common.
    #[must_use]
    pub fn from(address: SocketAddr, first: u64) -> Self {
        Self(Arc::new(Inner { address, idle: Mutex::default(), orders: AtomicU64::new(first) }))
    }

    /// Posts a JSON body, and gives back that of the answer.
    ///
    /// # Errors
    /// When the connection breaks, and for every answer but a success.
    pub async fn post(
        &self,
        path: &str,
        key: &str,
        idempotency: &str,
        body: &str,
    ) -> io::Result<Vec<u8>> {
        let idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => Connection::new(TcpStream::connect(self.0.address).await?)?,
        };
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: pgw\r\nx-api-key: {key}\r\nidempotency-key: {idempotency}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        connection.write(request.as_bytes()).await?;
        let answer = connection.read().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if !answer.status().is_some_and(|status| (200..300).contains(&status)) {
            let told = String::from_utf8_lossy(answer.body);
            return Err(io::Error::other(format!("{path}: {:?} {told}", answer.status())));
        }
        let body = answer.body.to_vec();
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok(body)
    }

    /// Creates a payment of this number.
    async fn pay(&self, key: &str, order: u64) -> io::Result<()> {
        let body = format!(
            r#"{{"amount":"49.99","currency":"USD","payment_method":"tok_visa","customer_email":"ada.lovelace@example.com","customer_name":"Ada Lovelace","customer_id":"cus_42","description":"order-{order}"}}"#
        );
        self.post("/payments", key, &format!("order-{order:032}"), &body).await.map(drop)
    }

    /// Creates payments by so many connections, each one after the other. With places, each payment takes one, which somebody else adds
    /// again. How many were created.
    ///
    /// # Errors
    /// When a payment is refused.
    pub async fn saturate(
        &self,
        key: &str,
        connections: usize,
        until: Until,
        places: Option<Arc<Semaphore>>,
    ) -> Result<u64, Box<dyn Error>> {
        let start = Moment::now();
        let created = Arc::new(AtomicU64::new(0));
        let mut tasks = Vec::new();
        for _ in 0..connections {
            let (load, key) = (self.clone(), key.to_owned());
            let (created, places) = (Arc::clone(&created), places.clone());
            tasks.push(tokio::spawn(async move {
                loop {
                    if let Some(places) = &places {
                        places.acquire().await.expect("it is never closed").forget();
                    }
                    let number = created.fetch_add(1, Ordering::SeqCst);
                    if until.is_over(start, number) {
                        created.fetch_sub(1, Ordering::SeqCst);
                        return io::Result::Ok(());
                    }
                    load.pay(&key, load.0.orders.fetch_add(1, Ordering::SeqCst)).await?;
                }
            }));
        }
        for task in tasks {
            task.await??;
        }
        Ok(created.load(Ordering::SeqCst))
    }

    /// Creates payments at a fixed rate, each at its time whether or not those before it are done, for one key after the other. The numbers of
    /// the orders, and the times they were to be created at.
    ///
    /// # Errors
    /// When a payment is refused.
    pub async fn steady(
        &self,
        keys: &[String],
        per_s: u32,
        time: Duration,
    ) -> Result<Vec<(u64, Moment)>, Box<dyn Error>> {
        let (tell, mut due) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            let start = Moment::now();
            for n in 0..u32::MAX {
                let at = Duration::from_secs(1) * n / per_s;
                if at >= time {
                    return;
                }
                let at = start.plus(at);
                at.wait();
                if tell.send(at).is_err() {
                    return;
                }
            }
        });
        let (mut orders, mut tasks) = (Vec::new(), Vec::new());
        while let Some(at) = due.recv().await {
            let order = self.0.orders.fetch_add(1, Ordering::SeqCst);
            orders.push((order, at));
            let (load, key) = (self.clone(), keys[orders.len() % keys.len()].clone());
            tasks.push(tokio::spawn(async move { load.pay(&key, order).await }));
        }
        for task in tasks {
            task.await??;
        }
        Ok(orders)
    }
}

/// Sends requests by so many connections, each one after the other, for some time: how many were answered with a success, and how long they
/// took. `request` gives the bytes of the n-th; `heard` sees each answer's body.
///
/// # Errors
/// When a connection breaks, and for every answer but a success.
pub async fn hammer(
    address: SocketAddr,
    connections: usize,
    time: Duration,
    request: impl Fn(u64) -> String + Send + Sync + 'static,
    heard: impl Fn(&[u8]) + Send + Sync + 'static,
) -> Result<crate::pgbench::Load, Box<dyn Error>> {
    let shared = Arc::new((request, heard, AtomicU64::new(0)));
    let start = Moment::now();
    let mut tasks = Vec::new();
    for _ in 0..connections {
        let shared = Arc::clone(&shared);
        tasks.push(tokio::spawn(async move {
            let mut connection = Connection::new(TcpStream::connect(address).await?)?;
            let mut latencies = Vec::new();
            while start.ago() < time {
                let bytes = (shared.0)(shared.2.fetch_add(1, Ordering::Relaxed));
                let sent = Moment::now();
                connection.write(bytes.as_bytes()).await?;
                let answer = connection.read().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
                latencies.push(sent.ago());
                if !answer.status().is_some_and(|status| (200..300).contains(&status)) {
                    let told = String::from_utf8_lossy(answer.body);
                    return Err(io::Error::other(format!("{:?} {told}", answer.status())));
                }
                (shared.1)(answer.body);
            }
            io::Result::Ok(latencies)
        }));
    }
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    let per_s = latencies.len() as f64 / start.ago().as_secs_f64();
    let (p50, p99) = (quantile(&mut latencies, 0.5), quantile(&mut latencies, 0.99));
    Ok(crate::pgbench::Load { per_s, p50, p99 })
}
