//! The receivers: an address on loopback for each endpoint, that answers, fails, hangs or hangs up by seeded chance. They remember what
//! came, in the order it came.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use benches::message::{Connection, Message};
use pgw_core::id::EventId;
use pgw_core::testing::random::Random;
use pgw_webhook_client::StandardVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// All receivers. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Sink(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    seen: Mutex<Seen>,
    /// How many webhooks have come.
    count: watch::Sender<usize>,
    has_healed: AtomicBool,
}

#[derive(Debug, Default)]
struct Seen {
    verifiers: Vec<Option<StandardVerifier>>,
    arrivals: Vec<Arrival>,
    /// The bytes that came first under each webhook id. All that come later are compared with them.
    bodies: HashMap<EventId, Vec<u8>>,
    /// What must not be.
    broken: Vec<String>,
}

/// A webhook that came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    /// Where, by number.
    pub(crate) endpoint: usize,
    /// What its `webhook-id` names.
    pub(crate) event: EventId,
    pub(crate) outcome: Outcome,
}

/// What a receiver does with a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// It takes it, and says so.
    Taken,
    /// It takes it, and hangs up before it says so.
    TakenUnheard,
    /// It answers 500.
    Refused,
    /// It answers 503 and asks to be left alone for a second.
    Busy,
    /// It says nothing until the sender hangs up.
    Silent,
}

impl Outcome {
    pub(crate) const fn status(self) -> Option<u16> {
        match self {
            Self::Taken => Some(200),
            Self::Refused => Some(500),
            Self::Busy => Some(503),
            Self::TakenUnheard | Self::Silent => None,
        }
    }

    const fn answer(self) -> Option<&'static [u8]> {
        match self {
            Self::Taken => Some(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
            Self::Refused => {
                Some(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n")
            }
            Self::Busy => Some(b"HTTP/1.1 503 Busy\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"),
            Self::TakenUnheard | Self::Silent => None,
        }
    }
}

/// How often, of a thousand webhooks, an endpoint does something else than take it and say so.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Manners {
    pub(crate) unheard: u32,
    pub(crate) refused: u32,
    pub(crate) busy: u32,
    pub(crate) silent: u32,
}

impl Manners {
    fn choose(self, dice: &Random) -> Outcome {
        let mut drawn = dice.below(1_000);
        for (per_mille, outcome) in [
            (self.unheard, Outcome::TakenUnheard),
            (self.refused, Outcome::Refused),
            (self.busy, Outcome::Busy),
            (self.silent, Outcome::Silent),
        ] {
            match drawn.checked_sub(u64::from(per_mille)) {
                Some(rest) => drawn = rest,
                None => return outcome,
            }
        }
        Outcome::Taken
    }
}

impl Sink {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            seen: Mutex::default(),
            count: watch::Sender::new(0),
            has_healed: AtomicBool::new(false),
        }))
    }

    /// Opens an endpoint: its number and its URL.
    pub(crate) async fn open(&self, manners: Manners, dice: Random) -> (usize, String) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let url = format!("http://{}/hooks", listener.local_addr().expect("it is bound"));
        let number = {
            let mut seen = self.seen();
            seen.verifiers.push(None);
            seen.verifiers.len() - 1
        };
        let (sink, dice) = (self.clone(), Arc::new(dice));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (sink, dice) = (sink.clone(), Arc::clone(&dice));
                // A sender may drop its connections as it likes: what counts is what came.
                tokio::spawn(async move { sink.serve(stream, number, manners, &dice).await });
            }
        });
        (number, url)
    }

    /// Tells an endpoint its secret, before anything comes to it.
    pub(crate) fn trust(&self, endpoint: usize, secret: &str) {
        let verifier = StandardVerifier::new(secret).expect("the gateway makes valid secrets");
        self.seen().verifiers[endpoint] = Some(verifier);
    }

    /// From now on every webhook is taken.
    pub(crate) fn heal(&self) {
        self.0.has_healed.store(true, Ordering::SeqCst);
    }

    /// Waits until so many have come in all.
    pub(crate) async fn until_came(&self, enough: usize) {
        let mut count = self.0.count.subscribe();
        count.wait_for(|count| *count >= enough).await.expect("its sender is here");
    }

    /// What came, in the order it came.
    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        self.seen().arrivals.clone()
    }

    /// Whether these are the bytes that came under this webhook id, each time.
    pub(crate) fn has(&self, event: EventId, body: &[u8]) -> bool {
        self.seen().bodies.get(&event).is_some_and(|came| came == body)
    }

    /// What came and must not have: bad signatures, other bytes under an id that was known.
    pub(crate) fn broken(&self) -> Vec<String> {
        self.seen().broken.clone()
    }

    async fn serve(
        &self,
        stream: TcpStream,
        endpoint: usize,
        manners: Manners,
        dice: &Random,
    ) -> io::Result<()> {
        let mut connection = Connection::new(stream)?;
        while let Some(message) = connection.read().await? {
            let outcome = match self.0.has_healed.load(Ordering::SeqCst) {
                true => Outcome::Taken,
                false => manners.choose(dice),
            };
            self.note(endpoint, message, outcome);
            match outcome.answer() {
                Some(answer) => connection.write(answer).await?,
                None if outcome == Outcome::TakenUnheard => break,
                // The sender sends nothing more on this connection, so this is over when it hangs up.
                None => drop(connection.read().await?),
            }
        }
        Ok(())
    }

    /// Remembers what came, before it is answered.
    fn note(&self, endpoint: usize, message: Message<'_>, outcome: Outcome) {
        let headers: Vec<(&str, &str)> = message.headers().collect();
        let id = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("webhook-id"));
        let event = id.and_then(|(_, id)| id.parse().ok());
        let mut seen = self.seen();
        let verified = match &seen.verifiers[endpoint] {
            Some(verifier) => verifier.verify(&headers[..], message.body).map(drop),
            None => panic!("the endpoint's secret is told before its webhooks come"),
        };
        if let Err(error) = verified {
            seen.broken.push(format!("at endpoint {endpoint}, {id:?}: {error}"));
        }
        let Some(event) = event else {
            seen.broken.push(format!("at endpoint {endpoint}: {id:?} names no event"));
            return;
        };
        let first = seen.bodies.entry(event).or_insert_with(|| message.body.to_vec());
        if *first != message.body {
            seen.broken.push(format!("at endpoint {endpoint}: {event} with other bytes"));
        }
        seen.arrivals.push(Arrival { endpoint, event, outcome });
        self.0.count.send_replace(seen.arrivals.len());
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
