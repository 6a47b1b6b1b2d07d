//! A processor at the other end of a connection: its books outlive whoever asks it, so that a process can be killed while it is charging.
//!
//! One line there, one line back, a connection each. Who keeps the books reads [`Request`]s.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use pgw_core::currency::Currency;
use pgw_core::id::{OperationId, PaymentId};
use pgw_core::money::Money;
use pgw_core::payment::{ProcessorName, Reference};
use pgw_core::processor::{
    Answer, Capabilities, Finding, Instruction, LookUp, Notification, NotificationError, Processor,
    ProcessorError, Resolution,
};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// A process's way to the bank.
#[derive(Debug, Clone, Copy)]
pub struct Wire {
    /// Where the bank listens.
    pub address: SocketAddr,
    /// The number of the worker that asks.
    pub worker: u32,
}

/// What is asked of the bank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Charge this, in the minor units of USD.
    Charge {
        /// Its key, which is executed again if it comes again.
        key: OperationId,
        /// The payment.
        payment: PaymentId,
        /// How much.
        minor: i64,
    },
    /// What became of this charge?
    Find {
        /// Its key.
        key: OperationId,
    },
}

impl Request {
    fn line(&self, worker: u32) -> String {
        let asked = match self {
            Self::Charge { key, payment, minor } => {
                json!({"charge": key, "payment": payment, "minor": minor})
            }
            Self::Find { key } => json!({ "find": key }),
        };
        format!("{worker} {asked}\n")
    }

    /// Reads a line; the worker's number, and what it asks. `None` when it is cut off: its worker was killed.
    #[must_use]
    pub fn parse(line: &str) -> Option<(u32, Self)> {
        let (worker, asked) = line.strip_suffix('\n')?.split_once(' ')?;
        let asked: Value = serde_json::from_str(asked).ok()?;
        let text = |member: &str| asked.get(member).and_then(Value::as_str);
        let request = match text("charge") {
            Some(key) => Self::Charge {
                key: key.parse().ok()?,
                payment: text("payment")?.parse().ok()?,
                minor: asked.get("minor")?.as_i64()?,
            },
            None => Self::Find { key: text("find")?.parse().ok()? },
        };
        Some((worker.parse().ok()?, request))
    }
}

/// What the bank did, as a line without its end: what it moved, and what it calls that. Of anything else than success a text that is read as
/// no answer.
#[must_use]
pub fn told(answered: &Result<Finding, ProcessorError>) -> String {
    match answered {
        Ok(Finding::Found(Answer::Succeeded { reference: Some(reference), amount })) => {
            format!("{} {}", amount.minor(), reference.as_str())
        }
        Ok(Finding::NotFound) => NOTHING.to_owned(),
        other => format!("? {other:?}"),
    }
}

/// The bank, as a gateway knows it.
#[derive(Debug)]
pub struct Bank {
    name: ProcessorName,
    resolution: Resolution,
    wire: Wire,
}

impl Bank {
    /// The bank at the other end, which may be asked this way what became of a call.
    #[must_use]
    pub fn new(wire: Wire, resolution: Resolution) -> Self {
        let name = ProcessorName::parse("bank").expect("a valid name");
        Self { name, resolution, wire }
    }

    async fn ask(&self, request: &Request) -> Result<Finding, ProcessorError> {
        let told = async {
            let (reads, mut writes) = TcpStream::connect(self.wire.address).await?.into_split();
            writes.write_all(request.line(self.wire.worker).as_bytes()).await?;
            let mut answer = String::new();
            BufReader::new(reads).read_line(&mut answer).await?;
            read(&answer)
        };
        told.await.map_err(|error: io::Error| ProcessorError::Unclear(Arc::new(error)))
    }
}

fn read(line: &str) -> io::Result<Finding> {
    let Some(answer) = line.strip_suffix('\n') else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    if answer == NOTHING {
        return Ok(Finding::NotFound);
    }
    let found = || {
        let (minor, reference) = answer.split_once(' ')?;
        let amount = Money::from_minor(minor.parse().ok()?, Currency::USD).ok()?;
        let reference = Some(Reference::new(reference)?);
        Some(Finding::Found(Answer::Succeeded { reference, amount }))
    };
    found().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, answer.to_owned()))
}

#[async_trait]
impl Processor for Bank {
    fn name(&self) -> &ProcessorName {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { resolution: self.resolution }
    }

    async fn submit(&self, instruction: &Instruction) -> Result<Answer, ProcessorError> {
        let (key, payment) = (instruction.key, instruction.payment);
        let minor = instruction.amount.minor();
        match self.ask(&Request::Charge { key, payment, minor }).await? {
            Finding::Found(answer) => Ok(answer),
            other => {
                let error = io::Error::other(format!("no answer to a charge: {other:?}"));
                Err(ProcessorError::Unclear(Arc::new(error)))
            }
        }
    }

    async fn look_up(&self, query: &LookUp) -> Result<Finding, ProcessorError> {
        self.ask(&Request::Find { key: query.key }).await
    }

    async fn cancel_by_key(&self, _query: &LookUp) -> Result<Finding, ProcessorError> {
        Err(ProcessorError::Unclear(Arc::new(io::Error::from(io::ErrorKind::Unsupported))))
    }

    fn parse_notification(
        &self,
        _headers: &[(&str, &[u8])],
        _body: &[u8],
    ) -> Result<Vec<Notification>, NotificationError> {
        Err(NotificationError::Unsupported)
    }
}

/// What the bank says of a key that it does not know.
const NOTHING: &str = "nothing";

#[cfg(test)]
mod tests {
    use pgw_core::env::Env;

    use super::*;

    #[test]
    fn requests_and_answers_come_back_as_they_went() {
        let env = Env::system();
        let (key, payment) = (OperationId::mint(&env), PaymentId::mint(&env));
        for request in [Request::Charge { key, payment, minor: 4_999 }, Request::Find { key }] {
            assert_eq!(Request::parse(&request.line(7)), Some((7, request)));
        }
        assert_eq!(Request::parse("7 {\"find\""), None, "it is cut off");

        let amount = Money::from_minor(4_999, Currency::USD).unwrap();
        let reference = Reference::new("sbx_1");
        let found = Finding::Found(Answer::Succeeded { reference, amount });
        for finding in [found, Finding::NotFound] {
            let line = format!("{}\n", told(&Ok(finding.clone())));
            assert_eq!(format!("{:?}", read(&line).unwrap()), format!("{finding:?}"));
        }
        read("? Err").expect_err("it is cut off");
        read("? Err(Timeout)\n").expect_err("it is no success");
    }
}
