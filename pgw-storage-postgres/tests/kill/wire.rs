//! What worker processes ask of the world outside, which is the parent: one line there, one line back, a connection each.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use pgw_core::id::{OperationId, PaymentId};
use pgw_core::testing::transport::{Received, Taken};
use pgw_core::webhook::{EndpointUrl, WebhookRequest};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

/// What a worker asks.
#[derive(Debug)]
pub(crate) enum Request {
    /// Charge this.
    Charge { key: OperationId, payment: PaymentId, minor: i64 },
    /// What became of this charge?
    Find { key: OperationId },
    /// Take this webhook.
    Webhook(Box<Received>),
    /// There was nothing to claim.
    Idle,
}

impl Request {
    pub(crate) fn webhook(request: &WebhookRequest) -> Self {
        Self::Webhook(Box::new(Received {
            url: request.url.clone(),
            headers: request.headers.clone(),
            body: request.body.clone(),
            outcome: Taken::Yes,
        }))
    }

    fn line(&self, worker: u64) -> String {
        let asked = match self {
            Self::Charge { key, payment, minor } => {
                json!({"charge": key, "payment": payment, "minor": minor})
            }
            Self::Find { key } => json!({ "find": key }),
            Self::Webhook(received) => json!({
                "webhook": received.url.as_str(),
                "headers": received.headers,
                "body": std::str::from_utf8(&received.body).expect("bodies are JSON"),
            }),
            Self::Idle => json!({ "idle": true }),
        };
        format!("{worker} {asked}\n")
    }

    /// Reads a line; the worker's number, and what it asks. `None` when it is cut off: its worker was killed.
    pub(crate) fn parse(line: &str) -> Option<(u64, Self)> {
        let (worker, asked) = line.strip_suffix('\n')?.split_once(' ')?;
        let asked: Value = serde_json::from_str(asked).ok()?;
        let text = |member: &str| asked.get(member).and_then(Value::as_str);
        let request = if let Some(key) = text("charge") {
            Self::Charge {
                key: key.parse().ok()?,
                payment: text("payment")?.parse().ok()?,
                minor: asked.get("minor")?.as_i64()?,
            }
        } else if let Some(key) = text("find") {
            Self::Find { key: key.parse().ok()? }
        } else if let Some(url) = text("webhook") {
            let pairs = asked.get("headers")?.as_array()?.iter();
            let header = |pair: &Value| {
                let name = pair.get(0)?.as_str()?.to_owned();
                Some((Cow::Owned(name), pair.get(1)?.as_str()?.to_owned()))
            };
            Self::Webhook(Box::new(Received {
                url: EndpointUrl::parse(url).ok()?,
                headers: pairs.map(header).collect::<Option<_>>()?,
                body: Bytes::from(text("body")?.to_owned()),
                outcome: Taken::Yes,
            }))
        } else {
            Self::Idle
        };
        Some((worker.parse().ok()?, request))
    }
}

/// A worker's way to its parent.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    pub(crate) socket: PathBuf,
    /// The worker's number.
    pub(crate) worker: u64,
}

impl Wire {
    /// Asks; the answer without its newline.
    pub(crate) async fn ask(&self, request: &Request) -> io::Result<String> {
        let (reads, mut writes) = UnixStream::connect(&self.socket).await?.into_split();
        writes.write_all(request.line(self.worker).as_bytes()).await?;
        let mut answer = String::new();
        BufReader::new(reads).read_line(&mut answer).await?;
        match answer.strip_suffix('\n') {
            Some(answer) => Ok(answer.to_owned()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
