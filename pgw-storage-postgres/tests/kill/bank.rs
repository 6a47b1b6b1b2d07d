//! The world outside of the worker processes: a processor with its books, an endpoint that takes webhooks, and a trap that tells when
//! to kill which worker.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pgw_core::env::Env;
use pgw_core::id::{OperationId, PaymentId};
use pgw_core::payment::{Finality, OperationKind};
use pgw_core::processor::{
    Answer, Confirmation, Finding, Instruction, LookUp, Processor as _, ProcessorError,
};
use pgw_core::sandbox::Sandbox;
use pgw_core::scope::Scope;
use pgw_core::testing::transport::Received;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc};

use crate::wire::Request;
use crate::world;

#[derive(Debug)]
pub(crate) struct Bank {
    /// Its books. It executes a key again that comes again, so a call too many is a charge too many.
    pub(crate) sandbox: Sandbox,
    received: Mutex<Vec<Received>>,
    trap: Mutex<Option<Trap>>,
    sprung: mpsc::UnboundedSender<u64>,
    /// Rung when a worker found nothing to do.
    pub(crate) idle: Notify,
}

/// Springs at the n-th request of a kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trap {
    pub(crate) what: What,
    pub(crate) when: When,
    pub(crate) nth: u32,
}

/// Of which kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Charge,
    Webhook,
}

/// How far the request has come when its worker is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// It never gets there.
    OnItsWay,
    /// It is done, and its worker does not hear so.
    Unheard,
    /// It is done, and its worker hears so, and is about to commit that.
    Heard,
}

impl Bank {
    /// Opens on a socket. Gives the numbers of workers that are to be killed, one for each trap.
    pub(crate) fn open(socket: &Path) -> (Arc<Self>, mpsc::UnboundedReceiver<u64>) {
        let (sprung, springs) = mpsc::unbounded_channel();
        let bank = Arc::new(Self {
            sandbox: Sandbox::new(Env::system()).with_resolution(world::RESOLUTION),
            received: Mutex::default(),
            trap: Mutex::default(),
            sprung,
            idle: Notify::new(),
        });
        let listener = UnixListener::bind(socket).expect("the socket's directory is ours");
        let serving = Arc::clone(&bank);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&serving).serve(stream));
            }
        });
        (bank, springs)
    }

    pub(crate) fn arm(&self, trap: Trap) {
        *lock(&self.trap) = Some(trap);
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        lock(&self.received).clone()
    }

    /// Answers one request. An error means that its worker is dead, as some are meant to be.
    async fn serve(self: Arc<Self>, stream: UnixStream) -> io::Result<()> {
        let (reads, mut writes) = stream.into_split();
        let mut reads = BufReader::new(reads);
        let mut line = String::new();
        reads.read_line(&mut line).await?;
        let Some((worker, request)) = Request::parse(&line) else { return Ok(()) };
        let when = self.springs_at(&request);
        if when != Some(When::OnItsWay) {
            let answer = self.answer(request).await;
            if when != Some(When::Unheard) {
                writes.write_all(format!("{answer}\n").as_bytes()).await?;
            }
        }
        if when.is_some() {
            let _ = self.sprung.send(worker);
            // The worker sends no more: this is over when it is dead. Until then it must not hear that the connection is lost.
            reads.read_to_end(&mut Vec::new()).await?;
        }
        Ok(())
    }

    /// Whether this request is the one that the trap waits for, and if so, how far it gets.
    fn springs_at(&self, request: &Request) -> Option<When> {
        let what = match request {
            Request::Charge { .. } => What::Charge,
            Request::Webhook(_) => What::Webhook,
            Request::Find { .. } | Request::Idle => return None,
        };
        let mut armed = lock(&self.trap);
        let trap = armed.as_mut().filter(|trap| trap.what == what)?;
        trap.nth = trap.nth.saturating_sub(1);
        let when = trap.when;
        (trap.nth == 0).then(|| {
            *armed = None;
            when
        })
    }

    async fn answer(&self, request: Request) -> String {
        match request {
            Request::Charge { key, payment, minor } => {
                answer(self.sandbox.submit(&instruction(key, payment, minor)).await)
            }
            Request::Find { key } => {
                let query = LookUp { key, reference: None, kind: OperationKind::Charge };
                match self.sandbox.look_up(&query).await {
                    Ok(Finding::Found(found)) => answer(Ok(found)),
                    Ok(_) => "nothing".to_owned(),
                    Err(error) => answer(Err(error)),
                }
            }
            Request::Webhook(received) => {
                lock(&self.received).push(*received);
                "200".to_owned()
            }
            Request::Idle => {
                self.idle.notify_one();
                "well".to_owned()
            }
        }
    }
}

fn instruction(key: OperationId, payment: PaymentId, minor: i64) -> Instruction {
    Instruction {
        key,
        scope: Scope::default(),
        payment,
        kind: OperationKind::Charge,
        amount: world::usd(minor),
        payment_method: world::plain_card(),
        finality: Finality::default(),
        reference: None,
        initial_key: key,
        confirmation: Confirmation::None,
    }
}

/// Of a card without faults: what it moved, and what the bank calls that.
fn answer(answered: Result<Answer, ProcessorError>) -> String {
    match answered {
        Ok(Answer::Succeeded { reference: Some(reference), amount }) => {
            format!("{} {}", amount.minor(), reference.as_str())
        }
        other => format!("not what this card does: {other:?}"),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
