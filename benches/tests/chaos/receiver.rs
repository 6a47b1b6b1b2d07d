//! The webhooks' receiver: takes all that comes, and remembers it.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use benches::message::{Connection, Message};
use bytes::Bytes;
use pgw_core::testing::transport::{Received, Taken};
use pgw_core::webhook::EndpointUrl;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Any number of endpoints, each on a port of its own. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Receiver(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    seen: Mutex<Seen>,
    /// How many webhooks came.
    count: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Seen {
    received: Vec<Received>,
    /// The URLs of the endpoints that know of a payment's success.
    paid: HashMap<String, HashSet<String>>,
}

impl Receiver {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner { seen: Mutex::default(), count: watch::Sender::new(0) }))
    }

    /// Opens an endpoint.
    pub(crate) async fn open(&self) -> EndpointUrl {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let url = format!("http://{}/hooks", listener.local_addr().expect("it is bound"));
        let url = EndpointUrl::parse(&url).expect("a valid address");
        let (receiver, own) = (self.clone(), url.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (receiver, url) = (receiver.clone(), own.clone());
                // A sender that is killed drops its connections: what counts is what came.
                tokio::spawn(async move { receiver.serve(stream, &url).await });
            }
        });
        url
    }

    /// Waits until so many endpoints know that this payment has succeeded.
    pub(crate) async fn until_paid(&self, payment: &str, endpoints: usize) {
        let knows = |_: &usize| self.seen().paid.get(payment).map_or(0, HashSet::len) >= endpoints;
        self.0.count.subscribe().wait_for(knows).await.expect("its sender is here");
    }

    /// What came, in the order it came.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.seen().received.clone()
    }

    async fn serve(&self, stream: TcpStream, url: &EndpointUrl) -> io::Result<()> {
        let mut connection = Connection::new(stream)?;
        while let Some(message) = connection.read().await? {
            self.take(url, message);
            connection.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
        }
        Ok(())
    }

    fn take(&self, url: &EndpointUrl, message: Message<'_>) {
        let header = |(name, value): (&str, &str)| (Cow::Owned(name.to_owned()), value.to_owned());
        let received = Received {
            url: url.clone(),
            headers: message.headers().map(header).collect(),
            body: Bytes::copy_from_slice(message.body),
            outcome: Taken::Yes,
        };
        let told: Value = serde_json::from_slice(message.body).expect("webhooks are JSON");
        let mut seen = self.seen();
        if told["type"] == "payment.succeeded" {
            let payment = told["data"]["object"]["id"].as_str().expect("it names its payment");
            seen.paid.entry(payment.to_owned()).or_default().insert(url.as_str().to_owned());
        }
        seen.received.push(received);
        let count = seen.received.len();
        drop(seen);
        self.0.count.send_replace(count);
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
