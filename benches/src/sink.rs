//! The sink: receives webhooks on loopback, remembers when the first of each delivery came, and verifies a sample of the signatures.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgw_webhook_client::StandardVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};

use crate::message::{Connection, Message};
use crate::time::Moment;

/// A receiver with any number of endpoints, each on a port of its own, as endpoints of different hosts are. Clones share everything.
#[derive(Debug, Clone, Default)]
pub struct Sink(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    verifiers: Mutex<Vec<Option<StandardVerifier>>>,
    arrivals: Mutex<HashMap<(usize, u64), Moment>>,
    wanted: AtomicU64,
    enough: Notify,
    requests: AtomicU64,
    verified: AtomicU64,
    places: Arc<Semaphore>,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            verifiers: Mutex::default(),
            arrivals: Mutex::default(),
            wanted: AtomicU64::new(u64::MAX),
            enough: Notify::new(),
            requests: AtomicU64::new(0),
            verified: AtomicU64::new(0),
            places: Arc::new(Semaphore::new(0)),
        }
    }
}

/// What an endpoint does with webhooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Takes them.
    Answers,
    /// Accepts them and never says anything.
    Hangs,
}

impl Sink {
    /// Opens an endpoint: its number and its URL.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn open(&self, manner: Manner) -> io::Result<(usize, String)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}/webhooks", listener.local_addr()?);
        let number = {
            let mut verifiers = lock(&self.0.verifiers);
            verifiers.push(None);
            verifiers.len() - 1
        };
        let sink = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(sink.clone().serve(stream, number, manner));
            }
        });
        Ok((number, url))
    }

    /// Tells an endpoint its secret.
    ///
    /// # Errors
    /// When it is none.
    pub fn trust(&self, endpoint: usize, secret: &str) -> Result<(), Box<dyn Error>> {
        let verifier = StandardVerifier::new(secret)?;
        lock(&self.0.verifiers)[endpoint] = Some(verifier);
        Ok(())
    }

    /// Waits until so many deliveries have come in all.
    ///
    /// # Errors
    /// When they have not after two minutes.
    pub async fn wait_for(&self, count: u64) -> Result<(), Box<dyn Error>> {
        self.0.wanted.store(count, Ordering::SeqCst);
        let all_came = async {
            while self.count() < count {
                self.0.enough.notified().await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, all_came).await;
        waited.map_err(|_| format!("only {} of {count} deliveries came", self.count()).into())
    }

    /// How many deliveries have come, each counted once.
    #[must_use]
    pub fn count(&self) -> u64 {
        lock(&self.0.arrivals).len() as u64
    }

    /// The deliveries that have come: the order's number and when.
    #[must_use]
    pub fn arrivals(&self) -> HashMap<u64, Moment> {
        lock(&self.0.arrivals).iter().map(|((_, order), at)| (*order, *at)).collect()
    }

    /// How many signatures were verified.
    #[must_use]
    pub fn verified(&self) -> u64 {
        self.0.verified.load(Ordering::SeqCst)
    }

    /// Has a permit added by each delivery that comes, for a load that waits for them.
    #[must_use]
    pub fn places(&self) -> Arc<Semaphore> {
        Arc::clone(&self.0.places)
    }

    async fn serve(self, stream: TcpStream, endpoint: usize, manner: Manner) {
        let served = async {
            let mut connection = Connection::new(stream)?;
            while let Some(message) = connection.read().await? {
                if manner == Manner::Answers {
                    self.take(endpoint, message);
                    connection.write(b"HTTP/1.1 204 No Content\r\n\r\n").await?;
                }
            }
            io::Result::Ok(())
        };
        // A sender may drop its connections as it likes: what counts is what came.
        let _ = served.await;
    }

    fn take(&self, endpoint: usize, message: Message<'_>) {
        let now = Moment::now();
        let order = order_of(message.body).expect("each webhook is about an order");
        if self.0.requests.fetch_add(1, Ordering::SeqCst).is_multiple_of(SAMPLED) {
            self.verify(endpoint, message);
        }
        let count = {
            let mut arrivals = lock(&self.0.arrivals);
            if arrivals.contains_key(&(endpoint, order)) {
                return;
            }
            arrivals.insert((endpoint, order), now);
            arrivals.len() as u64
        };
        self.0.places.add_permits(1);
        if count >= self.0.wanted.load(Ordering::SeqCst) {
            self.0.enough.notify_one();
        }
    }

    fn verify(&self, endpoint: usize, message: Message<'_>) {
        let verifier = lock(&self.0.verifiers)[endpoint].clone();
        let verifier = verifier.expect("the endpoint's secret is told before its webhooks come");
        let headers: Vec<(&str, &str)> = message.headers().collect();
        verifier.verify(&headers[..], message.body).expect("webhooks are signed");
        self.0.verified.fetch_add(1, Ordering::SeqCst);
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The number that the load wrote into the payment's description.
fn order_of(body: &[u8]) -> Option<u64> {
    const MARK: &[u8] = b"\"description\":\"order-";
    let start = body.windows(MARK.len()).position(|bytes| bytes == MARK)? + MARK.len();
    let digits = body[start..].split(|byte| !byte.is_ascii_digit()).next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Longer than any load takes here.
const PATIENCE: Duration = Duration::from_secs(120);
/// Every so many requests one is verified: all of them would cost a receiver's time where a sender's is measured.
const SAMPLED: u64 = 64;
